"""The events of a run in the UI: metadata, the asset check, observations, the failure."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import dagster as dg

from mastosync_dagster.alerts.message import FIRST_REASONS
from mastosync_dagster.environment import retry_nights
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import cell, code_cell, plain
from mastosync_dagster.expected.policy import Policy
from mastosync_dagster.mastodon import TABLES, Database, IdRange, Selection
from mastosync_dagster.ranges.partitions import FileType, add_ranges, range_key
from mastosync_dagster.records import summaries
from mastosync_dagster.records.manifest import ManifestLine
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.refetch.remedies import Remedies, Remedy
from mastosync_dagster.runs import watermarks
from mastosync_dagster.runs.context import RunContext
from mastosync_dagster.runs.failures import PlainFailure
from mastosync_dagster.runs.totals import AllRanges, RangeTotals
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.sync.finished_ranges import PlannedRange, RangeCounts, lacks_too_much
from mastosync_dagster.sync.models import Copied, Planned, created_text

_IN_ORDER = (Outcome.COPIED, Outcome.MISSING, Outcome.FAILED, Outcome.PRESENT)
"""What an admin asks for first."""


def check_result(
    total: summaries.OutcomeCounts,
    asset: str,
    *,
    failed: int,
    stopped: StorageError | None = None,
    remark: str | None = None,
) -> dg.AssetCheckResult:
    """Return the asset check: missing objects, private ones skipped and a remark are a warning, failed ones an error.

    ``failed`` are those that the manifest has as failed, except those that are skipped as private on purpose. The error
    ``stopped`` has ended the run early, or makes its result unusable.
    """
    missing, objects = total.outcomes[Outcome.MISSING], total.objects
    skipped = total.outcomes[Outcome.FAILED] - failed
    private = f", {skipped:,} skipped as private" if skipped else ""
    left_out = f"; {total.left_out:,} left out by the policy" if total.left_out else ""
    counted = f"{failed:,} failed, {missing:,} missing{private} of {objects:,} objects{left_out}"
    return dg.AssetCheckResult(
        passed=not (failed or missing or skipped or stopped or remark),
        asset_key=asset,
        check_name=summaries.CHECK_NAME,
        severity=dg.AssetCheckSeverity.ERROR if failed or stopped else dg.AssetCheckSeverity.WARN,
        description="; ".join(filter(None, [counted, str(stopped) if stopped else None, remark])),
        metadata={"failed": failed, "missing": missing, "skipped as private": skipped, "objects": objects},
    )


@dataclass(frozen=True)
class RunReport:
    """What the events at the end of a run are made from.

    Attributes:
        manifest: Its location.
        what_to_do: A text in Markdown for each line of ``summary.first``.
        all_ranges: What is done of the asset as a whole; None for a run that is not about an ID range.
    """

    summary: summaries.Summary
    manifest: str
    destination_id: str
    copied: Copied
    what_to_do: Sequence[str] = ()
    all_ranges: AllRanges | None = None

    @property
    def _seconds(self) -> float:
        return self.copied.planned.seconds + self.copied.counts.seconds + self.copied.refetched.seconds

    @property
    def closing_line(self) -> str:
        """What has become of the run's objects, for the end of its log."""
        return summaries.closing_text(self.summary.total, self._seconds)

    def metadata(self) -> dict[str, dg.MetadataValue]:
        """Return what an admin reads, first things first; the UI plots each number."""
        total = self.summary.total
        created = self.copied.planned.scope.created
        remark = self.copied.planned.remark
        return {
            **({"all ID ranges": dg.MetadataValue.md(self.all_ranges.text)} if self.all_ranges else {}),
            **_result(total, self._seconds),
            **({"created": dg.MetadataValue.text(created)} if created else {}),
            "missing and failed": dg.MetadataValue.md(summaries.markdown(self.summary, self.what_to_do)),
            **({"already there": dg.MetadataValue.text(remark)} if remark else {}),
            "manifest": dg.MetadataValue.path(self.manifest),
            summaries.COUNTERS: dg.MetadataValue.json(self._counters()),
            **self._read(),
            **self._policy(self.copied.planned.scope.name),
        }

    def _counters(self) -> dict[str, int | float]:
        """Return the numbers that commands read, and those that explain how fast the run was."""
        total, planned = self.summary.total, self.copied.planned
        return {
            "rows": planned.counts.rows,
            **_counters(total, self._seconds),
            **self.copied.counts.stats(),
            "acls_set": self.copied.acls.changed,
            "refetched": self.copied.refetched.refetched,
            "list_requests": planned.counts.list_requests,
            "head_requests": planned.counts.head_requests,
            watermarks.DATABASE_BYTES: planned.database_bytes,
        }

    def _policy(self, table: str) -> dict[str, dg.MetadataValue]:
        """Return which remote files of a table the run wanted; of a job over several tables, what it left out."""
        policy = self.copied.planned.scope.policy
        words = str(policy.rule(table)) if table in TABLES else str(policy)
        return {watermarks.REMOTE_FILES: dg.MetadataValue.text(words)}

    def _read(self) -> dict[str, dg.MetadataValue]:
        """Return what later runs read: the time of the database that was read, and the destination."""
        return {
            watermarks.READ_AT: dg.MetadataValue.timestamp(self.copied.planned.read_at),
            watermarks.DESTINATION: dg.MetadataValue.text(self.destination_id),
        }

    def range_events(self) -> Iterator[dg.AssetMaterialization | dg.AssetObservation]:
        """Yield what the history is to have of a run over an ID range besides its materialization.

        Where objects have failed there is none: an observation has the counts of the range, and the list. Otherwise the
        materialization again, should another range have ended at the same time.
        """
        scope = self.copied.planned.scope
        if self.has_failed:
            # What the wrong source lacks says nothing about the range.
            if self.copied.wrong_source is None:
                yield dg.AssetObservation(scope.name, partition=scope.partition, metadata=self.metadata())
            return
        counted = self.all_ranges and self.all_ranges.again()
        while counted:
            metadata = replace(self, all_ranges=counted).metadata()
            yield dg.AssetMaterialization(scope.name, partition=scope.partition, metadata=metadata)
            counted = counted.again()

    def observation(self, selection: Selection) -> dg.AssetObservation:
        """Return the observation of an asset about its share of a run, with the watermark if it moves."""
        planned, table = self.copied.planned, selection.table
        counts = self.summary.groups.get(table, summaries.OutcomeCounts())
        metadata: dict[str, dg.RawMetadataValue] = {
            **summaries.counts(counts),
            summaries.ONLY_THERE: counts.only_at_destination,
            **self._read(),
            **self._policy(table),
        }
        if selection.changed_since is not None:
            metadata["changed_since"] = dg.MetadataValue.timestamp(selection.changed_since)
        # Re-executed from failure into another bucket, the run takes the rows that the first one lacked.
        same = planned.scope.destination_id == self.destination_id
        claim = next((claim for claim in planned.scope.claims if same and claim.table == table), None)
        # Failed objects are on the doubt list, and the nights retry them; if they do not, the watermark stays.
        settled = not self.failed(counts) or retry_nights() > 0
        if claim is not None and planned.claimable and settled and not self.copied.stopped:
            metadata[watermarks.WATERMARK] = dg.MetadataValue.timestamp(planned.read_at)
            metadata[watermarks.EVERY_ROW] = dg.MetadataValue.bool(claim.every_row)
            metadata[watermarks.COVERED_SINCE] = dg.MetadataValue.timestamp(claim.covered_since or planned.read_at)
            for newest in planned.newest:
                if newest.table == table:
                    metadata[watermarks.NEWEST_ID] = dg.MetadataValue.int(newest.row_id)
                    metadata[watermarks.NEWEST_AT] = dg.MetadataValue.float(newest.created_at)
        return dg.AssetObservation(table, metadata=metadata)

    def night(
        self, observations: Sequence[dg.AssetObservation], policy: Policy, destination_id: str | None
    ) -> dg.AssetMaterialization | None:
        """Return the materialization of the copy as a whole; None where not every file type's watermark moves.

        It is about the copy of the settings, with their ``policy`` and destination (None: they name none). A run whose
        config says something else is another copy, or a part of it.
        """
        if self.copied.planned.scope.policy != policy or self.destination_id != destination_id:
            return None
        moved = {each.asset_key.to_user_string() for each in observations if watermarks.WATERMARK in each.metadata}
        if moved != {file_type.value for file_type in FileType}:
            return None
        return dg.AssetMaterialization(
            watermarks.REPLICA,
            metadata={
                watermarks.WATERMARK: dg.MetadataValue.timestamp(self.copied.planned.read_at),
                "what was done": self.closing_line,
                summaries.COUNTERS: dg.MetadataValue.json(self._counters()),
                "manifest": dg.MetadataValue.path(self.manifest),
                watermarks.DESTINATION: self.destination_id,
            },
        )

    def failed(self, counts: summaries.OutcomeCounts) -> int:
        """Return how many objects failed. Where an admin has said so, those skipped as private are no failures."""
        return _failed(self.copied.planned, counts)

    def check(self) -> dg.AssetCheckResult:
        """Return the asset check of a run over an ID range."""
        planned, total = self.copied.planned, self.summary.total
        return check_result(
            total,
            planned.scope.name,
            failed=self.failed(total),
            stopped=self.copied.stopped,
            remark=planned.remark,
        )

    @property
    def has_failed(self) -> bool:
        """Whether an object failed, or a permanent error stopped the run."""
        return bool(self.failed(self.summary.total) or self.copied.stopped)

    def raise_if_failed(self) -> None:
        """Raise the failure that ends a run in which an object failed, or which a permanent error stopped."""
        if self.has_failed:
            stopped = self.copied.stopped
            reasons = dg.MetadataValue.text(summaries.first_reasons(self.summary))
            raise PlainFailure(
                summaries.failure_text(self.summary, plain(stopped.in_full()) if stopped else None),
                {**self.metadata(), FIRST_REASONS: reasons},
            )


