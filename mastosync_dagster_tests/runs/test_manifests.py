"""Which places for manifests are refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.environment import SettingsError
from mastosync_dagster.records.store import FolderManifests
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster.records.store import ManifestStore

SOURCE = {"S3_BUCKET": "media-old", "S3_ENDPOINT": "https://s3.example.com"}
DESTINATION = {"DESTINATION_S3_BUCKET": "media-new", "DESTINATION_S3_ENDPOINT": "https://s3.example.com"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("S3_", "AWS_", "DESTINATION_", "MASTOSYNC_")):
            monkeypatch.delenv(name)


def settle(monkeypatch: pytest.MonkeyPatch, manifests: str, **variables: str) -> None:
    for name, value in {**SOURCE, **DESTINATION, **variables, "MASTOSYNC_MANIFESTS": manifests}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("manifests", "variables", "storage"),
    [
        ("s3://media-new", {}, "destination"),
        ("s3://media-new/manifests", {}, "destination"),
        ("s3://media-old/manifests", {}, "source"),
        ("s3://Media-New/manifests", {}, "destination"),
        ("S3://media-new//", {}, "destination"),
        ("s3://media-new/a", {"DESTINATION_S3_KEY_PREFIX": "b"}, "destination"),
        ("s3://media-old/a", {"S3_ENDPOINT": "https://S3.EXAMPLE.COM:443/", "S3_KEY_PREFIX": "c"}, "source"),
        ("s3://media-old/a", {"S3_ENDPOINT": "https://s3.example.com.", "S3_OVERRIDE_PATH_STYLE": "true"}, "source"),
        (
            "s3://media-old",
            {"S3_ENDPOINT": "", "DESTINATION_S3_ENDPOINT": "https://s3.eu-west-1.amazonaws.com"},
            "source",
        ),
    ],
)
def test_manifests_in_a_bucket_with_media_are_refused(
    monkeypatch: pytest.MonkeyPatch, manifests: str, variables: dict[str, str], storage: str
) -> None:
    settle(monkeypatch, manifests, **variables)
    with dg.instance_for_test() as instance, pytest.raises(SettingsError) as caught:
        manifest_store(instance, S3Bucket.destination())
    bucket = manifests.split("/")[2]
    assert str(caught.value) == (
        f"MASTOSYNC_MANIFESTS names the bucket {bucket}, which holds media (it is the {storage}'s) and which the world "
        "may read: name another bucket, or a folder."
    )


@pytest.mark.parametrize("name", ["MASTOSYNC_DESTINATION_FOLDER", "MASTOSYNC_SOURCE_FOLDER"])
def test_manifests_in_a_folder_with_media_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    media, link = tmp_path / "media", tmp_path / "link"
    (media / "home").mkdir(parents=True)
    link.symlink_to(media)
    monkeypatch.setenv(name, str(media))
    for manifests in (media, media / "manifests", link / "a" / "b", tmp_path / "x" / ".." / "media"):
        settle(monkeypatch, str(manifests))
        with dg.instance_for_test() as instance, pytest.raises(SettingsError, match=rf"^MASTOSYNC_MANIFESTS.*{name}"):
            manifest_store(instance, S3Bucket.destination())
    for manifests in (tmp_path, tmp_path / "media-manifests"):
        settle(monkeypatch, str(manifests))
        with dg.instance_for_test() as instance:
            assert manifest_store(instance, S3Bucket.destination())
    monkeypatch.delenv("MASTOSYNC_MANIFESTS")
    with (
        dg.instance_for_test(temp_dir=str(media / "home")) as instance,
        pytest.raises(SettingsError, match=r"^DAGSTER_HOME"),
    ):
        manifest_store(instance, S3Bucket.destination())


@pytest.mark.parametrize(
    ("manifests", "variables"),
    [
        ("s3://manifests/media-new", {}),
        ("s3://media-old/manifests", {"S3_ENDPOINT": "https://other.example.com"}),
        ("s3://media-old/manifests", {"S3_ENDPOINT": ""}),
        ("s3://media-old", {"S3_BUCKET": ""}),
    ],
)
def test_another_bucket_is_taken(monkeypatch: pytest.MonkeyPatch, manifests: str, variables: dict[str, str]) -> None:
    settle(monkeypatch, manifests, **variables)
    with dg.instance_for_test() as instance:
        assert manifest_store(instance, S3Bucket.destination())


@pytest.mark.parametrize(
    "manifests", ["s3://", "s3:///x", "s3://a%62c/x", "s3://b?c", "s3://evil@b", "s3://a b", "s3://a\nb", "s3://b/c\nd"]
)
def test_what_is_no_bucket_is_refused(monkeypatch: pytest.MonkeyPatch, manifests: str) -> None:
    settle(monkeypatch, manifests)
    with dg.instance_for_test() as instance, pytest.raises(SettingsError, match="MASTOSYNC_MANIFESTS must be"):
        manifest_store(instance, S3Bucket.destination())


def test_a_command_ends_with_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch, "s3://media-new/manifests")
    with dg.instance_for_test() as instance:
        monkeypatch.setenv("DAGSTER_HOME", instance.root_directory)
        outcome = CliRunner().invoke(main, ["report"])
    assert outcome.exit_code == 1
    assert outcome.stderr.startswith("Error: MASTOSYNC_MANIFESTS names the bucket media-new")
    assert len(outcome.output.splitlines()) == 1


def test_without_a_place_that_all_machines_see_manifests_are_refused_where_the_history_is_on_another(
    database: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in DESTINATION.items():
        monkeypatch.setenv(name, value)
    destination = S3Bucket.destination()

    def store(host: str, query: str) -> ManifestStore:
        address = f"{database.user}:{database.password}@{host}:{database.port}/{database.database}{query}"
        storage = f"storage: {{postgres: {{postgres_url: 'postgresql+psycopg2://{address}'}}}}\n"
        (tmp_path / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{storage}")
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            return manifest_store(instance, destination)

    with pytest.raises(SettingsError, match="MASTOSYNC_MANIFESTS is not set, and the history is on"):
        store("history.example", "?hostaddr=127.0.0.1")
    assert isinstance(store("127.0.0.1", ""), FolderManifests)
    monkeypatch.setenv("MASTOSYNC_MANIFESTS", str(tmp_path))
    assert isinstance(store("history.example", "?hostaddr=127.0.0.1"), FolderManifests)
