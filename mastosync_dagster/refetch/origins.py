"""Missing objects of remote rows, fetched from the servers that they are copies of."""

from __future__ import annotations

import contextlib
from itertools import groupby
from typing import TYPE_CHECKING

from mastosync_dagster.mastodon import (
    CACHE_CONTROL,
    Rows,
    is_remote,
    read_schema,
    remote_file,
    remote_file_columns,
    stored_objects,
)
from mastosync_dagster.records.outcomes import HARMLESS
from mastosync_dagster.refetch.refetch import Elsewhere, RefetchCounts, refetch
from mastosync_dagster.refetch.remedies import CARD, EMOJI

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mastosync_dagster.mastodon import Connect, Schema
    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster.refetch.fetch import FetchSettings
    from mastosync_dagster.resources import MastodonDatabase
    from mastosync_dagster.s3.storage import Storage

ROW_GONE = "its row is gone"
ROW_CHANGED = "its row has another file by now"
NO_URL = "its row has no address of it; "
MADE_HERE = "Mastodon makes it from the original; "

_REMEDIES = {
    "media_attachments": "tootctl media refresh --status STATUS --force fetches and makes it",
    "accounts": "tootctl accounts refresh USER@DOMAIN fetches and makes it",
    "custom_emojis": EMOJI,
    "preview_cards": CARD,
}
"""What brings an object back that cannot be fetched here. ``mastosync report`` gives the commands in full."""


def refetch_missing(
    folder: Path,
    database: MastodonDatabase,
    destination: Storage,
    settings: FetchSettings,
    *,
    memory_mb: int,
    keep_private: bool,
    take_private: bool,
    stop: threading.Event,
    on_progress: Callable[[RefetchCounts], None],
) -> RefetchCounts:
    """Fetch the missing objects of a run's remote rows: see `transfer.refetch`.

    Args:
        folder: The run's.
        database: Whose rows have the addresses.
        destination: Where the objects go.
        settings: How files are fetched.
        memory_mb: Megabytes (2^20) of bodies held at the same time.
        keep_private: Whether the objects of private rows are private. Where objects are as private as at the source,
            that has nothing to say about those that it has lost.
        take_private: Whether the destination takes private objects.
        stop: Set from another thread, it ends the work.
        on_progress: Called about twice a second.

    Raises:
        DatabaseReadError: The rows could not be read, after all retries.
        NotMastodonError: A table or column does not exist.
        OSError: The folder is not readable or writable.
        Stopped: ``stop`` was set.
    """
    with database.session() as connect:
        with contextlib.closing(connect()) as connection:
            schema = read_schema(connection)
        finder = _Finder(connect, schema, destination.settings.prefix, keep_private=keep_private)
        return refetch(
            folder,
            destination,
            finder.find,
            settings,
            memory_mb=memory_mb,
            take_private=take_private,
            stop=stop,
            on_progress=on_progress,
        )


class _Finder:
    """Finds out where missing objects can be had, a page of lines at a time."""

    def __init__(self, connect: Connect, schema: Schema, prefix: str, *, keep_private: bool) -> None:
        self._connect = connect
        self._schema = schema
        self._prefix = prefix
        self._keep_private = keep_private

    def find(self, lines: Sequence[ManifestLine]) -> list[Elsewhere | str | None]:
        """Return of each line where its object can be had, or why not; None: nothing to say."""
        found: list[Elsewhere | str | None] = []
        # The lines of a table stand together.
        for table, of_table in groupby(lines, key=lambda line: line.group):
            here = list(of_table)
            rows = self._rows(table, [line for line in here if _is_wanted(line)])
            found += [self._where(table, line, rows.get(line.row_id)) if _is_wanted(line) else None for line in here]
        return found

    def _rows(self, table: str, lines: Sequence[ManifestLine]) -> dict[int, Mapping[str, object]]:
        if not lines:
            return {}
        with Rows(self._connect, self._schema, table, more_columns=remote_file_columns(table)) as rows:
            return {row["id"]: row for row in rows.of(sorted({line.row_id for line in lines}))}

    def _where(self, table: str, line: ManifestLine, row: Mapping[str, object] | None) -> Elsewhere | str | None:
        if row is None:
            return ROW_GONE
        stored = {each.key: each for each in stored_objects(table, row)}.get(line.key.removeprefix(self._prefix))
        if stored is None:
            return ROW_CHANGED
        if not is_remote(table, row):
            return None
        file = remote_file(table, row, line.part)
        if file is None:
            made_here = not line.part.endswith("/original")
            return (MADE_HERE if made_here else NO_URL) + _REMEDIES[table]
        # The row may have turned since the plan was made.
        private = self._keep_private and bool(row["private"])
        return Elsewhere(file.url, file.accepted, {"Cache-Control": CACHE_CONTROL}, private)


def _is_wanted(line: ManifestLine) -> bool:
    return bool(line.remote) and line.detail != HARMLESS
