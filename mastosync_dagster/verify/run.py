"""Compares one ID range at both storages, changes nothing, and writes a file of findings."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mastosync_dagster.expected.objects import Sizes
from mastosync_dagster.expected.orphans import Orphans
from mastosync_dagster.expected.policy import policy_of
from mastosync_dagster.expected.privacy import KnownState
from mastosync_dagster.expected.range_batches import covering_batches
from mastosync_dagster.expected.records import Records
from mastosync_dagster.expected.source_check import OriginalsCheck, check_originals, wrong_source
from mastosync_dagster.mastodon import CACHE_FOLDERS, Database, IdRange, Selection, database_now, read_over, walk_rows
from mastosync_dagster.mastodon.keys import CACHE
from mastosync_dagster.ranges.partitions import FileType, range_key
from mastosync_dagster.records.findings import DIFFERENCES, FINDINGS, Finding
from mastosync_dagster.records.findings_text import counted, findings_list, first_findings
from mastosync_dagster.runs import work_folder
from mastosync_dagster.verify.audit import AuditCounts, audit
from mastosync_dagster.verify.events import VerificationReport
from mastosync_dagster.verify.repairs import verification_of
from mastosync_dagster.verify.settings import Depth

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mastosync_dagster.runs.context import RunContext
    from mastosync_dagster.s3.errors import StorageError
    from mastosync_dagster.verify.config import VerifyConfig
    from mastosync_dagster.verify.settings import AuditSettings

# Of the tables that are copied: Mastodon has kept more (imports), and what lies there goes with the old bucket too.
COPIED_FOLDERS: Mapping[str, frozenset[str]] = {
    "": frozenset({CACHE, *(f"{file_type.value}/" for file_type in FileType)}),
    CACHE: frozenset(f"{CACHE}{file_type.value}/" for file_type in FileType) & CACHE_FOLDERS,
}


def verify(run: RunContext, config: VerifyConfig, file_type: FileType, ids: IdRange) -> VerificationReport:
    """Verify one ID range, and publish the findings."""
    started = time.monotonic()
    source, destination = run.source, run.destination
    run.log_remarks()
    run.ensure_different()
    path = work_folder.create_work_folder(run.instance, run.run_id, run.warn) / FINDINGS
    settings, policy, table, sizes = config.audit_settings(), policy_of(config), file_type.value, Sizes()
    if destination.settings.is_folder:
        # The web server derives the headers of a file from its name.
        settings = replace(settings, headers=Depth.none)
    with run.connections(first=True) as connect, run.progress.watch(run.log) as watcher:
        database = Database.open(connect, [table])
        window = policy.window(table, read_over(connect, database_now))
        rows = Selection(table, ids=ids, remote=window)
        pages = walk_rows(database, rows, page_rows=config.page_rows)
        records = Records.of(run, database)
        with Orphans(database, table, ids) as orphans:
            counts = audit(
                covering_batches(pages, ids, KnownState(privacy=config.privacy), sizes=sizes),
                source,
                destination,
                path,
                settings,
                knowledge=records.known,
                orphans=orphans.among,
                folders=COPIED_FOLDERS,
                origin=run.origin.metadata(),
                on_progress=lambda counts: watcher.message(
                    f"compared {counts.rows:,} rows: {counted(counts.findings, list(Finding))}"
                ),
            )
    counts.left_out, counts.policy = sizes.left_out, str(policy.rule(table))
    report = _report(run, file_type, ids, path, counts, settings, started)
    work_folder.remove_work_folder(run.instance, run.run_id)
    run.log.info(f"{report.summary}; {counts.list_requests:,} list requests, in {report.seconds:.1f} s")
    return report


def _report(  # noqa: PLR0917  (what one verification knows, and no more)
    run: RunContext,
    file_type: FileType,
    ids: IdRange,
    path: Path,
    counts: AuditCounts,
    settings: AuditSettings,
    started: float,
) -> VerificationReport:
    """Publish the findings, and summarize them."""
    wrong = _check_source(run, file_type, counts)
    notable = (*DIFFERENCES, Finding.SOURCE_DIFFERS, Finding.EXTRA, Finding.FOREIGN, Finding.MISSING)
    lines = first_findings(path, notable)
    total = sum(counts.findings[finding] for finding in notable)
    location = ""
    if wrong is None:
        # What a wrong source lacks is not lost: such findings must not be kept.
        location = run.store.write(path, verification_of(file_type), range_key(ids), run.run_id)
    return VerificationReport(
        counts=counts,
        settings=settings,
        table=findings_list(lines, total, "Everything is as it must be."),
        location=location,
        seconds=time.monotonic() - started,
        destination_id=run.destination_id,
        wrong_source=wrong,
    )


def _check_source(run: RunContext, file_type: FileType, counts: AuditCounts) -> StorageError | None:
    """Return the error of a verification whose source is not the one of the database, as for a sync."""
    source, destination = run.source, run.destination

    def check() -> OriginalsCheck:
        with run.connections() as connect:
            return check_originals(Database.open(connect), source, destination, {file_type.value})

    lacking = counts.only_at_destination + counts.findings[Finding.MISSING]
    return wrong_source(lacking, counts.wanted, check, (source, destination), run.log.warning, once=True)
