"""Every variable with a wrong value: `mastosync check` fails, and names it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.check import Verdict, check_variables
from mastosync_dagster.cli.main import main
from mastosync_dagster_tests.support.installation import PROJECT

if TYPE_CHECKING:
    import dagster as dg

    from mastosync_dagster_tests.support.installation import Installation

NO_WRONG_VALUE = {
    "S3_PERMISSION": "the source is not written to",
    "S3_STORAGE_CLASS": "the source is not written to",
    "S3_FORCE_SINGLE_REQUEST": "Mastodon's own, which nothing reads here",
    "S3_MULTIPART_THRESHOLD": "Mastodon's own, which nothing reads here",
    "DESTINATION_S3_STORAGE_CLASS": "storages know classes of their own, and refuse others by this variable's name",
    "S3_OVERRIDE_PATH_STYLE": "as in Mastodon, whatever is not true means false",
    "DESTINATION_S3_OVERRIDE_PATH_STYLE": "as the source's",
    "SSH_TUNNEL_USER": "any name may be a user's",
    "SSH_TUNNEL_KEY_PASSPHRASE": "it is asked for by an encrypted key alone",
}
"""Why nothing that they may say is wrong."""

_BUCKET: dict[str, str | dict[str, str]] = {
    "S3_BUCKET": "no-such-bucket",
    "S3_ENDPOINT": "ftp://storage.example",
    "S3_REGION": "no region",
    "S3_KEY_PREFIX": "a\nb",
    "AWS_ACCESS_KEY_ID": "wrong",
    "AWS_SECRET_ACCESS_KEY": "wrong",
    "AWS_SESSION_TOKEN": "a\nb",
    "AWS_PROFILE": {"AWS_PROFILE": "nobody", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
    "S3_CA_FILE": "/nowhere.pem",
    "S3_VERIFY": "perhaps",
    "S3_CONNECT_TIMEOUT": "0",
    "S3_ANSWER_TIMEOUT": "soon",
    "S3_UPLOAD_TIMEOUT": "-1",
}
_SSH = {"SSH_TUNNEL_HOST": "127.0.0.1", "SSH_TUNNEL_PORT": "1", "SSH_TUNNEL_PASSWORD": "any"}
WRONG: dict[str, str | dict[str, str]] = {
    **_BUCKET,
    **{
        f"DESTINATION_{name}": value
        if isinstance(value, str)
        else {f"DESTINATION_{each}": text for each, text in value.items()}
        for name, value in _BUCKET.items()
    },
    "DESTINATION_S3_PERMISSION": "everybody",
    "S3_ALIAS_HOST": "a host",
    "S3_CLOUDFRONT_HOST": "a host",
    "DATABASE_URL": "mysql://localhost/x",
    "DB_HOST": {"DATABASE_URL": "", "DB_HOST": "/nowhere"},
    "DB_PORT": {"DATABASE_URL": "", "DB_PORT": "many"},
    "DB_NAME": {"DATABASE_URL": "", "DB_NAME": "nothing"},
    "DB_USER": {"DATABASE_URL": "", "DB_USER": "nobody-there"},
    "DB_PASS": {"DATABASE_URL": "", "DB_PASS": "wrong"},
    "DB_SSLMODE": "perhaps",
    "DB_CONNECT_TIMEOUT": "soon",
    "SSH_TUNNEL_HOST": {**_SSH, "SSH_TUNNEL_HOST": "no-such-host.invalid"},
    "SSH_TUNNEL_PORT": {**_SSH, "SSH_TUNNEL_PORT": "many"},
    "SSH_TUNNEL_KEY_FILE": {**_SSH, "SSH_TUNNEL_KEY_FILE": "/nowhere"},
    "SSH_TUNNEL_PASSWORD": {**_SSH, "SSH_TUNNEL_PASSWORD": "a\nb"},
    "SSH_TUNNEL_KNOWN_HOSTS": {**_SSH, "SSH_TUNNEL_KNOWN_HOSTS": "/nowhere"},
    "MASTOSYNC_ROWS_PER_PARTITION": "0",
    "MASTOSYNC_MEMORY_MB": "abc",
    "MASTOSYNC_MANIFESTS": "s3://nowhere/x",
    "MASTOSYNC_COPY_PRIVATE": "perhaps",
    "MASTOSYNC_LOCAL_ONLY": "perhaps",
    "MASTOSYNC_REMOTE_DAYS": "0",
    "MASTOSYNC_REMOTE": "foo=bar",
    "MASTOSYNC_SOURCE_FOLDER": "/nowhere",
    "MASTOSYNC_DESTINATION_FOLDER": "relative",
    "MASTOSYNC_RETRY_NIGHTS": "x",
    "MASTOSYNC_CACHE_LOST": "perhaps",
    "MASTOSYNC_NIGHTLY_CRON": "bad",
    "MASTOSYNC_NIGHTLY_TIMEZONE": "Europe/Nowhere",
    "MASTOSYNC_ALERT_WEBHOOK": "foo",
    "MASTOSYNC_ALERT_URLS": "foo",
    "MASTOSYNC_ALERT_GOOD_NIGHTS": "perhaps",
    "MASTOSYNC_PING_URL": "foo",
    "MASTOSYNC_KEEP_RUNS_DAYS": "0",
    "MASTOSYNC_SOURCE_URL": "foo",
    "MASTOSYNC_DESTINATION_URL": "ftp://foo",
    "MASTOSYNC_ENV_FILE": "/nowhere",
    "MASTOSYNC_CONCURRENCY": "abc",
    "MASTOSYNC_ADAPTIVE": "perhaps",
    "MASTOSYNC_SOURCE_REQUESTS_PER_SECOND": "0",
    "MASTOSYNC_SOURCE_MEGABYTES_PER_SECOND": "nan",
    "MASTOSYNC_DESTINATION_REQUESTS_PER_SECOND": "-1",
    "MASTOSYNC_DESTINATION_MEGABYTES_PER_SECOND": "inf",
    "MASTOSYNC_BODIES_MB": "1",
    "MASTOSYNC_LARGE_IN_FLIGHT": "0",
    "MASTOSYNC_SINGLE_PUT_MB": "5001",
    "MASTOSYNC_MAX_ATTEMPTS": "0",
    "MASTOSYNC_SILENCE_SECONDS": "1",
    "MASTOSYNC_MAX_GIGABYTES": "0",
    "MASTOSYNC_MAX_DOLLARS": "-3",
    "MASTOSYNC_PRICES_FROM": "nobody",
    "MASTOSYNC_PRICES_TO": "nobody",
    "MASTOSYNC_PRICES": "/nowhere.yaml",
    "MASTOSYNC_REFETCH": "perhaps",
    "MASTOSYNC_PRIVACY": "foo",
    "MASTOSYNC_PAGE_ROWS": "0",
    "MASTOSYNC_LISTERS": "0",
    "MASTOSYNC_WAIT_SECONDS": "soon",
    "MASTOSYNC_VERIFY_FULL": "perhaps",
    "MASTOSYNC_VERIFY_HEADERS": "some",
    "MASTOSYNC_VERIFY_ACLS": "some",
    "MASTOSYNC_VERIFY_READERS": "0",
}
"""A wrong value of each variable; with others, where it counts beside them alone."""


def test_there_is_a_wrong_value_for_each_variable_or_a_reason_why_there_is_none() -> None:
    example = (PROJECT / ".env.example").read_text()
    names = set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", example, re.MULTILINE))
    assert (names - NO_WRONG_VALUE.keys() - WRONG.keys(), (NO_WRONG_VALUE | WRONG).keys() - names) == (set(), set())


def _set(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    wrong = WRONG[variable]
    for name, value in ({variable: wrong} if isinstance(wrong, str) else wrong).items():
        monkeypatch.setenv(name, value)


def _names(text: str, variable: str) -> bool:
    return re.search(rf"(?<!_){variable}\b", text) is not None


OF_CONNECTIONS = {
    *(name for name in WRONG if not name.startswith("MASTOSYNC_")),
    *("MASTOSYNC_MANIFESTS", "MASTOSYNC_SOURCE_FOLDER", "MASTOSYNC_DESTINATION_FOLDER"),
} - {"S3_ALIAS_HOST", "S3_CLOUDFRONT_HOST"}


@pytest.mark.parametrize("variable", sorted(WRONG.keys() - OF_CONNECTIONS))
def test_the_line_of_the_settings_names_a_wrong_variable(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    _set(monkeypatch, variable)
    line = check_variables()
    assert line.verdict is Verdict.FAILED
    assert _names(line.text, variable), line.text


@pytest.mark.long(cases=12)
@pytest.mark.parametrize("variable", sorted(OF_CONNECTIONS))
def test_a_connection_with_a_wrong_variable_fails_and_names_it(
    world: Installation, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    database = world.database
    parts = {"HOST": database.host, "PORT": str(database.port), "NAME": database.database, "USER": database.user}
    for name, value in parts.items():
        monkeypatch.setenv(f"DB_{name}", value)
    monkeypatch.setenv("DB_PASS", database.password)
    _set(monkeypatch, variable)
    outcome = CliRunner().invoke(main, ["check", "--json"])
    failed = [line["text"] for line in json.loads(outcome.stdout) if line["verdict"] == "failed"]
    assert outcome.exit_code == 1, outcome.output
    assert [text for text in failed if _names(text, variable)], failed


@pytest.mark.long
def test_settings_that_are_wrong_in_several_places_are_all_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MASTOSYNC_CONCURRENCY", "MASTOSYNC_MAX_ATTEMPTS", "MASTOSYNC_PING_URL"):
        _set(monkeypatch, variable)
    text = check_variables().text
    assert [text.count(f"{name} must be") for name in ("CONCURRENCY", "MAX_ATTEMPTS", "PING_URL")] == [1, 1, 1]


@pytest.mark.long
@pytest.mark.parametrize("home", [True, False])
def test_a_file_of_settings_that_is_not_there_is_one_line_in_either_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, home: bool
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    if home:
        (tmp_path / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    _set(monkeypatch, "MASTOSYNC_ENV_FILE")
    as_json, text = (CliRunner().invoke(main, ["check", *options]) for options in (["--json"], []))
    failed = [line["text"] for line in json.loads(as_json.stdout) if line["verdict"] == "failed"]
    assert len(failed) == 1
    assert failed[0].startswith("MASTOSYNC_ENV_FILE names /nowhere, which cannot be read")
    assert text.output.count(failed[0]) == 1
    assert (as_json.exit_code, text.exit_code) == (1, 1)


@pytest.mark.long
def test_the_ui_starts_nothing_while_a_setting_is_wrong(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", instance.root_directory)
    _set(monkeypatch, "MASTOSYNC_NIGHTLY_CRON")
    outcome = CliRunner().invoke(main, ["ui"])
    assert outcome.exit_code == 1
    (line,) = outcome.output.splitlines()
    assert line.startswith("Error: MASTOSYNC_NIGHTLY_CRON must be five cron fields")
    assert not Path(instance.root_directory, "logs", "ui").exists()
