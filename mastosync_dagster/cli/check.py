"""``mastosync check``: tries every connection and permission that a run needs, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import TYPE_CHECKING

import psycopg2

from mastosync_dagster.cli.age import check_age
from mastosync_dagster.cli.connections import free_connections
from mastosync_dagster.cli.settings import ensure_settings
from mastosync_dagster.environment import COPY_PRIVATE, DESTINATION_FOLDER, Environment, copy_private
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import one_line
from mastosync_dagster.expected.source_check import check_originals
from mastosync_dagster.folder.storage import FolderStorage
from mastosync_dagster.installation.home_errors import HomeError
from mastosync_dagster.machines.check import ask_broker, shares_runs
from mastosync_dagster.mastodon import TABLES, Database, database_now, read_schema, remote_file_columns
from mastosync_dagster.mastodon.key_owners import FOLDERS
from mastosync_dagster.mastodon.keys import CACHE
from mastosync_dagster.ranges.file_types import FILE_TYPES
from mastosync_dagster.resources import MastodonDatabase, S3Bucket, ensure_different, ensure_two_places
from mastosync_dagster.resources.direction import SwappedError, ensure_not_swapped
from mastosync_dagster.runs.destination_folder import ensure_mounted
from mastosync_dagster.runs.disk_room import ensure_room
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster.s3.acl import is_public
from mastosync_dagster.s3.digests import read_digest
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.headers import Attributes
from mastosync_dagster.s3.probes import checks_md5, prove_private
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.sync.clocks import destination_now
from mastosync_dagster.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import dagster as dg
    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.s3.storage import Storage

_PROBE = "mastosync-check"
_LIKE_MEDIA = tuple(
    f"112/*/{end}" for end in ("original/*.jpeg", "original/*.jpg", "original/*.mp4", "original/*.png", "small/*.png")
)
_LIKE_ARCHIVES = ("000/*/original/*.gz", "000/*/original/*.zip")
_PRIVATE_PATTERNS = tuple(
    f"{folder}{like}"
    for folder, table in FOLDERS.items()
    for like in (_LIKE_ARCHIVES if TABLES[table].private else _LIKE_MEDIA if TABLES[table].owners else ())
)
"""Of the keys of private objects, as `mastodon.keys.pattern_of` has them. A bucket policy may name any of them."""
_NEEDED_FOR_ORIGINALS = frozenset({"tunnel", "database", "tables", "source", "destination"})
"""The checks without which the originals cannot be checked."""
_BODY = b"written by mastosync check; it may be deleted"
_ATTRIBUTES = Attributes(
    {"Content-Type": "text/plain", "Cache-Control": "public, max-age=315576000, immutable"}, {"mastosync-check": "kept"}
)
"""What Mastodon gives its objects, and metadata, which rclone and others do."""

_LARGEST_SKEW = timedelta(minutes=5)
"""Storages refuse signatures if the clocks differ by 15 minutes."""
_FEWEST_CONNECTIONS = 2
"""What one run uses at the same time."""


class Verdict(str, Enum):
    """How a check ended."""

    OK = "ok"
    WARNED = "warned"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Line:
    """The result of one check. The text says what was found and, after a failure or warning, what to change."""

    name: str
    verdict: Verdict
    text: str


class _Failed(Exception):  # noqa: N818  (it ends one check only)
    """A check failed; the message says what to change."""


class _Warned(Exception):  # noqa: N818  (as above)
    """A check found something that may be right or wrong; the message says what."""


def every_line(
    open_home: Callable[[], AbstractContextManager[dg.DagsterInstance]], limit: timedelta | None, *, named: bool
) -> Iterator[Line]:
    """Run all checks, and yield a line for each as it ends.

    Args:
        open_home: Opens the Dagster instance.
        limit: How old the last good night may be; None: as old as it is.
        named: Whether a home is named: without one there is no history, and some commands need none.
    """
    settings = check_variables()
    yield settings
    try:
        Environment.read()
    except AdminError:
        # Each further line would say the same.
        yield Line("everything else", Verdict.SKIPPED, "without the settings")
        return
    database, source, destination = MastodonDatabase(), S3Bucket.source(), S3Bucket.destination()
    if limit is not None:
        yield check_last_night(open_home, destination, limit)
    yield from check_destination_folder(open_home, destination)
    yield from check_direction(open_home, source, destination)
    yield from check_everything(database, source, destination)
    if named:
        yield from check_manifests(open_home, source, destination)
        yield from check_workers(open_home)
        yield check_home(open_home)


def check_last_night(
    open_home: Callable[[], AbstractContextManager[dg.DagsterInstance]], destination: S3Bucket, limit: timedelta
) -> Line:
    """Check that the last good night is not older than a limit."""

    def check() -> str:
        with open_home() as instance:
            return check_age(instance, destination.storage().settings.identity, limit)

    return _line("last night", check)


def check_home(open_home: Callable[[], AbstractContextManager[dg.DagsterInstance]]) -> Line:
    """Check that Dagster's home can be written to, and has room for a run."""

    def check() -> str:
        with open_home() as instance:
            ensure_room(instance)
            return f"{instance.root_directory} can be written to, and has room for a run"

    return _line("home", check)


