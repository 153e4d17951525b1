"""Dagster's services, a broker, and workers that share the runs: each a process, as on machines of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.demo.comparison import compare, list_keys
from mastosync_dagster.demo.servers.start import free_port, tail
from mastosync_dagster.installation.processes import running
from mastosync_dagster.installation.services import serve
from mastosync_dagster_tests.support.graphql import Run, Webserver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mastosync_dagster.demo.comparison import Comparison
    from mastosync_dagster.demo.instance.book import Instance
    from mastosync_dagster_tests.support.corners import Bucket
    from mastosync_dagster_tests.support.redis_server import RedisServer

PROJECT = Path(__file__).parents[2]
ASSET = "media_attachments"
SECONDS = 300.0
FINISHED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})


@dataclass
class Farm:
    """What shares the runs.

    Attributes:
        home: Dagster's, of its services.
        environment: Of all of them.
        instance: What is copied.
        stack: Ends them.
        processes: The workers that were started last, by name.
    """

    home: Path
    environment: Mapping[str, str]
    instance: Instance
    destination: Bucket
    broker: RedisServer
    webserver: Webserver
    stack: contextlib.ExitStack
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start_worker(self, name: str, app: str = "mastosync_dagster_tests.machines.hasty_worker") -> None:
        """Start a worker, whose home is on no other machine."""
        home = self.log(name).parent
        home.mkdir(exist_ok=True)
        (home / "dagster.yaml").write_text((self.home / "dagster.yaml").read_text())
        environment = {**self.environment, "DAGSTER_HOME": str(home)}
        command = [
            *(str(Path(sys.executable).with_name("celery")), "-A", app),
            *("worker", "-n", f"{name}@%h", "--loglevel", "INFO"),
        ]
        self.processes[name] = self.stack.enter_context(
            running(command, log=self.log(name), cwd=PROJECT, env=environment, grace=30.0)
        )

    def log(self, name: str) -> Path:
        """Return the log of a worker."""
        return self.home.with_name(f"{self.home.name}-{name}") / "worker.log"

    def crash(self, name: str) -> None:
        """End a worker as the kernel would."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def worker_of(self, run_id: str) -> str | None:
        """Return the name of the worker that has a run."""
        holder = self.broker.client.get(f"mastosync:run:{run_id}")
        return None if holder is None else str(holder).partition("@")[0]

    def register(self) -> list[str]:
        """Register the ID ranges of an asset, and return them."""
        command = [str(Path(sys.executable).with_name("mastosync")), "ranges", "--all", ASSET]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, cwd=PROJECT)
        assert done.returncode == 0, done.stderr
        return [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]

    def compare(self) -> Comparison:
        """Compare the destination with what was generated, by an independent listing."""
        return compare(self.destination.server, self.destination.name, self.instance.objects_of(ASSET))

    def empty_destination(self) -> None:
        """Remove what was copied."""
        for key in list_keys(self.destination.server, self.destination.name):
            self.destination.client.delete_object(Bucket=self.destination.name, Key=key)

    @property
    def copied(self) -> int:
        """How many objects the destination has."""
        return len(list_keys(self.destination.server, self.destination.name))

    def wait_for_runs(self, backfill: str, enough: Callable[[list[Run]], bool], seconds: float = SECONDS) -> list[Run]:
        """Wait until the runs of a backfill are as wanted."""
        deadline = time.monotonic() + seconds
        while not enough(runs := self.webserver.runs_of_backfill(backfill)):
            assert time.monotonic() < deadline, (runs, *(tail(self.log(name)) for name in self.processes))
            time.sleep(1)
        return runs


def slowly(requests_per_second: float) -> dict[str, object]:
    """Return the run config of a backfill each of whose runs sends so many requests to the destination."""
    copy = {"config": {"destination_requests_per_second": requests_per_second}}
    return {"ops": {ASSET: {"ops": {"copy": copy}}}}


def all_succeeded(runs: list[Run], partitions: list[str]) -> bool:
    """Whether each ID range has a run that succeeded, and no run goes on."""
    ended = all(run.status in FINISHED for run in runs)
    return ended and {run.partition for run in runs if run.status == "SUCCESS"} == set(partitions)


@contextlib.contextmanager
def farm(
    home: Path,
    variables: Mapping[str, str],
    destination: Bucket,
    broker: RedisServer,
    *,
    instance: Instance,
    settings: Mapping[str, str],
) -> Iterator[Farm]:
    """Run Dagster's services with the deployed dagster.yaml until the block ends, and no worker yet.

    Args:
        home: Dagster's, where they start.
        variables: Those that point at the servers.
        destination: Where runs copy to.
        broker: A running one.
        instance: What is copied.
        settings: What is another in dagster.yaml.
    """
    text = (PROJECT / "deploy" / "celery" / "dagster.yaml").read_text()
    for deployed, here in settings.items():
        assert deployed in text
        text = text.replace(deployed, here)
    (home / "dagster.yaml").write_text(text)
    environment = {**os.environ, **variables, "CELERY_BROKER": broker.url}
    with (
        serve(home, environment, port=free_port(), logs=home / "logs") as services,
        contextlib.ExitStack() as stack,
    ):
        yield Farm(home, environment, instance, destination, broker, Webserver(services.url), stack)
