"""Compares the destination with what is expected and with the source, and writes down the findings."""

from __future__ import annotations

import contextlib
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mastosync_dagster.plan.decisions import SOURCE_DAMAGED, Action, Decision
from mastosync_dagster.plan.differing import Differing, Judgement
from mastosync_dagster.plan.equality import Equality
from mastosync_dagster.plan.lookup import ListingResult, Lookup, destination_keys, source_keys
from mastosync_dagster.plan.top_listing import Top, list_beside, list_top, orphan_line, whole_bucket
from mastosync_dagster.pool import EverySecond, Pool
from mastosync_dagster.records.findings import Finding, FindingLine, FindingWriter
from mastosync_dagster.records.outcomes import HARMLESS, ONLY_AT_DESTINATION
from mastosync_dagster.verify.object_checks import (
    CheckResult,
    Comparison,
    ObjectCheck,
    ObjectChecker,
)
from mastosync_dagster.verify.settings import AuditSettings, Depth

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from mastosync_dagster.plan.decisions import Known
    from mastosync_dagster.plan.items import Batch, ExpectedObject
    from mastosync_dagster.plan.lookup import PendingLookup
    from mastosync_dagster.s3.storage import ListedObject, Storage

NO_ACLS = "private, and the destination has no ACLs"

_TO_CONFIRM = frozenset({Finding.ABSENT, Finding.MISSING})
"""What no listing alone makes a finding."""

# One object in so many is checked, and one of each batch: together with the listings, less than three requests per
# thousand keys and storage.
_HEADERS_SAMPLE = 4_000
_PRIVATE_SAMPLE = 2_000
_PUBLIC_SAMPLE = 4_000

_OTHER_BYTES = frozenset({Finding.SIZE_DIFFERS, Finding.CONTENT_DIFFERS})
_SOUND = frozenset({Finding.EQUAL, Finding.SOURCE_DIFFERS, Finding.DESTINATION_NEWER})
"""What is at the destination as it must be, so that further checks pay."""


@dataclass(slots=True)
class AuditCounts:
    """Counts of an audit.

    Attributes:
        rows: Rows of the database behind it.
        findings: Lines by finding.
        headers: Objects whose headers were compared; likewise ``acls`` and ``bodies``.
        bytes: Bytes of the bodies read, of both storages together.
        list_requests: To both storages; so are ``head_requests``.
        acls_unknown: Why the ACLs are not shown; None: they are.
        unlisted: The destination may not be listed: each object was asked for, and orphans were not looked for.
        beside_unlisted: The source's bucket may not be listed beside its key prefix.
        not_in_listing: Objects that a listing lacked, and that were found when they were asked for by name.
        only_at_destination: Expected objects that the destination has and the source has not: they count as equal.
        wanted: Expected objects.
        left_out: Objects of rows that the policy leaves out: they are not compared, and are no orphans.
        policy: Which remote files are wanted.
        tops: What lies at the top of source and destination: see `Top.names`; after a slash, what lies beside the key
            prefix of the source. None: it may not be listed, or the audit has not ended.
    """

    rows: int = 0
    findings: dict[Finding, int] = field(default_factory=lambda: dict.fromkeys(Finding, 0))
    headers: int = 0
    acls: int = 0
    bodies: int = 0
    bytes: int = 0
    list_requests: int = 0
    head_requests: int = 0
    acls_unknown: str | None = None
    unlisted: bool = False
    beside_unlisted: bool = False
    not_in_listing: int = 0
    only_at_destination: int = 0
    wanted: int = 0
    left_out: int = 0
    policy: str = "always"
    tops: tuple[dict[str, bool] | None, dict[str, bool] | None] = (None, None)


