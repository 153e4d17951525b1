"""Who may read an object: its ACL, read and set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import StorageError, is_busy_or_broken, is_not_found
from mastosync_dagster.s3.http import Failure, TransportError
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from mastosync_dagster.pool import Pool
    from mastosync_dagster.s3.client import Acl
    from mastosync_dagster.s3.settings import StorageSettings
    from mastosync_dagster.s3.storage import Storage

_NOT_IMPLEMENTED = 501
_NOT_FOUND, _NOT_SATISFIABLE = 404, 416
_READABLE = frozenset({200, 206})
_FIRST_BYTE = (("range", "bytes=0-0"),)
_FIRST_BYTES = 64 * 1024
_EVERYBODY = "http://acs.amazonaws.com/groups/global/AllUsers"
_PUBLIC_GROUPS = frozenset({_EVERYBODY, "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"})
"""Groups that must not read a private object; the second are all who have any account at Amazon."""
_READS = frozenset({"READ", "FULL_CONTROL"})
PRIVATE = "private"
_INCONCLUSIVE = frozenset(
    {
        Reason.THROTTLED,
        Reason.TIMEOUT,
        Reason.CONNECTION,
        Reason.SERVER_ERROR,
        Reason.WRONG_REGION,
        Reason.NO_SUCH_BUCKET,
    }
)
"""Answers to a request without a signature after which an object may be readable or not. Refusals have many forms:
Cloudflare's R2 calls a missing signature an invalid argument."""


def is_public(storage: Storage, key: str, halt: threading.Event | None = None) -> bool:
    """Ask by an object's ACL whether everybody may read it (GetObjectAcl); ``key`` is relative, ``halt`` ends retries.

    Raises:
        StorageError: The storage does not say. The message names the right that is needed.
    """
    return _EVERYBODY in _readers(_acl(storage, key, halt))


def is_readable(storage: Storage, key: str, halt: threading.Event | None = None) -> bool:
    """Ask whether everybody may read an object, by its ACL or in spite of it: policies win. Raises as `is_public`."""
    return is_public(storage, key, halt) or everybody_reads(storage, key, halt)


def has_acl(storage: Storage, key: str, *, private: bool, halt: threading.Event | None = None) -> bool:
    """Ask whether an object has the ACL that it must have. Raises as `set_acl`."""
    readers = _readers(_acl(storage, key, halt))
    return not readers & _PUBLIC_GROUPS if private else _EVERYBODY in readers


def _readers(acl: Acl) -> set[str]:
    """Return the groups that may read an object."""
    return {uri for uri, permission in acl.grants if permission in _READS}


def _acl(storage: Storage, key: str, halt: threading.Event | None = None) -> Acl:
    """Read an object's ACL. Raises as `is_public`; permanent where the answer is no ACL."""
    settings = storage.settings
    try:
        acl = storage.ask(lambda client: client.get_acl(storage.full_key(key)), key, halt)
    except StorageError as error:
        if isinstance(error.__cause__, S3Error) and error.__cause__.status == _NOT_IMPLEMENTED:
            raise _no_acls(settings) from error
        if error.reason is not Reason.ACCESS_DENIED:
            raise
        raise StorageError(
            f"the {settings.name} does not show an object's ACL: give its access key the right to read ACLs"
            " (s3:GetObjectAcl)",
            reason=error.reason,
            key=key,
        ) from error
    if not acl.is_acl:  # the object itself, or an empty page
        raise _no_acls(settings)
    return acl


def _no_acls(settings: StorageSettings) -> StorageError:
    return StorageError(
        f"the {settings.name} does not answer with an ACL when it is asked for an object's: it keeps none. Leave"
        f" {settings.variable('S3_PERMISSION')} empty",
        reason=Reason.ACL_REFUSED,
        permanent=True,
    )


def set_acl(storage: Storage, key: str, *, private: bool, halt: threading.Event | None = None) -> bool:
    """Make an object private, or give it the permission of the settings (GetObjectAcl, PutObjectAcl).

    A server that knows no ACLs may overlook the ``?acl`` of such a request, and take it for a new, empty object
    (``rclone serve s3`` does). So the object's ACL is read first, and where the answer is none, nothing is sent. There
    are servers that answer with an ACL and do the same, and some accept it and set none: the first object whose ACL is
    set through a `Storage` is compared before and after, and its ACL read again, while others wait. ``key`` is
    relative; ``halt`` ends the retries.

    Returns:
        Whether it had to be set.

    Raises:
        StorageError: The storage refuses, has no such object, or shows no ACL. Permanent: setting an ACL changed this
            object's body, or that of one before it, or did not change its ACL.
    """
    if has_acl(storage, key, private=private, halt=halt):
        return False
    proof = storage.acl_proof
    if not proof.holds:
        with proof.lock:
            if not proof.holds:
                _set_first(storage, key, private=private, halt=halt)
                return True
    _put_acl(storage, key, private=private, halt=halt)
    return True


