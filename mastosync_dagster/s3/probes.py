"""Probes: objects of no use, written to check what the storage makes of them before the first real one is written."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections import Counter
from datetime import datetime, timedelta, timezone
from functools import partial
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
_PROBES = 24
"""At most, in each folder. Mastodon's private media have two styles and about a dozen extensions."""
_BODY = b"written by mastosync, to see whether everybody can read it; it may be deleted"
_HEADERS = {"Content-Type": "text/plain"}
_OLD = timedelta(hours=1)
"""Age from which a probe belongs to no running check, whatever the clocks."""
_BAD_DIGEST = frozenset({"BadDigest", "InvalidDigest"})


class ExposedError(StorageError):
    """Everybody can read a probe. Setting ACLs does no harm: an ACL hides what the policy does not show."""


def prove_private(storage: Storage, patterns: Iterable[str], *, sets_acls: bool, warn: Callable[[str], object]) -> None:
    """Check that what is written private is neither readable by everybody nor damaged when an ACL is set.

    An object whose key is of a pattern is written as private ones are, asked for without a signature, and deleted
    again: a policy may name a folder, a style or an extension. That is asked of the endpoint: of other addresses of the
    same bucket (a public domain, a CDN) it proves nothing.

    Args:
        storage: Without ACLs, private objects are to be written all the same.
        patterns: Of the keys of private objects, relative to the key prefix: see `mastodon.keys.pattern_of`. Each
            beginning and each end is tried in each folder, and not all pairs of them: `_PROBES` at most, and then the
            newest beginnings.
        sets_acls: Set an ACL too, the first probe's, to public and back, as `set_acl` does.
        warn: Gets a message for a probe that could not be deleted.

    Raises:
        ExposedError: Everybody can read it.
        StorageError: Permanent: its ACL cannot be set. Else as any request.
    """
    chosen = _chosen(patterns)
    with contextlib.suppress(StorageError):  # what is left harms nobody, and the next run tries again
        for start in sorted({pattern.partition("*")[0] for pattern in chosen}):
            _remove_old(storage, f"{start}{_FOLDER}/")
    for number, pattern in enumerate(chosen):
        ask = partial(_is_exposed, storage, pattern, sets_acl=sets_acls and number == 0, warn=warn)
        try:
            exposed = ask()
        except StorageError as error:
            # One refusal ends no run, as with the objects themselves.
            if not error.may_pass:
                raise
            exposed = ask()
        if exposed:
            raise _exposed(storage, pattern)


def _chosen(patterns: Iterable[str]) -> list[str]:
    """Return the patterns to probe: of each folder enough to have all of their beginnings, and all of their ends.

    First those that bring a new beginning and a new end, so that there are few; the newest ids first.
    """
    newest_first = sorted(set(patterns), reverse=True)
    chosen: list[str] = []
    known: set[tuple[str, str]] = set()
    probes: Counter[str] = Counter()
    for most_known in (0, 1):
        for pattern in newest_first:
            start, _, end = pattern.partition("*")
            folder = start.rstrip("/").rpartition("/")[0]
            parts = {(folder, start), (folder, end)}
            if len(parts & known) <= most_known and probes[folder] < _PROBES:
                known |= parts
                probes[folder] += 1
                chosen.append(pattern)
    return chosen


def _is_exposed(storage: Storage, pattern: str, *, sets_acl: bool, warn: Callable[[str], object]) -> bool:
    """Write a new probe, ask whether everybody can read it, and delete it. Raises as `prove_private`.

    An interrupt ends it at once: a later run deletes the probe.
    """
    # No id's folders have such a name, so no object of Mastodon's has such a key.
    probe = pattern.replace("*", _FOLDER, 1).replace("*", uuid.uuid4().hex, 1)
    written = False
    answer: bool | StorageError
    try:
        _write(storage, probe)
        written = True
        if sets_acl:
            try_acl(storage, probe)
        answer = everybody_reads(storage, probe)
    except StorageError as error:
        answer = error
    # Also where the answer to the PUT was lost.
    problem = _delete(storage, probe)
    if problem is not None and written:
        warn(f"{problem}. {storage.full_key(probe)} stays behind: delete it")
    if isinstance(answer, StorageError):
        raise answer
    return answer


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


def _remove_old(storage: Storage, start: str) -> None:
    """Delete probes of runs that were killed between writing and deleting them, by the beginning of their keys."""
    for found in storage.list_range(KeyRange(start, start, start[:-1] + "0")):
        if found.modified is not None and found.modified < datetime.now(timezone.utc) - _OLD:
            _delete(storage, found.key)


def _exposed(storage: Storage, pattern: str) -> ExposedError:
    settings = storage.settings
    where = f"{settings.bucket}/{storage.full_key(pattern)}"
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
    return ExposedError(text, reason=reason, permanent=True)
