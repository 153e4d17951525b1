"""Errors that an admin can do something about, as a plain message: in Dagster a failure that nobody retries."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import dagster as dg

from mastosync_dagster.environment import SettingsError
from mastosync_dagster.mastodon import DatabaseReadError, NotMastodonError, RowError
from mastosync_dagster.partitions import InvalidRangeError
from mastosync_dagster.resources import ConnectionFailedError
from mastosync_dagster.resources.tunnel_settings import TunnelError
from mastosync_dagster.settings import InvalidMomentError
from mastosync_dagster.transfer.errors import StorageError
from mastosync_dagster.transfer.manifest import NotAManifestError
from mastosync_dagster.transfer.manifest_store import ManifestStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN_ERRORS = (
    ConnectionFailedError,
    DatabaseReadError,
    InvalidMomentError,
    InvalidRangeError,
    ManifestStoreError,
    NotAManifestError,
    NotMastodonError,
    RowError,
    SettingsError,
    StorageError,
    TunnelError,
)
"""Their messages are written for admins: one sentence or two, what to change, no secret."""


@contextlib.contextmanager
def plain_failures() -> Iterator[None]:
    """Turn a plain error into a failure of the step, with its message and without the way there.

    What can be repeated with some hope has been repeated where it happened, so the failure is final.
    """
    try:
        yield
    except PLAIN_ERRORS as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None
    except OSError as error:
        # The disk is full or not writable: planning and reporting write to the run's folder.
        if error.filename is None:
            raise
        raise dg.Failure(
            description=f"{error.filename}: {error.strerror}. Is the disk full, or DAGSTER_HOME not writable?",
            allow_retries=False,
        ) from None
