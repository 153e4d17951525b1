"""The rows of Mastodon's tables that have files, page by page, and the id ranges that divide a table.

Nothing of what is asked for here has an index but the primary key, so every query walks that one, and looks at no more
than a page of rows, whatever it finds there.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from mastosync_dagster.mastodon.changes import ROW_UPDATED_AT, change_columns
from mastosync_dagster.mastodon.connection import RETRY_DELAYS, STATEMENT_TIMEOUT_MS, Reader, single_transaction
from mastosync_dagster.mastodon.keys import id_class
from mastosync_dagster.mastodon.snapshots import read_snapshot
from mastosync_dagster.mastodon.tables import BLANK, PROCESSING, Remote, table_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from psycopg2.extensions import connection as Connection  # noqa: N812  (a class with a lower-case name)

    from mastosync_dagster.mastodon.connection import Connect
    from mastosync_dagster.mastodon.schema import Schema
    from mastosync_dagster.mastodon.tables import Owner, Table

# Of PostgreSQL's bigint. Mastodon's ids begin with -99, the instance's own account.
_LOWEST_ID = -(2**63)
_HIGHEST_ID = 2**63 - 1

_WRITTEN = ("updated_at", "created_at")
"""Timestamps that Mastodon itself sets when it writes a row, but for these:"""
_DATED_BY_OTHERS = frozenset({("accounts", "created_at"), ("statuses", "created_at")})
"""What another server says of its posts and accounts: 2199, or 2009."""
_NEWEST_ROWS = 100
"""Of each table, so many are looked at: the newest may be of an hour in which a clock was wrong."""

_BOUNDARY_STEP = 100_000
"""Ids that one query for boundaries may count: some tens of milliseconds from the index."""


@dataclass(frozen=True, slots=True)
class IdRange:
    """Ids from ``lo`` to ``hi``, both included."""

    lo: int
    hi: int

    def __post_init__(self) -> None:
        if self.hi < self.lo:
            raise ValueError(f"ids from {self.lo} to {self.hi} are no range")


@dataclass(frozen=True, slots=True)
class Boundary:
    """A range of ids, and how many rows of the table it held when it was made."""

    ids: IdRange
    rows: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a table to walk.

    Attributes:
        table: One of Mastodon's tables with attachments.
        ids: Only these ids; None: all.
        changed_since: Only rows that were created, or got another file, after this moment (with a time zone).
        all_above: Rows with ids above this are wanted whether they have changed or not.
        private_only: Only rows whose files are private, changed or not.
        limit: At most so many rows; None: all. Counts rows that have a file, and have changed if that is asked for.
        offset: Pass over so many of these rows first, in the order of their ids.
    """

    table: str
    ids: IdRange | None = None
    changed_since: datetime | None = None
    all_above: int | None = None
    private_only: bool = False
    limit: int | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        table_named(self.table)
        if self.changed_since is not None and self.changed_since.tzinfo is None:
            raise ValueError(f"changed_since {self.changed_since.isoformat()} has no time zone")
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"limit {self.limit} is negative")
        if self.offset < 0:
            raise ValueError(f"offset {self.offset} is negative")


@dataclass(frozen=True, slots=True)
class RowPage:
    """Some rows of a table in the order of their ids. Together with the key spans of its ids, one batch of work.

    Attributes:
        table: The table.
        lo: The first id: of its rows; where it has none, of those that were read.
        hi: The last id, likewise. The partitions of all ids from lo to hi have equally many groups.
        scanned: How many rows of the table were read for it.
        rows: The rows that have a file and are wanted: the columns that ``stored_objects`` reads, as far as the
            database has them, and ``private``; of a selection by change, those that ``changed_objects`` reads too.
    """

    table: str
    lo: int
    hi: int
    scanned: int
    rows: tuple[Mapping[str, object], ...]


