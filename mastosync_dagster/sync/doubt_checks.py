"""A night's check of the few objects whose state at the destination is in doubt.

Nothing is inferred from the results of earlier runs. In doubt are the objects of rows that are private now, and those
on the doubt list (`records.doubts`). The night checks each, and passes on to the plan what is not as it must be.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mastosync_dagster.environment import retry_nights
from mastosync_dagster.expected.objects import Sizes, items_of
from mastosync_dagster.expected.privacy import Privacy, has_private
from mastosync_dagster.mastodon import LeftOutRows, Rows, Selection, walk_rows
from mastosync_dagster.mastodon.keys import pattern_of
from mastosync_dagster.plan.items import Batch
from mastosync_dagster.plan.lookup import destination_keys
from mastosync_dagster.pool import Pool
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.doubts import CONTENT, Doubt, DoubtLine
from mastosync_dagster.runs.doubts import others_may_write
from mastosync_dagster.s3.acl import SourceAccess, has_acl
from mastosync_dagster.s3.errors import StorageError, is_not_found
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.sync.models import settles, takes_every_row

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from mastosync_dagster.expected.privacy import KnownState
    from mastosync_dagster.mastodon import Database
    from mastosync_dagster.plan.items import ExpectedObject
    from mastosync_dagster.runs.context import RunContext
    from mastosync_dagster.runs.doubts import RunDoubts
    from mastosync_dagster.sync.config import PlanConfig

_CHECKS_IN_FLIGHT = 64
_ALL_AT_ONCE = 100_000
"""The objects of so many private rows are checked every night. Of more, only those of the new rows and of a part of the
rest: a seventh for each day since the rows that the night reads."""
_DAYS_OF_A_ROUND = 7

_TO_PLAN = frozenset({Doubt.ACL, Doubt.SKIPPED, Doubt.FAILED, Doubt.MISSING})
"""These are compared at both storages; of an object that is only remembered as private, the ACL is checked."""


@dataclass
class Counts:
    """What a night has checked.

    Attributes:
        acls: Checked ACLs.
        wrong: Of these, the ones that are others, or were not shown.
        later: Private rows whose ACLs other nights of the week check.
        again: Objects retried.
        given_up: Objects left to their ID ranges.
    """

    acls: int = 0
    wrong: int = 0
    later: int = 0
    again: int = 0
    given_up: int = 0

    def __str__(self) -> str:
        later = f" (those of {self.later:,} private rows within a week)" if self.later else ""
        given_up = f"; {self.given_up:,} left to their ID ranges: mastosync report names them" if self.given_up else ""
        return f"{self.acls:,} ACLs checked{later}, {self.wrong:,} to be set; {self.again:,} objects retried{given_up}"


class DoubtChecks:
    """Checks what is in doubt in one table.

    ``selection``: the rows that the run takes. If it settles what is in doubt (`settles`), ``listed``, the table's
    list, takes what stays on it. What the policy leaves out is not copied; its ACL is checked all the same, for it may
    have been copied before. ``patterns`` are those of the keys of private objects (`mastodon.keys.pattern_of`).
    """

    def __init__(
        self,
        run: RunContext,
        config: PlanConfig,
        listed: RunDoubts,
        known: KnownState,
        selection: Selection,
        *,
        database: Database,
        read_at: datetime,
    ) -> None:
        self.counts = Counts()
        self.known = known
        self.patterns: set[str] = set()
        self._database = database
        self._page_rows = config.page_rows
        self.selection = selection
        self._settles = settles(selection)
        self.listed = listed
        self._source = run.source if known.privacy is Privacy.source else None
        self._destination = run.destination
        self._has_acls = run.destination.settings.has_acls
        self._has_private_rows = known.privacy is not Privacy.none and has_private(listed.table)
        self._copy_private = config.copy_private
        self._retry_nights = retry_nights()
        # An object with the right ACL leaves the list only if no other run can still write it.
        self._may_settle = not others_may_write(run.instance, FileType(listed.table), run.run_id)
        self._read_at = read_at
        self._planned: set[str] = set()
        self._silent = False

    def after(self, planned: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of the run's rows, and then those of what is in doubt and not as it must be.

        A run over every row has all of it in its own batches, but for what is private and left out by the policy.
        """
        remote = self.selection.remote
        if not self._settles and (remote is None or not takes_every_row(self.selection)):
            yield from planned
            return
        listed = self.listed.doubts.rows()
        for batch in planned:
            self._planned.update(item.key for item in batch.items if item.private or item.row_id in listed)
            yield batch
        left_out = LeftOutRows(self._database, self.listed.table, remote)
        with left_out as self._left_out, Pool(_CHECKS_IN_FLIGHT) as pool:
            yield from self._private_rows(pool)
            if self._settles:
                yield from self._listed_rows(pool)

    def _private_rows(self, pool: Pool) -> Iterator[Batch]:
        """Check the objects of rows that are private now, whatever is on the list: that alone makes them private.

        Without ACLs, those that are at the destination all the same go on the list: the run can neither make them
        private nor delete them, an admin has to. Where they are wanted there, only their patterns are kept, for probes:
        a policy may let everybody read them since they were copied. For these the rows decide, also with the policy
        ``source``: nothing is asked for.
        """
        if not self._has_private_rows:
            return
        is_left = self._left_for_later()
        private = Selection(self.listed.table, private_only=True)
        for page in walk_rows(self._database, private, page_rows=self._page_rows):
            items = self._items(row for row in page.rows if not is_left(row["id"]))
            wanted = [item for item in items if item.acl_only or self._settles]
            if self._copy_private and not self._has_acls:
                self.patterns.update(pattern_of(item.key) for item in wanted if item.private)
                continue
            # What is planned gets its ACL by the plan, where there are any.
            unknown = [item for item in wanted if not (self._has_acls and item.key in self._planned)]
            yield from self._batch(self._check(unknown, pool))

    def _left_for_later(self) -> Callable[[Any], bool]:
        """Return the function that tells whether this night does not check the objects of a private row."""
        if not self._has_acls:
            # What was skipped as private is not there.
            return self.listed.doubts.only(Doubt.SKIPPED).__contains__
        known = self.listed.doubts.only(Doubt.PRIVATE)
        since = self.selection.changed_since
        if since is None or len(known) <= _ALL_AT_ONCE:
            return lambda _: False
        # A part for each day since the rows that it takes: what a failed or a skipped night left is made up for.
        days = range(since.toordinal() + 1, self._read_at.toordinal() + 1)
        parts = {day % _DAYS_OF_A_ROUND for day in days[-_DAYS_OF_A_ROUND:]}
        self.counts.later = sum(row_id % _DAYS_OF_A_ROUND not in parts for row_id in known.ids)
        return lambda row_id: row_id % _DAYS_OF_A_ROUND not in parts and row_id in known

    def _listed_rows(self, pool: Pool) -> Iterator[Batch]:
        if not self.listed.doubts.table.num_rows:
            return
        with Rows(self._database, self.listed.table) as rows:
            for step in self.listed.doubts.steps():
                found = {row["id"]: row for row in rows.of(sorted({doubtful.row_id for doubtful in step}))}
                items = {(item.row_id, item.part): item for item in self._items(found.values())}
                planned, remembered = [], []
                for doubtful in step:
                    item = items.get((doubtful.row_id, doubtful.part))
                    if item is None:
                        continue  # an object that no row has any more is an orphan, and is not made public
                    if self._is_to_be_planned(item, doubtful.nights, found[item.row_id]):
                        self._planned.add(item.key)
                        planned.append(item)
                    if Doubt.PRIVATE in doubtful.nights or (item.acl_only and Doubt.ACL in doubtful.nights):
                        remembered.append(item)
                yield from self._batch([*planned, *self._check_remembered(remembered, pool)])

    def _is_to_be_planned(self, item: ExpectedObject, nights: Mapping[Doubt, int], row: Mapping[str, object]) -> bool:
        """Return whether an object is compared at both storages, and keep its lines."""
        why = nights.keys() & _TO_PLAN
        if item.acl_only:
            # `_check_remembered` checks its ACL. The rest is for a night that wants it again: this one, whose list
            # replaces all others, does not count.
            for reason in why - {Doubt.ACL}:
                self._keep(item, reason, nights[reason])
            return False
        for reason in why - CONTENT:
            self._keep(item, reason)
        counts = {reason: nights[reason] for reason in why & CONTENT}
        again = bool(counts) and max(counts.values()) < self._retry_nights
        for reason, count in counts.items() if again else ():
            # This night counts when it has come to its end.
            self._keep(item, reason, count)
        self.counts.again += again
        self.counts.given_up += bool(counts) and not again
        skipped = Doubt.SKIPPED in why and not self._stays_skipped(row)
        return (again or skipped or Doubt.ACL in why) and item.key not in self._planned

    def _stays_skipped(self, row: Mapping[str, object]) -> bool:
        """Return whether an object is skipped as private on purpose: then it is not planned."""
        # Until an admin sets that they may be skipped, each run reports them.
        return not self._has_acls and self._copy_private is False and self.known.is_private(row)

    def _check_remembered(self, items: Sequence[ExpectedObject], pool: Pool) -> Iterator[ExpectedObject]:
        """Check the objects that were private and whose rows are not; yield those that still are."""
        # Without ACLs there is nothing to check. Objects of private rows are checked with their rows.
        later = [item for item in items if not self._has_acls or (self._has_private_rows and item.private)]
        for item in later:
            self._keep(item, Doubt.PRIVATE)
        keys = {item.key for item in later}
        return self._check([item for item in items if item.key not in keys], pool)

    def _check(self, items: Sequence[ExpectedObject], pool: Pool) -> Iterator[ExpectedObject]:
        """Check objects at the destination: keep on the list what is private, and yield what must get another ACL."""
        now = self._with_privacy(items, pool)
        self.counts.acls += len(now) * self._has_acls
        for item, right in zip(now, pool.map(partial(self._is_right, halt=pool.halt), now), strict=True):
            if right is None or (right and not item.private and self._may_settle):
                continue  # what is absent is not private either; or it is public, as it must be
            self._keep(item, Doubt.PRIVATE if self._has_acls else Doubt.EXPOSED)
            if not self._has_acls:
                continue
            self.patterns.add(pattern_of(item.key))
            self.counts.wrong += not right
            if not right and item.key not in self._planned:
                self._planned.add(item.key)
                yield item._replace(check_acl=True)

    def _is_right(self, item: ExpectedObject, halt: threading.Event) -> bool | None:
        """Return whether an object is shown to have the ACL that it must have; None: it is not at the destination."""
        for key in destination_keys(item):
            try:
                if self._has_acls:
                    return not self._silent and has_acl(self._destination, key, private=item.private, halt=halt)
                if self._destination.head(key, halt) is not None:
                    return False
            except StorageError as error:
                if self._has_acls and not is_not_found(error):
                    # If one object does not show its ACL for such a reason, the others will not either. The run goes on
                    # to set the ACL, and reports for each object why that is not possible.
                    self._silent = self._silent or error.permanent or error.reason is Reason.ACCESS_DENIED
                    return False
        return None

    def _items(self, rows: Iterable[Mapping[str, object]]) -> Iterator[ExpectedObject]:
        some = list(rows)
        left_out = self._left_out.among({row["id"] for row in some if isinstance(row["id"], int)})
        for row in some:
            for item in items_of(self.listed.table, row, self.known, Sizes()):
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

    def _keep(self, item: ExpectedObject, why: Doubt, nights: int = 0) -> None:
        key = self._destination.full_key(item.key)
        self.listed.keep(DoubtLine(item.row_id, item.part, why, nights, key))

    @staticmethod
    def _batch(items: Iterable[ExpectedObject]) -> Iterator[Batch]:
        """Yield objects, if there are any, to be compared by a request each, since they lie scattered."""
        if some := tuple(items):
            yield Batch(items=some, ranges=(), rows=0)
