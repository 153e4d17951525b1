"""``mastosync check``: what its lines say, its exit status, and how old the last good night may be."""

from __future__ import annotations

import contextlib
import json
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg2
import pytest
from click.testing import CliRunner
from psycopg2 import sql

from mastosync_dagster.cli.age import AgeError, check_age
from mastosync_dagster.cli.check import Verdict, check_everything
from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster_tests.support.installation import PROJECT, failure_of
from mastosync_dagster_tests.support.proxy import Answer, Kind, LostHeaders, Rule
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import cursor as Cursor

    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster_tests.support.installation import Installation

CAP = "Transaction cap exceeded, see the Caps & Alerts page to increase your cap."
LISTED = frozenset({Kind.LIST})


def check(*options: str) -> tuple[dict[str, tuple[str, str]], int]:
    """Return verdict and text of each line by its name, and the exit status."""
    outcome = CliRunner().invoke(main, ["check", "--json", *options])
    return {line["name"]: (line["verdict"], line["text"]) for line in json.loads(outcome.output)}, outcome.exit_code


@pytest.fixture(autouse=True)
def _no_acls(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    assert world
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")


@pytest.mark.long
def test_without_the_right_to_list_it_passes_and_warns_and_the_status_is_known(world: Installation) -> None:
    assert check("--strict")[1] == 0
    rule = Rule(Answer(403, "AccessDenied", message=CAP), kinds=LISTED)
    world.source_proxy.set_rules(rule)
    world.destination_proxy.set_rules(rule)
    lines, status = check()
    assert {name for name, (verdict, _) in lines.items() if verdict == "warned"} == {"source", "destination"}
    assert status == 0
    for name in ("source", "destination"):
        assert "s3:ListBucket" in lines[name][1]
        assert f'It says: "{CAP}"' in lines[name][1]
    assert lines["originals"][0] == "ok"
    assert check("--strict")[1] == 3
    assert list_keys(world.destination.server, world.destination.name) == frozenset()


@pytest.mark.long
def test_a_key_that_may_do_nothing_fails_with_what_the_storage_says(world: Installation) -> None:
    rule = Rule(Answer(403, "AccessDenied", message=CAP))
    world.source_proxy.set_rules(rule)
    world.destination_proxy.set_rules(rule)
    lines, status = check("--strict")
    assert status == 1
    for name in ("destination write (public)", "originals"):
        assert lines[name][0] == "failed"
        assert f'It says: "{CAP}"' in lines[name][1]


@pytest.mark.long
@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ((), set()),
        (("cache-control",), {"Cache-Control"}),
        (("content-type", "x-amz-meta-mastosync-check"), {"Content-Type", "x-amz-meta-mastosync-check"}),
    ],
)
def test_a_destination_that_does_not_keep_headers_is_named_before_the_first_copy(
    world: Installation, lost: tuple[str, ...], named: set[str]
) -> None:
    world.destination_proxy.set_rules(Rule(LostHeaders(lost), kinds=frozenset({Kind.HEAD})))
    lines, status = check("--strict")
    verdict, text = lines["destination headers"]
    assert (verdict, status) == (("warned", 3) if lost else ("ok", 0))
    names = ("Cache-Control", "Content-Type", "x-amz-meta-mastosync-check")
    assert {name for name in names if name in text} == named
    assert list_keys(world.destination.server, world.destination.name) == frozenset()


@pytest.mark.long
def test_a_run_that_a_storage_ends_quotes_it_too(world: Installation) -> None:
    world.destination_proxy.set_rules(Rule(Answer(403, "AccessDenied", message=CAP), kinds=frozenset({Kind.PUT})))
    (key, *_) = world.register(FileType.CUSTOM_EMOJIS)[FileType.CUSTOM_EMOJIS]
    assert f'It says: "{CAP}"' in failure_of(world.run("sync_custom_emojis", key))


