"""Where the files of remote rows come from, and which types and sizes Mastodon accepts.

Read from Mastodon's models, 4.2 to 4.8.0-alpha: ``app/models/media_attachment.rb`` (``IMAGE_LIMIT``, ``VIDEO_LIMIT``,
``*_MIME_TYPES``), ``app/models/concerns/account/avatar.rb`` and ``header.rb`` (``AVATAR_LIMIT``, ``HEADER_LIMIT``,
``*_IMAGE_MIME_TYPES``), ``app/models/custom_emoji.rb`` (``LIMIT``, ``IMAGE_MIME_TYPES``). Preview cards have no column
with the address of their picture.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from psycopg2 import sql

from mastosync_dagster.mastodon.connection import reading_once
from mastosync_dagster.mastodon.keys import is_blank
from mastosync_dagster.mastodon.tables import ORIGINAL
from mastosync_dagster.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mastosync_dagster.mastodon.schema import Database

CACHE_CONTROL = "public, max-age=315576000, immutable"
"""The header of every object that Mastodon writes (``config/initializers/paperclip.rb``)."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """The file of an attachment on another server: its address, and each content type that it may have.

    ``accepted`` gives for each type the number of bytes that the file must stay below.
    """

    url: str
    accepted: Mapping[str, int]


_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/heic", "image/heif", "image/webp", "image/avif")
_VIDEOS = ("video/webm", "video/mp4", "video/quicktime", "video/ogg")
_AUDIO = (
    *("audio/wave", "audio/wav", "audio/x-wav", "audio/x-pn-wave", "audio/vnd.wave"),
    *("audio/ogg", "audio/vorbis", "audio/mpeg", "audio/mp3", "audio/webm", "audio/flac", "audio/aac"),
    *("audio/m4a", "audio/x-m4a", "audio/mp4", "audio/3gpp", "video/x-ms-asf"),
)

_PICTURES = dict.fromkeys(_IMAGES, 16 * MIB)
_FILES = {**_PICTURES, **dict.fromkeys((*_VIDEOS, *_AUDIO), 99 * MIB)}
_OF_ACCOUNTS = dict.fromkeys(("image/jpeg", "image/png", "image/gif", "image/webp"), 8 * MIB)
_EMOJI = dict.fromkeys(("image/png", "image/gif", "image/webp"), 256 * 1024)

# The column with the address of an attachment's file, and `RemoteFile.accepted`, by table and attachment.
_ORIGINS: Mapping[tuple[str, str], tuple[str, Mapping[str, int]]] = MappingProxyType(
    {
        ("media_attachments", "file"): ("remote_url", _FILES),
        ("media_attachments", "thumbnail"): ("thumbnail_remote_url", _PICTURES),
        ("accounts", "avatar"): ("avatar_remote_url", _OF_ACCOUNTS),
        ("accounts", "header"): ("header_remote_url", _OF_ACCOUNTS),
        ("custom_emojis", "image"): ("image_remote_url", _EMOJI),
    }
)


def remote_file_columns(table: str) -> tuple[str, ...]:
    """Return the columns of a table that `remote_file` reads."""
    return tuple(
        column
        for (of_table, attachment), (url_column, _) in _ORIGINS.items()
        if of_table == table
        for column in (url_column, f"{attachment}_content_type")
    )


def remote_file(table: str, row: Mapping[str, object], part: str) -> RemoteFile | None:
    """Return where the file of a row can be fetched; ``part`` is ``<attachment>/<style>``.

    If the row has a content type, the file must have that one: a file that Mastodon has converted, such as a GIF to an
    MP4, is not what the other server has. None: the row has no address, or Mastodon makes the file from the original.
    """
    name, _, style = part.partition("/")
    origin = _ORIGINS.get((table, name))
    if origin is None or style != ORIGINAL:
        return None
    url_column, accepted = origin
    url = row.get(url_column)
    if not isinstance(url, str) or is_blank(url):
        return None
    known = row.get(f"{name}_content_type")
    if not isinstance(known, str) or is_blank(known):
        return RemoteFile(url, accepted)
    return RemoteFile(url, {known: accepted[known]} if known in accepted else {})


def unavailable_domains(database: Database, domains: Iterable[str]) -> set[str]:
    """Return those of some servers to which Mastodon has failed to deliver for a week.

    Its ``DeliveryFailureTracker`` adds them to a table (since 3.2), and takes them out when they answer. Where the
    table does not exist, or the role may not read it, there are none.
    """
    table = database.schema.beside("accounts", "unavailable_domains")
    with contextlib.closing(database.connect()) as connection, reading_once(connection) as cursor:
        cursor.execute("SELECT has_table_privilege(to_regclass(%s), 'SELECT')", (table.as_string(cursor),))
        if cursor.fetchone() != (True,):
            return set()
        cursor.execute(sql.SQL("SELECT domain FROM {} WHERE domain = ANY(%s)").format(table), (sorted(set(domains)),))
        return {domain for (domain,) in cursor.fetchall()}