def check_manifests(
    open_home: Callable[[], AbstractContextManager[dg.DagsterInstance]], source: S3Bucket, destination: S3Bucket
) -> Iterator[Line]:
    """Check that manifests can be listed and written; no line without a home, whose own line says why."""

    def check() -> str:
        return f"{manifest_store(instance, destination, source).check(write=True)} can be listed and written to"

    with contextlib.suppress(AdminError), open_home() as instance:
        yield _line("manifests", check)


def check_workers(open_home: Callable[[], AbstractContextManager[dg.DagsterInstance]]) -> Iterator[Line]:
    """Check that runs can be handed to workers; no line where this machine executes them all."""
    with contextlib.suppress(AdminError), open_home() as instance:  # the line of the home says so
        if not shares_runs(instance):
            return

        def check() -> str:
            broker = ask_broker()
            if broker.forgets:
                raise _Warned(
                    f"{broker.address} answers, and does not keep on disk all that waits: runs are lost if its"
                    f" machine fails. Start it with {' and '.join(f'`{setting}`' for setting in broker.forgets)}"
                )
            return f"{broker.address} hands runs to workers"

        yield _line("broker", check)


def check_destination_folder(
    open_home: Callable[[], AbstractContextManager[dg.DagsterInstance]], destination: S3Bucket
) -> Iterator[Line]:
    """Check that the disk of a destination folder is mounted; no line where the destination is a bucket."""
    try:
        named = Environment.read().text(DESTINATION_FOLDER)
    except AdminError:
        return  # the line of the settings says so
    if named is None:
        return

    def check() -> str:
        storage = destination.storage()
        try:
            with open_home() as instance:
                ensure_mounted(instance, storage)
        except HomeError as error:
            raise _Warned(f"whether its disk is mounted is not known without the history of runs: {error}") from error
        return f"{storage.settings.server} has the file that runs have put there, or the first run puts it there"

    yield _line("destination folder", check)


def check_direction(
    open_home: Callable[[], AbstractContextManager[dg.DagsterInstance]], source: S3Bucket, destination: S3Bucket
) -> Iterator[Line]:
    """Check that no run has copied the other way; no line where none has."""
    try:
        with open_home() as instance:
            ensure_not_swapped(instance, source.settings(), destination.settings())
    except SwappedError as error:
        yield Line("direction", Verdict.FAILED, error.in_full())
    except AdminError:
        return  # the line of the home, of the source or of the destination says so


def check_everything(database: MastodonDatabase, source: S3Bucket, destination: S3Bucket) -> Iterator[Line]:
    """Run all checks, and yield a line for each as it ends. A failure skips only the checks that depend on it."""
    failed = set[str]()
    for line in itertools.chain(
        _check_database(database),
        _check_source(source),
        _check_buckets_differ(source, destination),
        _check_destination(destination, source),
    ):
        yield line
        if line.verdict is Verdict.FAILED and line.name in _NEEDED_FOR_ORIGINALS:
            failed.add(line.name)
    if failed:
        yield Line("originals", Verdict.SKIPPED, f"without the {' and the '.join(sorted(failed))}")
    else:
        yield _line("originals", lambda: _originals(database, source.storage(), destination.storage()))


def check_variables() -> Line:
    """Read every variable, as the commands and runs do."""
    return _line("settings", _settings)


