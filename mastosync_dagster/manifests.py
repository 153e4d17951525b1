"""Where manifests are kept: a folder, or a private bucket."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mastosync_dagster.environment import MANIFESTS, SettingsError, manifests_location
from mastosync_dagster.transfer.manifest_store import BucketManifests, FolderManifests
from mastosync_dagster.transfer.storage import Storage

if TYPE_CHECKING:
    import dagster as dg

    from mastosync_dagster.resources import S3Bucket
    from mastosync_dagster.transfer.manifest_store import ManifestStore


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
