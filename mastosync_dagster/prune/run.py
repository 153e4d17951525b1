"""Lists the objects of one ID range that no row expects, and deletes them if that is asked for and may be."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.expected.orphans import UNKNOWN_STYLE, Extras, WitnessMissingError
from mastosync_dagster.expected.privacy import KnownState
from mastosync_dagster.expected.range_batches import covering_batches
from mastosync_dagster.mastodon import (
    IdRange,
    Selection,
    read_schema,
    walk_rows,
)
from mastosync_dagster.plan.unwanted import unwanted_line
from mastosync_dagster.prune.deletion import Deletion, see
from mastosync_dagster.prune.guards import RangeLook, restored_from, shown_at, why_young
from mastosync_dagster.ranges.partitions import FileType, range_key
from mastosync_dagster.records.findings import FINDINGS, Finding, FindingLine, FindingWriter, read_findings
from mastosync_dagster.records.findings_text import findings_table, first_findings
from mastosync_dagster.runs import work_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mastosync_dagster.plan.items import Batch
    from mastosync_dagster.prune.config import PruneConfig
    from mastosync_dagster.runs.context import RunContext

BEYOND_LIMIT = "more than max_delete"
TO_BE_DELETED = "to be deleted by this run"
WANTED_AGAIN = "a row expects it by now"
NOT_ANSWERED = "its deletion was asked for, and not answered"
NOT_ATTEMPTED = "the run was stopped before"
_CANDIDATES = "candidates.parquet"
_KEYS_A_STEP = 200


class Pruning:
    """One run over an ID range.

    Attributes:
        metadata: What the UI shows of it, also when it fails.
    """

    def __init__(self, run: RunContext, config: PruneConfig, file_type: FileType, ids: IdRange, job: str) -> None:
        self._run = run
        self._config = config
        self._file_type = file_type
        self._ids = ids
        self._job = job
        self._storage = run.destination
        self._origin = run.origin.metadata()
        self._counts: Counter[Finding] = Counter()
        self._location = ""
        self._failed = 0
        self.metadata: dict[str, dg.MetadataValue] = {}

    def run(self) -> None:
        """Look; then delete, or do not, and tell."""
        folder = work_folder.create_work_folder(self._run.instance, self._run.run_id)
        table = self._file_type.value
        with self._run.database.session() as connect:
            with contextlib.closing(connect()) as connection:
                schema = read_schema(connection, [table])
                look = RangeLook(read_at=shown_at(connection))
            pages = walk_rows(connect, schema, Selection(table, ids=self._ids), page_rows=self._config.page_rows)
            with Extras(connect, schema, table, self._ids) as extras:
                self._look(covering_batches(pages, self._ids, KnownState()), extras, look, folder / _CANDIDATES)
                refusal = look.refusal(self._config.max_share)
                error: BaseException | None = None
                if self._config.delete and refusal is None:
                    look.restored_from = restored_from(connect, schema, self._storage, look.read_at)
                    error = self._delete(folder, extras, look)
                else:
                    self._write(folder, folder / _CANDIDATES)
        first = first_findings(folder / FINDINGS, [Finding.DELETED, Finding.EXTRA, Finding.UNKNOWN])
        work_folder.remove_work_folder(self._run.instance, self._run.run_id)
        self._tell(look, refusal, first)
        if error is not None:
            raise error
        if self._config.delete and refusal is not None:
            raise dg.Failure(description=f"Nothing was deleted: {refusal}.", allow_retries=False)

    def _look(self, batches: Iterator[Batch], extras: Extras, look: RangeLook, path: Path) -> None:
        """Read all rows and list all keys of the range, and write down what no row expects."""
        with FindingWriter(path) as writer, self._run.progress.watch(self._run.log) as watcher:
            for batch in batches:
                seen = see(self._storage, batch)
                look.rows += batch.rows
                look.wanted += len(batch.items)
                look.there += seen.wanted
                look.list_requests += seen.list_requests
                if batch.items:
                    look.witnesses = [*look.witnesses[:1], batch.items[-1].row_id]
                unexpected = extras.among([entry.key for entry in seen.others], batch.owners)
                for entry in seen.others:
                    if entry.key in unexpected:
                        spared = unexpected[entry.key]
                        look.extra += 1
                        look.unknown_styles += spared == UNKNOWN_STYLE
                        line = unwanted_line(self._storage, entry, Finding.EXTRA, spared)
                        look.old += spared is None and why_young(line, look) is None
                        writer.write(line)
                watcher.told(f"looked at {look.rows:,} rows: {look.there:,} objects as expected, {look.extra:,} extra")

    def _delete(self, folder: Path, extras: Extras, look: RangeLook) -> BaseException | None:
        """Delete what may be deleted, and write down what became of each object. Returns what ended it early."""
        marked = folder / f"marked-{_CANDIDATES}"
        budget = self._config.max_delete
        with FindingWriter(marked) as writer:
            for line in _lines(folder / _CANDIDATES):
                detail = line.detail or why_young(line, look)
                if detail is None:
                    detail = TO_BE_DELETED if budget > 0 else BEYOND_LIMIT
                    budget -= 1
                writer.write(line._replace(detail=detail))
        # Whatever happens from here on, this names every object that may be gone.
        self._write(folder, marked)
        self._counts.clear()
        error: BaseException | None = None
        with FindingWriter(folder / FINDINGS, self._origin) as writer:
            lines = _lines(marked)
            while step := list(itertools.islice(lines, _KEYS_A_STEP)):
                chosen = [line for line in step if line.detail == TO_BE_DELETED]
                if chosen and error is None:
                    chosen, error = self._delete_some(chosen, extras, look)
                elif chosen:
                    chosen = [line._replace(detail=NOT_ATTEMPTED) for line in chosen]
                for line in itertools.chain(chosen, (line for line in step if line.detail != TO_BE_DELETED)):
                    self._counts[line.finding] += 1
                    writer.write(line)
        self._publish(folder)
        if error is None and self._failed:
            error = dg.Failure(
                description=f"{self._failed:,} objects could not be deleted: {self._location} says why.",
                allow_retries=False,
            )
        return error

    def _delete_some(
        self, lines: list[FindingLine], extras: Extras, look: RangeLook
    ) -> tuple[list[FindingLine], BaseException | None]:
        """Ask the database once more, and delete. Returns each object's line, and what ended it early."""
        prefix = self._storage.settings.prefix
        keys = [line.key.removeprefix(prefix) for line in lines]
        deletion = Deletion(self._storage)
        error: BaseException | None = None
        still: dict[str, str | None] | None = None
        try:
            still = extras.among(keys, witnesses=look.witnesses)
            deletion.delete([key for key in keys if key in still and still[key] is None], threading.Event())
        except WitnessMissingError:
            error = dg.Failure(
                description="The database no longer returns rows that it returned when the range was read: nothing more"
                " was deleted. Run it again when the database is at rest.",
                allow_retries=False,
            )
        except BaseException as problem:  # noqa: BLE001  (raised again when everything is written down)
            error = problem
        self._failed += len(deletion.failed)
        return [self._told(line, key, still, deletion) for line, key in zip(lines, keys, strict=True)], error

    @staticmethod
    def _told(line: FindingLine, key: str, still: Mapping[str, str | None] | None, deletion: Deletion) -> FindingLine:
        if key in deletion.deleted:
            return line._replace(finding=Finding.DELETED, detail=None)
        if key in deletion.unanswered:
            return line._replace(finding=Finding.UNKNOWN, detail=NOT_ANSWERED)
        if key in deletion.failed:
            return line._replace(detail=str(deletion.failed[key]))
        if still is not None and key not in still:
            return line._replace(detail=WANTED_AGAIN)
        if still is not None and still[key] is not None:
            return line._replace(detail=still[key])
        return line._replace(detail=NOT_ATTEMPTED)

    def _write(self, folder: Path, lines: Path) -> None:
        with FindingWriter(folder / FINDINGS, self._origin) as writer:
            for line in _lines(lines):
                self._counts[line.finding] += 1
                writer.write(line)
        self._publish(folder)

    def _publish(self, folder: Path) -> None:
        self._location = self._run.store.write(folder / FINDINGS, self._job, range_key(self._ids), self._run.run_id)

    def _tell(self, look: RangeLook, refusal: str | None, first: list[FindingLine]) -> None:
        deleted, extra = self._counts[Finding.DELETED], self._counts[Finding.EXTRA]
        numbers = {
            "rows": look.rows,
            "expected": look.wanted,
            "expected_there": look.there,
            "extra": extra,
            "unknown_styles": look.unknown_styles,
            "deleted": deleted,
            "list_requests": look.list_requests,
        }
        table = findings_table(first, sum(self._counts.values()), "Nothing lies there that no row expects.")
        self.metadata = {
            **{name: dg.MetadataValue.int(number) for name, number in numbers.items()},
            "extra objects": dg.MetadataValue.md(table),
            "findings": dg.MetadataValue.path(self._location),
        }
        line = (
            f"{look.rows:,} rows expect {look.wanted:,} objects, {look.there:,} of them are there; of the objects that"
            f" no row expects {deleted:,} were deleted, {extra:,} are left"
            + (f"; {look.unknown_styles:,} of these stay, for each is {UNKNOWN_STYLE}" if look.unknown_styles else "")
            + (f"; nothing may be deleted: {refusal}" if refusal else "")
        )
        self._run.log.info(line)
        if look.restored_from is not None:
            self._run.log.warning(
                "The newest row of the database is of %s UTC, and the destination has objects of rows that came later:"
                " it looks like a backup that is older than the copy. What was written to the destination since, and in"
                " the day before, is not deleted.",
                f"{look.restored_from:%Y-%m-%d %H:%M}",
            )


def _lines(path: Path) -> Iterator[FindingLine]:
    return itertools.chain.from_iterable(read_findings(path))
