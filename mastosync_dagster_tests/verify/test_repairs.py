"""What a verification has found at one destination is put right there, whatever was verified elsewhere since."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.findings import FORMAT as FINDINGS
from mastosync_dagster.records.findings import Finding, FindingLine
from mastosync_dagster.records.manifest import FORMAT as MANIFEST
from mastosync_dagster.records.manifest import ManifestLine
from mastosync_dagster.records.parquet import Format, LineWriter
from mastosync_dagster.records.store import FolderManifests
from mastosync_dagster.runs.manifests import Damaged, ManifestOrigin
from mastosync_dagster.verify.repairs import repairs, verification_of
from mastosync_dagster_tests.support.manifests import manifest_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ACCOUNTS, KEYS = FileType.ACCOUNTS, "1-9"
HERE, ELSEWHERE = ManifestOrigin("here/", acls=True), ManifestOrigin("elsewhere/", acls=True)


class Runs:
    """Verifications and syncs of one ID range, a second apart."""

    def __init__(self, folder: Path) -> None:
        self.store = FolderManifests(folder / "kept")
        self._folder = folder
        self._runs = 0

    def _publish(self, group: str, kind: Format, origin: ManifestOrigin, lines: Sequence[tuple[object, ...]]) -> None:
        self._runs += 1
        file = self._folder / "lines.parquet"
        with LineWriter[tuple[object, ...]](file, kind.schema(origin.metadata())) as writer:
            for line in lines:
                writer.write(line)
        os.utime(self.store.write(file, group, KEYS, f"run-{self._runs}"), (1_700_000_000 + self._runs,) * 2)

    def verify(self, origin: ManifestOrigin, *damaged: str) -> None:
        lines = [finding_line(key) for key in damaged] or [finding_line("good", Finding.EQUAL)]
        self._publish(verification_of(ACCOUNTS), FINDINGS, origin, lines)

    def sync(self, origin: ManifestOrigin, *keys: str) -> None:
        lines: list[ManifestLine] = [manifest_line(1, group=ACCOUNTS.value, key=key) for key in keys]
        self._publish(ACCOUNTS.value, MANIFEST, origin, lines)

    def again(self) -> frozenset[str]:
        """Return the objects that a sync into `HERE` copies again."""
        return repairs(self.store, HERE, "", ACCOUNTS, KEYS, damaged=Damaged(pytest.fail)).again


def finding_line(key: str, finding: Finding = Finding.CONTENT_DIFFERS) -> FindingLine:
    values = {"group": ACCOUNTS.value, "row_id": 1, "key": key, "finding": finding, "private": False}
    return FindingLine(*(values.get(name) for name in FindingLine._fields))  # type: ignore[arg-type]  # others are None


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_a_verification_elsewhere_does_not_hide_what_was_found_here(runs: Runs) -> None:
    runs.verify(HERE, "a", "b")
    runs.verify(ELSEWHERE, "c")
    assert runs.again() == {"a", "b"}
    runs.verify(ELSEWHERE)
    assert runs.again() == {"a", "b"}


def test_a_sync_elsewhere_neither_puts_right_nor_hides_what_was_put_right_here(runs: Runs) -> None:
    runs.verify(HERE, "a", "b")
    runs.sync(ELSEWHERE, "a", "b")
    assert runs.again() == {"a", "b"}
    runs.sync(HERE, "a")
    runs.sync(ELSEWHERE, "a", "b")
    assert runs.again() == {"b"}
