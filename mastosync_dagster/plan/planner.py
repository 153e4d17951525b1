"""From items to a plan: what is to be copied, and what needs no copy, by the listings of both storages."""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mastosync_dagster.mastodon.keys import may_change, pattern_of
from mastosync_dagster.plan.decisions import Action, Decision, Known
from mastosync_dagster.plan.differing import MOST, Differing, Judgement
from mastosync_dagster.plan.equality import Equality
from mastosync_dagster.plan.lookup import ListingResult, Lookup, PendingLookup, destination_keys, source_keys
from mastosync_dagster.pool import EverySecond, Pool
from mastosync_dagster.process import collect_young, collecting_by_hand, limit_malloc_arenas
from mastosync_dagster.records.manifest import ManifestLine, ManifestWriter
from mastosync_dagster.records.outcomes import HARMLESS, NO_ACLS, ONLY_AT_DESTINATION, SOURCE_SILENT, Outcome
from mastosync_dagster.records.plan import DECIDED, TO_SET_ACLS, PlannedCopy, PlanWriter
from mastosync_dagster.s3.acl import SourceAccess
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from mastosync_dagster.plan.items import Batch, ExpectedObject
    from mastosync_dagster.s3.storage import ListedObject, Storage

_BATCHES_IN_FLIGHT = 2
_BATCHES_PER_COLLECTION = 8
_ACLS_IN_FLIGHT = 16
_MD5_CHARACTERS = 32
_BY_NAME = (False, False)

SOURCE_DIFFERS = Decision.AS_THE_ROW_SAYS.words


@dataclass(frozen=True, slots=True)
class PlanCounts:
    """Counts of a plan. Every object is in exactly one of to_copy, present, missing and failed.

    Attributes:
        objects: Distinct keys at the destination.
        present: Already at the destination and equal, those included that get another ACL.
        to_set_acls: Of those present, and of those failed since nothing tells which bytes are right, the ones whose
            ACL is asked for, and set if wrong.
        missing: Neither at the source nor at the destination.
        only_at_destination: Of those present, the ones that the source does not have.
        acl_only: The objects of which nothing but the ACL is looked at, whatever the source has.
        bytes_to_copy: Only of objects whose size is known.
        list_requests: Pages of up to 1,000 keys, of both storages; so are ``head_requests``.
        source_listed: False: the source may not be listed, so each object was asked for.
        private_patterns: Of the keys of private objects, and of those whose ACLs are to be set: see `pattern_of`.
        private_missing_patterns: Of the keys of private objects that are missing.
    """

    rows: int = 0
    objects: int = 0
    to_copy: int = 0
    present: int = 0
    to_set_acls: int = 0
    missing: int = 0
    only_at_destination: int = 0
    acl_only: int = 0
    failed: int = 0
    bytes_to_copy: int = 0
    list_requests: int = 0
    head_requests: int = 0
    source_listed: bool = True
    destination_listed: bool = True
    private_patterns: frozenset[str] = frozenset()
    private_missing_patterns: frozenset[str] = frozenset()