def audit(
    batches: Iterable[Batch],
    source: Storage,
    destination: Storage,
    path: Path,
    settings: AuditSettings,
    *,
    orphans: Callable[[Sequence[str], tuple[int, int] | None], Mapping[str, str | None]],
    folders: Mapping[str, Collection[str]],
    origin: Mapping[str, str],
    on_progress: Callable[[AuditCounts], None],
    knowledge: Callable[[Sequence[Differing]], Sequence[Known]] | None = None,
) -> AuditCounts:
    """Compare both storages, and write the findings about all expected objects and all others to ``path``.

    The file is written whole or not at all, with ``origin`` in its metadata. ``on_progress`` is called in this thread
    about once a second, and at the end.

    Orphans are looked for in the batches' ranges: ``orphans`` gets keys of the destination there that a batch does not
    expect, and the batch's owners, and returns those that are the owners' and that no row expects, each with a remark.
    ``folders`` are those of `list_top`. ``knowledge`` is that of ``make_plan``: what is a difference here a sync copies
    again, and the other way round.

    Raises:
        StorageError: A storage refuses, or does not answer in spite of retries.
        OSError: The folder is full or not writable.
    """
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(FindingWriter(path, origin))
        judgement = Judgement(source, destination, Equality(source, destination), knowledge, overwrite=False)
        auditor = _Auditor(judgement, writer, settings, on_progress)
        pool = stack.enter_context(Pool(settings.readers, tick=auditor.report_progress))
        lookup = stack.enter_context(
            Lookup(source, destination, listers=settings.listers, tick=auditor.report_progress)
        )
        before: dict[str, ExpectedObject] = {}
        for batch in batches:
            # Rows whose ids lose digits in the key are neighbours: what a batch has in common with the one before is
            # written already.
            items = {item.key: item for item in batch.items if item.key not in before}
            others = auditor.compare(lookup.ask(items, batch.ranges, others=True), lookup, pool, rows=batch.rows)
            auditor.write_orphans(others, orphans([entry.key for entry in others], batch.owners) if others else {})
            before = items
        auditor.finish(folders, listed=lookup.may_list)
    auditor.report_progress(at_once=True)
    return auditor.counts


