"""Where incremental runs go on, what moves their watermark and what does not, and what they ask for."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.expected.policy import EVERYTHING
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.watermarks import (
    OVERLAP,
    earlier_read_until_tag,
    furthest_runs,
    read_until_tag,
    read_until_tags,
    watermark,
)
from mastosync_dagster.sync.config import ChangesConfig
from mastosync_dagster.sync.incremental import History
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.life import MINUTE, Life
from mastosync_dagster_tests.support.proxy import Answer, Delay, Kind, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ACCOUNTS = FileType.ACCOUNTS
HOUR = timedelta(hours=1)


def changes(life: Life, config: Mapping[str, object], **resources: object) -> dg.ExecuteInProcessResult:
    """Run sync_changes over accounts."""
    run_config: dict[str, object] = {
        "ops": {"plan_changes": {"config": {"file_types": ["accounts"], **config}}},
        "resources": {name: {"config": value} for name, value in resources.items()},
    }
    return life.run("sync_changes", config=run_config)


def sync_changes_job() -> dg.JobDefinition:
    return build_definitions().resolve_job_def("sync_changes")


def accounts_that_differ(life: Life) -> list[str]:
    return [line for line in life.differences() if line.startswith("accounts/")]


def copy_accounts(life: Life) -> None:
    for key in life.world.register(ACCOUNTS)[ACCOUNTS]:
        assert life.run("sync_accounts", key).success


def test_the_first_one_goes_on_where_the_ranges_began_and_takes_the_tail(life: Life) -> None:
    living = life.living
    first, *others = life.world.register(ACCOUNTS)[ACCOUNTS]
    living.pass_time(HOUR)
    living.sign_up()  # after the registration and before the first range is read: in no range, and older than any read
    living.pass_time(HOUR)
    assert life.run("sync_accounts", first).success
    living.pass_time(HOUR)
    living.sign_up()
    for key in others:
        assert life.run("sync_accounts", key).success
    living.pass_time(HOUR)
    assert accounts_that_differ(life)

    assert changes(life, {"changed_since": "last"}).success

    assert accounts_that_differ(life) == []
    assert life.copied_too_often() == {}


@pytest.mark.long
def test_a_range_that_ends_after_an_incremental_run_and_was_read_before_it_leaves_no_gap(life: Life) -> None:
    (key,) = life.world.register(ACCOUNTS)[ACCOUNTS]
    source = life.world.source_proxy
    source.set_rules(Rule(Delay(5), kinds=frozenset({Kind.GET})))
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(life.run, "sync_accounts", key)
        while not source.count(Kind.GET):
            assert not slow.done()
            time.sleep(0.01)
        # It has read the rows by now.
        life.living.change_avatar(life.an_old_account())
        life.living.pass_time(HOUR)
        assert changes(life, {"changed_since": "last"}).success
        assert life.mark()
        assert not slow.done()
        assert slow.result().success
    source.set_rules()
    assert accounts_that_differ(life)
    life.living.pass_time(HOUR)

    assert changes(life, {"changed_since": "last"}).success

    assert not [line for line in accounts_that_differ(life) if "is not there" in line or "is another" in line]
    # Once is enough.
    life.living.pass_time(HOUR)
    life.world.forget()
    assert changes(life, {"changed_since": "last"}).success
    assert life.world.requests() == {}


def test_without_any_range_the_first_one_takes_every_row(life: Life) -> None:
    assert changes(life, {"changed_since": "last"}).success
    assert accounts_that_differ(life) == []
    found = watermark(life.world.dagster, ACCOUNTS, S3Bucket.destination().settings().identity)
    assert found is not None
    assert found.every_row


@pytest.mark.long(cases=0)
def test_rows_of_a_range_that_never_ran_are_its_own_business(life: Life) -> None:
    life.set_rows_per_partition(20)
    first, *others = life.world.register(ACCOUNTS)[ACCOUNTS]
    assert others
    assert life.run("sync_accounts", first).success
    life.living.pass_time(HOUR)
    assert changes(life, {"changed_since": "last"}).success
    assert accounts_that_differ(life)  # and Dagster shows those ranges as missing
    for key in others:
        assert life.run("sync_accounts", key).success
    assert accounts_that_differ(life) == []


@dataclass(frozen=True)
class Case:
    """A run after an incremental one.

    Attributes:
        name: For the message.
        config: Its config.
        since: ``changed_since``, from the watermark on; None: as in the config.
        moves: Whether it moves the watermark.
    """

    name: str
    config: Mapping[str, object]
    since: timedelta | None = None
    moves: bool = False


CASES = [
    Case("a limit", {"changed_since": "last", "limit": 1}),
    Case("a limit that leaves nothing out, which nobody knows before", {"limit": 1000}),
    Case("an offset", {"offset": 1}),
    Case("just after the watermark", {}, since=HOUR / 2),
    Case("another file type", {"changed_since": "last", "file_types": ["custom_emojis"]}),
    Case("the last incremental run", {"changed_since": "last"}, moves=True),
    Case("just before the watermark", {}, since=-HOUR, moves=True),
    Case("every row", {}, moves=True),
]


def test_a_run_moves_the_watermark_only_if_it_leaves_no_gap(life: Life) -> None:
    copy_accounts(life)
    assert changes(life, {"changed_since": "last"}).success
    before = life.mark()
    assert before is not None
    life.living.pass_time(HOUR)
    now, place = life.living.now, S3Bucket.destination().settings().identity
    history = History(life.world.dagster, place, now, EVERYTHING, now)
    for case in CASES:
        since = {} if case.since is None else {"changed_since": (before + case.since).isoformat()}
        config = ChangesConfig.model_validate({**case.config, **since})
        claims = [share.claim for share in config.shares(history, life.living.now)]
        assert any(claim and claim.table == "accounts" for claim in claims) is case.moves, case.name


def test_a_timestamp_that_an_admin_names_moves_nothing_before_the_first_one_since_the_tail_is_not_covered(
    life: Life,
) -> None:
    copy_accounts(life)
    assert changes(life, {"changed_since": "2020-01-01T00:00:00Z"}).success
    assert life.mark() is None


@pytest.mark.long
def test_a_failed_run_moves_nothing_and_the_next_one_takes_all_that_was_left(life: Life) -> None:
    copy_accounts(life)
    assert changes(life, {"changed_since": "last"}).success
    before = life.mark()
    living = life.day()
    folder = living.key("accounts", "header", living.sign_up(), "original", "")
    life.world.source_proxy.set_rules(Rule(Answer(400, "InvalidRequest"), key=folder))
    assert not changes(life, {"changed_since": "last"}).success
    assert life.mark() == before
    life.world.source_proxy.set_rules()
    living.pass_time(HOUR)
    assert changes(life, {"changed_since": "last"}).success
    assert accounts_that_differ(life) == []
    assert life.copied_too_often() == {}


def test_the_run_that_has_come_furthest_counts_and_not_the_one_that_ended_last(life: Life) -> None:
    copy_accounts(life)
    assert changes(life, {"changed_since": "last"}).success
    furthest = life.mark()
    assert furthest is not None
    # An earlier run that ends now: it notes the time at which it read.
    with life.world.dagster as dagster:
        (record,) = dagster.fetch_observations(dg.AssetKey("accounts"), limit=1).records
        observed = record.asset_observation
        assert observed is not None
        earlier = dg.MetadataValue.timestamp(furthest - 5 * HOUR)
        dagster.report_runless_asset_event(
            dg.AssetObservation("accounts", metadata={**observed.metadata, "watermark": earlier})
        )
        assert life.mark() == furthest


@pytest.mark.long(cases=0)
def test_a_run_into_another_bucket_says_nothing_about_this_one(life: Life) -> None:
    copy_accounts(life)
    life.world.destination.client.create_bucket(Bucket="for-a-trial")
    assert changes(life, {}, destination={"bucket": "for-a-trial"}).success
    assert life.mark() is None
    life.living.sign_up()
    assert changes(life, {"changed_since": "last"}).success
    assert accounts_that_differ(life) == []


@pytest.mark.long(cases=0)
def test_its_page_shows_what_it_did_and_how_far_it_came(life: Life) -> None:
    copy_accounts(life)
    assert changes(life, {"changed_since": "last"}).success
    before = life.mark()
    assert before is not None
    living = life.day()
    living.sign_up()
    result = changes(life, {"changed_since": "last"})
    (event,) = [event for event in result.all_events if event.is_asset_observation]
    metadata = event.asset_observation_data.asset_observation.metadata
    values = {name: value.value for name, value in metadata.items()}
    assert (values["objects"], values["copied"], values["failed"]) == (2, 2, 0)
    assert values["watermark"] == values["database_read_at"]
    assert values["changed_since"] == pytest.approx((before - OVERLAP).timestamp())
    (line,) = [
        log.user_message
        for log in life.world.dagster.all_logs(result.run_id)
        if "rows changed since" in log.user_message
    ]
    assert "the last incremental run" in line


@pytest.mark.long
def test_objects_that_a_run_may_have_copied_are_asked_for_and_only_those(life: Life) -> None:
    """A trial has copied a row that the watermark does not cover."""
    copy_accounts(life)
    assert changes(life, {"changed_since": "last"}).success
    before = life.mark()
    living = life.day()
    living.sign_up()
    assert changes(life, {"changed_since": "last", "limit": 1}).success
    assert life.mark() == before
    living.pass_time(HOUR)
    living.sign_up()
    life.world.forget()

    assert changes(life, {"changed_since": "last"}).success

    # Two objects are there and equal: a HEAD at each storage. Two are new: a GET and a PUT.
    assert life.world.requests() == {Kind.HEAD: 4, Kind.GET: 2, Kind.PUT: 2}
    assert accounts_that_differ(life) == []


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("tag", [read_until_tag, earlier_read_until_tag])
def test_nothing_is_taken_for_new_while_another_run_reads_the_rows(life: Life, tag: Callable[[FileType], str]) -> None:
    copy_accounts(life)
    assert changes(life, {"changed_since": "last"}).success
    living = life.day()
    living.sign_up()
    living.pass_time(HOUR)
    other = dg.DagsterRun(job_name="sync_accounts", run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED)
    life.world.dagster.add_run(other)
    life.world.forget()
    assert changes(life, {"changed_since": "last"}).success
    assert life.world.requests()[Kind.HEAD] == 4

    # Once it has read them, what was written later is new again.
    # (Later than the night, which goes by this machine's clock as long as it plans.)
    (value,) = read_until_tags(["accounts"], living.now + HOUR / 2, other.run_id).values()
    life.world.dagster.add_run_tags(other.run_id, {tag(FileType.ACCOUNTS): value})
    assert other.run_id in furthest_runs(life.world.dagster)
    living.pass_time(HOUR)
    living.sign_up()
    life.world.forget()
    assert changes(life, {"changed_since": "last"}).success
    assert life.world.requests() == {Kind.GET: 2, Kind.PUT: 2}


@pytest.mark.long(cases=0)
def test_re_executed_into_another_bucket_a_run_plans_for_that_one(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first bucket lacked is not what this one does."""
    copy_accounts(life)
    assert changes(life, {"changed_since": "last"}).success
    living = life.day()
    folder = living.key("accounts", "header", living.sign_up(), "original", "")
    life.world.source_proxy.set_rules(Rule(Answer(400, "InvalidRequest"), key=folder))
    job, config = dg.reconstructable(sync_changes_job), {"file_types": ["accounts"], "changed_since": "last"}
    with dg.execute_job(job, life.world.dagster, {"ops": {"plan_changes": {"config": config}}}) as failed:
        assert not failed.success
    life.world.source_proxy.set_rules()
    living.pass_time(HOUR)

    before, client, copied = life.mark(), life.world.destination.client, {}
    again = dg.ReexecutionOptions.from_failure(failed.run_id, life.world.dagster)
    for bucket, options in (("new", None), ("another", again), (life.world.destination.name, again)):
        if bucket != life.world.destination.name:
            client.create_bucket(Bucket=bucket)
        monkeypatch.setenv("DESTINATION_S3_BUCKET", bucket)
        settings = None if options else {"ops": {"plan_changes": {"config": config}}}
        with dg.execute_job(job, life.world.dagster, settings, reexecution_options=options) as run:
            assert run.success
        copied[bucket] = list_keys(life.world.destination.server, bucket)
        assert life.mark() is not None
    assert copied["another"] == copied["new"] != frozenset()
    assert life.has_moved(before)
    assert accounts_that_differ(life) == []


