"""Where manifests are kept: a folder, or a private bucket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.environment import manifests_location
from mastosync_dagster.transfer.manifest import ManifestStore

if TYPE_CHECKING:
    import dagster as dg

    from mastosync_dagster.resources import S3Bucket


def manifest_store(instance: dg.DagsterInstance, destination: S3Bucket) -> ManifestStore:
    """Return the store that ``MASTOSYNC_MANIFESTS`` names, by default a folder beside Dagster's own files.

    An ``s3://bucket/prefix`` is reached with the endpoint and the credentials of the destination.
    """
    location = manifests_location()
