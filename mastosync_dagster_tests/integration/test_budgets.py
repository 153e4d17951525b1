"""A run that stops at its budget: what it has not reached is on record as that, and the same command goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.ranges.partitions import FileType, parse_range
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.private_media import newest
from mastosync_dagster_tests.support.proxy import Kind
from mastosync_dagster_tests.support.reporting import status

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster_tests.support.installation import Installation
    from mastosync_dagster_tests.support.life import Life

MEDIA = FileType.MEDIA_ATTACHMENTS
PRICES = "near: {list: 0, put: 1, get: 0, egress: 0, month: 0}\n"
DOLLARS = ("--max-dollars", "0.0505", "--from", "near", "--to", "near", "--prices")


def sync(*options: str) -> tuple[int, str]:
    outcome = CliRunner().invoke(main, ["sync", MEDIA.value, *options])
    assert "Traceback" not in outcome.output
    return outcome.exit_code, outcome.output


def there(world: Installation) -> set[str]:
    return set(list_keys(world.destination.server, world.destination.name))


def not_attempted(lines: Sequence[ManifestLine]) -> set[str]:
    left = {line.key for line in lines if line.reason is Reason.NOT_ATTEMPTED}
    assert left == {line.key for line in lines if line.outcome is Outcome.FAILED}
    return left


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("limited", ["bytes", "dollars"])
def test_a_sync_stops_at_its_budget_and_the_same_command_without_one_goes_on(
    world: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limited: str
) -> None:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "5")
    keys = world.register(MEDIA)[MEDIA]
    sizes = {each.key: each.size for each in world.instance.objects_of(MEDIA)}
    # The largest, an upload in parts, is larger than all others together.
    *others, largest = sorted(sizes.values())
    most = sum(others) // 2
    (tmp_path / "prices.yaml").write_text(PRICES)
    options = {"bytes": ("--max-gigabytes", f"{most / 1e9:.9f}"), "dollars": (*DOLLARS, str(tmp_path / "prices.yaml"))}
    # One after the other, so that ranges come to their end.
    code, output = sync("--concurrency", "1", *options[limited])
    assert code == 1
    assert "the run has copied what it may" in output
    assert "a further run takes the rest" in output
    copied = there(world)
    if limited == "dollars":
        writes = [each for each in world.destination_proxy.requests if each.method in {"PUT", "POST"} and each.key]
        assert 40 < sum(each.key in sizes for each in writes) <= 50
    else:
        assert most - others[-1] < sum(sizes[key] for key in copied) <= most < largest

    lines = newest(world, "sync_changes")
    left = not_attempted(lines)
    assert left == sizes.keys() - copied
    row = next(line for line in output.splitlines() if f"│ {MEDIA.value}" in line)
    assert [cell.strip() for cell in row.split("│")[-4:-2]] == ["0", f"{len(left):,}"]
    # Ranges are done where nothing is left, and no night takes the others for done.
    undone = {key for key in keys for line in lines if line.key in left and _holds(key, line.row_id)}
    assert set() < undone < set(keys)
    done = world.dagster.get_materialized_partitions(dg.AssetKey(MEDIA.value))
    assert done == set(keys) - undone
    shown = status(MEDIA.value)
    assert shown["watermark"] is None
    assert (shown["materialized"], shown["ranges"]) == (len(done), len(keys))
    assert int(str(shown["objects_left"])) >= len(left)

    world.forget()
    if limited == "bytes":
        # Larger than the whole budget: the others are copied, and it would be left by every such run.
        code, output = sync("--max-gigabytes", f"{(largest - 1) / 1e9:.9f}")
        assert code == 1
        assert "1 not_attempted" in output
        assert "raise max_gigabytes or max_dollars" in output
        assert {key for key in sizes if sizes[key] == largest} == not_attempted(newest(world, "sync_changes"))
    code, output = sync()
    assert code == 0, output
    assert world.compare(MEDIA).differences == ()
    begun = [each.key for each in world.destination_proxy.requests if each.kind in {Kind.PUT, Kind.CREATE_UPLOAD}]
    assert sorted(key for key in begun if key in sizes) == sorted(left)
    shown = status(MEDIA.value)
    assert shown["watermark"] is not None
    assert (shown["materialized"], shown["objects_left"]) == (len(keys), 0)


def _holds(key: str, row_id: int) -> bool:
    ids = parse_range(key)
    return ids.lo <= row_id <= ids.hi


@pytest.mark.long
def test_a_night_that_stops_at_its_budget_moves_no_watermark(life: Life) -> None:
    world, living = life.world, life.living
    assert sync()[0] == 0
    before = life.watermarks()
    life.day()
    new = {living.original(living.post_picture()) for _ in range(5)}
    code, output = sync("--changed-since", "last", "--concurrency", "1", "--max-gigabytes", "0.000004")
    assert code == 1, output
    assert life.watermarks() == before
    left = not_attempted(newest(world, "sync_changes"))
    assert left
    assert left == {key for key in living.expected if key.startswith(MEDIA.value)} - there(world)

    code, output = sync("--changed-since", "last")
    assert code == 0, output
    assert new <= there(world)
    assert life.watermarks()[MEDIA.value] > before[MEDIA.value]


@pytest.mark.long
@pytest.mark.parametrize("in_config", [True, False])
def test_a_range_whose_run_has_stopped_at_its_budget_is_not_done(
    world: Installation, monkeypatch: pytest.MonkeyPatch, *, in_config: bool
) -> None:
    key = world.register(MEDIA)[MEDIA][0]
    config = {"ops": {MEDIA.value: {"ops": {"copy": {"config": {"max_gigabytes": 0.00001}}}}}}
    if not in_config:
        monkeypatch.setenv("MASTOSYNC_MAX_GIGABYTES", "0.00001")
    stopped = world.run(f"sync_{MEDIA.value}", key, config if in_config else None)
    assert "a further run takes the rest" in failure_of(stopped)
    assert world.dagster.get_materialized_partitions(dg.AssetKey(MEDIA.value)) == set()
    monkeypatch.delenv("MASTOSYNC_MAX_GIGABYTES", raising=False)
    shown = status(MEDIA.value)
    assert (shown["materialized"], shown["failed"]) == (0, 1)
    before = there(world)
    world.forget()
    assert world.run(f"sync_{MEDIA.value}", key).success
    written = {request.key for request in world.destination_proxy.requests if request.kind is Kind.PUT}
    assert written & before == set()
    assert status(MEDIA.value)["materialized"] == 1
