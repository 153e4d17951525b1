"""``mastosync report`` of a home that has copied to several destinations is about the one of the settings alone."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.records.folding import fold_manifests
from mastosync_dagster.records.manifest import FORMAT, ManifestLine
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.parquet import LineWriter
from mastosync_dagster.records.store import FolderManifests
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import ManifestOrigin
from mastosync_dagster.runs.watermarks import SYNC_CHANGES
from mastosync_dagster_tests.support.manifests import manifest_line
from mastosync_dagster_tests.support.reporting import report

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FAILED, COPIED, MISSING = Outcome.FAILED, Outcome.COPIED, Outcome.MISSING


class Home:
    """A folder of manifests, and no database; each manifest is written a second after the one before."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = folder / "home"
        home.mkdir()
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        self.store = FolderManifests(folder / "manifests")
        self._folder, self._monkeypatch = folder, monkeypatch
        self._runs = 0
        for name, value in {
            "DAGSTER_HOME": str(home),
            "DATABASE_URL": "postgresql://nobody:x@127.0.0.1:1/none",
            "MASTOSYNC_MANIFESTS": str(folder / "manifests"),
        }.items():
            monkeypatch.setenv(name, value)

    def settings(self, bucket: str, permission: str = "public-read") -> ManifestOrigin:
        """Let the settings name a bucket; return it as manifests name it."""
        self._monkeypatch.setenv("DESTINATION_S3_BUCKET", bucket)
        self._monkeypatch.setenv("DESTINATION_S3_PERMISSION", permission)
        settings = S3Bucket.destination().settings()
        return ManifestOrigin(settings.identity, acls=settings.has_acls)

    def publish(self, origin: ManifestOrigin | None, outcomes: Mapping[int, Outcome], partition: str = "") -> None:
        """Publish the manifest of a run over an ID range; without one, of a night."""
        self._runs += 1
        file = self._folder / "lines.parquet"
        with LineWriter[ManifestLine](file, FORMAT.schema(origin.metadata() if origin else None)) as writer:
            for row_id, outcome in outcomes.items():
                key = f"accounts/avatars/{row_id}/original/a.png"
                writer.write(manifest_line(row_id, group="accounts", part="avatar/original", key=key, outcome=outcome))
        place = ("accounts", partition) if partition else (SYNC_CHANGES, "changes")
        where = self.store.write(file, *place, f"run-{self._runs:02}")
        os.utime(where, (1_700_000_000 + self._runs,) * 2)

    def publish_nights(self, origin: ManifestOrigin, outcome: Outcome, count: int = 1) -> None:
        for _ in range(count):
            self.publish(origin, dict.fromkeys((1, 20), outcome))

    def outcomes(self) -> dict[str, dict[int, str] | int]:
        """Return what the report says of each object that is missing or failed, and how many are copied."""
        shown = json.loads(report("accounts", "--format", "json"))
        listed = {each["id"]: each["outcome"] for each in shown["objects"]}
        return {"listed": listed, "copied": shown["totals"]["accounts"]["copied"]}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path, monkeypatch)


NOTHING = {"listed": {}, "copied": 0}


def test_a_destination_into_which_nothing_was_copied_has_nothing_to_report(home: Home) -> None:
    first = home.settings("first")
    home.publish(first, {1: FAILED, 2: COPIED}, "1-9")
    home.publish(first, {1: FAILED, 2: COPIED, 20: MISSING})
    home.settings("nope")
    assert home.outcomes() == NOTHING


def test_what_has_failed_into_one_destination_stays_so_however_another_one_fares(home: Home) -> None:
    """Of a range's own run, and of a night; after it, and before it."""
    first, second = home.settings("first"), home.settings("second")
    home.publish(second, {1: COPIED, 2: MISSING, 20: COPIED})
    home.publish(first, {1: COPIED, 2: FAILED, 3: FAILED}, "1-9")
    home.publish(first, {3: COPIED, 20: FAILED})
    home.publish(second, {1: FAILED, 2: COPIED, 3: MISSING}, "1-9")
    home.publish(second, {2: COPIED, 3: COPIED, 20: COPIED})
    assert home.outcomes() == {"listed": {1: "failed"}, "copied": 3}
    home.settings("first")
    assert home.outcomes() == {"listed": {2: "failed", 20: "failed"}, "copied": 2}


def test_what_a_night_says_of_a_range_counts_though_the_range_went_elsewhere_since(home: Home) -> None:
    first, second = home.settings("first"), home.settings("second")
    home.publish(first, {1: FAILED, 2: COPIED})
    home.publish(second, {1: COPIED, 2: COPIED}, "1-9")
    home.settings("first")
    assert home.outcomes() == {"listed": {1: "failed"}, "copied": 1}


def test_a_fold_keeps_the_newest_word_about_each_destination(home: Home) -> None:
    first, second = home.settings("first"), home.settings("second")
    home.publish_nights(first, COPIED, 8)
    home.publish_nights(first, FAILED)
    home.publish_nights(second, COPIED, 12)
    fold_manifests(home.store, SYNC_CHANGES, "changes", pytest.fail)
    assert len(list(home.store.files(SYNC_CHANGES))) == 11
    assert home.outcomes() == {"listed": {}, "copied": 2}
    home.settings("first")
    assert home.outcomes() == {"listed": {1: "failed", 20: "failed"}, "copied": 0}


def test_the_same_destination_without_acls_is_no_other_one(home: Home) -> None:
    home.publish(home.settings("first"), {1: FAILED}, "1-9")
    home.publish(home.settings("first"), {20: MISSING})
    home.settings("first", permission="")
    assert home.outcomes() == {"listed": {1: "failed", 20: "missing"}, "copied": 0}


def test_manifests_that_name_no_destination_count_for_each(home: Home) -> None:
    home.publish(None, {1: FAILED, 2: FAILED}, "1-9")
    home.publish(None, {2: COPIED, 20: MISSING})
    home.settings("first")
    assert home.outcomes() == {"listed": {1: "failed", 20: "missing"}, "copied": 1}