def test_a_connection_that_dies_during_the_check_is_a_line(world: Installation) -> None:
    lines = check_everything(MastodonDatabase(), S3Bucket.source(), S3Bucket.destination())
    found = {}
    for line in lines:
        found[line.name] = line
        if line.name == "database":
            with contextlib.closing(psycopg2.connect(world.database.url)) as admin, admin, admin.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
    for name in ("tables", "connections", "database clock"):
        assert found[name].verdict is Verdict.FAILED
        assert "database" in found[name].text
        assert "\n" not in found[name].text
    assert found["destination"].verdict is Verdict.OK
    assert found["originals"].text == "without the tables"


@contextlib.contextmanager
def sessions(server: PostgresServer, number: int) -> Iterator[None]:
    """Keep so many sessions of the superuser open."""
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(contextlib.closing(psycopg2.connect(server.url)))
        yield


def connections(cursor: Cursor) -> tuple[str, str, int]:
    """Check once no session of the role is left. Returns verdict and text of the line, and the number in it."""

    def nobody() -> bool:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'looks_in'")
        return cursor.fetchall() == [(0,)]

    wait_until(nobody)
    verdict, text = check()[0]["connections"]
    return verdict, text, int(text.split(" ", maxsplit=1)[0].replace(",", ""))


@pytest.mark.long
def test_free_connections_count_sessions_that_the_role_may_not_look_into(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = world.database
    with contextlib.closing(psycopg2.connect(server.url)) as admin:
        admin.autocommit = True
        cursor = admin.cursor()
        cursor.execute("CREATE ROLE looks_in LOGIN PASSWORD 'word' CONNECTION LIMIT 4")
        try:
            cursor.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO looks_in")
            monkeypatch.setenv(
                "DATABASE_URL", f"postgresql://looks_in:word@{server.host}:{server.port}/{server.database}"
            )
            verdict, text, _ = connections(cursor)
            assert (verdict, text.partition(";")[0]) == ("ok", "3 are free of 4 (CONNECTION LIMIT of the role)")
            cursor.execute("ALTER ROLE looks_in CONNECTION LIMIT -1")
            *_, before = connections(cursor)
            with sessions(server, 10):
                *_, after = connections(cursor)
            # PostgreSQL's own processes come and go.
            assert 8 <= before - after <= 12
            cursor.execute("ALTER ROLE looks_in CONNECTION LIMIT 2")
            verdict, _, left = connections(cursor)
            assert (verdict, left) == ("failed", 1)
        finally:
            cursor.execute("DROP OWNED BY looks_in; DROP ROLE looks_in")


ROLES = re.findall(r"```sql\n(.*?)```", (PROJECT / "docs" / "deploy.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.long
@pytest.mark.parametrize("statements", ROLES, ids=["columns", "pg_read_all_data"])
def test_the_roles_that_the_documentation_makes_are_enough(
    world: Installation, monkeypatch: pytest.MonkeyPatch, statements: str
) -> None:
    server, word = world.database, "choose one"
    with contextlib.closing(psycopg2.connect(server.url)) as admin:
        admin.autocommit = True
        cursor = admin.cursor()
        cursor.execute("CREATE TABLE unavailable_domains (id bigserial, domain varchar)")
        cursor.execute(statements)
        try:
            address = f"{server.host}:{server.port}/{server.database}"
            monkeypatch.setenv("DATABASE_URL", f"postgresql://mastosync:{quote(word)}@{address}")
            lines, status = check()
            assert ([(name, text) for name, (verdict, text) in lines.items() if verdict != "ok"], status) == ([], 0)
            if "deleted_at" in statements:
                assert night(world, since=None)
                for command in (["report"], ["status"]):
                    outcome = CliRunner().invoke(main, command)
                    assert outcome.exit_code == 0, outcome.output
        finally:
            cursor.execute("DROP OWNED BY mastosync; DROP ROLE mastosync")


@contextlib.contextmanager
def narrow_role(world: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cursor]:
    """Let mastosync log in as a role that may read every table; yield an admin's cursor, which takes rights away."""
    server = world.database
    with contextlib.closing(psycopg2.connect(server.url)) as admin:
        admin.autocommit = True
        cursor = admin.cursor()
        cursor.execute(
            "CREATE ROLE narrow LOGIN PASSWORD 'word'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO narrow"
        )
        try:
            address = f"{server.host}:{server.port}/{server.database}"
            monkeypatch.setenv("DATABASE_URL", f"postgresql://narrow:word@{address}")
            yield cursor
        finally:
            cursor.execute("DROP OWNED BY narrow; DROP ROLE narrow")


@pytest.mark.parametrize("table", ["backups", "preview_cards"])
def test_a_table_that_the_role_may_not_read_is_named(
    world: Installation, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    with narrow_role(world, monkeypatch) as cursor:
        cursor.execute(sql.SQL("REVOKE SELECT ON {} FROM narrow").format(sql.Identifier(table)))
        lines, status = check()
    assert status == 1
    assert any(verdict == "failed" and f"table {table}" in text for verdict, text in lines.values()), lines


@pytest.mark.parametrize(
    ("table", "column", "verdict"),
    [
        ("accounts", "username", "warned"),
        ("accounts", "header_remote_url", "warned"),
        ("custom_emojis", "image_remote_url", "warned"),
        ("media_attachments", "updated_at", "failed"),
        ("accounts", "suspended_at", "failed"),
    ],
)
def test_a_column_that_the_role_may_not_read_is_named(
    world: Installation, monkeypatch: pytest.MonkeyPatch, table: str, column: str, verdict: str
) -> None:
    with narrow_role(world, monkeypatch) as cursor:
        cursor.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND attname <> %s",
            (table, column),
        )
        others = sql.SQL(", ").join(sql.Identifier(name) for (name,) in cursor.fetchall())
        cursor.execute(
            sql.SQL("REVOKE SELECT ON {table} FROM narrow; GRANT SELECT ({others}) ON {table} TO narrow").format(
                table=sql.Identifier(table), others=others
            )
        )
        lines, status = check()
    assert lines["tables"][0] == verdict, lines
    assert f"{table}.{column}" in lines["tables"][1]
    assert status == (verdict == "failed")


def night(world: Installation, *, since: str | None = "last", **config: object) -> bool:
    plan = {"changed_since": since, "copy_private": True, **config}
    return world.run("sync_changes", config={"ops": {"plan_changes": {"config": plan}}}).success


@pytest.mark.long
def test_the_last_good_night_may_not_be_older_than_the_limit(world: Installation) -> None:
    verdict, text = check("--max-age", "26h")[0]["last night"]
    assert verdict == "failed"
    assert "no run of sync_changes" in text
    # One object fails: the watermark moves, but it was no good night.
    refused = Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.GET}), times=1)
    world.source_proxy.set_rules(refused)
    assert not night(world)
    assert check("--max-age", "26h")[0]["last night"][0] == "failed"
    assert night(world)
    lines, status = check("--max-age", "26h")
    assert (lines["last night"][0], status) == ("ok", 0)
    identity, now = S3Bucket.destination().settings().identity, datetime.now(timezone.utc)
    with pytest.raises(AgeError, match=r"^49 h 0 min old: .* It may be 48 h 0 min old: .*nightly_incremental"):
        check_age(world.dagster, identity, timedelta(days=2), now + timedelta(hours=49))
    assert check_age(world.dagster, identity, timedelta(days=3), now + timedelta(hours=49))
    # One that wants less leaves the rest as old as it is.
    assert night(world, local_only=True)
    with pytest.raises(AgeError, match=r"^49 h 0 min old"):
        check_age(world.dagster, identity, timedelta(days=2), now + timedelta(hours=49))
