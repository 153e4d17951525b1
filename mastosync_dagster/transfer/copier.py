"""Copies one planned object, whatever happens, and says what became of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mastosync_dagster.transfer.errors import StorageError
from mastosync_dagster.transfer.manifest import ManifestLine
from mastosync_dagster.transfer.outcomes import Outcome, Reason
from mastosync_dagster.transfer.planning import HARMLESS, ONLY_AT_DESTINATION, SOURCE_SILENT
from mastosync_dagster.transfer.sides import HaltedError, SideError
from mastosync_dagster.transfer.whole import TooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mastosync_dagster.transfer.parts import ObjectsInParts
    from mastosync_dagster.transfer.planfile import PlannedCopy
    from mastosync_dagster.transfer.sides import Side
    from mastosync_dagster.transfer.storage import ListedObject
    from mastosync_dagster.transfer.whole import Copied, WholeObjects
    from mastosync_dagster.transfer.workqueue import Lanes

GONE = "deleted between plan and copy"
STOPPED = "the run was stopped while it was being copied"


class Copier:
    """Copies planned objects. Thread-safe.

    Args:
        source: Where objects are read.
        destination: Where they go.
        whole: Copies those that fit in memory.
        parts: Copies the others.
        lanes: Tells odd keys.
        end_run: Told an error that concerns more than one object.
    """

    def __init__(
        self,
        source: Side,
        destination: Side,
        *,
        whole: WholeObjects,
        parts: ObjectsInParts,
        lanes: Lanes,
        end_run: Callable[[StorageError], None],
    ) -> None:
        self._source = source
        self._destination = destination
        self._whole = whole
        self._parts = parts
        self._lanes = lanes
        self._end_run = end_run
        self._source_prefix = source.storage.settings.prefix
        self._destination_prefix = destination.storage.settings.prefix

    def copy(self, line: PlannedCopy) -> ManifestLine:
        """Copy an object that is expected to fit in memory and to have a plain key.

        Raises:
            TooLargeError: It does not fit; nothing was written.
        """
        return self._first_found(line, self._copy_whole)

    def copy_special(self, line: PlannedCopy) -> ManifestLine:
        """Copy an object of any size and any key."""
        return self._first_found(line, self._copy_any)

    def _copy_whole(self, line: PlannedCopy, source_key: str, key: str) -> Copied:
        return self._whole.copy(source_key, key, line.size, private=line.private)

    def _copy_any(self, line: PlannedCopy, source_key: str, key: str) -> Copied:
        odd = self._lanes.is_odd(source_key) or self._lanes.is_odd(key)
        if odd and (line.size is None or line.size <= self._whole.limit):
            with contextlib.suppress(TooLargeError):
                return self._whole.copy(source_key, key, line.size, private=line.private, odd=True)
        return self._parts.copy(source_key, key, private=line.private)

    def _first_found(self, line: PlannedCopy, copy: Callable[[PlannedCopy, str, str], Copied]) -> ManifestLine:
        """Try the keys of an object in order."""
        refused: StorageError | None = None
        for source_key in (line.source_key, *line.candidates):
            key = source_key if line.keep_found_key and line.size is None else line.key
            try:
                copied = copy(line, source_key, key)
            except SideError as problem:
                error = problem.error
                if problem.side is self._source and _is_absent(error):
                    continue
                if problem.side is self._source and line.size is None and error.reason is Reason.ACCESS_DENIED:
                    # Without the right to list, S3 answers so for absent objects too.
                    refused = error
                    continue
                self._judge(problem)
                return self._failed(line, source_key, key, error.reason, str(error))
            except HaltedError:
                return self._failed(line, source_key, key, Reason.NOT_ATTEMPTED, STOPPED)
            return ManifestLine(
                line.group,
                line.row_id,
                line.part,
                self._destination_prefix + key,
                self._source_prefix + source_key,
                Outcome.COPIED,
                None,
                None,
                copied.size,
                copied.md5,
                line.private,
                line.remote,
            )
        return self._not_at_source(line, refused)

    def _not_at_source(self, line: PlannedCopy, refused: StorageError | None) -> ManifestLine:
        """Say what becomes of an object that the source does not have, or refuses."""
        if line.size is None:
            # Nobody has looked at the destination. Once Mastodon writes to it, it has what the source never had.
            for key in (line.key, *line.candidates) if line.keep_found_key else (line.key,):
                try:
                    there = self._destination.storage.head(key)
                except StorageError as error:
                    if error.reason is Reason.ACCESS_DENIED:
                        continue  # so S3 answers for absent objects too, without the right to list
                    self._judge(SideError(self._destination, error))
                    return self._failed(line, line.source_key, key, error.reason, str(error))
                if there is not None:
                    return self._present(line, there, SOURCE_SILENT if refused else ONLY_AT_DESTINATION)
        if refused is not None:
            self._judge(SideError(self._source, refused))
            return self._failed(line, line.source_key, line.key, refused.reason, str(refused))
        return self._missing(line)

    def _judge(self, problem: SideError) -> None:
        verdict = problem.side.verdict(problem.error)
        if verdict is not None:
            self._end_run(verdict)

    def _failed(self, line: PlannedCopy, source_key: str, key: str, reason: Reason, detail: str) -> ManifestLine:
        return failed(line, self._source_prefix + source_key, self._destination_prefix + key, reason, detail)

    def _present(self, line: PlannedCopy, there: ListedObject, detail: str) -> ManifestLine:
        return ManifestLine(
            line.group,
            line.row_id,
            line.part,
            self._destination_prefix + there.key,
            None,
            Outcome.PRESENT,
            None,
            detail,
            there.size,
            None,
            line.private,
            line.remote,
        )

    def _missing(self, line: PlannedCopy) -> ManifestLine:
        detail = GONE if line.size is not None else HARMLESS if line.may_be_absent else None
        return ManifestLine(
            line.group,
            line.row_id,
            line.part,
            self._destination_prefix + line.key,
            None,
            Outcome.MISSING,
            None,
            detail,
            None,
            None,
            line.private,
            line.remote,
        )


def failed(line: PlannedCopy, source_key: str, key: str, reason: Reason, detail: str) -> ManifestLine:
    """Return the manifest line of an object that was not copied, with its full keys."""
    return ManifestLine(
        line.group,
        line.row_id,
        line.part,
        key,
        source_key,
        Outcome.FAILED,
        reason,
        detail,
        line.size,
        None,
        line.private,
        line.remote,
    )


def _is_absent(error: StorageError) -> bool:
    """Tell whether a source said that it has no such object."""
    return error.reason is Reason.CHANGED_DURING_COPY and not error.retryable and not error.permanent
