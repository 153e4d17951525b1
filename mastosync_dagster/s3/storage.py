"""One side of a transfer: its clients, its listing, its objects."""

from __future__ import annotations

import os
import threading
import weakref
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mastosync_dagster.s3.client import Client, Place, S3Error
from mastosync_dagster.s3.credentials import credential_provider
from mastosync_dagster.s3.errors import StorageError, classify
from mastosync_dagster.s3.etags import bare, is_md5
from mastosync_dagster.s3.headers import STORAGE_CLASS, Attributes, shown
from mastosync_dagster.s3.http import Transport
from mastosync_dagster.s3.listing import NotXmlError
from mastosync_dagster.s3.loop import Loop
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.retry import LISTING, SINGLE, RetryPolicy
from mastosync_dagster.s3.settings import StorageSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from mastosync_dagster.s3.http import Sink
    from mastosync_dagster.s3.listing import KeyRange, Page

__all__ = ["ListedObject", "Storage", "StorageSettings"]

_T = TypeVar("_T")

PAGE_KEYS = 1000
"""Keys of one ListObjectsV2 answer."""

LARGEST = 2**62
"""For bodies that go to a sink: no limit."""

_NOT_FOUND = 404
_BRIEF = RetryPolicy(attempts=3, backoff=0.5)
"""A check is to say within seconds that nobody is there."""


class ListedObject(NamedTuple):
    """An object as a listing or a HEAD shows it.

    Attributes:
        key: Relative to the key prefix.
        size: Bytes.
        etag: Without quotes; None where the server gives none.
        modified: When it was last written, by the server's clock; None where it does not say.
    """

    key: str
    size: int
    etag: str | None
    modified: datetime | None = None


