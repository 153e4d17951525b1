"""Manifests on their way to the store: what cannot be published waits until a later run can.

It waits on this machine or, where other machines take part, in the history that all of them share: this one may never
come back.
"""

from __future__ import annotations

import contextlib
import tempfile
from base64 import b64decode, b64encode
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sql
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import KeyValueStoreTable

from mastosync_dagster.escaping import plain
from mastosync_dagster.history.postgres import history_may_fail
from mastosync_dagster.records.doubts import GROUP
from mastosync_dagster.records.store import ManifestStoreError
from mastosync_dagster.runs.manifests import others_take_part
from mastosync_dagster.runs.run_lock import RunState, state
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    import dagster as dg

    from mastosync_dagster.records.store import ManifestStore

LATE = "late-{group}"
"""The group of manifests that a later run has published. They lie apart: manifests published meanwhile describe a later
state, and nobody is to take these for the newest."""

_NAME = "mastosync-unpublished"
_BETWEEN = "~"
"""Between the parts of a file's name; in none of them (`ManifestStore.write`)."""
_MOST_MIB = 256
"""What waits in the history at the most, all together: a backfill that cannot publish must not fill the database."""
_PIECE_BYTES = 3 * MIB
"""Bytes of a file that are sent to the history at once: memory holds their text several times."""
_FAILURES = (ManifestStoreError, StorageError, OSError)


class Outbox:
    """The place where manifests wait. Its folder is made at once, before the disk may be full."""

    def __init__(self, instance: dg.DagsterInstance, warn: Callable[[str], object]) -> None:
        self._instance = instance
        self._warn = warn
        self._history = _SharedHistory.of(instance)
        self._folder = Path(instance.storage_directory()) / _NAME
        self._folder.mkdir(parents=True, exist_ok=True)

    def publish(self, store: ManifestStore, file: Path, group: str, partition: str, run_id: str) -> str:
        """Publish a run's manifest, and return its location. Where that fails it waits for a later run.

        The file is moved: the disk may have no room for a copy. After a ManifestStoreError or StorageError the manifest
        waits; after an OSError it cannot even wait, and the file is where it was.
        """
        kept = file.replace(self._folder / _BETWEEN.join((group, partition, run_id)))
        try:
            location = store.write(kept, group, partition, run_id)
        except BaseException as error:  # also one that is interrupted: its machine may never come back
            self._say_where(kept, error)
            raise
        kept.unlink(missing_ok=True)
        return location

    def publish_waiting(self, store: ManifestStore) -> None:
        """Publish the manifests that wait. Those that still cannot be published wait on, with a warning each."""
        if self._history is not None:
            for name in filter(self._is_left, self._history.names()):
                self._publish_from(self._history, store, name)
        for file in self._folder.glob(f"*{_BETWEEN}*{_BETWEEN}*"):
            if not self._is_left(file.name):
                continue
            try:
                _publish_late(store, file, file.name)
                file.unlink(missing_ok=True)
            except _FAILURES as error:
                # If the file is not found, another run has published it meanwhile.
                if file.exists():
                    self._say_where(file, error)

    def _publish_from(self, history: _SharedHistory, store: ManifestStore, name: str) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="mastosync-manifest-") as folder:
                file = Path(folder) / "manifest.parquet"
                # If it is not found, another machine has published it meanwhile; does it so now, the files are equal.
                if history.read(name, file):
                    _publish_late(store, file, name)
                    history.remove(name)
        except _FAILURES as error:
            self._warn(_waits(name, "Dagster's history", error))

    def _is_left(self, name: str) -> bool:
        """Return whether nobody else is going to publish a file."""
        run = self._instance.get_run_by_id(name.rsplit(_BETWEEN, 1)[1])
        if run is None:
            return True
        known = state(self._instance, run)
        # Its own process publishes it, whatever the history calls the run. Of one on another machine there is no lock
        # to see: there the history decides.
        return known is not RunState.ALIVE and (run.is_finished or known is RunState.DEAD)

    def _say_where(self, file: Path, error: BaseException) -> None:
        """Say where a file waits that could not be published, after it was put where other machines find it."""
        place = str(file)
        if self._history is not None:
            place = f"{file}, where no other machine finds it: Dagster's history does not take it"
            with history_may_fail():
                if self._history.put(file):
                    file.unlink(missing_ok=True)
                    place = "Dagster's history"
                else:
                    place += f" ({_MOST_MIB} MiB wait there already)"
        # The warning goes to the history too. What is raised is why the file could not be published.
        with history_may_fail():
            self._warn(_waits(file.name, place, error))


