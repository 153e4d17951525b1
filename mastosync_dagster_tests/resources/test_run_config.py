"""The resources inside Dagster: overridden per run, with secrets as {env: NAME} only."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.resources import MastodonDatabase, S3Bucket, Secret
from mastosync_dagster_tests.support.installation import failure_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster_tests.support.corners import Bucket

LITERAL = "hunter2-literal-secret"
SECRETS = [
    ("mastodon_db", "database_url"),
    ("mastodon_db", "password"),
    ("mastodon_db", "ssh_tunnel_password"),
    ("mastodon_db", "ssh_tunnel_key_passphrase"),
    ("source", "aws_secret_access_key"),
    ("source", "aws_session_token"),
    ("destination", "aws_secret_access_key"),
    ("destination", "aws_session_token"),
]
JOB = Path(__file__)


@dg.op
def touch(mastodon_db: MastodonDatabase, source: S3Bucket, destination: S3Bucket) -> list[str]:
    """Use all three resources."""
    with mastodon_db.session() as connect, contextlib.closing(connect()) as connection:
        name = str(connection.info.dbname)
    storages = [bucket.storage() for bucket in (source, destination)]
    assert all(each.check() is None for each in storages)
    return [name, *[each.settings.bucket for each in storages]]


@dg.job(
    resource_defs={
        "mastodon_db": MastodonDatabase(),
        "source": S3Bucket.source(),
        "destination": S3Bucket.destination(),
        "io_manager": dg.mem_io_manager,
    },
    executor_def=dg.in_process_executor,
)
def touch_all() -> None:
    """One op that needs every resource."""
    touch()


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster home."""
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("S3_", "AWS_", "DESTINATION_", "MASTOSYNC_", "DB_", "DATABASE_", "SSH_TUNNEL_")):
            monkeypatch.delenv(name)