class AclProof:
    """What a side has shown of whether setting an ACL leaves an object whole. Changed under its lock alone.

    Attributes:
        lock: Held while the first ACL is set and its object looked at.
        holds: It was seen to.
        damaged: The error with which it was seen not to; None: it was not.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holds = False
        self.damaged: StorageError | None = None


class Storage:
    """One side of a transfer. Cheap to build: nothing is opened before the first request. Thread-safe.

    Args:
        settings: Where it is and how it is reached.

    Attributes:
        settings: As given.
        acl_proof: For `access.set_access`.
    """

    def __init__(self, settings: StorageSettings) -> None:
        self.settings = settings
        self.acl_proof = AclProof()
        self._loop = Loop(f"s3-{settings.name}")
        # The loop's thread holds the loop alone: with its storage it ends.
        weakref.finalize(self, self._loop.close)
        self._client: Client | None = None
        self._region: str | None = settings.region or None
        self._worked = False
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"Storage({self.settings!r})"

    def full_key(self, key: str) -> str:
        """Return the key as it stands in the bucket."""
        return self.settings.prefix + key

    def error(self, error: BaseException, key: str = "") -> StorageError:
        """Say in plain words what a request to this side ended with. See `errors.classify`."""
        return classify(error, self.settings, key)

    @property
    def client(self) -> Client:
        """The client of the requests that are waited for one by one; see `run`."""
        with self._lock:
            if self._client is None:
                self._client = self.client_on(self._loop)
            return self._client

    def client_on(self, loop: Loop) -> Client:
        """Return a client whose requests are carried by another loop.

        Raises:
            StorageError: The credentials, the CA file or the region are not to be had.
        """
        return self._client_for(loop, self.region)

    def _client_for(self, loop: Loop, region: str) -> Client:
        settings = self.settings
        if settings.verify and settings.ca_file:
            self._read_certificates(settings.ca_file)
        return Client(
            loop,
            Place(self._endpoint(region), settings.bucket, settings.path_style),
            Transport(settings.verify, settings.ca_file, settings.connect_timeout),
            region=region,
            credentials=credential_provider(settings),
            silence=settings.read_timeout,
            write_silence=settings.upload_timeout,
        )

    def _endpoint(self, region: str) -> str:
        if self.settings.endpoint_url:
            return self.settings.endpoint_url.rstrip("/")
        return f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"

    def _read_certificates(self, ca_file: str) -> None:
        try:
            Path(ca_file).read_bytes()
        except OSError as error:
            raise StorageError(
                f"the {self.settings.name}'s CA file {ca_file} cannot be read ({error.strerror}): "
                f"check {self.settings.field('ca_file')}",
                reason=Reason.CONNECTION,
                permanent=True,
            ) from error

    @property
    def region(self) -> str:
        """The region to sign for: configured, asked of Amazon, or ``us-east-1`` for everybody else.

        Raises:
            StorageError: Amazon does not say.
        """
        with self._lock:
            if self._region is None:
                self._region = self._bucket_region() if self.settings.is_amazon else "us-east-1"
            return self._region

    def _bucket_region(self) -> str:
        client = self._client_for(self._loop, "us-east-1")
        try:
            headers = self._loop.run(client.head_bucket()).headers
        except S3Error as error:
            # Amazon names the region in refusals too.
            headers = error.reply.headers
            if "x-amz-bucket-region" not in headers:
                raise self.error(error) from error
        except Exception as error:
            raise self.error(error) from error
        return headers.get("x-amz-bucket-region", "us-east-1")

    def run(self, request: Callable[[Client], Coroutine[Any, Any, _T]], key: str = "") -> _T:
        """Send a request once, and wait for its answer.

        Args:
            request: Returns a coroutine of `Client`'s.
            key: The object that it is about, relative to the key prefix; empty: the bucket.

        Raises:
            StorageError: It failed.
        """
        try:
            client = self.client
            answer = self._loop.run(request(client))
        except Exception as error:
            raise self.error(error, key) from error
        self._worked = True
        return answer

    def ask(
        self,
        request: Callable[[Client], Coroutine[Any, Any, _T]],
        key: str = "",
        halt: threading.Event | None = None,
        policy: RetryPolicy = SINGLE,
    ) -> _T:
        """Send a request, a few times where it fails for a reason that passes.

        Args:
            request: As for `run`.
            key: As for `run`.
            halt: Set, no further attempt is made.
            policy: How often.

        Raises:
            StorageError: It failed for good, or too often.
        """
        failures = 0
        while True:
            try:
                return self.run(request, key)
            except StorageError as error:  # noqa: PERF203  (once a request)
                failures += 1
                pause = policy.pause(failures, error.retry_after)
                if pause is None or not error.retryable or error.permanent or (halt or threading.Event()).wait(pause):
                    raise

    def write_headers(self, attributes: Attributes, *, private: bool) -> dict[str, str]:
        """Return the headers to write an object with: what belongs to it, this side's storage class, and the ACL.

        Without a permission no ACL header is sent at all, for private objects neither: such a bucket takes none.

        Args:
            attributes: As it was read; see `Attributes.to_keep` for what is left out.
            private: It must not be readable by everybody.
        """
        headers = attributes.to_keep().by_header()
        return {**headers, **self.own_headers(private=private)}

    def own_headers(self, *, private: bool) -> dict[str, str]:
        """Return those of these headers that are this side's own."""
        headers = {}
        if self.settings.storage_class:
            headers[STORAGE_CLASS] = self.settings.storage_class
        if self.settings.permission:
            headers["x-amz-acl"] = "private" if private else self.settings.permission
        return headers

    def check(self) -> bool:
        """Make sure that the side answers and takes the credentials.

        Returns:
            Whether it may be listed.

        Raises:
            StorageError: Permanent: wrong secret, bucket or region, or nobody there. The message names what to change.
        """
        try:
            self.ask(lambda client: client.list_page(self.settings.prefix, keys=1), policy=_BRIEF)
        except StorageError as error:
            if error.reason is Reason.ACCESS_DENIED:
                return False
            error.permanent = True
            raise
        return True

    def list_pages(self, keys: KeyRange, halt: threading.Event | None = None) -> Iterator[list[ListedObject]]:
        """List a range of keys, a request (up to 1,000 keys) at a time, in byte order.

        A listing that breaks goes on behind the last page that came.

        Args:
            keys: The range.
            halt: Set, no further attempt is made.

        Yields:
            The keys of one page that lie in the range. At least one page, which may be empty.

        Raises:
            StorageError: The listing failed; `Reason.ACCESS_DENIED` where the credentials may not list.
        """
        cut = len(self.settings.prefix)
        folder = self.full_key(_folder(keys))
        start, end = self.full_key(keys.start), self.full_key(keys.end)
        after = None if keys.start <= keys.prefix else _before(start)
        token = None
        while True:
            page = self._page(folder, after, token, halt)
            objects = [
                ListedObject(key[cut:], size, bare(etag), parse_timestamp(modified))
                for key, size, etag, modified in page.entries
                if start <= key < end
            ]
            yield objects
            last = page.entries[-1].key if page.entries else after
            if not page.truncated or last is None or last >= end:
                return
            if page.token is None and last == after:
                # Nothing new, and more to come: nobody knows what that is.
                raise self.error(NotXmlError("the listing goes on, and does not say where"))
            after, token = last, page.token

    def _page(self, folder: str, after: str | None, token: str | None, halt: threading.Event | None) -> Page:
        """Ask for one page. A token that is refused is no loss: the last key says as much."""
        # Nobody there from the beginning: a wrong endpoint, most likely, which is to be said soon.
        failures = 0
        while True:
            try:
                return self.run(partial(Client.list_page, prefix=folder, after=after, token=token, keys=PAGE_KEYS))
            except StorageError as error:  # noqa: PERF203  (once a page)
                failures += 1
                token = None
                soon = not error.reached and not self._worked
                pause = LISTING.pause(failures, error.retry_after)
                if pause is None or not error.retryable or error.permanent or (soon and failures > 1):
                    raise
                if (halt or threading.Event()).wait(pause):
                    raise

    def list_range(self, keys: KeyRange) -> Iterator[ListedObject]:
        """List a range of keys in byte order. Raises as `list_pages` does."""
        for page in self.list_pages(keys):
            yield from page

    def head(self, key: str, halt: threading.Event | None = None) -> ListedObject | None:
        """Ask for one object.

        Args:
            key: Relative to the key prefix.
            halt: Set, no further attempt is made.

        Returns:
            None where the side says that there is none.

        Raises:
            StorageError: `Reason.ACCESS_DENIED` also where the object is absent and the credentials may not list.
        """
        try:
            reply = self.ask(lambda client: client.head(self.full_key(key)), key, halt)
        except StorageError as error:
            if isinstance(error.__cause__, S3Error) and error.__cause__.status == _NOT_FOUND:
                return None
            raise
        return listed(key, reply.headers)

    def dated(self, key: str, halt: threading.Event | None = None) -> ListedObject:
        """Ask for one object that is there.

        Raises:
            StorageError: There is none, or it cannot be asked for.
        """
        return listed(key, self.ask(lambda client: client.head(self.full_key(key)), key, halt).headers)

    def read_attributes(self, key: str, halt: threading.Event | None = None) -> Attributes:
        """Ask for an object's header fields and metadata. Raises as `dated`."""
        return shown(self.ask(lambda client: client.head(self.full_key(key)), key, halt).headers)

    def read_into(self, key: str, sink: Sink) -> None:
        """Read an object. Raises as `dated`."""
        self.ask(lambda client: client.get(self.full_key(key), limit=LARGEST, sink=sink), key)

    def etag_is_md5(self, key: str) -> bool:
        """Ask whether an object's ETag is the MD5 of its body: not so where it is encrypted with a key of its own.

        Args:
            key: Relative to the key prefix; an object whose ETag has the form of an MD5.

        Raises:
            StorageError: The object cannot be asked for.
        """
        return has_md5(self.ask(lambda client: client.head(self.full_key(key)), key).headers)

    def same_server(self, other: Storage) -> bool:
        """Tell whether two sides are one server under the same credentials, so that it can copy by itself."""
        mine, theirs = (
            (side.access_key_id, side.secret_access_key, side.session_token, side.profile)
            for side in (self.settings, other.settings)
        )
        return self.settings.server == other.settings.server and mine == theirs

    def same_place(self, other: Storage) -> bool:
        """Tell whether two sides are one bucket with one key prefix, so that a copy would go onto itself."""
        return self.settings.identity == other.settings.identity


