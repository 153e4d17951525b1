"""What a run says in the UI: metadata, the asset check, observations, the failure."""

from dataclasses import dataclass

import dagster as dg

from mastosync_dagster.alerts import FIRST_REASONS
from mastosync_dagster.environment import retry_nights
from mastosync_dagster.escaping import plain
from mastosync_dagster.mastodon import (
    Selection,
)
from mastosync_dagster.records import summaries
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.runs.history import (
    COVERED_SINCE,
    DATABASE_BYTES,
    DESTINATION,
    EVERY_ROW,
    NEWEST_AT,
    NEWEST_ID,
    READ_AT,
    WATERMARK,
)
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.sync.models import Copied


def check_result(
    summary: summaries.Summary,
    asset: str,
    *,
    failed: int,
    stopped: StorageError | None = None,
    remark: str | None = None,
) -> dg.AssetCheckResult:
    """Return the asset check: missing objects, and private ones left out, are a warning, failed ones an error.

    Args:
        summary: What the manifest says.
        asset: The asset.
        failed: How many objects failed; of those that the manifest has so, the others are left out on purpose.
        stopped: The error that ended the run early, or lets nobody believe it.
        remark: What else is to be looked at: a warning.
    """
    missing, objects = summary.total.outcomes[Outcome.MISSING], summary.total.objects
    left_out = summary.total.outcomes[Outcome.FAILED] - failed
    private = f", {left_out:,} private ones left out" if left_out else ""
    counted = f"{failed:,} failed, {missing:,} missing{private} of {objects:,} objects"
    return dg.AssetCheckResult(
        passed=not (failed or missing or left_out or stopped or remark),
        asset_key=asset,
        check_name=summaries.CHECK_NAME,
        severity=dg.AssetCheckSeverity.ERROR if failed or stopped else dg.AssetCheckSeverity.WARN,
        description="; ".join(filter(None, [counted, str(stopped) if stopped else None, remark])),
        metadata={"failed": failed, "missing": missing, "left out": left_out, "objects": objects},
    )


@dataclass(frozen=True)
class RunReport:
    """What the end of a run is told from."""

    summary: summaries.Summary
    manifest: str
    place: str
    copied: Copied

    def metadata(self) -> dict[str, dg.MetadataValue]:
        """Return the numbers that the UI plots, the first lines of what went wrong, and the manifest's place."""
        counts, planned = self.copied.counts, self.copied.planned
        seconds = planned.seconds + counts.seconds + self.copied.refetched.seconds
        numbers: dict[str, int | float] = {
            "rows": planned.counts.rows,
            **summaries.counts(self.summary.total),
            summaries.ONLY_THERE: self.summary.total.only_at_destination,
            "seconds": round(seconds, 3),
            **summaries.rates(self.summary.total, seconds),
            **counts.figures(),
            "acls_set": self.copied.turned.turned,
            "refetched": self.copied.refetched.refetched,
            "list_requests": planned.counts.list_requests,
            "head_requests": planned.counts.head_requests,
            DATABASE_BYTES: planned.database_bytes,
        }
        return {
            **{
                name: dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.float(value)
                for name, value in numbers.items()
            },
            "missing and failed": dg.MetadataValue.md(summaries.markdown(self.summary)),
            **({"already there": dg.MetadataValue.text(planned.remark)} if planned.remark else {}),
            "manifest": dg.MetadataValue.path(self.manifest),
            **self.read(),
        }

    def read(self) -> dict[str, dg.MetadataValue]:
        """Return what history asks of a run: when it read the database, and where its copies are."""
        return {
            READ_AT: dg.MetadataValue.timestamp(self.copied.planned.read_at),
            DESTINATION: dg.MetadataValue.text(self.place),
        }

    def observation(self, selection: Selection) -> dg.AssetObservation:
        """Return what is noted on an asset about its share of a run."""
        table = selection.table
        tally = self.summary.groups.get(table, summaries.Tally())
        metadata: dict[str, dg.RawMetadataValue] = {
            **summaries.counts(tally),
            summaries.ONLY_THERE: tally.only_at_destination,
            **self.read(),
        }
        if selection.changed_since is not None:
            metadata["changed_since"] = dg.MetadataValue.timestamp(selection.changed_since)
        scope = self.copied.planned.scope
        # Re-executed from failure into another bucket, the run takes the rows that the first one lacked.
        claims = {claim.table: claim for claim in scope.claims if scope.place == self.place}
        planned = self.copied.planned
        # What has failed is on the doubt list, so that the nights ask for it; if they do not, it holds the watermark.
        settled = not self.failed(tally) or retry_nights() > 0
        if table in claims and planned.claimable and settled and not self.copied.stopped:
            metadata[WATERMARK] = dg.MetadataValue.timestamp(self.copied.planned.read_at)
            metadata[EVERY_ROW] = dg.MetadataValue.bool(claims[table].every_row)
            covered_since = claims[table].covered_since or self.copied.planned.read_at
            metadata[COVERED_SINCE] = dg.MetadataValue.timestamp(covered_since)
            for newest in planned.newest:
                if newest.table == table:
                    metadata[NEWEST_ID] = dg.MetadataValue.int(newest.row_id)
                    metadata[NEWEST_AT] = dg.MetadataValue.float(newest.created_at)
        return dg.AssetObservation(table, metadata=metadata)

    @property
    def left_out(self) -> bool:
        """Whether somebody has said that private objects are left out: then it is no failure."""
        return self.copied.planned.config.wants_private() is False

    def failed(self, tally: summaries.Tally) -> int:
        """Return how many objects of a tally failed."""
        return tally.outcomes[Outcome.FAILED] - (tally.reasons[Reason.PRIVATE_NOT_COPIED] if self.left_out else 0)

    @property
    def has_failed(self) -> bool:
        """Whether an object failed, or a permanent error stopped the run."""
        return bool(self.failed(self.summary.total) or self.copied.stopped)

    def raise_if_failed(self) -> None:
        """Raise the failure that ends a run in which an object failed, or which a permanent error stopped."""
        if self.has_failed:
            stopped = self.copied.stopped
            raise dg.Failure(
                description=summaries.failure_text(self.summary, plain(str(stopped)) if stopped else None),
                metadata={
                    **self.metadata(),
                    FIRST_REASONS: dg.MetadataValue.text(summaries.first_reasons(self.summary)),
                },
                allow_retries=False,
            )
