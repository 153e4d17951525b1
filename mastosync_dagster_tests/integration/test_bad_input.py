"""Bad input and unreachable servers: one clear message, a failed run, nothing written, no secret shown."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mastosync_dagster_tests.support.installation import Installation

SECRET = "s3cr3t-that-nobody-may-see"


@dataclass(frozen=True)
class Case:
    """One thing that is wrong.

    Attributes:
        name: For the test's name.
        says: What the message must contain: what to change.
        variables: What is set; None: unset.
        spoil: Does something to the servers first.
    """

    name: str
    says: tuple[str, ...]
    variables: Callable[[Installation], Mapping[str, str | None]] = field(default=lambda _: {})
    spoil: Callable[[Installation], None] = field(default=lambda _: None)


def _no_mastodon(world: Installation) -> None:
    with (
        contextlib.closing(psycopg2.connect(world.database.url)) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("DROP TABLE accounts CASCADE")


def _no_column(world: Installation) -> None:
    with (
        contextlib.closing(psycopg2.connect(world.database.url)) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("ALTER TABLE accounts DROP COLUMN avatar_file_name, DROP COLUMN header_file_name")


def _wrong_region(world: Installation) -> None:
    message = "The authorization header is malformed; the region 'here' is wrong; expecting 'there'"
    world.destination_proxy.set_rules(Rule(Answer(400, "AuthorizationHeaderMalformed", message=message)))


def _read_only(world: Installation) -> None:
    world.destination_proxy.set_rules(
        Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.PUT, Kind.CREATE_UPLOAD}))
    )


def _url(world: Installation, **parts: str) -> str:
    database = world.database
    known = {
        "user": database.user,
        "password": database.password,
        "port": str(database.port),
        "name": database.database,
    }
    known |= parts
    return "postgresql://{user}:{password}@127.0.0.1:{port}/{name}".format(**known)


CASES = [
    Case("no bucket named", ("S3_BUCKET", "resources.source.config.bucket"), lambda _: {"S3_BUCKET": None}),
    Case("no destination bucket named", ("DESTINATION_S3_BUCKET",), lambda _: {"DESTINATION_S3_BUCKET": None}),
    Case(
        "a key without its secret",
        ("DESTINATION_AWS_SECRET_ACCESS_KEY",),
        lambda _: {"DESTINATION_AWS_SECRET_ACCESS_KEY": None},
    ),
    Case(
        "the database is not there",
        ("DATABASE_URL",),
        lambda world: {"DATABASE_URL": _url(world, port=str(free_port()), password=SECRET)},
    ),
    Case(
        "a wrong password", ("password", "DATABASE_URL"), lambda world: {"DATABASE_URL": _url(world, password=SECRET)}
    ),
    Case("no such database", ("nowhere", "DATABASE_URL"), lambda world: {"DATABASE_URL": _url(world, name="nowhere")}),
    Case("a table is absent", ("accounts", "DATABASE_URL"), spoil=_no_mastodon),
    Case("columns are absent", ("avatar_file_name", "DATABASE_URL"), spoil=_no_column),
    Case(
        "the source bucket is absent",
        ("S3_BUCKET", "resources.source.config.bucket"),
        lambda _: {"S3_BUCKET": "absent-bucket"},
    ),
    Case(
        "the destination bucket is absent",
        ("DESTINATION_S3_BUCKET",),
        lambda _: {"DESTINATION_S3_BUCKET": "absent-bucket"},
    ),
    Case(
        "a wrong secret at the source",
        ("AWS_SECRET_ACCESS_KEY", "resources.source.config.aws_secret_access_key"),
        lambda _: {"AWS_SECRET_ACCESS_KEY": SECRET},
    ),
    Case(
        "a wrong secret at the destination",
        ("DESTINATION_AWS_SECRET_ACCESS_KEY",),
        lambda _: {"DESTINATION_AWS_SECRET_ACCESS_KEY": SECRET},
    ),
    Case(
        "the source is not there",
        ("S3_ENDPOINT", "resources.source.config.endpoint_url"),
        lambda _: {"S3_ENDPOINT": f"http://127.0.0.1:{free_port()}"},
    ),
    Case("a wrong region", ("DESTINATION_S3_REGION",), spoil=_wrong_region),
    Case("a read-only destination", ("right to write", "DESTINATION_S3_PERMISSION"), spoil=_read_only),
    Case(
        "one bucket as source and destination",
        ("same place", "DESTINATION_S3_BUCKET"),
        lambda world: {
            "DESTINATION_S3_BUCKET": world.source.name,
            "DESTINATION_S3_ENDPOINT": world.source_proxy.endpoint,
            "DESTINATION_AWS_ACCESS_KEY_ID": world.source.server.access_key_id,
            "DESTINATION_AWS_SECRET_ACCESS_KEY": world.source.server.secret_access_key,
        },
    ),
    Case("a concurrency that is none", ("MASTOSYNC_CONCURRENCY",), lambda _: {"MASTOSYNC_CONCURRENCY": "many"}),
]


@pytest.mark.long(cases=2)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_run_fails_with_a_message_that_names_what_to_change(
    world: Installation, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key, *_) = world.register(FileType.ACCOUNTS)[FileType.ACCOUNTS]
    for name, value in case.variables(world).items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    case.spoil(world)

    result = world.run("sync_accounts", key)

    message = failure_of(result)
    for words in case.says:
        assert words in message
    assert list_keys(world.destination.server, world.destination.name) == frozenset()
    logged = json.dumps([str(record) for record in world.dagster.all_logs(result.run_id)])
    for secret in (SECRET, world.source.server.secret_access_key, world.destination.server.secret_access_key):
        assert secret not in logged
    assert world.database.password not in logged


@pytest.mark.long(cases=1)
@pytest.mark.parametrize(
    ("partition", "says"),
    [("everything", "1-50000"), ("9-1", "1-50000"), ("1-2", "mastosync ranges --all accounts")],
)
def test_a_partition_that_is_no_registered_range_fails_at_once(world: Installation, partition: str, says: str) -> None:
    world.register(FileType.ACCOUNTS)
    tags = json.dumps({"dagster/partition": partition})
    failed = world.command(
        "dagster", "job", "execute", "-m", "mastosync_dagster", "-j", "sync_accounts", "--tags", tags
    )
    assert failed.returncode != 0
    assert says in failed.stderr + failed.stdout
    assert list_keys(world.destination.server, world.destination.name) == frozenset()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sync", "accounts", "--limit", "ten"], "not a valid integer"),
        (["sync", "accounts", "--limit", "-1"], "0<=x<="),
        (["sync", "accounts", "--offset", "-1"], "0<=x<="),
        (["sync", "accounts", "--offset", "9" * 26], "0<=x<="),
        (["sync", "accounts", "--offset", str(2**63)], "0<=x<="),
        (["sync", "accounts", "--limit", "9" * 26], "0<=x<="),
        (["sync", "backups", "--max-gigabytes", "1e305"], "0<x<="),
        (["sync", "backups", "--max-gigabytes", "1.7e308"], "0<x<="),
        (["sync", "backups", "--max-dollars", "1e305"], "0<x<="),
        (["estimate", "--megabytes-per-second", "1e305"], "0.001<=x<="),
        (["estimate", "--preview-kilobytes", "9" * 400], "0<=x<="),
        (["cutover", "check", "--quick", "--max-age", "9" * 20], "1<=x<="),
        (["cutover", "check", "--quick", "--max-age", str(2**31 * 1440)], "1<=x<="),
        (["check", "--max-age", "9" * 20], "--max-age is"),
        (["sync", "accounts", "--max-gigabytes", "nan"], "not a finite number"),
        (["sync", "accounts", "--max-gigabytes", "0"], "0<x<="),
        (["sync", "accounts", "--max-dollars", "5"], "max_dollars limits nothing"),
        (["sync", "accounts", "--max-dollars", "5", "--from", "nobody"], "the price table has no nobody"),
        (["estimate", "--objects-per-second", "inf"], "not in the range 0.001<=x<="),
        (["estimate", "--objects-per-second", "5e-324"], "not in the range 0.001<=x<="),
        (["metrics", "--once", "--every", "1801"], "1<=x<=1800"),
        (["metrics", "--once", "--every", "0.5"], "1<=x<=1800"),
        (["metrics", "--once", "--every", "nan"], "not a finite number"),
        (["init", ""], "the name is empty"),
        (["init", "--from", " "], "the name is empty"),
        (["sync", "statuses"], "media_attachments"),
        (["ranges", "statuses"], "media_attachments"),
        (["sync", "accounts", "--changed-since", "yesterday"], "2026-11-01T03:00:00Z"),
        (["sync", "accounts", "--changed-since", "2020-01-01T00:00:00"], "no time zone"),
        (["sync", "accounts", "--changed-since", "2999-01-01T00:00:00Z"], "in the future"),
    ],
)
def test_the_command_refuses_what_it_cannot_understand(world: Installation, arguments: list[str], says: str) -> None:
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code != 0
    assert isinstance(outcome.exception, SystemExit), outcome.exception
    assert says in " ".join(outcome.output.split())
    assert list_keys(world.destination.server, world.destination.name) == frozenset()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["sync", "--prices", "p.yaml"],
            "without max_dollars (--prices, --from, --to without --max-dollars) limits nothing",
        ),
        (
            ["sync", "--from", "amazon"],
            "without max_dollars (--prices, --from, --to without --max-dollars) limits nothing",
        ),
        (
            ["sync", "--to", "amazon", "--max-gigabytes", "5"],
            "without max_dollars (--prices, --from, --to without --max-dollars) limits nothing",
        ),
        (["estimate", "--prices", "p.yaml"], "--from and --to"),
        (["cutover", "plan", "--env", "--nginx", "old"], "--env and --nginx"),
        (["cutover", "plan", "--env", "--resolver", "1.1.1.1"], "--resolver is for nginx"),
        (["cutover", "check", "--old-bucket", "--max-age", "60"], "--max-age is not for --old-bucket"),
        (["metrics", "--rules", "--dashboard"], "--once, --rules and --dashboard"),
        (["metrics", "--once", "--rules"], "--once, --rules and --dashboard"),
        (["metrics", "--dashboard", "--once"], "--once, --rules and --dashboard"),
        (["report", "--left-out", "--outcome", "missing"], "--outcome is not for --left-out"),
        (["sync", "--remote", "accounts = never", "--remote", "accounts=always"], "both never and always of accounts"),
        (["status", "--remote", "accounts=30", "--remote", "accounts=31"], "both 30 and 31 of accounts"),
        (["report", "--left-out", "--remote", "accounts=always", "--remote", " accounts =NEVER"], "of accounts"),
    ],
)
def test_the_command_refuses_options_of_which_one_would_have_no_effect(
    world: Installation, arguments: list[str], says: str
) -> None:
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code != 0, outcome.output
    assert says in " ".join(outcome.output.split())
    assert list_keys(world.destination.server, world.destination.name) == frozenset()


@pytest.mark.usefixtures("world")
def test_a_variable_that_says_two_things_of_one_file_type_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTOSYNC_REMOTE", "accounts=never, accounts=always")
    outcome = CliRunner().invoke(main, ["status"])
    assert outcome.exit_code == 1
    assert "MASTOSYNC_REMOTE says both never and always of accounts" in " ".join(outcome.output.split())
    monkeypatch.setenv("MASTOSYNC_REMOTE", "accounts=never, accounts=Never")
    assert CliRunner().invoke(main, ["status"]).exit_code == 0


def test_commands_name_dagster_home_where_it_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    outcome = CliRunner().invoke(main, ["ranges"])
    assert outcome.exit_code == 1
    assert "DAGSTER_HOME is not set" in outcome.output


@pytest.mark.long(cases=0)
def test_a_limit_that_is_no_number_is_refused_in_run_config_too(world: Installation) -> None:
    config = Path(world.dagster.root_directory) / "run.yaml"
    config.write_text("ops: {plan_changes: {config: {limit: ten}}}")
    failed = world.command(
        "dagster", "job", "execute", "-m", "mastosync_dagster", "-j", "sync_changes", "-c", str(config)
    )
    assert failed.returncode != 0
    assert "limit" in failed.stderr + failed.stdout
    assert '"ten"' in failed.stderr + failed.stdout
