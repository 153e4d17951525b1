"""What a sync needs, looked at before there is a run: a wrong setting leaves no failed run in the history."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING

from mastosync_dagster.cli.settings import read_settings
from mastosync_dagster.mastodon import LostDatabaseError, database_now, read_schema
from mastosync_dagster.resources import MastodonDatabase, S3Bucket, ensure_different
from mastosync_dagster.resources.database_errors import ConnectionFailedError
from mastosync_dagster.resources.direction import ensure_not_swapped
from mastosync_dagster.runs.destination_folder import ensure_mounted
from mastosync_dagster.runs.disk_room import ensure_room
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster.runs.watermarks import LAST
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster.sync.config import parse_timestamp

if TYPE_CHECKING:
    import dagster as dg

    from mastosync_dagster.sync.config import ChangesConfig, CopyConfig

_SETTINGS = frozenset({Reason.BAD_CREDENTIALS, Reason.NO_SUCH_BUCKET, Reason.WRONG_REGION})
"""What a storage answers where a setting is wrong. Other errors may pass: the run retries, and records them."""


_SILENT_SECONDS = 5.0
"""Who refuses a connection does so sooner, and may be back as soon."""


def check_settings(
    instance: dg.DagsterInstance, plan: ChangesConfig, copy: CopyConfig, *, attended: bool = True
) -> None:
    """Look for room, read every setting, connect to the database, ask both storages. Raises an `AdminError`.

    ``attended``: somebody waits, and is to know at once where a storage is silent. A night waits for it.
    """
    ensure_room(instance)
    source, destination = S3Bucket.source(), S3Bucket.destination()
    ensure_different(source, destination)
    ensure_not_swapped(instance, source.settings(), destination.settings())
    ensure_mounted(instance, destination.storage())
    store = manifest_store(instance, destination, source)
    read_settings(plan, copy)
    _check_database(plan)
    # Of manifests no run begins by writing any: what it cannot write at its end waits for a later run.
    for check in (source.storage().check, destination.storage().check, partial(store.check, write=False)):
        begun = time.monotonic()
        try:
            check()
        except StorageError as error:
            silent = not error.reached and time.monotonic() - begun >= _SILENT_SECONDS
            if error.reason in _SETTINGS or (attended and silent):
                raise


def _check_database(plan: ChangesConfig) -> None:
    try:
        with MastodonDatabase().session() as connect, contextlib.closing(connect()) as connection:
            read_schema(connection, plan.file_types)
            if plan.changed_since is not None and plan.changed_since.strip() != LAST:
                parse_timestamp(plan.changed_since, now=database_now(connection))
    except ConnectionFailedError as error:
        if error.permanent:
            raise
    except LostDatabaseError:
        # It has answered, and may answer again: the run waits for it, or says what is wrong.
        pass
