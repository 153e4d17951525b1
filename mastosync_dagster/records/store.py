"""Stores manifests in a folder or a private bucket: ``<group>/<partition>/<run_id>.parquet``."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.errors import AdminError
from mastosync_dagster.pool import Pool
from mastosync_dagster.records.manifest import ManifestLine, read_manifest
from mastosync_dagster.records.parquet import begun_at
from mastosync_dagster.s3.errors import StorageError, is_not_found
from mastosync_dagster.s3.http import FileSink, FileSource
from mastosync_dagster.s3.listing import KeyRange
from mastosync_dagster.s3.retry_policies import CHECK
from mastosync_dagster.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from mastosync_dagster.s3.storage import Storage

_VARIABLE = "MASTOSYNC_MANIFESTS"
_SUFFIX = ".parquet"
_PROBE = "mastosync-check/written"
"""One name, and no new one each time: where nothing may be deleted, one file stays."""
_LEVELS = 3  # group, partition, run
_AT_ONCE = 8
"""Manifests that are fetched at once."""
_NAME = re.compile(r"[\w.:+-]+", re.ASCII)


class ManifestStoreError(AdminError):
    """Manifests cannot be written or read; the message names what to change."""


class ManifestNotFoundError(ManifestStoreError):
    """A file is not there any more: another run has replaced it."""


@dataclass(frozen=True, slots=True, order=True)
class StoredManifest:
    """A manifest in the store, ``written`` in UTC. Sorts by group, partition and time.

    ``group`` is the asset, or the job where a run is about several.
    """

    group: str
    partition: str
    written: datetime
    run_id: str

    @property
    def name(self) -> str:
        """Its path in the store."""
        return f"{self.group}/{self.partition}/{self.run_id}{_SUFFIX}"


FileOf = Callable[[StoredManifest], contextlib.AbstractContextManager[Path]]
"""Gives manifests as `ManifestStore.file` does."""


class ManifestStore(ABC):
    """Stores manifests, findings and doubt lists. Files appear whole or not at all, and are never changed in place."""

    def write(self, file: Path, group: str, partition: str, run_id: str) -> str:
        """Publish a copy of a finished local file, and return where it is, for people. A run's later file replaces it.

        Raises:
            ManifestStoreError: Full, not writable, or a name that is no name.
            StorageError: The bucket refuses.
        """
        for part in (group, partition, run_id):
            if not _is_name(part):
                raise ManifestStoreError(f"not a name for a manifest: {part!r}")
        return self._write(file, f"{group}/{partition}/{run_id}{_SUFFIX}")

    def by_partition(self, group: str) -> Iterator[list[StoredManifest]]:
        """Yield the manifests of each partition of a group, in the order of their names; in each, newest first.

        Raises:
            ManifestStoreError: They cannot be listed.
            StorageError: The bucket refuses.
        """
        by_partition: defaultdict[str, list[StoredManifest]] = defaultdict(list)
        for manifest in self._all(group):
            by_partition[manifest.partition].append(manifest)
        yield from (self.ordered(by_partition[partition])[::-1] for partition in sorted(by_partition))

    def in_order(self, group: str, partition: str | None = None) -> list[StoredManifest]:
        """Return all manifests of a group, or of one of its partitions, oldest first."""
        return self.ordered(self._all(group, partition))

    def ordered(self, manifests: Iterable[StoredManifest]) -> list[StoredManifest]:
        """Return manifests, of any groups, oldest first.

        S3 and some file systems give times in whole seconds. Where several have the same, the files themselves say
        which was written first.
        """
        found = sorted(manifests, key=_written)
        by_time = ([*same] for _, same in groupby(found, _written))
        return [each for same in by_time for each in (same if len(same) == 1 else sorted(same, key=self._begun))]

    def is_later(self, one: StoredManifest, other: StoredManifest) -> bool:
        """Return whether a manifest was written after another."""
        return self.ordered([one, other])[-1] is one

    def _begun(self, manifest: StoredManifest) -> tuple[str, StoredManifest]:
        return self.begun(manifest), manifest

    def begun(self, manifest: StoredManifest) -> str:
        """Return when a manifest was begun, as a text that sorts by time."""
        try:
            with self.file(manifest) as path:
                return begun_at(path)
        except ManifestNotFoundError:  # another file has replaced it meanwhile
            return ""

    def files(self, group: str, partition: str | None = None) -> Iterator[StoredManifest]:
        """Yield all files of a group, or of one of its partitions, in no order."""
        return self._all(group, partition)

    def runs(self, group: str) -> set[str]:
        """Return the runs that have a manifest in a group."""
        return {manifest.run_id for manifest in self._all(group)}

    def read(self, manifest: StoredManifest) -> Iterator[list[ManifestLine]]:
        """Read a manifest as `read_manifest` does."""
        with self.file(manifest) as file:
            yield from read_manifest(file)

    @abstractmethod
    def file(self, manifest: StoredManifest) -> contextlib.AbstractContextManager[Path]:
        """Give a manifest as a local file, while the block lasts.

        Raises:
            ManifestNotFoundError: Another file has replaced it.
        """

    @contextlib.contextmanager
    def ahead(self, manifests: Iterable[StoredManifest]) -> Iterator[FileOf]:  # noqa: ARG002  (a folder needs none)
        """Give what does for these manifests as `file` does, in their order, and fetches the next ones meanwhile."""
        yield self.file

    def move(self, manifest: StoredManifest, group: str) -> None:
        """Move a file to another group, where it keeps its name; nothing happens if it is not found. As `write`."""
        with contextlib.suppress(ManifestNotFoundError), self.file(manifest) as local:
            self.write(local, group, manifest.partition, manifest.run_id)
        self.remove(manifest)

    @abstractmethod
    def remove(self, manifest: StoredManifest) -> None:
        """Remove what another file has replaced. Nothing happens if it is not found.

        Raises:
            ManifestStoreError: Not writable.
            StorageError: The bucket refuses.
        """

    @abstractmethod
    def check(self, *, write: bool) -> str:
        """List the store, and ``write`` to it, as a run does; leave nothing there. Returns where it is, for people.

        Raises:
            ManifestStoreError: It cannot be listed or written to.
            StorageError: The bucket refuses.
        """

    def check_removal(self, group: str) -> None:  # noqa: B027  (a folder that can be written to needs no check)
        """Check that files of a group may be removed, without removing any. Raises as `remove`."""

    @abstractmethod
    def _write(self, file: Path, name: str) -> str: ...

    @abstractmethod
    def _all(self, group: str, partition: str | None = None) -> Iterator[StoredManifest]: ...


def _written(manifest: StoredManifest) -> datetime:
    return manifest.written


def _sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk, where its file system can: the manifest is there already."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _is_name(part: str) -> bool:
    return _NAME.fullmatch(part) is not None and part not in {".", ".."}


def _named(name: str, written: datetime) -> Iterator[StoredManifest]:
    """Yield the manifest of a name in the store; nothing for other files."""
    parts = name.split("/")
    run_id = parts[-1].removesuffix(_SUFFIX)
    if len(parts) == _LEVELS and parts[-1] != run_id and all(map(_is_name, [*parts[:2], run_id])):
        yield StoredManifest(parts[0], parts[1], written, run_id)


class FolderManifests(ManifestStore):
    """Manifests in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _write(self, file: Path, name: str) -> str:
        target = self._folder / name
        unfinished = target.with_name(f".{target.name}.unfinished")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(file, unfinished)
                # Else a power cut leaves an empty file under the final name.
                with unfinished.open("rb+") as written:
                    os.fsync(written.fileno())
                unfinished.replace(target)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        for folder in (target.parent, target.parent.parent, self._folder):
            _sync_folder(folder)
        return str(target)

    def check(self, *, write: bool) -> str:
        """List the folder and write to it; one that is not there yet is made by the first run."""
        try:
            there = next(folder for folder in (self._folder, *self._folder.parents) if folder.exists())
            next(there.iterdir(), None)
            if not write:
                return str(self._folder)
            with tempfile.TemporaryFile(dir=there) as file:
                file.write(bytes(MIB))
                file.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        return str(self._folder)

    def _unwritable(self, error: OSError) -> ManifestStoreError:
        return ManifestStoreError(
            f"the manifest cannot be written to {self._folder} ({error.strerror}): make room there, let this user "
            f"write, or name another folder or a bucket in {_VARIABLE}"
        )

    def remove(self, manifest: StoredManifest) -> None:
        """Remove the file."""
        try:
            (self._folder / manifest.name).unlink(missing_ok=True)
        except OSError as error:
            raise ManifestStoreError(
                f"{manifest.name} cannot be removed from {self._folder} ({error.strerror}): let this user write there"
            ) from error

    def _all(self, group: str, partition: str | None = None) -> Iterator[StoredManifest]:
        folder = self._folder / group
        try:
            try:
                # glob() finds nothing in a folder that is closed to this user, or raises: versions of Python differ.
                with os.scandir(folder):
                    pass
            except FileNotFoundError:
                return
            # A hidden file is one that is still being written.
            for file in folder.glob(f"{partition or '*'}/[!.]*{_SUFFIX}"):
                if file.is_file():
                    written = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc)
                    yield from _named(f"{group}/{file.parent.name}/{file.name}", written)
        except (PermissionError, NotADirectoryError) as error:
            raise ManifestStoreError(
                f"the manifests in {self._folder} cannot be read ({error.strerror}): let this user read there, or name"
                f" another folder or a bucket in {_VARIABLE}"
            ) from error

    @contextlib.contextmanager
    def file(self, manifest: StoredManifest) -> Iterator[Path]:
        """Give the file itself."""
        local = self._folder / manifest.name
        error = ManifestNotFoundError(f"there is no manifest {manifest.name} any more")
        if not local.exists():
            raise error
        try:
            yield local
        except FileNotFoundError:
            if local.exists():
                raise
            raise error from None  # replaced before it was opened


