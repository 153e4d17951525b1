"""The headers of a file: what Mastodon gives an object in a bucket, and a folder does not keep."""

from __future__ import annotations

import mimetypes
from email.utils import formatdate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

CACHE_CONTROL = "public, max-age=315576000, immutable"
"""What Mastodon sets for every object (``config/initializers/paperclip.rb``)."""
HEAD_BYTES = 64

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
_OGG_AUDIO = (b"vorbis", b"OpusHead", b"Speex", b"FLAC")


def content_type(head: bytes, name: str) -> str:
    """Return the type of a file by its first `HEAD_BYTES` bytes, or else by its name."""
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[:4] == b"OggS":
        return "audio/ogg" if any(word in head for word in _OGG_AUDIO) else "video/ogg"
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def etag_of(stat: os.stat_result) -> str:
    """Return an ETag that changes with the file. It is no MD5, and cannot be taken for one."""
    return f'"{stat.st_mtime_ns:x}.{stat.st_size:x}"'


def headers_of(stat: os.stat_result, head: bytes, name: str) -> dict[str, str]:
    """Return the headers of a file."""
    return {
        "content-length": str(stat.st_size),
        "content-type": content_type(head, name),
        "cache-control": CACHE_CONTROL,
        "etag": etag_of(stat),
        "last-modified": formatdate(stat.st_mtime, usegmt=True),
        "accept-ranges": "bytes",
    }