class _Auditor:
    """Compares, writes findings and counts. Lives in one thread, but for what `Pool` runs."""

    def __init__(
        self,
        judgement: Judgement,
        writer: FindingWriter,
        settings: AuditSettings,
        on_progress: Callable[[AuditCounts], None],
    ) -> None:
        self.counts = AuditCounts()
        self._judgement = judgement
        self._source, self._destination = judgement.source, judgement.destination
        self._writer = writer
        self._settings = settings
        self._checker = ObjectChecker(self._source, self._destination, settings)
        self._copy_private = settings.copy_private or self._destination.settings.has_acls
        self._random = random.Random()  # noqa: S311  (which objects are checked is no secret)
        self.report_progress = EverySecond(lambda: on_progress(self.counts))

    def compare(self, asked: PendingLookup, lookup: Lookup, pool: Pool, *, rows: int) -> list[ListedObject]:
        """Write the findings about a batch's objects. Returns what else the destination has in its ranges."""
        source, destination = listings = lookup.answers(asked)
        comparisons = {item.key: self._compare(item, *listings) for item in asked.items.values()}
        confirmed = self._ask_by_name(comparisons, listings, asked.listed, lookup)
        self._check_and_write(list(comparisons.values()), pool)
        self.counts.rows += rows
        self.counts.list_requests += source.list_requests + destination.list_requests
        self.counts.head_requests += sum(each.head_requests for each in (*listings, *confirmed))
        self.counts.not_in_listing += sum(len(each.objects) for each in confirmed)
        self.report_progress()
        return destination.others

    def _ask_by_name(
        self,
        comparisons: dict[str, Comparison],
        listings: tuple[ListingResult, ListingResult],
        listed: Sequence[bool],
        lookup: Lookup,
    ) -> tuple[ListingResult, ListingResult]:
        """Ask by HEAD for what a listing lacks, before it is called missing or absent; compare those objects again.

        A listing can end early (a damaged index, a server that cuts it short and does not say so). So what only the
        destination shows is asked of the source too: some of it, and all if the listing lacks any of that.

        Returns:
            The answers of both storages.
        """
        lacking = [each.item for each in comparisons.values() if each.finding in _TO_CONFIRM]
        at_source = [item for item in lacking if comparisons[item.key].found is None] if listed[0] else []
        only_there = [each.item for each in comparisons.values() if each.detail == ONLY_AT_DESTINATION and listed[0]]
        source, _ = lookup.ask_source_again(listings[0], (*at_source, *only_there), only_there)
        destination = lookup.ask_destination(lacking) if listed[1] else ListingResult()
        for listing, answers in zip(listings, (source, destination), strict=True):
            listing.objects.update(answers.objects)
            listing.unknown.update(answers.unknown)
        for item in (*lacking, *only_there):
            comparisons[item.key] = self._compare(item, *listings)
        return source, destination

    def _check_and_write(self, comparisons: list[Comparison], pool: Pool) -> None:
        """Decide where the storages differ, check some of the other objects, and write a line about each."""
        only_there = sum(each.detail == ONLY_AT_DESTINATION for each in comparisons)
        comparisons = self._decide_differing(comparisons)
        checks = self._choose([each for each in comparisons if each.finding in _SOUND])
        answers = pool.map(lambda check: self._checker.check(check, pool.halt), checks.values())
        results = dict(zip(checks, answers, strict=True))
        by_bodies = self._decide_by_bodies(checks, results)
        for each in comparisons:
            if each.target in by_bodies:
                self._write(by_bodies[each.target], None)
            else:
                self._write(each, results.get(each.target))
        counts = self.counts
        counts.headers += sum(check.headers for check in checks.values())
        counts.acls += sum(result.acl for result in answers)
        counts.bodies += sum(check.body for check in checks.values())
        counts.bytes += sum(result.bytes for result in answers)
        counts.only_at_destination += only_there
        counts.wanted += len(comparisons)
        counts.acls_unknown = self._checker.acls_unknown

    def write_orphans(self, others: list[ListedObject], orphans: Mapping[str, str | None]) -> None:
        """Write a line about each of the destination's other objects that is an orphan."""
        for entry in others:
            if entry.key in orphans:
                self._write_orphan(self._destination, entry, Finding.EXTRA, orphans[entry.key])

    def finish(self, folders: Mapping[str, Collection[str]], *, listed: tuple[bool, bool]) -> None:
        """List what lies beside the folders of expected objects, at both storages."""
        tops = []
        for storage, may_list, finding in (
            (self._source, listed[0], Finding.FOREIGN_AT_SOURCE),
            (self._destination, listed[1], Finding.FOREIGN),
        ):
            top = list_top(storage, folders) if may_list else Top(listed=False)
            tops.append(top.names if top.listed else None)
            for entry, detail in top.objects:
                self._write_orphan(storage, entry, finding, detail)
            self.counts.list_requests += top.list_requests
        if folders:
            tops[0] = self._beside_the_prefix(tops[0])
        self.counts.unlisted = not listed[1]
        self.counts.tops = (tops[0], tops[1])

    def _beside_the_prefix(self, names: dict[str, bool] | None) -> dict[str, bool] | None:
        """Write what lies in the source's bucket beside its key prefix, and add its names, each after a slash.

        It goes with the old bucket too. Beside the destination's prefix nobody's objects are in danger.
        """
        bucket = whole_bucket(self._source)
        if names is None or bucket.same_place(self._source) or bucket.same_place(whole_bucket(self._destination)):
            return names
        beside = list_beside(self._source)
        self.counts.list_requests += beside.list_requests
        if not beside.listed:
            self.counts.beside_unlisted = True
            return names
        for entry, detail in beside.objects:
            self._write_orphan(bucket, entry, Finding.FOREIGN_AT_SOURCE, detail)
        return names | {f"/{name}": True for name, is_foreign in beside.names.items() if is_foreign}

    def _compare(self, item: ExpectedObject, source: ListingResult, destination: ListingResult) -> Comparison:
        """Return what the listings show of an object."""
        found = source.first(source_keys(item))
        if found is None:
            return _compare_absent(item, source, destination)
        target = found.key if item.keep_found_key else item.key
        there = destination.objects.get(target)
        if there is not None:
            finding, detail = self._compare_content(found, there)
        elif target in destination.unknown:
            finding, detail = Finding.UNKNOWN, str(destination.unknown[target])
        else:
            finding, detail = Finding.ABSENT, NO_ACLS if item.private and not self._copy_private else None
        return Comparison(item, target, found, there, finding, detail)

    def _compare_content(self, found: ListedObject, there: ListedObject) -> tuple[Finding, str | None]:
        if found.size != there.size:
            return Finding.SIZE_DIFFERS, f"{there.size} bytes, at the source {found.size}"
        if not self._judgement.equality.are_equal(found, there):
            return Finding.CONTENT_DIFFERS, f"MD5 {there.etag}, at the source {found.etag}"
        return Finding.EQUAL, None

    def _decide_differing(self, comparisons: list[Comparison]) -> list[Comparison]:
        """Decide about the objects that differ by the listings, as a plan does."""
        differing = [
            Differing(each.item, each.target, each.found, each.there)
            for each in comparisons
            if each.finding in _OTHER_BYTES and each.found is not None and each.there is not None
        ]
        decisions = self._judgement.decide(differing)
        decided = {each.target: decision for each, decision in zip(differing, decisions, strict=True)}
        return [_after(decided[each.target], each) if each.target in decided else each for each in comparisons]

    def _decide_by_bodies(
        self, checks: Mapping[str, ObjectCheck], results: Mapping[str, CheckResult]
    ) -> dict[str, Comparison]:
        """Do the same where only the bodies differ; return what is not damaged at the destination."""
        differing = []
        for target, check in checks.items():
            each, bodies = check.comparison, results[target].bodies
            if bodies is not None and each.found is not None and each.there is not None:
                here, there = bodies
                entries = each.found._replace(size=here.size), each.there._replace(size=there.size)
                differing.append(Differing(each.item, target, *entries, (here.md5, there.md5)))
        decided = {}
        for target, decision in zip(
            (each.target for each in differing), self._judgement.decide(differing), strict=True
        ):
            if decision.action is not Action.COPY:
                detail = results[target].differences[0][1]
                decided[target] = _after(decision, checks[target].comparison._replace(detail=detail))
        return decided

    def _choose(self, sound: list[Comparison]) -> dict[str, ObjectCheck]:
        """Return which objects to check, by key at the destination."""
        with_source = [each for each in sound if each.found is not None]
        headers = self._some(with_source, self._settings.headers, _HEADERS_SAMPLE)
        depth = self._checker.acls
        acls = self._some([each for each in sound if each.item.private], depth, _PRIVATE_SAMPLE)
        if self._destination.settings.has_acls or self._settings.acl_from_source:
            acls |= self._some([each for each in sound if not each.item.private], depth, _PUBLIC_SAMPLE)
        if self._settings.acl_from_source:
            acls &= {each.target for each in with_source}
        bodies = {each.target for each in with_source} if self._settings.full else set()
        return {
            each.target: ObjectCheck(each, each.target in headers, each.target in acls, each.target in bodies)
            for each in sound
            if each.target in headers or each.target in acls or each.target in bodies
        }

    def _some(self, comparisons: list[Comparison], depth: Depth, one_in: int) -> set[str]:
        if depth is Depth.sample:
            count = min(len(comparisons), math.ceil(len(comparisons) / (self._settings.sample_one_in or one_in)))
            comparisons = self._random.sample(comparisons, count)
        return set() if depth is Depth.none else {each.target for each in comparisons}

    def _write(self, comparison: Comparison, result: CheckResult | None) -> None:
        item, target, found, there, finding, detail = comparison
        if result is not None and result.differences:
            finding = result.differences[0][0]
            detail = "; ".join(text for _, text in result.differences)
        self.counts.findings[finding] += 1
        self._writer.write(
            FindingLine(
                group=item.group,
                row_id=item.row_id,
                part=item.part,
                key=self._destination.full_key(target),
                source_key=None if found is None else self._source.full_key(found.key),
                finding=finding,
                detail=detail,
                size=None if there is None else there.size,
                etag=None if there is None else there.etag,
                private=item.private,
                modified=None if there is None else there.modified,
            )
        )

    def _write_orphan(self, storage: Storage, entry: ListedObject, finding: Finding, detail: str | None) -> None:
        self.counts.findings[finding] += 1
        self._writer.write(orphan_line(storage, entry, finding, detail))


