"""The lines for Mastodon's ``.env.production``, by the settings of the new bucket and the lines of the old one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.cutover.answers import Answer
from mastosync_dagster.cutover.mastodon_env import env_text
from mastosync_dagster.cutover.media_host import media_host_line
from mastosync_dagster.environment import SettingsError
from mastosync_dagster.s3.settings import StorageSettings
from mastosync_dagster.s3.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Mapping

NEW: Mapping[str, object] = {"name": "destination", "bucket": "new", "endpoint_url": "https://s3.example"}
AMAZON: Mapping[str, object] = {"endpoint_url": None, "region": "eu-west-1"}
NAMES = (
    *("S3_ALIAS_HOST", "S3_CLOUDFRONT_HOST", "S3_ENDPOINT", "S3_OVERRIDE_PATH_STYLE", "S3_STORAGE_CLASS"),
    *("S3_KEY_PREFIX", "S3_FORCE_SINGLE_REQUEST", "S3_MULTIPART_THRESHOLD"),
)


def text_of(monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, object], variables: Mapping[str, str]) -> str:
    """Return the lines for a new bucket, given those that Mastodon has now."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return env_text(Storage(StorageSettings(**{**NEW, **settings})))  # type: ignore[arg-type]  # a table of settings


def lines(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    found = text_of(monkeypatch, {}, variables)
    return [line for line in found.splitlines() if "ALIAS" in line or "CLOUDFRONT" in line]


@pytest.mark.parametrize(
    ("settings", "region", "server", "more"),
    [
        pytest.param({}, "us-east-1", "https s3.example", ["S3_ENDPOINT=https://s3.example"], id="an endpoint"),
        pytest.param(
            {"endpoint_url": "http://127.0.0.1:9000", "region": "garage"},
            "garage",
            "http 127.0.0.1:9000",
            ["S3_ENDPOINT=http://127.0.0.1:9000"],
            id="a port and http",
        ),
        pytest.param(
            {"path_style": False},
            "us-east-1",
            "https s3.example",
            ["S3_ENDPOINT=https://s3.example", "S3_OVERRIDE_PATH_STYLE=true"],
            id="virtual-host style",
        ),
        pytest.param(AMAZON, "eu-west-1", "https s3.eu-west-1.amazonaws.com", [], id="Amazon"),
        pytest.param(
            # Without an endpoint Mastodon takes virtual-host style itself.
            {**AMAZON, "path_style": False, "storage_class": "STANDARD_IA", "prefix": "media/files/"},
            "eu-west-1",
            "https s3.eu-west-1.amazonaws.com",
            ["S3_STORAGE_CLASS=STANDARD_IA", "S3_KEY_PREFIX=media/files"],
            id="Amazon, a storage class, a key prefix",
        ),
        pytest.param(
            {**AMAZON, "region": "cn-north-1"}, "cn-north-1", "https s3.cn-north-1.amazonaws.com.cn", [], id="China"
        ),
        pytest.param(
            {"endpoint_url": "https://s3.eu-central-1.wasabisys.com", "region": "eu-central-1"},
            "eu-central-1",
            "https s3.eu-central-1.wasabisys.com",
            ["S3_ENDPOINT=https://s3.eu-central-1.wasabisys.com", "S3_FORCE_SINGLE_REQUEST=true"],
            id="Wasabi",
        ),
        pytest.param(
            {"endpoint_url": "https://sos-ch-dk-2.exo.io:443/", "region": "ch-dk-2"},
            "ch-dk-2",
            "https sos-ch-dk-2.exo.io:443",
            ["S3_ENDPOINT=https://sos-ch-dk-2.exo.io:443/", "S3_FORCE_SINGLE_REQUEST=true"],
            id="Exoscale",
        ),
        pytest.param(
            {"endpoint_url": "https://storage.googleapis.com", "region": "auto"},
            "auto",
            "https storage.googleapis.com",
            ["S3_ENDPOINT=https://storage.googleapis.com", "S3_MULTIPART_THRESHOLD=52428800"],
            id="Google",
        ),
    ],
)
def test_mastodon_reaches_the_new_bucket_and_no_line_of_the_old_one_stays(
    monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, object], region: str, server: str, more: list[str]
) -> None:
    protocol, hostname = server.split()
    always = {
        *("S3_ENABLED=true", "S3_BUCKET=new", f"S3_REGION={region}", f"S3_PROTOCOL={protocol}"),
        *(f"S3_HOSTNAME={hostname}", "S3_PERMISSION=", "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY="),
    }
    (remark,) = set(text_of(monkeypatch, settings, {}).splitlines()) - {*always, *more}
    assert remark.startswith("# Mastodon's own key")
    # Each of these may stand in the lines of the old bucket.
    old = dict.fromkeys(NAMES[2:], "old")
    found = text_of(monkeypatch, settings, old).splitlines()
    gone = old.keys() - {line.partition("=")[0] for line in more}
    assert set(found) == {*always, *more, remark, *(f"# delete the line {name}" for name in gone)}
    assert len(found) == len(set(found))


@pytest.mark.parametrize("permission", ["public-read", "private", "", None])
def test_the_permission_is_named_and_empty_where_no_acl_is_sent(
    monkeypatch: pytest.MonkeyPatch, permission: str | None
) -> None:
    assert f"S3_PERMISSION={permission or ''}" in text_of(monkeypatch, {"permission": permission}, {}).splitlines()


@pytest.mark.parametrize(
    "host", ["files.example.com", " files.example.com ", "https://files.example.com", "https://files.example.com/"]
)
def test_a_media_host_is_named_as_mastodon_takes_it(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    assert lines(monkeypatch, S3_ALIAS_HOST=host) == ["S3_ALIAS_HOST=files.example.com"]
    assert media_host_line(Answer.NO).answer is Answer.YES
    found = lines(monkeypatch, S3_CLOUDFRONT_HOST=host)
    assert found == ["S3_ALIAS_HOST=files.example.com", "# delete the line S3_CLOUDFRONT_HOST"]


@pytest.mark.parametrize("host", ["f000.provider.example/file/old", "https://files.example.com/media"])
def test_a_folder_of_a_host_is_deleted_only_if_the_host_is_the_providers(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    (line,) = lines(monkeypatch, S3_ALIAS_HOST=host)
    assert line.startswith("# delete the line S3_ALIAS_HOST, unless its host is yours")
    assert media_host_line(Answer.NO).answer is Answer.NO


@pytest.mark.parametrize("host", ["files.example.com?x", "two hosts", "user@files.example.com", "files.example.com;"])
def test_what_is_no_host_is_refused(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    with pytest.raises(SettingsError, match="S3_ALIAS_HOST must be the name of the media host"):
        lines(monkeypatch, S3_ALIAS_HOST=host)
