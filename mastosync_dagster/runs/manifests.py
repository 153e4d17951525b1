"""Where manifests are kept, a folder or a private bucket, and what they say about the run that wrote them."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mastosync_dagster.environment import MANIFESTS, SettingsError, manifests_location
from mastosync_dagster.escaping import one_line
from mastosync_dagster.records.parquet import GROUP_LINES, NewerManifestError, NotAManifestError
from mastosync_dagster.records.store import BucketManifests, FolderManifests
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.s3.settings import one_spelling
from mastosync_dagster.s3.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import dagster as dg
    import pyarrow as pa

    from mastosync_dagster.records.parquet import Format
    from mastosync_dagster.records.store import ManifestStore, StoredManifest
    from mastosync_dagster.s3.settings import StorageSettings

_BUCKET = re.compile(r"[\w.:-]+", re.ASCII)
_PLACE, _ACLS = "mastosync.destination", "mastosync.acls"
_ABOUT = frozenset({_PLACE.encode(), _ACLS.encode()})
_BEGUN, _READ_AT, _READ_UNTIL = "mastosync.begun", "mastosync.read_at", "mastosync.read_until"
_WHOLE, _CHANGED = "mastosync.whole", "mastosync.changed"
_LONGEST_RUN = timedelta(days=1)
_BATCH_LINES = 16 * GROUP_LINES


@dataclass(frozen=True, slots=True)
class ManifestOrigin:
    """What a manifest's metadata says of where its objects are.

    Attributes:
        place: The destination, as ``history.place_of`` names it.
        acls: Whether objects are written with ACLs there.
    """

    place: str
    acls: bool

    def metadata(self) -> dict[str, str]:
        """Return it as the metadata of a file."""
        return {_PLACE: self.place, _ACLS: "written" if self.acls else "none"}

    def is_of(self, metadata: Mapping[bytes, bytes] | None, *, any_acls: bool = False) -> bool:
        """Tell whether a file's metadata says the same, however the place was spelled when it was written.

        Args:
            metadata: The file's.
            any_acls: Also if ACLs were written then and are not now, or the other way round.
        """
        told = {name.decode(): value.decode() for name, value in (metadata or {}).items() if name in _ABOUT}
        same = {_ACLS: self.metadata()[_ACLS]} if any_acls else {}
        return {**told, **same, _PLACE: one_spelling(told.get(_PLACE, ""))} == self.metadata()

    def is_place_of(self, metadata: Mapping[bytes, bytes]) -> bool:
        """Tell whether a file is about this destination, with or without ACLs."""
        return self.is_of(metadata, any_acls=True)


@dataclass(frozen=True, slots=True)
class RunTimes:
    """What a manifest's metadata says of when its run looked.

    Attributes:
        begun: The run began, by the clock of its machine.
        read_at: It showed its rows as of this moment, by the database's clock,
        read_until: and had read all of them by this one.
    """

    begun: datetime
    read_at: datetime
    read_until: datetime

    def metadata(self) -> dict[str, str]:
        """Return it as the metadata of a file."""
        moments = {_BEGUN: self.begun, _READ_AT: self.read_at, _READ_UNTIL: self.read_until}
        return {name: moment.isoformat() for name, moment in moments.items()}

    @classmethod
    def of(cls, metadata: Mapping[bytes, bytes], published: datetime) -> RunTimes:
        """Return what a file says; of one that is silent, what is certain from when it was published.

        Args:
            metadata: The file's.
            published: When it was published, UTC.
        """
        try:
            begun, read_at, read_until = (
                datetime.fromisoformat(metadata[name.encode()].decode()) for name in (_BEGUN, _READ_AT, _READ_UNTIL)
            )
        except (KeyError, ValueError):
            # Of an earlier version: the two clocks are taken for one, and no run for longer than a day.
            return cls(begun=published - _LONGEST_RUN, read_at=published - _LONGEST_RUN, read_until=published)
        return cls(begun=begun, read_at=read_at, read_until=read_until)


class Damaged:
    """Passes over manifests that cannot be read, with one warning each: a plan does without what they say.

    Args:
        warn: Takes a warning.
    """

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._warn = warn
        self._told: set[str] = set()

    @contextlib.contextmanager
    def passed_over(self, manifest: StoredManifest) -> Iterator[None]:
        """End the block, and not the run, where a manifest is none. One of a newer version ends the run."""
        try:
            yield
        except NewerManifestError:
            raise
        except NotAManifestError as error:
            if manifest.name not in self._told:
                self._told.add(manifest.name)
                self._warn(
                    f"{manifest.name} is passed over: {one_line(str(error))}. Objects that only it remembers as private"
                    " are found by a verification with acls=all. Delete the file once its ID range has been synced"
                    " again or, of a night, once the next night has ended well"
                )


def columns_of(
    store: ManifestStore,
    manifest: StoredManifest,
    kind: Format,
    origin: ManifestOrigin,
    columns: Sequence[str],
    *,
    any_acls: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a kept manifest, in batches; nothing, if it is about another place.

    Args:
        store: Where it is.
        manifest: Which.
        kind: What it is.
        origin: What its metadata must say.
        columns: Which columns.
        any_acls: Also if ACLs were written then and are not now, or the other way round.

    Raises:
        ManifestStoreError: It cannot be read.
        NotAManifestError: It is none, or of a newer version.
        StorageError: The bucket refuses.
    """
    with store.file(manifest) as path, kind.open(path) as file:
        if origin.is_of(file.schema_arrow.metadata, any_acls=any_acls):
            yield from kind.batches(file, path, lines=_BATCH_LINES, columns=columns)


