"""What a storage has of a batch's keys: by listing key ranges, or by HEAD per object."""

from __future__ import annotations

import math
from bisect import bisect_left
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from mastosync_dagster.pool import Pool
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.listing import KeyRange
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Container, Iterable, Sequence
    from typing import Self

    from mastosync_dagster.plan.items import ExpectedObject
    from mastosync_dagster.s3.storage import ListedObject, Storage

_POLL_SECONDS = 0.5
_HEADS_IN_FLIGHT = 64
_PROBES = 8
"""Of a batch's objects that only the destination shows, at least this many are asked of the source by name."""

# A page holds 1,000 keys. Fewer are planned for, so that a few orphans do not cost a second page.
_KEYS_OF_A_PAGE = 900


@dataclass(slots=True)
class ListingResult:
    """What one storage has of the keys of one batch, and the requests that this took.

    Attributes:
        objects: By relative key.
        unknown: Errors by relative key. Keys that are neither here nor in ``objects`` are absent.
        others: What else is in the ranges, where that was asked for.
    """

    objects: dict[str, ListedObject] = field(default_factory=dict)
    unknown: dict[str, StorageError] = field(default_factory=dict)
    others: list[ListedObject] = field(default_factory=list)
    list_requests: int = 0
    head_requests: int = 0

    def first(self, keys: Iterable[str]) -> ListedObject | None:
        """Return the object under the first key that has one."""
        return next((self.objects[key] for key in keys if key in self.objects), None)

    def add(self, other: ListingResult) -> None:
        """Add the result of another request."""
        self.objects.update(other.objects)
        self.unknown.update(other.unknown)
        self.others += other.others
        self.list_requests += other.list_requests
        self.head_requests += other.head_requests


@dataclass(slots=True)
class PendingLookup:
    """Requests about one batch that are in flight.

    Attributes:
        items: The batch's items by key, new ones included.
        listed: Whether each storage is listed, source first; else it is asked by HEAD.
        futures: The requests to each storage, source first.
    """

    items: dict[str, ExpectedObject]
    listed: list[bool]
    futures: list[list[Future[ListingResult]]]


def _list(
    storage: Storage, keys: KeyRange, *, wanted: Container[str], halt: threading.Event, others: bool
) -> ListingResult:
    """List a range and keep the wanted keys: a range may hold far more than a batch asks for."""
    listing = ListingResult()
    for page in storage.list_pages(keys, halt):
        listing.list_requests += 1
        listing.objects.update({entry.key: entry for entry in page if entry.key in wanted})
        if others:
            listing.others += [entry for entry in page if entry.key not in wanted]
        if halt.is_set():
            # Nobody waits for this result any more.
            raise CancelledError
    return listing


def _head(storage: Storage, keys: Iterable[str], halt: threading.Event) -> ListingResult:
    """Ask for each key."""
    listing = ListingResult()
    for key in keys:
        if halt.is_set():
            # As above.
            raise CancelledError
        listing.head_requests += 1
        try:
            found = storage.head(key, halt)
        except StorageError as error:
            if error.permanent:
                raise
            listing.unknown[key] = error
            continue
        if found is not None:
            listing.objects[key] = found
    return listing


def _head_first(storage: Storage, keys: Iterable[str], halt: threading.Event) -> ListingResult:
    """Ask for keys until one is found, and then again for those before it that were absent: they may be there by now.

    Without the right to list, S3 answers 403 for absent objects: such a key is unknown, and the next one is asked
    for. If a request fails in spite of retries, no further key is asked for: what follows is second best.
    """
    listing = ListingResult()
    absent: list[str] = []
    for key in keys:
        listing.add(_head(storage, (key,), halt))
        if key in listing.objects:
            listing.unknown.clear()
            again = _head(storage, absent, halt)
            if _unanswered(again):
                # A better key may have it.
                listing.objects.clear()
            else:
                # A key that is denied now is as it was: absent.
                again.unknown.clear()
            listing.add(again)
            break
        if _unanswered(listing):
            # This key may have it.
            break
        if key not in listing.unknown:
            absent.append(key)
    return listing


def _unanswered(listing: ListingResult) -> bool:
    """Return whether a request failed for another reason than that it was denied."""
    return any(error.reason is not Reason.ACCESS_DENIED for error in listing.unknown.values())


