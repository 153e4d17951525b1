"""The last step of a run: publish the results."""

import contextlib

from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import cell, code_cell
from mastosync_dagster.mastodon import Database
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.manifest import ManifestLine
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.summaries import BYTES_THERE, Summary
from mastosync_dagster.refetch.fetch import FetchSettings
from mastosync_dagster.refetch.remedies import Remedies, Remedy
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.doubts import CHANGES
from mastosync_dagster.runs.manifests import Passed
from mastosync_dagster.runs.totals import all_ranges
from mastosync_dagster.shield import run_shielded
from mastosync_dagster.sync.copy_step import copy_planned
from mastosync_dagster.sync.events import RunReport, log_finished_ranges
from mastosync_dagster.sync.finished_ranges import RangeCounts
from mastosync_dagster.sync.models import Copied
from mastosync_dagster.sync.publication import publish


def finish(run: RunContext, copied: Copied, web: FetchSettings) -> RunReport:
    """Publish the manifest and the doubt lists, and return the run's report."""
    if copied.planned.run_id != run.run_id:
        # Re-executed from failure: another run's own manifest has what that run copied. This run copies the rest.
        copied = copy_planned(run, copied.config, copied.planned, web)
    interrupts: list[BaseException] = []
    scope = copied.planned.scope
    # What the run has not come to may have been put there by another tool.
    gone_through = Passed() if copied.stopped or scope.is_cut else scope.tables
    ranges = RangeCounts(copied.planned.ranges)
    summary, location = run_shielded(
        lambda: publish(run, copied.planned, gone_through, ranges, went_through=copied.stopped is None),
        interrupts.append,
    )
    if copied.wrong_source is None:
        log_finished_ranges(run, copied.planned, ranges, summary, location, unchecked=copied.stopped is not None)
    if interrupts:
        raise interrupts[0]
    return RunReport(
        summary=summary,
        manifest=location,
        destination_id=run.destination_id,
        copied=copied,
        what_to_do=_what_to_do(run, summary),
        all_ranges=_all_ranges(run, copied, summary),
    )


def _what_to_do(run: RunContext, summary: Summary) -> tuple[str, ...]:
    """Return what to do about each of the summary's first lines, in Markdown."""
    prefix, remedies = run.destination.settings.prefix, dict[ManifestLine, str]()
    groups = {line.group: [each for each in summary.first if each.group == line.group] for line in summary.first}
    with contextlib.ExitStack() as stack:
        found = Remedies(prefix)
        if groups:
            with contextlib.suppress(AdminError):
                found = Remedies(prefix, Database.open(stack.enter_context(run.database.session())))
        for group, lines in groups.items():
            try:
                advice = list(found.of(group, lines))
            except AdminError:
                # The database is gone: the manifest alone must do.
                advice = list(Remedies(prefix).of(group, lines))
            remedies |= {each.line: _advice(each) for each in advice}
    return tuple(remedies[line] for line in summary.first)


def _advice(remedy: Remedy) -> str:
    return f"run {code_cell(remedy.command)} on Mastodon's machine" if remedy.command else cell(remedy.words)


def _all_ranges(run: RunContext, copied: Copied, summary: Summary) -> str | None:
    """Return what is done of all ID ranges of an asset, this run's included; None for a run over several tables."""
    scope = copied.planned.scope
    if scope.partition == CHANGES:
        return None
    done = {
        "objects": summary.total.objects,
        BYTES_THERE: summary.total.bytes_there,
        **{outcome.value: summary.total.outcomes[outcome] for outcome in (Outcome.MISSING, Outcome.FAILED)},
    }
    return all_ranges(run.instance, FileType(scope.name), run.destination_id, {scope.partition: done})
