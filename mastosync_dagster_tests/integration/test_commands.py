"""The ``mastosync`` command against real servers: what it prints, and its exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster_tests.support.installation import Installation


def test_ranges_registers_and_prints_them_and_a_second_call_adds_none(world: Installation) -> None:
    outcome = CliRunner().invoke(main, ["ranges", "--all", "accounts"])
    keys = world.dagster.get_dynamic_partitions(FileType.ACCOUNTS.partitions_name)
    assert outcome.exit_code == 0
    assert outcome.output.splitlines() == [
        f"accounts: {len(keys)} ranges, {len(keys)} of them new: {keys[0]} to {keys[-1]}",
        *(f"  {key}  new" for key in keys),
    ]
    assert len(keys) > 1

    again = CliRunner().invoke(main, ["ranges", "accounts"])
    # A large instance has thousands: a summary, unless all are wanted.
    assert again.output.splitlines() == [f"accounts: {len(keys)} ranges, 0 of them new: {keys[0]} to {keys[-1]}"]
    assert world.dagster.get_dynamic_partitions(FileType.ACCOUNTS.partitions_name) == keys


def test_sync_copies_whole_tables_and_ends_with_a_table(world: Installation) -> None:
    outcome = CliRunner().invoke(main, ["sync", "custom_emojis"])
    assert outcome.exit_code == 0, outcome.output
    assert world.compare("custom_emojis").differences == ()
    copied, lost = len(world.instance.objects_of("custom_emojis")), len(world.instance.missing_of("custom_emojis"))
    row = next(line for line in outcome.output.splitlines() if "│ custom_emojis" in line)
    assert row.split("│")[1:-2] == [
        " custom_emojis ",
        *(f" {count:>{width}} " for count, width in ((copied + lost, 7), (copied, 6), (0, 7), (lost, 7), (0, 6))),
    ]


def test_sync_ends_with_status_1_and_the_reason_where_an_object_fails(world: Installation) -> None:
    world.source_proxy.set_rules(Rule(Answer(403, "InvalidObjectState"), kinds=frozenset({Kind.GET}), times=1))
    outcome = CliRunner().invoke(main, ["sync", "custom_emojis"])
    assert outcome.exit_code == 1
    assert "1 of " in outcome.output
    assert "objects failed (1 object_archived)" in " ".join(outcome.output.split())
    assert "│ custom_emojis" in outcome.output
    assert "1 failed: `mastosync report` lists them" in outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize(
    ("home", "says"), [("relative", "must be an absolute path"), ("{tmp_path}/absent", "there is no dagster.yaml")]
)
def test_a_dagster_home_that_is_none_is_said_in_a_sentence(
    home: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", home.format(tmp_path=tmp_path))
    outcome = CliRunner().invoke(main, ["ranges"])
    assert outcome.exit_code == 1
    assert outcome.output.replace("$", "").startswith("Error: DAGSTER_HOME")
    assert says in outcome.output
