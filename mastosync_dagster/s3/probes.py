"""Probes: objects of no use, written to check what the storage makes of them before the first real one is written."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from mastosync_dagster.s3.acl import everybody_reads, try_acl
from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.headers import Attributes
from mastosync_dagster.s3.listing import KeyRange
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mastosync_dagster.s3.client import Client
    from mastosync_dagster.s3.storage import Storage

_FOLDER = "mastosync-check"
_BODY = b"written by mastosync, to see whether everybody can read it; it may be deleted"
_HEADERS = {"Content-Type": "text/plain"}
_OLD = timedelta(hours=1)
"""Age from which a probe belongs to no running check, whatever the clocks."""
_BAD_DIGEST = frozenset({"BadDigest", "InvalidDigest"})


def prove_private(storage: Storage, folders: Iterable[str], *, sets_acls: bool, warn: Callable[[str], object]) -> None:
    """Check that what is written private is neither readable by everybody nor damaged when an ACL is set.

    In each folder (relative, without a slash at the end) an object is written as private ones are, asked for without a
    signature, and deleted again. That is asked of the endpoint: of other addresses of the same bucket (a public domain,
    a CDN) it proves nothing.

    Args:
        storage: Without ACLs, private objects are to be written all the same.
        folders: Relative to the key prefix, without a slash at the end.
        sets_acls: Set the probe's ACL too, to public and back, as `set_acl` does.
        warn: Gets a message for a probe that could not be deleted.

    Raises:
        StorageError: Permanent: everybody can read it, or its ACL cannot be set. Else as any request.
    """
    for folder in sorted(set(folders)):
        probe = "/".join(filter(None, (folder, _FOLDER, str(uuid.uuid4()))))
        written = False
        try:
            _write(storage, probe)
            written = True
            if sets_acls:
                try_acl(storage, probe)
            exposed = everybody_reads(storage, probe)
        except Exception as error:
            raise storage.error(error, probe) from error
        finally:
            # Also where the answer to the PUT was lost.
            problem = _delete(storage, probe)
            if problem is not None and written:
                warn(f"{problem}. {storage.full_key(probe)} stays behind: delete it")
        _remove_old(storage, folder)
        if exposed:
            raise _exposed(storage, folder)


async def refuses_damaged(client: Client, storage: Storage) -> bool:
    """Send a body that does not have the MD5 of its Content-MD5; if it is stored all the same, delete it again.

    A coroutine, since a copy asks while it copies.

    Raises:
        S3Error: It was refused for another reason, or could not be deleted.
        TransportError: No answer.
    """
    key = storage.full_key(f"{_FOLDER}/{uuid.uuid4()}")
    wrong = hashlib.md5(b"another body", usedforsecurity=False).digest()
    try:
        await client.put(key, _BODY, storage.own_headers(private=True), wrong)
    except S3Error as error:
        if error.code in _BAD_DIGEST:
            return True
        raise
    await client.delete(key)
    return False


def checks_md5(storage: Storage) -> bool:
    """Ask as `refuses_damaged`, and wait for the answer."""
    return storage.ask(lambda client: refuses_damaged(client, storage))


def are_one_place(source: Storage, destination: Storage) -> bool:
    """Write an object at the destination, look for it at the source, and delete it: a bucket may have two addresses.

    False also where a key may not write or read it.

    Raises:
        StorageError: A storage does not answer.
    """
    # Always the same key: where it cannot be deleted, it is the only one that is left behind.
    key, body = f"{_FOLDER}/two-places", uuid.uuid4().bytes
    headers = destination.write_headers(Attributes(_HEADERS, {}), private=True)
    md5 = hashlib.md5(body, usedforsecurity=False).digest()
    try:
        destination.ask(lambda client: client.put(destination.full_key(key), body, headers, md5), key)
        found = source.ask(lambda client: client.get(source.full_key(key), limit=len(_BODY)), key)
    except StorageError as error:
        if error.retryable:
            raise
        return False
    finally:
        _delete(destination, key)
    return found.body == body


def _write(storage: Storage, key: str) -> None:
    """Write a probe with the headers of private objects."""
    md5 = hashlib.md5(_BODY, usedforsecurity=False).digest()
    headers = storage.write_headers(Attributes(_HEADERS, {}), private=True)
    storage.ask(lambda client: client.put(storage.full_key(key), _BODY, headers, md5), key)


def _delete(storage: Storage, key: str) -> StorageError | None:
    """Delete a probe. Returns why that failed: such an error must not replace the probe's result."""
    try:
        storage.ask(lambda client: client.delete(storage.full_key(key)), key)
    except StorageError as error:
        return error
    return None


def _remove_old(storage: Storage, folder: str) -> None:
    """Delete probes of runs that were killed between writing and deleting them."""
    start = "/".join(filter(None, (folder, _FOLDER))) + "/"
    with contextlib.suppress(StorageError):  # it harms nobody where it is, and the next run tries again
        for found in storage.list_range(KeyRange(start, start, start[:-1] + "0")):
            if found.modified is not None and found.modified < datetime.now(timezone.utc) - _OLD:
                _delete(storage, found.key)


def _exposed(storage: Storage, folder: str) -> StorageError:
    settings = storage.settings
    where = f"{settings.bucket}/{storage.full_key(folder)}"
    reason = Reason.ACL_REFUSED if settings.has_acls else Reason.PRIVATE_NOT_COPIED
    if settings.has_acls:
        text = (
            f"everybody can read what is private in {where}: a probe with the ACL private was given out without a"
            " signature. A bucket policy, or the server's own settings, win over ACLs: take the policy off, so that"
            f" {settings.variable('S3_PERMISSION')}={settings.permission} decides; or set that to an empty text and"
            " MASTOSYNC_COPY_PRIVATE to false, which skips private objects"
        )
    else:
        text = (
            f"everybody can read what is in {where}: a probe was given out without a signature, and"
            " MASTOSYNC_COPY_PRIVATE=true is for a bucket that is not public. Take off the policy that lets everybody"
            " read it, or set MASTOSYNC_COPY_PRIVATE=false, which skips private objects"
        )
    return StorageError(text, reason=reason, permanent=True)
