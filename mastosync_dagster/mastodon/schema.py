"""The tables and columns of Mastodon's that a database has, read once: queries name only columns that exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from psycopg2 import sql
from psycopg2.extensions import encodings

from mastosync_dagster.mastodon.changes import CREATED_AT, ROW_UPDATED_AT
from mastosync_dagster.mastodon.connection import (
    NotMastodonError,
    may_not_read,
    not_mastodon,
    read_over,
    reading_once,
    rows_hidden,
)
from mastosync_dagster.mastodon.tables import BLANK, PROCESSING, TABLES, TABLES_READ, Table, table_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.mastodon.connection import Connect
    from mastosync_dagster.mastodon.tables import Owner


@dataclass(frozen=True, slots=True)
class _Mark:
    """A column that was new in a version, and a table that was removed by then."""

    version: str
    table: str
    column: str
    removed: str | None = None


# Newest first; from db/migrate of Mastodon's releases.
_MARKS = (
    _Mark("4.7 or newer", "accounts", "requested_deletion_at"),
    _Mark("4.6", "media_attachments", "thumbnail_storage_schema_version"),
    _Mark("4.4 or 4.5", "accounts", "attribution_domains", removed="imports"),
    _Mark("4.3", "accounts", "attribution_domains"),
    _Mark("4.2", "accounts", "indexable"),
    _Mark("4.0 or 4.1", "site_uploads", "blurhash"),
    _Mark("3.5", "preview_card_providers", "id"),
    _Mark("3.2 to 3.4", "media_attachments", "file_storage_schema_version"),
    _Mark("3.0 or 3.1", "custom_emojis", "category_id"),
)


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables and columns that were found.

    Attributes:
        user: The database's user.
        columns: The columns that its user may read, by table.
        unreadable: The existing columns that its user may not read, by table.
        filtered: The tables of which row-level security does not show all rows to its user.
        unusable: Why no rows can be read of a table, by table.
        left_out: The columns that a view has not, and a table of its name in another schema has, by view.
        namespaces: The PostgreSQL schema of each table (the first of the search path that has it).
        blank: Those of `BLANK` that the database's encoding has: a query with another one fails.
    """

    database: str
    user: str
    columns: Mapping[str, frozenset[str]]
    unreadable: Mapping[str, frozenset[str]]
    filtered: frozenset[str]
    unusable: Mapping[str, str]
    left_out: Mapping[str, frozenset[str]]
    namespaces: Mapping[str, str]
    blank: str

    def has(self, table: str, *columns: str) -> bool:
        """Return whether the table exists, with all these columns."""
        return table in self.columns and self.columns[table].issuperset(columns)

    def exists(self, table: str) -> bool:
        """Return whether the table exists, whether or not the user may read any of it."""
        return table in self.columns or table in self.unreadable

    def identifier(self, table: str) -> sql.Identifier:
        """Return the table's name with its schema, since a pooler's sessions may differ in search path."""
        return sql.Identifier(self.namespaces[table], table)

    def beside(self, table: str, other: str) -> sql.Identifier:
        """Return the name of another table in the same schema, whether or not it exists."""
        return sql.Identifier(self.namespaces[table], other)

    def require(self, tables: Sequence[str]) -> None:
        """Make sure that tables exist, with the columns that mastosync needs, and show all their rows.

        NotMastodonError names all that is absent, also of what decides whether objects are private (`Owner`).
        DatabaseReadError names all columns that exist and that the user may not read, or tables with row-level
        security. An unreadable column is an error even if a version may lack it: it hides whether objects are private.
        """
        hidden: dict[str, None] = {}
        for name in tables:
            for table, column in _used_columns(table_named(name)):
                if column in self.unreadable.get(table, ()):
                    hidden[f"{table}.{column}" if table in self.columns else f"table {table}"] = None
        if hidden:
            raise may_not_read(self.database, ", ".join(hidden))
        used = dict.fromkeys(table for name in tables for table, _ in _used_columns(table_named(name)))
        if filtered := [table for table in used if table in self.filtered]:
            raise rows_hidden(self.database, self.user, f"rows of {', '.join(filtered)}")
        if absent := [what for name in tables for what in self._absent(table_named(name))]:
            raise not_mastodon(self.database, "; ".join(absent))

    def _absent(self, facts: Table) -> Iterator[str]:
        """Yield what is absent of a table and of its owners, for people."""
        if facts.name in self.unusable or facts.name not in self.columns:
            yield self.unusable.get(facts.name, f"it has no table {facts.name}")
            return
        if columns := [column for column in _needed_columns(facts) if not self.has(facts.name, column)]:
            yield f"{facts.name} has no column {', '.join(columns)}"
        for owner in facts.owners:
            for what in self._absent_of(facts, owner):
                yield f"{what}, without which nobody knows which objects of {facts.name} are private"

    def _absent_of(self, facts: Table, owner: Owner) -> Iterator[str]:
        if not self.has(facts.name, owner.column):
            yield f"{facts.name} has no column {owner.column}"
        if owner.table in self.unusable or owner.table not in self.columns:
            yield self.unusable.get(owner.table, f"it has no table {owner.table}")
            return
        if columns := [column for column in ("id", owner.private_since) if not self.has(owner.table, column)]:
            yield f"{owner.table} has no column {', '.join(columns)}"
        if columns := [column for column in owner.newer if column in self.left_out.get(owner.table, ())]:
            yield f"the view {owner.table} has no column {', '.join(columns)}, which a table of that name has"

    def guess_version(self) -> str:
        """Return the version of Mastodon that has these columns, as text for people: ``4.7 or newer``."""
        for mark in _MARKS:
            if self.has(mark.table, mark.column) and mark.removed not in self.columns:
                return mark.version
        return "before 3.0"


