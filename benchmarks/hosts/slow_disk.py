"""What a disk that takes 30 ms for each sync costs a small run."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.hosts.installed import programs
from benchmarks.native import build

if TYPE_CHECKING:
    from benchmarks.site import Site

SYNC_MS = 30


@dataclass(frozen=True)
class SlowDisk:
    """What became of two syncs of the same objects.

    Attributes:
        home: Whether the home was new or had been used.
        syncs: How often the run had the disk store what it had written.
        fast: Seconds on a disk that takes none for it.
        slow: Seconds on one that takes 30 ms each time.
    """

    home: str
    objects: int
    syncs: int
    fast: float
    slow: float

    @property
    def is_good(self) -> bool:
        """Whether the slow disk costs two seconds at the most."""
        return self.syncs * SYNC_MS / 1000 <= 2.0  # noqa: PLR2004  (what is promised)

    def __str__(self) -> str:
        """Return a line about it."""
        return (
            f"sync of {self.objects} objects in a {self.home} home: {self.syncs} syncs of the disk,"
            f" {self.syncs * SYNC_MS / 1000:.1f} s at {SYNC_MS} ms; {self.slow:.1f} s in place of {self.fast:.1f} s"
        )


def slow_disk(site: Site, objects: int) -> list[SlowDisk]:
    """Sync all objects into a new home and a used one, on a disk whose syncs take no time and one where they do."""
    library = build("slow_sync", site.folder / "bin")
    seconds: dict[tuple[str, int], float] = {}
    counts: dict[str, int] = {}
    for milliseconds in (0, SYNC_MS):
        home = site.folder / f"home-{milliseconds}"
        subprocess.run(
            [str(programs() / "mastosync"), "init", str(home), "--no-input"], check=True, stdout=subprocess.DEVNULL
        )
        for age in ("new", "used"):
            count = site.folder / f"{age}-{milliseconds}"
            variables = {
                "DAGSTER_HOME": str(home),
                # What is at the destination is copied again.
                "DESTINATION_S3_KEY_PREFIX": f"{age}-{milliseconds}",
                "LD_PRELOAD": str(library),
                "SLOW_SYNC_MS": str(milliseconds),
                "SLOW_SYNC_COUNT": str(count),
            }
            begun = time.monotonic()
            command = [str(programs() / "mastosync"), "sync", "media_attachments"]
            subprocess.run(command, env={**os.environ, **variables}, check=True, capture_output=True)
            seconds[age, milliseconds] = time.monotonic() - begun
            counts[age] = count.stat().st_size
    return [SlowDisk(age, objects, counts[age], seconds[age, 0], seconds[age, SYNC_MS]) for age in ("new", "used")]
