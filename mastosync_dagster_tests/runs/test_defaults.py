"""What .env.example and docs/settings.md show as a default is what holds where the variable is not set."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster import environment
from mastosync_dagster.environment import Environment
from mastosync_dagster.expected.policy import instance_policy
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.resources.database import _fields, _target, _tunnel_settings
from mastosync_dagster.sync.automation import Nightly
from mastosync_dagster_tests.support.run_configs import every_config

if TYPE_CHECKING:
    from collections.abc import Iterable

    import dagster as dg

    from mastosync_dagster.s3.settings import StorageSettings

EXAMPLE = (Path(__file__).parents[2] / ".env.example").read_text(encoding="utf-8")
DEFAULTS = dict(re.findall(r"^#([A-Z][A-Z0-9_]*)=(.+)$", EXAMPLE, re.MULTILINE))
EXAMPLES = dict(re.findall(r"^([A-Z][A-Z0-9_]*)=(.+)$", EXAMPLE, re.MULTILINE))
OTHER_VALUES = {
    "S3_REGION": "eu-west-3",
    "S3_PERMISSION": "private",
    "DB_NAME": "mastodon",
    "DB_USER": "mastosync",
    "DB_SSLMODE": "require",
    "SSH_TUNNEL_KNOWN_HOSTS": "~/known_hosts",
    "MASTOSYNC_NIGHTLY_CRON": "0 4 * * *",
    "MASTOSYNC_NIGHTLY_TIMEZONE": "Europe/Berlin",
    "MASTOSYNC_PRICES_FROM": "amazon",
    "MASTOSYNC_PRICES_TO": "amazon",
    "MASTOSYNC_PRIVACY": "source",
    "MASTOSYNC_VERIFY_HEADERS": "all",
    "MASTOSYNC_VERIFY_ACLS": "all",
}
"""Of the texts, another one that is right; of numbers and choices there is one in any case."""


def storage_settings(bucket: S3Bucket) -> StorageSettings:
    """Return a bucket's settings with the region that requests are signed for."""
    storage = bucket.storage()
    return replace(storage.settings, region=storage.region)


def connect_timeout(database: MastodonDatabase) -> float:
    """Return the seconds that a connection through the tunnel may take."""
    with database.session(retry_first=True) as connect:
        through_tunnel = vars(connect)["_connect"]
        assert isinstance(through_tunnel, partial)
        seconds: float = through_tunnel.func.__self__._connect_timeout  # type: ignore[attr-defined]  # a bound method
        return seconds


def what_holds(configs: Iterable[type[dg.Config]]) -> dict[str, object]:
    """Return everything that a variable with a default decides, as the code reads it now: the run configs, and more."""
    database = MastodonDatabase()
    fields = _fields(database, Environment.read())
    target = _target(fields)
    return {
        **{config.__name__: config().model_dump() for config in configs},
        "source": storage_settings(S3Bucket.source()),
        "destination": storage_settings(S3Bucket.destination()),
        "database": target,
        "tunnel": _tunnel_settings(fields, target),
        "connect_timeout": connect_timeout(database),
        "policy": instance_policy(),
        "nightly": Nightly.read(),
        "rows_per_partition": environment.rows_per_partition(),
        "retry_nights": environment.retry_nights(),
        "alert_good_nights": environment.alert_good_nights(),
        "cache_lost": environment.cache_lost(),
    }


def other_value(name: str, default: str) -> str:
    """Return a value of a variable that is right, and not its default."""
    if default in {"true", "false"}:
        return "false" if default == "true" else "true"
    if default.isdecimal():
        return str(int(default) + 1)
    return OTHER_VALUES[name.removeprefix("DESTINATION_")]


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The example's own values, a tunnel, and nothing else: no other variable, and no file of settings."""
    for name in environment.known_names() & os.environ.keys():
        monkeypatch.delenv(name)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    (tmp_path / ".ssh").mkdir()
    for file in (".ssh/known_hosts", "known_hosts"):
        (tmp_path / file).touch()
    more = {"HOME": str(tmp_path), "SSH_TUNNEL_HOST": "ssh.example", "SSH_TUNNEL_PASSWORD": "x"}
    for name, value in {**EXAMPLES, **more}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.long
@pytest.mark.usefixtures("examples")
def test_a_default_of_the_example_file_is_what_holds_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(DEFAULTS) > 40
    configs = every_config()
    without, wrong = what_holds(configs), dict[str, str]()
    for name, default in DEFAULTS.items():
        monkeypatch.setenv(name, default)
        shown = what_holds(configs)
        monkeypatch.setenv(name, other_value(name, default))
        # Without a variable that changes something the comparison would say nothing.
        if what_holds(configs) == shown:
            wrong[name] = "another value changes nothing here: this test does not see it"
        elif shown != without:
            wrong[name] = f"{default} is not what holds without it"
        monkeypatch.delenv(name)
    assert wrong == {}
