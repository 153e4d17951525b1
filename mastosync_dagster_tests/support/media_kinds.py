"""Kinds of files that are rare on an instance.

HEIC, HEIF, WebM, Ogg and ASF have the right magic bytes and noise after them: nothing in Python's wheels writes them,
and a copy does not read the rest.
"""

from __future__ import annotations

import io
import math
import wave
from typing import TYPE_CHECKING

from mastosync_dagster.demo.instance.media_files import FileKind, box, film, number_box, number_gif, number_riff, saved

if TYPE_CHECKING:
    import random

_SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="96" height="64"><rect width="96" height="64" fill="#%06x"/></svg>'
)


def _tone(rng: random.Random) -> bytes:
    output = io.BytesIO()
    step = rng.uniform(0.1, 0.5)
    with wave.open(output, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8000)
        sound.writeframes(bytes(round(128 + 60 * math.sin(step * sample)) for sample in range(2000)))
    return output.getvalue()


def _noise(rng: random.Random, start: bytes) -> bytes:
    return start + rng.randbytes(rng.randrange(800, 3000))


def _brand(rng: random.Random, brand: bytes) -> bytes:
    return box(b"ftyp", brand + bytes(4) + brand + b"mif1") + box(b"mdat", rng.randbytes(1500))


def _number_end(file: bytes, text: bytes) -> bytes:
    return file + text


def _number_svg(file: bytes, text: bytes) -> bytes:
    return file + b"<!-- " + text + b" -->"


class RareKind(FileKind):
    """Besides those of the demo."""

    GIF = ("image/gif", lambda rng: saved(rng, "GIF"), number_gif)
    HEIC = ("image/heic", lambda rng: _brand(rng, b"heic"), number_box)
    HEIF = ("image/heif", lambda rng: _brand(rng, b"mif1"), number_box)
    AVIF = ("image/avif", lambda rng: saved(rng, "AVIF"), number_box)
    SVG = ("image/svg+xml", lambda rng: _SVG % rng.randrange(2**24), _number_svg)
    ICO = ("image/vnd.microsoft.icon", lambda rng: saved(rng, "ICO"), _number_end)
    QUICKTIME = ("video/quicktime", lambda rng: film(rng, b"qt  "), number_box)
    WEBM = (
        "video/webm",
        lambda rng: _noise(rng, bytes.fromhex("1a45dfa39f4286810142f7810142f2810442f381084282847765626d")),
        _number_end,
    )
    OGG_VIDEO = ("video/ogg", lambda rng: _noise(rng, b"OggS\0\2" + bytes(20) + b"\1\x2a\x80theora"), _number_end)
    ASF = ("video/x-ms-asf", lambda rng: _noise(rng, bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")), _number_end)
    WAV = ("audio/wav", _tone, number_riff)
    OGG_AUDIO = ("audio/ogg", lambda rng: _noise(rng, b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead"), _number_end)
    BINARY = ("application/octet-stream", lambda rng: _noise(rng, b""), _number_end)
