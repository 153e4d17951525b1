"""Who copies: mastosync as a whole, parts of it alone, rclone, a simple script."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from benchmarks import measure
from benchmarks.servers import BUCKET, REGION, Server
from mastosync_dagster.demo.servers.start import rclone_binary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.dataset import Rows
    from benchmarks.measure import Usage
    from mastosync_dagster.demo.servers.start import PostgresServer

ROOT = Path(__file__).parent.parent

RCLONE_FIRST = ("--no-traverse", "--no-check-dest", "--s3-no-head", "--s3-no-head-object")
"""What rclone's documentation offers for a first copy: no look at the destination, no HEAD before a GET or after a PUT.
Headers and metadata are kept all the same (each run is checked for that)."""
RCLONE_LOOKS = ("--no-traverse", "--s3-no-head")
"""What is right for a repetition too, as mastosync's run is: a HEAD on each storage shows size and time, and what is
there is not copied again. No HEAD after a PUT: the answer to the PUT is believed, as mastosync believes it."""


@dataclass(frozen=True)
class Task:
    """What a contender is asked to do.

    Attributes:
        rows: The range of rows whose objects are to be copied.
        source: Where they are.
        destination: Where they go.
        database: Holds the rows.
        concurrency: Requests in flight at each storage.
        folder: For the contender's files; its own.
    """

    rows: Rows
    source: Server
    destination: Server
    database: PostgresServer
    concurrency: int
    folder: Path

    @property
    def keys_file(self) -> Path:
        """File with the keys, one a line."""
        path = self.folder / "keys"
        if not path.exists():
            self.rows.write_keys(path)
        return path

    @property
    def log(self) -> Path:
        """File for the contender's output."""
        return self.folder / "log"

    def environment(self) -> dict[str, str]:
        """Return the variables that mastosync reads."""
        return {
            **self.source.environment(),
            **self.destination.environment("DESTINATION_"),
            "DATABASE_URL": self.database.url,
            "MASTOSYNC_CONCURRENCY": str(self.concurrency),
        }


class Contender(Protocol):
    """Somebody who can do a task."""

    name: str

    @property
    def keeps_headers(self) -> bool:
        """Whether copies have the source's headers: then they are compared."""

    def run(self, task: Task) -> Usage:
        """Do it once, and say what it cost."""


class WholeRun:
    """mastosync, as an admin starts it: ``dagster job execute`` of one ID range."""

    name = "mastosync"
    keeps_headers = True

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._variables = dict(variables or {})

    def run(self, task: Task) -> Usage:
        """Run the job in a Dagster home of its own."""
        home = task.folder / "home"
        home.mkdir()
        shutil.copy(ROOT / "dagster.yaml", home)
        environment = task.environment() | {"DAGSTER_HOME": str(home), "PYTHONPATH": str(ROOT)} | self._variables
        self._register(task, environment)
        command = [str(Path(sys.executable).parent / "dagster"), "job", "execute", "-m", "mastosync_dagster"]
        command += ["-j", f"sync_{task.rows.table}", "--tags", json.dumps({"dagster/partition": task.rows.partition})]
        return measure.run(command, environment, task.log)

    def _register(self, task: Task, environment: Mapping[str, str]) -> None:
        """Register the range, which also makes the Dagster home's tables: neither is part of a run."""
        code = (
            "import dagster, sys\n"
            "with dagster.DagsterInstance.get() as instance:\n"
            "    instance.add_dynamic_partitions(sys.argv[1], [sys.argv[2]])\n"
        )
        subprocess.run(
            [sys.executable, "-c", code, f"{task.rows.table}_ids", task.rows.partition],
            env=dict(environment),
            check=True,
            cwd=ROOT,
        )


class Part:
    """A part of mastosync alone: what `benchmarks.inner` measures."""

    keeps_headers = True

    def __init__(self, name: str) -> None:
        self.name = name

    def _inner(self, task: Task, *arguments: str) -> Usage:
        command = [sys.executable, "-m", "benchmarks.inner", *arguments]
        whole = measure.run(command, task.environment() | {"PYTHONPATH": str(ROOT)}, task.log)
        answer = json.loads(task.log.read_text().splitlines()[-1])
        return dataclasses.replace(whole, seconds=answer["seconds"], cpu_seconds=answer["cpu_seconds"])


