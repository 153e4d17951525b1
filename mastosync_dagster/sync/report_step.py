"""The last step of a run: publish what became of everything."""

from mastosync_dagster.refetch.fetch import FetchSettings
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.manifests import Passed
from mastosync_dagster.shield import run_shielded
from mastosync_dagster.sync.copy_step import copy_planned
from mastosync_dagster.sync.events import RunReport
from mastosync_dagster.sync.models import Copied
from mastosync_dagster.sync.publication import publish


def finish(run: RunContext, copied: Copied, web: FetchSettings) -> RunReport:
    """Put on record what has become of everything, and return what is to be said of it."""
    if copied.planned.run_id != run.run_id:
        # Re-executed from failure: what another run has copied is in its own manifest, and what it has not is wanted.
        copied = copy_planned(run, copied.config, copied.planned, web)
    interrupts: list[BaseException] = []
    scope = copied.planned.scope
    # What it has not come to may be another tool's as well.
    partial = copied.stopped is not None or scope.is_cut
    gone_through = Passed() if partial else scope.tables
    summary, location = run_shielded(
        lambda: publish(run, copied.planned, gone_through, went_through=copied.stopped is None),
        interrupts.append,
    )
    if interrupts:
        raise interrupts[0]
    return RunReport(summary=summary, manifest=location, place=run.place, copied=copied)
