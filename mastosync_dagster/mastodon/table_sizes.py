"""Number and size of the objects of a table's rows, counted in the database, page by page."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from mastosync_dagster.mastodon.changes import CREATED_AT, without_zone
from mastosync_dagster.mastodon.connection import Reader
from mastosync_dagster.mastodon.remote_rows import in_subset
from mastosync_dagster.mastodon.rows import has_name
from mastosync_dagster.mastodon.tables import table_named
from mastosync_dagster.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from mastosync_dagster.mastodon.id_ranges import IdRange
    from mastosync_dagster.mastodon.remote_rows import RemoteWindow
    from mastosync_dagster.mastodon.schema import Database, Schema
    from mastosync_dagster.mastodon.tables import Attachment, Table

_PAGE_ROWS = 50_000

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
    """

    rows: int = 0
    originals: int = 0
    objects: int = 0
    bytes: int = 0
    large: int = 0
    parts: int = 0

    def __add__(self, other: TableSize) -> TableSize:
        return TableSize(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class SplitSize:
    """Counts of the wanted rows that have not changed since a time, of those that have, and of rows left out."""

    unchanged: TableSize
    changed: TableSize
    left_out: TableSize


def subset_size(
    database: Database,
    table: str,
    ranges: Iterable[IdRange],
    since: datetime | None,
    remote: RemoteWindow | None = None,
) -> SplitSize:
    """Count the objects of rows by whether they have changed since a time (None: no row has), and are wanted.

    A row has changed if it was created since, or if one of its files has changed.
    """
    schema = database.schema
    schema.require([table])
    facts = table_named(table)
    attachments = [each for each in facts.attachments if schema.has(table, each.file_name_column)]
    reader = Reader(database.connect, rows=_PAGE_ROWS)
    query, sizes = _query(facts, schema, attachments, remote), dict.fromkeys(("same", "changed", "out"), TableSize())
    parameters = {
        "blank": schema.blank,
        "large": _LARGE_BYTES,
        "part": _PART_BYTES,
        "since": without_zone(since),
        "remote_after": without_zone(remote.after if remote else None),
    }
    try:
        for ids in ranges:
            first: int | None = ids.lo
            while first is not None and first <= ids.hi:
                found = reader.fetch(query, {**parameters, "first": first, "last": ids.hi})
                for row in found:
                    sizes[row[3]] += _size(attachments, row)
                # `more` is the same in every row.
                first = max(row[0] for row in found) + 1 if found and found[0][1] else None
    finally:
        reader.close()
    return SplitSize(sizes["same"], sizes["changed"], sizes["out"])


def _query(
    facts: Table, schema: Schema, attachments: Sequence[Attachment], remote: RemoteWindow | None
) -> sql.Composed:
    """Return the query of one page, with a line for each combination of attachments and their styles.

    A line is: the highest id, whether there are more rows, the number of rows, which kind they are, and for each
    attachment whether it has a file, the value that decides its styles, its bytes, how many are large, and their parts.
    """
    times = [CREATED_AT, *(attachment.updated_at_column for attachment in attachments)]
    changed = [sql.SQL("{} > %(since)s").format(sql.Identifier(name)) for name in times if schema.has(facts.name, name)]
    columns: list[sql.Composable] = [
        sql.SQL("id, CASE WHEN NOT {} THEN 'out' WHEN {} THEN 'changed' ELSE 'same' END AS kind").format(
            in_subset(facts, schema, remote), sql.SQL(" OR ").join([*changed, sql.SQL("false")])
        )
    ]
    outer: list[sql.Composable] = [sql.SQL("max(id), bool_or(total = %(rows)s), count(*), kind")]
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
            SELECT {columns}
            FROM {table}
            WHERE id >= %(first)s AND id <= %(last)s
            ORDER BY id
            LIMIT %(rows)s
        )
        SELECT {outer} FROM scanned, (SELECT count(*) AS total FROM scanned) AS counted GROUP BY {groups}
        """
    ).format(
        columns=sql.SQL(", ").join(columns),
        table=schema.identifier(facts.name),
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
