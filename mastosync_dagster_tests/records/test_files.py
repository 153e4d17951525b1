"""Plans and manifests on disk: whole or not at all, in a stream, with versions."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mastosync_dagster.records.manifest import (
    FORMAT,
    MANIFEST,
    NOT_WRITTEN_DOWN,
    ManifestLine,
    ManifestWriter,
    merge,
    read_manifest,
)
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.parquet import GROUP_LINES, LineWriter, NotAManifestError
from mastosync_dagster.records.plan import COPIED, DECIDED, TO_COPY, TO_SET_ACLS, PlannedCopy, PlanWriter, read_plan
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.manifests import manifest_line
from mastosync_dagster_tests.support.transfers import line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


LINES = [
    manifest_line(1),
    manifest_line(-99, outcome=Outcome.MISSING, source_key=None, size=None, etag=None, remote=None),
    manifest_line(2, outcome=Outcome.FAILED, reason=Reason.THROTTLED, detail="asks for fewer requests"),
    manifest_line(3, outcome=Outcome.PRESENT, detail="only at the destination", private=True, refetched=True),
    manifest_line(2**62, key="media/日本\n"),
]


def test_manifest_lines_come_back_as_they_went(tmp_path: Path) -> None:
    with ManifestWriter(tmp_path / "m.parquet") as writer:
        for one in LINES:
            writer.write(one)
    (read,) = read_manifest(tmp_path / "m.parquet")
    assert read == LINES


def test_plan_lines_come_back_as_they_went(tmp_path: Path) -> None:
    lines = [
        line("a", b"body"),
        line("b", source_key="cache/b", candidates=["c", "d"], private=True, may_be_absent=True),
        line("é", keep_found_key=True, row_id=-99),
    ]
    with PlanWriter(tmp_path) as writer:
        for one in lines:
            writer.write(one)
    (read,) = read_plan(tmp_path)
    assert read == lines
    assert read[0].size == 4
    assert read[1].size is None


def test_files_are_read_a_batch_at_a_time_in_their_order(tmp_path: Path) -> None:
    count = 2 * GROUP_LINES + 10
    with PlanWriter(tmp_path) as plan, ManifestWriter(tmp_path / DECIDED) as decided:
        for number in range(count):
            plan.write(line(str(number)))
            decided.write(manifest_line(number))
    sizes = [GROUP_LINES, GROUP_LINES, 10]
    assert [len(batch) for batch in read_plan(tmp_path)] == sizes
    assert [len(batch) for batch in read_manifest(tmp_path / DECIDED)] == sizes
    assert [one.key for batch in read_plan(tmp_path) for one in batch] == [str(number) for number in range(count)]
    assert [one.row_id for batch in read_manifest(tmp_path / DECIDED) for one in batch] == list(range(count))


def test_empty_files_are_files(tmp_path: Path) -> None:
    with PlanWriter(tmp_path), ManifestWriter(tmp_path / DECIDED):
        pass
    assert list(read_plan(tmp_path)) == []
    assert list(read_manifest(tmp_path / DECIDED)) == []
    assert list(read_manifest(merge(tmp_path))) == []


def plan_writer(folder: Path) -> PlanWriter:
    return PlanWriter(folder)


def manifest_writer(folder: Path) -> ManifestWriter:
    return ManifestWriter(folder / DECIDED)


WRITERS = pytest.mark.parametrize(
    ("make", "one"), [(plan_writer, line("a")), (manifest_writer, manifest_line(1))], ids=["plan", "manifest"]
)


@WRITERS
def test_a_file_appears_whole_or_not_at_all(
    tmp_path: Path, make: Callable[[Path], LineWriter[tuple[object, ...]]], one: PlannedCopy | ManifestLine
) -> None:
    def write() -> None:
        with make(tmp_path) as writer:
            for _ in range(GROUP_LINES + 1):
                writer.write(one)
            assert [file.name[0] for file in tmp_path.iterdir()] == ["."]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


@WRITERS
@pytest.mark.parametrize("lines", [1, 10 * GROUP_LINES])
def test_a_full_disk_is_reported_with_the_files_name(
    tmp_path: Path, make: Callable[[Path], LineWriter[tuple[object, ...]]], one: PlannedCopy | ManifestLine, lines: int
) -> None:
    name = make(tmp_path)._path.name
    (tmp_path / f".{name}").symlink_to("/dev/full")

    def write() -> None:
        with make(tmp_path) as writer:
            for number in range(lines):
                writer.write(one._replace(row_id=number, key=os.urandom(64).hex()))

    with pytest.raises(OSError, match=name) as caught:
        write()
    assert caught.value.errno == errno.ENOSPC
    assert "No space left" in str(caught.value)
    assert not (tmp_path / name).exists()


@WRITERS
def test_a_folder_that_is_not_there_is_reported_with_the_files_name(
    tmp_path: Path, make: Callable[[Path], LineWriter[tuple[object, ...]]], one: PlannedCopy | ManifestLine
) -> None:
    with pytest.raises(FileNotFoundError) as caught, make(tmp_path / "nowhere") as writer:
        writer.write(one)
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_a_plan_that_was_not_finished_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_plan(tmp_path))
    (tmp_path / TO_COPY).write_bytes(b"no plan")
    with pytest.raises(pa.ArrowInvalid):
        list(read_plan(tmp_path))


def test_parts_are_merged_in_order_and_those_that_lack_are_left_out(tmp_path: Path) -> None:
    with ManifestWriter(tmp_path / COPIED) as copied:
        copied.write(LINES[0])
    assert merge(tmp_path) == tmp_path / MANIFEST
    assert [one for batch in read_manifest(tmp_path / MANIFEST) for one in batch] == LINES[:1]
    with ManifestWriter(tmp_path / DECIDED) as decided:
        for one in LINES[1:]:
            decided.write(one)
    merge(tmp_path)
    assert [one for batch in read_manifest(tmp_path / MANIFEST) for one in batch] == [*LINES[1:], LINES[0]]
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_a_manifest_is_small_and_says_its_version(tmp_path: Path) -> None:
    with ManifestWriter(tmp_path / DECIDED) as decided:
        for number in range(GROUP_LINES):
            decided.write(manifest_line(number))
    file = merge(tmp_path)
    assert file.stat().st_size < 40 * GROUP_LINES
    schema = pq.read_schema(file)
    assert schema.metadata[b"mastosync.manifest"] == str(FORMAT.version).encode()
    assert schema.names == list(ManifestLine._fields)


def test_files_of_other_versions(tmp_path: Path) -> None:
    first = pa.schema([field for field in FORMAT.columns if field.name not in {"remote", "refetched"}])
    values = [column for name, column in zip(ManifestLine._fields, zip(*LINES, strict=True), strict=True)][: len(first)]
    table = pa.table([pa.array(value, field.type) for value, field in zip(values, first, strict=True)], schema=first)
    for version, readable in ((b"1", True), (b"9", False), (b"", False), (None, False)):
        file = tmp_path / "m.parquet"
        metadata = None if version is None else {b"mastosync.manifest": version}
        pq.write_table(table.replace_schema_metadata(metadata), file)
        if readable:
            (read,) = read_manifest(file)
            assert read == [one._replace(remote=None, refetched=False) for one in LINES]
        else:
            with pytest.raises(NotAManifestError, match="newer mastosync" if version == b"9" else "not a manifest"):
                list(read_manifest(file))
    pq.write_table(table, file)
    for content in (b"something else", b"", file.read_bytes()[:-9]):
        file.write_bytes(content)
        with pytest.raises(NotAManifestError, match=r"not a manifest: .*[^.\s]$"):
            list(read_manifest(file))


def test_where_a_part_could_not_be_written_each_object_of_its_plan_has_a_line(tmp_path: Path) -> None:
    count = GROUP_LINES + 10
    with PlanWriter(tmp_path) as copies, PlanWriter(tmp_path, TO_SET_ACLS) as turns:
        for number in range(count):
            copies.write(line(f"copy/{number}", b"body", source_key=f"cache/{number}"))
        turns.write(line("turn", source_key="", private=True))
    with ManifestWriter(tmp_path / DECIDED) as decided:
        decided.write(LINES[3])
    file = merge(tmp_path, source_prefix="old/", destination_prefix="new/")
    detailed, first, *_, last = (one for batch in read_manifest(file) for one in batch)
    assert detailed == LINES[3]
    assert (first.key, first.source_key, first.size) == ("new/copy/0", "old/cache/0", 4)
    assert (last.key, last.source_key, last.private) == ("new/turn", None, True)
    assert (last.outcome, last.reason, last.detail) == (Outcome.FAILED, Reason.NOT_ATTEMPTED, NOT_WRITTEN_DOWN)
    assert pq.ParquetFile(file).metadata.num_rows == count + 2
    # What was written down counts, of each part by itself.
    with ManifestWriter(tmp_path / COPIED) as copied:
        copied.write(LINES[0])
    merge(tmp_path)
    assert [one.row_id for batch in read_manifest(file) for one in batch] == [LINES[3].row_id, LINES[0].row_id, 1]
