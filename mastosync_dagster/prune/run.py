"""Lists the orphans of one ID range, and deletes them if the config says so and the guards allow it."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.expected.objects import Sizes
from mastosync_dagster.expected.orphans import UNKNOWN_STYLE, Orphans, WitnessMissingError
from mastosync_dagster.expected.policy import policy_of
from mastosync_dagster.expected.privacy import KnownState
from mastosync_dagster.expected.range_batches import covering_batches
from mastosync_dagster.expected.records import Records
from mastosync_dagster.mastodon import Database, IdRange, Selection, database_now, read_schema, walk_rows
from mastosync_dagster.plan.top_listing import orphan_line
from mastosync_dagster.prune.config import UNCONFIRMED
from mastosync_dagster.prune.deletion import Deletion, list_batch
from mastosync_dagster.prune.guards import RangeStats, restored_from, shown_at, why_young
from mastosync_dagster.ranges.partitions import FileType, range_key
from mastosync_dagster.records.findings import FINDINGS, Finding, FindingLine, FindingWriter, read_findings
from mastosync_dagster.records.findings_text import findings_list, first_findings
from mastosync_dagster.records.summaries import LEFT_OUT
from mastosync_dagster.runs import work_folder
from mastosync_dagster.runs.failures import PlainFailure

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from mastosync_dagster.plan.items import Batch
    from mastosync_dagster.prune.config import PruneConfig
    from mastosync_dagster.runs.context import RunContext

BEYOND_LIMIT = "more than max_delete"
UNRECORDED = "no run has copied it here, so it may be another instance's: without max_delete it stays"
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
        totals: Its counts.
        had_something_to_delete: Whether an orphan was old enough to be deleted, or that is not known.
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
        self.totals: Counter[str] = Counter()
        self.had_something_to_delete = True

    def run(self) -> None:
        """List the orphans, delete those that may be deleted, and report."""
        folder = work_folder.create_work_folder(self._run.instance, self._run.run_id, self._run.warn)
        table, policy = self._file_type.value, policy_of(self._config)
        with self._run.connections(first=True) as connect:
            with contextlib.closing(connect()) as connection:
                database = Database(connect, read_schema(connection, [table]))
                stats = RangeStats(read_at=shown_at(connection))
                window = policy.window(table, database_now(connection))
            rows, sizes = Selection(table, ids=self._ids, remote=window), Sizes()
            pages = walk_rows(database, rows, page_rows=self._config.page_rows)
            with Orphans(database, table, self._ids) as orphans:
                batches = covering_batches(pages, self._ids, KnownState(), sizes=sizes)
                self._list(batches, orphans, stats, folder / _CANDIDATES)
                stats.left_out = sizes.left_out
                refusal = stats.refusal(self._config.max_share, self._config.max_delete)
                error: BaseException | None = None
                if self._config.delete and refusal is None:
                    stats.restored_from = restored_from(database, self._storage, stats.read_at)
                    own = self._recorded(Records.of(self._run, database), folder)
                    error = self._delete(folder, orphans, stats, own)
                else:
                    self._write(folder, folder / _CANDIDATES)
        first = first_findings(folder / FINDINGS, [Finding.DELETED, Finding.EXTRA, Finding.UNKNOWN])
        work_folder.remove_work_folder(self._run.instance, self._run.run_id)
        self._report(stats, refusal, first)
        if error is not None:
            raise error
        if self._config.delete and refusal is not None:
            raise PlainFailure(f"Nothing was deleted: {refusal}.")

    def _list(self, batches: Iterator[Batch], orphans: Orphans, stats: RangeStats, path: Path) -> None:
        """Read all rows and list all keys of the range, and record the orphans."""
        with FindingWriter(path) as writer, self._run.progress.watch(self._run.log) as watcher:
            for batch in batches:
                listed = list_batch(self._storage, batch)
                stats.rows += batch.rows
                stats.expected += len(batch.items)
                stats.there += listed.expected
                stats.list_requests += listed.list_requests
                if batch.items:
                    stats.witnesses = [*stats.witnesses[:1], batch.items[-1].row_id]
                found = orphans.among([entry.key for entry in listed.others], batch.owners)
                for entry in listed.others:
                    if entry.key in found:
                        spared = found[entry.key]
                        stats.orphans += 1
                        stats.unknown_styles += spared == UNKNOWN_STYLE
                        line = orphan_line(self._storage, entry, Finding.EXTRA, spared)
                        stats.old += spared is None and why_young(line, stats) is None
                        writer.write(line)
                watcher.message(
                    f"{stats.rows:,} rows read: {stats.there:,} objects as expected, {stats.orphans:,} orphans"
                )

    def _recorded(self, records: Records, folder: Path) -> Collection[str] | None:
        """Return the candidates that runs have copied here; None: an admin has read the list, and all may go.

        In a large range a small instance's objects are few, and in each of many ranges they are fewer still: no number
        tells them from this instance's orphans. What was recorded is this instance's.
        """
        if self._config.max_delete is not None:
            return None
        keys = (line.key for line in _lines(folder / _CANDIDATES))
        return records.recorded(self._file_type.value, range_key(self._ids), keys)

    def _delete(
        self, folder: Path, orphans: Orphans, stats: RangeStats, own: Collection[str] | None
    ) -> BaseException | None:
        """Delete what may be deleted, and record the result of each object. Returns what ended it early."""
        marked = folder / f"marked-{_CANDIDATES}"
        budget = self._config.max_delete or UNCONFIRMED
        with FindingWriter(marked) as writer:
            for line in _lines(folder / _CANDIDATES):
                detail = line.detail or why_young(line, stats)
                if detail is None and own is not None and line.key not in own:
                    detail = UNRECORDED
                    stats.unrecorded += 1
                if detail is None:
                    detail = TO_BE_DELETED if budget > 0 else BEYOND_LIMIT
                    budget -= 1
                writer.write(line._replace(detail=detail))
        # Whatever happens from here on, this record names every object that may have been deleted.
        self._write(folder, marked)
        self._counts.clear()
        error: BaseException | None = None
        with FindingWriter(folder / FINDINGS, self._origin) as writer:
            lines = _lines(marked)
            while step := list(itertools.islice(lines, _KEYS_A_STEP)):
                chosen = [line for line in step if line.detail == TO_BE_DELETED]
                if chosen and error is None:
                    chosen, error = self._delete_some(chosen, orphans, stats)
                elif chosen:
                    chosen = [line._replace(detail=NOT_ATTEMPTED) for line in chosen]
                for line in itertools.chain(chosen, (line for line in step if line.detail != TO_BE_DELETED)):
                    self._counts[line.finding] += 1
                    writer.write(line)
        self._publish(folder)
        if error is None and self._failed:
            error = PlainFailure(f"{self._failed:,} objects could not be deleted: {self._location} says why.")
        return error

    def _delete_some(
        self, lines: list[FindingLine], orphans: Orphans, stats: RangeStats
    ) -> tuple[list[FindingLine], BaseException | None]:
        """Read the rows once more, and delete. Returns each object's line, and what ended it early."""
        prefix = self._storage.settings.prefix
        keys = [line.key.removeprefix(prefix) for line in lines]
        deletion = Deletion(self._storage)
        error: BaseException | None = None
        still: dict[str, str | None] | None = None
        try:
            still = orphans.among(keys, witnesses=stats.witnesses)
            deletion.delete([key for key in keys if key in still and still[key] is None])
        except WitnessMissingError:
            error = PlainFailure(
                "The database no longer returns rows that it returned when the range was read: nothing more was"
                " deleted. Run it again when the database is at rest."
            )
        except BaseException as problem:  # noqa: BLE001  (raised again when everything is on record)
            error = problem
        self._failed += len(deletion.failed)
        return [self._result(line, key, still, deletion) for line, key in zip(lines, keys, strict=True)], error

    @staticmethod
    def _result(line: FindingLine, key: str, still: Mapping[str, str | None] | None, deletion: Deletion) -> FindingLine:
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

    def _report(self, stats: RangeStats, refusal: str | None, first: list[FindingLine]) -> None:
        deleted, extra = self._counts[Finding.DELETED], self._counts[Finding.EXTRA]
        counts = {
            "rows": stats.rows,
            "expected": stats.expected,
            "expected_there": stats.there,
            LEFT_OUT: stats.left_out,
            "extra": extra,
            "unknown_styles": stats.unknown_styles,
            "deleted": deleted,
            "list_requests": stats.list_requests,
        }
        self.totals.update(counts)
        self.had_something_to_delete = stats.old > 0
        table = findings_list(first, sum(self._counts.values()), "Nothing lies there that no row expects.")
        self.metadata = {
            **{name: dg.MetadataValue.int(count) for name, count in counts.items()},
            "extra objects": dg.MetadataValue.md(table),
            "findings": dg.MetadataValue.path(self._location),
        }
        message = (
            f"{stats.rows:,} rows expect {stats.expected:,} objects, {stats.there:,} of them are there; of the objects"
            f" that no row expects {deleted:,} were deleted, {extra:,} are left"
            + (
                f"; {stats.left_out:,} objects that the policy leaves out stay if they are there"
                if stats.left_out
                else ""
            )
            + (f"; {stats.unknown_styles:,} of these stay, for each is {UNKNOWN_STYLE}" if stats.unknown_styles else "")
            + (f"; {stats.unrecorded:,} of these stay: {UNRECORDED}" if stats.unrecorded else "")
            + (f"; nothing may be deleted: {refusal}" if refusal else "")
        )
        self._run.log.info(message)
        if stats.restored_from is not None:
            self._run.log.warning(
                "The newest row of the database is of %s UTC, and the destination has objects of rows that came later:"
                " it looks like a backup that is older than the copy. What was written to the destination since, and in"
                " the day before, is not deleted.",
                f"{stats.restored_from:%Y-%m-%d %H:%M}",
            )


def _lines(path: Path) -> Iterator[FindingLine]:
    return itertools.chain.from_iterable(read_findings(path))
