"""Number and size of the objects of a table's rows: counted in the database, or of a large table estimated."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from mastosync_dagster.mastodon.changes import CREATED_AT, without_zone
from mastosync_dagster.mastodon.connection import Reader
from mastosync_dagster.mastodon.id_ranges import IdRange
from mastosync_dagster.mastodon.remote_rows import in_subset
from mastosync_dagster.mastodon.rows import has_name
from mastosync_dagster.mastodon.tables import table_named
from mastosync_dagster.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from mastosync_dagster.mastodon.remote_rows import RemoteWindow
    from mastosync_dagster.mastodon.schema import Database, Schema
    from mastosync_dagster.mastodon.tables import Attachment, Table

_PAGE_ROWS = 50_000
_COUNTED_ROWS = 1_000_000
"""The newest rows, which are counted in any case: about ten seconds. Of more rows, the others are estimated."""
_SAMPLED_ROWS = 100_000

_LARGE_BYTES, _PART_BYTES = 16 * MIB, 5 * MIB
"""Larger objects are copied in parts, of this size."""


@dataclass(frozen=True, slots=True)
class TableSize:
    """Counts of a table, or of a part of it.

    Attributes:
        rows: Rows, including those without a file.
        originals: Files as they were uploaded.
        objects: Originals and the files that Mastodon has made from them.
        bytes: Of the originals only: the database has no other sizes.
        large: Originals that are copied in parts.
        parts: Number of these parts.
        estimated: From a sample of the rows, but for the newest million.
    """

    rows: int = 0
    originals: int = 0
    objects: int = 0
    bytes: int = 0
    large: int = 0
    parts: int = 0
    estimated: bool = field(default=False, kw_only=True)

    def __add__(self, other: TableSize) -> TableSize:
        sums = (mine + others for mine, others in zip(self._counts(), other._counts(), strict=True))
        return replace(TableSize(*sums), estimated=self.estimated or other.estimated)

    def scaled(self, factor: float) -> TableSize:
        """Return the estimate for so many times as many rows."""
        return replace(TableSize(*(round(count * factor) for count in self._counts())), estimated=True)

    def _counts(self) -> tuple[int, ...]:
        return astuple(self)[:-1]


@dataclass(frozen=True, slots=True)
class SplitSize:
    """Counts of the wanted rows that have not changed since a time, of those that have, and of rows left out."""

    unchanged: TableSize
    changed: TableSize
    left_out: TableSize

    @property
    def estimated(self) -> bool:
        """Whether a sample stands for all rows in any of the counts."""
        return self.unchanged.estimated or self.changed.estimated or self.left_out.estimated


def subset_size(
    database: Database,
    table: str,
    ranges: Iterable[IdRange],
    since: datetime | None,
    remote: RemoteWindow | None = None,
) -> SplitSize:
    """Count the objects of rows by whether they have changed since a time (None: no row has), and are wanted.

    A row has changed if it was created since, or if one of its files has changed. The newest million rows are counted;
    where that leaves more than as many, the others are estimated from a sample.
    """
    schema = database.schema
    schema.require([table])
    facts = table_named(table)
    attachments = [each for each in facts.attachments if schema.has(table, each.file_name_column)]
    parameters = {
        "blank": schema.blank,
        "large": _LARGE_BYTES,
        "part": _PART_BYTES,
        "since": without_zone(since),
        "remote_after": without_zone(remote.after if remote else None),
    }
    reader = Reader(database.connect, rows=_PAGE_ROWS)
    counter = _Counter(reader, attachments, parameters)
    try:
        counter.count(_query(facts, schema, attachments, remote), ranges, _Sample(facts, schema, attachments, remote))
    finally:
        reader.close()
    sizes = counter.sizes
    return SplitSize(sizes["same"], sizes["changed"], sizes["out"])


class _Counter:
    """Adds up the pages of a table.

    Attributes:
        sizes: So far, by whether the rows have changed, or are left out.
    """

    def __init__(self, reader: Reader, attachments: Sequence[Attachment], parameters: Mapping[str, object]) -> None:
        self.sizes = dict.fromkeys(("same", "changed", "out"), TableSize())
        self._reader = reader
        self._attachments = attachments
        self._parameters = parameters

    def count(self, page: sql.Composed, ranges: Iterable[IdRange], sample: _Sample) -> None:
        """Count the rows of some ranges, from the highest id to the lowest; see `subset_size`."""
        left = sorted(ranges, key=lambda ids: ids.lo)
        sampled = False
        while left:
            ids = left.pop()
            found = self._reader.fetch(page, {**self._parameters, "first": ids.lo, "last": ids.hi})
            self._add(found)
            # `more` is the same in every row.
            lowest = min(row[0] for row in found) if found and found[0][1] else ids.lo
            if lowest > ids.lo:
                left.append(IdRange(ids.lo, lowest - 1))
            if left and not sampled and sum(size.rows for size in self.sizes.values()) >= _COUNTED_ROWS:
                sampled = True
                if self._estimate(left, sample):
                    return

    def _estimate(self, left: Sequence[IdRange], sample: _Sample) -> bool:
        """Add an estimate of the ranges that are left. False: they are to be counted, nothing was added."""
        ((rows,),) = self._reader.fetch(sample.rows, {})
        if rows <= 2 * _COUNTED_ROWS:
            return False
        part = min(1.0, _SAMPLED_ROWS / rows)
        bounds = {"lowest": [ids.lo for ids in left], "highest": [ids.hi for ids in left], "percent": 100 * part}
        found = self._reader.fetch(sample.query, {**self._parameters, **bounds})
        if sum(row[2] for row in found) / part <= _COUNTED_ROWS:
            # What is left in a large table may be little: then an estimate would be wrong by much.
            return False
        self._add(found, 1 / part)
        return True

    def _add(self, found: Iterable[tuple[Any, ...]], factor: float | None = None) -> None:
        for row in found:
            size = _size(self._attachments, row)
            self.sizes[row[3]] += size if factor is None else size.scaled(factor)


class _Sample:
    """Queries for an estimate. The database's own statistics say how many rows a table has, about."""

    def __init__(
        self, facts: Table, schema: Schema, attachments: Sequence[Attachment], remote: RemoteWindow | None
    ) -> None:
        self.rows = sql.SQL(
            "SELECT GREATEST(reltuples, 0)::bigint FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
            " WHERE relname = {} AND nspname = {}"
        ).format(sql.Literal(facts.name), sql.Literal(schema.namespaces[facts.name]))
        self.query = _query(facts, schema, attachments, remote, rows=_SAMPLE)