def stored(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def config_of(resource: str, field: str, value: object) -> dict[str, object]:
    return {"resources": {resource: {"config": {field: value}}}}


def test_everything_can_come_from_the_environment_or_from_run_config(
    database: PostgresServer,
    source_bucket: Bucket,
    destination_bucket: Bucket,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = [database.database, source_bucket.name, destination_bucket.name]
    monkeypatch.setenv("MASTOSYNC_SECRET_ONE", database.password)
    monkeypatch.setenv("MASTOSYNC_SECRET_TWO", source_bucket.server.secret_access_key)
    monkeypatch.setenv("MASTOSYNC_SECRET_THREE", destination_bucket.server.secret_access_key)
    run_config = {
        "resources": {
            "mastodon_db": {
                "config": {
                    "host": database.host,
                    "port": database.port,
                    "dbname": database.database,
                    "user": database.user,
                    "password": {"env": "MASTOSYNC_SECRET_ONE"},
                }
            },
            **{
                name: {
                    "config": {
                        "bucket": bucket.name,
                        "endpoint_url": bucket.server.endpoint,
                        "aws_access_key_id": bucket.server.access_key_id,
                        "aws_secret_access_key": {"env": variable},
                    }
                }
                for name, bucket, variable in (
                    ("source", source_bucket, "MASTOSYNC_SECRET_TWO"),
                    ("destination", destination_bucket, "MASTOSYNC_SECRET_THREE"),
                )
            },
        }
    }
    by_config = touch_all.execute_in_process(run_config=run_config, instance=instance)
    assert by_config.output_for_node("touch") == expected

    monkeypatch.setenv("DATABASE_URL", database.url)
    for prefix, bucket in (("", source_bucket), ("DESTINATION_", destination_bucket)):
        monkeypatch.setenv(f"{prefix}S3_BUCKET", bucket.name)
        monkeypatch.setenv(f"{prefix}S3_ENDPOINT", bucket.server.endpoint)
        monkeypatch.setenv(f"{prefix}AWS_ACCESS_KEY_ID", bucket.server.access_key_id)
        monkeypatch.setenv(f"{prefix}AWS_SECRET_ACCESS_KEY", bucket.server.secret_access_key)
    by_environment = touch_all.execute_in_process(instance=instance)
    assert by_environment.output_for_node("touch") == expected

    # A field of one run over the environment of all.
    other = config_of("source", "bucket", destination_bucket.name)
    overridden = touch_all.execute_in_process(run_config=other, instance=instance, raise_on_error=False)
    assert not overridden.success

    kept = stored(Path(instance.root_directory))
    for secret in (
        database.password,
        source_bucket.server.secret_access_key,
        destination_bucket.server.secret_access_key,
    ):
        assert secret.encode() not in kept


def test_every_field_that_holds_a_secret_is_one_of_these() -> None:
    resources = {
        "mastodon_db": MastodonDatabase.model_fields,
        "source": S3Bucket.model_fields,
        "destination": S3Bucket.model_fields,
    }
    found = [
        (name, field)
        for name, fields in resources.items()
        for field, info in fields.items()
        if info.annotation == Secret | None
    ]
    assert sorted(found) == sorted(SECRETS)


@pytest.mark.parametrize(("resource", "field"), SECRETS)
@pytest.mark.parametrize("value", [LITERAL, {"environment": LITERAL}, [LITERAL]])
def test_a_literal_in_the_place_of_a_secret_is_refused_before_a_run_exists(
    instance: dg.DagsterInstance, resource: str, field: str, value: object
) -> None:
    runs = instance.get_runs_count()
    with pytest.raises(dg.DagsterInvalidConfigError) as caught:
        touch_all.execute_in_process(run_config=config_of(resource, field, value), instance=instance)
    assert field in str(caught.value)
    assert "env" in str(caught.value)
    assert LITERAL not in str(caught.value)
    assert instance.get_runs_count() == runs
    assert LITERAL.encode() not in stored(Path(instance.root_directory))


@pytest.mark.long(cases=0)
def test_the_command_line_refuses_a_literal_too(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(config_of("source", "aws_secret_access_key", LITERAL)))
    command = [str(Path(sys.executable).with_name("dagster")), "job", "execute", "-f", str(JOB), "-j", "touch_all"]
    refused = subprocess.run(
        command + ["-c", str(config)],
        env={**os.environ, "DAGSTER_HOME": str(home)},
        cwd=JOB.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode != 0
    assert "aws_secret_access_key must be dict" in refused.stderr
    assert LITERAL not in refused.stderr + refused.stdout
    assert LITERAL.encode() not in stored(home)


def test_a_missing_variable_fails_the_step_with_its_name(instance: dg.DagsterInstance) -> None:
    run_config = config_of("mastodon_db", "password", {"env": "MASTOSYNC_SECRET_X"})
    result = touch_all.execute_in_process(run_config=run_config, instance=instance, raise_on_error=False)
    assert not result.success
    (failed,) = result.get_step_failure_events()
    error = failed.step_failure_data.error
    assert error is not None
    assert error.cause is not None
    assert error.cause.cls_name == "MissingSettingError"
    assert "MASTOSYNC_SECRET_X is not set; resources.mastodon_db.config.password reads it." in error.cause.message


def errors_of(result: dg.ExecuteInProcessResult) -> str:
    """Return what a run has ended with, down to the first cause."""
    messages = []
    for event in result.all_events:
        data = event.event_specific_data
        error = getattr(data, "error", None)
        while error is not None:
            messages.append(error.message)
            error = error.cause
    return "\n".join(messages)


@pytest.mark.parametrize(
    ("resource", "field"),
    [
        ("mastodon_db", "host"),
        ("mastodon_db", "user"),
        ("mastodon_db", "ssh_tunnel_host"),
        ("source", "bucket"),
        ("source", "profile_name"),
        ("source", "aws_access_key_id"),
        ("destination", "endpoint_url"),
        ("destination", "key_prefix"),
    ],
)
@pytest.mark.parametrize("name", ["SECRET_KEY_BASE", "AWS_SECRET_ACCESS_KEY", "S3_REGION"])
def test_no_field_takes_the_value_of_a_variable_that_it_does_not_know(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, resource: str, field: str, name: str
) -> None:
    monkeypatch.setenv(name, LITERAL)
    run_config = config_of(resource, field, {"env": name})
    result = touch_all.execute_in_process(run_config=run_config, instance=instance, raise_on_error=False)
    assert not result.success
    messages = errors_of(result)
    assert f"resources.{resource}.config.{field} may not name this environment variable" in messages
    assert "a name that begins with MASTOSYNC_SECRET_" in messages
    assert LITERAL not in messages
    assert LITERAL.encode() not in stored(Path(instance.root_directory))


def test_the_name_of_a_variable_comes_from_no_other_variable(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY_BASE", "DB_PASS")
    run_config = config_of("mastodon_db", "password", {"env": {"env": "SECRET_KEY_BASE"}})
    result = touch_all.execute_in_process(run_config=run_config, instance=instance, raise_on_error=False)
    assert "resources.mastodon_db.config.password.env may not name" in errors_of(result)


def test_a_field_may_be_given_its_own_variable_and_those_that_are_made_for_it(
    database: PostgresServer, source_bucket: Bucket, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    for prefix in ("", "DESTINATION_"):
        monkeypatch.setenv(f"{prefix}S3_BUCKET", source_bucket.name)
        monkeypatch.setenv(f"{prefix}S3_ENDPOINT", source_bucket.server.endpoint)
        monkeypatch.setenv(f"{prefix}AWS_ACCESS_KEY_ID", source_bucket.server.access_key_id)
        monkeypatch.setenv(f"{prefix}AWS_SECRET_ACCESS_KEY", source_bucket.server.secret_access_key)
    monkeypatch.setenv("MASTOSYNC_SECRET_NAME", source_bucket.name)
    config = {"bucket": {"env": "MASTOSYNC_SECRET_NAME"}, "aws_access_key_id": {"env": "DESTINATION_AWS_ACCESS_KEY_ID"}}
    run_config = {
        "resources": {
            "mastodon_db": {"config": {"database_url": {"env": "DATABASE_URL"}}},
            "source": {"config": {"bucket": {"env": "S3_BUCKET"}}},
            "destination": {"config": config},
        }
    }
    assert touch_all.execute_in_process(run_config=run_config, instance=instance).success


NUMBERS = [
    (resource, name)
    for resource, kind in (("mastodon_db", MastodonDatabase), ("source", S3Bucket), ("destination", S3Bucket))
    for name, field in kind.model_fields.items()
    if field.annotation == int | None
]


def test_there_are_numbers_among_the_fields_of_all_resources() -> None:
    assert {"port", "ssh_tunnel_port", "connect_timeout", "read_timeout", "upload_timeout"} == {
        name for _, name in NUMBERS
    }


@pytest.mark.parametrize("value", [0, -1, 10**12, 10**30])
@pytest.mark.parametrize(("resource", "field"), NUMBERS)
def test_a_wrong_number_fails_the_op_with_one_sentence(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, resource: str, field: str, value: int
) -> None:
    for prefix in ("", "DESTINATION_"):
        monkeypatch.setenv(f"{prefix}S3_BUCKET", f"{prefix}bucket".lower().replace("_", "-"))
    monkeypatch.setenv("SSH_TUNNEL_HOST", "127.0.0.1")
    monkeypatch.setenv("SSH_TUNNEL_PASSWORD", LITERAL)
    run_config = config_of(resource, field, value)
    job = build_definitions().resolve_job_def("sync_changes")
    result = job.execute_in_process(run_config=run_config, instance=instance, raise_on_error=False)
    description = failure_of(result)
    assert re.fullmatch(rf"resources\.{resource}\.config\.{field} must be a whole number from 1 to \d+\.", description)
    assert set(filter(None, errors_of(result).splitlines())) == {description}


@pytest.mark.parametrize("field", ["changed_since", "file_types"])
def test_config_of_an_op_takes_no_variable(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    monkeypatch.setenv("SECRET_KEY_BASE", LITERAL)
    value: object = {"env": "SECRET_KEY_BASE"}
    run_config = {"ops": {"plan_changes": {"config": {field: [value] if field == "file_types" else value}}}}
    job = build_definitions().resolve_job_def("sync_changes")
    result = job.execute_in_process(run_config=run_config, instance=instance, raise_on_error=False)
    assert f"ops.plan_changes.config.{field} may not name this environment variable" in errors_of(result)
    assert LITERAL.encode() not in stored(Path(instance.root_directory))


def test_what_the_resource_page_shows_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*MastodonDatabase.VARIABLES.values(), *S3Bucket.destination().variables.values()):
        monkeypatch.setenv(name, LITERAL)
    definitions = dg.Definitions(
        resources={
            "mastodon_db": MastodonDatabase(password=Secret(env="DB_PASS")),
            "destination": S3Bucket.destination(),
        }
    )
    resources = definitions.get_repository_def().get_top_level_resources()
    shown = json.dumps({name: resource.config_schema.default_value for name, resource in resources.items()})
    assert "DB_PASS" in shown
    assert LITERAL not in shown
