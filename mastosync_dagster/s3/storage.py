"""A bucket at one storage: its client, its listing, its objects."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mastosync_dagster.s3.client import BucketAddress, Client, S3Error
from mastosync_dagster.s3.credentials import credential_provider
from mastosync_dagster.s3.errors import StorageError, classify
from mastosync_dagster.s3.etags import bare, is_md5
from mastosync_dagster.s3.headers import STORAGE_CLASS, Attributes, http_date, in_utc, length_of, shown
from mastosync_dagster.s3.http import Transport
from mastosync_dagster.s3.listing import NotXmlError
from mastosync_dagster.s3.loop import Loop
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.retry_policies import CHECK, LISTING, SINGLE, RetryPolicy
from mastosync_dagster.s3.settings import StorageSettings, amazon_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from mastosync_dagster.s3.http import Sink
    from mastosync_dagster.s3.listing import KeyRange, Page

__all__ = ["ListedObject", "Storage", "StorageSettings"]

_T = TypeVar("_T")

PAGE_KEYS = 1000
"""Keys of one ListObjectsV2 answer."""

_AT_ONCE_SECONDS = 5.0
"""A refusal comes sooner, and may pass as soon."""
_LOG = logging.getLogger(__name__)

_LATE_SECONDS = 15.0

LARGEST = 2**62
"""For bodies that go to a sink: no limit."""

_NOT_FOUND = 404


class ListedObject(NamedTuple):
    """An object as a listing or a HEAD shows it.

    Attributes:
        key: Relative to the key prefix.
        etag: Without quotes; None where the server gives none.
        modified: When it was last written, by the server's clock; None where it does not say.
    """

    key: str
    size: int
    etag: str | None
    modified: datetime | None = None


class AclProof:
    """What is known of whether setting an ACL works, and leaves the object whole. Changed under its lock alone.

    Attributes:
        lock: Held while the first ACL is set and its object compared.
        holds: The first object was still whole, and had the ACL.
        refuted: The error that says that it was not, or had not; None: that did not happen.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holds = False
        self.refuted: StorageError | None = None


class _Waits:
    """Says when a storage has not answered for long, and when it answers again. Thread-safe.

    A request that is waited for is no silence, as far as TCP knows: what is small gets through where nothing large
    does. So only the time shows it, and a server that once took its time is given twice that before it is said again.

    Attributes:
        say: Gets the sentences; unless it is set, the log, which a command shows.
        longest: Seconds until a request is late.
    """

    def __init__(self, name: str) -> None:
        self.say: Callable[[str], object] = _LOG.warning
        self.longest = _LATE_SECONDS
        self._name = name
        self._since: float | None = None
        self._lock = threading.Lock()

    def late(self, begun: float) -> None:
        """Note that a request is not answered yet."""
        with self._lock:
            if self._since is not None:
                return
            self._since = begun
        self.say(f"{self._name} has not answered for {time.monotonic() - begun:.0f} s; it is waited for")

    def answered(self) -> None:
        """Note an answer."""
        if self._since is None:
            return
        with self._lock:
            since, self._since = self._since, None
            if since is None:
                return
            seconds = time.monotonic() - since
            self.longest = max(self.longest, 2 * seconds)
        self.say(f"{self._name} answers again, after {seconds:.0f} s")