_PAGE = sql.SQL("FROM {table} WHERE id >= %(first)s AND id <= %(last)s ORDER BY id DESC LIMIT %(rows)s")
# Of some blocks of the table, chosen at random. The ranges do not overlap: the one of an id is found by their bounds.
_SAMPLE = sql.SQL(
    "FROM {table} TABLESAMPLE SYSTEM (%(percent)s) WHERE id <="
    " (%(highest)s::bigint[])[width_bucket(id, %(lowest)s::bigint[])]"
)


def _query(
    facts: Table,
    schema: Schema,
    attachments: Sequence[Attachment],
    remote: RemoteWindow | None,
    rows: sql.SQL = _PAGE,
) -> sql.Composed:
    """Return the query of some rows, with a line for each combination of attachments and their styles.

    A line is: the lowest id, whether there are more rows, the number of rows, which kind they are, and for each
    attachment whether it has a file, the value that decides its styles, its bytes, how many are large, and their parts.
    """
    times = [CREATED_AT, *(attachment.updated_at_column for attachment in attachments)]
    changed = [sql.SQL("{} > %(since)s").format(sql.Identifier(name)) for name in times if schema.has(facts.name, name)]
    columns: list[sql.Composable] = [
        sql.SQL("id, CASE WHEN NOT {} THEN 'out' WHEN {} THEN 'changed' ELSE 'same' END AS kind").format(
            in_subset(facts, schema, remote), sql.SQL(" OR ").join([*changed, sql.SQL("false")])
        )
    ]
    outer: list[sql.Composable] = [sql.SQL("min(id), bool_or(total = %(rows)s), count(*), kind")]
    groups: list[sql.Composable] = [sql.SQL("kind")]
    for attachment in attachments:
        there = sql.SQL("COALESCE({}, false)").format(has_name(attachment))
        known = schema.has(facts.name, attachment.file_size_column)
        size = sql.Identifier(attachment.file_size_column) if known else sql.SQL("NULL::bigint")
        by = attachment.styles_by
        kind = sql.SQL("NULL::text") if by is None else sql.SQL("{}::text").format(sql.Identifier(by))
        names = {part: sql.Identifier(f"{attachment.name}_{part}") for part in ("there", "kind", "size")}
        columns += [
            sql.SQL("{} AS {}").format(there, names["there"]),
            sql.SQL("CASE WHEN {} THEN {} END AS {}").format(there, kind, names["kind"]),
            sql.SQL("CASE WHEN {} THEN GREATEST({}, 0) END::bigint AS {}").format(there, size, names["size"]),
        ]
        groups += [names["there"], names["kind"]]
        outer.append(
            sql.SQL(
                "{there}, {kind}, COALESCE(sum({size}), 0)::bigint, count(*) FILTER (WHERE {size} > %(large)s),"
                " COALESCE(sum(ceil({size} / %(part)s::numeric)) FILTER (WHERE {size} > %(large)s), 0)::bigint"
            ).format(**names)
        )
    return sql.SQL(
        """
        WITH scanned AS (
            SELECT {columns} {rows}
        )
        SELECT {outer} FROM scanned, (SELECT count(*) AS total FROM scanned) AS counted GROUP BY {groups}
        """
    ).format(
        columns=sql.SQL(", ").join(columns),
        rows=rows.format(table=schema.identifier(facts.name)),
        outer=sql.SQL(", ").join(outer),
        groups=sql.SQL(", ").join(groups),
    )


def _size(attachments: Sequence[Attachment], row: tuple[Any, ...]) -> TableSize:
    _, _, count, _, *rest = row
    size = TableSize(rows=count)
    for number, attachment in enumerate(attachments):
        there, decided_by, size_bytes, large, parts = rest[number * 5 : number * 5 + 5]
        if not there:
            continue
        styles = len(attachment.styles.get(decided_by, ()))
        size += TableSize(originals=count, objects=count * (1 + styles), bytes=size_bytes, large=large, parts=parts)
    return size
