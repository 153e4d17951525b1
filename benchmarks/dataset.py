"""What is copied: rows of a generated Mastodon database, and the objects they stand for.

Everything follows from a seed: two runs of the benchmark copy the same bytes under the same keys.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import random
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import psycopg2

from mastosync_dagster.mastodon import stored_objects

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from obstore import Attributes

    from mastosync_dagster.demo.servers.start import PostgresServer

SEED = 20_240_101
BIG_BYTES = 64 * 1024 * 1024
_LARGE_FROM = 16 * 1024 * 1024
_CACHE_CONTROL = "public, max-age=315576000, immutable"
_ACCOUNTS = 1_000
_NOISE_BYTES = 8 * 1024 * 1024
_FIRST_MOMENT = 1_704_067_200_000  # 2024-01-01, in milliseconds
_LATER = 100_000_000_000
"""Milliseconds between the ids of two data sets."""
_MILLISECONDS_APART = 90_000.0  # milliseconds between two attachments, on average

# Bytes: median, spread (standard deviation of the logarithm), smallest, largest. Originals and previews of a general
# instance with remote media; together their median is 16 KB.
_ORIGINALS = (40 * 1024, 1.25, 1024, 4 * 1024 * 1024)
_PREVIEWS = (10 * 1024, 0.6, 512, 512 * 1024)

_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "mp4": "video/mp4", "mp3": "audio/mpeg"}
_EXTENSIONS = ("jpg",) * 14 + ("png",) * 3 + ("webp",) * 2 + ("mp4",)


@functools.cache
def _noise() -> bytes:
    """Bytes that do not compress."""
    return random.Random(SEED).randbytes(_NOISE_BYTES)


@dataclass(frozen=True, slots=True)
class Body:
    """One object of the source.

    Attributes:
        key: Its key.
        size: Its bytes.
        content_type: Its media type.
        number: What makes its content differ from all others'.
    """

    key: str
    size: int
    content_type: str
    number: int

    @property
    def is_large(self) -> bool:
        """Whether it is uploaded in parts."""
        return self.size > _LARGE_FROM

    def content(self) -> bytes:
        """Return the object's bytes."""
        mark = self.number.to_bytes(8, "big", signed=True)[: self.size]
        start = self.number * 4099 % (_NOISE_BYTES // 2)
        filling = _noise()[start : start + self.size - len(mark)]
        missing = self.size - len(mark) - len(filling)
        repeated = _noise() * math.ceil(missing / _NOISE_BYTES) if missing else b""
        return b"".join((mark, filling, memoryview(repeated)[:missing]))

    def attributes(self) -> Attributes:
        """Return the headers that it is stored with, as Mastodon stores them."""
        return {"Content-Type": self.content_type, "Cache-Control": _CACHE_CONTROL}


@dataclass(frozen=True, slots=True)
class Rows:
    """A range of rows of one table, all of whose objects are to be copied.

    Attributes:
        table: The table, which is also the asset.
        lo: First id of the range.
        hi: Last id of the range.
        count: How many rows lie in it.
        bodies: The objects, in the order of their keys' rows.
    """

    table: str
    lo: int
    hi: int
    count: int
    bodies: tuple[Body, ...]

    @property
    def partition(self) -> str:
        """The range's partition key."""
        return f"{self.lo}-{self.hi}"

    @property
    def bytes(self) -> int:
        """All bodies' sizes, added up."""
        return sum(body.size for body in self.bodies)

    def write_keys(self, path: Path) -> None:
        """Write the keys, one a line, as ``rclone --files-from`` reads them."""
        path.write_text("".join(f"{body.key}\n" for body in self.bodies))


def _size(generator: random.Random, median: int, spread: float, smallest: int, largest: int) -> int:
    return min(largest, max(smallest, round(generator.lognormvariate(math.log(median), spread))))


def _snowflakes(generator: random.Random, first: int) -> Iterator[int]:
    milliseconds = float(first)
    while True:
        milliseconds += generator.expovariate(1 / _MILLISECONDS_APART)
        yield int(milliseconds) << 16 | generator.getrandbits(16)


def _bodies(table: str, row: Mapping[str, object], sizes: Iterable[int], number: int) -> Iterator[Body]:
    for offset, (stored, size) in enumerate(zip(stored_objects(table, row), sizes, strict=True)):
        kind = _TYPES[stored.key.rsplit(".", 1)[1]]
        yield Body(stored.key, size, kind, number + offset)


def media(connection: psycopg2.extensions.connection, objects: int, *, after: int | None = None) -> Rows:
    """Put rows of pictures and videos into the database, two objects a row.

    Args:
        connection: The database; committed.
        objects: How many objects.
        after: Ids begin behind this one; None: in January 2024.
    """
    generator = random.Random(SEED)
    ids = _snowflakes(generator, _FIRST_MOMENT if after is None else (after >> 16) + 3_600_000)
    rows: list[dict[str, object]] = []
    bodies: list[Body] = []
    for number in range(0, objects, 2):
        extension = generator.choice(_EXTENSIONS)
        remote = generator.random() < 0.7  # noqa: PLR2004  (most of a bucket is other servers' media)
        sizes = (_size(generator, *_ORIGINALS), _size(generator, *_PREVIEWS))
        row = _media_row(next(ids), f"{generator.getrandbits(64):016x}.{extension}", sizes[0], remote=remote)
        rows.append(row)
        bodies += _bodies("media_attachments", row, sizes, number)
    _insert_media(connection, rows)
    first, last = _id(rows[0]), _id(rows[-1])
    return Rows("media_attachments", first, last, len(rows), tuple(bodies))


def big(connection: psycopg2.extensions.connection, count: int, *, after: int) -> Rows:
    """Put rows with one object of 64 MB each into the database.

    Args:
        connection: The database; committed.
        count: How many.
        after: Ids begin behind this one.
    """
    generator = random.Random(SEED + 1)
    ids = _snowflakes(generator, (after >> 16) + 3_600_000)
    rows = [
        _media_row(next(ids), f"{generator.getrandbits(64):016x}.mp3", BIG_BYTES, remote=False) for _ in range(count)
    ]
    _insert_media(connection, rows)
    bodies = [body for n, row in enumerate(rows) for body in _bodies("media_attachments", row, (BIG_BYTES,), -1 - n)]
    return Rows("media_attachments", _id(rows[0]), _id(rows[-1]), count, tuple(bodies))


def _id(row: Mapping[str, object]) -> int:
    row_id = row["id"]
    assert isinstance(row_id, int)  # noqa: S101  (we made it)
    return row_id


def _media_row(row_id: int, name: str, size: int, *, remote: bool) -> dict[str, object]:
    return {
        "id": row_id,
        "status_id": row_id + 1,
        "account_id": row_id % _ACCOUNTS + 1,
        "file_file_name": name,
        "file_content_type": _TYPES[name.rsplit(".", 1)[1]],
        "file_file_size": size,
        "file_storage_schema_version": 1,
        "remote_url": f"https://remote.example/media/{name}" if remote else "",
        "processing": 2,
    }


def _insert_media(connection: psycopg2.extensions.connection, rows: list[dict[str, object]]) -> None:
    times = ("created_at", "updated_at", "file_updated_at")
    columns = (*rows[0], *times)
    lines = io.StringIO("".join("\t".join(map(str, (*row.values(), *("2024-01-01",) * 3))) + "\n" for row in rows))
    with connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY media_attachments ({', '.join(columns)}) FROM STDIN", lines)
        cursor.execute(
            "INSERT INTO statuses SELECT status_id, account_id FROM media_attachments WHERE id BETWEEN %s AND %s",
            (_id(rows[0]), _id(rows[-1])),
        )


def small(connection: psycopg2.extensions.connection, count: int, *, first: int) -> Rows:
    """Put rows of preview cards with one object of some hundred bytes each into the database.

    Args:
        connection: The database; committed.
        count: How many.
        first: The first id; the others follow without a gap.
    """
    insert_preview_cards(connection, count, first=first)

    def body(row_id: int) -> Body:
        row = {
            "id": row_id,
            "image_file_name": f"{row_id:016x}.jpg",
            "image_content_type": "image/jpeg",
            "image_storage_schema_version": 1,
        }
        (stored,) = stored_objects("preview_cards", row)
        return Body(stored.key, 100 + row_id % 200, "image/jpeg", row_id)

    bodies = tuple(body(row_id) for row_id in range(first, first + count))
    return Rows("preview_cards", first, first + count - 1, count, bodies)


def small_media(connection: psycopg2.extensions.connection, count: int) -> Rows:
    """Put attachments with one object of some hundred bytes each into the database; of three, two are remote."""
    ids = _snowflakes(random.Random(SEED), _FIRST_MOMENT + _LATER)
    rows: list[dict[str, object]] = []
    bodies: list[Body] = []
    for number in range(count):
        # Sounds have no preview.
        row = _media_row(next(ids), f"{number:016x}.mp3", 100 + number % 200, remote=number % 3 > 0)
        rows.append(row)
        bodies += _bodies("media_attachments", row, (100 + number % 200,), number)
    _insert_media(connection, rows)
    return Rows("media_attachments", _id(rows[0]), _id(rows[-1]), count, tuple(bodies))


def small_pictures(connection: psycopg2.extensions.connection, objects: int, *, after: int | None = None) -> Rows:
    """Put pictures into the database, two objects of some hundred bytes a row; of three, two are remote.

    Args:
        connection: The database; committed.
        objects: How many objects.
        after: Ids begin behind this one; None: in January 2024.
    """
    ids = _snowflakes(random.Random(SEED), _FIRST_MOMENT if after is None else (after >> 16) + 3_600_000)
    rows: list[dict[str, object]] = []
    bodies: list[Body] = []
    for number in range(0, objects, 2):
        size = 100 + number % 200
        row = _media_row(next(ids), f"{number:016x}.jpg", size, remote=number % 3 > 0)
        rows.append(row)
        bodies += _bodies("media_attachments", row, (size, size), number)
    _insert_media(connection, rows)
    return Rows("media_attachments", _id(rows[0]), _id(rows[-1]), len(rows), tuple(bodies))


def insert_preview_cards(connection: psycopg2.extensions.connection, count: int, *, first: int) -> None:
    """Put rows of preview cards into the database, without a thought for their objects."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO preview_cards (id, url, title, created_at, updated_at, image_file_name, image_content_type,"
            " image_file_size, image_storage_schema_version, image_updated_at)"
            " SELECT id, 'https://news.example/' || id, 'A page that somebody linked to', '2024-01-01', '2024-01-01',"
            " lpad(to_hex(id), 16, '0') || '.jpg', 'image/jpeg', 100 + id %% 200, 1, '2024-01-01'"
            " FROM generate_series(%s, %s::bigint) AS id",
            (first, first + count - 1),
        )


def connect(server: PostgresServer) -> psycopg2.extensions.connection:
    """Return a connection to the database."""
    return psycopg2.connect(server.url)


def create_tables(server: PostgresServer) -> None:
    """Make Mastodon's tables, as its main branch has them, and the accounts that media belong to."""
    schema = resources.files("mastosync_dagster.demo").joinpath("schema_main.sql").read_text()
    with contextlib.closing(connect(server)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(schema)
        cursor.execute(
            "CREATE TABLE statuses (id bigint PRIMARY KEY, account_id bigint NOT NULL, deleted_at timestamp)"
        )
        cursor.execute(
            "INSERT INTO accounts (id, username, uri, created_at, updated_at)"
            " SELECT id, 'user' || id, 'https://remote.example/users/' || id, '2024-01-01', '2024-01-01'"
            " FROM generate_series(1, %s) AS id",
            (_ACCOUNTS,),
        )


def settle(server: PostgresServer) -> None:
    """Bring the tables into the state that a database which has run for a while is in."""
    with contextlib.closing(connect(server)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
