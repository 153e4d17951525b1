"""Half an hour of runs with faults: neither memory nor descriptors grow."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest

from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster_tests.faults.scenarios import MIXED
from mastosync_dagster_tests.support.corners import create_bucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from mastosync_dagster_tests.faults.world import FaultyInstallation, Original

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
MIB = 1024 * 1024
MOST = 0.9
"""The share of the objects that every run copies at least. Hardly a run has none that fails, under this mix."""


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_memory_and_descriptors_stay_flat(
    thousand: Original,
    make_world: Callable[[Original], FaultyInstallation],
    report: Callable[[object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = make_world(thousand)
    world.source_proxy.set_rules(*MIXED.source)
    world.destination_proxy.set_rules(*MIXED.destination)
    process = psutil.Process()
    started = printed = time.monotonic()
    resident: list[float] = []
    descriptors: list[int] = []
    succeeded = 0
    copied: list[int] = []
    while not resident or time.monotonic() - started < MINUTES * 60:
        destination = create_bucket(world.destination.server)
        monkeypatch.setenv("DESTINATION_S3_BUCKET", destination.name)
        succeeded += replace(world, destination=destination).run().success
        copied.append(len(list_keys(destination.server, destination.name)))
        # What the proxies remember of requests is the test's own.
        world.source_proxy.forget()
        world.destination_proxy.forget()
        world.source_proxy.set_rules(*MIXED.source)
        world.destination_proxy.set_rules(*MIXED.destination)
        resident.append(process.memory_info().rss / MIB)
        descriptors.append(process.num_fds())
        if time.monotonic() - printed >= 60 or len(resident) == 1:
            printed = time.monotonic()
            injected = world.source_proxy.injected + world.destination_proxy.injected
            report(
                f"{(printed - started) / 60:5.1f} min {len(resident):>4} runs ({succeeded} without a failure)"
                f" {injected:>6,} faults"
                f" {resident[-1]:>6.0f} MB {descriptors[-1]:>4} descriptors"
            )
    # Or nothing would have been tried.
    objects = len(world.original.expected)
    assert min(copied) >= objects * MOST, copied
    third = max(1, len(resident) // 3)
    # The first third fills caches and pools.
    assert max(resident[-third:]) <= max(resident[:third]) * 1.15 + 20, resident
    assert max(descriptors[-third:]) <= max(descriptors[:third]) + 20, descriptors
