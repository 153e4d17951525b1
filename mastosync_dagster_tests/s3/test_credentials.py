"""Credentials that requests are signed with, and that they never get too old."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.s3 import credentials
from mastosync_dagster.s3.credentials import credential_provider
from mastosync_dagster.s3.errors import StorageError, classify
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.s3.settings import StorageSettings
from mastosync_dagster.s3.signing import Credentials

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = StorageSettings(name="source", bucket="media")

ISSUER = """
import json, pathlib, sys
from datetime import datetime, timedelta, timezone
calls = pathlib.Path(sys.argv[1])
number = len(calls.read_text()) if calls.exists() else 0
calls.write_text("x" * (number + 1))
expiration = datetime.now(timezone.utc) + timedelta(minutes=9)
print(json.dumps({
    "Version": 1, "AccessKeyId": f"key-{number}", "SecretAccessKey": f"secret-{number}",
    "SessionToken": f"token-{number}", "Expiration": expiration.isoformat(),
}))
"""


def test_fixed_credentials_do_not_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-other-storage")
    fixed = StorageSettings(name="destination", bucket="media", access_key_id="id", secret_access_key="secret")
    assert credential_provider(fixed)() == Credentials("id", "secret", None)


@pytest.fixture
def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile whose credentials come from a program, new ones each time and for nine minutes."""
    program = tmp_path / "issue.py"
    program.write_text(ISSUER)
    config = tmp_path / "config"
    calls = tmp_path / "calls"
    config.write_text(
        f"[profile short]\ncredential_process = {json.dumps(sys.executable)} {program} {calls}\nregion = eu-west-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return calls


def test_temporary_credentials_are_renewed_long_before_their_end(issuer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = credential_provider(StorageSettings(name="source", bucket="media", profile="short"))
    first = provider()
    issued = len(issuer.read_text())
    assert [provider() for _ in range(100)] == [first] * 100
    assert len(issuer.read_text()) == issued
    # botocore renews what has less than ten minutes left: every answer is a new one here.
    monkeypatch.setattr(credentials, "_HOLD_SECONDS", -1.0)
    provider = credential_provider(StorageSettings(name="source", bucket="media", profile="short"))
    first, second = provider(), provider()
    assert first.access_key_id != second.access_key_id
    assert str(second.token).startswith("token-")


def test_the_bare_variables_are_the_sources_alone(issuer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-source")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "its-secret")
    monkeypatch.setenv("AWS_PROFILE", "short")
    destination = StorageSettings(name="destination", bucket="media", variable_prefix="DESTINATION_")
    assert credential_provider(destination)().access_key_id.startswith("key-")
    monkeypatch.delenv("AWS_PROFILE")
    assert credential_provider(SETTINGS)().access_key_id == "of-the-source"
    assert issuer.exists()


EXPIRED = {
    "Version": 1,
    "AccessKeyId": "id",
    "SecretAccessKey": "hunter2",
    "Expiration": "2020-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    "lines",
    [
        f"credential_process = echo {shlex.quote(json.dumps(EXPIRED))}",
        f"credential_process = echo {shlex.quote(json.dumps(EXPIRED | {'Expiration': 'hunter2'}))}",
        "credential_process = echo hunter2",
        "credential_process = echo []",
        "credential_process = /bin/sh -c 'echo hunter2 >&2; exit 1'",
        "credential_process = /no/such/program",
        "role_arn = arn:aws:iam::1:role/x\nweb_identity_token_file = /no/such/file",
    ],
)
def test_credentials_that_cannot_be_had_are_said_so_whatever_the_cause_and_nothing_of_them_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    (tmp_path / "config").write_text(f"[profile odd]\n{lines}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    settings = StorageSettings(name="source", bucket="media", profile="odd")
    with pytest.raises(Exception) as caught:
        credential_provider(settings)()
    error = classify(caught.value, settings)
    assert error.reason is Reason.BAD_CREDENTIALS
    assert error.retryable or error.permanent
    assert "the source's credentials cannot be" in str(error)
    assert "profile" in str(error)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("prefix", ["", "DESTINATION_"])
def test_an_empty_profile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    for name in ("AWS_DEFAULT_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_PROFILE", "")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    settings = StorageSettings(name="source", bucket="media", variable_prefix=prefix)
    with pytest.raises(StorageError, match="has no credentials"):
        credential_provider(settings)
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = id\naws_secret_access_key = secret\n")
    assert credential_provider(settings)().access_key_id == "id"
