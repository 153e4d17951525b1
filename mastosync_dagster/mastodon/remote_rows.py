"""Which remote rows of a table are wanted: all, none, or the newest ones, by the time that Mastodon's clean-up goes by.

``tootctl media remove --days`` takes remote attachments by ``created_at``, ``tootctl preview_cards remove --days``
takes cards by ``updated_at`` (`Table.age_column`). Remote avatars and emoji have no such time: they are wanted, or not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from psycopg2 import sql

from mastosync_dagster.mastodon.connection import may_not_read
from mastosync_dagster.mastodon.tables import Remote, table_named

if TYPE_CHECKING:
    from typing import Self

    from mastosync_dagster.mastodon.schema import Schema
    from mastosync_dagster.mastodon.tables import Attachment, Table

MOST_DAYS = 36_500
_DAYS = re.compile(r"([0-9]{1,5})( days?)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RemoteWindow:
    """The remote rows to take: those whose time (`Table.age_column`) is after ``after``; None: none of them."""

    after: datetime | None


@dataclass(frozen=True, slots=True)
class RemoteRule:
    """Which remote rows are wanted: those of the last so many ``days``; 0: none; None: all."""

    days: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the rule that ``always``, ``never`` or a number of days stands for; else ValueError."""
        word = text.strip().lower()
        if word in {"always", "never"}:
            return cls(None if word == "always" else 0)
        match = _DAYS.fullmatch(word)
        if match is None or not 1 <= int(match[1]) <= MOST_DAYS:
            raise ValueError(text)
        return cls(int(match[1]))

    def __str__(self) -> str:
        if not self.days:
            return "always" if self.days is None else "never"
        return f"{self.days} days"

    def window(self, now: datetime) -> RemoteWindow | None:
        """Return the remote rows that are wanted at a time; None: all."""
        if not self.days:
            return None if self.days is None else RemoteWindow(None)
        return RemoteWindow(now - timedelta(days=self.days))

    def covers(self, at: datetime, other: RemoteRule, now: datetime) -> bool:
        """Return whether what this rule wanted ``at`` a time has all that another one wants ``now``.

        Rows that have changed in between do not count.
        """
        if self.days is None or other.days == 0:
            return True
        if other.days is None or self.days == 0:
            return False
        # A window moves on: a shorter one of long ago may begin before a longer one of today.
        return self.days >= other.days or at - timedelta(days=self.days) <= now - timedelta(days=other.days)


EVERY_REMOTE_ROW = RemoteRule()


def has_remote_rows(table: str) -> bool:
    """Return whether rows of a table can be remote."""
    return table_named(table).remote is not Remote.NEVER


def is_remote_row(facts: Table) -> sql.Composable:
    """Return the condition that a row is remote, never NULL: the rule of `is_remote`. The query needs ``blank``."""
    if facts.remote_column is None:
        return sql.Literal(facts.remote is Remote.ALWAYS)
    column = sql.Identifier(facts.remote_column)
    if facts.remote is Remote.IF_NOT_NULL:
        return sql.SQL("{} IS NOT NULL").format(column)
    return sql.SQL("COALESCE(btrim({}, %(blank)s) <> '', false)").format(column)


def in_subset(facts: Table, schema: Schema, window: RemoteWindow | None) -> sql.Composable:
    """Return the condition that a row is wanted, never NULL. The query needs ``blank`` and ``remote_after``.

    DatabaseReadError if the user may not read the column with the row's time.
    """
    if window is None or facts.remote is Remote.NEVER:
        return sql.Literal(True)
    local = sql.SQL("NOT {}").format(is_remote_row(facts))
    if window.after is None:
        return local
    column = facts.age_column
    if column is None:
        return sql.Literal(True)
    if not schema.has(facts.name, column):
        raise may_not_read(schema.database, f"{facts.name}.{column}")
    # An unknown time counts as later: nothing that may be wanted is left out.
    return sql.SQL("({} OR ({} > %(remote_after)s) IS NOT FALSE)").format(local, sql.Identifier(column))


def object_count(facts: Table, schema: Schema) -> sql.Composable:
    """Return how many objects `stored_objects` finds for a row. The query needs ``blank``."""
    parts = [
        sql.SQL("CASE WHEN btrim({}, %(blank)s) <> '' THEN 1 + {} ELSE 0 END").format(
            sql.Identifier(attachment.file_name_column), _style_count(attachment)
        )
        for attachment in facts.attachments
        if schema.has(facts.name, attachment.file_name_column)
    ]
    return sql.SQL("({})").format(sql.SQL(" + ").join(parts))


def _style_count(attachment: Attachment) -> sql.Composable:
    if attachment.styles_by is None:
        return sql.Literal(len(attachment.styles.get(None, ())))
    if not attachment.styles:
        return sql.Literal(0)
    cases = [
        sql.SQL("WHEN {} THEN {}").format(sql.Literal(value), sql.Literal(len(styles)))
        for value, styles in attachment.styles.items()
    ]
    return sql.SQL("CASE {} {} ELSE 0 END").format(sql.Identifier(attachment.styles_by), sql.SQL(" ").join(cases))


def is_cached(facts: Table, schema: Schema) -> sql.Composable:
    """Return the condition that the files of a remote row lie in ``cache/``, never NULL."""
    columns = [
        each.storage_schema_version_column
        for each in facts.attachments
        if not each.optional and schema.has(facts.name, each.storage_schema_version_column)
    ]
    if not columns:
        return sql.Literal(False)
    return sql.SQL("LEAST({}) >= 1").format(
        sql.SQL(", ").join(sql.SQL("COALESCE({}, 0)").format(sql.Identifier(name)) for name in columns)
    )
