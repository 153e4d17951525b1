"""Lines of manifests."""

from __future__ import annotations

from typing import Any

from mastosync_dagster.records.manifest import (
    ManifestLine,
)
from mastosync_dagster.records.outcomes import Outcome


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