def _compare_absent(item: ExpectedObject, source: ListingResult, destination: ListingResult) -> Comparison:
    """Return what the listings show of an object that the source does not have."""
    there = destination.first(destination_keys(item))
    if there is not None:
        # There is nothing to compare it with.
        return Comparison(item, there.key, None, there, Finding.EQUAL, ONLY_AT_DESTINATION)
    for listing, keys in ((source, source_keys(item)), (destination, destination_keys(item))):
        for key in keys:
            if key in listing.unknown:
                return Comparison(item, item.key, None, None, Finding.UNKNOWN, str(listing.unknown[key]))
    return Comparison(item, item.key, None, None, Finding.MISSING, HARMLESS if item.may_be_absent else None)


def _after(decision: Decision, comparison: Comparison) -> Comparison:
    """Return the comparison of an object with different bytes, after it was decided which are right."""
    if decision.action is Action.COPY:
        # The destination's is wrong.
        return comparison
    detail = f"{comparison.detail}: {decision.words}"
    if decision.action is Action.FAIL:
        return comparison._replace(finding=Finding.UNDECIDED, detail=detail)
    if decision is Decision.AS_THE_ROW_SAYS:
        finding, detail = Finding.EQUAL, decision.words
    else:
        finding = Finding.SOURCE_DIFFERS if decision in SOURCE_DAMAGED else Finding.DESTINATION_NEWER
    # It is not compared any further with the source's.
    return comparison._replace(found=None, finding=finding, detail=detail)
