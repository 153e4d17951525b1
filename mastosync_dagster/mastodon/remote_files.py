"""Where the files of remote rows come from, and which of them Mastodon takes.

Read from Mastodon's models, 4.2 to 4.8.0-alpha: ``app/models/media_attachment.rb`` (``IMAGE_LIMIT``, ``VIDEO_LIMIT``,
``*_MIME_TYPES``), ``app/models/concerns/account/avatar.rb`` and ``header.rb`` (``AVATAR_LIMIT``, ``HEADER_LIMIT``,
``*_IMAGE_MIME_TYPES``), ``app/models/custom_emoji.rb`` (``LIMIT``, ``IMAGE_MIME_TYPES``). Preview cards have no column
that says where their picture came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from mastosync_dagster.mastodon.keys import is_blank
from mastosync_dagster.mastodon.tables import ORIGINAL, table_named

if TYPE_CHECKING:
    from collections.abc import Mapping

CACHE_CONTROL = "public, max-age=315576000, immutable"
"""What Mastodon writes every object with (``config/initializers/paperclip.rb``)."""

_KIB, _MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """The file of an attachment as another server has it.

    Attributes:
        url: Where it is.
        accepted: Content types it may have, each with the number of bytes that it must stay below.
    """

    url: str
    accepted: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Origin:
    """How an attachment says where its file comes from.

    Attributes:
        url_column: The column with the address.
        accepted: Content types that Mastodon takes, each with the number of bytes that it must stay below.
    """

    url_column: str
    accepted: Mapping[str, int]


_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/heic", "image/heif", "image/webp", "image/avif")
_VIDEOS = ("video/webm", "video/mp4", "video/quicktime", "video/ogg")
_AUDIO = (
    *("audio/wave", "audio/wav", "audio/x-wav", "audio/x-pn-wave", "audio/vnd.wave"),
    *("audio/ogg", "audio/vorbis", "audio/mpeg", "audio/mp3", "audio/webm", "audio/flac", "audio/aac"),
    *("audio/m4a", "audio/x-m4a", "audio/mp4", "audio/3gpp", "video/x-ms-asf"),
)
_PICTURES_OF_ACCOUNTS = ("image/jpeg", "image/png", "image/gif", "image/webp")
_EMOJI = ("image/png", "image/gif", "image/webp")

_PICTURES = dict.fromkeys(_IMAGES, 16 * _MIB)
_FILES = {**_PICTURES, **dict.fromkeys((*_VIDEOS, *_AUDIO), 99 * _MIB)}
_OF_ACCOUNTS = dict.fromkeys(_PICTURES_OF_ACCOUNTS, 8 * _MIB)

_ORIGINS: Mapping[tuple[str, str], _Origin] = MappingProxyType(
    {
        ("media_attachments", "file"): _Origin("remote_url", _FILES),
        ("media_attachments", "thumbnail"): _Origin("thumbnail_remote_url", _PICTURES),
        ("accounts", "avatar"): _Origin("avatar_remote_url", _OF_ACCOUNTS),
        ("accounts", "header"): _Origin("header_remote_url", _OF_ACCOUNTS),
        ("custom_emojis", "image"): _Origin("image_remote_url", dict.fromkeys(_EMOJI, 256 * _KIB)),
    }
)


def remote_file_columns(table: str) -> tuple[str, ...]:
    """Return the columns of a table that `remote_file` reads."""
    facts = table_named(table)
    return tuple(
        column
        for attachment in facts.attachments
        for origin in [_ORIGINS.get((table, attachment.name))]
        if origin is not None
        for column in (origin.url_column, attachment.content_type_column)
    )


def remote_file(table: str, row: Mapping[str, object], part: str) -> RemoteFile | None:
    """Return where the file of a row can be had, as the row has it.

    Where the row knows its content type the file must have that one: what Mastodon has converted, such as a GIF to an
    MP4, is not what the other server has.

    Args:
        table: The row's table.
        row: Column to value.
        part: ``<attachment>/<style>``.

    Returns:
        None where no other server has it: it is made here, from the original, or the row has no address.
    """
    name, _, style = part.partition("/")
    origin = _ORIGINS.get((table, name))
    if origin is None or style != ORIGINAL:
        return None
    url = row.get(origin.url_column)
    if not isinstance(url, str) or is_blank(url):
        return None
    known = row.get(f"{name}_content_type")
    if not isinstance(known, str) or is_blank(known):
        return RemoteFile(url, origin.accepted)
    return RemoteFile(url, {known: origin.accepted[known]} if known in origin.accepted else {})
