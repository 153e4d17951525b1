"""Checks of single objects that take a request each: headers, who may read them, bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.records.findings import Finding
from mastosync_dagster.s3.acl import everybody_reads, is_public, is_readable, is_readable_at_source
from mastosync_dagster.s3.digests import Digest, read_digest
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.verify.settings import Depth

if TYPE_CHECKING:
    import threading

    from mastosync_dagster.plan.items import ExpectedObject
    from mastosync_dagster.s3.storage import ListedObject, Storage
    from mastosync_dagster.verify.settings import AuditSettings

EXPOSED = "everybody may read it, and must not"
HIDDEN = "not everybody may read it, and must"

_NO_ACLS_AT_ALL = frozenset({Reason.ACL_REFUSED, Reason.ACCESS_DENIED})
"""A server that keeps no ACLs, and a key without the right to read them."""

_Differences = list[tuple[Finding, str]]
"""Findings, the gravest first, each with a remark."""


class Comparison(NamedTuple):
    """What the listings show of an expected object.

    Attributes:
        target: Its key at the destination.
        found: The source's.
        there: The destination's.
        detail: A remark for people.
    """

    item: ExpectedObject
    target: str
    found: ListedObject | None
    there: ListedObject | None
    finding: Finding
    detail: str | None = None


class ObjectCheck(NamedTuple):
    """What to check of one object that is equal by the listings. Headers and body need an object at the source."""

    comparison: Comparison
    headers: bool
    acl: bool
    body: bool


class CheckResult(NamedTuple):
    """What a check found.

    Attributes:
        bytes: Bytes of bodies read.
        acl: Whether it is known who may read the object.
        bodies: Digests of the bodies, source first, where they differ.
    """

    differences: tuple[tuple[Finding, str], ...]
    bytes: int = 0
    acl: bool = False
    bodies: tuple[Digest, Digest] | None = None


class ObjectChecker:
    """Checks objects. Thread-safe.

    Attributes:
        acls: Of how many objects to ask who may read them: of none where ACLs are not shown, or where there are none
            and nothing private is wanted.
        acls_unknown: Why they are not shown; None: they are.
    """

    def __init__(self, source: Storage, destination: Storage, settings: AuditSettings) -> None:
        self._has_acls = destination.settings.has_acls
        self.acls = settings.acls if self._has_acls or settings.copy_private else Depth.none
        self.acls_unknown: str | None = None
        self._source = source
        self._destination = destination
        self._acl_from_source = settings.acl_from_source

    def check(self, check: ObjectCheck, halt: threading.Event) -> CheckResult:
        """Check one object. ``halt`` ends retries."""
        found, target = check.comparison.found, check.comparison.target
        differences: _Differences = []
        size, bodies = 0, None
        try:
            if check.body and found is not None:
                here = read_digest(self._source, found.key, halt)
                there = read_digest(self._destination, target, halt)
                size = here.size + there.size
                bodies = None if here == there else (here, there)
                differences += _compare_bodies(here, there)
            if check.headers and found is not None:
                differences += self._compare_headers(found.key, target, check.comparison.item.content_type, halt)
        except StorageError as error:
            return CheckResult(((Finding.UNKNOWN, str(error)),), size)
        acl = check.acl and self.acls_unknown is None and self._try_access(check.comparison, differences, halt)
        return CheckResult(tuple(differences), size, acl, bodies)

    def _compare_headers(
        self, source_key: str, key: str, content_type: str | None, halt: threading.Event
    ) -> _Differences:
        here = self._source.read_attributes(source_key, halt, content_type=content_type).to_keep().by_header()
        there = self._destination.read_attributes(key, halt).to_keep().by_header()
        wrong = [
            f"{name} is {_quoted(there.get(name))}, at the source {_quoted(here.get(name))}"
            for name in sorted(here.keys() | there.keys())
            if here.get(name) != there.get(name)
        ]
        return [(Finding.HEADERS_DIFFER, "; ".join(wrong))] if wrong else []

    def _try_access(self, comparison: Comparison, differences: _Differences, halt: threading.Event) -> bool:
        """Compare who may read an object with who must; return whether that is known."""
        try:
            must = not comparison.item.private
            if self._acl_from_source and comparison.found is not None:
                must = is_readable_at_source(self._source, comparison.found.key, halt)
            if must and not self._has_acls:
                return False  # private objects are wanted there, so the bucket is public for nobody
            # What must be public is so by its ACL. What must not be read must not be shown by a policy either.
            ask = is_public if must else is_readable if self._has_acls else everybody_reads
            may = ask(self._destination, comparison.target, halt)
        except StorageError as error:
            if error.reason in _NO_ACLS_AT_ALL:
                # If one object's ACL is not shown, no other is: it is reported once.
                self.acls, self.acls_unknown = Depth.none, str(error)
            else:
                # Deleted since it was listed, or a failure that says nothing of the next object.
                differences.append((Finding.UNKNOWN, str(error)))
            return False
        if may != must:
            differences.append((Finding.ACL_DIFFERS, EXPOSED if may else HIDDEN))
        return True


def _compare_bodies(here: Digest, there: Digest) -> _Differences:
    if here.size != there.size:
        return [(Finding.SIZE_DIFFERS, f"{there.size} bytes read, at the source {here.size}")]
    if here.md5 != there.md5:
        return [(Finding.CONTENT_DIFFERS, f"MD5 of the body {there.md5}, at the source {here.md5}")]
    return []


def _quoted(value: str | None) -> str:
    return "absent" if value is None else repr(value)