def _settings() -> str:
    environment = Environment.read()
    ensure_settings()
    remarks = environment.remarks()
    if remarks:
        raise _Warned("; ".join(remarks))
    if environment.path is None:
        return "from variables of the process alone; MASTOSYNC_ENV_FILE is not set"
    return f"from {environment.path}, and variables of the process"


def _originals(mastodon_db: MastodonDatabase, source: Storage, destination: Storage) -> str:
    with mastodon_db.session() as connect:
        found = check_originals(Database.open(connect), source, destination)
    if found.is_wrong_source:
        refusal = source.check()
        denied = f". Or its access key may not read it, as it may not list it: {refusal.in_full()}" if refusal else ""
        raise _Failed(found.complaint(source, destination) + denied)
    if not found.asked:
        return "not tried: no row has a file"
    message = (
        f"of {found.asked:,} originals that some rows of the database have, the source has {found.at_source:,} and the"
        f" destination {found.at_destination:,}"
    )
    if found.has_gaps:
        names = " and ".join(source.settings.variable(name) for name in ("S3_BUCKET", "S3_KEY_PREFIX"))
        raise _Warned(
            f"{message}: what the source lacks is not copied. Right where Mastodon writes to the destination by now, or"
            f" files were lost; else {names} name an old or unfinished copy"
        )
    return message


def _line(name: str, check: Callable[[], str]) -> Line:
    try:
        return Line(name, Verdict.OK, check())
    except _Warned as warning:
        return Line(name, Verdict.WARNED, str(warning))
    except AdminError as error:
        return Line(name, Verdict.FAILED, error.in_full())
    except _Failed as failure:
        return Line(name, Verdict.FAILED, str(failure))
    except psycopg2.Error as error:
        reason = one_line(str(error).strip() or type(error).__name__)
        return Line(name, Verdict.FAILED, f"the connection to the database broke ({reason}): is its server up?")


# --- the database ----------------------------------------------------------------------------------------------------


def _check_database(database: MastodonDatabase) -> Iterator[Line]:
    tunnel = database.ssh_tunnel_host or Environment.read().text(MastodonDatabase.VARIABLES["ssh_tunnel_host"])
    with contextlib.ExitStack() as stack:
        name = "tunnel" if tunnel else "database"
        try:
            connect = stack.enter_context(database.session())
            if tunnel:
                yield Line("tunnel", Verdict.OK, f"through {tunnel}")
                name = "database"
            connection = stack.enter_context(contextlib.closing(connect()))
        except AdminError as error:
            yield Line(name, Verdict.FAILED, str(error))
            yield Line("tables", Verdict.SKIPPED, f"without the {name}")
            return
        yield _line("database", lambda: _server(connection))
        yield _line("tables", lambda: _tables(connection))
        yield _line("connections", lambda: _connections(connection))
        # This one cannot fail: rows are compared by the database's clock alone.
        yield _line("database clock", lambda: _skew(database_now(connection)))


def _server(connection: Connection) -> str:
    major, minor = divmod(connection.server_version, 10_000)
    return f"{connection.info.dbname} at {connection.info.host}, PostgreSQL {major}.{minor}, as {connection.info.user}"


def _tables(connection: Connection) -> str:
    schema = read_schema(connection)
    # A table that may not be read is no absent one: a run of it would fail.
    schema.require([name for name in FILE_TYPES if schema.exists(name)])
    rows = [f"{name} ({len(schema.columns[name])} columns)" for name in TABLES if schema.has(name)]
    message = f"Mastodon {schema.guess_version()}, by its columns: {', '.join(rows)}"
    hidden = [
        f"{table}.{column}"
        for table in TABLES
        for column in ("username", *remote_file_columns(table))
        if column in schema.unreadable.get(table, ())
    ]
    if hidden:
        raise _Warned(
            f"{message}. Its user may not read {', '.join(hidden)}: GRANT SELECT on it, or what is lost of other"
            " servers can only be fetched again in part"
        )
    return message


