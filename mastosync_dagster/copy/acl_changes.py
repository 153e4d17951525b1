"""Sets the ACL of objects that are at the destination already, and records the outcome of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastosync_dagster.copy.results import NOT_BEGUN
from mastosync_dagster.pool import Pool
from mastosync_dagster.records.manifest import ManifestLine, ManifestWriter, line_of
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.plan import ACLS_SET, TO_SET_ACLS, read_plan
from mastosync_dagster.s3.acl import set_acl
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from mastosync_dagster.records.plan import PlannedCopy
    from mastosync_dagster.s3.storage import Storage

_THREADS = 64
_LINES_PER_STEP = 256

MADE_PRIVATE = "made private"
MADE_PUBLIC = "given the permission of public objects"


@dataclass(frozen=True)
class AclCounts:
    """The result of setting ACLs.

    Attributes:
        changed: Objects whose ACL was set.
        failed: Objects whose ACL was not, those not attempted included.
        stopped: The error that ended it early; None: it went through.
    """

    changed: int = 0
    failed: int = 0
    stopped: StorageError | None = None


def set_acls(
    folder: Path,
    source_prefix: str,
    destination: Storage,
    *,
    refused: StorageError | None = None,
    on_line: Callable[[ManifestLine], None] | None = None,
) -> AclCounts:
    """Set the ACLs that a plan asks for: ``to_set_acls.arrow`` to ``acls_set.parquet`` (see `records.plan`).

    Every line of the plan gets exactly one line there, also when it is stopped or fails.

    Args:
        folder: Holds the plan, gets the result.
        source_prefix: The source's key prefix.
        destination: Where the objects are.
        refused: Why no ACL may be set at all; None: it may.
        on_line: Gets the line of each object that was settled.

    Raises:
        OSError: The folder is not readable or writable.
        BaseException: Whatever interrupts the calling thread.
    """
    with ManifestWriter(folder / ACLS_SET) as writer:
        setter = _AclSetter(source_prefix, destination, writer, on_line)
        setter.stopped = refused
        interrupt: BaseException | None = None
        for lines in read_plan(folder, TO_SET_ACLS):
            if interrupt is None and setter.stopped is None:
                try:
                    setter.set_acls(lines)
                except BaseException as error:  # noqa: BLE001  (raised again when the rest is written)
                    interrupt = error
            setter.write_rest(lines, refused)
    if interrupt is not None:
        raise interrupt
    return AclCounts(setter.changed, setter.failed, setter.stopped)


class _AclSetter:
    """Sets ACLs, and writes each object's line once."""

    def __init__(
        self,
        source_prefix: str,
        destination: Storage,
        writer: ManifestWriter,
        on_line: Callable[[ManifestLine], None] | None,
    ) -> None:
        self.changed = self.failed = 0
        self.stopped: StorageError | None = None
        self._source_prefix = source_prefix
        self._destination = destination
        self._writer = writer
        self._on_line = on_line
        self._written = 0

    def set_acls(self, lines: list[PlannedCopy]) -> None:
        """Set the ACLs of some objects, and write their lines. A permanent error leaves the rest of them."""
        with Pool(_THREADS) as pool:
            for start in range(0, len(lines), _LINES_PER_STEP):
                part = lines[start : start + _LINES_PER_STEP]
                for line, result in zip(part, pool.map(lambda line: self._try(line, pool.halt), part), strict=True):
                    self._write(line, result)
                    self._written += 1
                if self.stopped is not None:
                    return

    def write_rest(self, lines: list[PlannedCopy], refused: StorageError | None) -> None:
        """Write the lines of objects that were not attempted."""
        reason, detail = (refused.reason, str(refused)) if refused else (Reason.NOT_ATTEMPTED, NOT_BEGUN)
        for line in lines[self._written :]:
            self.failed += 1
            self._writer.write(self._line(line, Outcome.FAILED, reason, detail))
        self._written = 0

    def _try(self, line: PlannedCopy, halt: threading.Event) -> StorageError | bool:
        """Return whether the ACL had to be set, or why it could not be."""
        try:
            return set_acl(self._destination, line.key, private=line.private, halt=halt)
        except StorageError as error:
            return error

    def _write(self, line: PlannedCopy, result: StorageError | bool) -> None:  # noqa: FBT001  (what `_try` returns)
        if isinstance(result, StorageError):
            self.failed += 1
            if result.permanent:
                self.stopped = self.stopped or result
            self._writer.write(self._line(line, Outcome.FAILED, result.reason, str(result)))
            return
        self.changed += result
        self.failed += line.undecided
        if line.undecided:
            done = self._line(line, Outcome.FAILED, Reason.SIDES_DIFFER, line.detail)
        else:
            detail = (MADE_PRIVATE if line.private else MADE_PUBLIC) if result else line.detail
            done = self._line(line, Outcome.PRESENT, None, detail)
        self._writer.write(done)
        if self._on_line is not None:
            self._on_line(done)

    def _line(self, line: PlannedCopy, outcome: Outcome, reason: Reason | None, detail: str | None) -> ManifestLine:
        source_key = self._source_prefix + line.source_key if line.source_key else None
        key = self._destination.full_key(line.key)
        return line_of(line, outcome, key, source_key, reason=reason, detail=detail, size=line.size, etag=line.etag)