def walk_rows(
    connect: Connect,
    schema: Schema,
    selection: Selection,
    *,
    page_rows: int = 5000,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    retry_delays: Sequence[float] = RETRY_DELAYS,
) -> Iterator[RowPage]:
    """Walk a table by its primary key and yield its rows that have a file, page by page.

    Every page is one query in a read-only transaction of its own. A connection that is lost is opened again and its
    page repeated; a page that takes too long is repeated by halves. Pages without wanted rows are yielded too, so that
    the caller can tell how far it is.

    Args:
        connect: Opens a connection.
        schema: What the database has.
        selection: The rows to walk.
        page_rows: How many rows of the table a query may look at.
        statement_timeout_ms: How long a query may take.
        retry_delays: Seconds to wait before each repetition of a query that failed for a reason that passes.

    Raises:
        NotMastodonError: The table, or a column that is needed, is absent.
        DatabaseReadError: A page could not be read, after all retries.
        ValueError: ``page_rows`` is below 1.
    """
    schema.require([selection.table])
    reader = Reader(
        connect,
        rows=page_rows,
        statement_timeout_ms=statement_timeout_ms,
        retry_delays=retry_delays,
        database=schema.database,
    )
    return _walk(reader, schema, selection)


def _walk(reader: Reader, schema: Schema, selection: Selection) -> Iterator[RowPage]:
    facts = table_named(selection.table)
    since = selection.changed_since
    columns = row_columns(facts, schema, changed=since is not None)
    wanted = _has_file(facts, schema)
    if since is not None:
        wanted = sql.SQL("{} AND {}").format(wanted, _has_changed(facts, schema))
    if selection.private_only:
        wanted = sql.SQL("{} AND {}").format(wanted, is_private(facts, schema, "walked"))
    query = _page_query(facts, schema, columns, wanted)
    parameters: dict[str, Any] = {
        "first": selection.ids.lo if selection.ids else _LOWEST_ID,
        "last": selection.ids.hi if selection.ids else _HIGHEST_ID,
        "offset": selection.offset,
        "limit": selection.limit,
        "blank": BLANK,
        # The columns are without time zone, and in UTC.
        "since": since.astimezone(timezone.utc).replace(tzinfo=None) if since else None,
        "all_above": _HIGHEST_ID if selection.all_above is None else selection.all_above,
    }
    try:
        more = selection.limit != 0
        while more:
            found = reader.fetch(query, parameters)
            lo, hi, scanned, wanted, more = found[0][:5]
            if not scanned:
                return
            rows = [dict(zip((*columns, "private"), row[5:], strict=True)) for row in found if row[5] is not None]
            yield from _pages(selection.table, IdRange(lo, hi), scanned, rows)
            parameters["first"] = hi + 1
            more = more and hi < parameters["last"]
            parameters["offset"] = max(0, parameters["offset"] - wanted)
            if selection.limit is not None:
                parameters["limit"] -= len(rows)
                more = more and parameters["limit"] > 0
    finally:
        reader.close()


def _pages(table: str, ids: IdRange, scanned: int, rows: list[dict[str, Any]]) -> Iterator[RowPage]:
    """Yield what a query found as one page; where the ids' form changes within it, as one page for each form."""
    if not rows:
        yield RowPage(table, ids.lo, ids.hi, scanned, ())
    for _, group in itertools.groupby(rows, key=lambda row: id_class(row["id"])):
        same = tuple(group)
        # Rows without a file are counted with the last page.
        counted = scanned if same[-1] is rows[-1] else len(same)
        scanned -= counted
        yield RowPage(table, same[0]["id"], same[-1]["id"], counted, same)


def row_columns(facts: Table, schema: Schema, *, changed: bool = False) -> list[str]:
    """Return the columns that ``stored_objects`` reads, as far as the database has them; the id first.

    Args:
        facts: The table.
        schema: What the database has.
        changed: Those too that tell when the row's files have changed.
    """
    names = ["id", facts.remote_column]
    if changed:
        names += change_columns(facts)
    for attachment in facts.attachments:
        names += [attachment.file_name_column, attachment.file_size_column, attachment.styles_by]
        if facts.remote is not Remote.NEVER:
            names.append(attachment.storage_schema_version_column)
        if attachment.renamed_to:
            names += [PROCESSING, attachment.content_type_column]
        if any(style.may_be_absent_before for styles in attachment.styles.values() for style in styles):
            names.append(attachment.updated_at_column)
    return [name for name in dict.fromkeys(names) if name is not None and schema.has(facts.name, name)]


def _owners(facts: Table, schema: Schema) -> list[Owner]:
    """Return the owners that the database knows of, each with those of its columns that there are."""
    known = [
        replace(owner, private_since=tuple(name for name in owner.private_since if schema.has(owner.table, name)))
        for owner in facts.owners
        if schema.has(facts.name, owner.column) and schema.has(owner.table, "id")
    ]
    return [owner for owner in known if owner.private_since]