def make_plan(
    batches: Iterable[Batch],
    source: Storage,
    destination: Storage,
    folder: Path,
    *,
    copy_private: bool,
    on_progress: Callable[[PlanCounts], None] = lambda _: None,
    listers: int = 8,
    acls_from_source: bool = False,
    knowledge: Callable[[Sequence[Differing]], Sequence[Known]] | None = None,
    overwrite: bool = False,
) -> PlanCounts:
    """Compare both storages and write the plan, three files of `records.plan`, whole or not at all.

    Streams: a few batches are in memory at a time, whatever the number of batches. They are read in this thread, in
    which ``on_progress`` is called about once a second.

    An object is its key. Where several items of a batch, or of two successive ones, have the same key, they are one
    object, described by the first and private if any is. (Ids that lose digits in the key are neighbours, so their
    rows come together.)

    A listing alone makes no object missing: each such object is asked for by HEAD first, at both storages (at the
    source alone if its absence is harmless). At the destination, so is one whose length at the source is not the
    database's, or whose key may get another content: it may be there as it should. At the source, so is one that would
    be copied from another key than its own, and a few of a batch's that only the destination shows: all of these, if
    the listing lacks any object that the source has.

    ``copy_private`` copies private objects also to a destination without ACLs. With ``acls_from_source``, the source is
    asked whether everybody may read an object that is to be copied, or to get its ACL, a request each; else the item
    says. ``knowledge`` and ``overwrite`` are those of `Judgement`.

    Raises:
        StorageError: A storage refuses, or does not answer in spite of retries.
        OSError: The folder is full or not writable.
    """
    limit_malloc_arenas()
    with contextlib.ExitStack() as stack:
        writers = (
            stack.enter_context(PlanWriter(folder)),
            stack.enter_context(PlanWriter(folder, TO_SET_ACLS)),
            stack.enter_context(ManifestWriter(folder / DECIDED)),
        )
        judgement = Judgement(source, destination, Equality(source, destination), knowledge, overwrite=overwrite)
        planner = _Planner(judgement, *writers, copy_private=copy_private, on_progress=on_progress)
        if acls_from_source:
            pool = Pool(_ACLS_IN_FLIGHT, tick=planner.report_progress)
            planner.access = SourceAccess(source, stack.enter_context(pool))
        lookup = stack.enter_context(Lookup(source, destination, listers=listers, tick=planner.report_progress))
        stack.enter_context(collecting_by_hand())
        for number, (asked, rows) in enumerate(_asked_ahead(batches, lookup), 1):
            planner.decide(asked, rows, lookup)
            if number % _BATCHES_PER_COLLECTION == 0:
                collect_young()
        planner.finish(lookup)
    planner.report_progress(at_once=True)
    return planner.counts


def _asked_ahead(batches: Iterable[Batch], lookup: Lookup) -> Iterator[tuple[PendingLookup, int]]:
    """Start the requests of a few batches ahead, and yield them in order, each with its number of rows."""
    ahead: deque[tuple[PendingLookup, int]] = deque()
    for batch in batches:
        items = _by_key(batch.items, ahead[-1][0].items if ahead else {})
        ahead.append((lookup.ask(items, batch.ranges), batch.rows))
        if len(ahead) == _BATCHES_IN_FLIGHT:
            yield ahead.popleft()
    yield from ahead


def _by_key(items: Iterable[ExpectedObject], before: dict[str, ExpectedObject]) -> dict[str, ExpectedObject]:
    """Return items by key; those that the batch before has already are merged into it."""
    distinct: dict[str, ExpectedObject] = {}
    for item in items:
        home = before if item.key in before else distinct
        known = home.setdefault(item.key, item)
        if item.private and not known.private:
            # One private owner suffices; the object may have been written public for the other.
            home[item.key] = known._replace(private=True, check_acl=True)
    return distinct


