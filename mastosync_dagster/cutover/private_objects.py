"""Whether anybody can read what is private, asked for each such object at the new bucket."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mastosync_dagster.cutover.media_host import destination_url, has_own_url
from mastosync_dagster.cutover.public_access import PublicReader
from mastosync_dagster.environment import DESTINATION_URL
from mastosync_dagster.expected.privacy import has_private
from mastosync_dagster.mastodon import Selection, stored_objects, walk_rows
from mastosync_dagster.pool import Pool
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.s3.acl import everybody_reads, is_public
from mastosync_dagster.s3.errors import StorageError, is_not_found
from mastosync_dagster.s3.reasons import Reason

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from mastosync_dagster.mastodon import Database
    from mastosync_dagster.s3.storage import Storage

_THREADS = 32
_EXAMPLES = 3


@dataclass
class PrivateObjects:
    """What was found: how many objects of private rows there are, and which of them everybody can read."""

    objects: int = 0
    readable: int = 0
    examples: list[str] = field(default_factory=list)


def ask_private(database: Database, destination: Storage, *, on_progress: Callable[[str], None]) -> PrivateObjects:
    """Ask for every object of a private row: for its ACL where there are ACLs, and without a signature.

    Raises:
        StorageError: The storage does not answer, or does not show an ACL.
        PublicAddressError: MASTOSYNC_DESTINATION_URL does not answer.
        DatabaseReadError: The rows cannot be read.
    """
    found = PrivateObjects()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(Pool(_THREADS))
        reader = None
        if has_own_url(DESTINATION_URL):
            reader = stack.enter_context(PublicReader(destination_url(destination), destination.settings))
        for keys in _private_keys(database):
            answers = pool.map(lambda key: _everybody_reads(destination, reader, key, pool.halt), keys)
            found.objects += len(keys)
            found.readable += sum(answers)
            readable = [key for key, answer in zip(keys, answers, strict=True) if answer]
            found.examples = [*found.examples, *map(destination.full_key, readable)][:_EXAMPLES]
            on_progress(f"{found.objects:,} private objects asked for")
    return found


def _private_keys(database: Database) -> Iterator[list[str]]:
    """Yield all keys that objects of private rows may have at the destination, a page of rows at a time."""
    for file_type in FileType:
        table = file_type.value
        if not has_private(table) or not database.schema.exists(table):
            continue
        database.schema.require([table])
        for page in walk_rows(database, Selection(table, private_only=True)):
            keys = [
                key
                for row in page.rows
                for stored in stored_objects(table, row)
                for key in (stored.key, *(stored.candidates if stored.unfinished else ()))
            ]
            if keys:
                yield keys


def _everybody_reads(storage: Storage, reader: PublicReader | None, key: str, halt: threading.Event) -> bool:
    try:
        if storage.settings.has_acls and is_public(storage, key, halt):
            return True
    except StorageError as error:
        # Some storages deny what does not exist. Without a signature, everybody's answer is asked for below.
        if not is_not_found(error) and error.reason not in {Reason.ACCESS_DENIED, Reason.INVALID_KEY}:
            raise
    if everybody_reads(storage, key, halt):
        return True
    return reader is not None and reader.ask(storage.full_key(key), halt).readable
