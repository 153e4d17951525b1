"""Objects that both storages have with different bytes: gathers the facts about them, and decides."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.plan.decisions import Decision, Difference, StoredBody, decide
from mastosync_dagster.s3.digests import read_digest
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.etags import is_md5
from mastosync_dagster.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mastosync_dagster.plan.decisions import Known, Record, Row
    from mastosync_dagster.plan.equality import Equality, Etags
    from mastosync_dagster.plan.items import ExpectedObject
    from mastosync_dagster.s3.storage import ListedObject, Storage

MOST = 10_000
"""Objects that are decided about together: what is known of them is read once."""
_LONGEST_BEGINNING = 64 * MIB
"""Longest body that is compared with a longer one. What broke off while it was written in one piece is shorter."""


class Differing(NamedTuple):
    """An object that both storages have with different bytes.

    Attributes:
        target: Its key at the destination.
        found: The source's.
        there: The destination's.
        digests: MD5s of both bodies in hex, source first, where they were read; None: only the ETags are known.
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
        knowledge: Returns what is known of objects beyond what the storages show, in their order; None: only the items'
            sizes are known, and where those do not tell the source is right.
        overwrite: An admin wants the source's.
    """

    source: Storage
    destination: Storage
    equality: Equality
    knowledge: Callable[[Sequence[Differing]], Sequence[Known]] | None
    overwrite: bool

    def decide(self, objects: Sequence[Differing]) -> list[Decision]:
        """Return what becomes of each object, in their order.

        Raises:
            StorageError: Permanent: a storage refuses to answer.
            Exception: What ``knowledge`` raises.
        """
        if self.knowledge is None:
            return [_by_size(each) for each in objects]
        decisions: list[Decision] = []
        for start in range(0, len(objects), MOST):
            some = objects[start : start + MOST]
            known, now = self.knowledge(some), datetime.now(timezone.utc)
            decisions += [self._decide(each, *facts, now) for each, facts in zip(some, known, strict=True)]
        return decisions

    def _decide(self, each: Differing, row: Row, record: Record | None, now: datetime) -> Decision:
        here, there = each.digests or (None, None)
        difference = Difference(
            source=self._body(self.source, each.found, here, record, self.equality.source),
            destination=self._body(self.destination, each.there, there, record, self.equality.destination),
            row=row,
            record=record,
            now=now,
            overwrite=self.overwrite,
        )
        decision = decide(difference)
        if decision is Decision.COMPARE_BODIES:
            decision = decide(replace(difference, beginning=self._is_beginning(each)))
        return decision

    @staticmethod
    def _body(
        storage: Storage, entry: ListedObject, digest: str | None, record: Record | None, etags: Etags
    ) -> StoredBody:
        """Return one storage's object, with the MD5 of its body where that is known."""
        md5 = digest or (entry.etag if is_md5(entry.etag) else None)
        if digest is None and md5 and record and record.size == entry.size and record.md5 not in {None, md5}:
            # Either other bytes than were recorded, or encrypted with a key of its own: then its ETag says nothing.
            md5 = None if etags.mislead(entry.key) else md5
        modified = entry.modified
        if modified is None:
            # A HEAD's entry has no time yet.
            with contextlib.suppress(StorageError):
                modified = storage.head_existing(entry.key).modified
        return StoredBody(entry.size, md5, modified)

    def _is_beginning(self, each: Differing) -> bool:
        """Return whether the shorter body is the beginning of the longer one. Where that is unknown, it is not."""
        bodies = [(self.source, each.found), (self.destination, each.there)]
        size = min(entry.size for _, entry in bodies)
        if size > _LONGEST_BEGINNING:
            return False
        try:
            here, there = (read_digest(storage, entry.key, first=size) for storage, entry in bodies)
        except StorageError as error:
            if error.permanent:
                raise
            return False
        return here == there and here.size == size


def _by_size(each: Differing) -> Decision:
    """Decide about an object of which at most the size is known."""
    return Decision.AS_THE_ROW_SAYS if each.item.size == each.there.size != each.found.size else Decision.DAMAGED
