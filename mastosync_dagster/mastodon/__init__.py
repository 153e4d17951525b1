"""What Mastodon stores for each row: facts of Mastodon and PostgreSQL, without Dagster and without S3."""

from mastosync_dagster.mastodon.changes import ChangedObject, FileDates, change_columns, changed_objects, file_dates
from mastosync_dagster.mastodon.connection import Connect, DatabaseReadError, NotMastodonError
from mastosync_dagster.mastodon.ends import rows_at_the_ends
from mastosync_dagster.mastodon.key_owners import CACHE_FOLDERS, Owners, owners
from mastosync_dagster.mastodon.keys import KeySpan, id_partition, key_spans, prefixed, split_name
from mastosync_dagster.mastodon.objects import RowError, StoredObject, is_remote, stored_objects
from mastosync_dagster.mastodon.remote_files import CACHE_CONTROL, RemoteFile, remote_file, remote_file_columns
from mastosync_dagster.mastodon.rows import (
    Boundary,
    IdRange,
    RowPage,
    Selection,
    database_now,
    highest_id,
    id_boundaries,
    newest_row,
    rows_as_of,
    walk_rows,
)
from mastosync_dagster.mastodon.rows_by_id import PrivateRows, Rows
from mastosync_dagster.mastodon.schema import Schema, read_schema
from mastosync_dagster.mastodon.snapshots import (
    NewestRow,
    Snapshot,
    is_there,
    newest_row_of,
    read_snapshot,
    wait_for_open_transactions,
)
from mastosync_dagster.mastodon.table_sizes import TableSize, split_size, table_size
from mastosync_dagster.mastodon.tables import TABLES

__all__ = [
    "CACHE_CONTROL",
    "CACHE_FOLDERS",
    "TABLES",
    "Boundary",
    "ChangedObject",
    "Connect",
    "DatabaseReadError",
    "FileDates",
    "IdRange",
    "KeySpan",
    "NewestRow",
    "NotMastodonError",
    "Owners",
    "PrivateRows",
    "RemoteFile",
    "RowError",
    "RowPage",
    "Rows",
    "Schema",
    "Selection",
    "Snapshot",
    "StoredObject",
    "TableSize",
    "change_columns",
    "changed_objects",
    "database_now",
    "file_dates",
    "highest_id",
    "id_boundaries",
    "id_partition",
    "is_remote",
    "is_there",
    "key_spans",
    "newest_row",
    "newest_row_of",
    "owners",
    "prefixed",
    "read_schema",
    "read_snapshot",
    "remote_file",
    "remote_file_columns",
    "rows_as_of",
    "rows_at_the_ends",
    "split_name",
    "split_size",
    "stored_objects",
    "table_size",
    "wait_for_open_transactions",
    "walk_rows",
]
