"""The files of the generated instance: small and real where Python can make them, and never two alike.

A few motifs of each kind are drawn; what one file has over the next is a serial number in a place where the format
takes comments, which costs microseconds where drawing costs milliseconds.

Real (any viewer or player opens them): JPEG, PNG, WebP, GIF, animated GIF, AVIF, SVG, ICO, WAV, MP3 (silence), ZIP, and
MP4 and QuickTime films (eight frames of AV1). HEIC, HEIF, WebM, Ogg and ASF are what they say in their first bytes and
noise after that: nothing in Python's wheels writes them, and a copy does not look inside.
"""

from __future__ import annotations

import io
import math
import random
import struct
import wave
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


class Kind(Enum):
    """A kind of file; the value is the Content-Type that Mastodon detects in it and stores it with."""

    JPEG = "image/jpeg"
    PNG = "image/png"
    WEBP = "image/webp"
    GIF = "image/gif"
    ANIMATED_GIF = "image/gif; animated"
    HEIC = "image/heic"
    HEIF = "image/heif"
    AVIF = "image/avif"
    SVG = "image/svg+xml"
    ICO = "image/vnd.microsoft.icon"
    MP4 = "video/mp4"
    BIG_MP4 = "video/mp4; 17 MiB"
    QUICKTIME = "video/quicktime"
    WEBM = "video/webm"
    OGG_VIDEO = "video/ogg"
    ASF = "video/x-ms-asf"
    MP3 = "audio/mpeg"
    WAV = "audio/wav"
    OGG_AUDIO = "audio/ogg"
    ZIP = "application/zip"
    BINARY = "application/octet-stream"

    @property
    def content_type(self) -> str:
        """The Content-Type header of the stored object."""
        return self.value.partition(";")[0]


