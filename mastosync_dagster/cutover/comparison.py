"""Every object that rows expect, compared at both storages: a verification of whole tables in one go."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.environment import copy_private
from mastosync_dagster.expected.objects import Sizes
from mastosync_dagster.expected.policy import instance_policy
from mastosync_dagster.expected.privacy import KnownState
from mastosync_dagster.expected.range_batches import covering_batches
from mastosync_dagster.expected.records import Records
from mastosync_dagster.mastodon import (
    HIGHEST_ID,
    LOWEST_ID,
    TABLES,
    IdRange,
    Rows,
    Selection,
    change_columns,
    changed_objects,
    database_now,
    stored_objects,
    walk_rows,
)
from mastosync_dagster.records.findings import DIFFERENCES, FINDINGS, Finding, read_findings
from mastosync_dagster.verify.audit import NO_ACLS, audit
from mastosync_dagster.verify.settings import AuditSettings, Depth

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from mastosync_dagster.cutover.progress import TableProgress
    from mastosync_dagster.mastodon import Database
    from mastosync_dagster.records.findings import FindingLine
    from mastosync_dagster.records.store import ManifestStore
    from mastosync_dagster.runs.manifests import ManifestOrigin
    from mastosync_dagster.s3.storage import Storage

EVERY_ID = IdRange(LOWEST_ID, HIGHEST_ID)
_EXAMPLES = 3
_SAMPLES = 100
"""Public objects of a table that are asked for as everybody asks."""
_ALL_HEADERS = 2_000
"""Up to so many objects of a table, the headers of all are compared; of more, those of about half as many."""
_NEWEST_LOOKED_AT = 20_000
"""Of so many absent objects at most it is asked whether they are newer than the last delta."""


@dataclass(frozen=True, slots=True)
class Storages:
    """Both storages, and what is recorded of the copy between them."""

    source: Storage
    destination: Storage
    store: ManifestStore
    origin: ManifestOrigin


@dataclass
class TableComparison:
    """What was found of one table.

    Attributes:
        objects: Expected objects.
        findings: How many, by finding; without those that are counted apart:
        left_out: Absent, since they are private and the destination has no ACLs.
        not_wanted: Remote ones that the installation's policy leaves out.
        newer: Absent, and their rows have changed after the last delta.
        only_at_source: How many of the differences the source alone has.
        examples: The first lines of each finding.
        samples: Full keys at the destination of public objects that are there.
    """

    table: str
    objects: int = 0
    findings: Counter[Finding] = field(default_factory=Counter)
    left_out: int = 0
    not_wanted: int = 0
    newer: int = 0
    examples: dict[Finding, list[FindingLine]] = field(default_factory=lambda: defaultdict(list))
    samples: list[str] = field(default_factory=list)

    @property
    def different(self) -> int:
        """Objects that are not at the destination as they must be."""
        return sum(self.findings[finding] for finding in DIFFERENCES)

    def problem(self) -> str | None:
        """Return in words what is not as it must be; None: nothing."""
        if not self.different:
            return None
        counts = ", ".join(f"{self.findings[each]:,} {each.value}" for each in DIFFERENCES if self.findings[each])
        first = next(line for each in DIFFERENCES for line in self.examples[each])
        remark = f" ({first.detail})" if first.detail else ""
        return f"{self.table}: {counts}, such as {first.key}{remark}"


def compare_table(
    database: Database,
    progress: TableProgress,
    storages: Storages,
    *,
    since: datetime | None,
    full: bool = False,
    on_progress: Callable[[str], None],
) -> TableComparison:
    """Compare all objects of a table. Nothing is kept but counts and examples.

    Args:
        database: Mastodon's.
        progress: What is recorded of the table.
        storages: The old bucket and the new one.
        since: When the last delta read the rows; None: there was none.
        full: Read every body at both storages.
        on_progress: Gets messages.

    Raises:
        StorageError: A storage refuses, or does not answer.
        DatabaseReadError: The rows cannot be read.
    """
    table, objects = progress.table, progress.objects
    with contextlib.closing(database.connect()) as connection:
        window = instance_policy().window(table, database_now(connection))
    pages, sizes = walk_rows(database, Selection(table, remote=window)), Sizes()
    source, destination = storages.source, storages.destination
    records = Records(
        database,
        store=storages.store,
        origin=storages.origin,
        prefix=destination.settings.prefix,
        warn=on_progress,
    )
    settings = AuditSettings(
        full=full,
        headers=_headers(objects, destination),
        acls=Depth.sample,
        sample_one_in=max(1, 2 * objects // _ALL_HEADERS),
        copy_private=bool(copy_private()),
    )
    with tempfile.TemporaryDirectory(prefix="mastosync-cutover-") as folder:
        path = Path(folder) / FINDINGS
        audit(
            covering_batches(pages, EVERY_ID, KnownState(), sizes=sizes),
            source,
            destination,
            path,
            settings,
            orphans=lambda _keys, _ids: {},
            folders={},
            origin=storages.origin.metadata(),
            on_progress=lambda counts: on_progress(f"{table}: {counts.wanted:,} objects compared"),
            knowledge=records.known,
        )
        result = _summary(database, table, path, destination, since)
    result.not_wanted = sizes.left_out
    return result


def _headers(objects: int, destination: Storage) -> Depth:
    if destination.settings.is_folder:
        # The web server derives the headers of a file from its name.
        return Depth.none
    return Depth.all if objects <= _ALL_HEADERS else Depth.sample


def _summary(
    database: Database, table: str, path: Path, destination: Storage, since: datetime | None
) -> TableComparison:
    result = TableComparison(table)
    chance = random.Random()  # noqa: S311  (which objects are sampled is no secret)
    absent: list[FindingLine] = []
    public = 0
    for lines in read_findings(path):
        for line in lines:
            result.objects += 1
            if line.finding is Finding.ABSENT and line.detail == NO_ACLS:
                result.left_out += 1
                continue
            if line.finding is Finding.ABSENT and len(absent) < _NEWEST_LOOKED_AT:
                absent.append(line)
                continue
            _add(result, line)
            if line.size is not None and not line.private:
                public += 1
                _sample(result.samples, line.key, public, chance)
    expected = _as_of_now(database, table, absent, since)
    for line in absent:
        newer = expected.get(line.key.removeprefix(destination.settings.prefix))
        if newer:
            result.newer += 1
        elif newer is not None:
            _add(result, line)
        # Of any other, the row was deleted, or has got another file, since it was read.
    return result


def _add(result: TableComparison, line: FindingLine) -> None:
    result.findings[line.finding] += 1
    if len(result.examples[line.finding]) < _EXAMPLES:
        result.examples[line.finding].append(line)


def _sample(samples: list[str], key: str, number: int, chance: random.Random) -> None:
    """Keep each of the keys so far with the same probability."""
    if len(samples) < _SAMPLES:
        samples.append(key)
    elif (at := chance.randrange(number)) < _SAMPLES:
        samples[at] = key


def _as_of_now(database: Database, table: str, lines: Sequence[FindingLine], since: datetime | None) -> dict[str, bool]:
    """Return the relative keys that these rows expect now, each with whether it has come after a time."""
    if not lines:
        return {}
    ids = sorted({line.row_id for line in lines if line.row_id is not None})
    expected: dict[str, bool] = {}
    with Rows(database, table, more_columns=change_columns(TABLES[table])) as rows:
        for row in rows.of(ids):
            expected |= {
                key: False for stored in stored_objects(table, row) for key in (stored.key, *stored.candidates)
            }
            changed = () if since is None else changed_objects(table, row, since)
            expected |= {key: True for each in changed for key in (each.stored.key, *each.stored.candidates)}
    return expected