def listed(key: str, headers: Mapping[str, str]) -> ListedObject:
    """Return what the answer to a HEAD or GET shows of an object, given its relative key."""
    return ListedObject(
        key, int(headers.get("content-length", 0)), bare(headers.get("etag")), _http_date(headers.get("last-modified"))
    )


def has_md5(headers: Mapping[str, str]) -> bool:
    """Tell from an answer to a HEAD, GET or PUT whether the object's ETag is the MD5 of its body."""
    if not is_md5(bare(headers.get("etag"))) or "x-amz-server-side-encryption-customer-algorithm" in headers:
        return False
    return headers.get("x-amz-server-side-encryption") in {None, "AES256"}


def _http_date(text: str | None) -> datetime | None:
    try:
        return None if text is None else parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None


def parse_timestamp(text: str) -> datetime | None:
    """Return a timestamp of a listing (ISO 8601); None where it is none."""
    try:
        # Python 3.10 knows no Z.
        return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        return None


def _before(key: str) -> str:
    """Return a key that sorts before the given one: StartAfter is exclusive.

    It lies right below it: `…/001/` follows upon `…/000~`. SeaweedFS takes a whole folder for what lies behind its
    name, so `…/001` would leave it out.
    """
    head = key[:-1]
    if not key.endswith("/") or not head[-1:].isdecimal():
        return head
    return head[:-1] if head[-1] == "0" else f"{head[:-1]}{chr(ord(head[-1]) - 1)}~"


def _folder(keys: KeyRange) -> str:
    """Return the deepest folder that holds a whole range: a listing ends there, instead of filling its page."""
    shared = os.path.commonprefix([keys.start, keys.end])  # noqa: RUF071  (characters are what is meant)
    return max(keys.prefix, shared[: shared.rfind("/") + 1], key=len)
