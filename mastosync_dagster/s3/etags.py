"""What an ETag proves about a body, and the ETags of uploads in parts."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from mastosync_dagster.units import MIB

SMALLEST_PART = 5 * MIB
"""S3 takes no smaller part, but for the last. Mastodon uploads in parts of this size (fog's default)."""
FEW_PARTS = 1_000
"""Every storage takes so many parts in one upload: Scaleway no more of them."""
MOST_PARTS = 10_000
"""S3 takes no more parts in one upload."""
LARGE_PART = 64 * MIB
"""Parts do not grow above this size, for the memory's sake, but where there would be too many of them for S3."""

_PARTS_ETAG = re.compile(r"[0-9a-f]{32}-([1-9][0-9]*)", re.ASCII)
_PLAIN_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)
_USUAL_PART_SIZES = tuple(size * MIB for size in (5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128, 256, 512))
"""Defaults of fog, the AWS tools, rclone, s3cmd, Cyberduck and the like, in the order to try."""


def bare(etag: str | None) -> str | None:
    """Return an ETag without quotes, in lower case; None for none at all.

    Also of a weak one (``W/"…"``), as proxies make of an answer that they have changed or might have.
    """
    return (etag or "").removeprefix("W/").strip('"').lower() or None


def as_sent(etag: str | None) -> str | None:
    """Return an ETag without quotes, as the server wrote it: where it is handed back, it must have that spelling."""
    return (etag or "").removeprefix("W/").strip('"') or None


def is_md5(etag: str | None) -> bool:
    """Return whether a bare ETag has the form of an MD5 (those of uploads in parts and of some servers do not).

    The form alone proves nothing where objects are encrypted with a key of their own (SSE-KMS, SSE-C):
    `Storage.etag_is_md5` asks.
    """
    return etag is not None and _PLAIN_MD5.fullmatch(etag) is not None


def parts_of(etag: str | None) -> int | None:
    """Return the number of parts that a bare ETag names; None where it is not that of an upload in parts."""
    found = _PARTS_ETAG.fullmatch(etag or "")
    return int(found[1]) if found else None


def guess_part_size(size: int, etag: str | None) -> int | None:
    """Return the first usual part size that gives the number of parts in a bare ETag; None where none does."""
    parts = parts_of(etag)
    if parts is None:
        return None
    return next((part for part in _USUAL_PART_SIZES if -(-size // part) == parts), None)


def part_size_for(size: int) -> int:
    """Return the part size to upload an object with: the smallest that S3 takes, as Mastodon does, if that suffices.

    5 MiB up to 4.9 GiB, a thousandth of the object up to 62 GiB, 64 MiB up to 625 GiB, a ten thousandth above.
    """
    needed = max(min(-(-size // FEW_PARTS), LARGE_PART), -(-size // MOST_PARTS))
    return max(SMALLEST_PART, -(-needed // MIB) * MIB)


class PartsDigest:
    """Computes the ETag of an upload in parts, from the body in pieces of any size."""

    def __init__(self, part_size: int) -> None:
        self._part_size = part_size
        self._current = hashlib.md5(usedforsecurity=False)
        self._filled = 0
        self._digests: list[bytes] = []

    def update(self, piece: memoryview) -> None:
        """Take the next piece of the body."""
        while piece:
            room = self._part_size - self._filled
            self._current.update(piece[:room])
            self._filled += min(room, len(piece))
            piece = piece[room:]
            if self._filled == self._part_size:
                self._finish_part()

    def _finish_part(self) -> None:
        self._digests.append(self._current.digest())
        self._current = hashlib.md5(usedforsecurity=False)
        self._filled = 0

    def etag(self) -> str:
        """Return the bare ETag; the body is complete."""
        if self._filled or not self._digests:
            self._finish_part()
        return etag_of_parts(self._digests)


def etag_of_parts(digests: list[bytes]) -> str:
    """Return the bare ETag of an upload whose parts have these MD5s."""
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


@dataclass(frozen=True, slots=True)
class BodyDigests:
    """What is known of a body that has been read to its end.

    Attributes:
        md5: In hex.
        in_guessed_parts: ETag of an upload in parts of the size guessed from the source's ETag; None: nothing to guess.
    """

    size: int
    md5: str
    in_guessed_parts: str | None = None

    def agrees(self, etag: str | None) -> bool | None:
        """Compare with a bare ETag.

        Returns:
            True: it proves this body. False: it has the form of an MD5, and is another one. None: it says nothing, or
            only that our guess of the part size may be wrong.
        """
        if etag in {self.md5, self.in_guessed_parts}:
            return None if etag is None else True
        return False if is_md5(etag) else None
