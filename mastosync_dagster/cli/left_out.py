"""``mastosync report --left-out``: the objects that the policy leaves out, by the rows of the database."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

import click

from mastosync_dagster.escaping import csv_cell, one_line
from mastosync_dagster.mastodon import Database, Selection, database_now, read_schema, stored_objects, walk_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mastosync_dagster.expected.policy import Policy
    from mastosync_dagster.mastodon import Connect
    from mastosync_dagster.ranges.partitions import FileType

_COLUMNS = ("file_type", "id", "part", "key", "size")
_Line = tuple[str, object, str, str, "int | None"]


def print_left_out(
    connect: Connect, file_types: Sequence[FileType], policy: Policy, *, key_prefix: str, form: str
) -> None:
    """Print every object that a policy leaves out, as ``table``, ``csv`` or ``json`` (a line each), one by one.

    ``key_prefix`` is the destination's.

    Raises:
        NotMastodonError: A table or column does not exist.
        DatabaseReadError: The rows could not be read, after all retries.
    """
    counts: Counter[str] = Counter({file_type.value: 0 for file_type in file_types})
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if form == "csv":
        writer.writerow(_COLUMNS)
    for line in _lines(connect, [file_type.value for file_type in file_types], policy, key_prefix):
        counts[line[0]] += 1
        if form == "csv":
            writer.writerow(map(csv_cell, line))
        elif form == "json":
            click.echo(json.dumps(dict(zip(_COLUMNS, line, strict=True))))
        else:
            click.echo(one_line(f"{line[0]} {line[1]}  {line[2]}  {line[3]}"))
    if form == "table":
        for table, count in counts.items():
            click.echo(f"{table}: {count:,} objects left out (other servers' files: {policy.rule(table)})")


def _lines(connect: Connect, tables: Sequence[str], policy: Policy, key_prefix: str) -> Iterator[_Line]:
    with contextlib.closing(connect()) as connection:
        database, now = Database(connect, read_schema(connection, tables)), database_now(connection)
    for table in tables:
        window = policy.window(table, now)
        if window is None:
            continue
        for page in walk_rows(database, Selection(table, remote=window, left_out=True)):
            for row in page.rows:
                for stored in stored_objects(table, row):
                    key = key_prefix + stored.key
                    yield table, row["id"], f"{stored.attachment}/{stored.style}", key, stored.size
