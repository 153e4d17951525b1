"""May Mastodon be switched to the new bucket now? Every question that decides, each answered by what is there now."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING

from mastosync_dagster.cutover.answers import Answer, Line, yes_or_no
from mastosync_dagster.cutover.comparison import compare_table
from mastosync_dagster.cutover.media_host import bucket_url, destination_url, has_own_url, media_host_line
from mastosync_dagster.cutover.private_objects import ask_private
from mastosync_dagster.cutover.progress import failed_objects
from mastosync_dagster.cutover.public_access import PublicReader
from mastosync_dagster.environment import COPY_PRIVATE, DESTINATION_URL, copy_private
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import one_line
from mastosync_dagster.expected.source_check import check_originals
from mastosync_dagster.mastodon import Database, database_now, media_in_processing
from mastosync_dagster.pool import Pool
from mastosync_dagster.records.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.cutover.comparison import Storages, TableComparison
    from mastosync_dagster.cutover.progress import TableProgress
    from mastosync_dagster.cutover.public_access import PublicAnswer
    from mastosync_dagster.resources import MastodonDatabase
    from mastosync_dagster.s3.storage import Storage

_READERS = 16
_CLOCKS_DIFFER = timedelta(minutes=1)
_SHOWN_AS_HOURS = 120
"""From so many minutes on an age is shown in hours."""
_SYNC = "mastosync sync {} --changed-since last"


def check_switch(
    mastodon_db: MastodonDatabase,
    storages: Storages,
    tables: Sequence[TableProgress],
    *,
    max_age: timedelta,
    quick: bool,
    on_progress: Callable[[str], None],
) -> Iterator[Line]:
    """Answer every question, and yield each answer as it comes; the switch may be made if all pass.

    Args:
        mastodon_db: Mastodon's database.
        storages: The bucket that Mastodon uses now, and the new one.
        tables: All tables that are copied.
        max_age: The last delta may be as old as that.
        quick: Go by what runs have recorded, and compare no objects.
        on_progress: Gets messages while objects are compared.

    Raises:
        AdminError: A storage or the database does not answer: then nothing is known.
    """
    with mastodon_db.session() as connect:
        database = Database.open(connect, [each.table for each in tables])
        yield source_line(database, storages)
        yield yes_or_no("ranges", filter(None, (each.ranges_problem() for each in tables)), "all have been copied")
        # With a connection of its own: the server ends one that is idle while the buckets are asked.
        with contextlib.closing(connect()) as connection:
            last_delta = _last_delta(connection, tables, max_age)
        yield last_delta
        yield failed_objects(tables)
        yield _processing(database)
        if quick:
            yield Line("objects", Answer.NOTE, "not compared (--quick): the records of runs are all that this goes by")
        else:
            comparisons = [
                compare_table(database, each, storages, since=each.last_delta, on_progress=on_progress)
                for each in tables
            ]
            yield from _objects(comparisons)
            yield private_line(database, storages.destination, on_progress)
            yield public_line(storages.destination, comparisons)
            yield listing_line(storages.destination)
    yield media_host_line(Answer.NOTE)


def source_line(database: Database, storages: Storages) -> Line:
    """Answer whether the old bucket is the one of the database: else all that it lacks would count as lost."""
    found = check_originals(database, storages.source, storages.destination)
    problems = [found.complaint(storages.source, storages.destination)] if found.is_wrong_source else []
    return yes_or_no(
        "old bucket", problems, f"has {found.at_source:,} of {found.asked:,} originals that were asked for"
    )


def _last_delta(connection: Connection, tables: Sequence[TableProgress], max_age: timedelta) -> Line:
    now = database_now(connection)
    problems = [
        f"{each.table}: the last one read the rows {_age(now - each.last_delta)} ago"
        for each in tables
        if each.last_delta is not None and now - each.last_delta > max_age
    ]
    problems += [
        f"{each.table}: the last one has read the rows {_age(each.last_delta - now)} from now, so a clock was wrong"
        for each in tables
        if each.last_delta is not None and each.last_delta - now > _CLOCKS_DIFFER
    ]
    if without := [each.table for each in tables if each.last_delta is None]:
        problems.append(f"none has ended well yet of {', '.join(without)}")
    names = " ".join(each.table for each in tables)
    if problems:
        return Line("last delta", Answer.NO, f"{'; '.join(problems)}. Run: {_SYNC.format(names)}")
    oldest = max((now - each.last_delta for each in tables if each.last_delta), default=timedelta())
    return Line("last delta", Answer.YES, f"{_age(oldest)} old")


def _age(time: timedelta) -> str:
    minutes = max(0, round(time.total_seconds() / 60))
    return f"{minutes:,} min" if minutes < _SHOWN_AS_HOURS else f"{minutes / 60:,.0f} h"


def _processing(database: Database) -> Line:
    found = media_in_processing(database)
    if not found.count:
        return Line("media in processing", Answer.YES, "none")
    ids = ", ".join(map(str, found.examples))
    stuck = f"; {found.stuck:,} of them for more than a day: docs/moving.md has what to do" if found.stuck else ""
    return Line(
        "media in processing",
        Answer.NO,
        f"{found.count:,} uploads wait for their conversion (media_attachments {ids}), which fails if their file lies"
        f" in the old bucket: let Sidekiq finish them before you stop it{stuck}",
    )


def _objects(comparisons: Sequence[TableComparison]) -> Iterator[Line]:
    total = sum(each.objects for each in comparisons)
    problems = [problem for each in comparisons if (problem := each.problem()) is not None]
    remedy = "A sync of the table, or of its ID ranges, puts them right"
    if problems:
        yield Line("objects", Answer.NO, f"{'; '.join(problems)}. {remedy}")
    else:
        yield Line("objects", Answer.YES, f"{total:,} compared at both buckets")
    newer = {each.table: each.newer for each in comparisons if each.newer}
    if newer:
        counts = ", ".join(f"{count:,} of {table}" for table, count in newer.items())
        yield Line(
            "new objects",
            Answer.STOP,
            f"{counts} have come since the last delta: stop Mastodon, then run {_SYNC.format(' '.join(newer))}",
        )
    missing = sum(each.findings[Finding.MISSING] for each in comparisons)
    if missing:
        yield Line("lost objects", Answer.NOTE, f"{missing:,} are in neither bucket: mastosync report says which")
    if left_out := sum(each.left_out for each in comparisons):
        yield _left_out(left_out)
    if not_wanted := sum(each.not_wanted for each in comparisons):
        yield Line("subset", Answer.NOTE, f"{not_wanted:,} remote objects are left out, as the settings say")


def _left_out(count: int) -> Line:
    if copy_private() is False:
        return Line(
            "left out",
            Answer.NOTE,
            f"{count:,} private objects are not at the new bucket ({COPY_PRIVATE}=false): keep the old bucket for them",
        )
    return Line(
        "left out",
        Answer.NO,
        f"{count:,} private objects are not at the new bucket, which has no ACLs: decide with {COPY_PRIVATE}",
    )


def private_line(database: Database, destination: Storage, on_progress: Callable[[str], None]) -> Line:
    """Answer whether everybody can read something private at the new bucket. Raises an `AdminError`."""
    found = ask_private(database, destination, on_progress=on_progress)
    if found.readable:
        return Line(
            "private objects",
            Answer.NO,
            f"everybody can read {found.readable:,} of {found.objects:,}, such as {found.examples[0]}: run"
            " mastosync sync media_attachments backups --changed-since last, which makes them private. If a bucket"
            " policy shows them, take it off",
        )
    return Line("private objects", Answer.YES, f"nobody can read any of {found.objects:,} without a signature")


def public_line(destination: Storage, comparisons: Sequence[TableComparison]) -> Line:
    """Answer whether everybody can read samples of what is public at the new bucket, with their Content-Type.

    Raises:
        AdminError: The address does not answer.
    """
    url = destination_url(destination)
    keys = [key for each in comparisons for key in each.samples]
    if not keys:
        return Line("public objects", Answer.NOTE, "there is none to ask for")
    prefix = len(destination.settings.prefix)
    with Pool(_READERS) as pool, PublicReader(url, destination.settings) as reader:
        if reader.answers_to_anything():
            return Line(
                "public objects",
                Answer.NO,
                f"{url} answers with something for an object that does not exist, so nothing can be known there: name"
                f" the address of the bucket itself in {DESTINATION_URL}",
            )
        answers = pool.map(lambda key: reader.ask(key, pool.halt), keys)
        stored = pool.map(lambda key: _content_type(destination, key[prefix:]), keys)
    hidden = [(key, each) for key, each in zip(keys, answers, strict=True) if not each.readable or each.redirect]
    if hidden:
        return _hidden(destination, len(keys), len(hidden), *hidden[0])
    for key, answer, wanted in zip(keys, answers, stored, strict=True):
        if answer.content_type and wanted and answer.content_type != wanted:
            return Line(
                "public objects",
                Answer.NO,
                f"{url.of(key)} comes as {answer.content_type}, and is stored as {wanted}: what stands before the"
                " bucket changes it",
            )
    return Line("public objects", Answer.YES, f"everybody can read each of {len(keys):,} samples at {url}")


def _hidden(destination: Storage, asked: int, hidden: int, key: str, answer: PublicAnswer) -> Line:
    url = destination_url(destination)
    if answer.redirect:
        # Browsers hold the target against Mastodon's Content-Security-Policy, and a proxy passes the redirect on.
        return Line(
            "public objects",
            Answer.NO,
            f"{hidden:,} of {asked:,} samples are answered with a redirect, such as {url.of(key)} to"
            f" {one_line(answer.redirect)}: name in {DESTINATION_URL} the address that needs none",
        )
    found = f"{hidden:,} of {asked:,} samples cannot be read without a signature, such as {url.of(key)}"
    remedy = "make the bucket's objects public there"
    if destination.settings.has_acls:
        remedy = "sync again, and look whether the bucket blocks public ACLs"
    elif not has_own_url(DESTINATION_URL):
        remedy = f"make the bucket public, or name in {DESTINATION_URL} the address under which everybody reads it"
    return Line("public objects", Answer.NO, f"{found} (HTTP {answer.status}): {remedy}")


def listing_line(destination: Storage) -> Line:
    """Answer whether everybody can list the new bucket: who can finds the media of every post, whoever it is for.

    Raises:
        AdminError: An address does not answer.
    """
    addresses = [] if destination.settings.is_folder else [bucket_url(destination)]
    if has_own_url(DESTINATION_URL):
        addresses.append(destination_url(destination))
    for url in addresses:
        with PublicReader(url, destination.settings) as reader:
            if reader.lists():
                return Line(
                    "listing",
                    Answer.NO,
                    f"everybody can list the new bucket at {url}/, and so finds the media of every post, whoever it is"
                    " for: take the right to list (s3:ListBucket) from everybody",
                )
    return Line("listing", Answer.YES, "nobody can list the new bucket without a signature")


def _content_type(storage: Storage, key: str) -> str | None:
    try:
        return storage.read_attributes(key).headers.get("Content-Type")
    except AdminError:
        # Deleted since it was compared.
        return None