@dataclass(frozen=True, slots=True)
class Passed:
    """What a manifest's metadata says of the tables that its run has gone through to the end.

    Attributes:
        whole: Tables of which it has taken every row (of the ID range that it was about).
        changed: Tables of which it has taken what had changed.
    """

    whole: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()

    def metadata(self) -> dict[str, str]:
        """Return it as the metadata of a file."""
        return {_WHOLE: " ".join(sorted(self.whole)), _CHANGED: " ".join(sorted(self.changed))}


def passed(store: ManifestStore, manifest: StoredManifest, kind: Format, place: str) -> Passed:
    """Return what the run of a kept manifest has gone through; nothing, if it is about another place or damaged.

    Args:
        store: Where it is.
        manifest: Which.
        kind: What it is.
        place: The destination, as ``history.place_of`` names it.

    Raises:
        ManifestStoreError: It is gone, or cannot be copied here.
        StorageError: The bucket refuses.
    """
    try:
        with store.file(manifest) as path, kind.open(path) as file:
            metadata = {name.decode(): value.decode() for name, value in (file.schema_arrow.metadata or {}).items()}
    except NotAManifestError:
        return Passed()
    if one_spelling(metadata.get(_PLACE, "")) != place:
        return Passed()
    return Passed(*(frozenset(metadata.get(name, "").split()) for name in (_WHOLE, _CHANGED)))


def manifest_store(
    instance: dg.DagsterInstance, destination: S3Bucket, source: S3Bucket | None = None
) -> ManifestStore:
    """Return the store that ``MASTOSYNC_MANIFESTS`` names, by default a folder beside Dagster's own files.

    Args:
        instance: Whose home holds the default folder.
        destination: An ``s3://bucket/prefix`` is reached with the endpoint and the credentials of this side.
        source: The other side; None: the one that Mastodon's own variables describe, if they do.

    Raises:
        SettingsError: It is neither a folder's absolute path nor an ``s3://`` URL, or it is in a bucket with media.
    """
    location = manifests_location()
    if location is None:
        return FolderManifests(Path(instance.root_directory) / "manifests")
    if "://" not in location:
        folder = Path(location).expanduser()
        if not folder.is_absolute():
            # Dagster's processes have working directories of their own.
            raise SettingsError(f"{MANIFESTS} must be an absolute path or an s3:// URL.")
        return FolderManifests(folder)
    url = urlsplit(location)
    if url.scheme != "s3" or not _BUCKET.fullmatch(url.netloc) or url.query or url.fragment:
        raise SettingsError(f"{MANIFESTS} must be an absolute path or a URL such as s3://bucket/prefix.")
    prefix = url.path.strip("/")
    settings = replace(destination.settings(), bucket=url.netloc, prefix=f"{prefix}/" if prefix else "")
    for side in _sides(destination, source):
        if _same_bucket(settings, side):
            raise SettingsError(
                f"{MANIFESTS} names the bucket {settings.bucket}, which holds media (it is the {side.name}'s) and which"
                " the world may read: name another bucket, or a folder."
            )
    return BucketManifests(Storage(settings))


def _sides(destination: S3Bucket, source: S3Bucket | None) -> Iterator[StorageSettings]:
    yield destination.settings()
    if source is not None:
        yield source.settings()
        return
    # Who only looks at manifests needs no source.
    with contextlib.suppress(SettingsError):
        yield S3Bucket.source().settings()


def _same_bucket(one: StorageSettings, other: StorageSettings) -> bool:
    """Tell whether two settings lead to one bucket; names that differ in case alone are one host's name."""
    sides = [replace(side, prefix="", bucket=side.bucket.lower()) for side in (one, other)]
    mine, theirs = (Storage(side) for side in sides)
    return mine.same_place(theirs)
