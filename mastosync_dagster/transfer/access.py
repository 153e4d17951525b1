"""Who may read an object: its ACL, read and set through boto3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.transfer.errors import StorageError
from mastosync_dagster.transfer.outcomes import Reason
from mastosync_dagster.transfer.pool import gone, patiently

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from mypy_boto3_s3.literals import ObjectCannedACLType

    from mastosync_dagster.transfer.pool import Pool
    from mastosync_dagster.transfer.storage import Storage

_EVERYBODY = "http://acs.amazonaws.com/groups/global/AllUsers"
_READS = frozenset({"READ", "FULL_CONTROL"})
_PUBLIC = frozenset({"public-read", "public-read-write"})
PRIVATE: ObjectCannedACLType = "private"


def is_public_permission(permission: str | None) -> bool:
    """Tell whether a canned ACL lets everybody read."""
    return permission in _PUBLIC


def is_public(storage: Storage, key: str, halt: threading.Event) -> bool:
    """Ask whether everybody may read an object (GetObjectAcl).

    Args:
        storage: The side.
        key: Relative to the key prefix.
        halt: Set, no further attempt is made.

    Raises:
        StorageError: The side does not say. The message names the right that is needed.
    """
    try:
        answer = patiently(
            storage,
            key,
            lambda: storage.single_try_client.get_object_acl(Bucket=storage.settings.bucket, Key=storage.full_key(key)),
            halt,
        )
    except StorageError as error:
        if error.reason is not Reason.ACCESS_DENIED:
            raise
        raise StorageError(
            f"the {storage.settings.name} does not show an object's ACL: give its access key the right to read ACLs"
            " (s3:GetObjectAcl)",
            reason=error.reason,
            key=key,
        ) from error
    return any(
        grant.get("Grantee", {}).get("URI") == _EVERYBODY and grant.get("Permission") in _READS
        for grant in answer.get("Grants", [])
    )


def set_access(storage: Storage, key: str, *, private: bool, halt: threading.Event) -> None:
    """Make an object private, or give it the permission of the settings (PutObjectAcl).

    Args:
        storage: The side; its settings have a permission.
        key: Relative to the key prefix.
        private: Which of the two.
        halt: Set, no further attempt is made.

    Raises:
        StorageError: The side refuses, or has no such object.
    """
    acl = PRIVATE if private else storage.settings.permission
    patiently(
        storage,
        key,
        lambda: storage.single_try_client.put_object_acl(
            Bucket=storage.settings.bucket,
            Key=storage.full_key(key),
            ACL=acl,  # type: ignore[arg-type]  # one of boto3's words: the resource has checked it
        ),
        halt,
    )


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
        return self._pool.map(self._is_private, objects)

    def _is_private(self, keys: tuple[str, ...]) -> bool:
        for key in keys:
            public = self._is_public(key)
            if public is not None:
                return not public
        return True

    def _is_public(self, key: str) -> bool | None:
        try:
            return is_public(self._source, key, self._pool.halt)
        except StorageError as error:
            if gone(error):
                return None
            raise