@dataclass(frozen=True, slots=True)
class Database:
    """Mastodon's database, as it is handed down: how to open a connection, and what its tables are."""

    connect: Connect
    schema: Schema

    @classmethod
    def open(cls, connect: Connect, tables: Sequence[str] | None = None) -> Database:
        """Read the schema, as `read_schema` does, with a connection that is closed again."""
        return cls(connect, read_over(connect, lambda connection: read_schema(connection, tables)))


class _Column(NamedTuple):
    """A column of a table or view in the search path.

    Attributes:
        kind: Of the table, as ``pg_class.relkind`` has it.
        filtered: Whether row-level security may hide rows of the table from the user.
        type: Its type's name.
        readable: Whether the user may read it.
    """

    namespace: str
    table: str
    kind: str
    filtered: bool
    name: str
    type: str
    readable: bool


# information_schema has no materialized views, and shows columns that the user may only write.
_COLUMNS = """
SELECT n.nspname::text, c.relname::text, c.relkind::text, row_security_active(c.oid),
    a.attname::text, format_type(a.atttypid, NULL), has_column_privilege(c.oid, a.attnum, 'SELECT')
FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (schema, position)
JOIN pg_namespace n ON n.nspname = path.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relname::text = ANY (%s)
ORDER BY path.position
"""
_OF_TABLES = """
SELECT c.relname::text, a.attname::text
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p', 'f') AND c.relname::text = ANY (%s)
"""
_VIEW, _MATERIALIZED_VIEW = "v", "m"
_ID_TYPES = frozenset({"bigint", "integer"})


def read_schema(connection: Connection, tables: Sequence[str] | None = None) -> Schema:
    """Return which of Mastodon's tables and columns a database has, after `Schema.require` for ``tables``.

    ``tables``: None stands for those that every version of Mastodon has.
    """
    required = [name for name, table in TABLES.items() if not table.optional] if tables is None else list(tables)
    asked = sorted(TABLES_READ)
    with reading_once(connection) as cursor:
        cursor.execute("SELECT current_database()::text, current_user::text")
        ((database, user),) = cursor.fetchall()
        cursor.execute(_COLUMNS, (asked,))
        found = list(map(_Column._make, cursor.fetchall()))
        namespaces: dict[str, str] = {}
        for column in found:
            namespaces.setdefault(column.table, column.namespace)
        found = [column for column in found if column.namespace == namespaces[column.table]]
        cursor.execute(_OF_TABLES, (sorted({column.table for column in found if column.kind == _VIEW}),))
        of_tables = cursor.fetchall()
    there = _by_table((column.table, column.name) for column in found)
    schema = Schema(
        database=database,
        user=user,
        columns=_by_table((column.table, column.name) for column in found if column.readable),
        unreadable=_by_table((column.table, column.name) for column in found if not column.readable),
        filtered=frozenset(column.table for column in found if column.filtered),
        unusable=dict(_unusable(found)),
        left_out=_by_table((table, name) for table, name in of_tables if name not in there[table]),
        namespaces=namespaces,
        blank=_known_to(connection, BLANK),
    )
    try:
        schema.require(required)
    except NotMastodonError as error:
        raise NotMastodonError(f"{error}{_elsewhere(connection, required)}") from error
    return schema


