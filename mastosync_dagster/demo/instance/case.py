"""What a case is: a kind of row of an instance, with the objects that such a row has.

In keys and columns stand for

- ``{files}``, ``{thumbnails}``, ``{avatars}``, ``{headers}``, ``{images}``, ``{uploads}``, ``{dumps}``: the folder of
  the row, such as ``media_attachments/files/112/129/661/230/994/955``,
- ``{hex}``, ``{hex2}``: 16 random hex digits, the same ones in the whole row,
- ``{n}``: the row's id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mastosync_dagster.demo.instance.media_files import FileKind

REMOTE = "https://remote.example/media/{n}"
DOMAIN = "remote{n}.example"
IMAGE, GIFV, VIDEO, UNKNOWN, AUDIO = range(5)
"""Values of ``media_attachments.type``."""


class Ids(Enum):
    """Where a row's id comes from."""

    OLD = "a small serial number, from before the table had snowflakes"
    NEW = "a snowflake where the table has them, else the next serial number"


class Owner(Enum):
    """Who owns a media attachment."""

    ACTIVE = "an account in good standing"
    SUSPENDED = "a suspended account"
    NOBODY = "nobody: account_id is NULL"


class Post(Enum):
    """Which post a media attachment belongs to."""

    VISIBLE = "a visible one"
    REMOVED = "one that moderation removed"
    NONE = "none: status_id is NULL"


@dataclass(frozen=True, slots=True)
class File:
    """An object of a row.

    Attributes:
        key: Its key at the destination.
        source_key: Its key at the source, where that is another one.
        lost: The source does not have it.
        harmless: Its absence is to be expected.
        content_type: Its header, where that is not the kind's own.
        cache_control: Whether it has the Cache-Control header that Mastodon sets.
    """

    key: str
    kind: FileKind
    source_key: str | None = None
    lost: bool = False
    harmless: bool = False
    content_type: str | None = None
    cache_control: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of row.

    Attributes:
        name: What is remarkable about it, unique within the table.
        columns: Column to value; all others get plain defaults.
        strays: Objects at the source that look like the row's and are not: nothing may copy them.
        weight: How common such rows are; 0: there is exactly one.
        ids: Where its id comes from, or the id.
        owner: For media attachments, as is ``post``.
    """

    table: str
    name: str
    columns: Mapping[str, object] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    strays: tuple[tuple[str, FileKind], ...] = ()
    weight: int = 0
    ids: Ids | int = Ids.NEW
    owner: Owner = Owner.ACTIVE
    post: Post = Post.VISIBLE

    @property
    def private(self) -> bool:
        """Whether its objects must not be readable by everybody."""
        return self.table == "backups" or self.owner is Owner.SUSPENDED or self.post is Post.REMOVED


def media(
    name: str,
    columns: Mapping[str, object],
    *files: File,
    strays: tuple[tuple[str, FileKind], ...] = (),
    weight: int = 0,
    ids: Ids | int = Ids.NEW,
    owner: Owner = Owner.ACTIVE,
    post: Post = Post.VISIBLE,
) -> Case:
    """Return a case of media attachments: a processed local picture, but for its columns."""
    defaults: dict[str, object] = {"type": IMAGE, "processing": 2, "remote_url": "", "file_storage_schema_version": 1}
    return Case("media_attachments", name, defaults | dict(columns), files, strays, weight, ids, owner, post)


def file_columns(name: str | None, content_type: str | None, **more: object) -> dict[str, object]:
    """Return the columns of a local file."""
    return {"file_file_name": name, "file_content_type": content_type, **more}


def cached(name: str, content_type: str, **more: object) -> dict[str, object]:
    """Return the columns of a remote file below ``cache/``."""
    return file_columns(name, content_type, remote_url=REMOTE, **more)


def uncached(name: str, content_type: str, **more: object) -> dict[str, object]:
    """Return the columns of a remote file that was stored before there was ``cache/``."""
    return file_columns(name, content_type, remote_url=REMOTE, file_storage_schema_version=None, **more)


def pair(
    root: str, name: str, kind: FileKind, small: str | None = None, small_kind: FileKind | None = None
) -> tuple[File, ...]:
    """Return an original and its small style; None: named like the original, of its kind."""
    return File(f"{root}/original/{name}", kind), File(f"{root}/small/{small or name}", small_kind or kind)


def case(
    table: str, name: str, columns: Mapping[str, object], *files: File, weight: int = 0, ids: Ids | int = Ids.NEW
) -> Case:
    """Return a case of any table."""
    return Case(table, name, columns, files, weight=weight, ids=ids)


account = partial(case, "accounts")
emoji = partial(case, "custom_emojis")
card = partial(case, "preview_cards")
upload = partial(case, "site_uploads")


def attachment_columns(
    attachment: str, name: str | None, content_type: str | None, version: int | None = None, **more: object
) -> dict[str, object]:
    """Return the columns of an attachment with its storage schema version."""
    return {
        f"{attachment}_file_name": name,
        f"{attachment}_content_type": content_type,
        f"{attachment}_storage_schema_version": version,
        **more,
    }


avatar = partial(attachment_columns, "avatar")
header = partial(attachment_columns, "header")
image = partial(attachment_columns, "image")
