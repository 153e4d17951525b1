"""What Mastodon stores for each row: facts of Mastodon and PostgreSQL, without Dagster and without S3."""

from mastosync_dagster.mastodon.objects import RowError, StoredObject, is_remote, stored_objects
from mastosync_dagster.mastodon.paths import KeySpan, id_partition, key_spans, prefixed, split_name
from mastosync_dagster.mastodon.tables import TABLES

__all__ = [
    "TABLES",
    "KeySpan",
    "RowError",
    "StoredObject",
    "id_partition",
    "is_remote",
    "key_spans",
    "prefixed",
    "split_name",
    "stored_objects",
]
