"""Holds the destination against what is wanted and against the source, and writes down what it finds."""

from __future__ import annotations

import contextlib
import math
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mastosync_dagster.plan.decisions import SOURCE_DAMAGED, Decision, Verdict
from mastosync_dagster.plan.differing import MOST, Differing, Judgement
from mastosync_dagster.plan.equality import Equality
from mastosync_dagster.plan.lookup import Lookup, SideListing, destination_keys, source_keys
from mastosync_dagster.plan.unwanted import Top, look_at_top, unwanted_line
from mastosync_dagster.pool import Pool
from mastosync_dagster.records.findings import Finding, FindingLine, FindingWriter
from mastosync_dagster.records.outcomes import HARMLESS, ONLY_AT_DESTINATION
from mastosync_dagster.verify.object_checks import AuditSettings, CloserLook, Depth, Look, Seen, Sight

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mastosync_dagster.plan.decisions import Known
    from mastosync_dagster.plan.items import Batch, ExpectedObject
    from mastosync_dagster.plan.lookup import PendingLookup
    from mastosync_dagster.s3.storage import ListedObject, Storage

__all__ = ["AuditCounts", "AuditSettings", "Depth", "audit"]

NO_ACLS = "private, and the destination has no ACLs"

_PROGRESS_SECONDS = 1.0
_HEADS_IN_FLIGHT = 64
_ON_A_LISTINGS_WORD = frozenset({Finding.ABSENT, Finding.MISSING})
_PROBES = 8
"""Of the objects of a batch that only the destination shows, so many are asked of the source by name at the least."""

# One object in so many is looked at closer, and one of each batch: together with the listings, less than three
# requests per thousand keys and side.
_HEADERS_SAMPLE = 4_000
_PRIVATE_SAMPLE = 2_000
_PUBLIC_SAMPLE = 4_000

_OTHER_BYTES = frozenset({Finding.SIZE_DIFFERS, Finding.CONTENT_DIFFERS})
_SOUND = frozenset({Finding.EQUAL, Finding.SOURCE_DIFFERS, Finding.DESTINATION_NEWER})
"""What is at the destination as it must be, so that a closer look pays."""


@dataclass(frozen=True, slots=True)
class AuditCounts:
    """What an audit counts.

    Attributes:
        rows: Rows of the database behind it.
        findings: Lines by finding.
        headers: Objects whose headers were compared.
        acls: Objects of which it was looked who may read them.
        bodies: Objects whose bodies were compared.
        bytes: Bytes of the bodies read, of both sides together.
        list_requests: ListObjectsV2 requests to both sides.
        head_requests: HEAD requests to both sides.
        acls_unknown: Why it could not be seen who may read the objects; None: it could.
        unlisted: The destination may not be listed: each object was asked for, and extra ones were not looked for.
        left_out: Objects that a listing lacked, and that were there when they were asked for by name.
        only_at_destination: Wanted objects that the destination has and the source has not: they are called equal.
        wanted: Objects that are wanted.
        tops: What lies at the top of source and destination: see `Top.names`. None: it may not be listed, or it is not
            the end yet.
    """

    rows: int
    findings: dict[Finding, int]
    headers: int
    acls: int
    bodies: int
    bytes: int
    list_requests: int
    head_requests: int
    acls_unknown: str | None = None
    unlisted: bool = False
    left_out: int = 0
    only_at_destination: int = 0
    wanted: int = 0
    tops: tuple[dict[str, bool] | None, dict[str, bool] | None] = (None, None)


