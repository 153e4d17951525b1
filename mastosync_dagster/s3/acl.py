"""Who may read an object: its ACL, read and set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import StorageError, is_not_found
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
_NOT_SATISFIABLE = 416
_GIVEN = frozenset({200, 206})
_FIRST = (("range", "bytes=0-0"),)
_FIRST_BYTES = 64 * 1024
_EVERYBODY = "http://acs.amazonaws.com/groups/global/AllUsers"
_STRANGERS = frozenset({_EVERYBODY, "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"})
"""Whom a private object must not be shown to; the second are all who have any account at Amazon."""
_READS = frozenset({"READ", "FULL_CONTROL"})
PRIVATE = "private"
_SAYS_NOTHING = frozenset(
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


def is_public(storage: Storage, key: str, halt: threading.Event) -> bool:
    """Ask whether everybody may read an object (GetObjectAcl).

    Args:
        storage: The side.
        key: Relative to the key prefix.
        halt: Set, no further attempt is made.

    Raises:
        StorageError: The side does not say. The message names the right that is needed.
    """
    return _EVERYBODY in _readers(_acl(storage, key, halt))


def is_readable(storage: Storage, key: str, halt: threading.Event) -> bool:
    """Ask whether everybody may read an object, by its ACL or whatever that says: policies win. As `is_public`."""
    return is_public(storage, key, halt) or everybody_reads(storage, key, halt)


def has_access(storage: Storage, key: str, *, private: bool, halt: threading.Event) -> bool:
    """Ask whether an object has the ACL that it must have. Arguments and errors as `set_access`."""
    readers = _readers(_acl(storage, key, halt))
    return not readers & _STRANGERS if private else _EVERYBODY in readers


def _readers(acl: Acl) -> set[str]:
    """Return the groups that may read an object."""
    return {uri for uri, permission in acl.grants if permission in _READS}


def _acl(storage: Storage, key: str, halt: threading.Event) -> Acl:
    """Ask for an object's ACL.

    Raises:
        StorageError: As by `is_public`; permanent where the side answers with something that is no ACL.
    """
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
    if not acl.is_acl:
        # The object itself, or an empty page.
        raise _no_acls(settings)
    return acl


def _no_acls(settings: StorageSettings) -> StorageError:
    return StorageError(
        f"the {settings.name} does not answer with an ACL when it is asked for an object's: it keeps none. Leave"
        f" {settings.variable('S3_PERMISSION')} empty",
        reason=Reason.ACL_REFUSED,
        permanent=True,
    )


def set_access(storage: Storage, key: str, *, private: bool, halt: threading.Event) -> bool:
    """Make sure that an object is private, or has the permission of the settings (GetObjectAcl, PutObjectAcl).

    A server that knows no ACLs may overlook the ``?acl`` of such a request, and take it for a new, empty object
    (``rclone serve s3`` does). So the object's ACL is read first, and where the answer is none, nothing is sent. There
    are servers that answer with an ACL and do the same: the first object whose ACL is set through a `Storage` is looked
    at before and after, while others wait.

    Args:
        storage: The side; it has ACLs.
        key: Relative to the key prefix.
        private: Which of the two.
        halt: Set, no further attempt is made.

    Returns:
        Whether it had to be set.

    Raises:
        StorageError: The side refuses, has no such object, or shows no ACL. Permanent: this object, or one before it,
            was changed by it.
    """
    if has_access(storage, key, private=private, halt=halt):
        return False
    proof = storage.acl_proof
    if not proof.holds:
        with proof.lock:
            if not proof.holds:
                _set_first(storage, key, private=private, halt=halt)
                return True
    _put_acl(storage, key, private=private, halt=halt)
    return True


def _put_acl(storage: Storage, key: str, *, private: bool, halt: threading.Event) -> None:
    acl = PRIVATE if private else storage.settings.permission or PRIVATE
    storage.ask(lambda client: client.put_acl(storage.full_key(key), acl), key, halt)


def try_access(storage: Storage, key: str, halt: threading.Event) -> None:
    """Set the ACL of a private object that nobody needs to public, and back. Raises as `set_access`."""
    for private in (False, True):
        set_access(storage, key, private=private, halt=halt)


def _set_first(storage: Storage, key: str, *, private: bool, halt: threading.Event) -> None:
    """Set an ACL, and make sure that the object is still what it was."""
    proof, settings = storage.acl_proof, storage.settings
    if proof.damaged is not None:
        raise proof.damaged
    before = storage.head(key)
    _put_acl(storage, key, private=private, halt=halt)
    after = storage.head(key)
    if before is None:
        return
    if after is None or (after.size, after.etag) != (before.size, before.etag):
        proof.damaged = StorageError(
            f"the {settings.name} took the ACL of {storage.full_key(key)} for a new body: the object had"
            f" {before.size:,} bytes before, and has {after.size if after else 0:,} after it. Set"
            f" {settings.variable('S3_PERMISSION')} to an empty text, and copy that object again",
            reason=Reason.ACL_REFUSED,
            key=key,
            permanent=True,
        )
        raise proof.damaged
    # An object that is empty anyway shows nothing.
    proof.holds = before.size > 0


class SourceAccess:
    """Asks for many objects whether everybody may read them.

    Args:
        source: The side.
        pool: Sends the questions.
    """

    def __init__(self, source: Storage, pool: Pool) -> None:
        self._source = source
        self._pool = pool

    def are_private(self, objects: Sequence[tuple[str, ...]]) -> list[bool]:
        """Return whether objects are not readable by everybody.

        Args:
            objects: For each, the keys that it may have, in the order to try. One that is under none counts as private.

        Raises:
            StorageError: The source does not say.
        """
        return [private is not False for private in self.are_private_if_there(objects)]

    def are_private_if_there(self, objects: Sequence[tuple[str, ...]]) -> list[bool | None]:
        """Return the same, and None of an object that is under none of its keys. Raises as `are_private`."""
        return self._pool.map(self._is_private, objects)

    def _is_private(self, keys: tuple[str, ...]) -> bool | None:
        for key in keys:
            public = self._is_public(key)
            if public is not None:
                return not public
        return None

    def _is_public(self, key: str) -> bool | None:
        try:
            return is_readable_at_source(self._source, key, self._pool.halt)
        except StorageError as error:
            if is_not_found(error):
                return None
            raise


def is_readable_at_source(source: Storage, key: str, halt: threading.Event) -> bool:
    """Ask as `is_readable`, for ``privacy: source``.

    Raises:
        StorageError: As `is_public`; permanent, with the setting that helps, where the source keeps no ACLs.
    """
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


def everybody_reads(storage: Storage, key: str, halt: threading.Event) -> bool:
    """Ask for an object without a signature (GET, of which no body is read: policies speak of nothing else).

    Args:
        storage: The side.
        key: Relative to the key prefix.
        halt: Set, no further attempt is made.

    Raises:
        StorageError: It was not answered, which says nothing.
    """
    try:
        storage.ask(
            lambda client: client.get(storage.full_key(key), limit=_FIRST_BYTES, headers=_FIRST, signed=False),
            key,
            halt,
        )
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, TransportError) and cause.failure is Failure.TOO_LARGE:
            # The server sends all of it, though a byte was asked for; or a page that is long, and refuses.
            return cause.status in _GIVEN
        if isinstance(error.__cause__, S3Error) and error.__cause__.status == _NOT_SATISFIABLE:
            return True  # it is empty
        if error.reason in _SAYS_NOTHING:
            raise
        return False
    return True
