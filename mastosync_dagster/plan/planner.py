"""From items to a plan: what is to be copied, and what needs no copy, from both sides' listings."""

from __future__ import annotations

import contextlib
import gc
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastosync_dagster.plan.decisions import Decision, Known, Verdict
from mastosync_dagster.plan.differing import MOST, Differing, Judgement
from mastosync_dagster.plan.equality import Equality
from mastosync_dagster.plan.lookup import (
    Lookup,
    PendingLookup,
    SideListing,
    destination_keys,
    source_keys,
)
from mastosync_dagster.pool import Pool, Stopped
from mastosync_dagster.process import collecting_by_hand, limit_malloc_arenas
from mastosync_dagster.records.manifest import ManifestLine, ManifestWriter
from mastosync_dagster.records.outcomes import HARMLESS, NO_ACLS, ONLY_AT_DESTINATION, SOURCE_SILENT, Outcome
from mastosync_dagster.records.plan import DECIDED, TO_TURN, PlannedCopy, PlanWriter
from mastosync_dagster.s3.acl import SourceAccess
from mastosync_dagster.s3.probes import folder_of
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from mastosync_dagster.plan.items import Batch, ExpectedObject
    from mastosync_dagster.s3.errors import StorageError
    from mastosync_dagster.s3.storage import ListedObject, Storage

__all__ = ["PlanCounts", "Stopped", "make_plan"]

_BATCHES_IN_FLIGHT = 2
_BATCHES_PER_COLLECTION = 8
_HEADS_IN_FLIGHT = 64
_ACLS_IN_FLIGHT = 16
_PROGRESS_SECONDS = 1.0
_MD5_CHARACTERS = 32
_BY_NAME = (False, False)

SOURCE_DIFFERS = Decision.AS_THE_ROW_SAYS.words


@dataclass(frozen=True, slots=True)
class PlanCounts:
    """What a plan counts. Every object is in exactly one of to_copy, present, missing and failed.

    Attributes:
        rows: Rows of the database behind the plan.
        objects: Objects, that is: distinct keys at the destination.
        to_copy: Lines of the plan file.
        present: Already at the destination and equal, those included that get another ACL.
        to_turn: Of these, the ones whose ACL is asked for, and set where it is another.
        missing: Not at the source, nor at the destination.
        only_at_destination: Of those present, the ones that the source does not have.
        failed: Cannot be copied.
        bytes_to_copy: Bytes of the objects to copy whose size is known.
        list_requests: ListObjectsV2 requests to both sides (pages of up to 1,000 keys).
        head_requests: HEAD requests to both sides.
        source_listed: False: the source may not be listed, so each object was asked for.
        destination_listed: The same of the destination.
        private_folders: Where private objects are to be written, or ACLs to be set: see `folder_of`.
        private_missing_folders: Where private objects are missing.
    """

    rows: int = 0
    objects: int = 0
    to_copy: int = 0
    present: int = 0
    to_turn: int = 0
    missing: int = 0
    only_at_destination: int = 0
    failed: int = 0
    bytes_to_copy: int = 0
    list_requests: int = 0
    head_requests: int = 0
    source_listed: bool = True
    destination_listed: bool = True
    private_folders: frozenset[str] = frozenset()
    private_missing_folders: frozenset[str] = frozenset()


