"""Folds the manifests of many runs of one job into one file with the newest lines, so that nothing reads them all.

A fold of level 1 holds plain manifests, one of level 2 those of level 1, and so on: after a thousand nights there are
some thirty files. It is published before what it replaces is put away. Killed in between, a line stands in two
files, and says the same in both: readers take it once, and a later run folds it again.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mastosync_dagster.records.folded import RUNS, TEXTS, RunsOfFile, fold_name, level
from mastosync_dagster.records.manifest import FOLDED, RUN
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.parquet import GROUP_LINES, WORD, NotAManifestError
from mastosync_dagster.records.store import ManifestNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mastosync_dagster.records.store import FileOf, ManifestStore, StoredManifest

ARCHIVE = "folded-{group}"
"""The group to which folded manifests are moved: a record for people, which no command reads."""

_LEAST, _MOST = 10, 100
"""Files that are folded at once; and so many of the latest manifests stay as they are, for those who ask for them."""
_LINES_AT_ONCE = 50 * GROUP_LINES
_ROW_GROUP = 4 * GROUP_LINES
_ATTACHMENT, _DESTINATION, _NUMBER = "attachment", "destination", "number"


def newest(lines: pa.Table, of_each: Sequence[str] = ()) -> pa.Table:
    """Return, for each attachment of a row, the lines of the latest run that has any of it, each once.

    A run takes all objects of an attachment: another file has other keys, and the earlier ones are no more. With
    further columns, for each attachment and each of their values.
    """
    if not lines.num_rows:
        return lines
    parts: Any = lines.column("part").combine_chunks()
    attachments: Any = pc.list_element(pc.split_pattern(parts, "/", max_splits=1), 0)
    owner = ["group", "row_id", _ATTACHMENT, *of_each]
    order: list[tuple[str, Literal["ascending", "descending"]]] = [(name, "ascending") for name in owner]
    order += [(RUN, "descending"), ("part", "ascending"), ("key", "ascending")]
    table = lines.append_column(_ATTACHMENT, attachments).sort_by(order).combine_chunks()
    starts = _starts(table, owner)
    firsts = table.column(RUN).combine_chunks().filter(starts)
    latest = firsts.take(pc.subtract(pc.cumulative_sum(starts.cast(pa.int32())), 1))
    chosen = pc.and_(pc.equal(table.column(RUN), latest), _starts(table, [name for name, _ in order]))
    return table.filter(chosen).drop_columns([_ATTACHMENT])


def _starts(table: pa.Table, names: Sequence[str]) -> pa.BooleanArray:
    """Return where a line of a sorted table differs from the one before it in some columns."""
    differs = pa.array([False] * (table.num_rows - 1), pa.bool_())
    for name in names:
        column = table.column(name)
        different = pc.not_equal(column.slice(1), column.slice(0, table.num_rows - 1))
        differs = pc.or_(differs, different.combine_chunks() if isinstance(different, pa.ChunkedArray) else different)
    return pa.concat_arrays([pa.array([True]), differs])


def fold_manifests(store: ManifestStore, group: str, partition: str, warn: Callable[[str], object]) -> None:
    """Fold the manifests of a group where there are many of a level. What cannot be read stays as it is.

    Raises:
        ManifestStoreError, StorageError: A file cannot be read or written. Nothing is lost by that.
    """
    levels: defaultdict[int, list[StoredManifest]] = defaultdict(list)
    for manifest in store.files(group, partition):
        levels[level(manifest)].append(manifest)
    for number, found in sorted(levels.items()):
        oldest = sorted(found, key=lambda manifest: (manifest.written, manifest.run_id))
        due = oldest[: max(len(oldest) - (_LEAST if number == 0 else 0), 0)][:_MOST]
        if len(due) >= _LEAST:
            _fold(store, due, number + 1, warn)


def _fold(
    store: ManifestStore, manifests: Sequence[StoredManifest], number: int, warn: Callable[[str], object]
) -> None:
    group, partition = manifests[0].group, manifests[0].partition
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mastosync-fold-")))
        file_of = stack.enter_context(store.ahead(manifests))
        files = [file for manifest in manifests for file in _opened(file_of, manifest, stack, warn)]
        if len(files) < _LEAST:
            return  # the others are damaged, or another run has folded them
        # What it replaces would stay, and each later run would fold it again.
        store.check_removal(group)
        target = folder / "fold.parquet"
        _write(target, [(runs, file) for _, runs, file in files])
        store.write(target, group, partition, fold_name(number))
        for manifest, _, _ in files:
            if number == 1:
                store.move(manifest, ARCHIVE.format(group=group))
            else:
                store.remove(manifest)


_OpenFile = tuple["StoredManifest", RunsOfFile, pq.ParquetFile]


def _opened(
    file_of: FileOf, manifest: StoredManifest, stack: contextlib.ExitStack, warn: Callable[[str], object]
) -> Iterator[_OpenFile]:
    """Yield a manifest, its runs and its open file; nothing, if it is damaged or has been replaced."""
    try:
        file = stack.enter_context(FOLDED.open(stack.enter_context(file_of(manifest))))
        yield manifest, RunsOfFile.of(manifest, file), file
    except ManifestNotFoundError:
        return
    except NotAManifestError as error:
        warn(f"the manifest {manifest.name} is not folded: {error}")


def _write(target: Path, files: Sequence[tuple[RunsOfFile, pq.ParquetFile]]) -> None:
    """Write the lines of several files that are still asked for, some rows in memory at a time."""
    runs = {run: metadata for of_file, _ in files for run, metadata in of_file.metadata.items()}
    texts = {run: {k.decode(): v.decode() for k, v in values.items() if _is_ours(k)} for run, values in runs.items()}
    schema = FOLDED.schema({RUNS.decode(): json.dumps(texts)})
    lines = sum(file.metadata.num_rows for _, file in files)
    passes = 1 << max(0, (lines // _LINES_AT_ONCE).bit_length())
    with pq.ParquetWriter(str(target), schema, compression="zstd") as writer:
        for number in range(passes):
            table = _asked_for(pa.Table.from_batches(list(_lines(files, target, passes, number)), TEXTS), runs)
            columns = [
                table.column(field.name).dictionary_encode() if field.type == WORD else table.column(field.name)
                for field in FOLDED.columns
            ]
            folded = pa.table(columns, schema=schema)
            # Tables in row groups of their own: who reads one passes over the others.
            for each in table.column("group").unique():
                writer.write_table(folded.filter(pc.equal(table.column("group"), each)), row_group_size=_ROW_GROUP)


def _is_ours(name: bytes) -> bool:
    return name.startswith(b"mastosync.")


def _lines(
    files: Sequence[tuple[RunsOfFile, pq.ParquetFile]], path: Path, passes: int, number: int
) -> Iterator[pa.RecordBatch]:
    """Yield the lines of one pass: those of a row are all in the same one."""
    for runs, file in files:
        for batch in FOLDED.batches(file, path, lines=_ROW_GROUP):
            of_pass = pc.equal(pc.bit_wise_and(batch.column("row_id"), pa.scalar(passes - 1)), pa.scalar(number))
            yield runs.with_runs(batch.filter(of_pass))


def _asked_for(lines: pa.Table, runs: Mapping[str, Mapping[bytes, bytes]]) -> pa.Table:
    """Return the newest lines, and the newest ones that prove bytes: an object that failed later had them all the same.

    Of each destination: a report is about one of them, and the bytes are asked for by key and destination
    (`expected.records`).
    """
    destinations = [metadata.get(b"mastosync.destination", b"").decode() for metadata in runs.values()]
    run_numbers = pc.index_in(lines.column(RUN), value_set=pa.array(runs, pa.string()))
    lines = lines.append_column(_NUMBER, pa.array(range(lines.num_rows), pa.int64()))
    lines = lines.append_column(_DESTINATION, pa.array(destinations, pa.string()).take(run_numbers))
    by_key = lines.filter(agrees(lines)).sort_by(
        [("key", "ascending"), (_DESTINATION, "ascending"), (RUN, "descending")]
    )
    wanted = newest(lines, [_DESTINATION]).column(_NUMBER).combine_chunks()
    if by_key.num_rows:
        latest = by_key.filter(_starts(by_key, ["key", _DESTINATION])).column(_NUMBER).combine_chunks()
        wanted = pa.concat_arrays([wanted, latest])
    kept = lines.filter(pc.is_in(lines.column(_NUMBER), value_set=wanted))
    return kept.drop_columns([_NUMBER, _DESTINATION]).sort_by([("group", "ascending"), ("row_id", "ascending")])


def agrees(lines: pa.Table | pa.RecordBatch) -> Any:
    """Return which lines say that source and destination had the same bytes.

    Without a key at the source, the destination alone had the object, or kept its own.
    """
    have_bytes = pa.array([Outcome.COPIED.value, Outcome.PRESENT.value])
    outcomes = lines.column("outcome").cast(pa.string())
    return pc.and_(pc.is_in(outcomes, value_set=have_bytes), pc.is_valid(lines.column("source_key")))