def _waits(name: str, place: str, error: BaseException) -> str:
    run_id = name.rsplit(_BETWEEN, 1)[1]
    return f"the manifest of run {run_id} could not be published: it waits in {place}. {plain(str(error))}"


def _publish_late(store: ManifestStore, file: Path, name: str) -> None:
    group, partition, run_id = name.split(_BETWEEN)
    # A doubt list is read beside all others, whenever it comes.
    late = group if group.startswith(GROUP.format(table="")) else LATE.format(group=group)
    store.write(file, late, partition, run_id)


class _SharedHistory:
    """Files in Dagster's history in PostgreSQL, as text: an entry of its key-value store for each piece of a file.

    Dagster's own methods for that store delete nothing and list nothing.
    """

    def __init__(self, storage: SqlRunStorage) -> None:
        self._storage = storage

    @classmethod
    def of(cls, instance: dg.DagsterInstance) -> Self | None:
        """Return the history that other machines see too; None: no other takes part."""
        storage = instance.run_storage
        # One in files is one machine's, whatever the launcher.
        if not isinstance(storage, SqlRunStorage) or not hasattr(storage, "postgres_url"):
            return None
        return cls(storage) if others_take_part(instance) else None

    def names(self) -> list[str]:
        """Return the names of the files that wait."""
        with self._transaction() as connection:
            keys = connection.scalars(sql.select(KeyValueStoreTable.c.key).where(_belongs_to(""))).all()
        return sorted({key.split(_BETWEEN, 1)[1].rsplit(_BETWEEN, 1)[0] for key in keys})

    def put(self, file: Path) -> bool:
        """Put a file there under its name, whole or not at all. False: there is no room."""
        table = KeyValueStoreTable
        with self._transaction() as connection:
            # A run that was killed when it had put the file there has left the file.
            connection.execute(table.delete().where(_belongs_to(file.name)))
            size = sql.select(sql.func.sum(sql.func.octet_length(table.c.value))).where(_belongs_to(""))
            if (connection.scalar(size) or 0) + file.stat().st_size * 4 // 3 > _MOST_MIB * MIB:
                return False
            with file.open("rb") as opened:
                for number, piece in enumerate(iter(partial(opened.read, _PIECE_BYTES), b"")):
                    key = _BETWEEN.join((_NAME, file.name, f"{number:04}"))
                    connection.execute(table.insert().values(key=key, value=b64encode(piece).decode()))
        return True

    def read(self, name: str, file: Path) -> bool:
        """Write what waits under a name into a file; False: nothing does."""
        table = KeyValueStoreTable
        # All pieces are as they were at the first question, though another machine removes them now.
        with self._transaction("REPEATABLE READ") as connection, file.open("wb") as opened:
            keys = sorted(connection.scalars(sql.select(table.c.key).where(_belongs_to(name))))
            for key in keys:
                piece: str = connection.execute(sql.select(table.c.value).where(table.c.key == key)).scalar_one()
                opened.write(b64decode(piece))
        return bool(keys)

    def remove(self, name: str) -> None:
        """Remove what waits under a name; another machine may have done so."""
        with self._transaction() as connection:
            connection.execute(KeyValueStoreTable.delete().where(_belongs_to(name)))

    @contextlib.contextmanager
    def _transaction(self, isolation: str = "READ COMMITTED") -> Iterator[sql.Connection]:
        with self._storage.connect() as opened:
            connection = opened.execution_options(isolation_level=isolation)  # Dagster's is AUTOCOMMIT
            with connection.begin():
                yield connection


def _belongs_to(name: str) -> sql.ColumnElement[bool]:
    """Return the condition for the pieces of a file; an empty name: of all files."""
    beginning = _BETWEEN.join((_NAME, name, "") if name else (_NAME, ""))
    return KeyValueStoreTable.c.key.startswith(beginning, autoescape=True)
