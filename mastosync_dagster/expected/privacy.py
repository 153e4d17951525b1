"""Who may read an object: what Mastodon's rows say, what the source shows, or nothing of the kind.

Mastodon makes the media of suspended accounts and of posts removed by moderation private, and public again when that is
taken back. No column of the media tells when. So an object of a row that is private now, or that is on the doubt list,
is asked for at the destination (`convergence`), and never believed to be as some run has said.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from mastosync_dagster.mastodon import TABLES

if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from collections.abc import Set as AbstractSet


class Privacy(str, Enum):
    """Which objects are written private where the destination has ACLs."""

    MASTODON = "mastodon"
    """Those that are private in Mastodon: by its rows."""
    SOURCE = "source"
    """Those that are private at the source: not everybody may read them there."""
    NONE = "none"
    """None: every object gets the permission."""


@dataclass(frozen=True, slots=True)
class KnownState:
    """What is known of rows and objects beyond what the rows say of themselves.

    Attributes:
        privacy: Who says what is private.
        doubtful: Rows with an object on the doubt list, by table.
        again: Keys of objects to be copied again, since a verification has found them damaged.
        turn: Keys of objects that a verification has found readable by the wrong people.
    """

    privacy: Privacy = Privacy.MASTODON
    doubtful: Mapping[str, Container[int]] = field(default_factory=dict)
    again: AbstractSet[str] = frozenset()
    turn: AbstractSet[str] = frozenset()

    def is_private(self, row: Mapping[str, object]) -> bool:
        """Tell whether a row's objects are to be written private, as far as the source does not say it."""
        return self.privacy is not Privacy.NONE and bool(row["private"])

    def is_doubtful(self, table: str, row: Mapping[str, object]) -> bool:
        """Tell whether a row's objects may be at the destination with another ACL than they are to have."""
        return self.is_private(row) or row["id"] in self.doubtful.get(table, ())


def has_private(table: str) -> bool:
    """Tell whether rows of a table are private, or become so while they live."""
    return bool(TABLES[table].owners) or TABLES[table].private


def known_privacy(name: str) -> str:
    """Return the name of a privacy policy.

    Raises:
        ValueError: It is none.
    """
    known = [policy.value for policy in Privacy]
    if name not in known:
        raise ValueError(f"unknown privacy {name!r}: known are {', '.join(known)}")
    return name
