"""Objects that both sides have with different bytes: gathered, and decided about some thousands at a time."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.plan.decisions import Decision, Difference, SideObject, decide
from mastosync_dagster.s3.digests import read_digest
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.etags import MIB, is_md5

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from mastosync_dagster.plan.decisions import Known, Record, Row
    from mastosync_dagster.plan.equality import Equality, Etags
    from mastosync_dagster.plan.items import ExpectedObject
    from mastosync_dagster.s3.storage import ListedObject, Storage

MOST = 10_000
"""Objects that are decided about together: what is known of them is asked for once."""
_LONGEST_BEGINNING = 64 * MIB
"""Bytes of a shorter body that is looked at. What broke off while it was written in one piece is shorter."""


class Differing(NamedTuple):
    """An object that both sides have with different bytes.

    Attributes:
        item: What is wanted.
        target: Its key at the destination.
        found: What the source has of it.
        there: What the destination has.
        digests: MD5s of both bodies in hex, source first, where they were read; None: the ETags are all there is.
    """

    item: ExpectedObject
    target: str
    found: ListedObject
    there: ListedObject
    digests: tuple[str, str] | None = None


@dataclass(frozen=True)
class Judgement:
    """Decides about differing objects.

    Attributes:
        source: Where objects are read.
        destination: Where they go.
        equality: What ETags are worth.
        knowledge: Returns what is known of objects beyond what the sides show, in their order; None: the items' sizes
            are all there is, and where those do not tell the source is right.
        overwrite: An admin wants the source's.
        halt: Set, no further attempt is made.
    """

    source: Storage
    destination: Storage
    equality: Equality
    knowledge: Callable[[Sequence[Differing]], Sequence[Known]] | None
    overwrite: bool
    halt: threading.Event

    def of(self, objects: Sequence[Differing]) -> list[Decision]:
        """Return what becomes of some objects, `MOST` at the most, in their order.

        Raises:
            StorageError: Permanent: a side refuses to be looked at.
            Exception: What ``knowledge`` raises.
        """
        if not objects:
            return []
        if self.knowledge is None:
            return [_by_size(each) for each in objects]
        known, now = self.knowledge(objects), datetime.now(timezone.utc)
        return [self._decide(each, *of_it, now) for each, of_it in zip(objects, known, strict=True)]

    def _decide(self, each: Differing, row: Row, record: Record | None, now: datetime) -> Decision:
        here, there = each.digests or (None, None)
        difference = Difference(
            source=self._side(self.source, each.found, here, record, self.equality.source),
            destination=self._side(self.destination, each.there, there, record, self.equality.destination),
            row=row,
            record=record,
            now=now,
            overwrite=self.overwrite,
        )
        decision = decide(difference)
        if decision is Decision.LOOK:
            decision = decide(replace(difference, beginning=self._is_beginning(each)))
        return decision

    def _side(
        self, side: Storage, entry: ListedObject, digest: str | None, record: Record | None, etags: Etags
    ) -> SideObject:
        """Return one side's object, with the MD5 of its body where that is known."""
        md5 = digest or (entry.etag if is_md5(entry.etag) else None)
        if digest is None and md5 and record and record.size == entry.size and record.md5 not in {None, md5}:
            # Either other bytes than were recorded, or encrypted with a key of its own: then its ETag says nothing.
            md5 = None if etags.mislead(entry.key) else md5
        modified = entry.modified
        if modified is None:
            # It was asked for by name, which does not tell.
            with contextlib.suppress(StorageError):
                modified = side.dated(entry.key, self.halt).modified
        return SideObject(entry.size, md5, modified)

    def _is_beginning(self, each: Differing) -> bool:
        """Tell whether the shorter body is the beginning of the longer one. Where that cannot be seen, it is not."""
        sides = [(self.source, each.found), (self.destination, each.there)]
        size = min(entry.size for _, entry in sides)
        if size > _LONGEST_BEGINNING:
            return False
        try:
            here, there = (read_digest(side, entry.key, self.halt, first=size) for side, entry in sides)
        except StorageError as error:
            if error.permanent:
                raise
            return False
        return here == there and here.size == size


def _by_size(each: Differing) -> Decision:
    """Decide about an object of which nothing is known but its size, if that."""
    return Decision.AS_THE_ROW_SAYS if each.item.size == each.there.size != each.found.size else Decision.DAMAGED
