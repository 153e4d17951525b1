"""Copies one planned object, whatever happens, and returns its manifest line."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastosync_dagster.copy.endpoint import EndpointError
from mastosync_dagster.copy.integrity import Planned, etag_is_md5, head_object, is_beginning
from mastosync_dagster.copy.server_side import RefusedError
from mastosync_dagster.copy.single import OlderError
from mastosync_dagster.mastodon.keys import may_change
from mastosync_dagster.records.manifest import ManifestLine, line_of
from mastosync_dagster.records.outcomes import HARMLESS, ONLY_AT_DESTINATION, SOURCE_SILENT, WRITTEN_THERE, Outcome
from mastosync_dagster.s3.client import S3Error
from mastosync_dagster.s3.errors import Aside, is_not_found
from mastosync_dagster.s3.etags import bare, is_md5
from mastosync_dagster.s3.http import TransportError
from mastosync_dagster.s3.listing import NotXmlError
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from mastosync_dagster.copy.endpoint import Endpoint
    from mastosync_dagster.copy.integrity import Unchanged
    from mastosync_dagster.copy.multipart import LargeObjects
    from mastosync_dagster.copy.server_side import ServerSideCopies
    from mastosync_dagster.copy.single import Copied, SingleObjects
    from mastosync_dagster.records.plan import PlannedCopy
    from mastosync_dagster.s3.errors import StorageError
    from mastosync_dagster.s3.storage import ListedObject

    _Way = Callable[[PlannedCopy, str, str], Coroutine[Any, Any, Copied]]

GONE = "deleted between plan and copy"
FLICKERS = "the source does not have the object when it is read, and shows it when it is asked for"
WRITTEN_MEANWHILE = "one of the storages has another object than when the copy was planned; nothing was overwritten"

_PAUSES = (1.0, 4.0)
"""Seconds before an object that the source denies and shows is read again."""


class WrittenMeanwhileError(Aside):
    """The destination has got an object between two attempts to write another one."""


@dataclass(eq=False, kw_only=True)
class ObjectCopier:
    """Copies planned objects.

    Attributes:
        on_server: Has the server copy, where both storages are one server; None: they are two.
        end_run: Called with an error that concerns more than one object.
    """

    source: Endpoint
    destination: Endpoint
    single: SingleObjects
    large: LargeObjects
    on_server: ServerSideCopies | None
    end_run: Callable[[StorageError], None]

    def __post_init__(self) -> None:
        self._source_prefix = self.source.storage.settings.prefix
        self._destination_prefix = self.destination.storage.settings.prefix

    async def copy(self, line: PlannedCopy) -> ManifestLine:
        """Copy an object that is expected to fit in memory.

        Raises:
            TooLargeError: It does not fit; nothing was written.
        """
        return await self._changed_since(line) or await self._first_found(line, self._copy_single)

    async def copy_large(self, line: PlannedCopy) -> ManifestLine:
        """Copy an object of any size."""
        return await self._changed_since(line) or await self._first_found(line, self._copy_large)

    async def size_at_source(self, line: PlannedCopy) -> int:
        """Return how many bytes an object has; 0: it is not found, or not shown, as the copy will find out."""
        if line.size is not None:
            return line.size
        for key in (line.source_key, *line.candidates):
            async with self.source as source:
                with contextlib.suppress(EndpointError):
                    found = await source.ask(key, head_object, source, key)
                    if found is not None:
                        return found.size
        return 0

    async def _copy_on_server(self, line: PlannedCopy, source_key: str, key: str) -> Copied | None:
        """Have the server copy an object; None: it does not."""
        if self.on_server is None:
            return None
        if line.written_after is not None:
            # Without the body its age is not known either. If the HEAD fails, the copy will show why.
            async with self.source as source:
                with contextlib.suppress(EndpointError):
                    found = await source.ask(source_key, head_object, source, source_key)
                    if found is not None and found.modified is not None and found.modified <= line.written_after:
                        raise OlderError(found.size, found.etag)
        with contextlib.suppress(RefusedError):
            return await self.on_server.copy(source_key, key, line.size, line.etag, private=line.private)
        return None

    async def _copy_single(self, line: PlannedCopy, source_key: str, key: str) -> Copied:
        return await self._copy_on_server(line, source_key, key) or await self.single.copy(
            source_key,
            key,
            Planned(line.size, bare(line.etag)),
            private=line.private,
            written_after=line.written_after,
            content_type=line.content_type,
            unchanged=self._unchanged(line, source_key, key),
        )

    async def _copy_large(self, line: PlannedCopy, source_key: str, key: str) -> Copied:
        return await self._copy_on_server(line, source_key, key) or await self.large.copy(
            source_key,
            key,
            Planned(line.size, bare(line.etag)),
            private=line.private,
            content_type=line.content_type,
            unchanged=self._unchanged(line, source_key, key),
        )

    def _unchanged(self, line: PlannedCopy, source_key: str, key: str) -> Unchanged | None:
        """Return what asks the destination again where writing an object takes long: by then it may have another.

        None: under this key there is one content, and nothing is overwritten.
        """
        if line.there_size is None and not may_change(key):
            return None

        async def ask(size: int) -> None:
            try:
                found = await head_object(self.destination, key)
            except (S3Error, TransportError):
                return  # writing it will show what is wrong
            except NotXmlError as problem:
                # Something is there, and nobody knows whether it is what it was.
                error = self.destination.storage.error(problem, key)
                raise EndpointError(self.destination, error) from problem
            # Of the planned size it may be what an attempt has written whose answer was lost.
            if found is None or found.size in {size, line.there_size}:
                return
            if found.size > size or not await is_beginning(self.source, source_key, found):
                raise WrittenMeanwhileError

        return ask

    async def _first_found(self, line: PlannedCopy, copy: _Way) -> ManifestLine:
        """Try the keys of an object in order.

        What the source denies is asked for once more, by HEAD: "missing" is final, and nothing comes back to it. What
        it has shown to the plan is retried after a pause.
        """
        found_before = line.size is not None
        for pause in (*_PAUSES, None):
            line_or_refusal = await self._try_keys(line, copy)
            if isinstance(line_or_refusal, ManifestLine):
                return line_or_refusal
            try:
                async with self.source:
                    shown = line_or_refusal is None and await self._source_has(line)
                if not shown and not found_before:
                    async with self.destination:
                        return await self._not_at_source(line, line_or_refusal)
            except EndpointError as problem:
                return self._given_up(line, line.source_key, line.key, problem)
            found_before = found_before and shown
            if pause is None:
                break
            await self.source.loop.sleep(pause)
        return self._failed(line, line.source_key, line.key, Reason.CHANGED_DURING_COPY, FLICKERS)

    async def _changed_since(self, line: PlannedCopy) -> ManifestLine | None:
        """Ask once more before an object is overwritten: that was decided by what both storages had then.

        Returns:
            The line of an object that is not to be copied; None: nothing is to be overwritten, or both storages have
            what they had.
        """
        if line.there_size is None:
            return await self._written_since(line) if may_change(line.key) else None
        for endpoint, key, size, etag in (
            (self.source, line.source_key, line.size, line.etag),
            (self.destination, line.key, line.there_size, line.there_etag),
        ):
            try:
                async with endpoint:
                    found = await endpoint.ask(key, head_object, endpoint, key)
            except EndpointError as problem:
                if problem.error.reason is Reason.ACCESS_DENIED:  # listed, and not to be asked for: the listing counts
                    continue
                return self._given_up(line, line.source_key, line.key, problem)
            if found is None or (found.size == size and _may_be(found.etag, bare(etag))):
                continue
            if endpoint is self.destination and _has_source_bytes(found, line):
                # The listing that decided was wrong, or another run has written the object, and may have planned it
                # public: what is private is written again, with its ACL.
                return None if line.private else self._present(line, found, None)
            return self._failed(line, line.source_key, line.key, Reason.CHANGED_DURING_COPY, WRITTEN_MEANWHILE)
        return None

    async def _written_since(self, line: PlannedCopy) -> ManifestLine | None:
        """Ask the destination for an object that it lacked, and whose content may be another one by now.

        Another run may have copied it since, and Mastodon have written the next one there.

        Returns:
            The line of what the destination has; None: it has nothing.
        """
        try:
            async with self.destination as destination:
                found = await destination.ask(line.key, head_object, destination, line.key)
        except EndpointError as problem:
            if problem.error.reason is Reason.ACCESS_DENIED:  # so S3 says "absent" without the right to list
                return None
            return self._given_up(line, line.source_key, line.key, problem)
        if found is None:
            return None
        if await self._may_be_equal(found, line):
            # The other run may have planned it public: what is private is written again, with its ACL.
            return None if line.private else self._present(line, found, None)
        if line.size is not None and found.size < line.size:
            async with self.source as source:
                if await is_beginning(source, line.source_key, found):
                    return None  # the other run was ended while it wrote
        # What the next plan knows of both decides.
        return self._failed(line, line.source_key, line.key, Reason.CHANGED_DURING_COPY, WRITTEN_MEANWHILE)

    async def _may_be_equal(self, found: ListedObject, line: PlannedCopy) -> bool:
        """Return whether the destination's object has the planned size, and no two MD5s say that it is another one."""
        planned = bare(line.etag)
        if found.size != line.size:
            return False
        if found.etag == planned or not (is_md5(found.etag) and is_md5(planned)):
            return True
        try:
            for endpoint, key in ((self.destination, line.key), (self.source, line.source_key)):
                async with endpoint:
                    if not await endpoint.ask(key, etag_is_md5, endpoint, key):
                        return True
        except EndpointError:
            pass  # without an answer the ETags count
        return False

    async def _source_has(self, line: PlannedCopy) -> bool:
        """Ask whether the source has an object under any of its keys; an `EndpointError` where it does not say."""
        for key in (line.source_key, *line.candidates):
            try:
                if await self.source.ask(key, head_object, self.source, key) is not None:
                    return True
            except EndpointError as problem:
                if problem.error.reason is not Reason.ACCESS_DENIED:  # so S3 says "absent" without the right to list
                    raise
        return False

    async def _try_keys(self, line: PlannedCopy, copy: _Way) -> ManifestLine | StorageError | None:
        """Try the keys of an object in order.

        Returns:
            Its line; else, where none of the keys could be read, the last refusal; None where all are absent.
        """
        refused: StorageError | None = None
        for source_key in (line.source_key, *line.candidates):
            key = source_key if line.keep_found_key and line.size is None else line.key
            try:
                copied = await copy(line, source_key, key)
            except EndpointError as problem:
                error = problem.error
                if problem.endpoint is self.source and is_not_found(error):
                    continue
                if problem.endpoint is self.source and line.size is None and error.reason is Reason.ACCESS_DENIED:
                    # Without the right to list, S3 answers so for absent objects too.
                    refused = error
                    continue
                return self._given_up(line, source_key, key, problem)
            except WrittenMeanwhileError:
                return self._failed(line, source_key, key, Reason.CHANGED_DURING_COPY, WRITTEN_MEANWHILE)
            except OlderError as older:
                there = await self._of_older(line, key, older)
                return there or await self._try_keys(line._replace(written_after=None), copy)
            full, source_full = self._destination_prefix + key, self._source_prefix + source_key
            return line_of(line, Outcome.COPIED, full, source_full, size=copied.size, etag=copied.md5)
        return refused

    async def _of_older(self, line: PlannedCopy, key: str, older: OlderError) -> ManifestLine | None:
        """Ask the destination for an object that was thought to be new, and is older at the source than that.

        It was copied before, or the row describes what Mastodon has written to the destination since.

        Returns:
            The line of what the destination has; None: it has nothing.
        """
        try:
            async with self.destination as destination:
                there = await destination.ask(key, head_object, destination, key)
        except EndpointError as problem:
            if problem.error.reason is Reason.ACCESS_DENIED:
                return None  # so S3 answers for absent objects too, without the right to list
            return self._given_up(line, line.source_key, key, problem)
        if there is None:
            return None
        same = there.size == older.size and _may_be(there.etag, older.etag)
        return self._present(line, there, None if same else WRITTEN_THERE)

    async def _not_at_source(self, line: PlannedCopy, refused: StorageError | None) -> ManifestLine:
        """Return the line of an object that the source does not have, or refuses."""
        if line.size is None:
            # The plan has not asked the destination. Once Mastodon writes to it, it has what the source never had.
            for key in (line.key, *line.candidates) if line.keep_found_key else (line.key,):
                try:
                    there = await self.destination.ask(key, head_object, self.destination, key)
                except EndpointError as problem:
                    if problem.error.reason is Reason.ACCESS_DENIED:
                        continue  # so S3 answers for absent objects too, without the right to list
                    return self._given_up(line, line.source_key, key, problem)
                if there is not None:
                    return self._present(line, there, SOURCE_SILENT if refused else ONLY_AT_DESTINATION)
        if refused is not None:
            return self._given_up(line, line.source_key, line.key, EndpointError(self.source, refused))
        return self._missing(line)

    def _given_up(self, line: PlannedCopy, source_key: str, key: str, problem: EndpointError) -> ManifestLine:
        """Return the line of an object that is not copied, and end the run if its failure asks for that."""
        end = problem.endpoint.breaker.trip_on(problem.error)
        if end is not None:
            self.end_run(end)
        return self._failed(line, source_key, key, problem.error.reason, str(problem.error))

    def _failed(self, line: PlannedCopy, source_key: str, key: str, reason: Reason, detail: str) -> ManifestLine:
        full, source_full = self._destination_prefix + key, self._source_prefix + source_key
        return line_of(line, Outcome.FAILED, full, source_full, reason=reason, detail=detail, size=line.size)

    def _present(self, line: PlannedCopy, there: ListedObject, detail: str | None) -> ManifestLine:
        return line_of(line, Outcome.PRESENT, self._destination_prefix + there.key, detail=detail, size=there.size)

    def _missing(self, line: PlannedCopy) -> ManifestLine:
        detail = GONE if line.size is not None else HARMLESS if line.may_be_absent else None
        return line_of(line, Outcome.MISSING, self._destination_prefix + line.key, detail=detail)


def _has_source_bytes(found: ListedObject, line: PlannedCopy) -> bool:
    """Return whether the destination's object has the source's bytes, by two MD5s."""
    return found.size == line.size and is_md5(found.etag) and found.etag == bare(line.etag)


def _may_be(etag: str | None, other: str | None) -> bool:
    """Return whether two ETags may be of one object: a server that gives none now and then says nothing."""
    return etag is None or other is None or etag == other
