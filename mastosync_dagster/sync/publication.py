"""What a run leaves behind: its manifest, and the list of what is still in doubt."""

from pathlib import Path

from mastosync_dagster.records import summaries
from mastosync_dagster.records.doubts import GROUP
from mastosync_dagster.records.manifest import merge, read_manifest
from mastosync_dagster.records.store import ManifestStoreError
from mastosync_dagster.runs import work_folder
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.doubts import leave_doubts
from mastosync_dagster.runs.manifests import Passed
from mastosync_dagster.runs.outbox import Outbox
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.sync.models import Planned, settles


def publish(
    run: RunContext, planned: Planned, gone_through: Passed, *, went_through: bool
) -> tuple[summaries.Summary, str]:
    """Put the manifest where it stays, and remove the run's folder."""
    merged = merge(
        run.folder,
        {**run.origin.metadata(), **planned.times.metadata(), **gone_through.metadata()},
        source_prefix=run.source.settings.prefix,
        destination_prefix=run.destination.settings.prefix,
    )
    summary = summaries.summarize(read_manifest(merged))
    store, scope = run.store, planned.scope
    outbox = Outbox(run.instance)
    problems: list[Exception] = []
    lists = _left_doubts(run, planned, merged, went_through=went_through)
    location = ""
    # The lists even if the manifest could not be published: what waits here, a later run publishes.
    for file, group in [(merged, scope.name), *lists]:
        try:
            published = outbox.publish(store, file, group, scope.partition, run.run_id)
            location = location or published
        except (ManifestStoreError, StorageError) as problem:  # noqa: PERF203  (a handful of files)
            problems.append(problem)
    work_folder.remove_work_folder(run.instance, run.run_id)
    if problems:
        run.log.warning("the run's manifest could not be published: it waits, and the next run publishes it")
        raise problems[0]
    return summary, location


def _left_doubts(run: RunContext, planned: Planned, manifest: Path, *, went_through: bool) -> list[tuple[Path, str]]:
    """Return the lists of what the run leaves in doubt, each with its group."""
    place = run.list_place(planned.scope.partition)
    has_acls = run.destination.settings.has_acls
    found = []
    for selection in planned.scope.selections:
        table, is_night = selection.table, went_through and settles(selection)
        try:
            file = leave_doubts(place, table, manifest, has_acls=has_acls, is_night=is_night)
        except (ManifestStoreError, StorageError) as problem:
            # What it has put there before it began stays: objects are asked for that need not be.
            run.log.warning(f"the list of what is in doubt could not be brought up to date: {problem}")
            continue
        if file is not None:
            found.append((file, GROUP.format(table=table)))
    return found
