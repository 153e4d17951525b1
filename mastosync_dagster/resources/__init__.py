"""Mastodon's database and the two buckets as Dagster resources, configured by environment variables or run config."""

from mastosync_dagster.resources.bucket import DestinationBucket, S3Bucket, ensure_different, ensure_two_places
from mastosync_dagster.resources.database import MastodonDatabase
from mastosync_dagster.resources.database_errors import ConnectionFailedError
from mastosync_dagster.resources.fields import Secret

__all__ = [
    "ConnectionFailedError",
    "DestinationBucket",
    "MastodonDatabase",
    "S3Bucket",
    "Secret",
    "ensure_different",
    "ensure_two_places",
]