def audit(
    batches: Iterable[Batch],
    source: Storage,
    destination: Storage,
    path: Path,
    settings: AuditSettings,
    *,
    extras: Callable[[Sequence[str], tuple[int, int] | None], Mapping[str, str | None]],
    folders: Mapping[str, Collection[str]],
    origin: Mapping[str, str],
    stop: threading.Event,
    on_progress: Callable[[AuditCounts], None],
    knowledge: Callable[[Sequence[Differing]], Sequence[Known]] | None = None,
) -> AuditCounts:
    """Compare both sides and write a line about every object that is wanted, and about every one that is not.

    Args:
        batches: What is wanted. Their ranges together are where extra objects are looked for.
        source: Where objects were read.
        destination: Where they went.
        path: The file to write, whole or not at all.
        settings: How closely to look.
        extras: Given keys of the destination's ranges that a batch does not want, and the batch's owners, returns those
            that are theirs and that nobody wants, each with a remark.
        folders: A folder of both sides (ends with ``/``; empty: the top) to the folders in it that hold wanted
            objects, or are named here too: everything else in it is foreign.
        origin: What the file's metadata is to say.
        stop: Set from another thread, it ends the audit.
        on_progress: Called in this thread about once a second, and at the end.
        knowledge: As for ``make_plan``: what is a difference here a sync copies again, and the other way round.

    Raises:
        StorageError: A side refuses, or does not answer in spite of retries. Nothing is written.
        Stopped: ``stop`` was set. Nothing is written.
        Stopped: As above.
        OSError: The folder is full or not writable.
    """
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(FindingWriter(path, origin))
        auditor = _Auditor(source, destination, writer, settings, on_progress)
        auditor.judgement = Judgement(source, destination, auditor.equality, knowledge, overwrite=False, halt=stop)
        pool = stack.enter_context(Pool(settings.readers, stop=stop, tick=auditor.tell_progress))
        lookup = stack.enter_context(
            Lookup(
                source,
                destination,
                listers=settings.listers,
                heads=_HEADS_IN_FLIGHT,
                stop=stop,
                tick=auditor.tell_progress,
            )
        )
        known: dict[str, ExpectedObject] = {}
        for batch in batches:
            # Rows whose ids lose digits in the key are neighbours: what a batch has in common with the one before is
            # said already.
            items = {item.key: item for item in batch.items if item.key not in known}
            others = auditor.judge(lookup.ask(items, batch.ranges, others=True), lookup, pool, rows=batch.rows)
            auditor.name_extras(others, extras([entry.key for entry in others], batch.owners) if others else {})
            known = items
        auditor.finish(folders, listed=lookup.may_list)
    auditor.tell_progress(at_once=True)
    return auditor.counts


