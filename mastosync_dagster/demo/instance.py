"""A generated Mastodon instance: rows in PostgreSQL, objects in an S3 bucket.

The generator keeps its own book of what a sync must make of them.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from importlib import resources
from typing import TYPE_CHECKING

from obstore.store import S3Store
from psycopg2 import sql
from psycopg2.extras import execute_values

from mastosync_dagster.demo.cases import CASES, Case, File, Ids, Owner, Post
from mastosync_dagster.demo.media_files import FileMaker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from obstore import Attributes
    from psycopg2.extensions import connection as Connection  # noqa: N812  (psycopg2's own name for a class)

    from mastosync_dagster.demo.servers import S3Server

FILE_TYPES = ("media_attachments", "accounts", "custom_emojis", "preview_cards")
"""The tables that have an asset."""

CACHE_CONTROL = "public, max-age=315576000, immutable"
"""What Mastodon sets."""

# Shares of the rows; the other tables get one row a case.
_SHARES = {"media_attachments": 0.55, "accounts": 0.22, "custom_emojis": 0.12, "preview_cards": 0.11}
_SNOWFLAKES = frozenset({"accounts", "media_attachments"})
# Preview cards pass a million on the way: keys go from 000/999/9xx to 001/000/0xx.
_FIRST_SERIAL = {"preview_cards": 999_700}
_FIRST_SNOWFLAKE = datetime(2021, 6, 1, tzinfo=timezone.utc)
_LAST_SNOWFLAKE = datetime(2025, 12, 1, tzinfo=timezone.utc)
_FIRST_ROW = datetime(2017, 4, 1, tzinfo=timezone.utc)
# (attachment, name of its folder, its placeholder in cases.py), by table
_ATTACHMENTS = {
    "media_attachments": (("file", "files", "files"), ("thumbnail", "thumbnails", "thumbnails")),
    "accounts": (("avatar", "avatars", "avatars"), ("header", "headers", "headers")),
    "custom_emojis": (("image", "images", "images"),),
    "preview_cards": (("image", "images", "images"),),
    "site_uploads": (("file", "files", "uploads"),),
    "backups": (("dump", "dumps", "dumps"),),
}
_PART_BYTES = 5 * 2**20
_UPLOAD_THREADS = 16
_METADATA_EVERY = 7

_STATUSES = """
CREATE TABLE IF NOT EXISTS statuses (
    id bigint PRIMARY KEY,
    account_id bigint NOT NULL,
    deleted_at timestamp without time zone
)
"""


@dataclass(frozen=True, slots=True)
class ExpectedObject:
    """An object that the destination must hold after a sync. Keys are relative to the key prefix.

    Attributes:
        table: The table of its row.
        row_id: The id of its row.
        key: Its key at the destination.
        source_key: Its key at the source.
        size: In bytes.
        md5: Of its content, in hex.
        content_type: Header.
        cache_control: Header; None: it has none.
        metadata: User metadata, names in lower case.
        private: Must not be readable by everybody.
    """

    table: str
    row_id: int
    key: str
    source_key: str
    size: int
    md5: str
    content_type: str
    cache_control: str | None
    metadata: Mapping[str, str]
    private: bool


@dataclass(frozen=True, slots=True)
class MissingObject:
    """An object that a row says exists and the source does not have. The key is relative to the key prefix.

    Attributes:
        table: The table of its row.
        row_id: The id of its row.
        key: The key that the row derives.
        private: Would not be readable by everybody.
        harmless: Its absence is to be expected.
    """

    table: str
    row_id: int
    key: str
    private: bool
    harmless: bool


@dataclass(frozen=True)
class Instance:
    """What the generator put where, by its own bookkeeping.

    Attributes:
        rows: Table to its rows, ascending by id; columns that are not named have their defaults.
        objects: What a sync of everything must have brought to the destination, nothing more and nothing less.
        missing: What the source does not have.
        strays: Keys at the source that nothing may copy.
        cases: (table, name of the case) to the ids of the rows that are such.
        key_prefix: S3_KEY_PREFIX at the source, "" for none.
    """

    rows: Mapping[str, tuple[Mapping[str, object], ...]]
    objects: tuple[ExpectedObject, ...]
    missing: tuple[MissingObject, ...]
    strays: tuple[str, ...]
    cases: Mapping[tuple[str, str], tuple[int, ...]]
    key_prefix: str

    def objects_of(self, *tables: str) -> tuple[ExpectedObject, ...]:
        """Return the objects of the rows of these tables."""
        return tuple(expected for expected in self.objects if expected.table in tables)

    def missing_of(self, *tables: str) -> tuple[MissingObject, ...]:
        """Return the objects of the rows of these tables that the source has lost."""
        return tuple(lost for lost in self.missing if lost.table in tables)


def build(
    connection: Connection, server: S3Server, bucket: str, *, rows: int = 3000, seed: int = 1, key_prefix: str = ""
) -> Instance:
    """Create the tables, fill them, and fill the source bucket.

    Args:
        connection: To an empty database; the work is committed.
        server: Where the source bucket is.
        bucket: An empty bucket there.
        rows: About how many rows to make; 250 at least, so that every case of ``cases.py`` has its row.
        seed: The same seed makes the same rows and objects.
        key_prefix: S3_KEY_PREFIX of the source, "" for none.

    Returns:
        What was made.
    """
    schema = resources.files("mastosync_dagster.demo").joinpath("schema_main.sql").read_text()
    with connection.cursor() as cursor:
        cursor.execute(schema)
        cursor.execute(_STATUSES)
    generator = _Generator(seed, key_prefix)
    for table in ("accounts", *_ATTACHMENTS):  # accounts first: they own the media
        if table not in generator.rows:
            generator.add(table, _choose(generator.random, table, round(rows * _SHARES.get(table, 0))), None)
    return _load(generator, connection, server, bucket)


def grow(
    connection: Connection, server: S3Server, bucket: str, instance: Instance, *, rows: int, now: datetime
) -> Instance:
    """Add rows of the four file types and their objects, as a day in an instance's life does.

    Args:
        connection: To the instance's database; the work is committed.
        server: Where the source bucket is.
        bucket: The source bucket.
        instance: What is there already.
        rows: About how many rows to add.
        now: When they are created; time zone aware.

    Returns:
        The new rows and objects alone.
    """
    generator = _Generator(len(instance.objects), instance.key_prefix, instance)
    for table in ("accounts", *FILE_TYPES):
        if table not in generator.rows:
            common = [case for case in CASES if case.table == table and case.weight and case.ids is Ids.NEW]
            weights = [case.weight for case in common]
            count = max(1, round(rows * _SHARES[table]))
            generator.add(table, generator.random.choices(common, weights, k=count), now)
    return _load(generator, connection, server, bucket)


def _choose(rng: random.Random, table: str, count: int) -> list[Case]:
    """Every case once, the common ones as often as fits, in random order."""
    cases = [case for case in CASES if case.table == table]
    common = [case for case in cases if case.weight]
    more = rng.choices(common, [case.weight for case in common], k=max(0, count - len(cases))) if common else []
    chosen = cases + more
    rng.shuffle(chosen)
    return chosen


@dataclass(frozen=True, slots=True)
class _Upload:
    key: str
    body: bytes
    headers: Mapping[str, str]


@dataclass
class _Generator:
    seed: int
    key_prefix: str
    before: Instance | None = None
    rows: dict[str, tuple[Mapping[str, object], ...]] = field(default_factory=dict)
    statuses: list[Mapping[str, object]] = field(default_factory=list)
    objects: list[ExpectedObject] = field(default_factory=list)
    missing: list[MissingObject] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    uploads: list[_Upload] = field(default_factory=list)
    cases: defaultdict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311  (pictures need no cryptography)
        self._files = FileMaker(self.seed)

    def add(self, table: str, chosen: Sequence[Case], now: datetime | None) -> None:
        """Make a row for each of these cases, created ``now``, or over the years where that is None."""
        numbered = sorted(zip(self._ids(table, chosen, now), chosen, strict=True), key=lambda pair: pair[0])
        rows = []
        for row_id, case in numbered:
            created = now or _created(row_id)
            rows.append(self._row(case, row_id, created.replace(tzinfo=None).isoformat(" ", "seconds")))
            self.cases[table, case.name].append(row_id)
        self.rows[table] = tuple(rows)

    def _ids(self, table: str, chosen: Sequence[Case], now: datetime | None) -> Iterator[int]:
        """An id for each case, none of them twice."""
        serial = _FIRST_SERIAL.get(table, 1)
        if self.before is not None:
            serial = max(_id(row) for row in self.before.rows[table] if _id(row) < 10**9) + 1
        moment = _milliseconds(now or _FIRST_SNOWFLAKE)
        step = (_milliseconds(_LAST_SNOWFLAKE) - moment) // max(1, len(chosen)) if now is None else 2
        for case in chosen:
            if isinstance(case.ids, int):
                yield case.ids
            elif case.ids is Ids.NEW and table in _SNOWFLAKES:
                moment += self.random.randrange(1, step)
                yield moment << 16 | self.random.randrange(2**16)
            else:
                yield serial
                serial += self.random.randrange(1, 4)

    def _row(self, case: Case, row_id: int, created: str) -> Mapping[str, object]:
        words = self._words(case.table, row_id)
        row: dict[str, object] = {
            "id": row_id,
            "created_at": created,
            "updated_at": created,
            **_extras(case.table, words),
        }
        for column, value in case.columns.items():
            is_json = column.endswith("_meta")
            row[column] = value.format(**words) if isinstance(value, str) and not is_json else value
        for attachment, _, _ in _ATTACHMENTS[case.table]:
            if row.get(f"{attachment}_file_name") is not None:
                row[f"{attachment}_updated_at"] = created
        if case.table == "media_attachments":
            row |= self._owner_and_post(case)
        for number, file in enumerate(case.files):
            size = self._object(case, row_id, file, words, number)
            for attachment, folder, _ in _ATTACHMENTS[case.table]:
                if f"/{folder}/" in file.key.format(**words) and "/original/" in file.key:
                    row.setdefault(f"{attachment}_file_size", size)
        for key, kind in case.strays:
            self.strays.append(key.format(**words))
            self._upload(key.format(**words), self._files.make(kind), {"Content-Type": kind.content_type})
        return row

    def _words(self, table: str, row_id: int) -> Mapping[str, str]:
        return {
            "n": str(row_id),
            "hex": f"{self.random.getrandbits(64):016x}",
            "hex2": f"{self.random.getrandbits(64):016x}",
            **{word: f"{table}/{folder}/{_partition(row_id)}" for _, folder, word in _ATTACHMENTS[table]},
        }

    def _owner_and_post(self, case: Case) -> Mapping[str, object]:
        accounts = self.rows["accounts"]
        if case.owner is Owner.NOBODY:
            account_id = None
        else:
            wanted = case.owner is Owner.SUSPENDED
            account_id = _id(self.random.choice([row for row in accounts if ("suspended_at" in row) is wanted]))
        status_id = None
        if case.post is not Post.NONE:
            earlier = len(self.before.rows["statuses"]) if self.before is not None else 0
            status_id = _milliseconds(_FIRST_SNOWFLAKE) + earlier + len(self.statuses) << 16
            deleted = "2025-02-03 04:05:06" if case.post is Post.REMOVED else None
            self.statuses.append({"id": status_id, "account_id": account_id, "deleted_at": deleted})
        return {"account_id": account_id, "status_id": status_id}

    def _object(self, case: Case, row_id: int, file: File, words: Mapping[str, str], number: int) -> int:
        """Write down one object of a row, and have it uploaded where it is not lost. Returns its size."""
        key, body = file.key.format(**words), self._files.make(file.kind)
        if file.lost:
            self.missing.append(MissingObject(case.table, row_id, key, case.private, file.harmless))
            return len(body)
        metadata = {"demo-row": str(row_id), "demo-file": str(number)} if row_id % _METADATA_EVERY == 0 else {}
        expected = ExpectedObject(
            table=case.table,
            row_id=row_id,
            key=key,
            source_key=file.lies.format(**words) if file.lies else key,
            size=len(body),
            md5=hashlib.md5(body, usedforsecurity=False).hexdigest(),
            content_type=file.content_type or file.kind.content_type,
            cache_control=CACHE_CONTROL if file.cache_control else None,
            metadata=metadata,
            private=case.private,
        )
        self.objects.append(expected)
        headers = {"Content-Type": expected.content_type, **metadata}
        if expected.cache_control:
            headers["Cache-Control"] = expected.cache_control
        self._upload(expected.source_key, body, headers)
        return len(body)

    def _upload(self, key: str, body: bytes, headers: Mapping[str, str]) -> None:
        self.uploads.append(_Upload(f"{self.key_prefix}/{key}" if self.key_prefix else key, body, headers))


def _id(row: Mapping[str, object]) -> int:
    row_id = row["id"]
    assert isinstance(row_id, int)  # noqa: S101  (for the type checker)
    return row_id


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _created(row_id: int) -> datetime:
    """When a row of this id was created: snowflakes say so, serial ones count an hour each."""
    if row_id > _milliseconds(_FIRST_SNOWFLAKE) << 16:
        return datetime.fromtimestamp((row_id >> 16) / 1000, tz=timezone.utc)
    return _FIRST_ROW + timedelta(hours=abs(row_id) % 30_000)


def _partition(row_id: int) -> str:
    """The folders of a row; ids for which this is not so simple have them written out in ``cases.py``."""
    digits = f"{row_id:018d}" if row_id > 10**9 else f"{row_id:09d}"
    return "/".join(digits[start : start + 3] for start in range(0, len(digits), 3))


def _extras(table: str, words: Mapping[str, str]) -> Mapping[str, object]:
    """Columns that must differ from row to row."""
    number = words["n"]
    return {
        "accounts": {"username": f"user{number}", "uri": f"https://social.example/users/{number}"},
        "custom_emojis": {"shortcode": f"blob{number}"},
        "preview_cards": {"url": f"https://news.example/{number}", "title": f"News {number}"},
    }.get(table, {})


def _load(generator: _Generator, connection: Connection, server: S3Server, bucket: str) -> Instance:
    generator.rows["statuses"] = tuple(generator.statuses)
    for table, rows in generator.rows.items():
        _insert(connection, table, rows)
    connection.commit()
    _send(generator.uploads, server, bucket)
    return Instance(
        rows=generator.rows,
        objects=tuple(generator.objects),
        missing=tuple(generator.missing),
        strays=tuple(generator.strays),
        cases={case: tuple(ids) for case, ids in generator.cases.items()},
        key_prefix=generator.key_prefix,
    )


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


def object_store(server: S3Server, bucket: str) -> S3Store:
    """Return an obstore store of a bucket of the demo's servers."""
    return S3Store(
        bucket,
        endpoint=server.endpoint,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
        region=server.region,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def _send(uploads: Sequence[_Upload], server: S3Server, bucket: str) -> None:
    store = object_store(server, bucket)

    def send(upload: _Upload) -> None:
        big = len(upload.body) > 3 * _PART_BYTES
        attributes: Attributes = dict(upload.headers)
        store.put(upload.key, io.BytesIO(upload.body), attributes=attributes, use_multipart=big, chunk_size=_PART_BYTES)

    with ThreadPoolExecutor(_UPLOAD_THREADS) as pool:
        for _ in pool.map(send, uploads):
            pass
