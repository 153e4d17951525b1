"""The headers of a file: what Mastodon gives an object in a bucket, and a folder does not keep."""

from __future__ import annotations

import mimetypes
import re
from email.utils import formatdate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

CACHE_CONTROL = "public, max-age=315576000, immutable"
"""What Mastodon sets for every object (``config/initializers/paperclip.rb``)."""
HEAD_BYTES = 64

CONTENT_TYPE = "Content-Type"
FIRST_BYTES = "x-mastosync-first-bytes"
"""The header of our own that says which type the first bytes show, where they show one."""

# By their first bytes, since the type is that of the file and not of its name: the still picture of a GIF is called
# x.png, and is a GIF.
_MAGIC: Mapping[bytes, str] = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"\x1aE\xdf\xa3": "video/webm",
    b"ID3": "audio/mpeg",
    b"\xff\xfb": "audio/mpeg",
    b"\xff\xf3": "audio/mpeg",
    b"\xff\xf2": "audio/mpeg",
    b"fLaC": "audio/flac",
    b"PK\x03\x04": "application/zip",
    b"\x1f\x8b": "application/gzip",
    b"\x00\x00\x01\x00": "image/vnd.microsoft.icon",
}
_RIFF: Mapping[bytes, str] = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
_BRANDS: Mapping[bytes, str] = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
    b"qt  ": "video/quicktime",
    b"M4A ": "audio/mp4",
}
_PICTURES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
"""Their first bytes leave nothing open. Those of others show a container, such as that of video/mp4 and audio/mp4."""
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][\w.+-]*/[A-Za-z0-9][\w.+-]*", re.ASCII)
_OGG_AUDIO = (b"vorbis", b"OpusHead", b"Speex", b"FLAC")


def type_of_row_and_file(row: str | None, first_bytes: str | None) -> str | None:
    """Return the type of an original: what the row says, unless its first bytes show that it is not so.

    Args:
        row: ``<attachment>_content_type``.
        first_bytes: The type that the first bytes show, if they show one.
    """
    if row is None or not _MEDIA_TYPE.fullmatch(row):
        return first_bytes
    if first_bytes is None or first_bytes == row:
        return row
    both_pictures = row.startswith("image/") and first_bytes.startswith("image/")
    neither_is = not row.startswith("image/") and not first_bytes.startswith("image/")
    return row if (both_pictures or neither_is) and first_bytes not in _PICTURES else first_bytes


def type_of_bytes(head: bytes) -> str | None:
    """Return the type that the first `HEAD_BYTES` bytes of a file show; None: none."""
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[:4] == b"OggS":
        return "audio/ogg" if any(word in head for word in _OGG_AUDIO) else "video/ogg"
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    return None


def type_of_name(name: str) -> str:
    """Return the type that the end of a name stands for."""
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def etag_of(stat: os.stat_result) -> str:
    """Return an ETag that changes with the file. It is no MD5, and cannot be taken for one."""
    return f'"{stat.st_mtime_ns:x}.{stat.st_size:x}"'


def headers_of(stat: os.stat_result, head: bytes, name: str) -> dict[str, str]:
    """Return the headers of a file."""
    first_bytes = type_of_bytes(head)
    return {
        **({FIRST_BYTES: first_bytes} if first_bytes else {}),
        "content-length": str(stat.st_size),
        "content-type": first_bytes or type_of_name(name),
        "cache-control": CACHE_CONTROL,
        "etag": etag_of(stat),
        "last-modified": formatdate(stat.st_mtime, usegmt=True),
        "accept-ranges": "bytes",
    }
