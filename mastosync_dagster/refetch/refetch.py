"""Missing objects that another server still has: fetched from there, stored, and written down.

Every missing line of a run's manifest parts gets exactly one line in `REFETCHED`, changed or as it was.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.pool import Pool
from mastosync_dagster.records.manifest import FORMAT, ManifestLine, ManifestWriter, lines_of, with_outcome
from mastosync_dagster.records.outcomes import NO_ACLS, ONLY_AT_DESTINATION, Outcome
from mastosync_dagster.records.plan import COPIED, DECIDED, REFETCHED
from mastosync_dagster.refetch.budget import MemoryBudget
from mastosync_dagster.refetch.fetch import STOPPED, Fetched, Fetcher, FetchError, FetchSettings, host_of
from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.etags import MIB, bare, is_md5
from mastosync_dagster.s3.headers import Attributes
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mastosync_dagster.s3.storage import Storage

FETCHED = "fetched from its server"
NOT_FETCHED = "not fetched from its server: "
SILENT_DESTINATION = "the destination does not say whether it has it, and must not be overwritten"
SILENT_BEFORE = "it did not serve several files before this one"

_THREADS = 8
_THERE_IS_ONE = frozenset({409, 412})
"""How a server says that it has an object that was not to be overwritten: Amazon has both."""
_LINES_A_STEP = 64
_ANSWER_SECONDS = 30.0
_STRIKES = 3
"""So many files in a row that a server does not serve, and the others are not asked for."""


class Elsewhere(NamedTuple):
    """Where a missing object can be had.

    Attributes:
        url: The address.
        accepted: Content types it may have, each with the number of bytes that it must stay below.
        attributes: Header fields to store it with, beside Content-Type.
        private: Not everybody may read it, also where its line does not say so.
    """

    url: str
    accepted: Mapping[str, int]
    attributes: Mapping[str, str]
    private: bool = False


@dataclass(frozen=True)
class RefetchCounts:
    """What fetching missing objects came to.

    Attributes:
        refetched: Objects that are at the destination now.
        bytes: Their sizes, added up.
        refused: Objects that were to be had somewhere, and were not got.
        seconds: How long it took.
        stopped: The permanent error of the destination that ended it early; None: it went through.
    """

    refetched: int = 0
    bytes: int = 0
    refused: int = 0
    seconds: float = 0.0
    stopped: StorageError | None = None


def refetch(
    folder: Path,
    destination: Storage,
    find: Callable[[Sequence[ManifestLine]], Sequence[Elsewhere | str | None]],
    settings: FetchSettings,
    *,
    memory_mb: int,
    take_private: bool,
    stop: threading.Event,
    on_progress: Callable[[RefetchCounts], None],
) -> RefetchCounts:
    """Fetch what plan and copy found missing, and write ``refetched.parquet`` (see `planfile`).

    An object that cannot be had stays missing, and its line says why. A page of lines is in memory at a time.

    Args:
        folder: Holds the parts of the manifest, gets the result.
        destination: Where the objects go.
        find: Given missing lines, returns of each where it can be had; or in words why not; or None: nothing to say.
        settings: How files are fetched.
        memory_mb: Megabytes (2^20) of bodies held at the same time.
        take_private: Whether the destination takes private objects.
        stop: Set from another thread, it ends the work.
        on_progress: Called in this thread about twice a second.

    Raises:
        OSError: The folder is not readable or writable.
        Stopped: ``stop`` was set.
        BaseException: Whatever interrupts the calling thread, or ``find`` raises. The result is written all the same.
    """
    started = time.monotonic()
    with ManifestWriter(folder / REFETCHED) as writer:
        work = _Refetch(destination, find, Fetcher(settings), writer, memory_mb=memory_mb, take_private=take_private)
        interrupt: BaseException | None = None
        for lines in _missing(folder):
            if interrupt is None and work.counts.stopped is None:
                try:
                    work.fetch(lines, stop, on_progress)
                except BaseException as error:  # noqa: BLE001  (raised again when the rest is written down)
                    interrupt = error
            work.write_rest(lines)
    if interrupt is not None:
        raise interrupt
    return replace(work.counts, seconds=time.monotonic() - started)


def _missing(folder: Path) -> Iterator[list[ManifestLine]]:
    """Yield the missing lines of the parts, a page at a time."""
    for name in (DECIDED, COPIED):
        if not (folder / name).exists():
            continue
        with FORMAT.open(folder / name) as part:
            for batch in FORMAT.batches(part, folder / name):
                missing = with_outcome(batch, Outcome.MISSING)
                if missing.num_rows:
                    yield lines_of(missing)


@dataclass
class _Strikes:
    """Counts per server the files in a row that it did not serve."""

    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def out(self, host: str) -> bool:
        with self.lock:
            return self.counts[host] >= _STRIKES

    def add(self, host: str, *, silent: bool) -> None:
        with self.lock:
            self.counts[host] = self.counts[host] + 1 if silent else 0


class _Told(Enum):
    """What a destination says of an object that it does not show."""

    ABSENT = "it has none"
    NOTHING = "it refuses to say"


class _Result(NamedTuple):
    """What came of one object: its line, and the error of the destination if there was one."""

    line: ManifestLine
    error: StorageError | None = None


class _Refetch:
    """One call of `refetch`."""

    def __init__(
        self,
        destination: Storage,
        find: Callable[[Sequence[ManifestLine]], Sequence[Elsewhere | str | None]],
        fetcher: Fetcher,
        writer: ManifestWriter,
        *,
        memory_mb: int,
        take_private: bool,
    ) -> None:
        self.counts = RefetchCounts()
        self._destination = destination
        self._find = find
        self._fetcher = fetcher
        self._writer = writer
        self._take_private = take_private
        self._budget = MemoryBudget(memory_mb * MIB, _THREADS)
        self._strikes = _Strikes()
        self._written = 0
        self._done: dict[str, ManifestLine] = {}
        self._storing: set[str] = set()
        self._lock = threading.Lock()

    def fetch(
        self, lines: list[ManifestLine], stop: threading.Event, on_progress: Callable[[RefetchCounts], None]
    ) -> None:
        """Deal with a page of lines, and write them. A permanent error leaves the rest of them."""
        found = list(zip(lines, self._find(lines), strict=True))
        with Pool(_THREADS, stop=stop, tick=lambda: on_progress(self.counts)) as pool:
            for start in range(0, len(found), _LINES_A_STEP):
                part = found[start : start + _LINES_A_STEP]
                self._done.clear()
                try:
                    results = pool.map(lambda each: self._try(*each, pool.halt), part)
                except BaseException:
                    # What is at the destination by now, or is on its way there, is to be on record.
                    with self._lock:
                        pool.halt.set()
                    self._await_stores()
                    raise
                for (_, where), result in zip(part, results, strict=True):
                    self._writer.write(result.line)
                    self._written += 1
                    self._count(result, tried=isinstance(where, Elsewhere))
                if self.counts.stopped is not None:
                    return

    def write_rest(self, lines: list[ManifestLine]) -> None:
        """Write those of the page that have not been written: as they are, but for what an interrupt left done."""
        for line in lines[self._written :]:
            self._writer.write(self._done.get(line.key, line))
        self._written = 0
        self._done.clear()

    def _await_stores(self) -> None:
        deadline = time.monotonic() + _ANSWER_SECONDS
        while self._storing and time.monotonic() < deadline:
            time.sleep(0.05)

    def _count(self, result: _Result, *, tried: bool) -> None:
        counts, line = self.counts, result.line
        permanent = result.error if result.error is not None and result.error.permanent else None
        self.counts = replace(
            counts,
            refetched=counts.refetched + line.refetched,
            bytes=counts.bytes + (line.size or 0 if line.refetched else 0),
            refused=counts.refused + (tried and line.outcome is Outcome.MISSING),
            stopped=counts.stopped or permanent,
        )

    def _try(self, line: ManifestLine, where: Elsewhere | str | None, halt: threading.Event) -> _Result:
        if not isinstance(where, Elsewhere):
            return _Result(line if where is None else _not_fetched(line, where))
        if where.private:
            line = line._replace(private=True)
        if line.private and not self._take_private:
            return _Result(_not_fetched(line, NO_ACLS))
        host = host_of(where.url)
        if self._strikes.out(host):
            return _Result(_not_fetched(line, SILENT_BEFORE))
        try:
            return _Result(self._fetch_and_store(line, where, host, halt))
        except FetchError as error:
            return _Result(_not_fetched(line, str(error)))
        except StorageError as error:
            return _Result(_not_fetched(line, str(error)), error)

    def _fetch_and_store(self, line: ManifestLine, where: Elsewhere, host: str, halt: threading.Event) -> ManifestLine:
        key = line.key.removeprefix(self._destination.settings.prefix)
        there = self._there(key, halt)
        if isinstance(there, int):
            # Written since the plan was made, by Mastodon itself after the switch: not to be overwritten.
            return line._replace(outcome=Outcome.PRESENT, detail=ONLY_AT_DESTINATION, size=there)
        # Before the connection is made, since no server waits for memory; what a type may weigh at the most.
        most = max(where.accepted.values(), default=0)
        with self._budget.hold(0 if most <= self._budget.share else most, halt):
            if halt.is_set():
                raise FetchError(STOPPED)
            try:
                fetched = self._fetcher.fetch(where.url, where.accepted, halt)
            except FetchError as error:
                self._strikes.add(host, silent=error.silent)
                raise
            self._strikes.add(host, silent=False)
            # Servers may take a minute, and Mastodon may have fetched it itself meanwhile.
            there = self._there(key, halt)
            if isinstance(there, int):
                return line._replace(outcome=Outcome.PRESENT, detail=ONLY_AT_DESTINATION, size=there)
            with self._lock:
                if halt.is_set():
                    raise FetchError(STOPPED)
                self._storing.add(key)
            try:
                digest = self._store(line, key, fetched, where.attributes, halt, sure=there is _Told.ABSENT)
                if digest is None:
                    return line._replace(outcome=Outcome.PRESENT, detail=ONLY_AT_DESTINATION)
                done = line._replace(
                    outcome=Outcome.COPIED, detail=FETCHED, size=len(fetched.body), etag=digest, refetched=True
                )
                self._done[line.key] = done
            finally:
                with self._lock:
                    self._storing.discard(key)
        return done

    def _there(self, key: str, halt: threading.Event) -> int | _Told:
        """Return the size of what the destination has under a key; if it has nothing, whether it says so."""
        try:
            found = self._destination.head(key, halt)
        except StorageError as error:
            if error.reason is Reason.ACCESS_DENIED:  # so S3 says "absent" without the right to list
                return _Told.NOTHING
            raise
        return _Told.ABSENT if found is None else found.size

    def _store(
        self,
        line: ManifestLine,
        key: str,
        fetched: Fetched,
        attributes: Mapping[str, str],
        halt: threading.Event,
        *,
        sure: bool,
    ) -> str | None:
        """Write a file, and make sure that it is there.

        Args:
            line: Its line.
            key: Where it goes, relative to the key prefix.
            fetched: The file.
            attributes: Header fields, beside Content-Type.
            halt: Set, no further attempt is made.
            sure: The destination has said that it has no such object. False: it is asked to take none over another one.

        Returns:
            The MD5 of its body in hex; None: there is such an object, and it was not overwritten.
        """
        destination, full, body = self._destination, line.key, fetched.body
        digest = hashlib.md5(body, usedforsecurity=False)
        attributes_of = Attributes({**attributes, "Content-Type": fetched.content_type}, {})
        headers = destination.write_headers(attributes_of, private=line.private)
        if not sure:
            headers["If-None-Match"] = "*"
        try:
            reply = destination.ask(lambda client: client.put(full, body, headers, digest.digest()), key, halt)
        except StorageError as error:
            if isinstance(error.__cause__, S3Error) and error.__cause__.status in _THERE_IS_ONE:
                return None
            raise
        if bare(reply.headers.get("etag")) != digest.hexdigest():
            self._question(key, len(body), digest.hexdigest())
        return digest.hexdigest()

    def _question(self, key: str, size: int, digest: str) -> None:
        """Look at an object that was written, where the reply does not prove it.

        Raises:
            StorageError: The destination has something else.
        """
        destination = self._destination
        found = destination.head(key)
        etag = None if found is None else bare(found.etag)
        differs = is_md5(etag) and etag != digest and destination.etag_is_md5(key)
        if found is None or found.size != size or differs:
            raise StorageError(
                f"the {destination.settings.name} does not keep what was sent",
                reason=Reason.CHECKSUM_MISMATCH if differs else Reason.SIZE_MISMATCH,
                retryable=True,
                key=key,
            )


def _not_fetched(line: ManifestLine, why: str) -> ManifestLine:
    return line._replace(detail=NOT_FETCHED + why)
