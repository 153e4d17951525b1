"""Mastodon's tables with attachments, as data.

Read from Mastodon's models and ``config/initializers/paperclip.rb``, v2.4 to 4.8.0-alpha, and checked against keys that
Mastodon's own Paperclip produced (``mastosync_dagster_tests/data/paperclip_cases.json``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

BLANK = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Characters that Ruby's ``[[:space:]]`` matches. Python's ``str.isspace`` has four more (U+001C to U+001F)."""


PROCESSING = "processing"
"""The column of media_attachments with the state of its processing."""

UNFINISHED = frozenset({0, 1, 3})
"""Values of that column: queued, in progress, failed. 2 and NULL are complete."""

ORIGINAL = "original"
"""The style that every attachment has, under the row's own file name."""


class Remote(Enum):
    """When the files of a row are copies of another server's."""

    NEVER = "never"
    ALWAYS = "always"
    IF_NOT_BLANK = "the column is neither NULL nor white space"
    IF_NOT_NULL = "the column is not NULL; an empty string is remote"


@dataclass(frozen=True, slots=True)
class Style:
    """A file that Mastodon makes from the original.

    Attributes:
        name: Its folder in the key.
        format: Its extension; None: the original's own.
        once_named_like: Earlier versions wrote it under the row's own file name if that has this ending (in any case;
            an empty string fits any name). None: they did not.
        may_be_absent: Its absence does not mean that it was lost.
        may_be_absent_before: The same, for files last written before the first day (UTC) of this year.
    """

    name: str
    format: str | None = None
    once_named_like: str | None = None
    may_be_absent: bool = False
    may_be_absent_before: int | None = None


Styles: TypeAlias = "Mapping[str | None, tuple[Style, ...]]"
"""Styles beside the original, by the exact value of a column."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One ``has_attached_file`` of a model.

    Attributes:
        name: Prefix of its columns, such as ``avatar``.
        folder: Its folder in the key, such as ``avatars``.
        styles_by: The column that decides about ``styles``; None: every row has ``styles[None]``.
        renamed_to: ``(prefix of the content type, extension)``: the new extension of the original when an unfinished
            row's processing ends; the first that fits counts.
        processed_later: Prefixes of the content types that Mastodon converts after it has written the row. Their file
            is replaced minutes or hours after the time in ``updated_at_column``.
        optional: Some supported versions of Mastodon lack it.
        file_name_column: ``<name>_file_name``: NULL or blank if the row has no file.
        content_type_column: ``<name>_content_type``.
        file_size_column: ``<name>_file_size``: Content-Length of the original, or NULL.
        updated_at_column: ``<name>_updated_at``: UTC, without time zone.
        storage_schema_version_column: ``<name>_storage_schema_version``: from 1 on remote files lie in ``cache/``.
    """

    name: str
    folder: str
    styles: Styles = field(default_factory=dict)
    styles_by: str | None = None
    renamed_to: tuple[tuple[str, str], ...] = ()
    processed_later: tuple[str, ...] = ()
    optional: bool = False
    file_name_column: str = field(init=False)
    content_type_column: str = field(init=False)
    file_size_column: str = field(init=False)
    updated_at_column: str = field(init=False)
    storage_schema_version_column: str = field(init=False)

    def __post_init__(self) -> None:
        for suffix in ("file_name", "content_type", "file_size", "updated_at", "storage_schema_version"):
            object.__setattr__(self, f"{suffix}_column", f"{self.name}_{suffix}")


