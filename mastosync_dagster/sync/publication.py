"""The last step of a run: its manifest, the lists of what is still in doubt, its report."""

from dataclasses import replace
from pathlib import Path

from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records import summaries
from mastosync_dagster.records.doubts import GROUP
from mastosync_dagster.records.manifest import merge, read_manifest
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.store import ManifestStoreError
from mastosync_dagster.resources.direction import note_direction
from mastosync_dagster.runs import work_folder
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.doubts import CHANGES, leave_doubts
from mastosync_dagster.runs.manifests import Passed
from mastosync_dagster.runs.outbox import Outbox
from mastosync_dagster.runs.totals import AllRanges, RangeTotals
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.shield import run_shielded
from mastosync_dagster.sync.events import RunReport, log_finished_ranges, what_to_do
from mastosync_dagster.sync.finished_ranges import RangeCounts
from mastosync_dagster.sync.models import Copied, Planned, settles


def finish(run: RunContext, copied: Copied) -> RunReport:
    """Publish the manifest and the doubt lists, and return the run's report."""
    interrupts: list[BaseException] = []
    scope = copied.planned.scope
    # What the run has not come to may have been put there by another tool.
    gone_through = Passed() if copied.stopped or scope.is_cut else scope.tables
    ranges = RangeCounts(copied.planned.ranges)
    summary, location = run_shielded(
        lambda: publish(run, copied.planned, gone_through, ranges, went_through=copied.stopped is None),
        interrupts.append,
    )
    if copied.stopped is None and summary.total.outcomes[Outcome.COPIED]:
        note_direction(run.instance, run.source.settings, run.destination.settings)
    if copied.wrong_source is None:
        log_finished_ranges(run, copied.planned, ranges, summary, location, unchecked=copied.stopped is not None)
    if interrupts:
        raise interrupts[0]
    report = RunReport(
        summary=summary,
        manifest=location,
        destination_id=run.destination_id,
        copied=copied,
        what_to_do=what_to_do(run, summary.first),
    )
    return report if scope.partition == CHANGES else replace(report, all_ranges=_all_ranges(run, report))


def _all_ranges(run: RunContext, report: RunReport) -> AllRanges:
    """Return what is done of all ID ranges of an asset, this run's included."""
    scope = report.copied.planned.scope
    ended = {scope.partition: RangeTotals.of(report.summary.total, failed=report.has_failed)}
    return AllRanges.counted(run.instance, FileType(scope.name), run.destination_id, ended)


def publish(
    run: RunContext, planned: Planned, gone_through: Passed, ranges: RangeCounts, *, went_through: bool
) -> tuple[summaries.Summary, str]:
    """Publish the manifest, remove the run's folder, and return the summary and the manifest's location.

    Its lines are counted by `ranges` too.
    """
    merged = merge(
        run.folder,
        {**run.origin.metadata(), **planned.times.metadata(), **gone_through.metadata()},
        source_prefix=run.source.settings.prefix,
        destination_prefix=run.destination.settings.prefix,
    )
    summary = summaries.summarize(ranges.passing(read_manifest(merged)), planned.left_out)
    run.progress.summarized(summary)
    scope, outbox = planned.scope, Outbox(run.instance, run.log.warning)
    problems: list[Exception] = []
    lists = _left_doubts(run, planned, merged, went_through=went_through)
    location = ""
    # The lists even if the manifest could not be published: a later run publishes what waits.
    for file, group in [(merged, scope.name), *lists]:
        try:
            published = outbox.publish(run.store, file, group, scope.partition, run.run_id)
            location = location or published
        except (ManifestStoreError, StorageError) as problem:
            problems.append(problem)
    work_folder.remove_work_folder(run.instance, run.run_id)
    if problems:
        raise problems[0]
    return summary, location


def _left_doubts(run: RunContext, planned: Planned, manifest: Path, *, went_through: bool) -> list[tuple[Path, str]]:
    """Return the lists of what the run leaves in doubt, each with its group."""
    found = []
    for selection in planned.scope.selections:
        table, is_night = selection.table, went_through and settles(selection)
        try:
            file = leave_doubts(run, planned.scope.partition, table, manifest, is_night=is_night)
        except (ManifestStoreError, StorageError) as problem:
            # The list that the run published before it began stays: some objects are checked without need.
            run.log.warning(f"the list of what is in doubt could not be updated: {problem}")
            continue
        if file is not None:
            found.append((file, GROUP.format(table=table)))
    return found