class Planning(Part):
    """Reading rows, listing both storages, writing the plan."""

    def __init__(self) -> None:
        super().__init__("mastosync, planning alone")

    def run(self, task: Task) -> Usage:
        """Plan into the task's folder."""
        rows = task.rows
        return self._inner(task, "plan", str(task.folder), rows.table, str(rows.lo), str(rows.hi))


class Engine(Part):
    """Carrying out a plan."""

    def __init__(self) -> None:
        super().__init__("mastosync, engine alone")

    def run(self, task: Task) -> Usage:
        """Plan (not measured), then copy."""
        Planning().run(task)
        return self._inner(task, "copy", str(task.folder), str(task.concurrency))


class Boundaries(Part):
    """Dividing a table into ID ranges."""

    def __init__(self) -> None:
        super().__init__("mastosync, ID ranges alone")

    def run(self, task: Task) -> Usage:
        """Divide the table of the task's rows."""
        return self._inner(task, "boundaries", task.rows.table)


class Rclone:
    """``rclone copy --files-from`` with metadata kept.

    Args:
        flags: What stands behind that.
        name: What to call it.
        files: Whether it gets the keys; else it copies the bucket.
        transfers: How many for each request in flight that the task allows at a storage.
    """

    keeps_headers = True

    def __init__(self, flags: tuple[str, ...], name: str = "rclone", *, files: bool = True, transfers: int = 1) -> None:
        self.name = name
        self._flags = flags
        self._files = files
        self._transfers = transfers

    def run(self, task: Task) -> Usage:
        """Run rclone once."""
        command = [str(rclone_binary()), "copy", f"source:{BUCKET}", f"destination:{BUCKET}", "--config", ""]
        at_once = task.concurrency * self._transfers
        command += ["--metadata", f"--transfers={at_once}", f"--checkers={at_once}", *self._flags]
        if task.source.certificate:
            command += ["--ca-cert", str(task.source.certificate)]
        if self._files:
            command += ["--files-from", str(task.keys_file)]
        environment: dict[str, str] = {}
        for name, storage in (("SOURCE", task.source), ("DESTINATION", task.destination)):
            settings = {
                "TYPE": "s3",
                "PROVIDER": "Rclone",
                "ENDPOINT": storage.endpoint,
                "REGION": REGION,
                "ACCESS_KEY_ID": storage.access_key_id,
                "SECRET_ACCESS_KEY": storage.secret_access_key,
                "ACL": "public-read",
            }
            environment |= {f"RCLONE_CONFIG_{name}_{setting}": value for setting, value in settings.items()}
        return measure.run(command, environment, task.log)


class Juicefs:
    """``juicefs sync`` of the whole bucket: it copies bodies, and neither Content-Type nor any other header."""

    name = "juicefs sync"
    keeps_headers = False

    def run(self, task: Task) -> Usage:
        """Run it once."""
        places = [
            f"minio://{storage.access_key_id}:{storage.secret_access_key}@{storage.place.address}:{storage.port}/{BUCKET}/"
            for storage in (task.source, task.destination)
        ]
        program = Path(sys.executable).parent / "juicefs"
        command = [str(program), "sync", *places, f"--threads={task.concurrency}", "--list-threads=16", "--no-https"]
        return measure.run(command, {}, task.log)


class Boto3Loop:
    """Five processes, each a boto3 loop of get, read, put."""

    name = "boto3 loop, 5 processes"
    keeps_headers = True

    def run(self, task: Task) -> Usage:
        """Run the script once."""
        storages = [
            (storage.endpoint, storage.access_key_id, storage.secret_access_key)
            for storage in (task.source, task.destination)
        ]
        command = [
            sys.executable,
            "-m",
            "benchmarks.boto3_loop",
            str(task.keys_file),
            BUCKET,
            *storages[0],
            *storages[1],
        ]
        return measure.run(command, {"PYTHONPATH": str(ROOT), "AWS_DEFAULT_REGION": REGION}, task.log)
