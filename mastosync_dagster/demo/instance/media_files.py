"""Makes the files of the generated instance: small and valid, and no two of them equal.

A few motifs of each kind are drawn. Files of one motif differ by a serial number where the format takes comments, which
costs microseconds where drawing costs milliseconds.

All are valid, so that any viewer or player opens them: MP4 has eight frames of AV1, MP3 is silence.
"""

from __future__ import annotations

import io
import math
import random
import struct
import zipfile
import zlib
from enum import Enum
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Callable

MOTIFS = 6
"""How many different pictures of each kind are drawn."""

_SIZE = (96, 64)
_FRAMES = 8
_BIG_BYTES = 17 * 2**20


# --- Drawing -------------------------------------------------------------------------------------------------------


def _picture(rng: random.Random, phase: float = 0.0) -> Image.Image:
    """Draw a sky with a sun and hills, to be recognised in a browser."""
    width, height = _SIZE
    top, bottom, ground, sun = (tuple(rng.randrange(256) for _ in range(3)) for _ in range(4))
    image = Image.new("RGB", _SIZE)
    draw = ImageDraw.Draw(image)
    for y in range(height):
        share = y / height
        draw.line(
            [(0, y), (width, y)], fill=tuple(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
        )
    x = (rng.uniform(0.1, 0.9) + phase) % 1 * width
    draw.ellipse([x - 8, 8, x + 8, 24], fill=sun)
    wave_length, lift = rng.uniform(8, 24), rng.uniform(0.55, 0.75)
    ridge = [(x, height * lift + 6 * math.sin(x / wave_length)) for x in range(width + 1)]
    draw.polygon([*ridge, (width, height), (0, height)], fill=ground)
    return image


def _frames(rng: random.Random) -> list[Image.Image]:
    state = rng.getstate()
    frames = []
    for number in range(_FRAMES):
        rng.setstate(state)
        frames.append(_picture(rng, phase=number / _FRAMES))
    return frames


def saved(rng: random.Random, form: str) -> bytes:
    """Return a picture in one of Pillow's formats."""
    output = io.BytesIO()
    _picture(rng).save(output, form)
    return output.getvalue()


def _animated_gif(rng: random.Random) -> bytes:
    output = io.BytesIO()
    first, *rest = _frames(rng)
    first.save(output, "GIF", save_all=True, append_images=rest, duration=100, loop=0)
    return output.getvalue()


def film(rng: random.Random, brand: bytes) -> bytes:
    """Return an MP4 or QuickTime film: an animated AVIF without its brand and poster."""
    output = io.BytesIO()
    first, *rest = _frames(rng)
    first.save(output, "AVIF", save_all=True, append_images=rest, duration=100, speed=10, max_threads=1)
    film = bytearray(output.getvalue())
    length = int.from_bytes(film[:4], "big")
    file_type = struct.pack(">I4s4sI4s", 20, b"ftyp", brand, 512, brand)
    film[:length] = file_type + box(b"free", bytes(length - len(file_type) - 8))  # offsets further on stay true
    poster = film.index(b"meta")
    film[poster : poster + 4] = b"free"
    handler = film.index(b"pict", film.index(b"hdlr", film.index(b"moov")))
    film[handler : handler + 4] = b"vide"
    for header in (b"mvhd", b"tkhd", b"mdhd"):  # the time of day: the same seed must make the same bytes
        times = film.index(header) + 8
        film[times : times + 16] = bytes(16)
    return bytes(film)


def _silence(rng: random.Random) -> bytes:
    """Return MP3 frames of 128 kbit/s, 44.1 kHz, 417 bytes each; without any other data they are silence."""
    return (b"\xff\xfb\x90\x64" + bytes(413)) * rng.randrange(5, 15)


def _archive(rng: random.Random) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        archive.writestr(zipfile.ZipInfo("outbox.json"), f'{{"totalItems": {rng.randrange(10_000)}}}')
    return output.getvalue()


# --- Serial numbers ------------------------------------------------------------------------------------------------


def box(name: bytes, content: bytes) -> bytes:
    """Return a box of the ISO base media format, which MP4, QuickTime, AVIF and HEIF consist of."""
    return struct.pack(">I4s", 8 + len(content), name) + content


def _number_jpeg(file: bytes, text: bytes) -> bytes:
    return file[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(text)) + text + file[2:]


def _number_png(file: bytes, text: bytes) -> bytes:
    head_end = 33  # magic bytes and IHDR
    chunk = b"tEXtComment\0" + text
    checked = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return file[:head_end] + checked + file[head_end:]


def number_gif(file: bytes, text: bytes) -> bytes:
    """Add a comment before the end of a GIF."""
    return b"GIF89a" + file[6:-1] + b"\x21\xfe" + bytes([len(text)]) + text + b"\x00\x3b"


def number_riff(file: bytes, text: bytes) -> bytes:
    """Add a chunk of an unknown name, which readers skip, at the end of a WebP or WAV."""
    padded = text + bytes(len(text) % 2)
    body = file[8:] + bytes(len(file) % 2) + b"note" + struct.pack("<I", len(text)) + padded
    return b"RIFF" + struct.pack("<I", len(body)) + body


def number_box(file: bytes, text: bytes) -> bytes:
    """Add a free box."""
    return file + box(b"free", text)


def _number_mp3(file: bytes, text: bytes) -> bytes:
    return file + b"TAG" + text.ljust(125, b"\0")  # ID3v1


def _number_zip(file: bytes, text: bytes) -> bytes:
    return file[:-2] + struct.pack("<H", len(text)) + text  # the archive's comment


# --- Kinds ---------------------------------------------------------------------------------------------------------


class FileKind(Enum):
    """Kinds of files: the Content-Type that Mastodon stores them with, how to draw a motif, how to number a file."""

    def __init__(
        self, content_type: str, draw: Callable[[random.Random], bytes], number: Callable[[bytes, bytes], bytes]
    ) -> None:
        self.content_type = content_type
        self.draw = draw
        self.number = number


class Kind(FileKind):
    """The kinds of an ordinary instance."""

    JPEG = ("image/jpeg", lambda rng: saved(rng, "JPEG"), _number_jpeg)
    PNG = ("image/png", lambda rng: saved(rng, "PNG"), _number_png)
    WEBP = ("image/webp", lambda rng: saved(rng, "WEBP"), number_riff)
    ANIMATED_GIF = ("image/gif", _animated_gif, number_gif)
    MP4 = ("video/mp4", lambda rng: film(rng, b"isom"), number_box)
    BIG_MP4 = ("video/mp4", lambda rng: film(rng, b"isom") + box(b"free", rng.randbytes(_BIG_BYTES)), number_box)
    MP3 = ("audio/mpeg", _silence, _number_mp3)
    ZIP = ("application/zip", _archive, _number_zip)


class FileMaker:
    """Makes files, the same ones in the same order for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  (pictures need no cryptography)
        self._motifs: dict[FileKind, list[bytes]] = {}
        self._made = 0

    def make(self, kind: FileKind) -> bytes:
        """Return the bytes of a file of this kind that no other call has returned or will return."""
        if kind not in self._motifs:
            count = 1 if kind is Kind.BIG_MP4 else MOTIFS
            self._motifs[kind] = [kind.draw(self._random) for _ in range(count)]
        self._made += 1
        motifs = self._motifs[kind]
        return kind.number(motifs[self._made % len(motifs)], f"mastosync demo {self._made:08d}".encode())
