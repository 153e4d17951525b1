"""Which objects are private: by Mastodon's rows, by their ACLs at the source, or none.

Mastodon makes the media of suspended accounts and of posts removed by moderation private, and public again when that is
undone: `mastodon/tables.py` says by which columns (`Owner`), and the query of `mastodon/rows.py` asks for them. No
column of the media has the time. So the ACL of an object of a private row, or of one on the doubt list, is always read
at the destination (`sync/doubt_checks.py`), whatever an earlier run has recorded. A new copy gets its ACL with the PUT
(`Storage.write_headers`), other objects get theirs by `copy/acl_changes.py`; `sync/privacy_watch.py` asks for rows that
become private while a run copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from mastosync_dagster.mastodon import TABLES

if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from collections.abc import Set as AbstractSet


class Privacy(str, Enum):
    """Which objects are written private where the destination has ACLs. Run config takes the members' names."""

    mastodon = "mastodon"
    """Those of rows that are private in Mastodon."""
    source = "source"
    """Those that not everybody may read at the source."""
    none = "none"
    """None: every object gets the permission of the destination's settings."""


@dataclass(frozen=True, slots=True)
class KnownState:
    """What is known of rows and objects besides the rows themselves.

    Attributes:
        doubtful: Ids of the rows of a table with an object on the doubt list.
        again: Keys of objects to be copied again, since a verification has found them damaged.
        check_acl: Keys of objects whose ACL a verification has found wrong.
    """

    privacy: Privacy = Privacy.mastodon
    doubtful: Container[int] = ()
    again: AbstractSet[str] = frozenset()
    check_acl: AbstractSet[str] = frozenset()

    def is_private(self, row: Mapping[str, object]) -> bool:
        """Return whether a row's objects are to be written private, apart from what the source's ACLs say."""
        return self.privacy is not Privacy.none and bool(row["private"])

    def is_doubtful(self, row: Mapping[str, object]) -> bool:
        """Return whether a row's objects may have a wrong ACL at the destination."""
        return self.is_private(row) or row["id"] in self.doubtful


def has_private(table: str) -> bool:
    """Return whether rows of a table are private, or can become so."""
    return bool(TABLES[table].owners) or TABLES[table].private