class Storage:
    """A bucket at one storage. Cheap to build: nothing is opened before the first request. Thread-safe.

    Keys are relative to the key prefix. Requests raise `StorageError` when they fail; ``halt``, once set, ends retries.

    Attributes:
        acl_proof: For `acl.set_acl`.
        at_once: Somebody waits, and is to know soon where nobody answers the first request.
        policy: How `ask` retries what names no policy of its own.
    """

    at_once = True
    policy = SINGLE

    def __init__(self, settings: StorageSettings) -> None:
        self.settings = settings
        self._waits = _Waits(f"the {settings.name} ({settings.server})")
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

    def tell(self, say: Callable[[str], object], *, at_once: bool) -> None:
        """Set who gets a sentence when the storage does not answer for long, and when it answers again."""
        self._waits.say, self.at_once = say, at_once

    def full_key(self, key: str) -> str:
        """Return the key with the key prefix, as the bucket has it."""
        return self.settings.prefix + key

    def error(self, error: BaseException, key: str = "") -> StorageError:
        """Turn what a request to this storage ended with into a `StorageError`. See `errors.classify`."""
        return classify(error, self.settings, key)

    @property
    def client(self) -> Client:
        """The client of requests that are waited for one by one; see `run`."""
        with self._lock:
            if self._client is None:
                self._client = self.client_on(self._loop)
            return self._client

    def client_on(self, loop: Loop) -> Client:
        """Return a client whose requests are carried by another loop. Wrong settings are a `StorageError`."""
        return self._client_for(loop, self.region)

    def _client_for(self, loop: Loop, region: str) -> Client:
        settings = self.settings
        if settings.verify and settings.ca_file:
            self._read_certificates(settings.ca_file)
        return Client(
            loop,
            BucketAddress(self._endpoint(region), settings.bucket, settings.path_style),
            Transport(settings.verify, settings.ca_file, settings.connect_timeout),
            region=region,
            credentials=credential_provider(settings),
            silence=settings.read_timeout,
            write_silence=settings.upload_timeout,
        )

    def _endpoint(self, region: str) -> str:
        if self.settings.endpoint_url:
            return self.settings.endpoint_url.rstrip("/")
        return amazon_endpoint(region)

    def _read_certificates(self, ca_file: str) -> None:
        try:
            Path(ca_file).read_bytes()
        except OSError as error:
            raise StorageError(
                f"the {self.settings.name}'s CA file {ca_file} cannot be read ({error.strerror}): "
                f"check {self.settings.variable('S3_CA_FILE')} or {self.settings.field('ca_file')}",
                reason=Reason.CONNECTION,
                permanent=True,
            ) from error

    @property
    def region(self) -> str:
        """The region to sign for: configured, asked of Amazon, or ``us-east-1`` for everybody else."""
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

    def run(
        self, request: Callable[[Client], Coroutine[Any, Any, _T]], key: str = "", begun: float | None = None
    ) -> _T:
        """Send a request once, and wait for its answer. Without a key it is about the bucket.

        ``begun``: since when an answer is waited for, by the monotonic clock; earlier than now where it is sent again.
        """
        now = time.monotonic()
        begun = now if begun is None else begun
        try:
            client = self.client
            until_late = max(0.0, begun + self._waits.longest - now)
            answer = self._loop.run(request(client), until_late, partial(self._waits.late, begun))
        except Exception as error:
            if isinstance(error, S3Error):
                self._waits.answered()
            raise self.error(error, key) from error
        self._worked = True
        self._waits.answered()
        return answer

    def _is_absent(self, error: StorageError, begun: float) -> bool:
        """Tell whether nobody has ever answered, and somebody waits in front of it: a wrong setting, most likely."""
        never = self.at_once and not error.reached and not self._worked
        return never and time.monotonic() - begun >= _AT_ONCE_SECONDS

    def ask(
        self,
        request: Callable[[Client], Coroutine[Any, Any, _T]],
        key: str = "",
        halt: threading.Event | None = None,
        policy: RetryPolicy | None = None,
    ) -> _T:
        """Send a request as `run` does, and retry it where it fails for a reason that passes."""
        failures, begun = 0, time.monotonic()
        while True:
            try:
                return self.run(request, key, begun)
            except StorageError as error:
                failures += 1
                # Whoever refuses has answered: the wait for it begins anew.
                begun = time.monotonic() if error.reached else begun
                if self._is_absent(error, begun) or not _wait_to_retry(error, failures, policy or self.policy, halt):
                    raise

    def write_headers(self, attributes: Attributes, *, private: bool) -> dict[str, str]:
        """Return the headers to write an object with: what belongs to it, this storage's storage class, and the ACL.

        Without a permission no ACL header is sent at all, for private objects neither: such a bucket takes none.
        `Attributes.to_keep` says what a copy does not take over.
        """
        headers = attributes.to_keep().by_header()
        return {**headers, **self.own_headers(private=private)}

    def own_headers(self, *, private: bool) -> dict[str, str]:
        """Return those of these headers that come from this storage's settings."""
        headers = {}
        if self.settings.storage_class:
            headers[STORAGE_CLASS] = self.settings.storage_class
        if self.settings.permission:
            headers["x-amz-acl"] = "private" if private else self.settings.permission
        return headers

    def check(self) -> StorageError | None:
        """Check that the storage answers and takes the credentials. Returns why it may not be listed; None: it may.

        Raises:
            StorageError: Permanent: wrong secret, bucket or region, or nobody there. The message names what to change.
        """
        try:
            self.ask(lambda client: client.list_page(self.settings.prefix, keys=1), policy=CHECK)
        except StorageError as error:
            if error.reason is Reason.ACCESS_DENIED:
                return error
            error.permanent = True
            raise
        return None

    def list_pages(self, keys: KeyRange, halt: threading.Event | None = None) -> Iterator[list[ListedObject]]:
        """List a range of keys in byte order, a request (up to 1,000 keys) at a time; the only page may be empty.

        A listing that breaks goes on behind the last page that came. Without the right to list it fails with
        `Reason.ACCESS_DENIED`.
        """
        cut = len(self.settings.prefix)
        folder = self.full_key(_folder(keys))
        start, end = self.full_key(keys.start), self.full_key(keys.end)
        after = None if keys.start <= keys.prefix else _before(start)
        token = None
        while True:
            page = self._page(folder, after, token, halt)
            yield [
                ListedObject(key[cut:], size, bare(etag), parse_timestamp(modified))
                for key, size, etag, modified in page.entries
                if start <= key < end
            ]
            last = page.entries[-1].key if page.entries else after
            # (A page may be empty, and others follow: Amazon S3 counts deleted versions of a bucket that keeps them.)
            if not page.truncated or (last is not None and last >= end):
                return
            new_token = page.token not in {None, token}
            # (Not every server begins behind the key that it is given, nor sorts: what is listed is looked at above.)
            if not (last != after if page.entries else new_token):
                # The keys of before again, or no key and no new token: the listing would never end.
                raise self.error(NotXmlError("the listing goes on, and does not say where"))
            after, token = last, page.token

    def _page(self, folder: str, after: str | None, token: str | None, halt: threading.Event | None) -> Page:
        """Request one page. A token that is refused is no loss: the last key serves as well."""
        tokens = iter((token,))

        def request(client: Client) -> Coroutine[Any, Any, Page]:
            return client.list_page(folder, after=after, token=next(tokens, None), keys=PAGE_KEYS)

        return self.ask(request, halt=halt, policy=LISTING)

    def list_range(self, keys: KeyRange) -> Iterator[ListedObject]:
        """List a range of keys in byte order."""
        for page in self.list_pages(keys):
            yield from page

    def head(self, key: str, halt: threading.Event | None = None) -> ListedObject | None:
        """Ask for one object; None where it is not found.

        Without the right to list, an object that does not exist is `Reason.ACCESS_DENIED`.
        """
        try:
            return self.head_existing(key, halt)
        except StorageError as error:
            if isinstance(error.__cause__, S3Error) and error.__cause__.status == _NOT_FOUND:
                return None
            raise

    def _head(self, key: str, halt: threading.Event | None = None) -> Mapping[str, str]:
        return self.ask(lambda client: client.head(self.full_key(key)), key, halt).headers

    def head_existing(self, key: str, halt: threading.Event | None = None) -> ListedObject:
        """Ask for one object; that it is not found is an error."""
        headers = self._head(key, halt)
        try:
            return listed(key, headers)
        except NotXmlError as error:
            raise self.error(error, key) from error

    def read_attributes(
        self, key: str, halt: threading.Event | None = None, *, content_type: str | None = None
    ) -> Attributes:
        """Ask for an object's header fields and metadata. ``content_type`` is what the database says of it."""
        return self.attributes(self._head(key, halt), content_type)

    def attributes(self, headers: Mapping[str, str], content_type: str | None) -> Attributes:  # noqa: ARG002  (below)
        """Return an object's header fields and metadata from the answer to a GET or HEAD.

        A bucket keeps the ``Content-Type`` that Mastodon gave the object; a folder needs what the database says of it.
        """
        return shown(headers)

    def read_into(self, key: str, sink: Sink) -> None:
        """Read an object into a sink."""
        self.ask(lambda client: client.get(self.full_key(key), limit=LARGEST, sink=sink), key)

    def etag_is_md5(self, key: str) -> bool:
        """Ask whether an ETag with the form of an MD5 is one: not where an object is encrypted with its own key."""
        return has_md5(self._head(key))

    def same_server(self, other: Storage) -> bool:
        """Return whether two storages are one server under the same credentials, so that it can copy by itself."""
        mine, theirs = (
            (settings.access_key_id, settings.secret_access_key, settings.session_token, settings.profile)
            for settings in (self.settings, other.settings)
        )
        return self.settings.server == other.settings.server and mine == theirs

    def same_place(self, other: Storage) -> bool:
        """Return whether two storages are one bucket with one key prefix, so that a copy would go onto itself."""
        return self.settings.identity == other.settings.identity


