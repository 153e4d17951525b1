"""The lines for Mastodon's ``.env.production``, as far as the media host decides about them."""

from __future__ import annotations

import pytest

from mastosync_dagster.cutover.answers import Answer
from mastosync_dagster.cutover.mastodon_env import env_text
from mastosync_dagster.cutover.media_host import media_host_line
from mastosync_dagster.environment import SettingsError
from mastosync_dagster.s3.settings import StorageSettings
from mastosync_dagster.s3.storage import Storage

NEW = Storage(StorageSettings(name="destination", bucket="new", endpoint_url="https://s3.example", region="eu"))


def lines(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    for name in ("S3_ALIAS_HOST", "S3_CLOUDFRONT_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return [line for line in env_text(NEW).splitlines() if "ALIAS" in line or "CLOUDFRONT" in line]


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
