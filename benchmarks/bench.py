"""What all cases share: the machine's servers, the database, the results."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import obstore

from benchmarks import network, servers
from benchmarks.contenders import Task
from benchmarks.results import Measurement, Results

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.contenders import Contender
    from benchmarks.dataset import Rows
    from benchmarks.network import Place
    from benchmarks.servers import Kind, Server
    from mastosync_dagster.demo.servers.start import PostgresServer

CONCURRENCY = {0: 64}
"""Requests in flight at each storage, by delay: the default where nothing delays ..."""
CONCURRENCY_WITH_DELAY = 128
"""... and this where a request takes long."""

_LOOKED_AT = 97
"""Every so manyth object's headers are compared after a run."""


class NotCopiedError(AssertionError):
    """A contender left something out, or changed it: its time counts for nothing."""


@dataclass
class Bench:
    """One run of the benchmark.

    Attributes:
        database: Holds the rows.
        programs: Where compiled programs lie.
        results: Takes what is measured.
        results_file: Where that is kept, after every run.
        repetitions: How often each contender runs.
    """

    database: PostgresServer
    programs: Path
    results: Results
    results_file: Path
    repetitions: int

    @contextlib.contextmanager
    def place(self, delay_ms: int, packet_bytes: int = network.LARGEST_PACKET) -> Iterator[Place]:
        """Make a place for servers, with a delay or without."""
        with network.place(delay_ms, self.programs, packet_bytes) as where:
            yield where

    @contextlib.contextmanager
    def server(self, kind: Kind, place: Place, *filled_with: Rows) -> Iterator[Server]:
        """Run a server that holds the objects of some rows."""
        with servers.server(kind, place, self.programs) as started:
            for rows in filled_with:
                threads = 2 if any(body.is_large for body in rows.bodies) else 256 if place.delay_ms else 32
                servers.fill(started, rows.bodies, threads)
            yield started

    def measure(
        self,
        case: str,
        contender: Contender,
        rows: Rows,
        source: Server,
        destination: Server,
        *,
        repetition: int = 1,
        concurrency: int | None = None,
        complete: bool = True,
    ) -> Measurement:
        """Let a contender do a task once, and keep what it cost.

        Args:
            case: What to call the task.
            contender: Who.
            rows: What is to be copied.
            source: From where.
            destination: To where.
            repetition: Which time.
            concurrency: Requests in flight at each storage; None: by the delay.
            complete: Afterwards all objects are at the destination: checked.

        Raises:
            ContenderError: It failed.
            NotCopiedError: Something is missing, or another.
        """
        delay_ms = source.place.delay_ms
        if concurrency is None:
            concurrency = CONCURRENCY.get(delay_ms, CONCURRENCY_WITH_DELAY)
        counts = _counts(source, destination)
        with tempfile.TemporaryDirectory(prefix="mastosync-bench-") as folder:
            task = Task(rows, source, destination, self.database, concurrency, Path(folder))
            usage = contender.run(task)
        measured = Measurement(
            case=case,
            server=source.description,
            delay_ms=delay_ms,
            contender=contender.name,
            repetition=repetition,
            concurrency=concurrency,
            objects=len(rows.bodies) or rows.count,
            seconds=usage.seconds,
            cpu_seconds=usage.cpu_seconds,
            peak_rss_mb=usage.peak_rss_mb,
            requests=_difference(counts, _counts(source, destination)),
        )
        if complete:
            check(rows, source, destination, headers=contender.keeps_headers)
        self.results.measurements.append(measured)
        self.results.write(self.results_file)
        objects = max(1, measured.objects)
        print(
            f"{case:24} {source.description:16} {delay_ms:3} ms  {contender.name:26} {usage.seconds:8.2f} s"
            f" {objects / usage.seconds:8.0f} objects/s {usage.cpu_seconds / objects * 1000:7.3f} CPU"
            f" s/1,000 {usage.peak_rss_mb:7.0f} MB",
            flush=True,
        )
        return measured


def _counts(source: Server, destination: Server) -> dict[str, dict[str, int]] | None:
    if not source.kind.counts_requests:
        return None
    return {"source": source.counts(), "destination": destination.counts()}


def _difference(
    before: Mapping[str, Mapping[str, int]] | None, after: Mapping[str, Mapping[str, int]] | None
) -> dict[str, dict[str, int]] | None:
    if before is None or after is None:
        return None
    return {
        storage: {
            kind: count - before[storage][kind] for kind, count in counts.items() if count != before[storage][kind]
        }
        for storage, counts in after.items()
    }


def check(rows: Rows, source: Server, destination: Server, *, headers: bool = True) -> None:
    """Make sure that a destination has all objects, with the sizes and ETags of the source, and their headers.

    Raises:
        NotCopiedError: It does not.
    """
    there, here = (dict(_listing(storage)) for storage in (destination, source))
    for body in rows.bodies:
        found = there.get(body.key)
        if found is None or found[0] != body.size or (not body.is_large and found != here[body.key]):
            raise NotCopiedError(f"{body.key} is {found} at the destination, {here[body.key]} at the source")
    if not headers:
        return
    store = destination.store()
    for body in itertools.islice(rows.bodies, 0, None, _LOOKED_AT):
        attributes = obstore.get(store, body.key).attributes
        if not body.attributes().items() <= attributes.items():
            raise NotCopiedError(f"{body.key} has lost headers: it has {attributes}, not {body.attributes()}")


def _listing(storage: Server) -> Iterator[tuple[str, tuple[int, str | None]]]:
    for page in obstore.list(storage.store(), chunk_size=1000):
        for entry in page:
            yield entry["path"], (entry["size"], entry["e_tag"])
