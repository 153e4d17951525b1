"""This instance's own checklist: what is done, and what is not yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.cutover.answers import Answer, Line, yes_or_no
from mastosync_dagster.cutover.media_host import destination_url, has_own_url, media_host_line
from mastosync_dagster.cutover.progress import failed_objects
from mastosync_dagster.environment import COPY_PRIVATE, DESTINATION_URL, copy_private
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import one_line
from mastosync_dagster.records.doubts import Doubt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mastosync_dagster.cutover.progress import TableProgress
    from mastosync_dagster.s3.storage import Storage


def checklist(source: Storage, destination: Storage, tables: Sequence[TableProgress] | AdminError) -> Iterator[Line]:
    """Yield what is done and what is not, in the order of the work. Only settings and records are read.

    ``tables`` are all tables that are copied, or why nothing is known of them.
    """
    yield media_host_line(Answer.NO)
    yield _prefixes(source, destination)
    yield _private(destination)
    yield _public(destination)
    if isinstance(tables, AdminError):
        yield Line("copy", Answer.NO, one_line(str(tables)))
        return
    yield _first_copy(tables)
    without = [each.table for each in tables if each.last_delta is None]
    yield yes_or_no("nights", [f"no incremental run yet of {', '.join(without)}"] if without else [], "have run")
    yield failed_objects(tables)
    missing = sum(each.in_doubt.get(Doubt.MISSING, 0) for each in tables)
    if missing:
        yield Line(
            "lost objects", Answer.NOTE, f"{missing:,} were not at the source: mastosync report says what can be done"
        )


def _first_copy(tables: Sequence[TableProgress]) -> Line:
    problems = [problem for each in tables if (problem := each.ranges_problem()) is not None]
    return yes_or_no("first copy", problems, "done")


def _prefixes(source: Storage, destination: Storage) -> Line:
    before, after = source.settings.prefix, destination.settings.prefix
    if before == after:
        return Line("key prefix", Answer.YES, "the same in both buckets, so addresses stay as they are")
    return Line(
        "key prefix",
        Answer.NOTE,
        f"{before or 'none'} becomes {after or 'none'}: addresses change with it, and only the nginx configuration"
        " below still answers the old ones",
    )


def _private(destination: Storage) -> Line:
    if destination.settings.has_acls:
        return Line("private media", Answer.YES, "kept private by ACLs (mastosync check tries it)")
    texts = {
        True: "copied: the bucket is not public, and nobody reaches it but your proxy (mastosync check tries it)",
        False: "left out: who is unsuspended, or wins an appeal, has no media until you copy it from the old bucket",
    }
    decided = copy_private()
    if decided is None:
        return Line("private media", Answer.NO, f"the new bucket has no ACLs: decide with {COPY_PRIVATE}")
    return Line("private media", Answer.NOTE, texts[decided])


def _public(destination: Storage) -> Line:
    if destination.settings.has_acls or has_own_url(DESTINATION_URL):
        return Line("public address", Answer.YES, str(destination_url(destination)))
    return Line(
        "public address",
        Answer.NOTE,
        f"{destination_url(destination)}; if everybody reads the new bucket under another address (a public domain, a"
        f" CDN), name that in {DESTINATION_URL}",
    )
