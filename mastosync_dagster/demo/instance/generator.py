"""Makes the rows and objects of a Mastodon instance from cases."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from mastosync_dagster.demo.instance.book import GeneratedObject, Instance, MissingObject
from mastosync_dagster.demo.instance.case import Case, File, Ids, Owner, Post
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
"""By table: attachment, name of its folder, its placeholder in a case."""

_METADATA_EVERY = 7


@dataclass(frozen=True, slots=True)
class Upload:
    """An object to put into the source bucket, under a full key."""

    key: str
    body: bytes
    headers: Mapping[str, str]


@dataclass
class Generator:
    """Makes rows and objects from cases. The same seed makes the same ones.

    Attributes:
        before: The instance that it adds to; None: it begins one.
        statuses: Rows of the table of that name.
        uploads: What must be put into the source bucket.
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
        """Make a row for each of these cases, created ``now``; None: over the years."""
        numbered = sorted(zip(self._ids(table, chosen, now), chosen, strict=True), key=lambda pair: pair[0])
        rows = []
        for row_id, case in numbered:
            created = now or _created(row_id)
            rows.append(self._row(case, row_id, created.replace(tzinfo=None).isoformat(" ", "seconds")))
            self.cases[table, case.name].append(row_id)
        self.rows[table] = tuple(rows)

    def _ids(self, table: str, chosen: Sequence[Case], now: datetime | None) -> Iterator[int]:
        """Yield an id for each case, none of them twice."""
        serial = _FIRST_SERIAL.get(table, 1)
        if self.before is not None:
            serial = max(_id(row) for row in self.before.rows[table] if _id(row) < 10**9) + 1
        time = _milliseconds(now or _FIRST_SNOWFLAKE)
        step = (_milliseconds(_LAST_SNOWFLAKE) - time) // max(1, len(chosen)) if now is None else 2
        for case in chosen:
            if isinstance(case.ids, int):
                yield case.ids
            elif case.ids is Ids.NEW and table in _SNOWFLAKES:
                time += self.random.randrange(1, step)
                yield time << 16 | self.random.randrange(2**16)
            else:
                yield serial
                serial += self.random.randrange(1, 4)

    def _row(self, case: Case, row_id: int, created: str) -> Mapping[str, object]:
        placeholders = self._placeholders(case.table, row_id)
        row: dict[str, object] = {
            "id": row_id,
            "created_at": created,
            "updated_at": created,
            **_unique_columns(case.table, row_id),
        }
        for column, value in case.columns.items():
            is_json = column.endswith("_meta")
            row[column] = value.format(**placeholders) if isinstance(value, str) and not is_json else value
        for attachment, _, _ in ATTACHMENTS[case.table]:
            if row.get(f"{attachment}_file_name") is not None:
                row.setdefault(f"{attachment}_updated_at", created)
        if case.table == "media_attachments":
            row |= self._owner_and_post(case)
        for number, file in enumerate(case.files):
            size = self._object(case, row_id, file, placeholders, number)
            for attachment, folder, _ in ATTACHMENTS[case.table]:
                if f"/{folder}/" in file.key.format(**placeholders) and "/original/" in file.key:
                    row.setdefault(f"{attachment}_file_size", size)
        for key, kind in case.strays:
            self.strays.append(key.format(**placeholders))
            self._upload(key.format(**placeholders), self._files.make(kind), {"Content-Type": kind.content_type})
        return row

    def _placeholders(self, table: str, row_id: int) -> Mapping[str, str]:
        return {
            "n": str(row_id),
            "hex": f"{self.random.getrandbits(64):016x}",
            "hex2": f"{self.random.getrandbits(64):016x}",
            **{name: f"{table}/{folder}/{_partition(row_id)}" for _, folder, name in ATTACHMENTS[table]},
        }

    def _owner_and_post(self, case: Case) -> Mapping[str, object]:
        accounts = self.rows["accounts"]
        if case.owner is Owner.NOBODY:
            account_id = None
        else:
            suspended = case.owner is Owner.SUSPENDED
            account_id = _id(self.random.choice([row for row in accounts if ("suspended_at" in row) is suspended]))
        status_id = None
        if case.post is not Post.NONE:
            earlier = len(self.before.rows["statuses"]) if self.before is not None else 0
            status_id = _milliseconds(_FIRST_SNOWFLAKE) + earlier + len(self.statuses) << 16
            deleted = "2025-02-03 04:05:06" if case.post is Post.REMOVED else None
            self.statuses.append({"id": status_id, "account_id": account_id, "deleted_at": deleted})
        return {"account_id": account_id, "status_id": status_id}

    def _object(self, case: Case, row_id: int, file: File, placeholders: Mapping[str, str], number: int) -> int:
        """Record one object of a row, and its upload unless it is lost. Returns its size."""
        key, body = file.key.format(**placeholders), self._files.make(file.kind)
        if file.lost:
            self.missing.append(MissingObject(case.table, row_id, key, case.private, file.harmless))
            return len(body)
        metadata = {"demo-row": str(row_id), "demo-file": str(number)} if row_id % _METADATA_EVERY == 0 else {}
        expected = GeneratedObject(
            table=case.table,
            row_id=row_id,
            key=key,
            source_key=file.source_key.format(**placeholders) if file.source_key else key,
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

    def instance(self) -> Instance:
        """Return what has been made."""
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


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _created(row_id: int) -> datetime:
    """Return when a row of this id was created: snowflakes hold it, serial ids count an hour each."""
    if row_id > _milliseconds(_FIRST_SNOWFLAKE) << 16:
        return datetime.fromtimestamp((row_id >> 16) / 1000, tz=timezone.utc)
    return _FIRST_ROW + timedelta(hours=abs(row_id) % 30_000)


def _partition(row_id: int) -> str:
    """Return the folders of a row; cases with ids for which this is not so simple have them written out."""
    digits = f"{row_id:018d}" if row_id > 10**9 else f"{row_id:09d}"
    return "/".join(digits[start : start + 3] for start in range(0, len(digits), 3))


def _unique_columns(table: str, row_id: int) -> Mapping[str, object]:
    """Return the columns that must differ from row to row."""
    return {
        "accounts": {"username": f"user{row_id}", "uri": f"https://social.example/users/{row_id}"},
        "custom_emojis": {"shortcode": f"blob{row_id}"},
        "preview_cards": {"url": f"https://news.example/{row_id}", "title": f"News {row_id}"},
    }.get(table, {})
