"""An incremental run over a table of a million rows of which few have changed: what it reads, asks and takes."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import dagster as dg
import psycopg2
import pytest

from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.watermarks import DESTINATION, EVERY_ROW, WATERMARK
from mastosync_dagster_tests.support.proxy import Kind

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.installation import Installation

pytestmark = pytest.mark.long

ROWS = 1_000_000
CHANGED = 500
FIRST = 110_000_000_000_000_000
STEP = 65_536_000

_INSERT = """
INSERT INTO accounts (id, username, domain, created_at, updated_at,
    avatar_file_name, avatar_content_type, avatar_updated_at, header_file_name, header_content_type, header_updated_at)
SELECT %(first)s + n::bigint * %(step)s, 'many' || n, NULL, '2024-01-01', '2024-01-01',
    'a.png', 'image/png', '2024-01-01', 'h.png', 'image/png', '2024-01-01'
FROM generate_series(0, %(rows)s - 1) AS n
"""
_CHANGE = """
UPDATE accounts SET avatar_file_name = '0123456789abcdef.png', avatar_updated_at = %(at)s
WHERE id IN (SELECT %(first)s + n::bigint * %(step)s FROM generate_series(0, %(rows)s - 1, %(rows)s / %(changed)s) AS n)
RETURNING id
"""
_READ = "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables WHERE relname = 'accounts'"


def rows_read(world: Installation, at_least: int = 0) -> int:
    """Return how many rows of the table PostgreSQL has read so far, when its statistics have come to rest."""
    deadline = time.monotonic() + 30
    before = -1
    while True:
        with contextlib.closing(psycopg2.connect(world.database.url)) as connection, connection.cursor() as cursor:
            cursor.execute(_READ)
            ((read,),) = cursor.fetchall()
        if before == read >= at_least:
            return int(read)
        assert time.monotonic() < deadline, (read, at_least)
        before = read
        time.sleep(0.5)


@pytest.mark.long(cases=0)
@pytest.mark.timeout(300)
def test_few_changed_rows_of_many_cost_one_pass_and_two_requests_an_object(world: Installation) -> None:
    now = datetime.now(timezone.utc)
    numbers = {"first": FIRST, "step": STEP, "rows": ROWS, "changed": CHANGED}
    with contextlib.closing(psycopg2.connect(world.database.url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(_INSERT, numbers)
            cursor.execute(_CHANGE, {**numbers, "at": (now - timedelta(hours=1)).replace(tzinfo=None)})
            ids = [row_id for (row_id,) in cursor.fetchall()]
            cursor.execute("VACUUM ANALYZE accounts")
    assert len(ids) == CHANGED
    keys = set()
    for row_id in ids:
        digits = f"{row_id:018d}"
        folders = "/".join(digits[at : at + 3] for at in range(0, 18, 3))
        keys.add(f"accounts/avatars/{folders}/original/0123456789abcdef.png")
    for key in keys:
        world.source.client.put_object(Bucket=world.source.name, Key=key, Body=key.encode())
    # As the run of the night before has noted it.
    world.dagster.report_runless_asset_event(
        dg.AssetObservation(
            "accounts",
            metadata={
                WATERMARK: dg.MetadataValue.timestamp(now - timedelta(hours=24)),
                DESTINATION: S3Bucket.destination().settings().identity,
                EVERY_ROW: dg.MetadataValue.bool(True),
            },
        )
    )
    read_before = rows_read(world)
    world.forget()

    started = time.monotonic()
    config = {"ops": {"plan_changes": {"config": {"file_types": ["accounts"], "changed_since": "last"}}}}
    result = world.run("sync_changes", config=config)
    seconds = time.monotonic() - started

    assert result.success
    assert world.requests() == {Kind.GET: CHANGED, Kind.PUT: CHANGED}
    # Beside them the bucket alone is asked: for its clock.
    assert {request.key for request in world.destination_proxy.requests if request.key} == keys
    read = rows_read(world, at_least=read_before + ROWS) - read_before
    assert ROWS <= read <= ROWS * 1.01
    assert seconds < 60