def _unusable(found: Iterable[_Column]) -> Iterator[tuple[str, str]]:
    """Yield tables of which no rows can be read, each with the reason."""
    for column in found:
        if column.kind == _MATERIALIZED_VIEW:
            yield column.table, f"{column.table} is a materialized view, which shows rows as they once were"
        elif column.name == "id" and column.type not in _ID_TYPES:
            yield column.table, f"{column.table}.id is {column.type}, not bigint"


def _known_to(connection: Connection, characters: str) -> str:
    """Return those characters that the database's encoding has; in SQL_ASCII nothing but ASCII is a character."""
    codec = encodings.get(connection.info.parameter_status("server_encoding") or "UTF8", "ascii")
    return "".join(character for character in characters if character.encode(codec, "ignore"))


def _elsewhere(connection: Connection, tables: Sequence[str]) -> str:
    """Return a sentence on tables in schemas that the search path has not, or that the user may not look into."""
    asked = {*tables, *(owner.table for name in tables for owner in table_named(name).owners)}
    with reading_once(connection) as cursor:
        cursor.execute(
            """
            SELECT n.nspname::text, has_schema_privilege(n.oid, 'USAGE'), current_user::text, current_database()::text,
                current_schemas(false)::text[]
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relname::text = ANY (%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
            AND n.nspname <> ALL (current_schemas(false)) GROUP BY n.oid, n.nspname ORDER BY count(*) DESC, n.nspname
            """,
            (sorted(asked),),
        )
        found = cursor.fetchall()
    if not found:
        return ""
    names = ", ".join(f'"{name}"' for name, *_ in found)
    name, usable, user, database, path = found[0]
    quoted = [f'"{schema}"' for schema in dict.fromkeys((name, *(path or ["public"])))]
    cure = (
        f'ALTER ROLE "{user}" IN DATABASE "{database}" SET search_path = {", ".join(quoted)}'
        if usable
        else f'GRANT USAGE ON SCHEMA "{name}" TO "{user}"'
    )
    why = "not in its user's search path" if usable else "not open to its user"
    return f" It has tables of these names in the schema {names}, which is {why}: {cure};"


def _by_table(found: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    columns: dict[str, set[str]] = {}
    for table, column in found:
        columns.setdefault(table, set()).add(column)
    return {table: frozenset(names) for table, names in columns.items()}


def _used_columns(facts: Table) -> Iterator[tuple[str, str]]:
    """Yield table and name of every column that matters for a table's objects."""
    for column in _needed_columns(facts):
        yield facts.name, column
    for attachment in facts.attachments:
        for column in (
            attachment.file_name_column,
            attachment.content_type_column,
            attachment.file_size_column,
            attachment.updated_at_column,
            attachment.storage_schema_version_column,
        ):
            yield facts.name, column
        if attachment.renamed_to:
            yield facts.name, PROCESSING
    for owner in facts.owners:
        yield facts.name, owner.column
        yield owner.table, "id"
        yield from ((owner.table, column) for column in (owner.private_since, *owner.newer))


def _needed_columns(facts: Table) -> Iterator[str]:
    yield from ("id", CREATED_AT)
    if any(attachment.processed_later for attachment in facts.attachments):
        # It alone shows that a file was converted.
        yield ROW_UPDATED_AT
    if facts.remote_column is not None:
        yield facts.remote_column
    for attachment in facts.attachments:
        if not attachment.optional:
            yield from (attachment.file_name_column, attachment.updated_at_column)
            if attachment.styles_by is not None:
                yield attachment.styles_by
