"""What Mastodon stores for each row: facts of Mastodon and PostgreSQL, without Dagster and without S3."""

from mastosync_dagster.mastodon.changes import ChangedObject, FileDates, change_columns, changed_objects, file_dates
from mastosync_dagster.mastodon.connection import (
    Connect,
    DatabaseReadError,
    LostDatabaseError,
    NotMastodonError,
    read_over,
)
from mastosync_dagster.mastodon.id_ranges import (
    HIGHEST_ID,
    LOWEST_ID,
    Boundary,
    IdRange,
    created_at,
    highest_id,
    id_boundaries,
)
from mastosync_dagster.mastodon.key_owners import CACHE_FOLDERS, Owners, owners
from mastosync_dagster.mastodon.keys import KeySpan, id_partition, key_spans, prefixed, split_name
from mastosync_dagster.mastodon.objects import RowError, StoredObject, is_remote, stored_objects
from mastosync_dagster.mastodon.processing import Processing, media_in_processing
from mastosync_dagster.mastodon.remote_files import (
    CACHE_CONTROL,
    RemoteFile,
    remote_file,
    remote_file_columns,
    unavailable_domains,
)
from mastosync_dagster.mastodon.remote_rows import EVERY_REMOTE_ROW, RemoteRule, RemoteWindow, has_remote_rows
from mastosync_dagster.mastodon.rows import RowPage, Selection, walk_rows
from mastosync_dagster.mastodon.rows_by_id import LeftOutRows, PrivateRows, Rows, rows_at_the_ends
from mastosync_dagster.mastodon.schema import Database, Schema, read_schema
from mastosync_dagster.mastodon.snapshots import (
    NewestRow,
    Snapshot,
    database_now,
    is_there,
    newest_row,
    newest_row_of,
    read_snapshot,
    rows_as_of,
    wait_for_open_transactions,
)
from mastosync_dagster.mastodon.table_sizes import SplitSize, TableSize, subset_size
from mastosync_dagster.mastodon.tables import TABLES

__all__ = ["ChangedObject", "FileDates", "change_columns", "changed_objects", "file_dates"]
__all__ += [
    "Connect",
    "Database",
    "DatabaseReadError",
    "LostDatabaseError",
    "NotMastodonError",
    "Schema",
    "read_schema",
]
__all__ += ["HIGHEST_ID", "LOWEST_ID", "Boundary", "IdRange", "created_at", "highest_id", "id_boundaries"]
__all__ += ["CACHE_FOLDERS", "KeySpan", "Owners", "id_partition", "key_spans", "owners", "prefixed", "split_name"]
__all__ += ["TABLES", "RowError", "StoredObject", "is_remote", "stored_objects"]
__all__ += ["CACHE_CONTROL", "RemoteFile", "remote_file", "remote_file_columns", "unavailable_domains"]
__all__ += ["EVERY_REMOTE_ROW", "LeftOutRows", "RemoteRule", "RemoteWindow", "has_remote_rows"]
__all__ += ["PrivateRows", "RowPage", "Rows", "Selection", "rows_at_the_ends", "walk_rows"]
__all__ += ["NewestRow", "Snapshot", "is_there", "newest_row", "newest_row_of", "read_snapshot"]
__all__ += ["database_now", "read_over", "rows_as_of", "wait_for_open_transactions"]
__all__ += ["Processing", "media_in_processing"]
__all__ += ["SplitSize", "TableSize", "subset_size"]
