"""A home that copies to two destinations: what runs into one of them have left says nothing about the other."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.ranges.partitions import FileType, parse_range
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.installation import metadata_of
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule
from mastosync_dagster_tests.support.reporting import report, status

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.installation import Installation

pytestmark = pytest.mark.long

ACCOUNTS = FileType.ACCOUNTS
STATES = MATERIALIZED, FAILED, _, NOT_RUN = "materialized", "failed", "running", "not_run"


class Two:
    """Two destinations at one server, and the two ID ranges of the accounts."""

    def __init__(self, world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self._monkeypatch = world, monkeypatch
        self.first, self.second = world.destination.name, create_bucket(world.destination.server).name
        self.keys = world.register(ACCOUNTS)[ACCOUNTS]
        # Of the first range, the last object: its run copies the others.
        ids = parse_range(self.keys[0])
        *_, self._object = (each for each in world.instance.objects_of("accounts") if ids.lo <= each.row_id <= ids.hi)

    def use(self, bucket: str) -> None:
        self._monkeypatch.setenv("DESTINATION_S3_BUCKET", bucket)

    def lose(self, bucket: str) -> None:
        """Delete the object that may fail, so that a sync copies it again."""
        self.world.destination.client.delete_object(Bucket=bucket, Key=self._object.key)

    def sync(self, bucket: str, number: int = 0, *, fails: bool = False) -> str:
        """Run a range into a bucket; return what the asset's page says of all ranges."""
        self.use(bucket)
        refused = Rule(
            Answer(403, "InvalidObjectState"),
            kinds=frozenset({Kind.GET}),
            key=f"^{re.escape(self._object.source_key)}$",
        )
        self.world.source_proxy.set_rules(*([refused] if fails else []))
        result = self.world.run("sync_accounts", self.keys[number])
        assert result.success is not fails
        return "" if fails else str(metadata_of(result, "accounts")["all ID ranges"])

    def states(self, bucket: str) -> dict[str, int]:
        """Return how many ranges are in each state, as the status of a bucket shows them."""
        self.use(bucket)
        found = status(ACCOUNTS.value)
        return {name: int(str(found[name])) for name in STATES if found[name]}

    def failed(self, bucket: str) -> int:
        """Return how many objects have failed, as the report of a bucket says."""
        self.use(bucket)
        counted: int = json.loads(report("accounts", "--format", "json"))["totals"]["accounts"]["failed"]
        return counted


@pytest.fixture
def two(world: Installation, monkeypatch: pytest.MonkeyPatch) -> Two:
    return Two(world, monkeypatch)


def test_a_failure_into_another_destination_is_not_one_into_this(two: Two) -> None:
    two.sync(two.first)
    two.sync(two.second, fails=True)
    # The asset's page too is about the destination of its run.
    assert "have failed" not in two.sync(two.first, 1)
    assert (two.states(two.first), two.failed(two.first)) == ({MATERIALIZED: 2}, 0)
    assert (two.states(two.second), two.failed(two.second)) == ({FAILED: 1, NOT_RUN: 1}, 1)
    assert "have failed: 1" in two.sync(two.second, 1)
    assert (two.states("nope"), two.failed("nope")) == ({NOT_RUN: 2}, 0)


def test_nor_does_a_good_run_into_another_one_mend_anything_here(two: Two) -> None:
    two.sync(two.first, fails=True)
    two.sync(two.second)
    assert (two.states(two.second), two.failed(two.second)) == ({MATERIALIZED: 1, NOT_RUN: 1}, 0)
    # The history has the newest materialization of a range alone: to run it again is right, and harmless.
    assert (two.states(two.first), two.failed(two.first)) == ({NOT_RUN: 2}, 1)


def test_a_failure_into_both_is_one_into_each(two: Two) -> None:
    two.sync(two.first)
    two.lose(two.first)
    two.sync(two.first, fails=True)
    two.sync(two.second, fails=True)
    for bucket in (two.first, two.second):
        assert (two.states(bucket), two.failed(bucket)) == ({FAILED: 1, NOT_RUN: 1}, 1)


def test_a_run_that_has_ended_without_a_word_about_its_destination_counts_as_failed(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.sync(two.first)
    two.sync(two.second, fails=True)
    two.use(two.first)
    with monkeypatch.context() as patch:
        patch.setenv("DATABASE_URL", "postgresql://nobody:x@127.0.0.1:1/none")
        assert not two.world.run("sync_accounts", two.keys[0]).success
    assert two.states(two.first) == {FAILED: 1, NOT_RUN: 1}
