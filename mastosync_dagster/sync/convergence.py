"""A night's check of the few objects whose state at the destination is in doubt.

Nothing is inferred from the results of earlier runs. In doubt are the objects of rows that are private now, and those
on the doubt list (`records.doubts`). The night checks each, and passes on to the plan what is not as it must be.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from mastosync_dagster.environment import retry_nights
from mastosync_dagster.expected.objects import Sizes, items_of
from mastosync_dagster.expected.privacy import Privacy, has_private
from mastosync_dagster.mastodon import LeftOutRows, Rows, Selection, walk_rows
from mastosync_dagster.plan.items import Batch
from mastosync_dagster.plan.lookup import destination_keys
from mastosync_dagster.pool import Pool
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.doubts import CONTENT, Doubt, DoubtLine
from mastosync_dagster.runs.doubts import others_may_write
from mastosync_dagster.s3.acl import SourceAccess, has_acl
from mastosync_dagster.s3.errors import StorageError, is_not_found
from mastosync_dagster.s3.probes import folder_of
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from mastosync_dagster.expected.privacy import KnownState
    from mastosync_dagster.mastodon import Database, RemoteWindow
    from mastosync_dagster.plan.items import ExpectedObject
    from mastosync_dagster.runs.context import RunContext
    from mastosync_dagster.runs.doubt_lists import DoubtfulObject
    from mastosync_dagster.runs.doubts import RunDoubts
    from mastosync_dagster.sync.config import PlanConfig

_CHECKS_IN_FLIGHT = 64
_ALL_AT_ONCE = 100_000
"""So many private objects are checked every night. Of more, each night takes the new ones and a part of the rest."""
_NIGHTS_OF_A_ROUND = 7

_TO_PLAN = frozenset({Doubt.ACL, Doubt.SKIPPED, Doubt.FAILED, Doubt.MISSING})
"""These are compared at both storages; of an object that is only remembered as private, the ACL is checked."""


class _AclCheck(Enum):
    RIGHT = "its ACL is as it must be"
    ABSENT = "the destination does not have it"
    WRONG = "its ACL is another, or was not shown"


@dataclass
class Counts:
    """Checked ACLs, of these the `wrong` ones; objects retried, and those `given_up`: left to their ID ranges."""

    acls: int = 0
    wrong: int = 0
    again: int = 0
    given_up: int = 0

    def __str__(self) -> str:
        text = f"{self.acls:,} ACLs checked, {self.wrong:,} to be set; {self.again:,} objects retried"
        given_up = f"; {self.given_up:,} left to their ID ranges: mastosync report names them" if self.given_up else ""
        return text + given_up


class Convergence:
    """Checks what is in doubt in one table.

    ``listed`` is the table's list, which takes what stays on it. What ``remote`` leaves out is not copied; its ACL is
    checked all the same, for it may have been copied before. ``folders`` are those at the destination in which
    private objects were found (`s3.probes.folder_of`).
    """

    def __init__(
        self,
        run: RunContext,
        config: PlanConfig,
        listed: RunDoubts,
        known: KnownState,
        *,
        database: Database,
        read_at: datetime,
        remote: RemoteWindow | None,
    ) -> None:
        self.counts = Counts()
        self.known = known
        self.folders: set[str] = set()
        self._database = database
        self._page_rows = config.page_rows
        self._remote = remote
        self._list = listed
        self._table = listed.table
        self._doubts = listed.doubts
        self._source = run.source if known.privacy is Privacy.source else None
        self._destination = run.destination
        self._has_acls = run.destination.settings.has_acls
        self._has_private_rows = known.privacy is not Privacy.none and has_private(listed.table)
        self._copy_private = config.copy_private
        self._retry_nights = retry_nights()
        # An object with the right ACL leaves the list only if no other run can still write it.
        self._may_settle = not others_may_write(run.instance, FileType(listed.table), run.run_id)
        self._day = read_at.toordinal()
        self._planned: set[str] = set()
        self._silent = False

    def after(self, planned: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of what has changed, and then those of what is in doubt and not as it must be."""
        for batch in planned:
            self._planned.update(item.key for item in batch.items if item.private or item.check_acl)
            yield batch
        with self._checks() as pool:
            yield from self._private_rows(pool)
            yield from self._listed_rows(pool)

    def after_every_row(self, planned: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of all rows that are wanted, and then what is private of the others and not as it must be.

        What is on the list stays there.
        """
        for batch in planned:
            self._planned.update(item.key for item in batch.items if item.private)
            yield batch
        if self._remote is not None:
            with self._checks() as pool:
                yield from self._private_rows(pool, left_out=True)

    @contextlib.contextmanager
    def _checks(self) -> Iterator[Pool]:
        left_out = LeftOutRows(self._database, self._table, self._remote)
        with left_out as self._left_out, Pool(_CHECKS_IN_FLIGHT) as pool:
            yield pool

    def _private_rows(self, pool: Pool, *, left_out: bool = False) -> Iterator[Batch]:
        """Check the objects of rows that are private now, whatever is on the list: that alone makes them private.

        ``left_out``: only of rows that the policy leaves out.
        """
        if not self._has_private_rows:
            return
        if not self._has_acls:
            self._list_exposed(pool, left_out=left_out)
            return
        known = self._on_list(lambda reasons: reasons == {Doubt.PRIVATE})
        if len(known) <= _ALL_AT_ONCE:
            known = set()  # this night checks all of them
        for items in self._private_items(left_out=left_out):
            later = {item.key: item for item in items if (item.row_id, item.part) in known and self._is_later(item)}
            now = self._with_privacy([item for item in items if item.key not in later], pool)
            wrong = []
            for item, acl in zip(now, self._check_acls(now, pool), strict=True):
                if acl is _AclCheck.ABSENT or (acl is _AclCheck.RIGHT and not item.private):
                    continue  # absent: the list has whether it is to be copied; or it is public, as it must be
                self._keep(item, Doubt.PRIVATE)
                self.folders.add(folder_of(item.key))
                if acl is _AclCheck.WRONG:
                    wrong.append(item._replace(check_acl=True))
            for item in later.values():
                self._keep(item, Doubt.PRIVATE)
            if wrong:
                yield self._batch(wrong)

    def _private_items(self, *, left_out: bool) -> Iterator[list[ExpectedObject]]:
        """Yield the objects of rows that are private now, without those that are planned."""
        selection = Selection(self._table, private_only=True)
        for page in walk_rows(self._database, selection, page_rows=self._page_rows):
            items = self._items(page.rows)
            yield [item for item in items if item.key not in self._planned and (item.acl_only or not left_out)]

    def _list_exposed(self, pool: Pool, *, left_out: bool) -> None:
        """Put on the list what was copied to a destination without ACLs before its row became private.

        The run can neither make it private nor delete it: an admin has to.
        """
        if self._copy_private:
            return
        skipped = self._on_list(lambda reasons: Doubt.SKIPPED in reasons)
        for page in self._private_items(left_out=left_out):
            items = [item for item in page if (item.row_id, item.part) not in skipped]
            for item, exists in zip(items, pool.map(partial(self._exists, halt=pool.halt), items), strict=True):
                if exists:
                    self._keep(item, Doubt.EXPOSED)

    def _exists(self, item: ExpectedObject, halt: threading.Event) -> bool:
        for key in destination_keys(item):
            with contextlib.suppress(StorageError):
                if self._destination.head(key, halt) is not None:
                    return True
        return False

    def _on_list(self, wanted: Callable[[AbstractSet[Doubt]], bool]) -> set[tuple[int, str]]:
        """Return row and part of the objects that are on the list for wanted reasons."""
        return {
            (doubtful.row_id, doubtful.part)
            for step in self._doubts.steps()
            for doubtful in step
            if wanted(doubtful.nights.keys())
        }

    def _is_later(self, item: ExpectedObject) -> bool:
        """Return whether another night checks an object."""
        return item.row_id % _NIGHTS_OF_A_ROUND != self._day % _NIGHTS_OF_A_ROUND

    def _listed_rows(self, pool: Pool) -> Iterator[Batch]:
        if not self._doubts.rows:
            return
        with Rows(self._database, self._table) as rows:
            for step in self._doubts.steps():
                found = {row["id"]: row for row in rows.of(sorted({doubtful.row_id for doubtful in step}))}
                parts = {(item.row_id, item.part): item for item in self._items(found.values())}
                # An object that no row has any more is an orphan, and is not made public.
                listed = [
                    (doubtful, parts[doubtful.row_id, doubtful.part])
                    for doubtful in step
                    if (doubtful.row_id, doubtful.part) in parts
                ]
                batch = [*self._to_plan(listed, found), *self._no_longer_private(listed, pool)]
                if batch:
                    yield self._batch(batch)

    def _to_plan(
        self, listed: Sequence[tuple[DoubtfulObject, ExpectedObject]], rows: Mapping[int, Mapping[str, object]]
    ) -> Iterator[ExpectedObject]:
        """Yield the objects that are compared at both storages, and keep their lines."""
        for doubtful, item in listed:
            why = doubtful.nights.keys() & _TO_PLAN
            if item.acl_only:
                # `_no_longer_private` checks its ACL. The rest is for a night that wants it again: this one, whose list
                # replaces all others, does not count.
                for reason in why - {Doubt.ACL}:
                    self._keep(item, reason, doubtful.nights[reason])
                continue
            for reason in why - CONTENT:
                self._keep(item, reason)
            counts = {reason: doubtful.nights[reason] for reason in why & CONTENT}
            again = bool(counts) and max(counts.values()) < self._retry_nights
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
        """Return whether an object is skipped as private on purpose: then it is not planned."""
        # Until an admin sets that they may be skipped, each run reports them.
        return not self._has_acls and self._copy_private is False and self.known.is_private(row)

    def _no_longer_private(
        self, listed: Sequence[tuple[DoubtfulObject, ExpectedObject]], pool: Pool
    ) -> Iterator[ExpectedObject]:
        """Check the objects that were private and whose rows are not; yield those that still are."""
        remembered = [
            item
            for doubtful, item in listed
            if Doubt.PRIVATE in doubtful.nights or (item.acl_only and Doubt.ACL in doubtful.nights)
        ]
        # Without ACLs there is nothing to check. Objects of private rows are checked with their rows.
        later = [item for item in remembered if not self._has_acls or (self._has_private_rows and item.private)]
        for item in later:
            self._keep(item, Doubt.PRIVATE)
        keys = {item.key for item in later}
        now = self._with_privacy([item for item in remembered if item.key not in keys], pool)
        for item, acl in zip(now, self._check_acls(now, pool), strict=True):
            right = acl is _AclCheck.RIGHT and not item.private
            # An absent object is not private either.
            if not (right or acl is _AclCheck.ABSENT) or not self._may_settle:
                self._keep(item, Doubt.PRIVATE)
            if acl is not _AclCheck.RIGHT and item.key not in self._planned:
                self._planned.add(item.key)
                yield item._replace(check_acl=True)

    def _items(self, rows: Iterable[Mapping[str, object]]) -> Iterator[ExpectedObject]:
        some = list(rows)
        left_out = self._left_out.among({row["id"] for row in some if isinstance(row["id"], int)})
        for row in some:
            for item in items_of(self._table, row, self.known, Sizes()):
                yield item._replace(acl_only=True) if item.row_id in left_out else item

    def _with_privacy(self, items: Sequence[ExpectedObject], pool: Pool) -> list[ExpectedObject]:
        """Return the items with the privacy that they must have: the source's, where that decides."""
        if self._source is None or not items:
            return list(items)
        private = SourceAccess(self._source, pool).are_private_if_there(
            [(item.key, *item.candidates) for item in items]
        )
        # Of what the source has lost, the rows decide.
        return [
            item if each is None else item._replace(private=each) for item, each in zip(items, private, strict=True)
        ]

    def _check_acls(self, items: Sequence[ExpectedObject], pool: Pool) -> list[_AclCheck]:
        results = pool.map(partial(self._check_acl, halt=pool.halt), items)
        self.counts.acls += len(items)
        self.counts.wrong += sum(result is _AclCheck.WRONG for result in results)
        return results

    def _check_acl(self, item: ExpectedObject, halt: threading.Event) -> _AclCheck:
        if self._silent:
            return _AclCheck.WRONG
        for key in destination_keys(item):
            try:
                right = has_acl(self._destination, key, private=item.private, halt=halt)
            except StorageError as error:
                if is_not_found(error):
                    continue
                # If one object does not show its ACL for such a reason, the others will not either. The run goes on to
                # set the ACL, and reports for each object why that is not possible.
                self._silent = self._silent or error.permanent or error.reason is Reason.ACCESS_DENIED
                return _AclCheck.WRONG
            return _AclCheck.RIGHT if right else _AclCheck.WRONG
        return _AclCheck.ABSENT

    def _keep(self, item: ExpectedObject, why: Doubt, nights: int = 0) -> None:
        key = self._destination.full_key(item.key)
        self._list.keep(DoubtLine(item.row_id, item.part, why, nights, key))

    def _batch(self, items: Sequence[ExpectedObject]) -> Batch:
        """Return objects to be compared by a request each, since they lie scattered."""
        self._planned.update(item.key for item in items)
        return Batch(items=tuple(items), ranges=(), rows=0)