def _result(counts: summaries.OutcomeCounts, seconds: float) -> dict[str, dg.MetadataValue]:
    """Return what has become of the objects of a range; the UI plots each number."""
    return {
        **{outcome.value: dg.MetadataValue.int(counts.outcomes[outcome]) for outcome in _IN_ORDER},
        "size copied": dg.MetadataValue.text(summaries.size_text(counts.bytes)),
        "duration": dg.MetadataValue.text(summaries.duration_text(seconds)),
        **{name: dg.MetadataValue.float(value) for name, value in summaries.rates(counts, seconds).items()},
    }


def _counters(counts: summaries.OutcomeCounts, seconds: float) -> dict[str, int | float]:
    """Return the numbers about the objects of a range that commands read."""
    return {
        "objects": counts.objects,
        "bytes": counts.bytes,
        **({summaries.LEFT_OUT: counts.left_out} if counts.left_out else {}),
        summaries.BYTES_THERE: counts.bytes_there,
        summaries.ONLY_THERE: counts.only_at_destination,
        "seconds": round(seconds, 3),
    }


def _failed(planned: Planned, counts: summaries.OutcomeCounts) -> int:
    on_purpose = planned.config.copy_private is False
    return counts.outcomes[Outcome.FAILED] - (counts.reasons[Reason.PRIVATE_NOT_COPIED] if on_purpose else 0)


