"""Objects of the destination that no row expects: listed, and deleted only under guards.

Whoever deletes on doubt loses pictures. An object is deleted only if

- the admin says so, for a number of objects that he names,
- every row of the range was read and every key of the range listed: an error anywhere ends the run before,
- the range has rows with files, and the destination has at least half of the objects that those expect: else it is the
  wrong database, the wrong bucket, the wrong prefix, or a copy that has not been made yet,
- not more would be deleted than a share of what the rows expect, which the admin may name: else another instance's
  objects may lie there too,
- its key is one that Mastodon makes for a row of this range, and does not look like a style, of a file that a row has,
  that came with a newer Mastodon,
- every row that may have such a key has been read again after the listing, just before the deletion, and expects
  something else; and the same query has returned rows that are known to be there,
- it was last written more than a day before the moment whose rows the database shows, by the slower of two clocks: of
  a backup that has been restored, the moment of its newest row. It looks like one if nothing has been written to it for
  a day, and the destination has objects of rows that came later.

What is to be deleted is written down before, and what was deleted afterwards.
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of ops.

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
from psycopg2.extensions import connection as Connection  # noqa: N812  (a class with a lower-case name)
from pydantic import Field

from mastosync_dagster.expected.objects import key_ranges
from mastosync_dagster.expected.orphans import UNKNOWN_STYLE, Extras, WitnessMissingError
from mastosync_dagster.expected.privacy import Marks
from mastosync_dagster.expected.range_batches import covering_batches
from mastosync_dagster.mastodon import (
    Connect,
    Schema,
    Selection,
    highest_id,
    newest_row,
    owners,
    read_schema,
    rows_as_of,
    walk_rows,
)
from mastosync_dagster.plan.items import Batch
from mastosync_dagster.plan.unwanted import unwanted_line
from mastosync_dagster.prune.deletion import Deletion, see
from mastosync_dagster.ranges.partitions import FileType, registered_range
from mastosync_dagster.records.findings import FINDINGS, Finding, FindingLine, FindingWriter, read_findings
from mastosync_dagster.records.findings_text import findings_table, first_findings
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs import work_folder
from mastosync_dagster.runs.failures import plain_failures
from mastosync_dagster.runs.history import place_of
from mastosync_dagster.runs.manifests import About, manifest_store
from mastosync_dagster.runs.progress import ProgressReporter
from mastosync_dagster.runs.run_lock import working
from mastosync_dagster.s3.storage import Storage

JOB_PREFIX = "prune_"
MIN_AGE = timedelta(days=1)
"""Younger objects are never deleted: a row may be about to come, or a copy under way."""

TOO_YOUNG = "written less than a day ago"
AFTER_NEWEST_ROW = "written after the newest row of the database, which looks older than the copy"
BEYOND_LIMIT = "more than max_delete"
MAX_SHARE = 0.5
_NEVER = datetime(1970, 1, 1, tzinfo=timezone.utc)
TO_BE_DELETED = "to be deleted by this run"
WANTED_AGAIN = "a row expects it by now"
NOT_ANSWERED = "its deletion was asked for, and not answered"
NOT_ATTEMPTED = "the run was stopped before"

_BUSY_TABLES = ("accounts", "media_attachments")
"""Those that get rows all day on an instance that runs, with ids that grow with time."""
_HIGHEST_ID = 2**63 - 1
_LONG_AGO = datetime(1970, 1, 2, tzinfo=timezone.utc)

_CANDIDATES = "candidates.parquet"
_KEYS_A_STEP = 200


def shown_at(connection: Connection) -> datetime:
    """Return the moment whose rows the database shows, or ours if that is earlier.

    A standby may lag behind by more than a day: there the rows of new objects have not come yet.
    """
    shown = rows_as_of(connection)
    # A standby that has replayed nothing since it was started does not know: nothing is old enough then.
    return _LONG_AGO if shown is None else min(shown, datetime.now(timezone.utc))


def restored_from(connect: Connect, schema: Schema, storage: Storage, read_at: datetime) -> datetime | None:
    """Return the moment of a database's newest row if it looks like a backup older than what the destination has.

    Its rows do not show what has come since, which is no reason to delete it. On an instance that runs, it takes a
    query to see that the database is none.

    Args:
        connect: Opens a connection.
        schema: What the database has.
        storage: The destination.
        read_at: See `shown_at`.

    Returns:
        None: something was written to it in the last day, or no object belongs to a row that came later. Where no
        row says when it was written, it may have been at any time: 1970.
    """
    with contextlib.closing(connect()) as connection:
        newest = newest_row(connection, schema) or _NEVER
        if newest > read_at - MIN_AGE:
            return None
        highest = {table: highest_id(connection, schema, table) for table in _BUSY_TABLES if schema.has(table, "id")}
    later = (
        entry
        for table, row_id in highest.items()
        if row_id is not None
        for keys in key_ranges(table, row_id + 1, _HIGHEST_ID)
        for page in storage.list_pages(keys)
        for entry in page
        if (owner := owners(entry.key)) is not None and owner.row_id > row_id
    )
    return newest if any(True for _ in later) else None


class PruneConfig(dg.Config):
    """What to do with objects that no row expects."""

    delete: bool = Field(default=False, description="Delete them. Without, they are listed.")
    max_delete: int = Field(default=1_000, ge=1, le=1_000_000, description="Objects that a run deletes at the most.")
    max_share: float = Field(
        default=MAX_SHARE,
        ge=0,
        le=1_000,
        description="Nothing is deleted where more would be than this share of the objects that the rows of the range"
        " expect: the bucket may hold another instance's too.",
    )
    page_rows: int = Field(default=5_000, ge=1, le=50_000, description="Rows a query reads.")


@dataclass
class _Look:
    """What was seen of a range.

    Attributes:
        read_at: See `shown_at`; before the first row was read.
        rows: Rows with a file.
        wanted: Objects that they expect.
        there: How many of those the destination has.
        extra: Objects that no row expects.
        unknown_styles: How many of those must stay, since a newer Mastodon may have made them.
        old: How many of the others are old enough to be deleted, whatever the limit of a run.
        list_requests: ListObjectsV2 requests.
        witnesses: Ids of two rows with a file.
        restored_from: See `restored_from`.
    """

    read_at: datetime
    rows: int = 0
    wanted: int = 0
    there: int = 0
    extra: int = 0
    unknown_styles: int = 0
    old: int = 0
    list_requests: int = 0
    witnesses: list[int] = field(default_factory=list)
    restored_from: datetime | None = None

    def refusal(self, max_share: float) -> str | None:
        """Say why nothing may be deleted; None: something may."""
        if not self.wanted:
            return (
                "the database has no row with a file in this range, so nothing there shows that it is the right one:"
                " check DATABASE_URL or DB_NAME"
            )
        if 2 * self.there < self.wanted:
            return (
                f"the destination has {self.there:,} of the {self.wanted:,} objects that the rows expect, so it does"
                " not look like a copy of this instance: check DESTINATION_S3_BUCKET, DESTINATION_S3_KEY_PREFIX and"
                " DATABASE_URL, and sync the range first"
            )
        if self.old > max_share * self.wanted:
            return (
                f"{self.old:,} objects that no row expects would go, and the rows expect {self.wanted:,}: more than"
                f" max_share ({max_share:g}) of that, as if another instance's objects lay there too. Check"
                " DESTINATION_S3_BUCKET, DESTINATION_S3_KEY_PREFIX and DATABASE_URL, read the list, and give a higher"
                " max_share if all of it is this instance's"
            )
        return None


@dg.op(description="List the objects of one ID range that no row expects; delete them if the config says so.")
def prune(
    context: dg.OpExecutionContext,
    config: PruneConfig,
    mastodon_db: MastodonDatabase,
    destination: S3Bucket,
    progress: dg.ResourceParam[ProgressReporter],
) -> None:
    """Prune one ID range of the file type that the job is about."""
    with plain_failures(), working(context.instance, context.run_id):
        _Pruning(context=context, config=config, database=mastodon_db, destination=destination, progress=progress).run()


def prune_job(file_type: FileType) -> dg.JobDefinition:
    """Return the partitioned job ``prune_<asset>``: a run is one ID range."""

    @dg.job(
        name=f"{JOB_PREFIX}{file_type.value}",
        partitions_def=file_type.partitions,
        description=f"List what lies at the destination in one ID range of {file_type.value} and no row expects; delete"
        " it under guards if the config says so.",
    )
    def job() -> None:
        prune()

    return job


class _Pruning:
    """One run."""

    def __init__(
        self,
        *,
        context: dg.OpExecutionContext,
        config: PruneConfig,
        database: MastodonDatabase,
        destination: S3Bucket,
        progress: ProgressReporter,
    ) -> None:
        self._context = context
        self._config = config
        self._file_type = FileType(context.job_name.removeprefix(JOB_PREFIX))
        self._ids = registered_range(context.instance, self._file_type, context.partition_key)
        self._database = database
        self._bucket = destination
        self._progress = progress
        self._storage = destination.storage()
        self._about = About(place_of(destination), acls=self._storage.settings.has_acls).metadata()
        self._counts: Counter[Finding] = Counter()
        self._location = ""
        self._failed = 0

    def run(self) -> None:
        """Look; then delete, or do not, and tell."""
        folder = work_folder.create_work_folder(self._context.instance, self._context.run_id)
        table = self._file_type.value
        with self._database.session() as connect:
            with contextlib.closing(connect()) as connection:
                schema = read_schema(connection, [table])
                look = _Look(read_at=shown_at(connection))
            pages = walk_rows(connect, schema, Selection(table, ids=self._ids), page_rows=self._config.page_rows)
            with Extras(connect, schema, table, self._ids) as extras:
                self._look(covering_batches(pages, self._ids, Marks()), extras, look, folder / _CANDIDATES)
                refusal = look.refusal(self._config.max_share)
                error: BaseException | None = None
                if self._config.delete and refusal is None:
                    look.restored_from = restored_from(connect, schema, self._storage, look.read_at)
                    error = self._delete(folder, extras, look)
                else:
                    self._write(folder, folder / _CANDIDATES)
        first = first_findings(folder / FINDINGS, [Finding.DELETED, Finding.EXTRA, Finding.UNKNOWN])
        work_folder.remove_work_folder(self._context.instance, self._context.run_id)
        self._tell(look, refusal, first)
        if error is not None:
            raise error
        if self._config.delete and refusal is not None:
            raise dg.Failure(description=f"Nothing was deleted: {refusal}.", allow_retries=False)

    def _look(self, batches: Iterator[Batch], extras: Extras, look: _Look, path: Path) -> None:
        """Read all rows and list all keys of the range, and write down what no row expects."""
        with FindingWriter(path) as writer, self._progress.watch(self._context.log) as watcher:
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
                        look.old += spared is None and _why_young(line, look) is None
                        writer.write(line)
                watcher.told(f"looked at {look.rows:,} rows: {look.there:,} objects as expected, {look.extra:,} extra")

    def _delete(self, folder: Path, extras: Extras, look: _Look) -> BaseException | None:
        """Delete what may be deleted, and write down what became of each object. Returns what ended it early."""
        marked = folder / f"marked-{_CANDIDATES}"
        budget = self._config.max_delete
        with FindingWriter(marked) as writer:
            for line in _lines(folder / _CANDIDATES):
                detail = line.detail or _why_young(line, look)
                if detail is None:
                    detail = TO_BE_DELETED if budget > 0 else BEYOND_LIMIT
                    budget -= 1
                writer.write(line._replace(detail=detail))
        # Whatever happens from here on, this names every object that may be gone.
        self._write(folder, marked)
        self._counts.clear()
        error: BaseException | None = None
        with FindingWriter(folder / FINDINGS, self._about) as writer:
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
        self, lines: list[FindingLine], extras: Extras, look: _Look
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
        with FindingWriter(folder / FINDINGS, self._about) as writer:
            for line in _lines(lines):
                self._counts[line.finding] += 1
                writer.write(line)
        self._publish(folder)

    def _publish(self, folder: Path) -> None:
        self._location = manifest_store(self._context.instance, self._bucket).write(
            folder / FINDINGS, self._context.job_name, self._context.partition_key, self._context.run_id
        )

    def _tell(self, look: _Look, refusal: str | None, first: list[FindingLine]) -> None:
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
        self._context.add_output_metadata(
            {
                **{name: dg.MetadataValue.int(number) for name, number in numbers.items()},
                "extra objects": dg.MetadataValue.md(table),
                "findings": dg.MetadataValue.path(self._location),
            }
        )
        line = (
            f"{look.rows:,} rows expect {look.wanted:,} objects, {look.there:,} of them are there; of the objects that"
            f" no row expects {deleted:,} were deleted, {extra:,} are left"
            + (f"; {look.unknown_styles:,} of these stay, for each is {UNKNOWN_STYLE}" if look.unknown_styles else "")
            + (f"; nothing may be deleted: {refusal}" if refusal else "")
        )
        self._context.log.info(line)
        if look.restored_from is not None:
            self._context.log.warning(
                "The newest row of the database is of %s UTC, and the destination has objects of rows that came later:"
                " it looks like a backup that is older than the copy. What was written to the destination since, and in"
                " the day before, is not deleted.",
                f"{look.restored_from:%Y-%m-%d %H:%M}",
            )


def _why_young(line: FindingLine, look: _Look) -> str | None:
    if line.modified is None or line.modified > look.read_at - MIN_AGE:
        return TOO_YOUNG
    if look.restored_from is not None and line.modified > look.restored_from - MIN_AGE:
        return AFTER_NEWEST_ROW
    return None


def _lines(path: Path) -> Iterator[FindingLine]:
    return itertools.chain.from_iterable(read_findings(path))