def make_plan(
    batches: Iterable[Batch],
    source: Storage,
    destination: Storage,
    folder: Path,
    *,
    copy_private: bool,
    stop: threading.Event,
    on_progress: Callable[[PlanCounts], None] | None = None,
    listers: int = 8,
    keep_access: bool = False,
    knowledge: Callable[[Sequence[Differing]], Sequence[Known]] | None = None,
    overwrite: bool = False,
) -> PlanCounts:
    """Compare both sides and write the plan: ``to_copy.arrow``, ``to_turn.arrow``, ``decided.parquet`` (`planfile`).

    Streams: a few batches are in memory at a time, whatever the number of batches.

    An object is its key. Where several items of a batch, or of two successive ones, come to the same key, they are
    one object, described by the first and private if any is. (Ids that lose digits in the key are neighbours, so
    their rows stand together.)

    "Missing" is never said on the word of a listing alone: each such object is asked for by HEAD first, at both sides
    (at the source alone if its absence is harmless). So is, at the destination, one whose length at the source is not
    the database's: it may be there as it should. And, at the source, one that would be copied from another key than
    its own.

    Args:
        batches: What is wanted. Read in this thread, a few ahead.
        source: Where objects are read.
        destination: Where they go.
        folder: Gets the three files, whole or not at all.
        copy_private: Copy private objects also to a destination without ACLs.
        stop: Set from another thread, it ends the planning.
        on_progress: Called in this thread about once a second.
        listers: Listings in flight at a time.
        keep_access: Whether everybody may read an object that is to be copied, or to get its ACL, is asked of the
            source, a request each, instead of taken from the item.
        knowledge: What is known of objects that both sides have with different bytes (`decisions`); None: the items'
            sizes are all there is, and where those do not tell the source is right.
        overwrite: Of those, the source's is wanted, also where the destination's may be the right one.

    Raises:
        StorageError: A side refuses, or does not answer in spite of retries. Nothing is written.
        Stopped: ``stop`` was set. Nothing is written.
        OSError: The folder is full or not writable.
    """
    limit_malloc_arenas()
    with contextlib.ExitStack() as stack:
        plan = stack.enter_context(PlanWriter(folder))
        turns = stack.enter_context(PlanWriter(folder, TO_TURN))
        decided = stack.enter_context(ManifestWriter(folder / DECIDED))
        planner = _Planner(
            source, destination, plan, turns, decided, copy_private=copy_private, on_progress=on_progress
        )
        planner.judgement = Judgement(source, destination, planner.equality, knowledge, overwrite=overwrite, halt=stop)
        if keep_access:
            pool = Pool(_ACLS_IN_FLIGHT, stop=stop, tick=planner.tell_progress)
            planner.access = SourceAccess(source, stack.enter_context(pool))
        lookup = stack.enter_context(
            Lookup(source, destination, listers=listers, heads=_HEADS_IN_FLIGHT, stop=stop, tick=planner.tell_progress)
        )
        stack.enter_context(collecting_by_hand())
        for number, (asked, rows) in enumerate(_asked_ahead(batches, lookup, stop), 1):
            planner.decide(asked, rows, lookup)
            if number % _BATCHES_PER_COLLECTION == 0:
                gc.collect(1)
        planner.settle(lookup)
    planner.tell_progress(at_once=True)
    return planner.counts


def _asked_ahead(
    batches: Iterable[Batch], lookup: Lookup, stop: threading.Event
) -> Iterator[tuple[PendingLookup, int]]:
    """Start asking about a few batches ahead, and yield them in order, each with its number of rows."""
    ahead: deque[tuple[PendingLookup, int]] = deque()
    for batch in batches:
        if stop.is_set():
            raise Stopped
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
            home[item.key] = known._replace(private=True, turn=True)
    return distinct


def _is_wanted(item: ExpectedObject, destination: SideListing) -> bool:
    """Tell whether it matters that a destination was not seen to have an object."""
    return not item.may_be_absent and destination.objects.keys().isdisjoint(destination_keys(item))