def log_finished_ranges(
    run: RunContext,
    planned: Planned,
    ranges: RangeCounts,
    summary: summaries.Summary,
    manifest: str,
    *,
    unchecked: bool,
) -> None:
    """Register the new ID ranges of a run over whole tables, and materialize those that it has finished.

    No object of these has failed or is left. Those with failed objects are observed. ``unchecked``: the run has ended
    before it could check whether the source is the right one.
    """
    if unchecked and lacks_too_much(summary.total):
        return
    overlapping = _register(run, planned)
    # What is left to another run says nothing about its range.
    ended = [
        _EndedRange(table, finished, counts, tuple(ranges.first.get((table, finished.ids), ())))
        for table, finished, counts in ranges.each()
        if finished.ids not in overlapping[table] and not counts.reasons[Reason.NOT_ATTEMPTED]
    ]
    totals = {table: _totals(run, planned, table, ended) for table in {each.table for each in ended}}
    seconds = (datetime.now(timezone.utc) - planned.begun).total_seconds() / max(summary.total.objects, 1)
    # The database is asked about all ranges at once, and not where somebody waits for a stopped run.
    lines = [line for each in ended for line in each.first]
    advice = dict(zip(lines, what_to_do(run, lines, ask=not unchecked), strict=True))
    done: dict[str, dg.AssetMaterialization] = {}
    for each in ended:
        metadata = {
            "all ID ranges": dg.MetadataValue.md(totals[each.table].text),
            **each.metadata(seconds * each.counts.objects, [advice[line] for line in each.first], manifest),
            watermarks.READ_AT: dg.MetadataValue.timestamp(planned.range_read_at),
            watermarks.DESTINATION: dg.MetadataValue.text(run.destination_id),
            watermarks.REMOTE_FILES: dg.MetadataValue.text(str(planned.scope.policy.rule(each.table))),
        }
        if _failed(planned, each.counts):
            run.log_event(dg.AssetObservation(each.table, partition=each.key, metadata=metadata))
        else:
            done[each.table] = dg.AssetMaterialization(each.table, partition=each.key, metadata=metadata)
            run.log_event(done[each.table])
    for table, last in done.items():
        # As at the end of a run over one range: another one may have ended meanwhile.
        if counted := totals[table].again():
            metadata = {**last.metadata, "all ID ranges": dg.MetadataValue.md(counted.text)}
            run.log_event(dg.AssetMaterialization(table, partition=last.partition, metadata=metadata))
    # After the materializations: the UI shows a check as evaluated where it is about the newest one.
    for each in ended:
        run.log_event(each.check(_failed(planned, each.counts)))


