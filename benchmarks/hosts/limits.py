"""Whether mastosync holds in little memory, as docs/deploy.md has it set up and with nothing else set."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.hosts.cgroup import Watched
from benchmarks.hosts.machine import Machine, machine
from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster_tests.support.graphql import Webserver
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.site import Site

SERVICES = ("mastosync-code", "mastosync-daemon")
UI = "mastosync-webserver"
_KEYS = """
query { assetNodeOrError(assetKey: {path: ["media_attachments"]}) { ... on AssetNode { partitionKeys } } }
"""
_ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
_BACKFILL_SECONDS = 3 * 3600.0
_READY_SECONDS = 180.0


@dataclass(frozen=True)
class Outcome:
    """What has become of a case.

    Attributes:
        what: What was done.
        memory_mb: The machine's.
        most_mb: The most that was in use, without what the kernel can drop.
        kills: Processes that the kernel has killed for memory.
        copied: Objects that have come to the destination.
        wrong: What is not as it must be; empty: all is.
    """

    what: str
    memory_mb: int
    most_mb: float
    kills: int
    copied: int
    seconds: float
    wrong: str = ""

    @property
    def text(self) -> str:
        """What a page says of it."""
        killed = "the kernel killed nothing" if not self.kills else f"the kernel killed {self.kills} processes"
        return f"{self.what}: {self.copied:,} objects, {self.most_mb:,.0f} MB in use at most, {killed}"

    def __str__(self) -> str:
        """Return a line about it."""
        return f"{self.memory_mb} MB, {self.text}, {self.seconds:,.0f} s: {self.wrong or 'good'}"


def start(made: Machine, site: Site, *, ui: bool = True, settings: Mapping[str, str] | None = None) -> Webserver:
    """Make home and units in a machine, register the ID ranges, and start the services."""
    port = free_port()
    made.install({**site.settings(), **(settings or {})}, "--port", str(port))
    made.mastosync("ranges", "media_attachments")
    made.run("systemctl", "enable", "--now", *SERVICES, *([UI] if ui else []))
    webserver = Webserver(f"http://127.0.0.1:{port}")
    if ui:
        wait_until(webserver.answers, _READY_SECONDS)
    return webserver


def ranges(webserver: Webserver) -> list[str]:
    """Return the registered ID ranges of media attachments."""
    keys: list[str] = webserver.query(_KEYS, {})["assetNodeOrError"]["partitionKeys"]
    return keys


def backfill(opt: Path, site: Site, memory_mb: int = 1024) -> Outcome:
    """Run webserver, daemon, code server and a backfill of all ranges."""
    before = site.destination.counts()["PUT"]
    with machine(opt, memory_mb) as made:
        webserver = start(made, site)
        keys = ranges(webserver)
        with Watched(made.cgroup.memory_mb) as watched:
            begun = time.monotonic()
            launched = webserver.launch_backfill("media_attachments", keys)

            def ended() -> bool:
                runs = webserver.runs_of_backfill(launched)
                time.sleep(2)
                return len({run.partition for run in runs if run.status == "SUCCESS"}) == len(keys) or (
                    len(runs) >= len(keys) and all(run.status in _ENDED for run in runs)
                )

            wait_until(ended, _BACKFILL_SECONDS)
            seconds = time.monotonic() - begun
        runs = Counter(run.status for run in webserver.runs_of_backfill(launched))
        wrong = "" if runs == {"SUCCESS": len(keys)} else f"runs: {dict(runs)}"
        copied = site.destination.counts()["PUT"] - before
        what = f"code server, daemon, webserver and a backfill of {len(keys)} ranges"
        return Outcome(what, memory_mb, watched.most_mb, made.cgroup.kills(), copied, seconds, wrong)


def command(opt: Path, site: Site, memory_mb: int, *arguments: str) -> Outcome:
    """Run one command in a new home without services; it copies to a prefix of its own."""
    before = site.destination.counts()["PUT"]
    with machine(opt, memory_mb) as made:
        made.install({**site.settings(), "DESTINATION_S3_KEY_PREFIX": f"under-{memory_mb}"})
        with Watched(made.cgroup.memory_mb) as watched:
            begun = time.monotonic()
            ended = made.mastosync(*arguments, check=False)
            seconds = time.monotonic() - begun
        wrong = "" if ended.returncode == 0 else f"status {ended.returncode}: {ended.stderr.strip()[-300:]}"
        copied = site.destination.counts()["PUT"] - before
        what = f"`mastosync {' '.join(arguments)}`"
        return Outcome(what, memory_mb, watched.most_mb, made.cgroup.kills(), copied, seconds, wrong)
