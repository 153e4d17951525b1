"""One side of a transfer: its clients, its listing, its objects."""

from __future__ import annotations

import os
import random
import re
import threading
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from botocore.exceptions import ClientError
from botocore.handlers import disable_signing
from obstore.exceptions import BaseError, InvalidPathError
from obstore.store import S3Store

from mastosync_dagster.transfer.credentials import credential_provider
from mastosync_dagster.transfer.errors import StorageError, classify
from mastosync_dagster.transfer.headers import STORAGE_CLASS
from mastosync_dagster.transfer.outcomes import Reason
from mastosync_dagster.transfer.settings import StorageSettings
from mastosync_dagster.transfer.verify import is_md5

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from mypy_boto3_s3 import S3Client
    from obstore.store import ClientConfig, S3Config

    from mastosync_dagster.transfer.headers import Attributes
    from mastosync_dagster.transfer.items import KeyRange

__all__ = ["ListedObject", "Storage", "StorageSettings", "addressable"]

SMALL_BODY = 256 * 1024
"""Bytes of a body for which `StorageSettings.small_timeout` holds. That suffices for 64 of them at once at 2.7 Mbit/s,
and the copy has fewer in flight where they are late."""

PAGE_KEYS = 1000
"""Keys of one ListObjectsV2 answer."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_LISTING_ATTEMPTS = 7
_LISTING_PAUSE = 0.5
"""Seconds before the second attempt at most; doubled for each further one: half a minute in all."""
_LONGEST_ASKED_WAIT = 30.0

# Listings and HEADs: obstore repeats them by itself, and gives up after a minute.
_PATIENT = 6
# A check is to say within seconds that nobody is there.
_BRIEF = 2
# The copy repeats by itself, so that it sees every 503 and slows down.
_AT_ONCE = 0
_RETRY_SECONDS = 60


class ListedObject(NamedTuple):
    """An object as a listing or a HEAD shows it.

    Attributes:
        key: Relative to the key prefix.
        size: Bytes.
        etag: Without quotes; None where the server gives none.
        modified: When it was last written, by the server's clock; None where that was not asked for.
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


def addressable(key: str) -> bool:
    """Tell whether obstore can name a (full) key; the others go through `Storage.client`.

    It refuses empty, ``.`` and ``..`` segments and control characters, and drops a slash at either end in silence.
    """
    return not _CONTROL.search(key) and all(segment not in {"", ".", ".."} for segment in key.split("/"))


