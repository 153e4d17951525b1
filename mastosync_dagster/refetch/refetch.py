"""Fetches missing objects from their original servers, stores them, and records the results.

Every missing line of a run's manifest parts gets exactly one line in `REFETCHED`, changed or unchanged.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.pool import Pool
from mastosync_dagster.records.manifest import FORMAT, ManifestLine, ManifestWriter, lines_of, with_outcome
from mastosync_dagster.records.outcomes import NO_ACLS, ONLY_AT_DESTINATION, Outcome
from mastosync_dagster.records.plan import COPIED, DECIDED, REFETCHED
from mastosync_dagster.refetch.fetch import STOPPED, Fetched, Fetcher, FetchError, FetchSettings, host_of
from mastosync_dagster.refetch.memory_budget import MemoryBudget
from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.etags import bare, is_md5
from mastosync_dagster.s3.headers import Attributes
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mastosync_dagster.s3.storage import Storage

FETCHED = "fetched from its server"
NOT_FETCHED = "not fetched from its server: "
SILENT_BEFORE = "it did not serve several files before this one"

_THREADS = 8
_THERE_IS_ONE = frozenset({409, 412})
"""How storages answer If-None-Match where the object exists: Amazon uses both."""
_LINES_A_STEP = 64
_ANSWER_SECONDS = 30.0
_MOST_FAILURES = 3
"""After so many failures in a row, a server gets no further requests."""


class RemoteFile(NamedTuple):
    """Where a missing object can be fetched.

    Attributes:
        accepted: Content types it may have, each with the number of bytes that it must stay below.
        attributes: Header fields to store it with, besides Content-Type.
        private: Not everybody may read it, also if its manifest line has it as public.
    """

    url: str
    accepted: Mapping[str, int]
    attributes: Mapping[str, str]
    private: bool = False


@dataclass(frozen=True)
class RefetchCounts:
    """The result of fetching missing objects.

    Attributes:
        refetched: Objects that are at the destination now.
        bytes: Their sizes, summed.
        refused: Objects that had a URL, and were not fetched.
        stopped: The permanent error of the destination that ended it early; None: it is complete.
    """

    refetched: int = 0
    bytes: int = 0
    refused: int = 0
    seconds: float = 0.0
    stopped: StorageError | None = None


def refetch(
    folder: Path,
    destination: Storage,
    find: Callable[[Sequence[ManifestLine]], Sequence[RemoteFile | str | None]],
    settings: FetchSettings,
    *,
    memory_mb: int,
    copy_private: bool,
    on_progress: Callable[[RefetchCounts], None],
) -> RefetchCounts:
    """Fetch what plan and copy found missing, and write `REFETCHED` into the run's folder.

    ``find`` returns for each missing line where its object can be fetched, or a text why not, or None: not remote. An
    object that cannot be fetched stays missing, and its line says why. A page of lines is in memory at a time, and
    ``memory_mb`` megabytes (2^20) of bodies. ``on_progress`` is called in this thread about twice a second.

    Raises:
        OSError: The folder is not readable or writable.
        BaseException: Whatever interrupts the calling thread, or ``find`` raises. The result is written all the same.
    """
    started = time.monotonic()
    with ManifestWriter(folder / REFETCHED) as writer:
        budget = MemoryBudget(memory_mb * MIB, _THREADS)
        work = _Refetch(destination, find, Fetcher(settings), writer, budget, copy_private)
        interrupt: BaseException | None = None
        for lines in _missing(folder):
            if interrupt is None and work.counts.stopped is None:
                try:
                    work.fetch(lines, on_progress)
                except BaseException as error:  # noqa: BLE001  (raised again when the rest is on record)
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
class _Failures:
    """Counts the failures in a row of each server."""

    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def too_many(self, host: str) -> bool:
        with self.lock:
            return self.counts[host] >= _MOST_FAILURES

    def add(self, host: str, *, failed: bool) -> None:
        with self.lock:
            self.counts[host] = self.counts[host] + 1 if failed else 0


class _Result(NamedTuple):
    """The result of one object: its line, and the error of the destination if there was one."""

    line: ManifestLine
    error: StorageError | None = None


@dataclass
class _Refetch:
    """One call of `refetch`."""

    destination: Storage
    find: Callable[[Sequence[ManifestLine]], Sequence[RemoteFile | str | None]]
    fetcher: Fetcher
    writer: ManifestWriter
    budget: MemoryBudget
    copy_private: bool
    counts: RefetchCounts = field(default_factory=RefetchCounts)
    _failures: _Failures = field(default_factory=_Failures)
    _written: int = 0
    _done: dict[str, ManifestLine] = field(default_factory=dict)
    _storing: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fetch(self, lines: list[ManifestLine], on_progress: Callable[[RefetchCounts], None]) -> None:
        """Fetch the objects of a page of lines, and write these. A permanent error leaves the rest of them."""
        found = list(zip(lines, self.find(lines), strict=True))
        with Pool(_THREADS, tick=lambda: on_progress(self.counts)) as pool:
            for start in range(0, len(found), _LINES_A_STEP):
                part = found[start : start + _LINES_A_STEP]
                self._done.clear()
                try:
                    results = pool.map(lambda each: self._try(*each, pool.halt), part)
                except BaseException:
                    # Objects that were stored, or are being stored, must be on record.
                    with self._lock:
                        pool.halt.set()
                    self._await_stores()
                    raise
                for (_, where), result in zip(part, results, strict=True):
                    self.writer.write(result.line)
                    self._written += 1
                    self._count(result, tried=isinstance(where, RemoteFile))
                if self.counts.stopped is not None:
                    return

    def write_rest(self, lines: list[ManifestLine]) -> None:
        """Write the lines of the page that are left: unchanged, except those stored before an interrupt."""
        for line in lines[self._written :]:
            self.writer.write(self._done.get(line.key, line))
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

    def _try(self, line: ManifestLine, where: RemoteFile | str | None, halt: threading.Event) -> _Result:
        if not isinstance(where, RemoteFile):
            return _Result(line if where is None else _not_fetched(line, where))
        if where.private:
            line = line._replace(private=True)
        if line.private and not self.copy_private:
            return _Result(_not_fetched(line, NO_ACLS))
        host = host_of(where.url)
        if self._failures.too_many(host):
            return _Result(_not_fetched(line, SILENT_BEFORE))
        try:
            return _Result(self._fetch_and_store(line, where, host, halt))
        except FetchError as error:
            return _Result(_not_fetched(line, str(error)))
        except StorageError as error:
            return _Result(_not_fetched(line, str(error)), error)

    def _fetch_and_store(self, line: ManifestLine, where: RemoteFile, host: str, halt: threading.Event) -> ManifestLine:
        key = line.key.removeprefix(self.destination.settings.prefix)
        size, _ = self._at_destination(key, halt)
        if size is not None:
            # Written since the plan was made, for example by Mastodon after the switch: not to be overwritten.
            return line._replace(outcome=Outcome.PRESENT, detail=ONLY_AT_DESTINATION, size=size)
        # Memory is taken before the connection, since no server waits for it: as much as any accepted type may have.
        most = max(where.accepted.values(), default=0)
        with self.budget.hold(0 if most <= self.budget.share else most, halt):
            if halt.is_set():
                raise FetchError(STOPPED)
            try:
                fetched = self.fetcher.fetch(where.url, where.accepted, halt)
            except FetchError as error:
                self._failures.add(host, failed=error.silent)
                raise
            self._failures.add(host, failed=False)
            # A fetch may take a minute, and Mastodon may have fetched the file itself meanwhile.
            size, certain = self._at_destination(key, halt)
            if size is not None:
                return line._replace(outcome=Outcome.PRESENT, detail=ONLY_AT_DESTINATION, size=size)
            with self._lock:
                if halt.is_set():
                    raise FetchError(STOPPED)
                self._storing.add(key)
            try:
                digest = self._store(line, key, fetched, where.attributes, halt, certain=certain)
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

    def _at_destination(self, key: str, halt: threading.Event) -> tuple[int | None, bool]:
        """Return the size of the destination's object, None for none, and whether that is certain."""
        try:
            found = self.destination.head(key, halt)
        except StorageError as error:
            if error.reason is Reason.ACCESS_DENIED:  # S3's answer for absent objects without the right to list
                return None, False
            raise
        return None if found is None else found.size, True

    def _store(
        self,
        line: ManifestLine,
        key: str,
        fetched: Fetched,
        attributes: Mapping[str, str],
        halt: threading.Event,
        *,
        certain: bool,
    ) -> str | None:
        """Store a file under a relative key and verify it; return its MD5 in hex.

        None: an object exists and was not overwritten. If it is not ``certain`` that there is none, the request forbids
        to overwrite one.
        """
        destination, full, body = self.destination, line.key, fetched.body
        digest = hashlib.md5(body, usedforsecurity=False)
        attributes_of = Attributes({**attributes, "Content-Type": fetched.content_type}, {})
        headers = destination.write_headers(attributes_of, private=line.private)
        if not certain:
            headers["If-None-Match"] = "*"
        try:
            reply = destination.ask(lambda client: client.put(full, body, headers, digest.digest()), key, halt)
        except StorageError as error:
            if isinstance(error.__cause__, S3Error) and error.__cause__.status in _THERE_IS_ONE:
                return None
            raise
        if bare(reply.headers.get("etag")) != digest.hexdigest():
            self._verify(key, len(body), digest.hexdigest())
        return digest.hexdigest()

    def _verify(self, key: str, size: int, digest: str) -> None:
        """Verify a stored object by HEAD, where the reply does not prove it. `StorageError` if it differs."""
        destination = self.destination
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
