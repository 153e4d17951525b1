"""Credentials for obstore: the ones configured, or botocore's chain, renewed before they expire."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import botocore.session
from botocore.exceptions import BotoCoreError

from mastosync_dagster.transfer.errors import StorageError
from mastosync_dagster.transfer.outcomes import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from botocore.credentials import Credentials
    from obstore.store import S3Credential

    from mastosync_dagster.transfer.settings import StorageSettings

# obstore asks again when less than five minutes are left, so it holds an answer for one minute. botocore renews
# temporary credentials ten to fifteen minutes before their end: what obstore holds is never expired.
_LIFETIME = timedelta(minutes=6)


# What goes into a header must be printable ASCII; the secret itself only signs.
_SENDABLE = re.compile(r"[ -~]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def sendable(access_key_id: str | None, secret_access_key: str | None, session_token: str | None) -> bool:
    """Tell whether credentials can be sent: the text of an HTTP library's error holds a header that cannot.

    Args:
        access_key_id: Access key; None: none.
        secret_access_key: Its secret; None: none.
        session_token: Token of temporary credentials; None: none.
    """
    return (
        _SENDABLE.fullmatch(access_key_id or "") is not None
        and _SENDABLE.fullmatch(session_token or "") is not None
        and _CONTROL.search(secret_access_key or "") is None
    )


def credential_provider(settings: StorageSettings) -> Callable[[], S3Credential]:
    """Return a callable that gives obstore the credentials of one side.

    A provider is used for fixed credentials too: given as plain configuration they would be completed from the
    process's environment, where ``AWS_SESSION_TOKEN`` belongs to the other side.

    Raises:
        StorageError: There are none, or half of them.
    """
    if not sendable(settings.access_key_id, settings.secret_access_key, settings.session_token):
        raise _unsendable(settings, settings.field("aws_secret_access_key"))
    if settings.access_key_id and settings.secret_access_key:
        fixed: S3Credential = {
            "access_key_id": settings.access_key_id,
            "secret_access_key": settings.secret_access_key,
            "token": settings.session_token or None,
            "expires_at": None,
        }
        return lambda: fixed
    if settings.access_key_id or settings.secret_access_key:
        name, field = (
            ("AWS_SECRET_ACCESS_KEY", "aws_secret_access_key")
            if settings.access_key_id
            else ("AWS_ACCESS_KEY_ID", "aws_access_key_id")
        )
        raise StorageError(
            f"half of the {settings.name}'s credentials is missing: "
            f"set {settings.variable(name)} or {settings.field(field)}",
            reason=Reason.BAD_CREDENTIALS,
            permanent=True,
        )
    return _chain(settings)


def _chain(settings: StorageSettings) -> Callable[[], S3Credential]:
    try:
        session = botocore.session.Session(profile=settings.profile)
        if settings.variable_prefix:
            # The bare variables (AWS_ACCESS_KEY_ID, …) are the other side's.
            session.get_component("credential_provider").remove("env")
        credentials: Credentials | None = session.get_credentials()
    except BotoCoreError as error:
        raise StorageError(
            f"the {settings.name}'s credentials cannot be read: {error}; "
            f"check {settings.field('profile_name')} and the AWS configuration files",
            reason=Reason.BAD_CREDENTIALS,
            permanent=True,
        ) from error
    if credentials is None:
        raise StorageError(
            f"the {settings.name} has no credentials: set {settings.variable('AWS_ACCESS_KEY_ID')} and "
            f"{settings.variable('AWS_SECRET_ACCESS_KEY')}, {settings.field('profile_name')}, "
            "or run where an instance role gives them",
            reason=Reason.BAD_CREDENTIALS,
            permanent=True,
        )

    def current() -> S3Credential:
        frozen = credentials.get_frozen_credentials()
        if not sendable(frozen.access_key, frozen.secret_key, frozen.token):
            raise _unsendable(settings, settings.field("profile_name"))
        return {
            "access_key_id": frozen.access_key or "",
            "secret_access_key": frozen.secret_key or "",
            "token": frozen.token,
            "expires_at": datetime.now(timezone.utc) + _LIFETIME,
        }

    return current


def _unsendable(settings: StorageSettings, field: str) -> StorageError:
    return StorageError(
        f"the {settings.name}'s credentials hold a line break or another character that cannot be sent: check {field} "
        "and the AWS configuration files",
        reason=Reason.BAD_CREDENTIALS,
        permanent=True,
    )
