"""What a side has of the keys that a batch of items may have: by listing key ranges, or by HEAD per object."""

from __future__ import annotations

import itertools
import math
import threading
from bisect import bisect_left
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mastosync_dagster.pool import Stopped
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.listing import KeyRange
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from typing_extensions import Self

    from mastosync_dagster.plan.items import ExpectedObject
    from mastosync_dagster.s3.storage import ListedObject, Storage

_POLL_SECONDS = 0.5

# A page answers for 1,000 keys. Fewer are aimed at, so that a few objects nobody asks for (left over from deleted rows)
# do not cost a second page.
_KEYS_OF_A_PAGE = 900


@dataclass(slots=True)
class SideListing:
    """What is known of a side's objects, for the keys of one batch.

    Attributes:
        objects: What is there, by relative key.
        unknown: Keys that the side would not speak about, with its answer. All others are absent.
        others: What else is in the ranges, where that was asked for.
        list_requests: ListObjectsV2 requests: one per page of up to 1,000 keys.
        head_requests: HEAD requests.
    """

    objects: dict[str, ListedObject] = field(default_factory=dict)
    unknown: dict[str, StorageError] = field(default_factory=dict)
    others: list[ListedObject] = field(default_factory=list)
    list_requests: int = 0
    head_requests: int = 0

    def add(self, other: SideListing) -> None:
        """Take in what another request found."""
        self.objects.update(other.objects)
        self.unknown.update(other.unknown)
        self.others += other.others
        self.list_requests += other.list_requests
        self.head_requests += other.head_requests


@dataclass(slots=True)
class PendingLookup:
    """Questions about one batch that are under way.

    Attributes:
        items: The batch's items by key, new ones included.
        listed: Whether each side is listed, source first; else it is asked by HEAD.
        futures: The requests to each side, source first.
    """

    items: dict[str, ExpectedObject]
    listed: list[bool]
    futures: list[list[Future[SideListing]]]


def _list(
    storage: Storage, keys: KeyRange, wanted: Container[str], halt: threading.Event, *, others: bool = False
) -> SideListing:
    """List a range and keep what is wanted: a range may hold far more than a batch asks for."""
    view = SideListing()
    for page in storage.list_pages(keys, halt):
        view.list_requests += 1
        view.objects.update({entry.key: entry for entry in page if entry.key in wanted})
        if others:
            view.others += [entry for entry in page if entry.key not in wanted]
        if halt.is_set():
            raise Stopped
    return view


def _head(storage: Storage, keys: Iterable[str], halt: threading.Event) -> SideListing:
    """Ask for each key."""
    view = SideListing()
    for key in keys:
        if halt.is_set():
            raise Stopped
        view.head_requests += 1
        try:
            found = storage.head(key, halt)
        except StorageError as error:
            if error.permanent:
                raise
            view.unknown[key] = error
            continue
        if found is not None:
            view.objects[key] = found
    return view


def _head_first(storage: Storage, keys: Iterable[str], halt: threading.Event) -> SideListing:
    """Ask for keys until one is found, and then once more for those before it that were denied.

    Without the right to list, S3 answers 403 for absent objects: such a key is unknown, and the next one is asked
    for. An answer that did not come in spite of retries ends the row: what follows would be second best.
    """
    view = SideListing()
    denied: list[str] = []
    for key in keys:
        view.add(_head(storage, (key,), halt))
        if key in view.objects:
            view.unknown.clear()
            again = _head(storage, denied, halt)
            if _unanswered(again):
                view.objects.clear()
            else:
                again.unknown.clear()
            view.add(again)
            break
        if _unanswered(view):
            break
        if key not in view.unknown:
            denied.append(key)
    return view


def _unanswered(view: SideListing) -> bool:
    """Tell whether an answer did not come, which is something else than being refused one."""
    return any(error.reason is not Reason.ACCESS_DENIED for error in view.unknown.values())


def split(ranges: Iterable[KeyRange], keys: Iterable[str]) -> list[KeyRange]:
    """Cut ranges into pieces that one page each is likely to answer for, to be listed at the same time.

    Args:
        ranges: Key ranges.
        keys: The keys that are expected there. Pieces begin at the folder of one of them.
    """
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
    return (item.key, *item.candidates) if item.keep_found_key else (item.key,)