class Storage:
    """One side of a transfer. Cheap to build: nothing is opened before the first request. Thread-safe.

    Args:
        settings: Where it is and how it is reached.
        boto3_client: Makes the boto3 client, for the few things obstore cannot do. Called once, when first needed.

    Attributes:
        settings: As given.
        acl_proof: For `access.set_access`.
    """

    def __init__(self, settings: StorageSettings, boto3_client: Callable[[], S3Client]) -> None:
        self.settings = settings
        self._make_client = boto3_client
        self._client: S3Client | None = None
        self._single_try_client: S3Client | None = None
        self._stores: dict[tuple[str | None, int, float | None, float, str | None], S3Store] = {}
        self._region: str | None = settings.region or None
        self._worked = False
        self.acl_proof = AclProof()
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
    def client(self) -> S3Client:
        """The boto3 client: for keys that obstore refuses, and for what it has no call for."""
        with self._lock:
            if self._client is None:
                self._client = self._make_client()
            return self._client

    @property
    def single_try_client(self) -> S3Client:
        """Another boto3 client, which repeats nothing: its caller does, and so sees every 503 and its Retry-After."""
        with self._lock:
            if self._single_try_client is None:
                self._single_try_client = self._make_client()
                # However the client was configured: this is the hook of all its retry modes.
                self._single_try_client.meta.events.unregister("needs-retry.s3", unique_id="retry-config-s3")
            return self._single_try_client

    def anonymous_client(self) -> S3Client:
        """Make a boto3 client that signs nothing: it gets what everybody may read."""
        client = self._make_client()
        client.meta.events.register("choose-signer.s3", disable_signing)
        return client

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
        try:
            answer = self.client.head_bucket(Bucket=self.settings.bucket)
            headers = answer["ResponseMetadata"]["HTTPHeaders"]
        except ClientError as error:
            # Amazon names the region in refusals too.
            headers = error.response["ResponseMetadata"]["HTTPHeaders"]
            if "x-amz-bucket-region" not in headers:
                raise self.error(error) from error
        except Exception as error:
            raise self.error(error) from error
        return str(headers.get("x-amz-bucket-region", "us-east-1"))

    def _endpoint(self) -> str:
        """The URL that obstore speaks to, always spelled out: left open it would come from the environment."""
        settings = self.settings
        if settings.endpoint_url:
            url = urlsplit(settings.endpoint_url.rstrip("/"))
        else:
            suffix = ".cn" if self.region.startswith("cn-") else ""
            url = urlsplit(f"https://s3.{self.region}.amazonaws.com{suffix}")
        if not settings.path_style:
            url = url._replace(netloc=f"{settings.bucket}.{url.netloc}")
        return url.geturl()

    def _store(
        self,
        acl: str | None,
        *,
        retries: int,
        read_timeout: float | None,
        timeout: float,
        copies_from: str | None = None,
    ) -> S3Store:
        with self._lock:
            kind = (acl, retries, read_timeout, timeout, copies_from)
            if kind not in self._stores:
                self._stores[kind] = self._open(
                    acl, retries=retries, read_timeout=read_timeout, timeout=timeout, copies_from=copies_from
                )
            return self._stores[kind]

    def _open(
        self,
        acl: str | None,
        *,
        retries: int,
        read_timeout: float | None,
        timeout: float,
        copies_from: str | None,
    ) -> S3Store:
        _limit_runtime()
        settings = self.settings
        endpoint = self._endpoint()
        bucket_in_url = not settings.path_style
        headers = {"x-amz-acl": acl} if acl else {}
        if copies_from is not None:
            # obstore knows one bucket for both ends of a copy. With the destination's written into the URL, as if it
            # were in the host name, it names this one in the copy's source alone.
            endpoint, bucket_in_url = (endpoint if bucket_in_url else f"{endpoint}/{settings.bucket}"), True
            if settings.storage_class:
                headers["x-amz-storage-class"] = settings.storage_class
        config: S3Config = {
            "aws_endpoint_url_s3": endpoint,
            "region": self.region,
            "virtual_hosted_style_request": bucket_in_url,
            # The bodies are hashed anyway, against the ETags.
            "unsigned_payload": True,
            "skip_signature": False,
        }
        client: ClientConfig = {
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=settings.connect_timeout),
            "timeout": timedelta(seconds=timeout),
        }
        if read_timeout is not None:
            client["read_timeout"] = timedelta(seconds=read_timeout)
        if not settings.verify:
            client["allow_invalid_certificates"] = True
        elif settings.ca_file:
            client["root_certificate"] = self._certificates(settings.ca_file)
        if headers:
            # As a header of every request the ACL is signed and takes effect; as an attribute it would silently become
            # user metadata.
            client["default_headers"] = headers
        try:
            return S3Store(
                copies_from or settings.bucket,
                config=config,
                client_options=client,
                retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)},
                credential_provider=credential_provider(settings),
            )
        except (BaseError, ValueError) as error:
            raise StorageError(
                f"the {settings.name} cannot be opened ({str(error).splitlines()[0]}): check "
                f"{settings.variable('S3_ENDPOINT')}, {settings.variable('S3_BUCKET')} and their fields under "
                f"resources.{settings.name}.config",
                reason=Reason.UNEXPECTED,
                permanent=True,
            ) from error

    def _certificates(self, ca_file: str) -> bytes:
        try:
            return Path(ca_file).read_bytes()
        except OSError as error:
            raise StorageError(
                f"the {self.settings.name}'s CA file {ca_file} cannot be read ({error.strerror}): "
                f"check {self.settings.field('ca_file')}",
                reason=Reason.CONNECTION,
                permanent=True,
            ) from error

    def reader(self, *, retries: bool = True, small: bool = False) -> S3Store:
        """Return the obstore client for GET: rooted at the bucket, so it takes full keys.

        Args:
            retries: Whether obstore repeats failed requests and resumes broken bodies by Range. False: every failure
                shows at once.
            small: For bodies up to `SMALL_BODY` only: they must come in a short time.
        """
        timeout = self.settings.small_timeout if small else self.settings.download_timeout
        return self._reader(_PATIENT if retries else _AT_ONCE, timeout)

    def _reader(self, retries: int, timeout: float) -> S3Store:
        return self._store(None, retries=retries, read_timeout=self.settings.read_timeout, timeout=timeout)

    def store(self, *, private: bool = False, retries: bool = True, small: bool = False) -> S3Store:
        """Return the obstore client for PUT and uploads in parts: rooted at the bucket, so it takes full keys.

        Every object written through it gets the canned ACL ``private``, or the permission of the settings. Without a
        permission no ACL header is sent at all, for private objects neither: such a bucket takes none.

        Args:
            private: For objects that must not be readable by everybody.
            retries: Whether obstore repeats failed requests by itself.
            small: For bodies up to `SMALL_BODY` only: they must go in a short time.
        """
        acl = self.settings.permission or None
        if acl and private:
            acl = "private"
        timeout = self.settings.small_timeout if small else self.settings.upload_timeout
        return self._store(acl, retries=_PATIENT if retries else _AT_ONCE, read_timeout=None, timeout=timeout)

    def copier(self, source: Storage, *, private: bool) -> S3Store:
        """Return the obstore client for `obstore.copy` from another bucket (or prefix) of the same server.

        It takes full keys, the source's as ``from_``. Objects get the ACL as by `store`, and the storage class.

        Args:
            source: The other side; see `same_server`.
            private: For objects that must not be readable by everybody.
        """
        acl = self.settings.permission or None
        return self._store(
            "private" if acl and private else acl,
            retries=_AT_ONCE,
            read_timeout=None,
            timeout=self.settings.upload_timeout,
            copies_from=source.settings.bucket,
        )

    def write_attributes(self, attributes: Attributes) -> Attributes:
        """Return the attributes to write an object with, from those it was read with: with this side's storage class.

        See `Attributes.to_keep` for what is left out.
        """
        kept = attributes.to_keep()
        if not self.settings.storage_class:
            return kept
        return kept._replace(headers={**kept.headers, STORAGE_CLASS: self.settings.storage_class})

    def _control(self, retries: int = _PATIENT) -> S3Store:
        """The client for listings and HEADs: small answers, repeated by obstore."""
        return self._reader(retries, self.settings.read_timeout)

    def check(self) -> bool:
        """Make sure that the side answers and takes the credentials.

        Returns:
            Whether it may be listed.

        Raises:
            StorageError: Permanent: wrong secret, bucket or region, or nobody there. The message names what to change.
        """
        store = self._control(_BRIEF)
        try:
            if next(iter(store.list(self.settings.prefix or None, chunk_size=1)), None) is None:
                self._check_that_it_is_s3(store)
        except (InvalidPathError, ValueError):
            # An object, or the prefix itself, has a name that obstore refuses: boto3 asks for the rest.
            return self._check_by_boto3()
        except Exception as error:  # noqa: BLE001  (as below)
            return self._may_not_list(error)
        return True

    def _check_by_boto3(self) -> bool:
        try:
            self.client.list_objects_v2(Bucket=self.settings.bucket, Prefix=self.settings.prefix, MaxKeys=1)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is told in plain words)
            return self._may_not_list(error)
        return True

    def _may_not_list(self, error: Exception) -> bool:
        """Return False where that is what an error says; raise what it says else, as permanent."""
        problem = self.error(error)
        if problem.reason is Reason.ACCESS_DENIED:
            return False
        problem.permanent = True
        raise problem from error

    def _check_that_it_is_s3(self, store: S3Store) -> None:
        """Make sure that an empty listing was one: obstore takes any XML page for an empty listing."""
        absent = self.full_key(f"mastosync-check-{uuid.uuid4().hex}")
        try:
            store.get(absent)
        except (BaseError, FileNotFoundError):
            return
        raise StorageError(
            f"the {self.settings.name} does not answer like an S3 storage (it has an object of any name): check "
            f"{self.settings.variable('S3_ENDPOINT')} or {self.settings.field('endpoint_url')}",
            reason=Reason.UNEXPECTED,
            permanent=True,
        )

    def list_pages(self, keys: KeyRange, halt: threading.Event | None = None) -> Iterator[list[ListedObject]]:
        """List a range of keys, a request (up to 1,000 keys) at a time, in byte order.

        A listing that breaks goes on behind the last page that came: obstore repeats a request that is refused, but
        not one whose answer breaks off, and for seconds only. Objects whose key ends with a slash (the "folders" that
        some programs make) are shown without it.

        Args:
            keys: The range.
            halt: Set, no further attempt is made.

        Yields:
            The keys of one page that lie in the range. At least one page, which may be empty.

        Raises:
            StorageError: The listing failed; `Reason.ACCESS_DENIED` where the credentials may not list.
        """
        after = None if keys.start <= keys.prefix else _before(keys.start)
        lister = self._obstore_pages
        failures = 0
        while True:
            try:
                for page, last in lister(keys, after):
                    self._worked, failures = True, 0
                    yield page
                    after = last
            except (InvalidPathError, ValueError):  # noqa: PERF203  (once a page)
                # A key that obstore cannot name lies ahead (or is a bound): boto3 can.
                lister = self._boto3_pages
            except StorageError as error:
                failures += 1
                if not self._lists_again(error, failures, halt or threading.Event()):
                    raise
            else:
                return

    def _lists_again(self, error: StorageError, failures: int, halt: threading.Event) -> bool:
        """Wait before a listing goes on. Returns False where it does not."""
        # Nobody there from the beginning: a wrong endpoint, most likely, which is to be said soon. A server that takes
        # connections and drops them is the right one in a bad moment.
        soon = not error.reached and not self._worked
        if not error.retryable or error.permanent or failures >= (2 if soon else _LISTING_ATTEMPTS):
            return False
        pause = _LISTING_PAUSE * 2 ** (failures - 1) * (0.5 + random.random() / 2)  # noqa: S311  (jitter)
        return not halt.wait(max(pause, min(error.retry_after or 0.0, _LONGEST_ASKED_WAIT)))

    def _obstore_pages(self, keys: KeyRange, after: str | None) -> Iterator[tuple[list[ListedObject], str]]:
        """Yield pages, each with the last key seen."""
        cut = len(self.settings.prefix)
        start, end = keys.start, keys.end
        last = ""
        stream = self._control().list(
            self.full_key(_folder(keys)) or None,
            offset=None if after is None else self.full_key(after),
            chunk_size=PAGE_KEYS,
        )
        try:
            for objects in stream:
                page = [
                    ListedObject(entry["path"][cut:], entry["size"], etag and etag.strip('"'), entry["last_modified"])
                    for entry in objects
                    for etag in (entry["e_tag"],)
                ]
                last = page[-1].key
                if page[0].key < start or last >= end:
                    page = [entry for entry in page if start <= entry.key < end]
                yield page, last
                if last >= end:
                    return
        except (InvalidPathError, ValueError):
            raise
        except Exception as error:
            raise self.error(error) from error
        if not last:
            yield [], start

    def _boto3_pages(self, keys: KeyRange, after: str | None) -> Iterator[tuple[list[ListedObject], str]]:
        """Yield pages, each with the last key seen."""
        cut = len(self.settings.prefix)
        try:
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.settings.bucket,
                Prefix=self.full_key(_folder(keys)),
                StartAfter="" if after is None else self.full_key(after),
            )
            for answer in pages:
                page = [
                    ListedObject(
                        entry["Key"][cut:], entry["Size"], entry["ETag"].strip('"') or None, entry["LastModified"]
                    )
                    for entry in answer.get("Contents", [])
                ]
                last = page[-1].key if page else after or keys.start
                yield [entry for entry in page if keys.start <= entry.key < keys.end], last
                if last >= keys.end:
                    return
        except StorageError:
            raise
        except Exception as error:
            raise self.error(error) from error

    def list_range(self, keys: KeyRange) -> Iterator[ListedObject]:
        """List a range of keys in byte order. Raises as `list_pages` does."""
        for page in self.list_pages(keys):
            yield from page

    def head(self, key: str) -> ListedObject | None:
        """Ask for one object.

        Args:
            key: Relative to the key prefix.

        Returns:
            None where the side says that there is none.

        Raises:
            StorageError: `Reason.ACCESS_DENIED` also where the object is absent and the credentials may not list.
        """
        full = self.full_key(key)
        try:
            if not addressable(full):
                answer = self.client.head_object(Bucket=self.settings.bucket, Key=full)
                return ListedObject(key, answer["ContentLength"], answer["ETag"].strip('"') or None)
            found = self._control().head(full)
        except FileNotFoundError:
            return None
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:  # noqa: PLR2004  (HTTP's own number)
                return None
            raise self.error(error, key) from error
        except Exception as error:
            raise self.error(error, key) from error
        etag = found["e_tag"]
        return ListedObject(key, found["size"], etag and etag.strip('"'))

    def dated(self, key: str) -> ListedObject:
        """Ask for one object, and when it was last written.

        Raises:
            StorageError: There is none, or it cannot be asked for.
        """
        try:
            answer = self.client.head_object(Bucket=self.settings.bucket, Key=self.full_key(key))
        except Exception as error:
            raise self.error(error, key) from error
        return ListedObject(key, answer["ContentLength"], answer["ETag"].strip('"') or None, answer["LastModified"])

    def etag_is_md5(self, key: str) -> bool:
        """Ask whether an object's ETag is the MD5 of its body: not so where it is encrypted with a key of its own.

        Args:
            key: Relative to the key prefix; an object whose ETag has the form of an MD5.

        Raises:
            StorageError: The object cannot be asked for.
        """
        try:
            answer = self.client.head_object(Bucket=self.settings.bucket, Key=self.full_key(key))
        except Exception as error:
            raise self.error(error, key) from error
        if not is_md5(answer["ETag"].strip('"')) or answer.get("SSECustomerAlgorithm"):
            return False
        return answer.get("ServerSideEncryption") in {None, "AES256"}

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


def _before(key: str) -> str:
    """Return a key that sorts before the given one: StartAfter is exclusive.

    What lies between the two is listed in vain. For a key that ends with a slash that is next to nothing.
    """
    return key[:-1]


def _folder(keys: KeyRange) -> str:
    """Return the deepest folder that holds a whole range: a listing ends there, instead of filling its page."""
    shared = os.path.commonprefix([keys.start, keys.end])  # noqa: RUF071  (characters are what is meant)
    return max(keys.prefix, shared[: shared.rfind("/") + 1], key=len)


def _limit_runtime() -> None:
    """Give obstore's runtime half of the processors for its connections; all of them is its default.

    The calling threads do the rest of the work, and every hand-over between two processors costs: with two of them a
    single connection thread saves a tenth of the CPU time. The runtime starts with the first request of the process,
    and reads this variable alone.
    """
    os.environ.setdefault("TOKIO_WORKER_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
