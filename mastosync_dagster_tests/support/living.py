"""A Mastodon instance that lives while it is copied: rows and objects come, change and go, as the hours pass.

The hours are the database's: its clock is moved, and nobody else's is.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Self

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.demo.instance.load import GeneratedObject
    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster_tests.support.corners import Bucket

# ``now()`` of whoever connects is this one, since it stands before PostgreSQL's own in the path.
_CLOCK = """
CREATE SCHEMA clock;
CREATE TABLE clock.ahead (by interval NOT NULL);
INSERT INTO clock.ahead VALUES ('0');
CREATE FUNCTION clock.now() RETURNS timestamptz STABLE LANGUAGE sql AS
    'SELECT pg_catalog.now() + ahead.by FROM clock.ahead';
"""
_VIDEO = {"file_content_type": "video/quicktime", "type": 2}
_ATTACHMENTS = {"avatar": "avatars", "header": "headers", "file": "files", "image": "images"}


def _partition(row_id: int) -> str:
    digits = f"{row_id:09d}" if row_id < 10**9 else f"{row_id:018d}"
    return "/".join(digits[start : start + 3] for start in range(0, len(digits), 3))


def md5(body: bytes) -> str:
    """Return the MD5 of a body in hex."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


@dataclass
class LivingInstance:
    """An instance, by its own bookkeeping.

    Attributes:
        database: Its database, of a generated instance.
        source: Its bucket.
        expected: MD5 of every object that its rows say exists, by key.
        written: How often each object was written, by key, also of those that are gone.
        ahead: How far its clock is ahead of this machine's.
    """

    database: PostgresServer
    source: Bucket
    expected: dict[str, str]
    written: Counter[str]
    ahead: timedelta = timedelta()
    _random: random.Random = field(default_factory=lambda: random.Random(7))
    _own: set[str] = field(default_factory=set)
    _sequence: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @classmethod
    def of(cls, database: PostgresServer, source: Bucket, objects: Iterable[GeneratedObject]) -> Self:
        """Bring a generated instance to life."""
        expected = {each.key: each.md5 for each in objects}
        instance = cls(database, source, expected, Counter(expected.keys()))
        instance.execute(_CLOCK)
        instance.use_clock()
        return instance

    def use_clock(self) -> None:
        """Have its database go by its clock; a copy of the database needs that again."""
        self.execute(f'ALTER DATABASE "{self.database.database}" SET search_path = clock, pg_catalog, public')
        self.pass_time(timedelta())

    # --- its database ------------------------------------------------------------------------------------------

    def execute(
        self, query: str | sql.Composed, parameters: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        with contextlib.closing(self.connect()) as connection, connection, connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def connect(self) -> Connection:
        """Connect to the database."""
        return psycopg2.connect(self.database.url)

    @property
    def now(self) -> datetime:
        """Its clock."""
        return datetime.now(timezone.utc) + self.ahead

    def pass_time(self, time: timedelta) -> None:
        """Let time pass."""
        self.ahead += time
        self.execute("UPDATE clock.ahead SET by = %(by)s", {"by": self.ahead})

    def next_id(self, table: str) -> int:
        """Return the id that a row gets now."""
        if table in {"accounts", "media_attachments"}:
            return round(self.now.timestamp() * 1000) << 16 | next(self._sequence)
        ((highest,),) = self.execute(sql.SQL("SELECT max(id) FROM {}").format(sql.Identifier(table)))
        return int(highest) + 1

    def insert(
        self, table: str, row_id: int, values: Mapping[str, object], *, connection: Connection | None = None
    ) -> None:
        """Insert a row that is created now.

        Args:
            table: The table.
            row_id: Its id.
            values: Further columns.
            connection: In an open transaction; None: in one of its own.
        """
        now = self.now.replace(tzinfo=None)
        unique = {"accounts": {"username": f"user{row_id}"}, "custom_emojis": {"shortcode": f"blob{row_id}"}}
        row = {"id": row_id, "created_at": now, "updated_at": now, **unique.get(table, {}), **values}
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(map(sql.Placeholder, row)),
        )
        if connection is None:
            self.execute(statement, row)
        else:
            connection.cursor().execute(statement, row)

    def update(self, table: str, row_id: int, **values: object) -> None:
        """Change columns of a row."""
        self.execute(
            sql.SQL("UPDATE {} SET {} WHERE id = {}").format(
                sql.Identifier(table),
                sql.SQL(", ").join(
                    sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in values
                ),
                sql.Literal(row_id),
            ),
            values,
        )

    def _value(self, table: str, row_id: int, column: str) -> str:
        query = sql.SQL("SELECT {} FROM {} WHERE id = {}")
        ((value,),) = self.execute(query.format(sql.Identifier(column), sql.Identifier(table), sql.Literal(row_id)))
        return str(value or "")

    # --- its objects -------------------------------------------------------------------------------------------

    def key(self, table: str, attachment: str, row_id: int, style: str, name: str) -> str:
        """Return the key of a local row's object."""
        return f"{table}/{_ATTACHMENTS[attachment]}/{_partition(row_id)}/{style}/{name}"

    def put(self, key: str) -> int:
        """Write an object that a row says exists; return its size."""
        body = self._random.randbytes(self._random.randrange(20, 2000))
        self.source.client.put_object(Bucket=self.source.name, Key=key, Body=body)
        self.expected[key] = md5(body)
        self.written[key] += 1
        self._own.add(key)
        return len(body)

    def remove(self, key: str) -> None:
        """Delete an object; no row says any more that it exists. Those of the generated instance others need too."""
        if key in self._own:
            self.source.client.delete_object(Bucket=self.source.name, Key=key)
        del self.expected[key]

    def differences(self, destination: Bucket) -> list[str]:
        """Compare a destination with what the database says: by a listing, ETags being MD5s here.

        A run that is killed while it probes leaves a probe, which a run an hour later removes.
        """
        pages = destination.client.get_paginator("list_objects_v2").paginate(Bucket=destination.name)
        found = {entry["Key"]: entry["ETag"].strip('"') for page in pages for entry in page.get("Contents", ())}
        expected, unknown = self.expected, found.keys() - self.written.keys()
        return [
            *(f"{key} is not there" for key in expected.keys() - found.keys()),
            *(f"{key} is another" for key in expected.keys() & found.keys() if expected[key] != found[key]),
            *(f"{key} was never in a row" for key in unknown if "/mastosync-check/" not in key),
        ]

    def _name(self, extension: str) -> str:
        return f"{self._random.getrandbits(64):016x}.{extension}"

    # --- what people do ----------------------------------------------------------------------------------------

    def sign_up(self, *, connection: Connection | None = None, row_id: int | None = None) -> int:
        """Create an account with avatar and header."""
        row_id = row_id or self.next_id("accounts")
        values: dict[str, object] = {}
        for attachment in ("avatar", "header"):
            values |= self._attach("accounts", row_id, attachment, "png", "image/png")
        self.insert("accounts", row_id, values, connection=connection)
        return row_id

    def post_picture(self, *, connection: Connection | None = None, row_id: int | None = None) -> int:
        """Create a media attachment, with its preview."""
        row_id = row_id or self.next_id("media_attachments")
        values = self._attach("media_attachments", row_id, "file", "png", "image/png", "small")
        self.insert("media_attachments", row_id, values, connection=connection)
        return row_id

    def add_emoji(self) -> int:
        """Create a custom emoji."""
        row_id = self.next_id("custom_emojis")
        values = self._attach("custom_emojis", row_id, "image", "png", "image/png", "static")
        self.insert("custom_emojis", row_id, values)
        return row_id

    def import_emoji(self, row_id: int | None = None, *, size_known: bool) -> int:
        """Import a custom emoji, or its next picture, as ``tootctl emojis import --overwrite`` does: the name stays."""
        new = row_id is None
        row_id = self.next_id("custom_emojis") if row_id is None else row_id
        name, time = "blobcat.png", self.now.replace(tzinfo=None)
        size, _ = (
            self.put(self.key("custom_emojis", "image", row_id, style, name)) for style in ("original", "static")
        )
        values: dict[str, object] = {"image_file_size": size if size_known else None, "image_updated_at": time}
        if new:
            self.insert("custom_emojis", row_id, {"image_file_name": name, "image_content_type": "image/png", **values})
        else:
            self.update("custom_emojis", row_id, updated_at=time, **values)
        return row_id

    def _attach(
        self, table: str, row_id: int, attachment: str, extension: str, kind: str, *styles: str
    ) -> dict[str, object]:
        """Write the objects of an attachment and return its columns."""
        name = self._name(extension)
        for style in ("original", *styles):
            self.put(self.key(table, attachment, row_id, style, name))
        return {
            f"{attachment}_file_name": name,
            f"{attachment}_content_type": kind,
            f"{attachment}_updated_at": self.now.replace(tzinfo=None),
        }

    def change_avatar(self, row_id: int) -> None:
        """Give an account another avatar; Mastodon deletes the one before."""
        before = self._value("accounts", row_id, "avatar_file_name")
        values = self._attach("accounts", row_id, "avatar", "png", "image/png")
        self.update("accounts", row_id, updated_at=self.now.replace(tzinfo=None), **values)
        if before:
            self.remove(self.key("accounts", "avatar", row_id, "original", before))

    def delete_post(self, row_id: int) -> None:
        """Delete a picture that `post_picture` has created."""
        self._delete("media_attachments", row_id, "file")

    def delete_account(self, row_id: int) -> None:
        """Delete an account that `sign_up` has created."""
        self._delete("accounts", row_id, "avatar", "header")

    def _delete(self, table: str, row_id: int, *attachments: str) -> None:
        self.execute(sql.SQL("DELETE FROM {} WHERE id = {}").format(sql.Identifier(table), sql.Literal(row_id)))
        for attachment in attachments:
            folder = f"{table}/{_ATTACHMENTS[attachment]}/{_partition(row_id)}/"
            for key in [key for key in self.expected if key.startswith(folder)]:
                self.remove(key)

    def upload_video(self) -> int:
        """Create a media attachment whose video waits for its conversion; the preview is there at once."""
        row_id = self.next_id("media_attachments")
        name = self._name("mov")
        self.put(self.key("media_attachments", "file", row_id, "original", name))
        self.put(self.key("media_attachments", "file", row_id, "small", name.replace(".mov", ".png")))
        now = self.now.replace(tzinfo=None)
        self.insert(
            "media_attachments", row_id, {**_VIDEO, "file_file_name": name, "file_updated_at": now, "processing": 0}
        )
        return row_id

    def upload_raw(self, extension: str, kind: str, *, size_known: bool = True) -> int:
        """Create a media attachment that keeps its name when it is converted; its object lies raw under that name."""
        row_id = self.next_id("media_attachments")
        name = self._name(extension)
        key = self.key("media_attachments", "file", row_id, "original", name)
        size = self.put(key)
        now = self.now.replace(tzinfo=None)
        values = {"file_file_name": name, "file_content_type": kind, "file_updated_at": now, "processing": 0, "type": 2}
        if kind.startswith("video/"):
            self.put(self.key("media_attachments", "file", row_id, "small", f"{name.removesuffix(extension)}png"))
        self.insert("media_attachments", row_id, {**values, "file_file_size": size if size_known else None})
        return row_id

    def original(self, row_id: int) -> str:
        """Return the key of a media attachment's original."""
        name = self._value("media_attachments", row_id, "file_file_name")
        return self.key("media_attachments", "file", row_id, "original", name)

    def convert_in_place(self, row_id: int, *, size_known: bool = True) -> str:
        """Convert such an object where Mastodon keeps its files now; return its key."""
        key = self.original(row_id)
        size, now = self.put(key), self.now.replace(tzinfo=None)
        sizes = {"file_file_size": size if size_known else None}
        self.update("media_attachments", row_id, file_updated_at=now, updated_at=now, processing=2, **sizes)
        return key

    def begin_conversion(self, row_id: int) -> datetime:
        """Have a video's conversion begin; return the time that will stand in its row."""
        self.update("media_attachments", row_id, processing=1, updated_at=self.now.replace(tzinfo=None))
        return self.now.replace(tzinfo=None)

    def end_conversion(self, row_id: int, began: datetime) -> None:
        """Have it end: the original gets another extension, and the row the time at which the conversion began."""
        name = self._value("media_attachments", row_id, "file_file_name")
        finished = name.replace(".mov", ".mp4")
        self.put(self.key("media_attachments", "file", row_id, "original", finished))
        self.update(
            "media_attachments",
            row_id,
            file_file_name=finished,
            file_content_type="video/mp4",
            file_updated_at=began,
            processing=2,
            updated_at=self.now.replace(tzinfo=None),
        )
        self.remove(self.key("media_attachments", "file", row_id, "original", name))