def is_private(facts: Table, schema: Schema, rows: str) -> sql.Composable:
    """Return the condition that a row's files are private.

    Args:
        facts: The table.
        schema: What the database has.
        rows: What the table is called in the query.
    """
    # A subquery for each row, and not a join: with stale statistics a join might read the whole other table.
    private = [
        sql.SQL("COALESCE((SELECT COALESCE({}) IS NOT NULL FROM {} o WHERE o.id = {}), false)").format(
            sql.SQL(", ").join(sql.Identifier("o", column) for column in owner.private_since),
            schema.identifier(owner.table),
            sql.Identifier(rows, owner.column),
        )
        for owner in _owners(facts, schema)
    ]
    return _any_of(private) if private else sql.Literal(facts.private)


def _any_of(conditions: Iterable[sql.Composable]) -> sql.Composable:
    """Return the condition that one of some holds, in brackets: it may stand beside any other."""
    return sql.SQL("({})").format(sql.SQL(" OR ").join(conditions))


def _page_query(facts: Table, schema: Schema, columns: list[str], wanted: sql.Composable) -> sql.Composed:
    """Return the query of one page.

    ``scanned`` looks at a page of rows by primary key and bounds the work; ``page`` holds those that are wanted. Each
    row of the answer begins with what was scanned, and there is one even where nothing is wanted.
    """
    inner = [*columns, *(owner.column for owner in _owners(facts, schema))]
    return sql.SQL(
        """
        WITH scanned AS (
            SELECT {inner}, {wanted} AS wanted
            FROM {table} walked
            WHERE id >= %(first)s AND id <= %(last)s
            ORDER BY id
            LIMIT %(rows)s
        ), counted AS (
            SELECT min(id), max(id), count(*) AS scanned, count(*) FILTER (WHERE wanted), count(*) = %(rows)s AS more
            FROM scanned
        ), page AS (
            SELECT {inner} FROM scanned WHERE wanted ORDER BY id OFFSET %(offset)s LIMIT %(limit)s
        )
        SELECT counted.*, {outer}, {private}
        FROM counted LEFT JOIN page ON true
        ORDER BY page.id
        """
    ).format(
        inner=_listed(inner),
        wanted=wanted,
        table=schema.identifier(facts.name),
        outer=sql.SQL(", ").join(sql.Identifier("page", column) for column in columns),
        private=is_private(facts, schema, "page"),
    )


