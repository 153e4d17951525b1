"""An instance between two fast servers, with the settings of this process, for what is measured without a contender."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import dataset, servers
from benchmarks.network import Place
from mastosync_dagster.demo.servers.start import PostgresServer, postgres
from mastosync_dagster.installation.processes import stop_requests

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Site:
    """An instance's media at a source, and an empty destination. The folder ends with it."""

    folder: Path
    database: PostgresServer
    source: servers.Server
    destination: servers.Server

    def settings(self) -> dict[str, str]:
        """Return the variables that name it."""
        return {
            **self.source.environment(),
            **self.destination.environment("DESTINATION_"),
            "DATABASE_URL": self.database.url,
            "DESTINATION_S3_PERMISSION": "public-read",
        }


@contextlib.contextmanager
def site(objects: int, *, small: bool = False) -> Iterator[Site]:
    """Make an instance with so many objects, and let the variables of this process name it.

    Args:
        objects: How many; two a row.
        small: Whether each has some hundred bytes alone.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(stop_requests())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mastosync-bench-")))
        database = stack.enter_context(postgres())
        source, destination = (
            stack.enter_context(servers.server(servers.Kind.MEMORY, Place(), folder / "bin")) for _ in range(2)
        )
        dataset.create_tables(database)
        with contextlib.closing(dataset.connect(database)) as connection:
            rows = (dataset.small_pictures if small else dataset.media)(connection, objects)
        servers.fill(source, rows.bodies)
        made = Site(folder, database, source, destination)
        os.environ |= made.settings()
        yield made
