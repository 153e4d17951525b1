"""What a night asks of the destination: whether the few objects whose state is in doubt are as they must be.

Nothing is inferred from what earlier runs have said. In doubt are the objects of rows that are private now, and those
on the doubt list (`transfer.doubts`). The night asks for each, and hands on to the plan what is not as it must be.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from mastosync_dagster.expected.objects import Sizes, items_of
from mastosync_dagster.expected.privacy import Privacy, has_private
from mastosync_dagster.mastodon import Rows, Selection, walk_rows
from mastosync_dagster.plan.items import Batch
from mastosync_dagster.plan.lookup import destination_keys
from mastosync_dagster.pool import Pool
from mastosync_dagster.records.doubts import CONTENT, Doubt, DoubtLine
from mastosync_dagster.s3.acl import has_access
from mastosync_dagster.s3.errors import StorageError, is_not_found
from mastosync_dagster.s3.probes import folder_of
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mastosync_dagster.expected.privacy import KnownState
    from mastosync_dagster.mastodon import Connect, Schema
    from mastosync_dagster.plan.items import ExpectedObject
    from mastosync_dagster.runs.doubt_lists import Noted
    from mastosync_dagster.runs.doubts import RunDoubts
    from mastosync_dagster.s3.acl import SourceAccess
    from mastosync_dagster.s3.storage import Storage

ASKED_IN_FLIGHT = 64
_ALL_AT_ONCE = 100_000
"""So many private objects are asked for every night. Of more, each night takes the new ones and a part of the rest."""
_NIGHTS_OF_A_ROUND = 7

_TO_LOOK_AT = frozenset({Doubt.ACL, Doubt.SKIPPED, Doubt.FAILED, Doubt.MISSING})
"""Of these both storages are asked; of an object that is only remembered as private, its ACL."""


class _Answer(Enum):
    RIGHT = "its ACL is as it must be"
    ABSENT = "the destination does not have it"
    OPEN = "its ACL is another, or was not shown"


@dataclass(frozen=True)
class Rules:
    """How a run treats what is in doubt.

    Attributes:
        marks: What is known of rows and objects.
        has_acls: The destination has ACLs.
        copy_private: Private objects go to a destination without ACLs; None: nobody has decided.
        retry_nights: So many nights ask again for what failed or was missing.
        may_settle: What is found as it must be may leave the list: no other run can still write it.
        day: Number of the day, by which the private objects of a large instance take turns.
    """

    marks: KnownState
    has_acls: bool
    copy_private: bool | None
    retry_nights: int
    may_settle: bool
    day: int


@dataclass
class Counts:
    """What was asked.

    Attributes:
        acls: Objects whose ACL was asked for.
        wrong: Of these, those whose ACL is another, or was not shown.
        again: Objects that failed or were missing, and are asked for again.
        given_up: Such objects that no night asks for any more: they are left to their ID range.
    """

    acls: int = 0
    wrong: int = 0
    again: int = 0
    given_up: int = 0

    def __str__(self) -> str:
        text = f"{self.acls:,} ACLs asked for, {self.wrong:,} to be set; {self.again:,} objects asked for again"
        given_up = f"; {self.given_up:,} left to their ID ranges: mastosync report names them" if self.given_up else ""
        return text + given_up


class Convergence:
    """Asks for what is in doubt in one table.

    Args:
        connect: Opens a connection.
        schema: What the database has.
        listed: The list of the table, which takes what stays on it.
        destination: Whom to ask.
        source: Asks the source who may read an object; None: the rows say.
        rules: How.

    Attributes:
        counts: What was asked so far.
        marks: What is known of rows and objects.
        folders: Those at the destination in which private objects were found (`transfer.probe.folder_of`).
    """

    def __init__(
        self,
        connect: Connect,
        schema: Schema,
        listed: RunDoubts,
        *,
        destination: Storage,
        source: Callable[[Pool], SourceAccess] | None,
        rules: Rules,
    ) -> None:
        self.counts = Counts()
        self.marks = rules.marks
        self.folders: set[str] = set()
        self._connect = connect
        self._schema = schema
        self._list = listed
        self._table = listed.table
        self._doubts = listed.doubts
        self._destination = destination
        self._source = source
        self._rules = rules
        self._planned: set[str] = set()
        self._silent = False

    def after(self, planned: Iterable[Batch], *, page_rows: int) -> Iterator[Batch]:
        """Yield the batches of what has changed, and then those of what is in doubt and not as it must be.

        Args:
            planned: What has changed.
            page_rows: How many rows of the table a query may look at.

        Raises:
            DatabaseReadError: The rows could not be read, after all retries.
        """
        for batch in planned:
            self._planned.update(item.key for item in batch.items if item.private or item.turn)
            yield batch
        with Pool(ASKED_IN_FLIGHT, stop=threading.Event()) as pool:
            yield from self._private_rows(pool, page_rows)
            yield from self._listed_rows(pool)

    # --- rows that are private now -----------------------------------------------------------------------------

    def _private_rows(self, pool: Pool, page_rows: int) -> Iterator[Batch]:
        """Ask for the objects of rows that are private now, whatever is on the list: that alone makes them private."""
        if not self._asks_for_private:
            self._name_exposed(pool, page_rows)
            return
        selection = Selection(self._table, private_only=True)
        known = self._known_private()
        for page in walk_rows(self._connect, self._schema, selection, page_rows=page_rows):
            items = [item for item in self._items(page.rows) if item.key not in self._planned]
            later = {item.key: item for item in items if (item.row_id, item.part) in known and self._is_later(item)}
            now = self._with_privacy([item for item in items if item.key not in later], pool)
            wrong = []
            for item, answer in zip(now, self._ask(now, pool), strict=True):
                if answer is _Answer.ABSENT or (answer is _Answer.RIGHT and not item.private):
                    continue  # nobody can read it: whether it is to be copied is on the list; or everybody may
                self._keep(item, Doubt.PRIVATE)
                self.folders.add(folder_of(item.key))
                if answer is _Answer.OPEN:
                    wrong.append(item._replace(turn=True))
            for item in later.values():
                self._keep(item, Doubt.PRIVATE)
            if wrong:
                yield self._batch(wrong)

    def _name_exposed(self, pool: Pool, page_rows: int) -> None:
        """Put on the list what was copied to a destination without ACLs before its row became private.

        Nothing here can make it private, and nobody deletes it on doubt: it is named.
        """
        rules = self._rules
        by_rows = rules.marks.privacy is not Privacy.NONE and has_private(self._table)
        if rules.has_acls or rules.copy_private or not by_rows:
            return
        skipped = {
            (noted.row_id, noted.part)
            for step in self._doubts.steps()
            for noted in step
            if Doubt.SKIPPED in noted.nights
        }
        selection = Selection(self._table, private_only=True)
        for page in walk_rows(self._connect, self._schema, selection, page_rows=page_rows):
            items = [item for item in self._items(page.rows) if (item.row_id, item.part) not in skipped]
            items = [item for item in items if item.key not in self._planned]
            for item, there in zip(items, pool.map(partial(self._is_there, halt=pool.halt), items), strict=True):
                if there:
                    self._keep(item, Doubt.EXPOSED)

    def _is_there(self, item: ExpectedObject, halt: threading.Event) -> bool:
        storage = self._destination
        for key in destination_keys(item):
            with contextlib.suppress(StorageError):
                if storage.head(key, halt) is not None:
                    return True
        return False

    @property
    def _asks_for_private(self) -> bool:
        privacy = self._rules.marks.privacy
        return self._rules.has_acls and privacy is not Privacy.NONE and has_private(self._table)

    def _known_private(self) -> set[tuple[int, str]]:
        """Return the objects that were private when they were asked for, if there are too many for one night."""
        known = {
            (noted.row_id, noted.part)
            for step in self._doubts.steps()
            for noted in step
            if noted.nights.keys() == {Doubt.PRIVATE}
        }
        return known if len(known) > _ALL_AT_ONCE else set()

    def _is_later(self, item: ExpectedObject) -> bool:
        """Tell whether the turn of an object comes in another night."""
        return item.row_id % _NIGHTS_OF_A_ROUND != self._rules.day % _NIGHTS_OF_A_ROUND

    # --- objects on the list -----------------------------------------------------------------------------------

    def _listed_rows(self, pool: Pool) -> Iterator[Batch]:
        if not self._doubts.rows:
            return
        with Rows(self._connect, self._schema, self._table) as rows:
            for step in self._doubts.steps():
                found = {row["id"]: row for row in rows.of(sorted({noted.row_id for noted in step}))}
                parts = {(item.row_id, item.part): item for item in self._items(found.values())}
                # What no row has any more is an orphan, and nobody's to make public.
                listed = [
                    (noted, item)
                    for noted in step
                    for item in [parts.get((noted.row_id, noted.part))]
                    if item is not None
                ]
                batch = [*self._to_look_at(listed, found), *self._no_longer_private(listed, pool)]
                if batch:
                    yield self._batch(batch)

    def _to_look_at(
        self, listed: Sequence[tuple[Noted, ExpectedObject]], rows: Mapping[int, Mapping[str, object]]
    ) -> Iterator[ExpectedObject]:
        """Yield the objects of which both storages are asked, and keep their lines."""
        for noted, item in listed:
            why = noted.nights.keys() & _TO_LOOK_AT
            for reason in why - CONTENT:
                self._keep(item, reason)
            counts = {reason: noted.nights[reason] for reason in why & CONTENT}
            again = bool(counts) and max(counts.values()) < self._rules.retry_nights
            if again:
                self.counts.again += 1
                for reason, count in counts.items():
                    # This night counts when it has come to its end.
                    self._keep(item, reason, count)
            elif counts:
                self.counts.given_up += 1
            skipped = Doubt.SKIPPED in why and not self._stays_skipped(rows[item.row_id])
            if (again or skipped or Doubt.ACL in why) and item.key not in self._planned:
                self._planned.add(item.key)
                yield item

    def _stays_skipped(self, row: Mapping[str, object]) -> bool:
        """Tell whether an object is skipped as private on purpose: then it is not asked for."""
        rules = self._rules
        # As long as nobody has said that they may be skipped, each run says it anew.
        return not rules.has_acls and rules.copy_private is False and rules.marks.is_private(row)

    def _no_longer_private(
        self, listed: Sequence[tuple[Noted, ExpectedObject]], pool: Pool
    ) -> Iterator[ExpectedObject]:
        """Ask for the objects that were private and whose rows are not; yield those that still are."""
        remembered = [item for noted, item in listed if Doubt.PRIVATE in noted.nights]
        # Without ACLs, for a night or for ever, nobody can be asked.
        later = [item for item in remembered if not self._rules.has_acls or self._is_asked_for_by_row(item)]
        for item in later:
            self._keep(item, Doubt.PRIVATE)
        keys = {item.key for item in later}
        now = self._with_privacy([item for item in remembered if item.key not in keys], pool)
        for item, answer in zip(now, self._ask(now, pool), strict=True):
            right = answer is _Answer.RIGHT and not item.private
            # What is not there is not private either.
            if not (right or answer is _Answer.ABSENT) or not self._rules.may_settle:
                self._keep(item, Doubt.PRIVATE)
            if answer is not _Answer.RIGHT and item.key not in self._planned:
                self._planned.add(item.key)
                yield item._replace(turn=True)

    def _is_asked_for_by_row(self, item: ExpectedObject) -> bool:
        """Tell whether an object is asked for because its row is private: this night, or the next."""
        return self._asks_for_private and item.private

    # --- both --------------------------------------------------------------------------------------------------

    def _items(self, rows: Iterable[Mapping[str, object]]) -> Iterator[ExpectedObject]:
        for row in rows:
            yield from items_of(self._table, row, self._rules.marks, Sizes())

    def _with_privacy(self, items: Sequence[ExpectedObject], pool: Pool) -> list[ExpectedObject]:
        """Return items as private as they must be: by the source, where that is to say so."""
        if self._source is None or not items:
            return list(items)
        private = self._source(pool).are_private_if_there([(item.key, *item.candidates) for item in items])
        # Of what the source has lost, the rows say it.
        return [
            item if each is None else item._replace(private=each) for item, each in zip(items, private, strict=True)
        ]

    def _ask(self, items: Sequence[ExpectedObject], pool: Pool) -> list[_Answer]:
        answers = pool.map(partial(self._answer, halt=pool.halt), items)
        self.counts.acls += len(items)
        self.counts.wrong += sum(answer is _Answer.OPEN for answer in answers)
        return answers

    def _answer(self, item: ExpectedObject, halt: threading.Event) -> _Answer:
        if self._silent:
            return _Answer.OPEN
        for key in destination_keys(item):
            try:
                right = has_access(self._destination, key, private=item.private, halt=halt)
            except StorageError as error:
                if is_not_found(error):
                    continue
                # What one object does not show for such a reason, the others will not either. The run goes on to set
                # the ACL, and says of each object why that is not possible.
                self._silent = self._silent or error.permanent or error.reason is Reason.ACCESS_DENIED
                return _Answer.OPEN
            return _Answer.RIGHT if right else _Answer.OPEN
        return _Answer.ABSENT

    def _keep(self, item: ExpectedObject, why: Doubt, nights: int = 0) -> None:
        key = self._destination.full_key(item.key)
        self._list.keep(DoubtLine(item.row_id, item.part, why, nights, key))

    def _batch(self, items: Sequence[ExpectedObject]) -> Batch:
        """Return objects to be asked for one by one, since they lie scattered."""
        self._planned.update(item.key for item in items)
        return Batch(items=tuple(items), ranges=(), rows=0)
