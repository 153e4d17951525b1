"""Fetches missing objects of remote rows from their original servers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from mastosync_dagster.mastodon import (
    CACHE_CONTROL,
    Database,
    Rows,
    is_remote,
    remote_file,
    remote_file_columns,
    stored_objects,
)
from mastosync_dagster.records.outcomes import HARMLESS
from mastosync_dagster.refetch.refetch import RefetchCounts, RemoteFile, refetch
from mastosync_dagster.refetch.remedies import CARD, EMOJI

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

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
"""How to restore an object that cannot be fetched here. ``mastosync report`` prints the full commands."""


def refetch_missing(
    folder: Path,
    database: MastodonDatabase,
    destination: Storage,
    settings: FetchSettings,
    *,
    memory_mb: int,
    keep_private: bool,
    copy_private: bool,
    on_progress: Callable[[RefetchCounts], None],
) -> RefetchCounts:
    """Fetch the missing objects of a run's remote rows: `refetch`, with its arguments and errors.

    If ``keep_private``, the objects of private rows are private, also where the source's ACLs decide otherwise: it has
    none of lost objects.

    Raises:
        DatabaseReadError: The rows could not be read, after all retries.
        NotMastodonError: A table or column does not exist.
    """
    with database.session(retry_first=True) as connect:
        finder = _Finder(Database.open(connect), destination.settings.prefix, keep_private=keep_private)
        return refetch(
            folder,
            destination,
            finder.find,
            settings,
            memory_mb=memory_mb,
            copy_private=copy_private,
            on_progress=on_progress,
        )


@dataclass(frozen=True)
class _Finder:
    """Finds the URLs of missing objects, a page of manifest lines at a time."""

    database: Database
    prefix: str
    keep_private: bool

    def find(self, lines: Sequence[ManifestLine]) -> list[RemoteFile | str | None]:
        """Return for each line where its object can be fetched, or why not; None: it is not remote."""
        found: list[RemoteFile | str | None] = []
        # The lines are grouped by table.
        for table, of_table in groupby(lines, key=lambda line: line.group):
            page = list(of_table)
            rows = self._rows(table, [line for line in page if _is_remote_loss(line)])
            found += [
                self._where(table, line, rows.get(line.row_id)) if _is_remote_loss(line) else None for line in page
            ]
        return found

    def _rows(self, table: str, lines: Sequence[ManifestLine]) -> dict[int, Mapping[str, object]]:
        if not lines:
            return {}
        with Rows(self.database, table, more_columns=remote_file_columns(table)) as rows:
            return {row["id"]: row for row in rows.of(sorted({line.row_id for line in lines}))}

    def _where(self, table: str, line: ManifestLine, row: Mapping[str, object] | None) -> RemoteFile | str | None:
        if row is None:
            return ROW_GONE
        stored = {each.key: each for each in stored_objects(table, row)}.get(line.key.removeprefix(self.prefix))
        if stored is None:
            return ROW_CHANGED
        if not is_remote(table, row):
            return None
        file = remote_file(table, row, line.part)
        if file is None:
            made_here = not line.part.endswith("/original")
            return (MADE_HERE if made_here else NO_URL) + _REMEDIES[table]
        # The row may have become private since the plan was made.
        private = self.keep_private and bool(row["private"])
        return RemoteFile(file.url, file.accepted, {"Cache-Control": CACHE_CONTROL}, private)


def _is_remote_loss(line: ManifestLine) -> bool:
    return bool(line.remote) and line.detail != HARMLESS
