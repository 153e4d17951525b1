"""How many objects a table's rows say exist, and how large they are: counted in the database, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timezone
from typing import TYPE_CHECKING

from psycopg2 import sql

from mastosync_dagster.mastodon.changes import CREATED_AT
from mastosync_dagster.mastodon.connection import RETRY_DELAYS, STATEMENT_TIMEOUT_MS, Reader
from mastosync_dagster.mastodon.tables import BLANK, table_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from mastosync_dagster.mastodon.connection import Connect
    from mastosync_dagster.mastodon.rows import IdRange
    from mastosync_dagster.mastodon.schema import Schema
    from mastosync_dagster.mastodon.tables import Attachment, Table

_PAGE_ROWS = 50_000

LARGE_BYTES = 16 * 2**20
"""Larger objects are copied in parts ..."""
PART_BYTES = 5 * 2**20
"""... of this size."""


@dataclass(frozen=True, slots=True)
class TableSize:
    """What the rows of a table, or of a part of it, say.

    Attributes:
        rows: Rows, those without a file included.
        originals: Files as they were uploaded.
        objects: Originals, and what Mastodon has made of them.
        bytes: Of the originals: of other objects the database knows no size.
        large: Originals above `LARGE_BYTES`.
        parts: Parts of `PART_BYTES` that these have together.
    """

    rows: int = 0
    originals: int = 0
    objects: int = 0
    bytes: int = 0
    large: int = 0
    parts: int = 0

    def __add__(self, other: TableSize) -> TableSize:
        return TableSize(
            self.rows + other.rows,
            self.originals + other.originals,
            self.objects + other.objects,
            self.bytes + other.bytes,
            self.large + other.large,
            self.parts + other.parts,
        )


def table_size(
    connect: Connect,
    schema: Schema,
    table: str,
    ranges: Iterable[IdRange],
    *,
    page_rows: int = _PAGE_ROWS,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    retry_delays: Sequence[float] = RETRY_DELAYS,
) -> TableSize:
    """Count what the rows with ids of these ranges say. Arguments and errors are those of `split_size`."""
    before, since = split_size(
        connect,
        schema,
        table,
        ranges,
        None,
        page_rows=page_rows,
        statement_timeout_ms=statement_timeout_ms,
        retry_delays=retry_delays,
    )
    return before + since


def split_size(
    connect: Connect,
    schema: Schema,
    table: str,
    ranges: Iterable[IdRange],
    moment: datetime | None,
    *,
    page_rows: int = _PAGE_ROWS,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    retry_delays: Sequence[float] = RETRY_DELAYS,
) -> tuple[TableSize, TableSize]:
    """Count what the rows with ids of these ranges say, told apart by whether they have changed since a moment.

    A row that was created since has changed; of a row with several files one that did is enough.

    Args:
        connect: Opens a connection.
        schema: What the database has.
        table: One of Mastodon's tables with attachments.
        ranges: Ids, each range with both ends.
        moment: The moment, with a time zone; None: nothing has changed since.
        page_rows: How many rows a query may look at.
        statement_timeout_ms: How long a query may take.
        retry_delays: Seconds to wait before each repetition of a query that failed for a reason that passes.

    Returns:
        Those that have not changed, and those that have.

    Raises:
        NotMastodonError: The table, or a column that is needed, is absent.
        DatabaseReadError: It could not be read, after all retries.
    """
    schema.require([table])
    facts = table_named(table)
    attachments = [each for each in facts.attachments if schema.has(table, each.file_name_column)]
    reader = Reader(connect, rows=page_rows, statement_timeout_ms=statement_timeout_ms, retry_delays=retry_delays)
    query, sizes = _query(facts, schema, attachments), {False: TableSize(), True: TableSize()}
    # The columns are without time zone, and in UTC.
    since = None if moment is None else moment.astimezone(timezone.utc).replace(tzinfo=None)
    parameters = {"blank": BLANK, "large": LARGE_BYTES, "part": PART_BYTES, "since": since}
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
    return sizes[False], sizes[True]


def _query(facts: Table, schema: Schema, attachments: Sequence[Attachment]) -> sql.Composed:
    """Return the query of one page: a line for each combination of attachments and of what decides about their styles.

    A line is: the highest id, whether there are more rows, the number of rows, whether they have changed, and for each
    attachment whether it is there, what decides about its styles, its bytes, how many are large and their parts.
    """
    moments = [CREATED_AT, *(attachment.updated_at_column for attachment in attachments)]
    changed = [
        sql.SQL("{} > %(since)s").format(sql.Identifier(name)) for name in moments if schema.has(facts.name, name)
    ]
    columns: list[sql.Composable] = [
        sql.SQL("id, COALESCE({}, false) AS changed").format(sql.SQL(" OR ").join([*changed, sql.SQL("false")]))
    ]
    outer: list[sql.Composable] = [sql.SQL("max(id), bool_or(total = %(rows)s), count(*), changed")]
    groups: list[sql.Composable] = [sql.SQL("changed")]
    for attachment in attachments:
        there = sql.SQL("COALESCE(btrim({}, %(blank)s) <> '', false)").format(
            sql.Identifier(attachment.file_name_column)
        )
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


def _size(attachments: Sequence[Attachment], row: tuple[object, ...]) -> TableSize:
    _, _, count, _, *rest = row
    assert isinstance(count, int)  # noqa: S101  (PostgreSQL's count is nothing else)
    size = TableSize(rows=count)
    for number, attachment in enumerate(attachments):
        there, kind, weight, large, parts = rest[number * 5 : number * 5 + 5]
        if not there:
            continue
        assert isinstance(weight, int)  # noqa: S101  (cast in the query)
        assert isinstance(large, int)  # noqa: S101  (as above)
        assert isinstance(parts, int)  # noqa: S101  (as above)
        decided_by = kind if isinstance(kind, str) else None
        styles = len(attachment.styles.get(decided_by, ()))
        size += TableSize(originals=count, objects=count * (1 + styles), bytes=weight, large=large, parts=parts)
    return size
