"""The rows of Mastodon's tables that have files, page by page.

Only the primary key has an index that helps here. So every query walks the primary key, and reads at most a page of
rows, whatever it finds there.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from mastosync_dagster.mastodon.changes import CREATED_AT, ROW_UPDATED_AT, change_columns, without_zone
from mastosync_dagster.mastodon.connection import Reader
from mastosync_dagster.mastodon.id_ranges import HIGHEST_ID, LOWEST_ID, IdRange
from mastosync_dagster.mastodon.keys import id_class
from mastosync_dagster.mastodon.remote_rows import in_subset, is_cached, object_count
from mastosync_dagster.mastodon.tables import PROCESSING, Remote, table_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from mastosync_dagster.mastodon.remote_rows import RemoteWindow
    from mastosync_dagster.mastodon.schema import Database, Schema
    from mastosync_dagster.mastodon.tables import Attachment, Table

_COUNTS = 7
"""Columns of a page's query that stand before those of the row."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a table to walk.

    Attributes:
        ids: Only these ids; None: all.
        changed_since: Only rows that were created, or got another file, after this time (with a time zone).
        all_above: Include rows with higher ids even if they have not changed.
        private_only: Only rows whose files are private.
        remote: Which remote rows; None: all. Those left out are counted, and cost nothing else.
        left_out: Only the rows that ``remote`` leaves out.
        limit: At most so many of the rows that have a file and fit the other conditions; None: all.
        offset: Skip so many of these rows first, in the order of their ids.
    """

    table: str
    ids: IdRange | None = None
    changed_since: datetime | None = None
    all_above: int | None = None
    private_only: bool = False
    remote: RemoteWindow | None = None
    left_out: bool = False
    limit: int | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        table_named(self.table)
        if self.changed_since is not None and self.changed_since.tzinfo is None:
            raise ValueError(f"changed_since {self.changed_since.isoformat()} has no time zone")

    @property
    def is_cut(self) -> bool:
        """Whether a limit or an offset skips rows, as in a trial."""
        return self.limit is not None or self.offset > 0


@dataclass(frozen=True, slots=True)
class RowPage:
    """Some rows of a table in the order of their ids. Together with the key spans of its ids, one batch of work.

    Attributes:
        lo: The first id of its rows; if it has no rows, the first id that was read.
        hi: The last id, likewise. The partitions of all ids from lo to hi have equally many groups.
        scanned: How many rows of the table were read for it.
        left_out: How many objects `Selection.remote` leaves out of these rows.
        left_out_in_cache: Of the rows left out, those whose files lie in ``cache/``.
        rows: The selected rows: the columns that ``stored_objects`` reads, as far as the database has them, and
            ``private``; of a selection by change also those that ``changed_objects`` reads.
    """

    table: str
    lo: int
    hi: int
    scanned: int
    rows: tuple[Mapping[str, object], ...]
    left_out: int = 0
    left_out_in_cache: int = 0


def walk_rows(database: Database, selection: Selection, *, page_rows: int = 5000) -> Iterator[RowPage]:
    """Walk a table by its primary key and yield its selected rows that have a file, page by page.

    Every page is one query, of at most ``page_rows`` rows of the table, in a read-only transaction of its own. After a
    lost connection the page is read again; after a timeout it is read in halves. Pages without selected rows are
    yielded too, so that the caller knows how far the walk is. See `Reader` for the errors.
    """
    database.schema.require([selection.table])
    return _walk(Reader(database.connect, rows=page_rows), database.schema, selection)


def _walk(reader: Reader, schema: Schema, selection: Selection) -> Iterator[RowPage]:
    facts = table_named(selection.table)
    since = selection.changed_since
    columns = row_columns(facts, schema, changed=since is not None)
    conditions = [_has_file(facts, schema)]
    if since is not None:
        conditions.append(_has_changed(facts, schema, selection.remote))
    if selection.private_only:
        conditions.append(is_private(facts, schema, "walked"))
    if selection.left_out:
        conditions.append(sql.SQL("NOT {}").format(in_subset(facts, schema, selection.remote)))
    wanted = sql.SQL("({})").format(sql.SQL(" AND ").join(conditions))
    query = _page_query(facts, schema, columns, wanted, None if selection.left_out else selection.remote)
    parameters: dict[str, Any] = {
        "first": selection.ids.lo if selection.ids else LOWEST_ID,
        "last": selection.ids.hi if selection.ids else HIGHEST_ID,
        "offset": selection.offset,
        "limit": selection.limit,
        "blank": schema.blank,
        "since": without_zone(since),
        "all_above": HIGHEST_ID if selection.all_above is None else selection.all_above,
        "remote_after": without_zone(selection.remote.after if selection.remote else None),
    }
    try:
        more = selection.limit != 0
        while more:
            found = reader.fetch(query, parameters)
            counts, first = found[0][:_COUNTS], _COUNTS
            lo, hi, scanned, selected, more, left_out, in_cache = counts
            if not scanned:
                return
            rows = [
                dict(zip((*columns, "private"), row[first:], strict=True)) for row in found if row[first] is not None
            ]
            *pages, last = _pages(selection.table, IdRange(lo, hi), scanned, rows)
            yield from pages
            yield replace(last, left_out=int(left_out), left_out_in_cache=in_cache)
            parameters["first"] = hi + 1
            more = more and hi < parameters["last"]
            parameters["offset"] = max(0, parameters["offset"] - selected)
            if selection.limit is not None:
                parameters["limit"] -= len(rows)
                more = more and parameters["limit"] > 0
    finally:
        reader.close()


def _pages(table: str, ids: IdRange, scanned: int, rows: list[dict[str, Any]]) -> Iterator[RowPage]:
    """Yield the rows of a query as one page, or as one page for each class of ids (`id_class`)."""
    if not rows:
        yield RowPage(table, ids.lo, ids.hi, scanned, ())
    for _, group in itertools.groupby(rows, key=lambda row: id_class(row["id"])):
        same = tuple(group)
        # The last page also counts the rows without a file.
        counted = scanned if same[-1] is rows[-1] else len(same)
        scanned -= counted
        yield RowPage(table, same[0]["id"], same[-1]["id"], counted, same)


def row_columns(facts: Table, schema: Schema, *, changed: bool = False) -> list[str]:
    """Return the existing columns that ``stored_objects``, or ``changed_objects``, reads; the id first."""
    names = ["id", facts.remote_column]
    if changed:
        names += change_columns(facts)
    for attachment in facts.attachments:
        names += [attachment.file_name_column, attachment.file_size_column, attachment.content_type_column]
        names.append(attachment.styles_by)
        if facts.remote is not Remote.NEVER:
            names.append(attachment.storage_schema_version_column)
        if attachment.renamed_to:
            names.append(PROCESSING)
        if any(style.may_be_absent_before for styles in attachment.styles.values() for style in styles):
            names.append(attachment.updated_at_column)
    return [name for name in dict.fromkeys(names) if name is not None and schema.has(facts.name, name)]


def is_private(facts: Table, schema: Schema, rows: str) -> sql.Composable:
    """Return the condition that a row's files are private. ``rows`` is the alias of the table in the query.

    The schema must have passed `Schema.require` for the table: what decides is there.
    """
    # A subquery for each row, not a join: with stale statistics a join might read the whole other table.
    private = [
        sql.SQL("COALESCE((SELECT COALESCE({}) IS NOT NULL FROM {} o WHERE o.id = {}), false)").format(
            sql.SQL(", ").join(
                sql.Identifier("o", column)
                for column in (owner.private_since, *(name for name in owner.newer if schema.has(owner.table, name)))
            ),
            schema.identifier(owner.table),
            sql.Identifier(rows, owner.column),
        )
        for owner in facts.owners
    ]
    return _any_of(private) if private else sql.Literal(facts.private)


def _any_of(conditions: Iterable[sql.Composable]) -> sql.Composable:
    """Return the conditions joined by OR, in brackets."""
    return sql.SQL("({})").format(sql.SQL(" OR ").join(conditions))


def _page_query(
    facts: Table, schema: Schema, columns: list[str], wanted: sql.Composable, remote: RemoteWindow | None
) -> sql.Composed:
    """Return the query of one page.

    ``scanned`` reads a page of rows by primary key and bounds the work; ``page`` holds the selected ones. Each row of
    the result begins with the counts of ``scanned``; there is one row even if none is selected. Of a row that
    ``remote`` leaves out, its objects are counted.
    """
    subset = in_subset(facts, schema, remote)
    objects: sql.Composable = sql.Literal(0)
    cached: sql.Composable = sql.Literal(False)
    if remote is not None:
        is_out = sql.SQL("{} AND NOT {}").format(wanted, subset)
        objects = sql.SQL("CASE WHEN {} THEN {} ELSE 0 END").format(is_out, object_count(facts, schema))
        cached = sql.SQL("{} AND {}").format(is_out, is_cached(facts, schema))
        wanted = sql.SQL("{} AND {}").format(wanted, subset)
    inner = [*columns, *(owner.column for owner in facts.owners)]
    return sql.SQL(
        """
        WITH scanned AS (
            SELECT {inner}, {wanted} AS wanted, {objects} AS left_out, {cached} AS in_cache
            FROM {table} walked
            WHERE id >= %(first)s AND id <= %(last)s
            ORDER BY id
            LIMIT %(rows)s
        ), counted AS (
            SELECT min(id), max(id), count(*) AS scanned, count(*) FILTER (WHERE wanted), count(*) = %(rows)s AS more,
                COALESCE(sum(left_out), 0), count(*) FILTER (WHERE in_cache)
            FROM scanned
        ), page AS (
            SELECT {inner} FROM scanned WHERE wanted ORDER BY id OFFSET %(offset)s LIMIT %(limit)s
        )
        SELECT counted.*, {outer}, {private}
        FROM counted LEFT JOIN page ON true
        ORDER BY page.id
        """
    ).format(
        inner=sql.SQL(", ").join(map(sql.Identifier, inner)),
        wanted=wanted,
        objects=objects,
        cached=cached,
        table=schema.identifier(facts.name),
        outer=sql.SQL(", ").join(sql.Identifier("page", column) for column in columns),
        private=is_private(facts, schema, "page"),
    )


def has_name(attachment: Attachment) -> sql.Composed:
    """Return the condition that an attachment has a file; NULL or false: it has none. The query needs ``blank``."""
    return sql.SQL("btrim({}, %(blank)s) <> ''").format(sql.Identifier(attachment.file_name_column))


def _has_file(facts: Table, schema: Schema) -> sql.Composable:
    return _any_of(has_name(each) for each in facts.attachments if schema.has(facts.name, each.file_name_column))


def _has_changed(facts: Table, schema: Schema, remote: RemoteWindow | None) -> sql.Composable:
    # The same rule as in `changed_objects`: an unknown time counts as later, if there is a file.
    names = [CREATED_AT, *(attachment.updated_at_column for attachment in facts.attachments)]
    if remote is not None and remote.after is not None and facts.age_column is not None:
        names.append(facts.age_column)
    conditions: list[sql.Composable] = [
        sql.SQL("{} > %(since)s").format(sql.Identifier(name))
        for name in dict.fromkeys(names)
        if schema.has(facts.name, name)
    ]
    conditions += [
        sql.SQL("({} IS NULL AND {})").format(sql.Identifier(attachment.updated_at_column), has_name(attachment))
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
    if schema.has(facts.name, CREATED_AT):
        conditions.append(sql.SQL("created_at IS NULL"))
    return _any_of([*conditions, sql.SQL("id > %(all_above)s")])
