"""Outcomes of objects, and the fixed remarks beside them."""

from __future__ import annotations

from enum import Enum


class Outcome(str, Enum):
    """What became of a planned object. Every one has exactly one outcome at the end of a run."""

    COPIED = "copied"
    """Streamed to the destination and verified there."""
    PRESENT = "present"
    """Already at the destination, and equal as far as the listings of both storages tell."""
    MISSING = "missing"
    """The source has it under none of its keys."""
    FAILED = "failed"
    """Not copied; the reason says why."""


ONLY_AT_DESTINATION = "only at the destination"
WRITTEN_THERE = "written at the destination, later than what the source has: it stays"
NO_ACLS = "private in the database; the destination has no ACLs to keep it so"
SOURCE_SILENT = "the source neither shows nor denies it"
HARMLESS = "known to be harmless"
