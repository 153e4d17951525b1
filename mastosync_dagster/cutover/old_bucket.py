"""May the old bucket be deleted? Only if nothing that anybody needs is in it alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mastosync_dagster.cutover.answers import Answer, Line, yes_or_no
from mastosync_dagster.cutover.comparison import EVERY_ID, compare_table
from mastosync_dagster.cutover.progress import failed_objects
from mastosync_dagster.cutover.switch import listing_line, private_line, public_line, source_line
from mastosync_dagster.escaping import one_line
from mastosync_dagster.expected.orphans import UNKNOWN_STYLE, Orphans
from mastosync_dagster.mastodon import Database, is_remote, owners, rows_at_the_ends, stored_objects
from mastosync_dagster.mastodon.keys import CACHE
from mastosync_dagster.plan.top_listing import list_beside, list_top
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.findings import Finding
from mastosync_dagster.s3.listing import KeyRange
from mastosync_dagster.verify.run import COPIED_FOLDERS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from mastosync_dagster.cutover.comparison import Storages, TableComparison
    from mastosync_dagster.cutover.progress import TableProgress
    from mastosync_dagster.resources import MastodonDatabase
    from mastosync_dagster.s3.storage import Storage

ORPHANS, PRIVATE, FOREIGN, REMOTE = "orphans", "private", "foreign", "remote"
"""What `accept` may name beside folders and files at the top of the old bucket."""
_KEYWORDS = frozenset({ORPHANS, PRIVATE, FOREIGN, REMOTE})
_NAMES = 10
_EXAMPLES = 3
_NEWEST_ROWS = 50
_UPLOAD = "Upload a picture (a draft will do), and check again"


def check_old_bucket(
    mastodon_db: MastodonDatabase,
    storages: Storages,
    tables: Sequence[TableProgress],
    *,
    accept: Collection[str],
    full: bool,
    on_progress: Callable[[str], None],
) -> Iterator[Line]:
    """Answer every question, and yield each answer as it comes; the old bucket may go if all pass.

    Args:
        mastodon_db: Mastodon's database.
        storages: The old bucket and the new one.
        tables: All tables that are copied.
        accept: What an admin has looked at and does not need: `ORPHANS`, `PRIVATE`, `REMOTE`, `FOREIGN`, names.
        full: Read every body at both buckets, and compare those.
        on_progress: Gets messages while objects are compared.

    Raises:
        AdminError: A storage or the database does not answer: then nothing is known.
    """
    with mastodon_db.session() as connect:
        database = Database.open(connect, [each.table for each in tables])
        yield source_line(database, storages)
        if _in_one_bucket(storages):
            yield Line(
                "bucket", Answer.NO, "the new objects lie in the same bucket: delete objects by their key prefix"
            )
        yield _switched(database, storages)
        comparisons = [
            compare_table(database, each, storages, since=None, full=full, on_progress=on_progress) for each in tables
        ]
        yield from _objects(comparisons, accept, full=full)
        yield private_line(database, storages.destination, on_progress)
        yield public_line(storages.destination, comparisons)
        yield listing_line(storages.destination)
        yield from _at_source(database, storages.source, accept, on_progress)
    yield failed_objects(tables)


def _in_one_bucket(storages: Storages) -> bool:
    """Return whether the two differ in their key prefix alone."""
    here, there = (replace(each.settings, prefix="") for each in (storages.source, storages.destination))
    return here.identity == there.identity


def _switched(database: Database, storages: Storages) -> Line:
    """Answer whether Mastodon writes to the new bucket: the newest upload lies there alone."""
    table = FileType.MEDIA_ATTACHMENTS.value
    ends = rows_at_the_ends(database, table, _NEWEST_ROWS)
    uploads = [row for rows in ends[-1:] for row in rows if not is_remote(table, row)]
    if not uploads:
        return Line("switched", Answer.NO, f"nothing shows it: no upload is among the newest media. {_UPLOAD}")
    newest = stored_objects(table, max(uploads, key=lambda row: int(str(row["id"]))))[0]
    keys = (newest.key, *newest.candidates)
    here, there = (
        next((key for key in keys if storage.head(key) is not None), None)
        for storage in (storages.source, storages.destination)
    )
    if here is not None:
        return Line(
            "switched",
            Answer.NO,
            f"the newest upload ({storages.source.full_key(here)}) lies in the old bucket: Mastodon writes there, or"
            f" nobody has uploaded anything since the switch. {_UPLOAD}",
        )
    if there is None:
        return Line("switched", Answer.NO, f"the newest upload ({newest.key}) is in neither bucket. {_UPLOAD}")
    return Line("switched", Answer.YES, "the newest upload lies in the new bucket alone")


def _objects(comparisons: Sequence[TableComparison], accept: Collection[str], *, full: bool) -> Iterator[Line]:
    total = sum(each.objects for each in comparisons)
    problems = [problem for each in comparisons if (problem := each.problem()) is not None]
    how = "compared byte by byte" if full else "compared by size and checksum"
    remedy = "A sync of the table, or of its ID ranges, puts them right" if problems else ""
    line = yes_or_no("objects", problems, f"{total:,} {how}; what the old bucket has of them, the new one has too")
    yield replace(line, text=f"{line.text}. {remedy}") if problems else line
    if not_wanted := sum(each.not_wanted for each in comparisons):
        text = f"{not_wanted:,} remote objects that the settings leave out may be in the old bucket alone"
        known = REMOTE in accept
        yield Line("subset", Answer.NOTE if known else Answer.NO, text + ("" if known else f". --accept {REMOTE}"))
    accepted = PRIVATE in accept
    if left_out := sum(each.left_out for each in comparisons):
        yield Line(
            "left out",
            Answer.NOTE if accepted else Answer.NO,
            f"{left_out:,} private objects are in the old bucket alone. Who is unsuspended, or wins an appeal, has lost"
            f" them with it{'' if accepted else f'. --accept {PRIVATE} accepts that'}",
        )
    if missing := sum(each.findings[Finding.MISSING] for each in comparisons):
        yield Line("lost objects", Answer.NOTE, f"{missing:,} are in neither bucket: mastosync report says which")


@dataclass
class _Found:
    """Objects of one kind in the old bucket: how many, and the first keys."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, key: str) -> None:
        """Count an object."""
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(key)

    def __str__(self) -> str:
        return f"{self.count:,} (such as {', '.join(map(one_line, self.examples))})"