@dataclass(frozen=True)
class _EndedRange:
    """A range that a run over whole tables has gone through, with the first lines that are missing or failed."""

    table: str
    planned: PlannedRange
    counts: summaries.OutcomeCounts
    first: tuple[ManifestLine, ...]

    @property
    def key(self) -> str:
        return range_key(self.planned.ids)

    def metadata(self, seconds: float, advice: Sequence[str], manifest: str) -> dict[str, dg.MetadataValue]:
        """Return what an admin reads of the range, as of a run of its own. ``seconds``: its share of the run's."""
        counters = {**_counters(self.counts, seconds), watermarks.DATABASE_BYTES: self.planned.database_bytes}
        created = created_text(self.planned.ids)
        found = summaries.markdown(summaries.Summary(self.counts, {}, self.first), advice)
        return {
            **_result(self.counts, seconds),
            **({"created": dg.MetadataValue.text(created)} if created else {}),
            "missing and failed": dg.MetadataValue.md(found),
            "manifest": dg.MetadataValue.path(manifest),
            summaries.COUNTERS: dg.MetadataValue.json(counters),
        }

    def check(self, failed: int) -> dg.AssetCheckEvaluation:
        """Return the result of the range's check, as of a run of its own."""
        result = check_result(self.counts, self.table, failed=failed)
        return dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(self.table),
            check_name=summaries.CHECK_NAME,
            passed=result.passed,
            metadata=result.metadata,
            severity=result.severity,
            description=result.description,
            partition=self.key,
        )


def _totals(run: RunContext, planned: Planned, table: str, ended: Sequence[_EndedRange]) -> AllRanges:
    """Return what is done of all ID ranges of a table, given those that a run over whole tables has gone through."""
    numbers = {
        each.key: RangeTotals.of(each.counts, failed=_failed(planned, each.counts) > 0)
        for each in ended
        if each.table == table
    }
    return AllRanges.counted(run.instance, FileType(table), run.destination_id, numbers)


def _register(run: RunContext, planned: Planned) -> dict[str, set[IdRange]]:
    """Register the new ranges of each table; return those that are none: another command has registered others."""
    overlapping = {}
    for table, ranges in planned.ranges.items():
        new = [each.ids for each in ranges if each.new]
        overlapping[table] = set(new).difference(add_ranges(run.instance, FileType(table), new))
    return overlapping


def what_to_do(run: RunContext, lines: Sequence[ManifestLine], *, ask: bool = True) -> tuple[str, ...]:
    """Return what to do about each missing or failed object, in Markdown; ``ask``: the database knows more."""
    prefix, remedies = run.destination.settings.prefix, dict[ManifestLine, str]()
    groups = {line.group: [each for each in lines if each.group == line.group] for line in lines}
    with contextlib.ExitStack() as stack:
        found = Remedies(prefix)
        if groups and ask:
            with contextlib.suppress(AdminError):
                found = Remedies(prefix, Database.open(stack.enter_context(run.database.session())))
        for group, some in groups.items():
            try:
                advice = list(found.of(group, some))
            except AdminError:
                # The database is gone: the manifest alone must do.
                advice = list(Remedies(prefix).of(group, some))
            remedies |= {each.line: _advice(each) for each in advice}
    return tuple(remedies[line] for line in lines)


def _advice(remedy: Remedy) -> str:
    return f"run {code_cell(remedy.command)} on Mastodon's machine" if remedy.command else cell(remedy.words)
