"""Paths with a ``~`` that leads nowhere: that of no user, or of a user without a home folder, as in containers."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.copy.spending import check_prices
from mastosync_dagster.environment import Environment, SettingsError
from mastosync_dagster.installation.home_files import absolute
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.manifests import manifest_store

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def _tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOST": "127.0.0.1", "PORT": "1", "USER": "tunnel", "PASSWORD": "x"}.items():
        monkeypatch.setenv(f"SSH_TUNNEL_{name}", value)


def connect() -> None:
    with MastodonDatabase().session():
        pass


def open_manifests() -> None:
    with dg.instance_for_test() as instance:
        manifest_store(instance, S3Bucket.destination())


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("SSH_TUNNEL_KEY_FILE", connect),
        ("SSH_TUNNEL_KNOWN_HOSTS", connect),
        ("MASTOSYNC_ENV_FILE", Environment.read),
        ("MASTOSYNC_PRICES", check_prices),
        ("MASTOSYNC_MANIFESTS", open_manifests),
    ],
)
def test_the_home_folder_of_nobody_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, read: Callable[[], object]
) -> None:
    monkeypatch.setenv(name, "~nobody-of-this-name/file")
    with pytest.raises(SettingsError) as caught:
        read()
    assert str(caught.value).startswith(name)
    assert "~nobody-of-this-name/file" in str(caught.value)
    assert "absolute path" in str(caught.value)


def test_a_path_of_an_installation_may_not_be_in_the_home_folder_of_nobody() -> None:
    with pytest.raises(SettingsError, match="~nobody-of-this-name/home"):
        absolute(Path("~nobody-of-this-name/home"))


def test_a_user_without_a_home_folder_is_asked_for_known_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("SSH_TUNNEL_KNOWN_HOSTS", raising=False)
    with pytest.raises(SettingsError, match=r"^SSH_TUNNEL_KNOWN_HOSTS \(or .*~/\.ssh/known_hosts"):
        connect()


def test_known_hosts_that_cannot_be_looked_for_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_TUNNEL_KNOWN_HOSTS", f"/{'x' * 300}")
    with pytest.raises(SettingsError, match=r"^SSH_TUNNEL_KNOWN_HOSTS .*File name too long"):
        connect()