def _wait_to_retry(error: StorageError, failures: int, policy: RetryPolicy, halt: threading.Event | None) -> bool:
    """Wait before the next attempt. Returns False where there is to be none."""
    pause = policy.pause(failures, error.retry_after)
    if pause is None or not error.retryable or error.permanent:
        return False
    return not (halt or threading.Event()).wait(pause)


def listed(key: str, headers: Mapping[str, str]) -> ListedObject:
    """Return what the answer to a HEAD shows of an object, given its relative key.

    Raises:
        NotXmlError: It names no length: a proxy has taken it away, and nobody knows how large the object is.
    """
    size = length_of(headers)
    if size is None:
        raise NotXmlError("a HEAD shows no Content-Length: is there a proxy before it that changes answers?")
    return ListedObject(key, size, bare(headers.get("etag")), http_date(headers.get("last-modified")))


def has_md5(headers: Mapping[str, str]) -> bool:
    """Tell from an answer to a HEAD, GET or PUT whether the object's ETag is the MD5 of its body."""
    if not is_md5(bare(headers.get("etag"))) or "x-amz-server-side-encryption-customer-algorithm" in headers:
        return False
    return headers.get("x-amz-server-side-encryption") in {None, "AES256"}


def parse_timestamp(text: str) -> datetime | None:
    """Parse a timestamp of a listing (ISO 8601); None where it is none."""
    try:
        return in_utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
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
