"""The tables and columns of Mastodon's that a database has, read once: queries name only columns that exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg2 import sql
from psycopg2.extensions import encodings

from mastosync_dagster.mastodon.connection import (
    NotMastodonError,
    may_not_read,
    not_mastodon,
    read_over,
    reading_once,
)
from mastosync_dagster.mastodon.tables import BLANK, PROCESSING, TABLES, Table, table_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.mastodon.connection import Connect


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
        columns: The columns that its user may read, by table.
        unreadable: The existing columns that its user may not read, by table.
        namespaces: The PostgreSQL schema of each table (the first of the search path that has it).
        blank: Those of `BLANK` that the database's encoding has: a query with another one fails.
    """

    database: str
    columns: Mapping[str, frozenset[str]]
    unreadable: Mapping[str, frozenset[str]]
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
        """Make sure that tables exist, with the columns that mastosync needs.

        NotMastodonError names all that is absent, DatabaseReadError all columns that exist and that the user may not
        read. An unreadable column is an error even if a version may lack it: it hides whether objects are private.
        """
        hidden: dict[str, None] = {}
        for name in tables:
            for table, column in _used_columns(table_named(name)):
                if column in self.unreadable.get(table, ()):
                    hidden[f"{table}.{column}" if table in self.columns else f"table {table}"] = None
        if hidden:
            raise may_not_read(self.database, ", ".join(hidden))
        absent = []
        for name in tables:
            facts = table_named(name)
            columns = [column for column in _needed_columns(facts) if not self.has(name, column)]
            if name not in self.columns:
                absent.append(f"it has no table {name}")
            elif columns:
                absent.append(f"{name} has no column {', '.join(columns)}")
        if absent:
            raise not_mastodon(self.database, "; ".join(absent))

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


def read_schema(connection: Connection, tables: Sequence[str] | None = None) -> Schema:
    """Return which of Mastodon's tables and columns a database has, after `Schema.require` for ``tables``.

    ``tables``: None stands for those that every version of Mastodon has.
    """
    required = [name for name, table in TABLES.items() if not table.optional] if tables is None else list(tables)
    asked = sorted({*TABLES, *(owner.table for table in TABLES.values() for owner in table.owners)})
    with reading_once(connection) as cursor:
        cursor.execute("SELECT current_database()::text")
        ((database,),) = cursor.fetchall()
        cursor.execute(
            """
            SELECT c.table_schema::text, c.table_name::text, c.column_name::text
            FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (schema, position)
            JOIN information_schema.columns c ON c.table_schema::text = path.schema::text
            WHERE c.table_name::text = ANY (%s)
            ORDER BY path.position
            """,
            (asked,),
        )
        found = cursor.fetchall()
        # information_schema hides columns without any right for the user, and shows those that he may only write.
        cursor.execute(
            """
            SELECT n.nspname::text, c.relname::text, a.attname::text
            FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (schema, position)
            JOIN pg_namespace n ON n.nspname = path.schema
            JOIN pg_class c ON c.relnamespace = n.oid
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE c.relname::text = ANY (%s) AND NOT has_column_privilege(c.oid, a.attnum, 'SELECT')
            ORDER BY path.position
            """,
            (asked,),
        )
        hidden = cursor.fetchall()
    namespaces: dict[str, str] = {}
    for namespace, table, _ in found + hidden:
        namespaces.setdefault(table, namespace)
    unreadable = _by_table(hidden, namespaces)
    schema = Schema(
        database=database,
        columns={
            table: readable
            for table, columns in _by_table(found, namespaces).items()
            if (readable := columns - unreadable.get(table, frozenset()))
        },
        unreadable=unreadable,
        namespaces=namespaces,
        blank=_known_to(connection, BLANK),
    )
    try:
        schema.require(required)
    except NotMastodonError as error:
        raise NotMastodonError(f"{error}{_elsewhere(connection, required)}") from error
    return schema


def _known_to(connection: Connection, characters: str) -> str:
    """Return those characters that the database's encoding has; in SQL_ASCII nothing but ASCII is a character."""
    codec = encodings.get(connection.info.parameter_status("server_encoding") or "UTF8", "ascii")
    return "".join(character for character in characters if character.encode(codec, "ignore"))


def _elsewhere(connection: Connection, tables: Sequence[str]) -> str:
    """Return a sentence on tables in schemas that the search path has not, or that the user may not look into."""
    with reading_once(connection) as cursor:
        cursor.execute(
            """
            SELECT n.nspname::text, has_schema_privilege(n.oid, 'USAGE'), current_user::text, current_database()::text
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relname::text = ANY (%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
            AND n.nspname <> ALL (current_schemas(false)) GROUP BY n.oid, n.nspname ORDER BY count(*) DESC, n.nspname
            """,
            (list(tables),),
        )
        found = cursor.fetchall()
    if not found:
        return ""
    names = ", ".join(f'"{name}"' for name, *_ in found)
    name, usable, user, database = found[0]
    path = f'"{name}"' if name == "public" else f'"{name}", public'
    cure = (
        f'ALTER ROLE "{user}" IN DATABASE "{database}" SET search_path = {path}'
        if usable
        else f'GRANT USAGE ON SCHEMA "{name}" TO "{user}"'
    )
    why = "not in its user's search path" if usable else "not open to its user"
    return f" It has tables of these names in the schema {names}, which is {why}: {cure};"


def _by_table(found: Iterable[tuple[str, str, str]], namespaces: Mapping[str, str]) -> dict[str, frozenset[str]]:
    columns: dict[str, set[str]] = {}
    for namespace, table, column in found:
        if namespaces[table] == namespace:
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
        yield from ((owner.table, column) for column in owner.private_since)


def _needed_columns(facts: Table) -> Iterator[str]:
    yield from ("id", "created_at")
    if facts.remote_column is not None:
        yield facts.remote_column
    for attachment in facts.attachments:
        if not attachment.optional:
            yield from (attachment.file_name_column, attachment.updated_at_column)
            if attachment.styles_by is not None:
                yield attachment.styles_by