class _Planner:
    """Decides about items, writes the plan and counts. Lives in one thread.

    Attributes:
        access: Asks the source who may read an object that is to be copied; None: the item says.
    """

    def __init__(
        self,
        judgement: Judgement,
        plan: PlanWriter,
        acl_plan: PlanWriter,
        decided: ManifestWriter,
        *,
        copy_private: bool,
        on_progress: Callable[[PlanCounts], None],
    ) -> None:
        self.counts = PlanCounts()
        self.access: SourceAccess | None = None
        self._judgement = judgement
        self._equality = judgement.equality
        self._plan = plan
        self._acl_plan = acl_plan
        self._decided = decided
        self._has_acls = judgement.destination.settings.has_acls
        self._copy_private = copy_private or self._has_acls
        self._source_prefix = judgement.source.settings.prefix
        self._destination_prefix = judgement.destination.settings.prefix
        self._outcomes = dict.fromkeys(Outcome, 0)
        self._to_copy = 0
        self._to_set_acls = 0
        self._only_there = 0
        self._bytes = 0
        self._dropped = 0
        self._acl_only = 0
        self._private_patterns: set[str] = set()
        self._private_missing_patterns: set[str] = set()
        # What waits for the source's word on who may read it: copies, ACLs.
        self._copies_to_ask: list[tuple[ExpectedObject, PlannedCopy]] = []
        self._acls_to_ask: list[PlannedCopy] = []
        self._differing: list[Differing] = []
        self.report_progress = EverySecond(lambda: on_progress(self.counts))

    def decide(self, asked: PendingLookup, rows: int, lookup: Lookup) -> None:
        """Wait for the answers about a batch, and decide about each of its items."""
        source, destination = lookup.answers(asked)
        items = asked.items.values()
        # A listing can lack an object (a damaged index, a key outside of the ranges, an error page taken for an empty
        # one): nothing is called missing, or copied against what the database says, before it was asked for by name.
        doubtful = []
        for item in items:
            if item.new:
                self._copy(item, item.key, list(source_keys(item)))
            elif not self._decide(item, source, destination, listed=asked.listed):
                doubtful.append(item)
        unlisted = [item for item in doubtful if asked.listed[0] and item.key not in source.objects]
        only_there = [
            item
            for item in unlisted
            if destination.first(destination_keys(item)) is not None and source.first(item.candidates) is None
        ]
        confirmed, left_out = lookup.ask_source_again(source, unlisted, only_there)
        named = {item.key for item in unlisted} - left_out
        if doubtful and asked.listed[1]:
            # The absence of a harmless one matters only at the source.
            lacking = [each for each in doubtful if not each.may_be_absent]
            lacking = [each for each in lacking if destination.first(destination_keys(each)) is None]
            destination.add(lookup.ask_destination(lacking))
        for item in doubtful:
            self._decide(item, confirmed if item.key in named else source, destination, listed=_BY_NAME)
        if len(self._differing) >= MOST:
            self._decide_differing()
        self._ask_access()
        self._count(lookup, len(items) - self._dropped, rows, (source, destination, confirmed))
        self._dropped = 0
        self.report_progress()

    def finish(self, lookup: Lookup) -> None:
        """Decide about what has been put off."""
        self._decide_differing()
        self._ask_access()
        self._count(lookup)

    def _decide_differing(self) -> None:
        """Decide about the objects that differ, some thousands at a time: what is known of them takes reading."""
        decisions = self._judgement.decide(self._differing)
        for (item, target, found, there, _), decision in zip(self._differing, decisions, strict=True):
            action, detail = decision.action, decision.words
            if action is Action.COPY:
                self._copy(item, target, [found.key], found, there)
            elif action is Action.KEEP or (item.check_acl and self._has_acls):
                # Whatever its bytes are, who may read it comes first.
                self._present(item, target, there=there, detail=detail, undecided=action is Action.FAIL)
            else:
                # Nothing tells which is right: an admin must decide.
                self._write(item, target, Outcome.FAILED, found=found, reason=Reason.SIDES_DIFFER, detail=detail)
        self._differing.clear()

    def _count(self, lookup: Lookup, objects: int = 0, rows: int = 0, listings: tuple[ListingResult, ...] = ()) -> None:
        counts = self.counts
        source_listed, destination_listed = lookup.may_list
        self.counts = replace(
            counts,
            rows=counts.rows + rows,
            objects=counts.objects + objects,
            to_copy=self._to_copy,
            present=self._outcomes[Outcome.PRESENT],
            to_set_acls=self._to_set_acls,
            missing=self._outcomes[Outcome.MISSING],
            only_at_destination=self._only_there,
            acl_only=self._acl_only,
            failed=self._outcomes[Outcome.FAILED],
            bytes_to_copy=self._bytes,
            list_requests=counts.list_requests + sum(listing.list_requests for listing in listings),
            head_requests=counts.head_requests + sum(listing.head_requests for listing in listings),
            source_listed=source_listed,
            destination_listed=destination_listed,
            private_patterns=frozenset(self._private_patterns),
            private_missing_patterns=frozenset(self._private_missing_patterns),
        )

    def _decide(
        self, item: ExpectedObject, source: ListingResult, destination: ListingResult, *, listed: Sequence[bool]
    ) -> bool:
        """Decide about one item. ``listed``: whether the answers of source and destination come from listings.

        Returns:
            False: nothing was decided, the object has to be asked for by name.
        """
        if item.acl_only:
            self._decide_acl(item, source, destination)
            return True
        found = source.objects.get(item.key) or source.first(item.candidates)
        if found is None:
            return self._decide_absent(item, source, destination, listed=listed)
        target = found.key if item.keep_found_key else item.key
        there = destination.objects.get(target)
        differs = there is not None and not self._equality.are_equal(found, there)
        if there is not None and not differs and not item.again:
            # Equal. Without ACLs, what is private there is only reported.
            exposed = item.private and not self._has_acls and self.access is None
            self._present(item, target, found=found, there=there, detail=NO_ACLS if exposed else None)
        elif (listed[0] and found.key != item.key) or (
            listed[1] and there is None and (item.size not in {None, found.size} or may_change(target))
        ):
            # The source may have a better key, or the destination an object that is as long as it must be, or newer.
            return False
        elif there is not None and differs:
            # Also where a verification wants it copied again: the destination's may be the right one.
            self._differing.append(Differing(item, target, found, there))
        else:
            # The destination lacks it, or a verification has found it damaged.
            self._copy(item, target, [found.key], found, there)
        return True

    def _decide_acl(self, item: ExpectedObject, source: ListingResult, destination: ListingResult) -> None:
        """Plan the ACL of an object that is not wanted, if the destination has it all the same."""
        keys = destination_keys(item)
        there = destination.first(keys)
        silent = next((key for key in keys if key in destination.unknown), None)
        self._acl_only += there is not None or silent is not None
        if there is not None:
            self._present(item, there.key, found=source.first(source_keys(item)), there=there)
        elif silent is not None:
            # It may be there, and readable by everybody.
            error = destination.unknown[silent]
            self._write(item, item.key, Outcome.FAILED, reason=error.reason, detail=str(error))
        else:
            self._dropped += 1

    def _decide_absent(
        self, item: ExpectedObject, source: ListingResult, destination: ListingResult, *, listed: Sequence[bool]
    ) -> bool:
        """Decide about an item that the source shows under none of its keys. Returns as `_decide` does."""
        silent = [key for key in source_keys(item) if key in source.unknown] if source.unknown else []
        there = destination.first(destination_keys(item))
        if there is not None:
            if listed[0]:
                # The source's listing may have ended early, and what the destination has may be damaged.
                return False
            # There is nothing to compare it with.
            self._only_there += not silent
            self._present(item, there.key, there=there, detail=SOURCE_SILENT if silent else ONLY_AT_DESTINATION)
            return True
        if silent:
            error = source.unknown[silent[-1]]
            if error.reason is Reason.ACCESS_DENIED:
                # Without the right to list, S3 denies what is absent: the copy's GET finds out.
                self._copy(item, item.key, silent)
            else:
                # It failed in spite of retries.
                self._write(item, item.key, Outcome.FAILED, reason=error.reason, detail=str(error))
            return True
        if listed[0] or (listed[1] and not item.may_be_absent):
            # No object is missing because a listing lacks it.
            return False
        self._write(item, item.key, Outcome.MISSING, detail=HARMLESS if item.may_be_absent else None)
        return True

    def _present(
        self,
        item: ExpectedObject,
        target: str,
        *,
        there: ListedObject,
        found: ListedObject | None = None,
        detail: str | None = None,
        undecided: bool = False,
    ) -> None:
        """Leave an object as it is, or plan to check its ACL."""
        if item.private and self._copy_private and self.access is None:
            # A policy may let everybody read it since it was copied: a probe shows that.
            self._private_patterns.add(pattern_of(target))
        if not (item.check_acl and self._has_acls):
            self._write(item, target, Outcome.PRESENT, found=found, there=there, detail=detail)
            return
        # That nothing tells which bytes are right is a failure, whoever may read them.
        self._outcomes[Outcome.FAILED if undecided else Outcome.PRESENT] += 1
        self._to_set_acls += 1
        line = self._line(item, target, [found.key if found else ""], there)
        line = line._replace(etag=self._md5(found, there), detail=detail, undecided=undecided)
        self._private_patterns.add(pattern_of(target))
        if self.access is None or found is None:
            # Of what the source has lost, the row says who may read it.
            self._acl_plan.write(line)
        else:
            self._acls_to_ask.append(line)

    def _copy(
        self,
        item: ExpectedObject,
        target: str,
        keys: list[str],
        found: ListedObject | None = None,
        there: ListedObject | None = None,
    ) -> None:
        """Plan a copy over what the destination has. Without ``found``, the copy tries the source keys in order."""
        if item.private and not self._copy_private and self.access is None:
            # At the destination everybody could read it.
            self._write(item, target, Outcome.FAILED, found=found, reason=Reason.PRIVATE_NOT_COPIED)
            return
        line = self._line(item, target, keys, found)
        if there is not None:
            line = line._replace(there_size=there.size, there_etag=there.etag)
        if self.access is not None:
            self._copies_to_ask.append((item, line))
        else:
            self._write_copy(line)

    @staticmethod
    def _line(item: ExpectedObject, target: str, keys: list[str], entry: ListedObject | None) -> PlannedCopy:
        return PlannedCopy(
            key=target,
            source_key=keys[0],
            candidates=keys[1:],
            size=entry.size if entry else None,
            etag=entry.etag if entry else None,
            private=item.private,
            keep_found_key=item.keep_found_key,
            may_be_absent=item.may_be_absent,
            group=item.group,
            row_id=item.row_id,
            part=item.part,
            remote=item.remote,
            written_after=item.written_after,
            content_type=item.content_type,
        )

    def _write_copy(self, line: PlannedCopy) -> None:
        self._to_copy += 1
        self._bytes += line.size or 0
        if line.private:
            self._private_patterns.add(pattern_of(line.key))
        self._plan.write(line)

    def _ask_access(self) -> None:
        """Ask the source who may read the batch's objects that are copied or get an ACL, and plan accordingly."""
        if self.access is None:
            return
        private = self.access.are_private([(line.source_key,) for line in self._acls_to_ask])
        for line, is_private in zip(self._acls_to_ask, private, strict=True):
            self._acl_plan.write(line._replace(private=is_private))
        self._acls_to_ask.clear()
        private = self.access.are_private([(line.source_key, *line.candidates) for _, line in self._copies_to_ask])
        for (item, line), is_private in zip(self._copies_to_ask, private, strict=True):
            if is_private and not self._copy_private:
                # At the destination everybody could read it.
                private_item = item._replace(private=True)
                self._write(private_item, line.key, Outcome.FAILED, reason=Reason.PRIVATE_NOT_COPIED)
            else:
                self._write_copy(line._replace(private=is_private))
        self._copies_to_ask.clear()

    def _write(
        self,
        item: ExpectedObject,
        target: str,
        outcome: Outcome,
        *,
        found: ListedObject | None = None,
        there: ListedObject | None = None,
        reason: Reason | None = None,
        detail: str | None = None,
    ) -> None:
        """Write the manifest line of an object that needs no copy, or cannot be copied."""
        self._outcomes[outcome] += 1
        if item.private and outcome is Outcome.MISSING:
            self._private_missing_patterns.add(pattern_of(target))
        entry = found or there
        self._decided.write(
            # In the order of the fields: with their names it takes twice as long, and this is done for each object.
            ManifestLine(
                item.group,
                item.row_id,
                item.part,
                self._destination_prefix + target,
                None if found is None else self._source_prefix + found.key,
                outcome,
                reason,
                detail,
                None if entry is None else entry.size,
                self._md5(found, there),
                item.private,
                item.remote,
            )
        )

    def _md5(self, found: ListedObject | None, there: ListedObject | None) -> str | None:
        """Return the MD5 of the body, from an ETag that is one."""
        if found and found.etag and len(found.etag) == _MD5_CHARACTERS and self._equality.source.are_md5:
            return found.etag
        if there and there.etag and len(there.etag) == _MD5_CHARACTERS and self._equality.destination.are_md5:
            return there.etag
        return None
