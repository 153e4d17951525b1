"""Rows and objects of a Mastodon instance, made of the cases of ``cases.py`` and written into a book."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from mastosync_dagster.demo.instance.book import GeneratedObject, Instance, MissingObject
from mastosync_dagster.demo.instance.cases import Case, File, Ids, Owner, Post
from mastosync_dagster.demo.instance.media_files import FileMaker
from mastosync_dagster.mastodon import CACHE_CONTROL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SNOWFLAKES = frozenset({"accounts", "media_attachments"})
# Preview cards pass a million on the way: keys go from 000/999/9xx to 001/000/0xx.
_FIRST_SERIAL = {"preview_cards": 999_700}
_FIRST_SNOWFLAKE = datetime(2021, 6, 1, tzinfo=timezone.utc)
_LAST_SNOWFLAKE = datetime(2025, 12, 1, tzinfo=timezone.utc)
_FIRST_ROW = datetime(2017, 4, 1, tzinfo=timezone.utc)
ATTACHMENTS = {
    "media_attachments": (("file", "files", "files"), ("thumbnail", "thumbnails", "thumbnails")),
    "accounts": (("avatar", "avatars", "avatars"), ("header", "headers", "headers")),
    "custom_emojis": (("image", "images", "images"),),
    "preview_cards": (("image", "images", "images"),),
    "site_uploads": (("file", "files", "uploads"),),
    "backups": (("dump", "dumps", "dumps"),),
}
"""By table: attachment, name of its folder, its placeholder in ``cases.py``."""

_METADATA_EVERY = 7


@dataclass(frozen=True, slots=True)
class Upload:
    """An object to put into the source bucket.

    Attributes:
        key: Its full key.
        body: What is in it.
        headers: Content-Type, Cache-Control and user metadata.
    """

    key: str
    body: bytes
    headers: Mapping[str, str]


@dataclass
class Generator:
    """Makes rows and objects of cases, and writes them into the book.

    Attributes:
        seed: The same seed makes the same things.
        key_prefix: S3_KEY_PREFIX at the source, "" for none.
        before: The instance that it adds to; None: it begins one.
        rows: Table to rows, as they are made.
        statuses: Rows of the table of that name.
        objects: The book.
        missing: The book.
        strays: The book.
        uploads: What must be put into the source bucket.
        cases: The book.
    """

    seed: int
    key_prefix: str
    before: Instance | None = None
    rows: dict[str, tuple[Mapping[str, object], ...]] = field(default_factory=dict)
    statuses: list[Mapping[str, object]] = field(default_factory=list)
    objects: list[GeneratedObject] = field(default_factory=list)
    missing: list[MissingObject] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)
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
        for attachment, _, _ in ATTACHMENTS[case.table]:
            if row.get(f"{attachment}_file_name") is not None:
                row.setdefault(f"{attachment}_updated_at", created)
        if case.table == "media_attachments":
            row |= self._owner_and_post(case)
        for number, file in enumerate(case.files):
            size = self._object(case, row_id, file, words, number)
            for attachment, folder, _ in ATTACHMENTS[case.table]:
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
            **{word: f"{table}/{folder}/{_partition(row_id)}" for _, folder, word in ATTACHMENTS[table]},
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
        expected = GeneratedObject(
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
        headers = {
            "Content-Type": expected.content_type,
            **{f"x-amz-meta-{name}": value for name, value in metadata.items()},
        }
        if expected.cache_control:
            headers["Cache-Control"] = expected.cache_control
        self._upload(expected.source_key, body, headers)
        return len(body)

    def _upload(self, key: str, body: bytes, headers: Mapping[str, str]) -> None:
        self.uploads.append(Upload(f"{self.key_prefix}/{key}" if self.key_prefix else key, body, headers))

    def book(self) -> Instance:
        """Return the book of what has been made."""
        return Instance(
            rows={**self.rows, "statuses": tuple(self.statuses)},
            objects=tuple(self.objects),
            missing=tuple(self.missing),
            strays=tuple(self.strays),
            cases={case: tuple(ids) for case, ids in self.cases.items()},
            key_prefix=self.key_prefix,
        )


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