def _connections(connection: Connection) -> str:
    free = free_connections(connection)
    if free.left < _FEWEST_CONNECTIONS:
        raise _Failed(
            f"{free.left} are free of {free.of:,} ({free.limit}), and a run needs {_FEWEST_CONNECTIONS}: raise that"
            " limit, or let DATABASE_URL or DB_HOST and DB_PORT name a pgbouncer"
        )
    return f"{free.left:,} are free of {free.of:,} ({free.limit}); a run needs {_FEWEST_CONNECTIONS}"


# --- the buckets -----------------------------------------------------------------------------------------------------


def _check_buckets_differ(source: S3Bucket, destination: S3Bucket) -> Iterator[Line]:
    def check() -> str:
        ensure_different(source, destination)
        return "source and destination are not the same"

    yield _line("two places", check)


def _check_source(bucket: S3Bucket) -> Iterator[Line]:
    listing = _line("source", lambda: _reach(bucket.storage()))
    yield listing
    if listing.verdict is Verdict.FAILED:
        yield Line("source read", Verdict.SKIPPED, "without the source")
        return
    storage = bucket.storage()
    if isinstance(storage, FolderStorage):
        yield _line("source folder", lambda: _mounted(storage))
    yield _line("source read", lambda: _read(bucket.storage()))
    yield _line("source clock", lambda: _clock(bucket.storage()))


def _reach(storage: Storage) -> str:
    settings = storage.settings
    at = f"{settings.bucket} at {settings.endpoint_url or 'Amazon'}" + (
        f", keys behind {settings.prefix}" if settings.prefix else ""
    )
    refusal = storage.check()
    if refusal is None:
        return at
    raise _Warned(
        f"{at}; it may not be listed, so each object takes a request: slower, and more expensive. Give the access key"
        f" the right to s3:ListBucket. {refusal.in_full()}"
    )


def _mounted(folder: FolderStorage) -> str:
    """Look for the mount points of disks that are not mounted. What lies there would count as missing."""
    if problems := folder.unmounted((CACHE.rstrip("/"), *TABLES)):
        raise _Failed(f"{'; '.join(problems)}: is its disk mounted?")
    return "no folder in it looks like the mount point of a disk that is not mounted"


def _read(storage: Storage) -> str:
    settings = storage.settings
    try:
        page = storage.ask(lambda client: client.list_page(settings.prefix, keys=1))
    except StorageError as problem:
        return f"not tried here: without listing, no key is known ({problem.reason.value})"
    if not page.entries:
        return "not tried: there is no object" + (f" behind {settings.prefix}" if settings.prefix else "")
    key = page.entries[0].key
    read_digest(storage, key.removeprefix(settings.prefix), first=1)
    return f"{key} was read"


def _clock(storage: Storage) -> str:
    now = destination_now(storage)
    if now is None:
        return "its answers have no date"
    if abs(datetime.now(timezone.utc) - now) > _LARGEST_SKEW:
        raise _Failed(f"{_skew(now)}: set this machine's clock (NTP), or its signatures will be refused")
    return _skew(now)


def _skew(now: datetime) -> str:
    seconds = now.timestamp() - time.time()
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this machine's"


def _check_destination(bucket: S3Bucket, source: S3Bucket) -> Iterator[Line]:
    listing = _line("destination", lambda: _reach(bucket.storage()))
    yield listing
    if listing.verdict is Verdict.FAILED:
        yield Line("destination write", Verdict.SKIPPED, "without the destination")
        return
    storage = bucket.storage()
    yield _line("destination clock", lambda: _clock(storage))
    kinds = {"public": False, "private": True} if storage.settings.has_acls else {"public": False}
    for kind, private in kinds.items():
        yield from _try_probe(storage, kind, private=private)
    yield _line("destination address", lambda: _is_not_the_source(source, bucket))
    yield _line("destination checksum", lambda: _checks_bodies(storage))
    yield _line("destination private", lambda: _stays_private(storage))


def _is_not_the_source(source: S3Bucket, destination: S3Bucket) -> str:
    ensure_two_places(source, destination, whatever_their_names=True)
    return "what is written there does not appear at the source"


def _checks_bodies(storage: Storage) -> str:
    """Send a body with the Content-MD5 of another one, which the storage should refuse."""
    if checks_md5(storage):
        return "it refuses a body with a wrong checksum"
    return "it ignores checksums, so bodies are hashed before they are sent, which costs processor time"