def _at_source(
    database: Database, source: Storage, accept: Collection[str], on_progress: Callable[[str], None]
) -> Iterator[Line]:
    """Answer what lies in the old bucket that no row expects."""
    names = _foreign_names(source)
    if names is None:
        yield Line(
            "other objects",
            Answer.NO,
            "the old bucket may not be listed, so what lies there beside Mastodon's folders is unknown: give the key"
            " the right to s3:ListBucket",
        )
        return
    found = _Rowless()
    for table in (file_type.value for file_type in FileType):
        if not database.schema.exists(table):
            # No row can say what these are: a newer Mastodon may have dropped the table.
            for keys in _pages(source, table):
                found.add_foreign(source, keys)
            continue
        database.schema.require([table])
        with Orphans(database, table, EVERY_ID) as known:
            for keys in _pages(source, table):
                found.add(source, keys, known.among(keys))
                on_progress(f"{table}: {found.orphans.count:,} objects of no row at the old bucket")
    left = [_from_top(name) for name in names if not _is_accepted(name, accept)]
    shown = ", ".join(one_line(name) for name in left[:_NAMES]) + (" and more" if len(left) > _NAMES else "")
    problems = [f"beside Mastodon's folders lie {shown}"] if left else []
    if found.foreign.count and FOREIGN not in accept:
        problems.append(f"in Mastodon's folders lie objects of no table: {found.foreign} (--accept {FOREIGN})")
    remedy = "copy what you need, and name the rest with --accept NAME"
    yield yes_or_no("other objects", [*problems, remedy] if problems else [], "none that was not accepted")
    if found.unknown.count:
        text = f"{found.unknown} are {UNKNOWN_STYLE}. Update mastosync, and sync again"
        yield Line("unknown styles", Answer.NO, text)
    if found.orphans.count:
        text = f"{found.orphans} belong to no row: deleted posts and accounts, mostly"
        known_to_admin = ORPHANS in accept
        text += "" if known_to_admin else f". Look at them, then --accept {ORPHANS}"
        yield Line(ORPHANS, Answer.NOTE if known_to_admin else Answer.NO, text)


def _is_accepted(name: str, accept: Collection[str]) -> bool:
    """Return whether an admin has named a folder (with its slash, or without) or a file at the top of the bucket.

    A keyword names neither: a folder of that name is named with its slash, a file with one before it.
    """
    bare = name.rstrip("/")
    return not ({name, bare, f"/{bare}"} - _KEYWORDS - {""}).isdisjoint(accept)


def _from_top(name: str) -> str:
    """Return a name as `--accept` takes it."""
    return f"/{name}" if name in _KEYWORDS else name


@dataclass
class _Rowless:
    """What lies in Mastodon's folders and no row expects: of no table at all, of no row, in a style not known."""

    foreign: _Found = field(default_factory=_Found)
    orphans: _Found = field(default_factory=_Found)
    unknown: _Found = field(default_factory=_Found)

    def add_foreign(self, source: Storage, keys: Sequence[str]) -> None:
        """Count keys in the folder of a table that the database lacks."""
        for key in keys:
            self.foreign.add(source.full_key(key))

    def add(self, source: Storage, keys: Sequence[str], orphans: Mapping[str, str | None]) -> None:
        """Count those of some keys that are one of these."""
        for key in keys:
            if owners(key) is None:
                self.foreign.add(source.full_key(key))
            elif key in orphans:
                (self.unknown if orphans[key] == UNKNOWN_STYLE else self.orphans).add(source.full_key(key))


def _foreign_names(source: Storage) -> list[str] | None:
    """Return what lies at the top of the bucket and beside its key prefix; None: it may not be listed."""
    top = list_top(source, COPIED_FOLDERS)
    if not top.listed:
        return None
    names = [name for name, is_foreign in top.names.items() if is_foreign]
    prefix = source.settings.prefix
    if not prefix:
        return names
    beside = list_beside(source)
    if not beside.listed:
        return None
    return [*(prefix + name for name in names), *(name for name, is_foreign in beside.names.items() if is_foreign)]


def _pages(source: Storage, table: str) -> Iterator[list[str]]:
    """Yield the keys of a table's folders, a page at a time."""
    for folder in (f"{table}/", f"{CACHE}{table}/"):
        for page in source.list_pages(KeyRange(folder, folder, f"{folder[:-1]}0")):
            # Some tools leave an empty object as the mark of a folder.
            yield [entry.key for entry in page if entry.size or not entry.key.endswith("/")]
