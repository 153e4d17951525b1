"""Ranges of keys."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyRange:
    """A contiguous range of keys in byte order, relative to the key prefix.

    Attributes:
        prefix: Every key starts with it; ends with ``/``.
        start: Inclusive lower bound, starts with ``prefix``.
        end: Exclusive upper bound; keys at or after it are outside.
    """

    prefix: str
    start: str
    end: str