def _canned(storage: Storage, *, private: bool) -> str:
    return PRIVATE if private else storage.settings.permission or PRIVATE


def _put_acl(storage: Storage, key: str, *, private: bool, halt: threading.Event | None = None) -> None:
    acl = _canned(storage, private=private)
    storage.ask(lambda client: client.put_acl(storage.full_key(key), acl), key, halt)


def try_acl(storage: Storage, key: str, halt: threading.Event | None = None) -> None:
    """Set the ACL of a probe to public, and back to private. Raises as `set_acl`."""
    for private in (False, True):
        set_acl(storage, key, private=private, halt=halt)
        _ensure_set(storage, key, private=private, halt=halt)


def _ensure_set(storage: Storage, key: str, *, private: bool, halt: threading.Event | None = None) -> None:
    """Read an ACL that was set. Raises as `set_acl`; permanent where it is another one."""
    if has_acl(storage, key, private=private, halt=halt):
        return
    settings, sent = storage.settings, _canned(storage, private=private)
    raise StorageError(
        f"the {settings.name} accepted the ACL {sent} of {storage.full_key(key)}, and shows another one afterwards: it"
        f" sets none. Set {settings.variable('S3_PERMISSION')} to an empty text",
        reason=Reason.ACL_REFUSED,
        key=key,
        permanent=True,
    )


def _set_first(storage: Storage, key: str, *, private: bool, halt: threading.Event | None = None) -> None:
    """Set an ACL, and check that the object's body is still the same, and that it has that ACL."""
    proof, settings = storage.acl_proof, storage.settings
    if proof.refuted is not None:
        raise proof.refuted
    before = storage.head(key)
    _put_acl(storage, key, private=private, halt=halt)
    after = storage.head(key)
    if before is None:
        return
    if after is None or (after.size, after.etag) != (before.size, before.etag):
        proof.refuted = StorageError(
            f"the {settings.name} took the ACL of {storage.full_key(key)} for a new body: the object had"
            f" {before.size:,} bytes before, and has {after.size if after else 0:,} after it. Set"
            f" {settings.variable('S3_PERMISSION')} to an empty text, and copy that object again",
            reason=Reason.ACL_REFUSED,
            key=key,
            permanent=True,
        )
        raise proof.refuted
    try:
        _ensure_set(storage, key, private=private, halt=halt)
    except StorageError as error:
        proof.refuted = error if error.permanent else None
        raise
    # An object that is empty anyway shows nothing.
    proof.holds = before.size > 0


class SourceAccess:
    """Asks for many objects, through a pool, whether everybody may read them."""

    def __init__(self, source: Storage, pool: Pool) -> None:
        self._source = source
        self._pool = pool

    def are_private(self, objects: Sequence[tuple[str, ...]]) -> list[bool]:
        """Return for each object, given its possible keys in order, whether it is private, or not found."""
        return [private is not False for private in self.are_private_if_there(objects)]

    def are_private_if_there(self, objects: Sequence[tuple[str, ...]]) -> list[bool | None]:
        """Return the same, and None for an object that is not found under any key. Raises as `are_private`."""
        return self._pool.map(self._is_private, objects)

    def _is_private(self, keys: tuple[str, ...]) -> bool | None:
        for key in keys:
            try:
                return not is_readable_at_source(self._source, key, self._pool.halt)
            except StorageError as error:
                if not is_not_found(error):
                    raise
        return None


def is_readable_at_source(source: Storage, key: str, halt: threading.Event | None = None) -> bool:
    """Ask as `is_readable`, for ``privacy: source``; where the source keeps no ACLs, the error names the setting."""
    try:
        return is_readable(source, key, halt)
    except StorageError as error:
        if error.reason is not Reason.ACL_REFUSED:
            raise
        raise StorageError(
            f"the {source.settings.name} keeps no ACLs, so privacy=source cannot go by them: leave privacy at mastodon,"
            " which goes by Mastodon's rows",
            reason=error.reason,
            permanent=True,
        ) from error


def everybody_reads(storage: Storage, key: str, halt: threading.Event | None = None) -> bool:
    """Ask for an object without a signature (GET, of which no body is read: policies speak of nothing else).

    A `StorageError` says that no answer came.
    """
    try:
        storage.ask(
            lambda client: client.get(storage.full_key(key), limit=_FIRST_BYTES, headers=_FIRST_BYTE, signed=False),
            key,
            halt,
        )
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, TransportError) and cause.failure is Failure.TOO_LARGE:
            # The server sends all of it, though a byte was asked for; or a page that is long, and refuses.
            if is_busy_or_broken(cause.status):
                raise
            return cause.status in _READABLE
        if isinstance(cause, S3Error) and cause.status == _NOT_SATISFIABLE:
            return True  # it is empty
        hidden = isinstance(cause, S3Error) and cause.status == _NOT_FOUND and cause.is_foreign
        if hidden and storage.head(key, halt) is not None:
            return False  # by a proxy that lets signed requests alone through
        if error.reason in _INCONCLUSIVE:
            raise
        return False
    return True
