"""Settings with something else in them than they take: it may be a secret, so no message repeats it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mastosync_dagster.addresses import is_address
from mastosync_dagster.environment import SettingsError, expanded

if TYPE_CHECKING:
    from pathlib import Path

_URL = "://"
# Sockets are in folders such as /cloudsql/project:region:instance, or abstract (@name).
_IN_SOCKETS = re.compile(r":.*@|pass\w*\s*=", re.IGNORECASE)
_IN_NAMES = re.compile(r":|pass\w*\s*=", re.IGNORECASE)
_IN_HOSTS = re.compile(r"[:/@?=]")
# The second one is the first one's beginning in base64.
_KEY = re.compile(r"-----BEGIN|LS0tLS1CRUdJT|[\r\n]")


def may_hold_password(value: str) -> bool:
    """Return whether a value looks like a URL, like user and password, or like parameters with a password."""
    return _URL in value or _IN_SOCKETS.search(value) is not None


def one_host(value: str, name: str, *, parts: str, url: str) -> str:
    """Return a host, the folder of a socket, or a list of them, if it is no more than that.

    Args:
        value: The setting's value.
        name: Its name in the message.
        parts: What to do with the rest, in the message.
        url: What to do with a URL.
    """
    if _URL in value:
        raise SettingsError(f"{name} holds a URL: {url}.")
    for host in value.split(","):
        pattern = _IN_SOCKETS if host.startswith(("/", "@")) else _IN_HOSTS
        if pattern.search(host) and not is_address(host):
            raise SettingsError(f"{name} holds more than a host (an IPv6 address has no brackets there): {parts}.")
    return value


def one_name(value: str, name: str) -> str:
    """Return the name of a database, or of its user, if it is no more than that. ``name`` is for the message."""
    if _URL in value:
        raise SettingsError(f"{name} holds a URL: put it into DATABASE_URL.")
    if _IN_NAMES.search(value):
        raise SettingsError(
            f"{name} holds more than one name: put host, port, database, user and password into DB_HOST, DB_PORT,"
            " DB_NAME, DB_USER and DB_PASS, or all of them into DATABASE_URL."
        )
    return value


def one_path(value: str, name: str) -> Path:
    """Return the path of a key's file, if the setting is not the key itself. ``name`` is for the message."""
    if _KEY.search(value):
        raise SettingsError(f"{name} holds a key, or another text of several lines: put the path of its file there.")
    return expanded(value, f"{name} names")
