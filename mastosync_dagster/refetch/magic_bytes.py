"""Magic bytes: how the files of a content type begin."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC_BYTES = 64
"""Enough bytes for all patterns."""

_ISO_MEDIA = rb"....(ftyp|moov|mdat|wide|free|skip)"
_OGG = rb"OggS"
_MATROSKA = rb"\x1a\x45\xdf\xa3"
_WAVE = rb"(RIFF|RF64)....WAVE"
_MP3 = rb"ID3|\xff[\xe0-\xff]"

_PATTERNS: Mapping[str, re.Pattern[bytes]] = MappingProxyType(
    {
        name: re.compile(pattern, re.DOTALL)
        for names, pattern in (
            (("image/jpeg",), rb"\xff\xd8\xff"),
            (("image/png",), rb"\x89PNG\r\n\x1a\n"),
            (("image/gif",), rb"GIF8[79]a"),
            (("image/webp",), rb"RIFF....WEBP"),
            (("image/heic", "image/heif", "image/avif"), rb"....ftyp"),
            (("video/mp4", "video/quicktime"), _ISO_MEDIA),
            (("audio/mp4", "audio/m4a", "audio/x-m4a", "audio/3gpp"), _ISO_MEDIA),
            (("video/webm", "audio/webm"), _MATROSKA),
            (("video/ogg", "audio/ogg", "audio/vorbis"), _OGG),
            (("audio/wave", "audio/wav", "audio/x-wav", "audio/x-pn-wave", "audio/vnd.wave"), _WAVE),
            (("audio/mpeg", "audio/mp3"), _MP3),
            (("audio/flac",), rb"fLaC|ID3"),
            (("audio/aac",), rb"\xff[\xf0-\xff]|ADIF|ID3|....ftyp"),
            (("video/x-ms-asf",), rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
        )
        for name in names
    }
)


def begins_like(content_type: str, body: bytes | bytearray | memoryview) -> bool:
    """Return whether a body begins like files of a content type; False for unknown types."""
    pattern = _PATTERNS.get(content_type)
    return pattern is not None and pattern.match(body[:MAGIC_BYTES]) is not None