class BucketManifests(ManifestStore):
    """Manifests in a private bucket, under the storage's key prefix."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def _write(self, file: Path, name: str) -> str:
        full = self._storage.full_key(name)
        headers = self._storage.own_headers(private=True)
        # A bucket with Object Lock takes nothing without an MD5.
        digest = hashlib.md5(usedforsecurity=False)
        with file.open("rb") as body:
            while piece := body.read(MIB):
                digest.update(piece)
            source = FileSource(body, file.stat().st_size)
            self._storage.ask(lambda client: client.put(full, source, headers, digest.digest()), name)
        return f"s3://{self._storage.settings.bucket}/{full}"

    def remove(self, manifest: StoredManifest) -> None:
        """Delete the object."""
        name = manifest.name
        self._storage.ask(lambda client: client.delete(self._storage.full_key(name)), name)

    def check(self, *, write: bool) -> str:
        """List the bucket, write an object and delete it."""
        if (refusal := self._storage.check()) is not None:
            raise refusal
        settings = self._storage.settings
        location = f"s3://{settings.bucket}/{settings.prefix}"
        if not write:
            return location
        key = self._storage.full_key(_PROBE)
        body = b"written by mastosync; it may be deleted"
        # A bucket with Object Lock takes nothing without an MD5.
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        headers = self._storage.own_headers(private=True)
        self._storage.ask(lambda client: client.put(key, body, headers, md5), _PROBE, policy=CHECK)
        # Without the right to delete, manifests are not folded, and a night says so.
        with contextlib.suppress(StorageError):
            self._storage.ask(lambda client: client.delete(key), _PROBE, policy=CHECK)
        return location

    def check_removal(self, group: str) -> None:
        """Delete an object that does not exist, which takes the same right."""
        absent = f"{group}/mastosync-check"
        self._storage.ask(lambda client: client.delete(self._storage.full_key(absent)), absent)

    def _all(self, group: str, partition: str | None = None) -> Iterator[StoredManifest]:
        above = f"{group}/{partition}/" if partition else f"{group}/"
        behind = f"{above[:-1]}0"  # the character behind a slash
        for found in self._storage.list_range(KeyRange(above, above, behind)):
            if found.modified is not None:
                yield from _named(found.key, found.modified)

    @contextlib.contextmanager
    def file(self, manifest: StoredManifest) -> Iterator[Path]:
        """Give a temporary copy."""
        with tempfile.TemporaryDirectory(prefix="mastosync-manifest-") as folder:
            local = Path(folder) / "manifest.parquet"
            self._fetch(manifest, local)
            yield local

    @contextlib.contextmanager
    def ahead(self, manifests: Iterable[StoredManifest]) -> Iterator[FileOf]:
        """Give temporary copies. As many are fetched at once as were asked for: who needs one or two reads few more."""
        left = deque(enumerate(manifests))
        fetched: deque[tuple[StoredManifest, Path, Future[ManifestStoreError | StorageError | None]]] = deque()
        asked_for = 0

        def attempt(wanted: tuple[StoredManifest, Path]) -> ManifestStoreError | StorageError | None:
            try:
                self._fetch(*wanted)
            except (ManifestStoreError, StorageError) as error:
                return error  # for whoever asks for this one: the others are fetched all the same
            return None

        @contextlib.contextmanager
        def file(manifest: StoredManifest) -> Iterator[Path]:
            nonlocal asked_for
            asked_for += 1
            while left and len(fetched) < min(asked_for, _AT_ONCE):
                number, following = left.popleft()
                local = Path(folder) / f"{number}.parquet"
                fetched.append((following, local, pool.submit(attempt, (following, local))))
            expected, local, future = fetched.popleft()
            assert expected == manifest  # noqa: S101  (in their order)
            (error,) = pool.results([future])
            if error is not None:
                raise error
            try:
                yield local
            finally:
                local.unlink(missing_ok=True)

        # What is still under way at the end may still write there for a while.
        with (
            tempfile.TemporaryDirectory(prefix="mastosync-manifest-", ignore_cleanup_errors=True) as folder,
            Pool(_AT_ONCE) as pool,
        ):
            yield file

    def _fetch(self, manifest: StoredManifest, local: Path) -> None:
        """Read a manifest into a file."""
        try:
            with local.open("w+b") as file:
                sink = FileSink(file)
                try:
                    self._storage.read_into(manifest.name, sink)
                finally:
                    if sink.error is not None:
                        raise sink.error
        except OSError as error:
            raise ManifestStoreError(f"no room for a manifest in {local.parent}: {error.strerror}") from error
        except StorageError as error:
            if is_not_found(error):
                raise ManifestNotFoundError(f"there is no manifest {manifest.name} any more") from error
            raise
