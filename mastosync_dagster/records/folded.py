"""What a fold is: a file with the newest manifest lines of many runs. `folding` makes them."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from mastosync_dagster.records.manifest import FOLDED, RUN
from mastosync_dagster.records.parquet import WORD, begun

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow.parquet as pq

    from mastosync_dagster.records.store import StoredManifest

RUNS = b"mastosync.runs"
"""The entry of a fold's metadata that holds its runs, each with the metadata of its own manifest."""
TEXTS = pa.schema([(field.name, pa.string() if field.type == WORD else field.type) for field in FOLDED.columns])
_GROUP_COLUMN = FOLDED.schema().get_field_index("group")
_NAME = re.compile(r"folded-(\d+)-\w+")


def published_text(time: datetime) -> str:
    """Return a time in UTC as the texts of runs begin with it."""
    return time.isoformat(timespec="microseconds")


def published_at(run: str) -> datetime:
    """Return when a run was published, by its text."""
    return datetime.fromisoformat(run.partition(" ")[0])


class PublishedRun(NamedTuple):
    """A run that has published a manifest; later ones are greater.

    S3 and some file systems give ``published`` in whole seconds: ``begun``, when the file was begun, decides then.
    """

    published: datetime
    begun: str
    run_id: str

    @property
    def text(self) -> str:
        """Return it as the text in a fold; it sorts as the run does."""
        return f"{published_text(self.published)} {self.begun} {self.run_id}"


@dataclass(frozen=True)
class RunsOfFile:
    """The runs whose lines a file holds, by their text, each with the metadata of its own manifest."""

    metadata: Mapping[str, Mapping[bytes, bytes]]
    is_fold: bool

    @classmethod
    def of(cls, manifest: StoredManifest, file: pq.ParquetFile) -> RunsOfFile:
        """Return the runs of an open file."""
        own = file.schema_arrow.metadata or {}
        if RUNS not in own:
            return cls({PublishedRun(manifest.written, begun(own), manifest.run_id).text: own}, is_fold=False)
        runs = json.loads(own[RUNS])
        return cls({run: {k.encode(): v.encode() for k, v in values.items()} for run, values in runs.items()}, True)

    def with_runs(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch with the columns of today and the text of each line's run, all words as texts."""
        present = set(batch.schema.names)
        missing = {} if self.is_fold else {RUN: pa.repeat(pa.scalar(next(iter(self.metadata))), batch.num_rows)}
        columns = [
            batch.column(field.name).cast(field.type)  # earlier versions had other types
            if field.name in present
            else missing.get(field.name, pa.nulls(batch.num_rows, field.type))
            for field in TEXTS
        ]
        return pa.record_batch(columns, schema=TEXTS)


def level(manifest: StoredManifest) -> int:
    """Return how often a stored manifest's lines have been folded; 0: it is a run's own."""
    found = _NAME.fullmatch(manifest.run_id)
    return int(found[1]) if found else 0


def fold_name(number: int) -> str:
    """Return a new name for a fold of a level, in the place of a run's id."""
    return f"folded-{number}-{secrets.token_hex(8)}"


def row_groups_of(file: pq.ParquetFile, table: str) -> list[int]:
    """Return the row groups of an open manifest or fold that may have lines of a table."""
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    statistics: list[Any] = [group.column(_GROUP_COLUMN).statistics for group in groups]
    return [
        number
        for number, each in enumerate(statistics)
        if each is None or not each.has_min_max or each.min <= table <= each.max
    ]
