"""Lists orphans at the destination, objects that no row expects, and deletes them under guards.

An object is deleted only if

- the admin sets ``delete``, and for ``max_delete`` objects at the most; without that number, only what a run has copied
  there is deleted, and nothing where more than a hundred objects would be,
- every row of the range was read and every key of the range listed: any error ends the run before,
- the range has rows with files, and the destination has at least half of their objects: else it is the wrong database,
  bucket or prefix, or the copy has not been made yet,
- not more than ``max_share`` of what the rows expect would be deleted: else another instance's objects may lie there,
- the destination is not the source, and was not the source of a run of this home,
- its key is one that Mastodon makes for a row of this range, and not a newer Mastodon's style of a file that a row has,
- every row that may have such a key has been read again after the listing, just before the deletion, and expects
  something else; and the same query has returned rows that are known to exist,
- it was last written more than a day before the time whose rows the database shows, by the slower of two clocks. Of a
  restored backup, that is the time of its newest row; a database looks like one if nothing was written to it for a day,
  and the destination has objects of later rows.

What is to be deleted is on record before, and what was deleted afterwards.
"""

# Without `from __future__ import annotations`: Dagster reads the annotations of ops.

from collections import Counter

import dagster as dg
from pydantic import Field, field_validator

from mastosync_dagster.prune.config import PruneConfig
from mastosync_dagster.ranges.file_types import known_file_types
from mastosync_dagster.ranges.partitions import FileType, range_key, range_of_run, registered_ranges
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.failures import plain_failures
from mastosync_dagster.runs.progress import ProgressReporter
from mastosync_dagster.runs.run_lock import working
from mastosync_dagster.shield import load_shielded

JOB_PREFIX = "prune_"
_PROBLEMS = 5
"""So many ranges the failure of a run names."""


class PruneAllConfig(PruneConfig):
    """Which file types' ranges to prune."""

    file_types: list[str] = Field(
        default=[file_type.value for file_type in FileType], description="Which tables; all by default."
    )

    _known = field_validator("file_types")(known_file_types)


@dg.op(description="The same for every registered ID range, one after the other.")
def prune_all(
    context: dg.OpExecutionContext,
    config: PruneAllConfig,
    mastodon_db: MastodonDatabase,
    destination: S3Bucket,
    progress: dg.ResourceParam[ProgressReporter],
) -> None:
    """Prune all ranges, each under its own guards: what stops one does not stop the others."""
    totals, problems = Counter[str](), list[str]()
    with plain_failures(), working(context.instance, context.run_id):
        load_shielded("mastosync_dagster.prune.run")
        from mastosync_dagster.prune.run import Pruning

        run = RunContext.of(context, mastodon_db, None, destination, progress)
        run.ensure_different()
        for file_type in map(FileType, config.file_types):
            for ids in registered_ranges(context.instance, file_type):
                pruning = Pruning(run, config, file_type, ids, f"{JOB_PREFIX}{file_type.value}")
                try:
                    pruning.run()
                except dg.Failure as failure:
                    # A range where nothing was to be deleted has failed to delete nothing.
                    if pruning.had_something_to_delete:
                        problems.append(f"{file_type.value} {range_key(ids)}: {failure.description}")
                totals += pruning.totals
                totals["ranges"] += 1
        context.add_output_metadata({name: dg.MetadataValue.int(count) for name, count in totals.items()})
        context.log.info(", ".join(f"{name}: {count:,}" for name, count in totals.items()) or "no range is registered")
    if problems:
        text = f"{len(problems):,} of {totals['ranges']:,} ranges could not be pruned. {' '.join(problems[:_PROBLEMS])}"
        raise dg.Failure(description=text, allow_retries=False)


@dg.job(
    description="List what lies at the destination in any ID range and no row expects; delete it under guards if the"
    " config says so."
)
def prune_every_range() -> None:
    """Prune all registered ID ranges in one run."""
    prune_all()


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
        load_shielded("mastosync_dagster.prune.run")
        from mastosync_dagster.prune.run import Pruning

        file_type = FileType(context.job_name.removeprefix(JOB_PREFIX))
        ids = range_of_run(context, file_type)
        run = RunContext.of(context, mastodon_db, None, destination, progress)
        run.ensure_different()
        pruning = Pruning(run, config, file_type, ids, context.job_name)
        try:
            pruning.run()
        finally:
            context.add_output_metadata(pruning.metadata)


def prune_jobs() -> list[dg.JobDefinition]:
    """Return the partitioned jobs ``prune_<asset>``: a run is one ID range."""
    return [_prune_job(file_type) for file_type in FileType]


def _prune_job(file_type: FileType) -> dg.JobDefinition:

    @dg.job(
        name=f"{JOB_PREFIX}{file_type.value}",
        partitions_def=file_type.partitions,
        description=f"List what lies at the destination in one ID range of {file_type.value} and no row expects; delete"
        " it under guards if the config says so.",
    )
    def job() -> None:
        prune()

    return job
