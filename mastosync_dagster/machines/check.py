"""Whether runs can be handed to workers: for ``mastosync check``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mastosync_dagster.environment import BROKER, broker_url
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import one_line
from mastosync_dagster.machines.broker import CONNECT_SECONDS, check_broker

if TYPE_CHECKING:
    import dagster as dg

_LAUNCHER = "mastosync_dagster.machines.launcher"
_KEPT = {"appendonly": "yes", "appendfsync": "always"}
"""How Redis keeps every task. One that is lost leaves a run that is starting, for twelve hours."""


class BrokerError(AdminError):
    """Runs cannot be handed to workers. The message says why, and holds no password."""


@dataclass(frozen=True)
class Broker:
    """A broker that answers.

    Attributes:
        address: Of its host, for people.
        forgets: The settings by which what waits, or the last second of it, is lost when it is killed. A broker that
            does not say counts as one that keeps all.
    """

    address: str
    forgets: tuple[str, ...]


def shares_runs(instance: dg.DagsterInstance) -> bool:
    """Return whether dagster.yaml has runs handed to workers of Celery."""
    launcher = instance.get_ref().run_launcher_data
    return launcher is not None and launcher.module_name == _LAUNCHER


def ask_broker() -> Broker:
    """Ask the broker of CELERY_BROKER. Raises `SettingsError` or `BrokerError`."""
    url = broker_url()
    check_broker(url)
    try:
        redis = import_module("redis")
    except ImportError:
        raise BrokerError(
            "dagster.yaml hands runs to Celery, which is not installed: pip install 'mastosync-dagster[celery]'."
        ) from None
    parts = urlsplit(url)
    address = f"{parts.hostname}:{parts.port or 6379}"
    client = redis.Redis.from_url(
        url, decode_responses=True, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=CONNECT_SECONDS
    )
    try:
        client.ping()
    except (redis.RedisError, ValueError) as error:
        raise BrokerError(f"The broker of {BROKER} at {address} does not answer: {one_line(str(error))}") from None
    try:
        settings = client.config_get("append*")
    except redis.RedisError:  # some providers let nobody ask
        settings = {}
    forgets = (f"{name} {kept}" for name, kept in _KEPT.items() if settings.get(name, kept) != kept)
    return Broker(address, tuple(forgets))
