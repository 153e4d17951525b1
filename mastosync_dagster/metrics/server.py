"""``mastosync metrics``: serves the metrics on loopback, or prints them once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from mastosync_dagster.errors import AdminError
from mastosync_dagster.metrics.collector import MastosyncCollector

if TYPE_CHECKING:
    from collections.abc import Callable

    import dagster as dg

_HOST = "127.0.0.1"


class MetricsError(AdminError):
    """The metrics cannot be served."""


def serve_metrics(instance: dg.DagsterInstance, port: int, every: float, say: Callable[[str], object]) -> None:
    """Serve the metrics until the process is stopped. Raises a `MetricsError` where the port is taken."""
    registry = CollectorRegistry()
    collector = MastosyncCollector(instance, say)
    registry.register(collector)
    collector.refresh()
    try:
        start_http_server(port, addr=_HOST, registry=registry)
    except OSError as error:
        raise MetricsError(
            f"port {port} of {_HOST} cannot be used ({error.strerror}): name another with --port."
        ) from None
    say(f"http://{_HOST}:{port}/metrics")
    collector.refresh_every(every)
    threading.Event().wait()


def metrics_once(instance: dg.DagsterInstance, say: Callable[[str], object]) -> str:
    """Return the metrics as text, for the textfile collector of Prometheus' node exporter."""
    registry = CollectorRegistry()
    collector = MastosyncCollector(instance, say)
    collector.refresh()
    registry.register(collector)
    return generate_latest(registry).decode()
