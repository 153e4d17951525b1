"""Where manifests are kept, a folder or a private bucket, and what their metadata records of the run."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dagster._core.launcher import DefaultRunLauncher
from dagster._core.launcher.sync_in_memory_run_launcher import SyncInMemoryRunLauncher

from mastosync_dagster.environment import (
    DESTINATION_FOLDER,
    MANIFESTS,
    SOURCE_FOLDER,
    SettingsError,
    expanded,
    manifests_location,
    media_folder,
)
from mastosync_dagster.escaping import one_line
from mastosync_dagster.records.folded import RunsOfFile
from mastosync_dagster.records.manifest import FOLDED
from mastosync_dagster.records.parquet import GROUP_LINES, NewerManifestError, NotAManifestError
from mastosync_dagster.records.store import BucketManifests, FolderManifests, ManifestNotFoundError
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.s3.settings import one_spelling
from mastosync_dagster.s3.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import dagster as dg
    import pyarrow as pa

    from mastosync_dagster.records.parquet import Format
    from mastosync_dagster.records.store import FileOf, ManifestStore, StoredManifest
    from mastosync_dagster.s3.settings import StorageSettings

_BUCKET = re.compile(r"[\w.:-]+", re.ASCII)
_DESTINATION, _ACLS = "mastosync.destination", "mastosync.acls"
_BEGUN, _READ_AT, _READ_UNTIL = "mastosync.begun", "mastosync.read_at", "mastosync.read_until"
_PASSED = _WHOLE, _CHANGED = "mastosync.whole", "mastosync.changed"
_LONGEST_RUN = timedelta(days=1)
_BATCH_LINES = 16 * GROUP_LINES


def _value(metadata: Mapping[bytes, bytes] | None, name: str) -> str:
    return (metadata or {}).get(name.encode(), b"").decode()


@dataclass(frozen=True, slots=True)
class ManifestOrigin:
    """The destination of a manifest's objects (`StorageSettings.identity`), and whether they are written with ACLs."""

    destination_id: str
    acls: bool

    def metadata(self) -> dict[str, str]:
        """Return it as the metadata of a file."""
        return {_DESTINATION: self.destination_id, _ACLS: "written" if self.acls else "none"}

    def matches(self, metadata: Mapping[bytes, bytes] | None, *, any_acls: bool = False) -> bool:
        """Return whether a file's metadata names this origin, however the destination was spelled then.

        ``any_acls``: also if ACLs were written then and are not now, or the other way round.
        """
        same_acls = any_acls or _value(metadata, _ACLS) == self.metadata()[_ACLS]
        return same_acls and one_spelling(_value(metadata, _DESTINATION)) == self.destination_id

    def is_elsewhere(self, metadata: Mapping[bytes, bytes] | None) -> bool:
        """Return whether a file's metadata names another destination. Early files may name none: they count for any."""
        return bool(_value(metadata, _DESTINATION)) and not self.matches(metadata, any_acls=True)


@dataclass(frozen=True, slots=True)
class RunTimes:
    """When the run of a manifest began and read its rows.

    Attributes:
        begun: By the clock of its machine.
        read_at: The run shows its rows as of this time, by the database's clock,
        read_until: and had read all of them by this one.
    """

    begun: datetime
    read_at: datetime
    read_until: datetime

    def metadata(self) -> dict[str, str]:
        """Return it as the metadata of a file."""
        times = {_BEGUN: self.begun, _READ_AT: self.read_at, _READ_UNTIL: self.read_until}
        return {name: time.isoformat() for name, time in times.items()}

    @classmethod
    def of(cls, metadata: Mapping[bytes, bytes], published: datetime) -> RunTimes:
        """Return the times in a file's metadata; without any, what is certain from when it was published (UTC)."""
        try:
            return cls(*(datetime.fromisoformat(_value(metadata, name)) for name in (_BEGUN, _READ_AT, _READ_UNTIL)))
        except ValueError:
            # Of an earlier version: the two clocks are taken for one, and no run for longer than a day.
            return cls(begun=published - _LONGEST_RUN, read_at=published - _LONGEST_RUN, read_until=published)


LOST_MANIFEST = (
    "Objects that only it remembers as private are found by a verification with acls=all. Delete the file once its ID"
    " range has been synced again or, of a night, once the next night has ended well"
)
LOST_DOUBTS = (
    "Nobody knows which objects of the table had failed, were missing or private: until the file is deleted, each night"
    " takes every row of the table. Sync the table, verify its ID ranges with acls=all and repair, then delete the file"
)
"""What to do about a file that cannot be read."""


class Damaged:
    """Passes over files that cannot be read, with one warning each: a plan does without what they record.

    Attributes:
        names: Of those that were passed over.
    """

    def __init__(self, warn: Callable[[str], object], cure: str = LOST_MANIFEST) -> None:
        self._warn = warn
        self._cure = cure
        self.names: set[str] = set()

    @contextlib.contextmanager
    def passed_over(self, manifest: StoredManifest) -> Iterator[None]:
        """End the block, and not the run, where a file is none of ours. One of a newer version ends the run."""
        try:
            yield
        except NewerManifestError:
            raise
        except NotAManifestError as error:
            if manifest.name not in self.names:
                self.names.add(manifest.name)
                self._warn(f"{manifest.name} is passed over: {one_line(str(error))}. {self._cure}")