@dataclass(frozen=True, slots=True)
class Owner:
    """A row of another table, whose id is in ``column``, that may make the files of a row private.

    They are private if the owner's column ``private_since`` is not NULL, or a ``newer`` one. Every supported version of
    Mastodon (3.0 and later) has ``column`` and ``private_since``: without them nobody knows what is private, and
    nothing is read. Earlier versions lack the ``newer`` columns. Where one is absent, though the version has it, what
    only that column makes private is taken for public. A view may leave it out: that is noticed if the table is in the
    same database (`Schema.left_out`), and not in a foreign table or a table of a subscription.
    """

    column: str
    table: str
    private_since: str
    newer: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table with attachments.

    Attributes:
        name: Its name in the database, and the first folder of its keys.
        attachments: In the order of their keys.
        remote: When a row is remote, according to ``remote_column``.
        age_column: The time by which Mastodon's own clean-up of remote files goes (``lib/mastodon/cli/media.rb``,
            ``preview_cards.rb``): older rows lose theirs. None: no such clean-up takes a number of days alone.
        optional: Some supported versions of Mastodon lack it.
        private: All its objects are private.
        owners: Rows that make objects private.
    """

    name: str
    attachments: tuple[Attachment, ...]
    remote: Remote = Remote.NEVER
    remote_column: str | None = None
    age_column: str | None = None
    optional: bool = False
    private: bool = False
    owners: tuple[Owner, ...] = ()


_SMALL = (Style("small"),)
_SMALL_PNG = (Style("small", "png"),)
_SMALL_JPEG = (Style("small", "jpeg"),)

# Exact and case-sensitive. Other types (audio, video/x-ms-asf, NULL) have the original only, whatever `type` and
# `file_meta` say: Mastodon's clean-up keeps these columns.
_MEDIA_STYLES: Styles = MappingProxyType(
    {
        "image/jpeg": _SMALL,
        "image/png": _SMALL,
        "image/webp": _SMALL,
        "image/gif": (Style("small", "png", once_named_like=""),),  # 2.9.0 and before kept the name
        "image/heic": _SMALL_JPEG,
        "image/heif": _SMALL_JPEG,
        "image/avif": (Style("small", "jpeg", once_named_like=".avif"),),  # 4.0 and 4.1 kept the name
        "video/webm": _SMALL_PNG,
        "video/mp4": _SMALL_PNG,
        "video/quicktime": _SMALL_PNG,
        "video/ogg": _SMALL_PNG,
    }
)

# GIFs of 2017 and before have no still picture.
_STILL_OF_A_GIF: Styles = MappingProxyType({"image/gif": (Style("static", "png", may_be_absent_before=2018),)})
_STILL_ALWAYS: Styles = MappingProxyType({None: (Style("static", "png"),)})

_SITE_UPLOAD_STYLES: Styles = MappingProxyType(
    {
        # Since 4.0, and not made for thumbnails uploaded before.
        "thumbnail": tuple(Style(name, "png", may_be_absent=True) for name in ("@1x", "@2x")),
        # Since 4.3, as are the uploads themselves.
        "favicon": tuple(Style(size, "png") for size in ("16", "32", "48")),
        "app_icon": tuple(
            Style(size, "png")
            for size in (
                *("57", "60", "72", "76", "114", "120", "144", "152", "167", "180", "1024"),  # Apple
                *("36", "48", "96", "192", "256", "384", "512"),  # Android; they share 72 and 144 with Apple
            )
        ),
    }
)

_MEDIA_ATTACHMENTS = Table(
    "media_attachments",
    (
        Attachment(
            "file",
            "files",
            _MEDIA_STYLES,
            styles_by="file_content_type",
            # Mastodon takes video/x-ms-asf for audio.
            renamed_to=(("video/x-ms-asf", "mp3"), ("video/", "mp4"), ("audio/", "mp3")),
            processed_later=("video/", "audio/"),
        ),
        Attachment("thumbnail", "thumbnails", optional=True),  # since 3.2
    ),
    remote=Remote.IF_NOT_BLANK,
    remote_column="remote_url",
    age_column="created_at",
    owners=(
        # The column since 2.9, private since 3.3: SuspendAccountService. Since 4.7 accounts whose deletion was
        # requested have only the newer column set: a migration moves the first one there.
        Owner("account_id", "accounts", "suspended_at", newer=("requested_deletion_at",)),
        # The column since 3.0, private since 4.4: removed by moderation, kept for appeals.
        Owner("status_id", "statuses", "deleted_at"),
    ),
)

# Only `domain` decides; the `*_remote_url` columns of accounts and emojis do not.
_ACCOUNTS = Table(
    "accounts",
    (
        Attachment("avatar", "avatars", _STILL_OF_A_GIF, styles_by="avatar_content_type"),
        Attachment("header", "headers", _STILL_OF_A_GIF, styles_by="header_content_type"),
    ),
    remote=Remote.IF_NOT_NULL,
    remote_column="domain",
)

_CUSTOM_EMOJIS = Table(
    "custom_emojis", (Attachment("image", "images", _STILL_ALWAYS),), remote=Remote.IF_NOT_NULL, remote_column="domain"
)

_PREVIEW_CARDS = Table("preview_cards", (Attachment("image", "images"),), remote=Remote.ALWAYS, age_column="updated_at")

_SITE_UPLOADS = Table(
    "site_uploads", (Attachment("file", "files", _SITE_UPLOAD_STYLES, styles_by="var"),), optional=True
)

# Mastodon makes them private since 4.1.1. Older archives should not be public either.
_BACKUPS = Table("backups", (Attachment("dump", "dumps"),), optional=True, private=True)

_IMPORTS = Table("imports", (Attachment("data", "data"),), optional=True)  # dropped in 4.4

_PREVIEW_CARD_PROVIDERS = Table(  # since 3.5
    "preview_card_providers", (Attachment("icon", "icons", _STILL_ALWAYS),), optional=True
)

_ALL = (
    *(_MEDIA_ATTACHMENTS, _ACCOUNTS, _CUSTOM_EMOJIS, _PREVIEW_CARDS),
    *(_SITE_UPLOADS, _BACKUPS, _IMPORTS, _PREVIEW_CARD_PROVIDERS),
)
TABLES: Mapping[str, Table] = MappingProxyType({table.name: table for table in _ALL})
"""Every table with attachments, by name."""

TABLES_READ = frozenset({*TABLES, *(owner.table for table in _ALL for owner in table.owners)})
"""The same, and the tables of their owners."""


def table_named(name: str) -> Table:
    """Return a table of `TABLES`; another name raises ValueError."""
    try:
        return TABLES[name]
    except KeyError:
        raise ValueError(f"Mastodon has no attachments in {name!r}; it has them in {', '.join(TABLES)}") from None
