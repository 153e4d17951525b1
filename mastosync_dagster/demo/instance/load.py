"""Loads a generated Mastodon instance into PostgreSQL and an S3 bucket."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import TYPE_CHECKING

from psycopg2 import sql
from psycopg2.extras import execute_values

from mastosync_dagster.demo.instance.book import GeneratedObject, Instance, MissingObject
from mastosync_dagster.demo.instance.case import Case, Ids
from mastosync_dagster.demo.instance.cases import CASES
from mastosync_dagster.demo.instance.generator import ATTACHMENTS, Generator, Upload
from mastosync_dagster.demo.servers.start import bucket_storage

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.demo.servers.start import S3Server
    from mastosync_dagster.s3.client import Client

__all__ = ["GeneratedObject", "Instance", "MissingObject", "build", "grow"]

# Shares of the rows; the other tables get one row a case.
_SHARES = {"media_attachments": 0.55, "accounts": 0.22, "custom_emojis": 0.12, "preview_cards": 0.11}
_PART_BYTES = 5 * 2**20
_UPLOAD_THREADS = 16

_STATUSES = """
CREATE TABLE IF NOT EXISTS statuses (
    id bigint PRIMARY KEY,
    account_id bigint NOT NULL,
    deleted_at timestamp without time zone
)
"""


def build(
    connection: Connection,
    server: S3Server,
    bucket: str,
    *,
    cases: Sequence[Case],
    rows: int,
    seed: int = 1,
    key_prefix: str = "",
) -> Instance:
    """Create the tables in an empty database, fill and commit them, and fill an empty source bucket.

    Each case has at least one row. ``rows`` is approximate, and must leave room for that. The same seed makes the same
    rows and objects.
    """
    schema = resources.files("mastosync_dagster.demo").joinpath("schema_main.sql").read_text()
    with connection.cursor() as cursor:
        cursor.execute(schema)
        cursor.execute(_STATUSES)
    generator = Generator(seed, key_prefix)
    for table in ("accounts", *ATTACHMENTS):  # accounts first: they own the media
        if table not in generator.rows:
            chosen = [case for case in cases if case.table == table]
            generator.add(table, _choose(generator.random, chosen, round(rows * _SHARES.get(table, 0))), None)
    return _load(generator, connection, server, bucket)


def grow(
    connection: Connection, server: S3Server, bucket: str, instance: Instance, *, rows: int, now: datetime
) -> Instance:
    """Add about so many rows, created ``now``, and their objects to the tables that grow; return these alone.

    ``instance`` is what is there already.
    """
    generator = Generator(len(instance.objects), instance.key_prefix, instance)
    for table in ("accounts", *_SHARES):
        if table not in generator.rows:
            common = [case for case in CASES if case.table == table and case.weight and case.ids is Ids.NEW]
            weights = [case.weight for case in common]
            count = max(1, round(rows * _SHARES[table]))
            generator.add(table, generator.random.choices(common, weights, k=count), now)
    return _load(generator, connection, server, bucket)


def _choose(rng: random.Random, cases: list[Case], count: int) -> list[Case]:
    """Return every case once, the common ones as often as fits, in random order."""
    common = [case for case in cases if case.weight]
    more = rng.choices(common, [case.weight for case in common], k=max(0, count - len(cases))) if common else []
    chosen = cases + more
    rng.shuffle(chosen)
    return chosen


def _load(generator: Generator, connection: Connection, server: S3Server, bucket: str) -> Instance:
    instance = generator.instance()
    for table, rows in instance.rows.items():
        _insert(connection, table, rows)
    connection.commit()
    _send(generator.uploads, server, bucket)
    return instance


def _insert(connection: Connection, table: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert rows; those that name the same columns go in one statement, so that the others get their defaults."""
    groups: defaultdict[tuple[str, ...], list[Mapping[str, object]]] = defaultdict(list)
    for row in rows:
        groups[tuple(sorted(row))].append(row)
    with connection.cursor() as cursor:
        for columns, group in groups.items():
            statement = sql.SQL("INSERT INTO {} ({}) VALUES %s").format(
                sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
            )
            values = [tuple(row[column] for column in columns) for row in group]
            execute_values(cursor, statement, values, page_size=1000)


def _send(uploads: Sequence[Upload], server: S3Server, bucket: str) -> None:
    storage = bucket_storage(server, bucket)

    def send(upload: Upload) -> None:
        if len(upload.body) > 3 * _PART_BYTES:
            storage.ask(lambda client: _send_in_parts(client, upload))
        else:
            storage.ask(lambda client: client.put(upload.key, upload.body, upload.headers, None))

    with ThreadPoolExecutor(_UPLOAD_THREADS) as pool:
        for _ in pool.map(send, uploads):
            pass


async def _send_in_parts(client: Client, upload: Upload) -> None:
    upload_id, _ = await client.create_upload(upload.key, upload.headers)
    etags = []
    for number, start in enumerate(range(0, len(upload.body), _PART_BYTES), 1):
        part = upload.body[start : start + _PART_BYTES]
        reply = await client.put_part(upload.key, upload_id, number, part, None)
        etags.append(reply.headers["etag"].strip('"'))
    await client.complete_upload(upload.key, upload_id, etags)
