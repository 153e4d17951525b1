"""Machines with one history: each has a Dagster home, a host name and files of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.ranges.partitions import FileType, range_key, register_ranges
from mastosync_dagster.resources import MastodonDatabase
from mastosync_dagster_tests.support.installation import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer


def sync_accounts() -> dg.JobDefinition:
    """Return the job over an ID range of accounts."""
    from mastosync_dagster.definitions import build_definitions  # noqa: PLC0415  (each run loads this module)

    return build_definitions().resolve_job_def("sync_accounts")


@dataclass(frozen=True)
class Machines:
    """Machines that share a history in PostgreSQL, and no folder.

    Attributes:
        settings: The text of their dagster.yaml, but for the section storage.
    """

    history: PostgresServer
    folder: Path
    settings: str

    def home(self, name: str) -> Path:
        """Return a machine's Dagster home."""
        home = self.folder / name
        if not home.exists():
            home.mkdir()
            history = self.history
            # The name is that of another host.
            place = f"history.example:{history.port}/{history.database}?hostaddr={history.host}"
            url = f"postgresql+psycopg2://{history.user}:{history.password}@{place}"
            storage = f"storage: {{postgres: {{postgres_url: '{url}'}}}}"
            (home / "dagster.yaml").write_text(f"{self.settings}\n{storage}\n")
        return home

    def start(self, name: str, command: Sequence[str], **variables: str) -> subprocess.Popen[bytes]:
        """Begin a command of this interpreter on a machine; its output goes into the file ``NAME.log``."""
        named = ["unshare", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "-"] if os.geteuid() == 0 else []
        paths = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        with self.log(name).open("a") as log:
            return subprocess.Popen(
                [*named, sys.executable, *command],
                env={**os.environ, "DAGSTER_HOME": str(self.home(name)), "PYTHONPATH": paths, **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def log(self, name: str) -> Path:
        """Return the file with the output of a machine's commands."""
        return self.folder / f"{name}.log"

    @contextlib.contextmanager
    def instance(self, name: str) -> Iterator[dg.DagsterInstance]:
        """Open the history, as a machine does."""
        with dg.DagsterInstance.from_config(str(self.home(name))) as instance:
            yield instance

    def register(self, name: str) -> str:
        """Register one ID range of accounts; return its key."""
        with self.instance(name) as instance, MastodonDatabase().session() as connect:
            (ids,) = register_ranges(instance, FileType.ACCOUNTS, connect, rows_per_partition=100_000)
        return range_key(ids)
