"""A destination folder is known by its marker: an empty mount point is not taken for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.environment import SettingsError
from mastosync_dagster.folder.storage import FolderStorage, folder_settings
from mastosync_dagster.runs.destination_folder import ensure_mounted, mark

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def destination(path: Path) -> FolderStorage:
    path.mkdir(exist_ok=True)
    return FolderStorage(folder_settings("destination", "DESTINATION_", path), path, writable=True)


def test_a_folder_is_marked_once_and_then_only_taken_with_its_marker(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    at = destination(tmp_path / "disk")
    ensure_mounted(instance, at)
    assert not at.marker.exists(), "looking is not using"
    mark(instance, at)
    mark(instance, at)
    assert [path.name for path in (tmp_path / "disk").iterdir()] == [".mastosync-destination"]
    at.marker.unlink()
    (tmp_path / "disk" / "another").write_text("file")
    for use in (ensure_mounted, mark):
        with pytest.raises(SettingsError, match="is its disk mounted") as raised:
            use(instance, at)
        assert f"touch {at.marker}" in str(raised.value)
    assert not at.marker.exists()
    # The admin says that it is the folder all the same.
    at.marker.touch()
    mark(instance, at)
    # Another folder is another destination.
    mark(instance, destination(tmp_path / "other"))


def test_a_marked_folder_is_known_to_a_new_home(tmp_path: Path) -> None:
    at = destination(tmp_path / "disk")
    for _ in range(2):
        with dg.DagsterInstance.ephemeral() as instance:
            mark(instance, at)
    with dg.DagsterInstance.ephemeral() as instance:
        mark(instance, at)
        at.marker.unlink()
        with pytest.raises(SettingsError):
            mark(instance, at)


def test_a_folder_that_cannot_be_marked_is_named(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    at = destination(tmp_path / "disk")
    # A folder in the marker's place stands for all that keeps this user from writing: root may write anywhere.
    at.marker.mkdir()
    (at.marker / "file").touch()
    with pytest.raises(SettingsError, match="MASTOSYNC_DESTINATION_FOLDER"):
        mark(instance, at)


def test_a_source_gets_no_marker(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    at = FolderStorage(folder_settings("source", "", tmp_path), tmp_path, writable=False)
    mark(instance, at)
    assert list(tmp_path.iterdir()) == []