class FileMaker:
    """Makes files, the same ones in the same order for the same seed.

    Args:
        seed: Of the pictures and of the noise.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  (pictures need no cryptography)
        self._motifs: dict[Kind, list[bytes]] = {}
        self._made = 0

    def make(self, kind: Kind) -> bytes:
        """Return the bytes of a file of this kind that no other call has returned or will return."""
        if kind not in self._motifs:
            count = 1 if kind is Kind.BIG_MP4 else MOTIFS
            self._motifs[kind] = [_DRAW[kind](self._random) for _ in range(count)]
        self._made += 1
        motifs = self._motifs[kind]
        return _SIGN[kind](motifs[self._made % len(motifs)], f"mastosync demo {self._made:08d}".encode())


# --- Drawing -------------------------------------------------------------------------------------------------------


def _picture(rng: random.Random, phase: float = 0.0) -> Image.Image:
    """A sky with a sun and hills: something to recognise when it is looked at in a browser."""
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


def _saved(rng: random.Random, form: str) -> bytes:
    output = io.BytesIO()
    _picture(rng).save(output, form)
    return output.getvalue()


def _animated_gif(rng: random.Random) -> bytes:
    output = io.BytesIO()
    first, *rest = _frames(rng)
    first.save(output, "GIF", save_all=True, append_images=rest, duration=100, loop=0)
    return output.getvalue()


def _film(rng: random.Random, brand: bytes) -> bytes:
    """An MP4 or QuickTime film: an animated AVIF is one already, but for its name and for the poster before it."""
    output = io.BytesIO()
    first, *rest = _frames(rng)
    first.save(output, "AVIF", save_all=True, append_images=rest, duration=100, speed=10, max_threads=1)
    film = bytearray(output.getvalue())
    length = int.from_bytes(film[:4], "big")
    file_type = struct.pack(">I4s4sI4s", 20, b"ftyp", brand, 512, brand)
    film[:length] = file_type + _box(b"free", bytes(length - len(file_type) - 8))  # offsets further on stay true
    poster = film.index(b"meta")
    film[poster : poster + 4] = b"free"
    handler = film.index(b"pict", film.index(b"hdlr", film.index(b"moov")))
    film[handler : handler + 4] = b"vide"
    for header in (b"mvhd", b"tkhd", b"mdhd"):  # the time of day: the same seed must make the same bytes
        times = film.index(header) + 8
        film[times : times + 16] = bytes(16)
    return bytes(film)


def _tone(rng: random.Random) -> bytes:
    output = io.BytesIO()
    step = rng.uniform(0.1, 0.5)
    with wave.open(output, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8000)
        sound.writeframes(bytes(round(128 + 60 * math.sin(step * sample)) for sample in range(2000)))
    return output.getvalue()


def _silence(rng: random.Random) -> bytes:
    """MP3 frames of 128 kbit/s, 44.1 kHz, 417 bytes each; without side information they sound as silence."""
    return (b"\xff\xfb\x90\x64" + bytes(413)) * rng.randrange(5, 15)


def _archive(rng: random.Random) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        archive.writestr(zipfile.ZipInfo("outbox.json"), f'{{"totalItems": {rng.randrange(10_000)}}}')
    return output.getvalue()


def _noise(rng: random.Random, start: bytes) -> bytes:
    return start + rng.randbytes(rng.randrange(800, 3000))


def _brand(rng: random.Random, brand: bytes) -> bytes:
    return _box(b"ftyp", brand + bytes(4) + brand + b"mif1") + _box(b"mdat", rng.randbytes(1500))


# --- Serial numbers ------------------------------------------------------------------------------------------------


def _box(name: bytes, content: bytes) -> bytes:
    """A box of the ISO base media format, the frame of MP4, QuickTime, AVIF and HEIF."""
    return struct.pack(">I4s", 8 + len(content), name) + content


def _sign_jpeg(file: bytes, text: bytes) -> bytes:
    return file[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(text)) + text + file[2:]


def _sign_png(file: bytes, text: bytes) -> bytes:
    head_end = 33  # signature and IHDR
    chunk = b"tEXtComment\0" + text
    checked = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return file[:head_end] + checked + file[head_end:]


def _sign_gif(file: bytes, text: bytes) -> bytes:
    return b"GIF89a" + file[6:-1] + b"\x21\xfe" + bytes([len(text)]) + text + b"\x00\x3b"


def _sign_riff(file: bytes, text: bytes) -> bytes:
    """WebP and WAV: a chunk of a name that readers skip, behind the others."""
    padded = text + bytes(len(text) % 2)
    body = file[8:] + bytes(len(file) % 2) + b"note" + struct.pack("<I", len(text)) + padded
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _sign_box(file: bytes, text: bytes) -> bytes:
    return file + _box(b"free", text)


def _sign_end(file: bytes, text: bytes) -> bytes:
    return file + text


def _sign_mp3(file: bytes, text: bytes) -> bytes:
    return file + b"TAG" + text.ljust(125, b"\0")  # ID3v1


def _sign_svg(file: bytes, text: bytes) -> bytes:
    return file + b"<!-- " + text + b" -->"


def _sign_zip(file: bytes, text: bytes) -> bytes:
    return file[:-2] + struct.pack("<H", len(text)) + text  # the archive's comment


_SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="96" height="64"><rect width="96" height="64" fill="#%06x"/></svg>'
)

_DRAW: dict[Kind, Callable[[random.Random], bytes]] = {
    Kind.JPEG: lambda rng: _saved(rng, "JPEG"),
    Kind.PNG: lambda rng: _saved(rng, "PNG"),
    Kind.WEBP: lambda rng: _saved(rng, "WEBP"),
    Kind.GIF: lambda rng: _saved(rng, "GIF"),
    Kind.ANIMATED_GIF: _animated_gif,
    Kind.HEIC: lambda rng: _brand(rng, b"heic"),
    Kind.HEIF: lambda rng: _brand(rng, b"mif1"),
    Kind.AVIF: lambda rng: _saved(rng, "AVIF"),
    Kind.SVG: lambda rng: _SVG % rng.randrange(2**24),
    Kind.ICO: lambda rng: _saved(rng, "ICO"),
    Kind.MP4: lambda rng: _film(rng, b"isom"),
    Kind.BIG_MP4: lambda rng: _film(rng, b"isom") + _box(b"free", rng.randbytes(_BIG_BYTES)),
    Kind.QUICKTIME: lambda rng: _film(rng, b"qt  "),
    Kind.WEBM: lambda rng: _noise(rng, bytes.fromhex("1a45dfa39f4286810142f7810142f2810442f381084282847765626d")),
    Kind.OGG_VIDEO: lambda rng: _noise(rng, b"OggS\0\2" + bytes(20) + b"\1\x2a\x80theora"),
    Kind.ASF: lambda rng: _noise(rng, bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")),
    Kind.MP3: _silence,
    Kind.WAV: _tone,
    Kind.OGG_AUDIO: lambda rng: _noise(rng, b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead"),
    Kind.ZIP: _archive,
    Kind.BINARY: lambda rng: _noise(rng, b""),
}

_SIGN: dict[Kind, Callable[[bytes, bytes], bytes]] = {
    Kind.JPEG: _sign_jpeg,
    Kind.PNG: _sign_png,
    Kind.WEBP: _sign_riff,
    Kind.GIF: _sign_gif,
    Kind.ANIMATED_GIF: _sign_gif,
    Kind.HEIC: _sign_box,
    Kind.HEIF: _sign_box,
    Kind.AVIF: _sign_box,
    Kind.SVG: _sign_svg,
    Kind.ICO: _sign_end,
    Kind.MP4: _sign_box,
    Kind.BIG_MP4: _sign_box,
    Kind.QUICKTIME: _sign_box,
    Kind.WEBM: _sign_end,
    Kind.OGG_VIDEO: _sign_end,
    Kind.ASF: _sign_end,
    Kind.MP3: _sign_mp3,
    Kind.WAV: _sign_riff,
    Kind.OGG_AUDIO: _sign_end,
    Kind.ZIP: _sign_zip,
    Kind.BINARY: _sign_end,
}
