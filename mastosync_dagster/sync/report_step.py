"""The last step of a run: publish the results."""

from dataclasses import replace

from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.resources.direction import note_direction
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.doubts import CHANGES
from mastosync_dagster.runs.manifests import Passed
from mastosync_dagster.runs.totals import AllRanges, RangeTotals
from mastosync_dagster.shield import run_shielded
from mastosync_dagster.sync.events import RunReport, log_finished_ranges, what_to_do
from mastosync_dagster.sync.finished_ranges import RangeCounts
from mastosync_dagster.sync.models import Copied
from mastosync_dagster.sync.publication import publish


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
