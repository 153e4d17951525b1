"""What must be where, and who may read it: the model. Pure: it asks nobody, and nothing in it is mastosync's.

Contents are MD5s. What the destination has is a set of contents as long as several are right: a run that was killed may
have written an object, or not. After a good night each set is one content again: the one that was found.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MEDIA, ACCOUNTS = "media_attachments", "accounts"
MOST_LOST = 4
"""Objects that the source lacks at the same time: with more it does not look like this instance's any more."""


class Mistake(Enum):
    """How a model is wrong on purpose: a machine with such a model must find a divergence."""

    SUSPENDED_IS_PUBLIC = "media of suspended accounts is public"
    ROT_SPREADS = "what rots at the source reaches the copy"
    NIGHTS_SEE_LOSSES = "a night sees what somebody has deleted at the destination"


class File(NamedTuple):
    """An object that a row says exists, with the content that Mastodon has given it."""

    table: str
    row: int
    content: str
    remote: bool = False


class FoundObject(NamedTuple):
    """An object at the destination, as it is found: its content, and the status that everybody gets."""

    content: str
    status: int


@dataclass
class Truth:
    """The instance, both buckets, and what is due.

    Attributes:
        files: What the rows say exists, by key.
        owners: The account of each media attachment.
        suspended: Accounts.
        source: Content by key.
        there: What the destination may have; None: nothing. Also of keys that no row has any more.
        ever: All contents that a key has had.
        unread: Keys of which the next good night must bring the source's object.
        unnoticed: Keys that somebody has lost or damaged at the destination: no row changed, so no night need see it.
        hidden: Public objects whose ACL somebody has taken away there: likewise.
        switched: Mastodon writes to the destination.
        restored: Tables of which the next good night must see that their rows are a backup's.
        newest: The highest row of each table at the last good night.
        lost: Contents that the source has lost.
        away: Keys that a paused run may still write, and contents that it may have read. `reads_later`: or reads then.
    """

    mistake: Mistake | None = None
    files: dict[str, File] = field(default_factory=dict)
    owners: dict[int, int] = field(default_factory=dict)
    suspended: set[int] = field(default_factory=set)
    source: dict[str, str] = field(default_factory=dict)
    there: defaultdict[str, set[str | None]] = field(default_factory=lambda: defaultdict(lambda: {None}))
    ever: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    unread: set[str] = field(default_factory=set)
    unnoticed: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    switched: bool = False
    restored: set[str] = field(default_factory=set)
    newest: dict[str, int] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    away: dict[str, set[str]] | None = None
    reads_later: bool = False

    # --- what people do ------------------------------------------------------------------------------------------

    def write(self, key: str, file: File) -> None:
        """Mastodon writes an object, and then its row."""
        self.files[key] = file
        self.ever[key].add(file.content)
        self.lost.pop(key, None)
        if self.switched:
            self.there[key] = {file.content}
            self.unread.discard(key)
        else:
            self._put(key, file.content)
            self.unread.add(key)
        self.unnoticed.discard(key)
        self.hidden.discard(key)

    def delete(self, key: str) -> None:
        """Mastodon deletes an object whose row it has deleted or changed."""
        del self.files[key]
        for keys in (self.unread, self.unnoticed, self.hidden):
            keys.discard(key)
        if self.switched:
            self.there[key] = {None}
        else:
            self.source.pop(key, None)
            self.lost.pop(key, None)

    def is_private(self, key: str) -> bool:
        """Tell whether nobody may read an object."""
        file = self.files[key]
        if self.mistake is Mistake.SUSPENDED_IS_PUBLIC:
            return False
        return file.table == MEDIA and self.owners[file.row] in self.suspended

    # --- what befalls objects -------------------------------------------------------------------------------------

    def _put(self, key: str, content: str) -> None:
        self.source[key] = content
        self.ever[key].add(content)
        if self.away is not None and key in self.away:
            self.away[key].add(content)

    def is_settled(self, key: str) -> bool:
        """Tell whether both storages have an object, the same, and nothing is due."""
        return key not in self.unread | self.unnoticed and self.there[key] == {self.source.get(key)}

    def keys(self, wanted: Callable[[str], bool]) -> list[str]:
        """Return keys of rows, in order."""
        return sorted(key for key in self.files if wanted(key))

    def losable(self, key: str) -> bool:
        """Tell whether the source may lose an object: the destination has it, or has never had it."""
        fresh = key in self.unread and self.there[key] == {None}
        few = sum(each in self.files for each in self.lost) < MOST_LOST
        return few and self.source.get(key) == self.files[key].content and (fresh or self.is_settled(key))

    def lose_at_source(self, key: str) -> None:
        """The source loses an object."""
        self.lost[key] = self.source.pop(key)

    def come_back(self, key: str) -> None:
        """The source has it again."""
        self._put(key, self.lost.pop(key))

    def rot_at_source(self, key: str, content: str) -> None:
        """The source's object gets other bytes; no row changes."""
        self._put(key, content)
        if self.mistake is Mistake.ROT_SPREADS:
            self.unread.add(key)
            self.files[key] = self.files[key]._replace(content=content)

    def lose_there(self, key: str) -> None:
        """Somebody deletes an object at the destination."""
        self.there[key] = {None}
        (self.unread if self.mistake is Mistake.NIGHTS_SEE_LOSSES else self.unnoticed).add(key)

    def damage_there(self, key: str, content: str) -> None:
        """An object at the destination gets other bytes."""
        self.ever[key].add(content)
        self.there[key] = {content}
        self.unnoticed.add(key)

    # --- what runs do --------------------------------------------------------------------------------------------

    def may_write(self) -> None:
        """A run begins: until it has ended well, it has written what is due, or has not."""
        for key in self.unread | self.unnoticed:
            if (content := self.source.get(key)) is not None:
                self.there[key].add(content)

    def pause(self, *, has_read: bool) -> None:
        """A run is held up that may have read and planned everything, or has read nothing yet."""
        self.may_write()
        self.reads_later = not has_read
        due = self.unread | self.unnoticed
        self.away = {key: {self.source[key]} if key in self.source else set() for key in due}

    def end_pause(self) -> None:
        """It has gone on, and has ended, however."""
        assert self.away is not None
        if self.reads_later:
            self.may_write()
        for key, contents in self.away.items():
            new = contents - self.there[key]
            self.there[key] |= new
            if new and key in self.files and not self.switched:
                # It may have put back what was there before.
                self.unread.add(key)
        self.away = None

    def good(self, keys: Iterable[str], *, every_row: bool, night: bool) -> None:
        """A run over the rows of some keys has ended well. ``every_row``: it has looked at all of their objects."""
        for key in keys:
            all_seen = every_row or self.files[key].table in self.restored
            if key in self.unnoticed:
                self._see_unnoticed(key, all_seen=all_seen)
            elif key in self.unread:
                self._bring(key)
        if night:
            self.restored.clear()
            # Sorted, the last of each table counts: not that of an earlier night, which may be deleted since.
            self.newest = {file.table: file.row for file in sorted(self.files.values())}

    def _see_unnoticed(self, key: str, *, all_seen: bool) -> None:
        content = self.source.get(key)
        if content is None:
            if all_seen and self.there[key] == {None}:
                # It is known to be missing from now on: a night asks for it again.
                self.unnoticed.discard(key)
                self.unread.add(key)
        elif all_seen:
            self.unnoticed.discard(key)
            self.there[key] = {content}
        else:
            self.there[key].add(content)

    def _bring(self, key: str) -> None:
        content = self.source.get(key)
        if content is None:
            return
        if content == self.files[key].content:
            self.there[key] = {content}
        else:
            # Rotten at the source: so it is copied, unless the good one has arrived before.
            self.there[key] = self.there[key] - {None} | {content}

    def refetched(self) -> None:
        """A run over every row has fetched what the source has lost of other servers' files."""
        for key, file in self.files.items():
            if file.remote and key not in self.source and None in self.there[key]:
                self.there[key] = self.there[key] - {None} | {file.content}
                self.unread.discard(key)
                self.unnoticed.discard(key)

    # --- a backup of the database -------------------------------------------------------------------------------

    def backup(self) -> Truth:
        """Return what the rows say now."""
        return copy.deepcopy(self)

    def restore(self, old: Truth) -> list[str]:
        """The rows are as they were; return the keys of rows that had been deleted."""
        revived = sorted(old.files.keys() - self.files.keys())
        for table in (MEDIA, ACCOUNTS):
            rows = {file.row for file in old.files.values() if file.table == table}
            if table in self.newest and self.newest[table] not in rows:
                self.restored.add(table)
        for key in self.files.keys() - old.files.keys():
            for keys in (self.unread, self.unnoticed, self.hidden):
                keys.discard(key)
        for key in old.files.keys() & self.files.keys():
            if old.files[key].content != self.files[key].content:
                # The row has its file from before a conversion: any of them may stay.
                self.there[key] |= self.ever[key]
        for key in revived:
            if None in self.there[key] or key not in self.source:
                self.unnoticed.add(key)
            # Its ACL is what it was when its row was deleted.
            self.hidden.add(key)
        self.files, self.owners = dict(old.files), dict(old.owners)
        self.suspended = set(old.suspended)
        return revived

    # --- what is found -------------------------------------------------------------------------------------------

    def wrong_contents(self, found: Mapping[str, FoundObject]) -> dict[str, str]:
        """Return the objects that are lost or altered, and how."""
        wrong = {}
        for key in self.files:
            content = found[key].content if key in found else None
            if content not in self.there[key]:
                wrong[key] = f"{content} instead of {self.there[key]}"
        return wrong

    def wrong_access(self, found: Mapping[str, FoundObject]) -> dict[str, str]:
        """Return the objects that are readable and must not be, or the other way round."""
        wrong = {}
        for key in self.files:
            expected = 403 if self.is_private(key) else 200
            if key in found and found[key].status != expected and not (key in self.hidden and expected == 200):
                wrong[key] = f"{found[key].status} instead of {expected}"
        return wrong

    def settle(self, found: Mapping[str, FoundObject]) -> None:
        """After a good night: what is found is what must stay."""
        for key in self.files:
            if key not in found:
                self.there[key] = {None}
                continue
            self.there[key] = {found[key].content}
            self.unread.discard(key)
            if found[key].content == self.source.get(key):
                self.unnoticed.discard(key)
            if found[key].status == 200:
                self.hidden.discard(key)
