"""Copies one planned object, whatever happens, and says what became of it."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from mastosync_dagster.transfer.decisions import Decision
from mastosync_dagster.transfer.errors import StorageError
from mastosync_dagster.transfer.manifest import ManifestLine, failed
from mastosync_dagster.transfer.onserver import RefusedError
from mastosync_dagster.transfer.outcomes import Outcome, Reason
from mastosync_dagster.transfer.planning import HARMLESS, ONLY_AT_DESTINATION, SOURCE_SILENT
from mastosync_dagster.transfer.pool import patiently
from mastosync_dagster.transfer.sides import HaltedError, SideError
from mastosync_dagster.transfer.verify import bare
from mastosync_dagster.transfer.whole import OlderError, TooLargeError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from mastosync_dagster.transfer.onserver import CopiesOnServer
    from mastosync_dagster.transfer.parts import ObjectsInParts
    from mastosync_dagster.transfer.planfile import PlannedCopy
    from mastosync_dagster.transfer.sides import Side
    from mastosync_dagster.transfer.storage import ListedObject
    from mastosync_dagster.transfer.whole import Copied, WholeObjects
    from mastosync_dagster.transfer.workqueue import Lanes

GONE = "deleted between plan and copy"
FLICKERS = "the source does not have the object when it is read, and shows it when it is asked for"
WRITTEN_MEANWHILE = "one side has another object than when the copy was planned; nothing was overwritten"
STOPPED = "the run was stopped while it was being copied"

_PAUSES = (1.0, 4.0)
"""Seconds before an object that the source denies and shows is read again."""


class Copier:
    """Copies planned objects. Thread-safe.

    Args:
        source: Where objects are read.
        destination: Where they go.
        whole: Copies those that fit in memory.
        parts: Copies the others.
        on_server: Has them copied by the server, where both sides are one; None: they are two.
        lanes: Tells odd keys.
        end_run: Told an error that concerns more than one object.
        halt: Set when the run is to end.
    """

    def __init__(
        self,
        source: Side,
        destination: Side,
        *,
        whole: WholeObjects,
        parts: ObjectsInParts,
        on_server: CopiesOnServer | None,
        lanes: Lanes,
        end_run: Callable[[StorageError], None],
        halt: threading.Event,
    ) -> None:
        self._source = source
        self._destination = destination
        self._whole = whole
        self._parts = parts
        self._on_server = on_server
        self._lanes = lanes
        self._end_run = end_run
        self._halt = halt
        self._source_prefix = source.storage.settings.prefix
        self._destination_prefix = destination.storage.settings.prefix

    def copy(self, line: PlannedCopy) -> ManifestLine:
        """Copy an object that is expected to fit in memory and to have a plain key.

        Raises:
            TooLargeError: It does not fit; nothing was written.
        """
        return self._changed_since(line) or self._first_found(line, self._copy_whole)

    def copy_special(self, line: PlannedCopy) -> ManifestLine:
        """Copy an object of any size and any key."""
        return self._changed_since(line) or self._first_found(line, self._copy_any)

    def _copy_on_server(self, line: PlannedCopy, source_key: str, key: str) -> Copied | None:
        """Have the server copy an object; None: it does not."""
        if self._on_server is None:
            return None
        if line.written_after is not None:
            # Here nobody reads it, so nobody sees how old it is. What cannot be asked for the copy will tell.
            with self._source, contextlib.suppress(StorageError):
                found = self._source.storage.dated(source_key)
                if found.modified is not None and found.modified <= line.written_after:
                    raise OlderError(found.size, bare(found.etag))
        with contextlib.suppress(RefusedError):
            return self._on_server.copy(source_key, key, line.size, line.etag, private=line.private)
        return None

    def _copy_whole(self, line: PlannedCopy, source_key: str, key: str) -> Copied:
        copied = self._copy_on_server(line, source_key, key)
        if copied is not None:
            return copied
        return self._whole.copy(source_key, key, line.size, private=line.private, written_after=line.written_after)

    def _copy_any(self, line: PlannedCopy, source_key: str, key: str) -> Copied:
        odd = self._lanes.is_odd(source_key) or self._lanes.is_odd(key)
        copied = None if odd else self._copy_on_server(line, source_key, key)
        if copied is not None:
            return copied
        if odd and (line.size is None or line.size <= self._whole.limit):
            with contextlib.suppress(TooLargeError):
                return self._whole.copy(
                    source_key, key, line.size, private=line.private, odd=True, written_after=line.written_after
                )
        return self._parts.copy(source_key, key, line.size, private=line.private)

    def _first_found(self, line: PlannedCopy, copy: Callable[[PlannedCopy, str, str], Copied]) -> ManifestLine:
        """Try the keys of an object in order.

        What the source denies is asked for once more, by HEAD: "missing" is final, and nobody comes back to it. What it
        has shown to the plan is tried once more after a pause.
        """
        seen = line.size is not None
        for pause in (*_PAUSES, None):
            line_or_refusal = self._try_keys(line, copy)
            if isinstance(line_or_refusal, ManifestLine):
                return line_or_refusal
            try:
                with self._source:
                    shown = line_or_refusal is None and self._shown(line)
                if not shown and not seen:
                    with self._destination:
                        return self._not_at_source(line, line_or_refusal)
            except StorageError as error:
                self._judge(SideError(self._source, error))
                return self._failed(line, line.source_key, line.key, error.reason, str(error))
            except HaltedError:
                return self._failed(line, line.source_key, line.key, Reason.NOT_ATTEMPTED, STOPPED)
            seen = seen and shown
            if pause is None:
                break
            if self._halt.wait(pause):
                return self._failed(line, line.source_key, line.key, Reason.NOT_ATTEMPTED, STOPPED)
        return self._failed(line, line.source_key, line.key, Reason.CHANGED_DURING_COPY, FLICKERS)

    def _changed_since(self, line: PlannedCopy) -> ManifestLine | None:
        """Look once more before an object is overwritten: it was decided by what both sides had then.

        Returns:
            The line of an object that is not to be copied; None: nothing was there to be overwritten, or both sides
            have what they had.
        """
        if line.there_size is None:
            return None
        for side, key, size, etag in (
            (self._source, line.source_key, line.size, line.etag),
            (self._destination, line.key, line.there_size, line.there_etag),
        ):
            storage = side.storage
            try:
                with side:
                    found = patiently(storage, key, partial(storage.head, key), self._halt)
            except HaltedError:
                return self._failed(line, line.source_key, line.key, Reason.NOT_ATTEMPTED, STOPPED)
            except StorageError as error:
                if error.reason is Reason.ACCESS_DENIED:  # listed, and not to be asked for: the listing counts
                    continue
                self._judge(SideError(side, error))
                return self._failed(line, line.source_key, line.key, error.reason, str(error))
            if found is not None and (found.size != size or not _may_be(bare(found.etag), bare(etag))):
                return self._failed(line, line.source_key, line.key, Reason.CHANGED_DURING_COPY, WRITTEN_MEANWHILE)
        return None

    def _shown(self, line: PlannedCopy) -> bool:
        """Ask the source whether it has an object, under any of its keys.

        Raises:
            StorageError: It does not say.
        """
        for key in (line.source_key, *line.candidates):
            try:
                if patiently(self._source.storage, key, partial(self._source.storage.head, key), self._halt):
                    return True
            except StorageError as error:  # noqa: PERF203  (once an absent object)
                if error.reason is not Reason.ACCESS_DENIED:  # so S3 says "absent" without the right to list
                    raise
        return False

    def _try_keys(
        self, line: PlannedCopy, copy: Callable[[PlannedCopy, str, str], Copied]
    ) -> ManifestLine | StorageError | None:
        """Try the keys of an object in order.

        Returns:
            Its line; else, where none of the keys could be read, the last refusal; None where all are absent.
        """
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
            except OlderError as older:
                return self._of_older(line, key, older) or self._try_keys(line._replace(written_after=None), copy)
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
        return refused

    def _of_older(self, line: PlannedCopy, key: str, older: OlderError) -> ManifestLine | None:
        """Ask the destination for an object that was thought to be new, and is older at the source than that.

        It was copied before, or the row speaks of what Mastodon has written at the destination since.

        Returns:
            The line of what the destination has; None: it has nothing.
        """
        try:
            with self._destination:
                there = patiently(
                    self._destination.storage, key, partial(self._destination.storage.head, key), self._halt
                )
        except StorageError as error:
            if error.reason is Reason.ACCESS_DENIED:  # so S3 answers for absent objects too, without the right to list
                return None
            self._judge(SideError(self._destination, error))
            return self._failed(line, line.source_key, key, error.reason, str(error))
        if there is None:
            return None
        same = there.size == older.size and _may_be(bare(there.etag), older.etag)
        return self._present(line, there, None if same else Decision.WRITTEN_THERE.words)

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

    def _present(self, line: PlannedCopy, there: ListedObject, detail: str | None) -> ManifestLine:
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


def _may_be(etag: str | None, other: str | None) -> bool:
    """Tell whether two ETags may be of one object: a server that gives none now and then says nothing."""
    return etag is None or other is None or etag == other


def _is_absent(error: StorageError) -> bool:
    """Tell whether a source said that it has no such object."""
    return error.reason is Reason.CHANGED_DURING_COPY and not error.retryable and not error.permanent