def _stays_private(storage: Storage) -> str:
    """Write private objects where Mastodon's lie, and request them without a signature."""
    settings, decided = storage.settings, copy_private()
    permission = settings.variable("S3_PERMISSION")
    if not settings.has_acls and not decided:
        if settings.permission and decided is None:
            raise _Failed(
                f"{permission}={settings.permission} does not let everybody read, so ACLs do not separate private from"
                f" public objects: private objects wait for {COPY_PRIVATE} (true: the bucket is not public, copy"
                f" them; false: skip them). Where ACLs work, {permission}=public-read keeps them private"
            )
        return f"private objects are not copied{'' if decided is False else f', and wait for {COPY_PRIVATE}'}"
    warnings: list[str] = []
    prove_private(storage, _PRIVATE_PATTERNS, sets_acls=settings.has_acls, warn=warnings.append)
    if warnings:  # a probe could not be deleted
        raise _Failed(warnings[0])
    return (
        f"{settings.server} refuses private objects without a signature; another address of the bucket (a public"
        " domain, a CDN) was not tried: request a private object there once"
    )


def _try_probe(storage: Storage, kind: str, *, private: bool) -> Iterator[Line]:
    """Write an object, read its ACL and delete it."""
    probe = f"{_PROBE}/{uuid.uuid4()}"
    key = storage.full_key(probe)
    name = f"destination write ({kind})"
    written = _line(name, lambda: _write(storage, key, private=private))
    yield written
    if written.verdict is not Verdict.OK:
        # It may have been written without being readable.
        with contextlib.suppress(_Failed):
            _delete(storage, key)
        return
    if not private and not storage.settings.is_folder:  # a folder has none
        yield _line("destination headers", lambda: _headers(storage, probe))
    yield _line(f"destination ACL ({kind})", lambda: _acl(storage, probe, private=private))
    yield _line(f"destination delete ({kind})", lambda: _delete(storage, key))


def _write(storage: Storage, key: str, *, private: bool) -> str:
    headers = storage.write_headers(_ATTRIBUTES, private=private)
    relative = key.removeprefix(storage.settings.prefix)
    # A bucket with Object Lock takes nothing without an MD5.
    md5 = hashlib.md5(_BODY, usedforsecurity=False).digest()
    storage.ask(lambda client: client.put(key, _BODY, headers, md5), relative)
    found = storage.ask(lambda client: client.get(key, limit=MIB), relative).body
    if found != _BODY:
        raise _Failed(f"{key} was written, and something else was read back: is there a cache in front of the storage?")
    return f"{key} was written and read back"


def _headers(storage: Storage, key: str) -> str:
    sent, kept = _ATTRIBUTES.by_header(), storage.read_attributes(key).by_header()
    lost = [name for name, value in sent.items() if kept.get(name) != value]
    if lost:
        raise _Warned(
            f"{', '.join(lost)} of an object that is written there {'is' if len(lost) == 1 else 'are'} not kept:"
            " a verification of headers will name every object, and `mastosync cutover check` says no. Let the proxy"
            " or CDN before the bucket send what browsers need"
        )
    return "they are kept as they are sent"


def _acl(storage: Storage, key: str, *, private: bool) -> str:
    permission = storage.settings.permission
    if not permission:
        return f"none is sent, since {storage.settings.variable('S3_PERMISSION')} is empty"
    sent = "private" if private else permission
    try:
        public = is_public(storage, key)
    except StorageError as error:
        if error.reason is Reason.ACL_REFUSED:
            raise
        return f"{sent} was accepted, and cannot be read back ({error.reason.value})"
    if public == (private or not storage.settings.has_acls):
        variable = storage.settings.variable("S3_PERMISSION")
        raise _Failed(
            f"{sent} was sent, and the object is readable by {'everybody' if public else 'nobody else'}: the bucket's"
            f" own settings win over ACLs. Enable ACLs there, or set {variable} to an empty text"
        )
    return f"{sent}, as it was sent"


def _delete(storage: Storage, key: str) -> str:
    try:
        storage.ask(lambda client: client.delete(key), key.removeprefix(storage.settings.prefix))
    except StorageError as problem:
        raise _Failed(f"{problem.in_full()}. {key} is left there: delete it") from problem
    return f"{key} was deleted"