def _listed(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _has_file(facts: Table, schema: Schema) -> sql.Composable:
    names = [attachment.file_name_column for attachment in facts.attachments]
    return _any_of(
        sql.SQL("btrim({}, %(blank)s) <> ''").format(sql.Identifier(name))
        for name in names
        if schema.has(facts.name, name)
    )


def _has_changed(facts: Table, schema: Schema) -> sql.Composable:
    # The same rule as `changed_objects`: a moment that is not known may lie after it, if there is a file.
    names = ["created_at", *(attachment.updated_at_column for attachment in facts.attachments)]
    conditions: list[sql.Composable] = [
        sql.SQL("{} > %(since)s").format(sql.Identifier(name)) for name in names if schema.has(facts.name, name)
    ]
    conditions += [
        sql.SQL("({} IS NULL AND btrim({}, %(blank)s) <> '')").format(
            sql.Identifier(attachment.updated_at_column), sql.Identifier(attachment.file_name_column)
        )
        for attachment in facts.attachments
        if schema.has(facts.name, attachment.updated_at_column, attachment.file_name_column)
    ]
    conditions += [
        sql.SQL("(({} > %(since)s) IS NOT FALSE AND left({}, {}) = {})").format(
            sql.Identifier(ROW_UPDATED_AT),
            sql.Identifier(attachment.content_type_column),
            sql.Literal(len(kind)),
            sql.Literal(kind),
        )
        for attachment in facts.attachments
        for kind in attachment.processed_later
        if schema.has(facts.name, ROW_UPDATED_AT, attachment.content_type_column)
    ]
    if schema.has(facts.name, "created_at"):
        conditions.append(sql.SQL("created_at IS NULL"))
    return _any_of([*conditions, sql.SQL("id > %(all_above)s")])


def id_boundaries(
    connect: Connect,
    table: str,
    *,
    after: int | None,
    rows_per_range: int,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    retry_delays: Sequence[float] = RETRY_DELAYS,
) -> Iterator[Boundary]:
    """Divide a table into ranges of ids that hold equally many rows, in one pass over the primary key.

    The ranges are contiguous: each begins with the id after the end of the one before, the first with the lowest id
    that exists. The last one ends with the highest id that exists, and may hold fewer rows.

    Args:
        connect: Opens a connection.
        table: One of Mastodon's tables with attachments.
        after: The end of the last range that is known already; None: begin with the lowest id.
        rows_per_range: How many rows a range holds.
        statement_timeout_ms: How long a query may take.
        retry_delays: Seconds to wait before each repetition of a query that failed for a reason that passes.

    Raises:
        NotMastodonError: The database has no such table.
        DatabaseReadError: It could not be read, after all retries.
        ValueError: Mastodon has no such table, or ``rows_per_range`` is below 1.
    """
    table_named(table)
    if rows_per_range < 1:
        raise ValueError(f"a range must hold at least one row, not {rows_per_range}")
    reader = Reader(connect, rows=_BOUNDARY_STEP, statement_timeout_ms=statement_timeout_ms, retry_delays=retry_delays)
    return _boundaries(reader, table, after, rows_per_range)


def _boundaries(reader: Reader, table: str, after: int | None, rows_per_range: int) -> Iterator[Boundary]:
    query = sql.SQL(
        """
        SELECT min(id), max(id), count(*), count(*) = LEAST(%(rows)s, %(missing)s)
        FROM (SELECT id FROM {} WHERE id >= %(first)s ORDER BY id LIMIT LEAST(%(rows)s, %(missing)s)) AS step
        """
    ).format(sql.Identifier(table))
    start = None if after is None else after + 1
    first, missing = _LOWEST_ID if start is None else start, rows_per_range
    more = True
    try:
        while more and first <= _HIGHEST_ID:
            ((lowest, highest, count, more),) = reader.fetch(query, {"first": first, "missing": missing})
            if count:
                start = lowest if start is None else start
                first, missing = highest + 1, missing - count
            if start is not None and (not missing or (not more and missing < rows_per_range)):
                yield Boundary(IdRange(start, first - 1), rows_per_range - missing)
                start, missing = first, rows_per_range
    finally:
        reader.close()


def database_now(connection: Connection) -> datetime:
    """Return the time of the database's clock, with its time zone: UTC.

    Args:
        connection: A connection that is in no transaction.
    """
    return read_snapshot(connection).now


def rows_as_of(connection: Connection) -> datetime | None:
    """Return the moment whose rows the database shows, by its clock. See `Snapshot.as_of`.

    Args:
        connection: A connection that is in no transaction.
    """
    return read_snapshot(connection).as_of


def newest_row(connection: Connection, schema: Schema) -> datetime | None:
    """Return when the newest row was written, of the tables that ``schema`` knows, and up to the database's clock.

    On an instance that runs that is a moment ago. In a backup that has been restored it is when the backup was made,
    whatever the clock says.

    None: there is no row, or each was written in the future.

    Args:
        connection: A connection that is in no transaction.
        schema: What the database has.
    """
    newest = [
        sql.SQL(
            "(SELECT max(written) FROM (SELECT ARRAY[{}] AS times FROM {} ORDER BY id DESC LIMIT {}) newest,"
            " unnest(newest.times) written WHERE written <= now() AT TIME ZONE 'UTC')"
        ).format(_listed(names), schema.identifier(table), sql.Literal(_NEWEST_ROWS))
        for table in schema.columns
        for names in [
            [name for name in _WRITTEN if schema.has(table, "id", name) and (table, name) not in _DATED_BY_OTHERS]
        ]
        if names
    ]
    if not newest:
        return None
    with single_transaction(connection) as cursor:
        cursor.execute(sql.SQL("SELECT GREATEST({})").format(sql.SQL(", ").join(newest)))
        ((found,),) = cursor.fetchall()
    assert found is None or isinstance(found, datetime)  # noqa: S101  (timestamps without time zone, in UTC)
    return found and found.replace(tzinfo=timezone.utc)


def highest_id(connection: Connection, schema: Schema, table: str) -> int | None:
    """Return the highest id of a table; None: it has no row.

    Args:
        connection: A connection that is in no transaction.
        schema: What the database has.
        table: One of Mastodon's tables with attachments.
    """
    with single_transaction(connection) as cursor:
        cursor.execute(sql.SQL("SELECT max(id) FROM {}").format(schema.identifier(table)))
        ((found,),) = cursor.fetchall()
    assert found is None or isinstance(found, int)  # noqa: S101  (the primary key of all these tables is a bigint)
    return found
