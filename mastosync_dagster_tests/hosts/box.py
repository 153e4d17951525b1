"""A machine with everything that docs/deploy.md sets up, and an instance whose media come at a set pace."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.hosts.limits import start
from benchmarks.hosts.machine import Machine, machine
from benchmarks.site import Site, site
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster_tests.support.graphql import Webserver

RANGES, RANGE_OBJECTS = 4, 3_000
PER_SECOND = 100
"""Objects: a range takes half a minute, on a fast machine too."""
UNITS = ("mastosync-code", "mastosync-daemon", "mastosync-webserver")
_STATS = """
query { assetNodeOrError(assetKey: {path: ["media_attachments"]}) {
  ... on AssetNode { partitionStats { numMaterialized numPartitions numFailed } }
} }
"""
_RUNS = "query { runsOrError(limit: 100) { ... on Runs { results { runId status jobName } } } }"


@dataclass(frozen=True)
class Box:
    """The machine, its UI and the servers beside it."""

    machine: Machine
    webserver: Webserver
    site: Site

    def copied(self) -> int:
        """Return how many objects have come to the destination."""
        return self.site.destination.counts()["PUT"]

    def wait_for_copies(self, more: int = 200, seconds: float = 120) -> None:
        """Wait until so many more objects have been copied."""
        aim = self.copied() + more
        wait_until(lambda: self.copied() >= aim, seconds)

    def materialized(self) -> int:
        """Return how many ID ranges are materialized."""
        stats = self.webserver.query(_STATS, {})["assetNodeOrError"]["partitionStats"]
        return int(stats["numMaterialized"])

    def statuses(self) -> dict[str, str]:
        """Return the status of each run, newest first."""
        runs = self.webserver.query(_RUNS, {})["runsOrError"]["results"]
        return {run["runId"]: run["status"] for run in runs}

    def wait_for_ranges(self, seconds: float = 900) -> None:
        """Wait until every ID range is materialized."""

        def all_are() -> bool:
            time.sleep(2)
            return self.materialized() == RANGES

        wait_until(all_are, seconds)

    def wait_for_ui(self) -> None:
        """Wait until the webserver answers, and knows the definitions."""

        def answers() -> bool:
            try:
                return self.materialized() >= 0
            except (OSError, KeyError, TypeError, AssertionError):
                time.sleep(0.5)
                return False

        wait_until(answers, 120)


@contextlib.contextmanager
def make_box(opt: Path, memory_mb: int = 1024, **settings: str) -> Iterator[Box]:
    """Set up a machine until the block ends."""
    with site(RANGES * RANGE_OBJECTS, small=True) as instance, machine(opt, memory_mb) as made:
        pace = {
            "MASTOSYNC_ROWS_PER_PARTITION": str(RANGE_OBJECTS // 2),
            "MASTOSYNC_SOURCE_REQUESTS_PER_SECOND": str(PER_SECOND),
        }
        box = Box(made, start(made, instance, settings={**pace, **settings}), instance)
        box.wait_for_ui()
        yield box