class _Auditor:
    """Judges and counts. Lives in one thread, but for what `Pool` runs.

    Attributes:
        counts: So far.
        equality: Compares objects.
        judgement: Decides which side is right where they differ.
    """

    judgement: Judgement

    def __init__(
        self,
        source: Storage,
        destination: Storage,
        writer: FindingWriter,
        settings: AuditSettings,
        on_progress: Callable[[AuditCounts], None],
    ) -> None:
        self.counts = AuditCounts(0, dict.fromkeys(Finding, 0), 0, 0, 0, 0, 0, 0)
        self._source = source
        self._destination = destination
        self._writer = writer
        self._settings = settings
        self._on_progress = on_progress
        self.equality = Equality(source, destination)
        self._closer = CloserLook(source, destination, settings)
        self._take_private = settings.copy_private or destination.settings.has_acls
        self._random = random.Random()  # noqa: S311  (which objects are looked at closer is no secret)
        self._told = time.monotonic()

    def tell_progress(self, *, at_once: bool = False) -> None:
        """Report the counts, about once a second."""
        now = time.monotonic()
        if at_once or now - self._told >= _PROGRESS_SECONDS:
            self._told = now
            self._on_progress(self.counts)

    def judge(self, asked: PendingLookup, lookup: Lookup, pool: Pool, *, rows: int) -> list[ListedObject]:
        """Write a line about each wanted object of a batch. Returns what else the destination has in its ranges."""
        source, destination = views = lookup.answers(asked)
        sights = {item.key: self._sight(item, *views) for item in asked.items.values()}
        confirmed = self._ask_by_name(sights, views, asked.listed, lookup)
        self._judge(list(sights.values()), pool)
        counts = self.counts
        self.counts = replace(
            counts,
            rows=counts.rows + rows,
            list_requests=counts.list_requests + source.list_requests + destination.list_requests,
            head_requests=counts.head_requests + sum(view.head_requests for view in (*views, *confirmed)),
            left_out=counts.left_out + sum(len(view.objects) for view in confirmed),
        )
        self.tell_progress()
        return destination.others

    def _ask_by_name(
        self, sights: dict[str, Sight], views: tuple[SideListing, SideListing], listed: Sequence[bool], lookup: Lookup
    ) -> tuple[SideListing, SideListing]:
        """Ask by HEAD for what a listing lacks, before it is called missing or absent; judge those objects again.

        A listing can end early (a damaged index, a server that cuts it short and does not say so). So what only the
        destination shows is asked of the source too: some of it, and all where the listing has left out any of that.

        Returns:
            What the two sides answered.
        """
        lacking = [sight.item for sight in sights.values() if sight.finding in _ON_A_LISTINGS_WORD]
        at_source = [item for item in lacking if sights[item.key].found is None] if listed[0] else []
        only_there = [sight.item for sight in sights.values() if sight.detail == ONLY_AT_DESTINATION and listed[0]]
        source = lookup.ask_source((*at_source, *only_there[:: len(only_there) // _PROBES + 1], *only_there[-1:]))
        if source.objects:
            source.add(lookup.ask_source(only_there))
        destination = lookup.ask_destination(lacking) if listed[1] else SideListing()
        views[1].objects.update(destination.objects)
        views[1].unknown.update(destination.unknown)
        views[0].objects.update(source.objects)
        views[0].unknown.update(source.unknown)
        for item in (*lacking, *only_there):
            sights[item.key] = self._sight(item, *views)
        return source, destination

    def _judge(self, sights: list[Sight], pool: Pool) -> None:
        """Decide which side is right where they differ, look closer at some objects, and write a line about each."""
        only_there = sum(sight.detail == ONLY_AT_DESTINATION for sight in sights)
        sights = self._ruled(sights)
        looks = self._choose([sight for sight in sights if sight.finding in _SOUND])
        seen = dict(zip(looks, pool.map(lambda look: self._closer.look(look, pool.halt), looks.values()), strict=True))
        by_bodies = self._rule_bodies(looks, seen)
        for sight in sights:
            if sight.target in by_bodies:
                self._write(by_bodies[sight.target], None)
            else:
                self._write(sight, seen.get(sight.target))
        counts = self.counts
        self.counts = replace(
            counts,
            headers=counts.headers + sum(look.headers for look in looks.values()),
            acls=counts.acls + sum(each.acl for each in seen.values()),
            bodies=counts.bodies + sum(look.body for look in looks.values()),
            bytes=counts.bytes + sum(each.bytes for each in seen.values()),
            only_at_destination=counts.only_at_destination + only_there,
            wanted=counts.wanted + len(sights),
            acls_unknown=self._closer.acls_unknown,
        )

    def name_extras(self, others: list[ListedObject], unwanted: Mapping[str, str | None]) -> None:
        """Write a line about each object of the destination that nobody wants."""
        for entry in others:
            if entry.key in unwanted:
                self._write_unwanted(entry, Finding.EXTRA, unwanted[entry.key])

    def finish(self, folders: Mapping[str, Collection[str]], *, listed: tuple[bool, bool]) -> None:
        """Name what lies beside the folders of wanted objects, at both sides."""
        sides = (self._source, self._destination)
        tops = tuple(
            look_at_top(storage, folders) if may else Top(listed=False)
            for storage, may in zip(sides, listed, strict=True)
        )
        for top, storage, finding in zip(tops, sides, (Finding.FOREIGN_AT_SOURCE, Finding.FOREIGN), strict=True):
            for entry, detail in top.objects:
                self._write_unwanted(entry, finding, detail, storage)
        requests = self.counts.list_requests + sum(top.list_requests for top in tops)
        names = [top.names if top.listed else None for top in tops]
        self.counts = replace(self.counts, list_requests=requests, unlisted=not listed[1], tops=(names[0], names[1]))

    def _sight(self, item: ExpectedObject, source: SideListing, destination: SideListing) -> Sight:
        """Say what the listings show of an object."""
        found = next((entry for key in source_keys(item) for entry in [source.objects.get(key)] if entry), None)
        if found is None:
            return self._sight_without_source(item, source, destination)
        target = found.key if item.keep_found_key else item.key
        there = destination.objects.get(target)
        if there is None:
            refused = destination.unknown.get(target)
            if refused is not None:
                return Sight(item, target, found, None, Finding.UNKNOWN, str(refused))
            return Sight(item, target, found, None, Finding.ABSENT, self._why_absent(item))
        return Sight(item, target, found, there, *self._compare(found, there))

    def _ruled(self, sights: list[Sight]) -> list[Sight]:
        """Say which side is right, where both have an object with different bytes: as a plan does."""
        differ = [
            Differing(sight.item, sight.target, sight.found, sight.there)
            for sight in sights
            if sight.finding in _OTHER_BYTES and sight.found is not None and sight.there is not None
        ]
        decisions = {each.target: decision for each, decision in self._decisions(differ)}
        return [_by(decisions[sight.target], sight) if sight.target in decisions else sight for sight in sights]

    def _rule_bodies(self, looks: Mapping[str, Look], seen: Mapping[str, Seen]) -> dict[str, Sight]:
        """Say the same where only the bodies tell that they differ; return what is not damaged at the destination."""
        differ = []
        for target, look in looks.items():
            sight, bodies = look.sight, seen[target].bodies
            if bodies is not None and sight.found is not None and sight.there is not None:
                here, there = bodies
                entries = sight.found._replace(size=here.size), sight.there._replace(size=there.size)
                differ.append(Differing(sight.item, target, *entries, (here.md5, there.md5)))
        return {
            each.target: _by(decision, looks[each.target].sight._replace(detail=seen[each.target].differences[0][1]))
            for each, decision in self._decisions(differ)
            if decision.verdict is not Verdict.COPY
        }

    def _decisions(self, differ: list[Differing]) -> Iterator[tuple[Differing, Decision]]:
        for start in range(0, len(differ), MOST):
            some = differ[start : start + MOST]
            yield from zip(some, self.judgement.of(some), strict=True)

    def _compare(self, found: ListedObject, there: ListedObject) -> tuple[Finding, str | None]:
        """Say what the listings show of the content of an object that both sides have, and a remark."""
        if found.size != there.size:
            return Finding.SIZE_DIFFERS, f"{there.size} bytes, at the source {found.size}"
        if not self.equality.same_content(found, there):
            return Finding.CONTENT_DIFFERS, f"MD5 {there.etag}, at the source {found.etag}"
        return Finding.EQUAL, None

    def _sight_without_source(self, item: ExpectedObject, source: SideListing, destination: SideListing) -> Sight:
        for key in destination_keys(item):
            there = destination.objects.get(key)
            if there is not None:
                return Sight(item, key, None, there, Finding.EQUAL, ONLY_AT_DESTINATION)
        for refused in (
            *(source.unknown[key] for key in source_keys(item) if key in source.unknown),
            *(destination.unknown[key] for key in destination_keys(item) if key in destination.unknown),
        ):
            return Sight(item, item.key, None, None, Finding.UNKNOWN, str(refused))
        return Sight(item, item.key, None, None, Finding.MISSING, HARMLESS if item.may_be_absent else None)

    def _why_absent(self, item: ExpectedObject) -> str | None:
        return NO_ACLS if item.private and not self._take_private else None

    def _choose(self, equal: list[Sight]) -> dict[str, Look]:
        """Return which objects to look at closer, by key at the destination."""
        with_source = [sight for sight in equal if sight.found is not None]
        headers = self._some(with_source, self._settings.headers, _HEADERS_SAMPLE)
        depth = self._closer.acls
        acls = self._some([sight for sight in equal if sight.item.private], depth, _PRIVATE_SAMPLE)
        acls |= self._some([sight for sight in equal if not sight.item.private], depth, _PUBLIC_SAMPLE)
        if self._settings.as_source:
            acls &= {sight.target for sight in with_source}
        bodies = {sight.target for sight in with_source} if self._settings.full else set()
        return {
            sight.target: Look(sight, sight.target in headers, sight.target in acls, sight.target in bodies)
            for sight in equal
            if sight.target in headers or sight.target in acls or sight.target in bodies
        }

    def _some(self, sights: list[Sight], depth: Depth, one_in: int) -> set[str]:
        if depth is Depth.SAMPLE:
            sights = self._random.sample(sights, min(len(sights), math.ceil(len(sights) / one_in)))
        return set() if depth is Depth.NONE else {sight.target for sight in sights}

    def _write(self, sight: Sight, seen: Seen | None) -> None:
        finding, detail = sight.finding, sight.detail
        if seen is not None and seen.differences:
            finding = seen.differences[0][0]
            detail = "; ".join(text for _, text in seen.differences)
        item, found, there = sight.item, sight.found, sight.there
        self.counts.findings[finding] += 1
        self._writer.write(
            FindingLine(
                group=item.group,
                row_id=item.row_id,
                part=item.part,
                key=self._destination.full_key(sight.target),
                source_key=None if found is None else self._source.full_key(found.key),
                finding=finding,
                detail=detail,
                size=None if there is None else there.size,
                etag=None if there is None else there.etag,
                private=item.private,
                modified=None if there is None else there.modified,
            )
        )

    def _write_unwanted(
        self, entry: ListedObject, finding: Finding, detail: str | None, storage: Storage | None = None
    ) -> None:
        self.counts.findings[finding] += 1
        self._writer.write(unwanted_line(storage or self._destination, entry, finding, detail))


def _by(decision: Decision, sight: Sight) -> Sight:
    """Return what is seen of an object whose sides differ, after it was decided which is right."""
    if decision.verdict is Verdict.COPY:
        return sight
    detail = f"{sight.detail}: {decision.words}"
    if decision.verdict is Verdict.FAIL:
        return sight._replace(finding=Finding.UNDECIDED, detail=detail)
    if decision is Decision.AS_THE_ROW_SAYS:
        finding, detail = Finding.EQUAL, decision.words
    else:
        finding = Finding.SOURCE_DIFFERS if decision in SOURCE_DAMAGED else Finding.DESTINATION_NEWER
    # The source's has nothing more to say about it.
    return sight._replace(found=None, finding=finding, detail=detail)
