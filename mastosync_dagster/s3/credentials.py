"""Credentials of one storage: the ones configured, or botocore's chain, which renews them before they expire."""

from __future__ import annotations

import math
import os
import re
import time
from typing import TYPE_CHECKING

import botocore.session
from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError, MetadataRetrievalError

from mastosync_dagster.s3.errors import CredentialsError, StorageError
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.signing import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from botocore.credentials import Credentials as Chain

    from mastosync_dagster.s3.settings import StorageSettings

_HOLD_SECONDS = 60.0
"""How long credentials of the chain are used without asking for them again. Where they last for minutes alone, botocore
has every question answered by new ones; what it gives has ten minutes left."""

_PROFILES = ("AWS_DEFAULT_PROFILE", "AWS_PROFILE")

# What goes into a header must be printable ASCII; the secret itself only signs.
_SENDABLE = re.compile(r"[ -~]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def sendable(access_key_id: str | None, secret_access_key: str | None, session_token: str | None) -> bool:
    """Return whether credentials can be sent: the text of an HTTP library's error holds a header that cannot."""
    return (
        _SENDABLE.fullmatch(access_key_id or "") is not None
        and _SENDABLE.fullmatch(session_token or "") is not None
        and _CONTROL.search(secret_access_key or "") is None
    )


def credential_provider(settings: StorageSettings) -> Callable[[], Credentials]:
    """Return a callable that gives the current credentials of one storage.

    Raises:
        StorageError: There are none, or half of them.
    """
    if not sendable(settings.access_key_id, settings.secret_access_key, settings.session_token):
        raise _unsendable(settings, settings.field("aws_secret_access_key"))
    if settings.access_key_id and settings.secret_access_key:
        fixed = Credentials(settings.access_key_id, settings.secret_access_key, settings.session_token or None)
        return lambda: fixed
    if settings.access_key_id or settings.secret_access_key:
        name, field = (
            ("AWS_SECRET_ACCESS_KEY", "aws_secret_access_key")
            if settings.access_key_id
            else ("AWS_ACCESS_KEY_ID", "aws_access_key_id")
        )
        raise _bad(
            f"half of the {settings.name}'s credentials is missing: "
            f"set {settings.variable(name)} or {settings.field(field)}"
        )
    return _chain(settings)


def _chain(settings: StorageSettings) -> Callable[[], Credentials]:
    try:
        credentials: Chain | None = aws_session(settings).get_credentials()
    except Exception as error:  # noqa: BLE001  (a provider raises what its program, file or server makes it raise)
        raise _bad(
            f"the {settings.name}'s credentials cannot be read: {reason_without_output(error)}; "
            f"check {settings.profile_settings} and the AWS configuration files"
        ) from None
    if credentials is None:
        raise _bad(
            f"the {settings.name} has no credentials: set {settings.variable('AWS_ACCESS_KEY_ID')} and "
            f"{settings.variable('AWS_SECRET_ACCESS_KEY')}, {settings.variable('AWS_PROFILE')}, "
            "or run where an instance role gives them"
        )

    held, until = Credentials("", ""), -math.inf

    def current() -> Credentials:
        nonlocal held, until
        now = time.monotonic()
        if now >= until:
            try:
                frozen = credentials.get_frozen_credentials()
            except Exception as error:  # noqa: BLE001  (as above)
                raise CredentialsError(reason_without_output(error)) from None
            if not sendable(frozen.access_key, frozen.secret_key, frozen.token):
                raise _unsendable(settings, settings.profile_settings)
            held = Credentials(frozen.access_key or "", frozen.secret_key or "", frozen.token)
            until = now + _HOLD_SECONDS
        return held

    return current


def aws_session(settings: StorageSettings) -> botocore.session.Session:
    """Return the session of botocore in which a storage's credentials are looked for."""
    # An empty variable counts as unset; botocore would look for a profile without a name, and for no other variable.
    named = [name for name in _PROFILES if os.environ.get(name)]
    variables = {"profile": (None, named or None, None, None)}
    session = botocore.session.Session(session_vars=variables, profile=settings.profile)
    if settings.variable_prefix:
        # The bare variables (AWS_ACCESS_KEY_ID, …) are the other storage's.
        session.get_component("credential_provider").remove("env")
    return session


def reason_without_output(error: Exception) -> str:
    """Say why credentials could not be had, without what a program or a server gave: a secret may be in it."""
    if isinstance(error, (CredentialRetrievalError, MetadataRetrievalError)):
        return f"{error.kwargs.get('provider', 'the metadata service')} gave none"
    if isinstance(error, OSError):
        return ": ".join(str(each) for each in (error.filename, error.strerror) if each) or type(error).__name__
    # botocore's RuntimeError: they are renewed, and too old all the same.
    said = isinstance(error, (BotoCoreError, ClientError, RuntimeError))
    return str(error).rstrip(".") if said else f"{type(error).__name__} in what was given"


def _unsendable(settings: StorageSettings, field: str) -> StorageError:
    return _bad(
        f"the {settings.name}'s credentials hold a line break or another character that cannot be sent: check {field} "
        "and the AWS configuration files"
    )


def _bad(message: str) -> StorageError:
    return StorageError(message, reason=Reason.BAD_CREDENTIALS, permanent=True)
