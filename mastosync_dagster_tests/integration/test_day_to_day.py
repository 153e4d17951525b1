"""``mastosync status``, ``check`` and ``estimate`` against real servers."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster.mastodon import stored_objects, table_sizes
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.installation import Installation
    from mastosync_dagster_tests.support.life import Life


def json_of(*arguments: str) -> Any:
    outcome = CliRunner().invoke(main, [*arguments, "--json"])
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.output)


def by_database(world: Installation, lo: int, hi: int) -> tuple[int, int]:
    """Return the objects of accounts with these ids, and the bytes of their originals."""
    objects = [
        stored
        for row in world.instance.rows["accounts"]
        if lo <= int(str(row["id"])) <= hi
        for stored in stored_objects("accounts", row)
    ]
    return len(objects), sum(stored.size or 0 for stored in objects)


# --- status ----------------------------------------------------------------------------------------------------------


@pytest.mark.long(cases=0)
def test_status_separates_done_from_left_by_ranges_and_by_the_database(world: Installation) -> None:
    keys = world.register(FileType.ACCOUNTS)[FileType.ACCOUNTS]
    everything = by_database(world, -(2**63), 2**63)
    (fresh,) = json_of("status", "accounts")
    assert (fresh["ranges"], fresh["missing"], fresh["materialized"], fresh["failed"]) == (len(keys), len(keys), 0, 0)
    assert (fresh["objects_left"], fresh["bytes_left"], fresh["objects_done"]) == (*everything, 0)
    assert fresh["watermark"] is None

    assert world.run("sync_accounts", keys[0]).success
    world.source_proxy.set_rules(Rule(Answer(400, "InvalidRequest"), kinds=frozenset({Kind.GET})))
    assert not world.run("sync_accounts", keys[1]).success
    world.source_proxy.set_rules()

    (later,) = json_of("status", "accounts")
    assert (later["materialized"], later["failed"], later["missing"]) == (1, 1, len(keys) - 2)
    done = by_database(world, *map(int, keys[0].rsplit("-", 1)))
    # Missing is not done.
    assert (later["objects_done"] + later["objects_missing"], later["bytes_done"]) == done
    assert later["objects_missing"] > 0
    assert (later["objects_left"], later["bytes_left"]) == (everything[0] - done[0], everything[1] - done[1])

    screen = CliRunner().invoke(main, ["status"]).output
    time_left = re.search(r"^time left   about [\d.]+ (s|min|h)\b.*, one run at a time \(", screen, re.MULTILINE)
    assert time_left, screen
    steps = screen.partition("\nnext        ")[2].splitlines()
    assert [step.strip() for step in steps] == [
        "ID ranges have failed: mastosync report accounts, then run them again",
        f"{later['objects_missing']:,} objects are missing at the source: mastosync report says what can be done",
    ]


def test_status_and_estimate_say_that_the_rows_of_a_large_table_were_not_all_counted(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, rows in (("_PAGE_ROWS", 5), ("_COUNTED_ROWS", 10), ("_SAMPLED_ROWS", 10**6)):
        monkeypatch.setattr(table_sizes, name, rows)
    with psycopg2.connect(world.database.url) as connection, connection.cursor() as cursor:
        cursor.execute("ANALYZE accounts")
    (found,) = json_of("status", "accounts")
    # The sample is the whole table here.
    assert (found["estimated"], found["objects_left"]) == (True, by_database(world, -(2**63), 2**63)[0])
    assert "estimates" in CliRunner().invoke(main, ["status"]).output
    assert "a sample of the rows" in CliRunner().invoke(main, ["estimate", "accounts"]).output


def test_status_shows_the_last_incremental_run_and_its_watermark(world: Installation) -> None:
    config = {"ops": {"plan_changes": {"config": {"file_types": ["accounts"], "changed_since": "last"}}}}
    result = world.run("sync_changes", config=config)
    (found,) = json_of("status", "accounts")
    assert found["last_incremental"] == result.run_id
    assert found["objects_left"] == 0
    outcome = CliRunner().invoke(main, ["status", "accounts"])
    assert f"run {result.run_id}, watermark {found['watermark'][:10]}" in outcome.output


@pytest.mark.long(cases=1)
@pytest.mark.parametrize("whole", [True, False])
def test_what_has_come_since_the_last_incremental_run_is_left(life: Life, *, whole: bool) -> None:
    """Whether that began with every row, or with ranges."""
    living = life.living
    if not whole:
        for key in life.world.register(FileType.ACCOUNTS)[FileType.ACCOUNTS]:
            assert life.run("sync_accounts", key).success
    config = {"file_types": ["accounts"], "changed_since": "last"}
    assert life.run("sync_changes", config={"ops": {"plan_changes": {"config": config}}}).success
    (found,) = json_of("status", "accounts")
    assert found["objects_left"] == 0
    living.pass_time(timedelta(hours=1))
    living.sign_up()
    (later,) = json_of("status", "accounts")
    assert (later["objects_done"], later["objects_left"]) == (found["objects_done"], 2)
    assert json_of("estimate", "accounts")["objects"] == 2


@pytest.mark.long
def test_status_of_everything_is_short_enough_for_a_terminal(world: Installation) -> None:
    world.register()
    outcome = CliRunner().invoke(main, ["status"])
    assert outcome.exit_code == 0
    lines = outcome.output.splitlines()
    assert [line.split()[0] for line in lines if "] " in line] == [*(file_type.value for file_type in FileType), "all"]
    assert (max(map(len, lines)) <= 100, len(lines) <= 24) == (True, True)
    assert "  0 %" in outcome.output
    assert "time left   not known: no ID range has copied enough yet" in outcome.output
    assert "next        ID ranges have not run yet: " in outcome.output
    assert world.run("sync_changes").success
    after = CliRunner().invoke(main, ["status"]).output
    assert "time left   none: nothing is left" in after
    assert "] 100 %" in after
    assert "next        " in after


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_tries_everything_and_leaves_nothing_behind(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTOSYNC_COPY_PRIVATE")
    lines = {line["name"]: line for line in json_of("check")}
    assert {line["verdict"] for line in lines.values()} == {"ok"}
    assert {
        "database",
        "tables",
        "connections",
        "database clock",
        "source",
        "source read",
        "two places",
        "destination",
        "destination write (public)",
        "destination ACL (public)",
        "destination delete (public)",
    } <= lines.keys()
    assert "Mastodon 4.7 or newer" in lines["tables"]["text"]
    assert list_keys(world.destination.server, world.destination.name) == frozenset()
    written = [request.key for request in world.destination_proxy.requests if request.kind is Kind.PUT]
    assert written
    assert all(key.startswith("mastosync-check/") for key in written)
    assert world.source_proxy.count(Kind.PUT, Kind.DELETE) == 0


def test_check_looks_at_the_acl_where_the_server_shows_it(world_with_acls: Installation) -> None:
    assert world_with_acls
    lines = {line["name"]: line["text"] for line in json_of("check")}
    assert lines["destination ACL (public)"] == "public-read, as it was sent"
    assert lines["destination ACL (private)"] == "private, as it was sent"


@pytest.mark.parametrize(
    ("variables", "rule", "name", "says"),
    [
        ({"DATABASE_URL": "postgresql://x:y@127.0.0.1:{port}/z"}, None, "database", "DATABASE_URL"),
        ({"S3_BUCKET": "absent"}, None, "source", "S3_BUCKET"),
        ({"DESTINATION_AWS_SECRET_ACCESS_KEY": "wrong"}, None, "destination", "DESTINATION_AWS_SECRET_ACCESS_KEY"),
        (
            {},
            Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.PUT})),
            "destination write (public)",
            "destination",
        ),
        (
            {},
            Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.DELETE})),
            "destination delete (public)",
            "is left there",
        ),
        # rclone's server keeps no ACLs.
        ({"DESTINATION_S3_PERMISSION": "public-read"}, None, "destination ACL (private)", "DESTINATION_S3_PERMISSION"),
    ],
)
def test_what_fails_says_what_to_change_and_the_rest_is_tried_all_the_same(
    world: Installation,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    rule: Rule | None,
    name: str,
    says: str,
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value.format(port=free_port()))
    if rule is not None:
        world.destination_proxy.set_rules(rule)
    outcome = CliRunner().invoke(main, ["check", "--json"])
    assert outcome.exit_code == 1
    lines = {line["name"]: line for line in json.loads(outcome.output)}
    assert lines[name]["verdict"] == "failed"
    assert says in lines[name]["text"]
    assert {"source", "destination"} <= lines.keys()
    assert world.destination.server.secret_access_key not in outcome.output


def test_a_database_that_is_full_is_noticed(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mastosync_dagster.cli.check._FEWEST_CONNECTIONS", 1_000_000)
    outcome = CliRunner().invoke(main, ["check"])
    assert outcome.exit_code == 1
    assert "and a run needs 1000000: raise that" in outcome.output
    assert world


# --- estimate --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_estimate_counts_what_is_left_and_copies_nothing(world: Installation) -> None:
    keys = world.register(FileType.ACCOUNTS)[FileType.ACCOUNTS]
    everything, _ = by_database(world, -(2**63), 2**63)
    before = json_of("estimate", "accounts", "--from", "amazon", "--to", "cloudflare")
    assert before["objects"] == before["gets"] == everything
    assert before["hours"] is None
    assert world.requests() == {}

    assert world.run("sync_accounts", keys[0]).success
    done, _ = by_database(world, *map(int, keys[0].rsplit("-", 1)))
    after = json_of("estimate", "accounts")
    assert after["objects"] == everything - done
    assert after["hours"] is not None  # by the rate of that run
    assert json_of("estimate", "accounts", "--all")["objects"] == everything
    assert json_of("estimate", "accounts", "--all", "--objects-per-second", "0.001")["hours"] == pytest.approx(
        everything / 3.6, abs=0.01
    )


def test_an_unknown_provider_is_named_together_with_the_known_ones(world: Installation) -> None:
    outcome = CliRunner().invoke(main, ["estimate", "--to", "nobody"])
    assert outcome.exit_code == 1
    assert "the price table has no nobody; it has free, amazon" in outcome.output
    assert world
