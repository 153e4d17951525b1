"""A closer look at single objects than listings give: headers, who may read them, bodies."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.records.findings import Finding
from mastosync_dagster.s3.acl import is_public, is_readable, is_readable_at_source
from mastosync_dagster.s3.digests import Digest, read_digest
from mastosync_dagster.s3.errors import StorageError, is_not_found

if TYPE_CHECKING:
    import threading

    from mastosync_dagster.plan.items import ExpectedObject
    from mastosync_dagster.s3.storage import ListedObject, Storage

EXPOSED = "everybody may read it, and must not"
HIDDEN = "not everybody may read it, and must"


class Depth(str, Enum):
    """Of how many objects something is looked at that costs a request each."""

    NONE = "none"
    SAMPLE = "sample"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """How closely to look.

    Attributes:
        full: Read the bodies at both sides, and compare those.
        headers: Compare headers and metadata: of how many objects.
        acls: Look who may read an object: of how many objects.
        as_source: An object must be readable by everybody iff it is at the source; else the item says.
        copy_private: Private objects are wanted at a destination without ACLs too.
        listers: Listings in flight at a time.
        readers: Objects looked at closer at a time.
    """

    full: bool = False
    headers: Depth = Depth.SAMPLE
    acls: Depth = Depth.SAMPLE
    as_source: bool = False
    copy_private: bool = False
    listers: int = 8
    readers: int = 16


class Sight(NamedTuple):
    """A wanted object as the listings show it.

    Attributes:
        item: What is wanted.
        target: Its key at the destination.
        found: What the source has of it.
        there: What the destination has.
        finding: What the listings say.
        detail: A remark.
    """

    item: ExpectedObject
    target: str
    found: ListedObject | None
    there: ListedObject | None
    finding: Finding
    detail: str | None = None


class Look(NamedTuple):
    """How closely to look at one object.

    Attributes:
        sight: The object, equal as far as the listings show.
        headers: Compare headers and metadata; the source has it.
        acl: Look who may read it.
        body: Compare bodies; the source has it.
    """

    sight: Sight
    headers: bool
    acl: bool
    body: bool


class Seen(NamedTuple):
    """What a closer look showed.

    Attributes:
        differences: Findings, the gravest first, each with a remark.
        bytes: Bytes of bodies read.
        acl: Whether it was seen who may read it.
        bodies: What the bodies are, source first, where they differ.
    """

    differences: tuple[tuple[Finding, str], ...]
    bytes: int = 0
    acl: bool = False
    bodies: tuple[Digest, Digest] | None = None


class CloserLook:
    """Looks closer at objects. Thread-safe.

    Args:
        source: Where objects were read.
        destination: Where they went.
        settings: How closely.

    Attributes:
        acls: Of how many objects to look who may read them: of none where there are no ACLs, or they do not show.
        acls_unknown: Why they do not show; None: they do.
    """

    def __init__(self, source: Storage, destination: Storage, settings: AuditSettings) -> None:
        self.acls = settings.acls if destination.settings.has_acls else Depth.NONE
        self.acls_unknown: str | None = None
        self._source = source
        self._destination = destination
        self._as_source = settings.as_source

    def look(self, look: Look, halt: threading.Event) -> Seen:
        """Look at one object."""
        sight, found = look.sight, look.sight.found
        differences: list[tuple[Finding, str]] = []
        size, bodies = 0, None
        try:
            if look.body and found is not None:
                here, there = bodies = self._bodies(found.key, sight.target, differences, halt)
                size = here.size + there.size
            if look.headers and found is not None:
                self._compare_headers(found.key, sight.target, differences, halt)
        except StorageError as error:
            return Seen(((Finding.UNKNOWN, str(error)),), size)
        acl = look.acl and self.acls_unknown is None and self._try_access(sight, differences, halt)
        return Seen(tuple(differences), size, acl, None if bodies is None or bodies[0] == bodies[1] else bodies)

    def _bodies(
        self, source_key: str, key: str, differences: list[tuple[Finding, str]], halt: threading.Event
    ) -> tuple[Digest, Digest]:
        """Compare two bodies; returns what they are."""
        here = read_digest(self._source, source_key, halt)
        there = read_digest(self._destination, key, halt)
        if here.size != there.size:
            differences.append((Finding.SIZE_DIFFERS, f"{there.size} bytes read, at the source {here.size}"))
        elif here.md5 != there.md5:
            differences.append((Finding.CONTENT_DIFFERS, f"MD5 of the body {there.md5}, at the source {here.md5}"))
        return here, there

    def _compare_headers(
        self, source_key: str, key: str, differences: list[tuple[Finding, str]], halt: threading.Event
    ) -> None:
        here = self._source.read_attributes(source_key, halt).to_keep().by_header()
        there = self._destination.read_attributes(key, halt).to_keep().by_header()
        wrong = [
            f"{name} is {_quoted(there.get(name))}, at the source {_quoted(here.get(name))}"
            for name in sorted(here.keys() | there.keys())
            if here.get(name) != there.get(name)
        ]
        if wrong:
            differences.append((Finding.HEADERS_DIFFER, "; ".join(wrong)))

    def _try_access(self, sight: Sight, differences: list[tuple[Finding, str]], halt: threading.Event) -> bool:
        """Compare who may read an object with who must; returns whether that could be seen."""
        try:
            must = not sight.item.private
            if self._as_source and sight.found is not None:
                must = is_readable_at_source(self._source, sight.found.key, halt)
            # What must be public is so by its ACL; what must not be read is shown by no policy either.
            ask = is_public if must else is_readable
            may = ask(self._destination, sight.target, halt)
        except StorageError as error:
            if is_not_found(error):
                differences.append((Finding.UNKNOWN, str(error)))
            else:
                # What one object does not show the others will not either: it is said once.
                self.acls, self.acls_unknown = Depth.NONE, str(error)
            return False
        if may != must:
            differences.append((Finding.ACL_DIFFERS, EXPOSED if may else HIDDEN))
        return True


def _quoted(value: str | None) -> str:
    return "absent" if value is None else repr(value)