class _Planner:
    """Decides about items and counts. Lives in one thread.

    Attributes:
        counts: So far.
        access: Asks the source who may read an object that is to be copied; None: the item says.
        equality: Compares objects.
        judgement: Decides about objects that differ.
    """

    judgement: Judgement

    def __init__(
        self,
        source: Storage,
        destination: Storage,
        plan: PlanWriter,
        turns: PlanWriter,
        decided: ManifestWriter,
        *,
        copy_private: bool,
        on_progress: Callable[[PlanCounts], None] | None,
    ) -> None:
        self.counts = PlanCounts()
        self.access: SourceAccess | None = None
        self._plan = plan
        self._turns = turns
        self._decided = decided
        self._has_acls = destination.settings.has_acls
        self._take_private = copy_private or self._has_acls
        self._source_prefix = source.settings.prefix
        self._destination_prefix = destination.settings.prefix
        self.equality = Equality(source, destination)
        self._outcomes = dict.fromkeys(Outcome, 0)
        self._to_copy = 0
        self._to_turn = 0
        self._only_there = 0
        self._bytes = 0
        self._private_folders: set[str] = set()
        self._private_missing_folders: set[str] = set()
        self._undecided: list[tuple[ExpectedObject, PlannedCopy]] = []
        self._unturned: list[PlannedCopy] = []
        self._differing: list[Differing] = []
        self._on_progress = on_progress
        self._told = time.monotonic()

    def tell_progress(self, *, at_once: bool = False) -> None:
        """Report the counts, about once a second."""
        now = time.monotonic()
        if self._on_progress is not None and (at_once or now - self._told >= _PROGRESS_SECONDS):
            self._told = now
            self._on_progress(self.counts)

    def decide(self, asked: PendingLookup, rows: int, lookup: Lookup) -> None:
        """Wait for the answers about a batch, and decide about each of its items."""
        source, destination = lookup.answers(asked)
        items = asked.items.values()
        # A listing can lack an object (a damaged index, a key outside of the ranges, an error page taken for an empty
        # one): nothing is called missing, or copied against what the database says, before it was asked for by name.
        doubtful = []
        for item in items:
            if item.new:
                self._leave_to_copy(item, list(source_keys(item)))
            elif not self._decide(item, source, destination, listed=asked.listed):
                doubtful.append(item)
        named = {item.key for item in doubtful if asked.listed[0] and item.key not in source.objects}
        confirmed = lookup.ask_source(item for item in doubtful if item.key in named) if named else SideListing()
        if doubtful and asked.listed[1]:
            destination.add(lookup.ask_destination(item for item in doubtful if _is_wanted(item, destination)))
        for item in doubtful:
            self._decide(item, confirmed if item.key in named else source, destination, listed=_BY_NAME)
        if len(self._differing) >= MOST:
            self._judge()
        self._ask_access()
        self._count(len(items), rows, (source, destination, confirmed), lookup)
        self.tell_progress()

    def settle(self, lookup: Lookup) -> None:
        """Decide about what has been put off."""
        self._judge()
        self._ask_access()
        self._count(0, 0, (), lookup)

    def _judge(self) -> None:
        """Decide about the objects that differ, some thousands at a time: what is known of them takes reading."""
        for start in range(0, len(self._differing), MOST):
            some = self._differing[start : start + MOST]
            for differing, decision in zip(some, self.judgement.of(some), strict=True):
                item, target, found, there, _ = differing
                if decision.verdict is Verdict.COPY:
                    self._copy_found(item, target, found, there)
                elif decision.verdict is Verdict.KEEP or (item.turn and self._has_acls):
                    # Whatever its bytes are, who may read it comes first.
                    undecided = decision.verdict is Verdict.FAIL
                    self._present(item, target, there=there, detail=decision.words, undecided=undecided)
                else:
                    self._say(
                        item, target, Outcome.FAILED, found=found, reason=Reason.SIDES_DIFFER, detail=decision.words
                    )
        self._differing.clear()

    def _count(self, objects: int, rows: int, views: tuple[SideListing, ...], lookup: Lookup) -> None:
        counts = self.counts
        source_listed, destination_listed = lookup.may_list
        self.counts = PlanCounts(
            rows=counts.rows + rows,
            objects=counts.objects + objects,
            to_copy=self._to_copy,
            present=self._outcomes[Outcome.PRESENT],
            to_turn=self._to_turn,
            missing=self._outcomes[Outcome.MISSING],
            only_at_destination=self._only_there,
            failed=self._outcomes[Outcome.FAILED],
            bytes_to_copy=self._bytes,
            list_requests=counts.list_requests + sum(view.list_requests for view in views),
            head_requests=counts.head_requests + sum(view.head_requests for view in views),
            source_listed=source_listed,
            destination_listed=destination_listed,
            private_folders=frozenset(self._private_folders),
            private_missing_folders=frozenset(self._private_missing_folders),
        )

    def _decide(
        self, item: ExpectedObject, source: SideListing, destination: SideListing, *, listed: Sequence[bool]
    ) -> bool:
        """Decide about one item.

        Args:
            item: The item.
            source: What the source has.
            destination: What the destination has.
            listed: Whether it is a listing that says so, of each side, source first.

        Returns:
            False: nothing was decided, the object has to be asked for by name.
        """
        found = source.objects.get(item.key)
        if found is None:
            found = next((source.objects[key] for key in item.candidates if key in source.objects), None)
            if found is None:
                return self._decide_absent(item, source, destination, listed=listed)
        target = found.key if item.keep_found_key else item.key
        there = destination.objects.get(target)
        differs = there is not None and not self._equal(found, there)
        if there is not None and not differs and not item.again:
            exposed = item.private and not self._has_acls and self.access is None
            self._present(item, target, found=found, there=there, detail=NO_ACLS if exposed else None)
        elif (listed[0] and found.key != item.key) or (
            listed[1] and there is None and item.size not in {None, found.size}
        ):
            # The source may have what is not second best, or the destination what is as long as it must be.
            return False
        elif there is not None and differs:
            # Whatever a closer look has found.
            self._differing.append(Differing(item, target, found, there))
        else:
            self._copy_found(item, target, found, there)
        return True

    def _decide_absent(
        self, item: ExpectedObject, source: SideListing, destination: SideListing, *, listed: Sequence[bool]
    ) -> bool:
        """Decide about an item that was seen under none of its keys at the source. Returns as `_decide` does."""
        silent = [key for key in source_keys(item) if key in source.unknown] if source.unknown else []
        for key in destination_keys(item):
            there = destination.objects.get(key)
            if there is not None:
                detail = SOURCE_SILENT if silent else ONLY_AT_DESTINATION
                self._only_there += not silent
                self._present(item, key, there=there, detail=detail)
                return True
        if silent:
            self._decide_silent(item, silent, source.unknown[silent[-1]])
            return True
        if listed[0] or (listed[1] and not item.may_be_absent):
            return False
        self._say(item, item.key, Outcome.MISSING, detail=HARMLESS if item.may_be_absent else None)
        return True

    def _decide_silent(self, item: ExpectedObject, keys: list[str], answer: StorageError) -> None:
        """Decide about an item of which the source does not say whether it has it."""
        if answer.reason is not Reason.ACCESS_DENIED:
            self._say(item, item.key, Outcome.FAILED, reason=answer.reason, detail=str(answer))
        else:
            self._leave_to_copy(item, keys)

    def _leave_to_copy(self, item: ExpectedObject, keys: list[str]) -> None:
        """Plan an item that nobody has seen: the copy's GET will tell whether it is there."""
        if item.private and not self._take_private and self.access is None:
            self._say(item, item.key, Outcome.FAILED, reason=Reason.PRIVATE_NOT_COPIED)
        else:
            self._copy(item, item.key, keys, None)

    def _equal(self, here: ListedObject, there: ListedObject) -> bool:
        """Tell whether two objects are equal as far as sizes and ETags tell."""
        return here.size == there.size and self.equality.same_content(here, there)

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
        """Leave an object as it is, or plan to see to its ACL."""
        if not (item.turn and self._has_acls):
            if undecided:
                self._say(item, target, Outcome.FAILED, there=there, reason=Reason.SIDES_DIFFER, detail=detail)
                return
            self._say(item, target, Outcome.PRESENT, found=found, there=there, detail=detail)
            return
        self._outcomes[Outcome.PRESENT] += 1
        self._to_turn += 1
        line = self._line(item, target, [found.key if found else ""], there)
        line = line._replace(etag=self._md5(found, there), detail=detail, undecided=undecided)
        self._private_folders.add(folder_of(target))
        # Of what the source has lost, the row says who may read it.
        if self.access is None or found is None:
            self._turns.write(line)
        else:
            self._unturned.append(line)

    def _copy_found(self, item: ExpectedObject, target: str, found: ListedObject, there: ListedObject | None) -> None:
        """Plan a copy of what the source has, over what the destination has."""
        if item.private and not self._take_private and self.access is None:
            self._say(item, target, Outcome.FAILED, found=found, reason=Reason.PRIVATE_NOT_COPIED)
        else:
            self._copy(item, target, [found.key], found, there)

    def _copy(
        self,
        item: ExpectedObject,
        target: str,
        source_keys: list[str],
        found: ListedObject | None,
        there: ListedObject | None = None,
    ) -> None:
        """Plan a copy. Without ``found`` the source keys are to be tried in order."""
        line = self._line(item, target, source_keys, found)
        if there is not None:
            line = line._replace(there_size=there.size, there_etag=there.etag)
        if self.access is not None:
            self._undecided.append((item, line))
        else:
            self._write(line)

    def _line(
        self, item: ExpectedObject, target: str, source_keys: list[str], seen: ListedObject | None
    ) -> PlannedCopy:
        return PlannedCopy(
            key=target,
            source_key=source_keys[0],
            candidates=source_keys[1:],
            size=seen.size if seen else None,
            etag=seen.etag if seen else None,
            private=item.private,
            keep_found_key=item.keep_found_key,
            may_be_absent=item.may_be_absent,
            group=item.group,
            row_id=item.row_id,
            part=item.part,
            remote=item.remote,
            written_after=item.written_after,
        )

    def _write(self, line: PlannedCopy) -> None:
        self._to_copy += 1
        self._bytes += line.size or 0
        if line.private:
            self._private_folders.add(folder_of(line.key))
        self._plan.write(line)

    def _ask_access(self) -> None:
        """Ask the source who may read the batch's objects that are written or get an ACL, and plan accordingly."""
        if self.access is None:
            return
        for line, is_private in zip(
            self._unturned, self.access.are_private([(line.source_key,) for line in self._unturned]), strict=True
        ):
            self._turns.write(line._replace(private=is_private))
        self._unturned.clear()
        private = self.access.are_private([(line.source_key, *line.candidates) for _, line in self._undecided])
        for (item, line), is_private in zip(self._undecided, private, strict=True):
            if is_private and not self._take_private:
                self._say(item._replace(private=True), line.key, Outcome.FAILED, reason=Reason.PRIVATE_NOT_COPIED)
            else:
                self._write(line._replace(private=is_private))
        self._undecided.clear()

    def _say(
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
        """Write a manifest line: an object that needs no copy, or can have none."""
        self._outcomes[outcome] += 1
        if item.private and outcome is Outcome.MISSING:
            self._private_missing_folders.add(folder_of(target))
        seen = found or there
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
                None if seen is None else seen.size,
                self._md5(found, there),
                item.private,
                item.remote,
            )
        )

    def _md5(self, found: ListedObject | None, there: ListedObject | None) -> str | None:
        """Return the MD5 of the body, from an ETag that is one."""
        if found and found.etag and len(found.etag) == _MD5_CHARACTERS and self.equality.source.are_md5:
            return found.etag
        if there and there.etag and len(there.etag) == _MD5_CHARACTERS and self.equality.destination.are_md5:
            return there.etag
        return None
