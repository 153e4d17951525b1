"""Lines of manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mastosync_dagster.records.manifest import (
    ManifestLine,
)
from mastosync_dagster.records.outcomes import Outcome

if TYPE_CHECKING:
    from mastosync_dagster.records.store import ManifestStore, StoredManifest


def manifest_line(number: int, **fields: Any) -> ManifestLine:
    plain = ManifestLine(
        group="media",
        row_id=number,
        part="file/original",
        key=f"media/{number}",
        source_key=f"media/{number}",
        outcome=Outcome.COPIED,
        reason=None,
        detail=None,
        size=number,
        etag=f"{number:032x}",
        private=False,
        remote=True,
    )
    return plain._replace(**fields)


def newest_of_each(store: ManifestStore, group: str) -> list[StoredManifest]:
    """Return the newest manifest of each partition of a group, in the order of their names."""
    return [latest for latest, *_ in store.by_partition(group)]
