"""Between plan and copy: what is to be overwritten is checked once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.copy.object_copier import WRITTEN_MEANWHILE
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.transfers import Transfer, line

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster_tests.support.corners import Bucket

KEY = "accounts/avatars/1/original/a.png"
PLANNED, DAMAGED = b"body", b"damaged"


@pytest.fixture
def transfer(tmp_path: Path, source_bucket: Bucket, destination_bucket: Bucket) -> Transfer:
    made = Transfer(tmp_path, source_bucket, destination_bucket)
    made.put(KEY, PLANNED)
    destination_bucket.client.put_object(Bucket=destination_bucket.name, Key=KEY, Body=DAMAGED)
    return made


def planned(there: bytes = DAMAGED) -> dict[str, object]:
    etag = line(KEY, there).etag
    return {"there_size": len(there), "there_etag": etag}


def test_what_is_as_it_was_planned_is_overwritten(transfer: Transfer) -> None:
    _, (recorded,) = transfer.run(line(KEY, PLANNED, **planned()))
    assert (recorded.outcome, transfer.fetched(KEY)) == (Outcome.COPIED, PLANNED)


@pytest.mark.parametrize("written", [b"written", b"converted there"])
def test_what_was_written_at_the_destination_since_the_plan_stays(transfer: Transfer, written: bytes) -> None:
    transfer.destination.client.put_object(Bucket=transfer.destination.name, Key=KEY, Body=written)
    _, (recorded,) = transfer.run(line(KEY, PLANNED, **planned()))
    assert (recorded.outcome, recorded.reason, recorded.detail) == (
        Outcome.FAILED,
        Reason.CHANGED_DURING_COPY,
        WRITTEN_MEANWHILE,
    )
    assert transfer.fetched(KEY) == written


@pytest.mark.parametrize("rotten", [b"bodi", b"bod"])
def test_other_bytes_than_were_planned_are_not_written_over_anything(transfer: Transfer, rotten: bytes) -> None:
    transfer.put(KEY, rotten)
    _, (recorded,) = transfer.run(line(KEY, PLANNED, **planned()))
    assert (recorded.outcome, recorded.reason) == (Outcome.FAILED, Reason.CHANGED_DURING_COPY)
    assert transfer.fetched(KEY) == DAMAGED


@pytest.mark.parametrize("key", ["media_attachments/files/1/original/0123456789abcdef.mp4", KEY])
@pytest.mark.parametrize("size", [1_000, 30_000_000])
def test_what_was_absent_is_asked_for_where_its_content_may_be_another_by_now(
    transfer: Transfer, key: str, size: int
) -> None:
    raw = bytes(size)
    lines = [transfer.put(name, raw) for name in (key, f"copied/{key}", f"absent/{key}")]
    transfer.destination.client.put_object(Bucket=transfer.destination.name, Key=key, Body=b"converted there")
    transfer.destination.client.put_object(Bucket=transfer.destination.name, Key=f"copied/{key}", Body=raw)
    _, recorded = transfer.run(*lines)
    assert {each.key: (each.outcome, each.detail) for each in recorded} == {
        key: (Outcome.FAILED, WRITTEN_MEANWHILE),
        f"copied/{key}": (Outcome.PRESENT, None),
        f"absent/{key}": (Outcome.COPIED, None),
    }
    assert transfer.fetched(key) == b"converted there"