def split(ranges: Iterable[KeyRange], keys: Iterable[str]) -> list[KeyRange]:
    """Split ranges, at folders of the expected keys, into pieces of about one page, to be listed at the same time."""
    ordered = sorted(keys)
    pieces = []
    for one in ranges:
        start = one.start
        first, last = bisect_left(ordered, one.start), bisect_left(ordered, one.end)
        pages = max(1, math.ceil((last - first) / _KEYS_OF_A_PAGE))
        for page in range(1, pages):
            key = ordered[first + (last - first) * page // pages]
            cut = key[: key.rindex("/") + 1]
            if cut > start:
                pieces.append(KeyRange(one.prefix, start, cut))
                start = cut
        pieces.append(KeyRange(one.prefix, start, one.end))
    return pieces


def source_keys(item: ExpectedObject) -> tuple[str, ...]:
    """Return the keys that an item may have at the source, in the order to try."""
    return (item.key, *item.candidates)


def destination_keys(item: ExpectedObject) -> tuple[str, ...]:
    """Return the keys that an item may get at the destination."""
    return source_keys(item) if item.keep_found_key else (item.key,)


class Lookup:
    """Asks both storages about batches of items, several requests at a time. A context manager: it ends its threads.

    ``listers`` listings and `_HEADS_IN_FLIGHT` HEADs are in flight at a time, both storages together. ``tick`` is
    called in the waiting thread about twice a second.
    """

    def __init__(self, source: Storage, destination: Storage, *, listers: int, tick: Callable[[], None]) -> None:
        self._storages = (source, destination)
        self._may_list = [True, True]
        self._tick = tick
        self._list_pool = Pool(listers)
        self._head_pool = Pool(_HEADS_IN_FLIGHT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._list_pool.close()
        self._head_pool.close()

    @property
    def may_list(self) -> tuple[bool, bool]:
        """Whether source and destination may be listed, as far as is known."""
        return self._may_list[0], self._may_list[1]

    def ask(
        self, items: dict[str, ExpectedObject], ranges: Sequence[KeyRange], *, others: bool = False
    ) -> PendingLookup:
        """Start the requests for a batch, given its items by key; returns at once. New items are not asked for.

        ``ranges`` hold all keys of the items; empty: each object is asked for. ``others``: the destination's listing
        keeps what else it has in the ranges, and lists them whatever the items.
        """
        known = [item for item in items.values() if not item.new]
        listed = [bool(ranges and (known or (others and index))) and self._may_list[index] for index in (0, 1)]
        wanted = {key for item in known for key in source_keys(item)}
        pages = split(ranges, (item.key for item in known)) if any(listed) else []
        futures = []
        for index, storage in enumerate(self._storages):
            if listed[index]:
                keep = others and index == 1
                ask = partial(_list, storage, wanted=wanted, halt=self._list_pool.halt, others=keep)
                futures.append([self._list_pool.submit(ask, page) for page in pages])
            else:
                futures.append(self._start_heads(index, items.values()))
        return PendingLookup(items, listed, futures)

    def _start_heads(self, index: int, items: Iterable[ExpectedObject]) -> list[Future[ListingResult]]:
        keys, head = (destination_keys, _head) if index else (source_keys, _head_first)
        ask = partial(head, self._storages[index], halt=self._head_pool.halt)
        distinct = {item.key: item for item in items if not item.new}
        return [self._head_pool.submit(ask, keys(item)) for item in distinct.values()]

    def answers(self, asked: PendingLookup) -> tuple[ListingResult, ListingResult]:
        """Wait for a batch's requests and return what source and destination have.

        A storage that may not be listed is asked for each object instead.

        Raises:
            StorageError: A permanent one, or a listing that failed in spite of retries.
        """
        return self._answer(asked, 0), self._answer(asked, 1)

    def _answer(self, asked: PendingLookup, index: int) -> ListingResult:
        try:
            return self._collect(asked.futures[index])
        except StorageError as error:
            if not asked.listed[index] or error.reason is not Reason.ACCESS_DENIED:
                raise
            self._may_list[index] = asked.listed[index] = False
            return self._collect(self._start_heads(index, asked.items.values()))

    def ask_source(self, items: Iterable[ExpectedObject]) -> ListingResult:
        """Ask the source for each of some items by HEAD, and wait. Raises as `answers` does."""
        return self._collect(self._start_heads(0, items))

    def ask_source_again(
        self, listing: ListingResult, lacking: Sequence[ExpectedObject], only_there: Sequence[ExpectedObject]
    ) -> tuple[ListingResult, set[str]]:
        """Ask the source by HEAD for what its listing lacks, since a listing can end early and not say so.

        Of ``only_there``, those of ``lacking`` that the destination shows, a few are asked for: once Mastodon writes
        there, they may be most of a batch. If the listing lacks any object that the source has, all of them are.

        Returns:
            The answers, and the keys of those that were not asked for.
        """
        few = (*only_there[:: len(only_there) // _PROBES + 1], *only_there[-1:])
        left_out = {item.key for item in only_there} - {item.key for item in few}
        answers = self.ask_source(item for item in lacking if item.key not in left_out)
        if answers.objects.keys() - listing.objects.keys():
            # The source's listing is incomplete.
            answers.add(self.ask_source(item for item in lacking if item.key in left_out))
            left_out = set()
        return answers, left_out

    def ask_destination(self, items: Iterable[ExpectedObject]) -> ListingResult:
        """Ask the destination likewise."""
        return self._collect(self._start_heads(1, items))

    def _collect(self, futures: Sequence[Future[ListingResult]]) -> ListingResult:
        """Wait for results and add them up. An error is raised as soon as a request ends with one."""
        listing = ListingResult()
        waiting: set[Future[ListingResult]] = set(futures)
        while waiting:
            # The interrupt of a run that is terminated is raised here, in the main thread.
            done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_EXCEPTION)
            for future in sorted(done, key=lambda future: future.exception() is None):
                listing.add(future.result())
            if waiting:
                self._tick()
        return listing
