"""Where manifests are kept, a folder or a private bucket, and what they say about the run that wrote them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mastosync_dagster.environment import MANIFESTS, SettingsError, manifests_location
from mastosync_dagster.transfer.lines import GROUP_LINES, NewerManifestError, NotAManifestError
from mastosync_dagster.transfer.manifest_store import BucketManifests, FolderManifests
from mastosync_dagster.transfer.settings import one_spelling
from mastosync_dagster.transfer.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import dagster as dg
    import pyarrow as pa

    from mastosync_dagster.resources import S3Bucket
    from mastosync_dagster.transfer.lines import Format
    from mastosync_dagster.transfer.manifest_store import ManifestStore, StoredManifest

_PLACE, _ACLS = "mastosync.destination", "mastosync.acls"
_ABOUT = frozenset({_PLACE.encode(), _ACLS.encode()})
_BATCH_LINES = 16 * GROUP_LINES


@dataclass(frozen=True, slots=True)
class About:
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

    def is_of(self, metadata: Mapping[bytes, bytes] | None) -> bool:
        """Tell whether a file's metadata says the same, however the place was spelled when it was written."""
        told = {name.decode(): value.decode() for name, value in (metadata or {}).items() if name in _ABOUT}
        return {**told, _PLACE: one_spelling(told.get(_PLACE, ""))} == self.metadata()


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
                    f"the manifest {manifest.name} is passed over: {error}. Private objects get their ACL "
                    "again. Delete the file when its ID range, or for a night's the next night, has ended well"
                )


def columns_of(
    store: ManifestStore, manifest: StoredManifest, kind: Format, about: About, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a kept manifest, in batches; nothing, if it is about another place.

    Args:
        store: Where it is.
        manifest: Which.
        kind: What it is.
        about: What its metadata must say.
        columns: Which columns.

    Raises:
        ManifestStoreError: It cannot be read.
        NotAManifestError: It is none, or of a newer version.
        StorageError: The bucket refuses.
    """
    with store.file(manifest) as path, kind.open(path) as file:
        if about.is_of(file.schema_arrow.metadata):
            yield from kind.batches(file, path, lines=_BATCH_LINES, columns=columns)


def is_about(store: ManifestStore, manifest: StoredManifest, kind: Format, place: str) -> bool:
    """Tell whether a kept manifest is about a place; one that cannot be read is taken to be.

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
            told = (file.schema_arrow.metadata or {}).get(_PLACE.encode(), b"").decode()
    except NotAManifestError:
        return True
    return one_spelling(told) == place


def manifest_store(instance: dg.DagsterInstance, destination: S3Bucket) -> ManifestStore:
    """Return the store that ``MASTOSYNC_MANIFESTS`` names, by default a folder beside Dagster's own files.

    Args:
        instance: Whose home holds the default folder.
        destination: An ``s3://bucket/prefix`` is reached with the endpoint and the credentials of this side.

    Raises:
        SettingsError: It is neither a folder's absolute path nor an ``s3://`` URL.
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
    if url.scheme != "s3" or not url.netloc or "@" in url.netloc or url.query or url.fragment:
        raise SettingsError(f"{MANIFESTS} must be an absolute path or a URL such as s3://bucket/prefix.")
    prefix = url.path.strip("/")
    settings = replace(destination.settings(), bucket=url.netloc, prefix=f"{prefix}/" if prefix else "")
    return BucketManifests(Storage(settings, destination.get_client))
