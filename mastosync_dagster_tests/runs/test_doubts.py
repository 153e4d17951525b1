"""Whose doubt lists a run replaces: asked of the history in few queries, however many lists there are."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import dagster as dg
import pytest
from dagster._core.utils import make_new_run_id

from mastosync_dagster.records.store import StoredManifest
from mastosync_dagster.runs.doubts import _ended
from mastosync_dagster_tests.support.history_queries import counted_queries

NOW = datetime.now(timezone.utc)


def listed(instance: dg.DagsterInstance, status: dg.DagsterRunStatus | None, age: timedelta) -> StoredManifest:
    """Return a list of a run with a status; None: the history does not know the run."""
    run_id = make_new_run_id()
    if status is not None:
        instance.add_run(dg.DagsterRun("sync_accounts", run_id, status=status))
    return StoredManifest("doubts_accounts", "0-9", NOW - age, run_id)


def test_the_lists_of_runs_that_have_ended_are_replaced(instance: dg.DagsterInstance) -> None:
    new, old = timedelta(), timedelta(days=2)
    ended = [
        listed(instance, dg.DagsterRunStatus.SUCCESS, new),
        listed(instance, dg.DagsterRunStatus.FAILURE, new),
        listed(instance, None, old),
    ]
    others = [listed(instance, None, new), listed(instance, dg.DagsterRunStatus.STARTED, old)]
    assert list(_ended(instance, [*others, *ended])) == ended


@pytest.mark.parametrize("lists", [1, 60])
def test_many_lists_take_one_query(instance: dg.DagsterInstance, lists: int) -> None:
    files = [listed(instance, dg.DagsterRunStatus.SUCCESS, timedelta()) for _ in range(lists)]
    with counted_queries() as queries:
        assert list(_ended(instance, files)) == files
    assert len([query for query in queries if "FROM runs" in query]) == 1