@pytest.mark.long(cases=0)
def test_a_run_that_is_started_once_more_has_not_read_what_the_first_one_had(life: Life) -> None:
    copy_accounts(life)
    assert changes(life, {"changed_since": "last"}).success
    living = life.day()
    tags = read_until_tags(["accounts"], living.now, "the first one")
    again = dg.DagsterRun("sync_accounts", str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED, tags=tags)
    life.world.dagster.add_run(again)
    living.pass_time(HOUR)
    living.sign_up()
    life.world.forget()
    assert changes(life, {"changed_since": "last"}).success
    assert life.world.requests()[Kind.HEAD] == 4


@pytest.mark.long
def test_a_row_deleted_or_given_another_file_while_it_is_copied_is_no_failure(life: Life) -> None:
    living = life.living
    copy_accounts(life)
    leaving, changing = living.sign_up(), living.sign_up()
    living.pass_time(HOUR)
    # Their pictures are in the plan, and gone when it is their turn: the proxy answers as the source will from then on.
    folders = "|".join(living.key("accounts", "avatar", row_id, "original", "") for row_id in (leaving, changing))
    gone = Answer(404, "NoSuchKey")
    life.world.source_proxy.set_rules(
        Rule(gone, key=folders, kinds=frozenset({Kind.GET})),
        Rule(gone, key=folders, kinds=frozenset({Kind.HEAD}), skip=1, per_key=True),  # the plan's is the first
    )
    assert changes(life, {"changed_since": "last"}).success
    life.world.source_proxy.set_rules()
    living.pass_time(MINUTE)
    living.delete_account(leaving)
    living.change_avatar(changing)
    living.pass_time(HOUR)

    assert changes(life, {"changed_since": "last"}).success

    assert [line for line in accounts_that_differ(life) if "is not there" in line or "is another" in line] == []


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"changed_since": "2999-01-01T00:00:00Z"}, "lies in the future"),
        ({"changed_since": "yesterday"}, "is not a timestamp"),
        ({"changed_since": "2026-01-01T00:00:00"}, "has no time zone"),
    ],
)
def test_a_timestamp_that_makes_no_sense_is_refused_in_one_sentence(
    life: Life, config: dict[str, object], says: str
) -> None:
    result = changes(life, config)
    (event,) = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    assert failure.description is not None
    assert says in failure.description
    assert life.world.requests() == {}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"limit": -1}, "plan_changes.limit must be a whole number from 0 to "),
        ({"offset": 10**26}, "plan_changes.offset must be a whole number from 0 to "),
        ({"file_types": ["statuses"]}, "unknown file type 'statuses': known are media_attachments, accounts"),
    ],
)
def test_config_that_makes_no_sense_is_refused_too(life: Life, config: dict[str, object], says: str) -> None:
    assert says in failure_of(changes(life, config))
    assert life.world.requests() == {}


@pytest.mark.long
def test_the_largest_limit_and_offset_are_numbers_of_the_database(life: Life) -> None:
    most = 1_000_000_000_000
    assert changes(life, {"file_types": ["accounts"], "limit": most, "offset": most}).success