def columns_of(
    file_of: FileOf,
    manifest: StoredManifest,
    kind: Format,
    origin: ManifestOrigin,
    columns: Sequence[str],
    *,
    any_acls: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a kept manifest, in batches; nothing, unless `ManifestOrigin.matches`.

    Raises NotAManifestError if the file is no manifest or of a newer version, and what the store raises.
    """
    with file_of(manifest) as path, kind.open(path) as file:
        if origin.matches(file.schema_arrow.metadata, any_acls=any_acls):
            yield from kind.batches(file, path, lines=_BATCH_LINES, columns=columns)


@dataclass(frozen=True, slots=True)
class Passed:
    """The tables that a manifest's run has gone through to the end: all of the rows in its scope, or changed ones."""

    whole: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()

    def metadata(self) -> dict[str, str]:
        """Return it as the metadata of a file."""
        return {_WHOLE: " ".join(sorted(self.whole)), _CHANGED: " ".join(sorted(self.changed))}


def passed(file_of: FileOf, manifest: StoredManifest, origin: ManifestOrigin) -> Passed:
    """Return what the runs of a kept manifest have gone through; nothing, if they had another destination.

    Nothing as well if the file is damaged, or another run has folded it meanwhile.
    """
    try:
        with file_of(manifest) as path, FOLDED.open(path) as file:
            runs = RunsOfFile.of(manifest, file).metadata.values()
    except (NotAManifestError, ManifestNotFoundError):
        return Passed()
    of_origin = [metadata for metadata in runs if origin.matches(metadata, any_acls=True)]
    return Passed(*(frozenset(table for each in of_origin for table in _value(each, name).split()) for name in _PASSED))


def manifest_store(
    instance: dg.DagsterInstance, destination: S3Bucket, source: S3Bucket | None = None
) -> ManifestStore:
    """Return the store that ``MASTOSYNC_MANIFESTS`` names, by default a folder beside Dagster's own files.

    Args:
        instance: Its home holds the default folder.
        destination: Its endpoint and credentials are those of an ``s3://bucket/prefix`` too.
        source: None: the bucket that Mastodon's own variables describe, if they do.

    Raises:
        SettingsError: It is neither a folder's absolute path nor an ``s3://`` URL, or it is in a bucket or folder with
            media; or it is unset, and other machines may take part.
    """
    location = manifests_location()
    if location is None:
        if why := others_take_part(instance):
            raise SettingsError(
                f"{MANIFESTS} is not set, and {why}, so that runs may be on other machines. Each would keep manifests"
                " that the others do not see: name an s3:// URL, or a folder that all of them mount."
            )
        return _folder_store(Path(instance.root_directory) / "manifests", "DAGSTER_HOME")
    if "://" not in location:
        folder = expanded(location, f"{MANIFESTS} names")
        if not folder.is_absolute():
            # Dagster's processes have working directories of their own.
            raise SettingsError(f"{MANIFESTS} must be an absolute path or an s3:// URL.")
        return _folder_store(folder, MANIFESTS)
    if destination.settings().is_folder:
        raise SettingsError(f"{MANIFESTS} must be an absolute path: the destination is a folder, and has no buckets.")
    url = urlsplit(location)
    # `urlsplit` drops line breaks and tabs, wherever they are.
    is_url = url.scheme == "s3" and _BUCKET.fullmatch(url.netloc) and location.isprintable()
    if not is_url or url.query or url.fragment:
        raise SettingsError(f"{MANIFESTS} must be an absolute path or a URL such as s3://bucket/prefix.")
    prefix = url.path.strip("/")
    settings = replace(
        destination.settings(), bucket=url.netloc, prefix=f"{prefix}/" if prefix else "", bucket_from=MANIFESTS
    )
    for media in _media_buckets(destination, source):
        if _bucket_id(settings) == _bucket_id(media):
            raise SettingsError(
                f"{MANIFESTS} names the bucket {settings.bucket}, which holds media (it is the {media.name}'s) and"
                " which the world may read: name another bucket, or a folder."
            )
    return BucketManifests(Storage(settings))


def _folder_store(folder: Path, variable: str) -> ManifestStore:
    """Return the store in a folder that a variable names, or that lies in one."""
    for name in (DESTINATION_FOLDER, SOURCE_FOLDER):
        media = None
        with contextlib.suppress(SettingsError):  # whoever opens the storage says so
            media = media_folder(name)
        if media is not None and folder.resolve().is_relative_to(media):
            raise SettingsError(
                f"{variable} puts the manifests into {folder}, in the folder of {name}, which holds media and which the"
                " world may read: name another folder, and move what is there to it, or runs know nothing of what other"
                " runs have left open."
            )
    return FolderManifests(folder)


def others_take_part(instance: dg.DagsterInstance) -> str | None:
    """Return what lets other machines execute runs, or read their records; None: nothing."""
    launcher = instance.run_launcher
    if not isinstance(launcher, (DefaultRunLauncher, SyncInMemoryRunLauncher)):
        return f"the launcher in dagster.yaml is {type(launcher).__name__}"
    url = getattr(instance.run_storage, "postgres_url", None)
    host = urlsplit(url).hostname if isinstance(url, str) else None
    # Without a host it is a socket of this machine.
    if host is None or host in {"localhost", "::1"} or host.startswith("127."):
        return None
    return f"the history is on the host {host}"


def _media_buckets(destination: S3Bucket, source: S3Bucket | None) -> Iterator[StorageSettings]:
    yield destination.settings()
    if source is not None:
        yield source.settings()
        return
    # A command that only reads manifests needs no source.
    with contextlib.suppress(SettingsError):
        yield S3Bucket.source().settings()


def _bucket_id(settings: StorageSettings) -> str:
    """Return what is the same for two settings of one bucket; names that differ in case alone are one host's name."""
    return replace(settings, prefix="", bucket=settings.bucket.lower()).identity