class Lookup:
    """Asks both sides about batches of items, several requests at a time. A context manager: it ends its threads.

    Args:
        source: Where objects are read.
        destination: Where they go.
        listers: Listings in flight at a time.
        heads: HEADs in flight at a time.
        stop: Set from outside, it ends everything with `Stopped`.
        tick: Called about twice a second while waiting.
    """

    def __init__(
        self,
        source: Storage,
        destination: Storage,
        *,
        listers: int,
        heads: int,
        stop: threading.Event,
        tick: Callable[[], None],
    ) -> None:
        self._sides = (source, destination)
        self._may_list = [True, True]
        self._stop = stop
        self._tick = tick
        self._halt = threading.Event()
        self._list_pool = ThreadPoolExecutor(listers, thread_name_prefix="list")
        self._head_pool = ThreadPoolExecutor(heads, thread_name_prefix="head")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Nobody waits for requests in flight: they end by themselves, and no further page or object is asked for.
        self._halt.set()
        self._list_pool.shutdown(wait=False, cancel_futures=True)
        self._head_pool.shutdown(wait=False, cancel_futures=True)

    @property
    def may_list(self) -> tuple[bool, bool]:
        """Whether source and destination may be listed, as far as was seen."""
        return self._may_list[0], self._may_list[1]

    def ask(
        self, items: dict[str, ExpectedObject], ranges: Sequence[KeyRange], *, others: bool = False
    ) -> PendingLookup:
        """Start asking both sides; returns at once. Nobody is asked for new items.

        Args:
            items: The batch's items by key.
            ranges: Key ranges that hold all keys of the items; empty: ask for each object.
            others: Keep what else the destination has in the ranges; they are listed there whatever the items.
        """
        known = [item for item in items.values() if not item.new]
        listed = [bool(ranges and (known or (others and side))) and self._may_list[side] for side in (0, 1)]
        wanted = {item.key for item in known}
        wanted.update(itertools.chain.from_iterable(item.candidates for item in known))
        pages = split(ranges, (item.key for item in known)) if any(listed) else []
        futures = [
            [
                self._list_pool.submit(_list, self._sides[side], page, wanted, self._halt, others=others and side == 1)
                for page in pages
            ]
            if listed[side]
            else self._start_heads(side, items)
            for side in (0, 1)
        ]
        return PendingLookup(items, listed, futures)

    def _start_heads(self, side: int, items: dict[str, ExpectedObject]) -> list[Future[SideListing]]:
        keys, head = (destination_keys, _head) if side else (source_keys, _head_first)
        return [
            self._head_pool.submit(head, self._sides[side], keys(item), self._halt)
            for item in items.values()
            if not item.new
        ]

    def answers(self, asked: PendingLookup) -> tuple[SideListing, SideListing]:
        """Wait for a batch's answers and return what source and destination have.

        A side that turns out not to be listable is asked for each object instead.

        Raises:
            StorageError: A permanent one, or a listing that failed in spite of retries.
            Stopped: Stopped from outside.
        """
        views = []
        for side in (0, 1):
            try:
                view = self._collect(asked.futures[side])
            except StorageError as error:
                if not asked.listed[side] or error.reason is not Reason.ACCESS_DENIED:
                    raise
                self._may_list[side] = False
                asked.listed[side] = False
                view = self._collect(self._start_heads(side, asked.items))
            views.append(view)
        return views[0], views[1]

    def ask_source(self, items: Iterable[ExpectedObject]) -> SideListing:
        """Ask the source for each object of some items by HEAD, and wait for the answers. Raises as `answers` does."""
        return self._collect(self._start_heads(0, {item.key: item for item in items}))

    def ask_destination(self, items: Iterable[ExpectedObject]) -> SideListing:
        """Ask the destination in the same way."""
        return self._collect(self._start_heads(1, {item.key: item for item in items}))

    def _collect(self, futures: Sequence[Future[SideListing]]) -> SideListing:
        view = SideListing()
        for future in self._finished(futures):
            view.add(future.result())
        return view

    def _finished(self, futures: Sequence[Future[SideListing]]) -> Iterator[Future[SideListing]]:
        """Yield futures as they end, the first one with an error at once."""
        waiting: set[Future[SideListing]] = set(futures)
        while waiting:
            # The interrupt of a run that is terminated is raised here, in the main thread.
            done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_EXCEPTION)
            yield from sorted(done, key=lambda future: future.exception() is None)
            if self._stop.is_set():
                raise Stopped
            if waiting:
                self._tick()
