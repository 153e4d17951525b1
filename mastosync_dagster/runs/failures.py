"""Errors that an admin can do something about, as a plain message: in Dagster a failure that is not retried."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any

import dagster as dg
import psycopg2
import sqlalchemy.exc
from dagster._core.errors import DagsterUserCodeProcessError
from dagster_postgres.utils import DagsterPostgresException
from dagster_shared.error import SerializableErrorInfo

from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import plain
from mastosync_dagster.history.postgres import history_may_fail, stop_soon

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CHAIN = 10
"""Errors behind an error, at the most: the cause of a cause."""
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


def root_of(error: SerializableErrorInfo) -> SerializableErrorInfo:
    """Return the innermost cause of an error: Dagster's own error around it only names the step."""
    while error.cause is not None:
        error = error.cause
    return error


def sentence_of(error: SerializableErrorInfo) -> str:
    """Return why a step failed whose failure has no description of its own: Dagster failed, or we did.

    All that psycopg2 raises within a step has one (see `plain_failures`): what has none concerns Dagster's history.
    """
    message = root_of(error).message
    if message.startswith("psycopg2."):
        # Behind the name of the class.
        return _history_broke(message.partition(": ")[2])
    return message


class _SentenceError(DagsterUserCodeProcessError):
    """Carries the error information that Dagster records: the message, without a stack."""

    def __init__(self, message: str) -> None:
        info = SerializableErrorInfo(message=f"{message}\n", stack=[], cls_name=dg.Failure.__name__)
        super().__init__(message, user_code_process_error_infos=[info])  # type: ignore[no-untyped-call]  # Dagster's


class PlainFailure(dg.Failure, _SentenceError):  # noqa: N818  (a Failure, in Dagster's words)
    """A failure of a step that a sentence says all about, and that Dagster does not retry.

    Dagster takes the error information of a `DagsterUserCodeProcessError` as it is. So log, UI and terminal show the
    sentence alone: the stack below it is Dagster's and ours, and tells an admin nothing.
    """

    def __init__(self, message: str, metadata: Mapping[str, Any] | None = None) -> None:
        super().__init__(description=message, metadata=metadata, allow_retries=False)


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one behind it, is that of a full disk: Arrow and SQLite give words and no number."""
    words = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "disk is full")
    for _ in range(_CHAIN):
        if error is None:
            break
        if any(word in str(error) for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def plain_failures() -> Iterator[None]:
    """Turn an error for admins into a failure of the step, with its message and without a traceback.

    The failure is final: requests that are worth a retry have been retried where they were made.
    """
    try:
        yield
    except AdminError as error:
        raise PlainFailure(plain(error.in_full())) from None
    except OSError as error:
        # The disk is full or not writable: planning, copying and reporting write to the run's folder. Arrow names no
        # file, and gives the system's error number alone.
        if error.filename is None and error.errno not in _DISK_ERRORS:
            raise
        where = error.filename or "the run's folder"
        what = os.strerror(error.errno) if error.errno else error.strerror
        message = f"{where}: {what}. Is the disk full, or DAGSTER_HOME not writable?"
        raise PlainFailure(message) from None
    except (sqlalchemy.exc.DBAPIError, DagsterPostgresException) as error:
        # Dagster retries connections to its history, not statements. SQLAlchemy's own text has the statement in it.
        found = error if isinstance(error, sqlalchemy.exc.DBAPIError) else error.__cause__
        raise PlainFailure(_history_broke(str(getattr(found, "orig", found)))) from None
    except psycopg2.Error as error:
        # Before the first page: the reader of rows connects again, and raises an AdminError where that fails.
        message = (
            f"The connection to the database broke ({_first_line(str(error))}). Is the server of DATABASE_URL or"
            " DB_HOST up?"
        )
        raise PlainFailure(message) from None


@contextlib.contextmanager
def noted_when_stopped(log: dg.DagsterLogManager, text: str) -> Iterator[None]:
    """Log a line when somebody terminates the run, which raises no Exception."""
    try:
        yield
    except BaseException as ending:
        if not isinstance(ending, Exception):  # that is in the log as a failure
            stop_soon()
            with history_may_fail():
                log.info(text)
        raise


def _history_broke(why: str) -> str:
    return (
        f"The connection to Dagster's history broke ({_first_line(why)}). Is the server of storage in dagster.yaml up?"
        " A further run takes the rest."
    )


def _first_line(text: str) -> str:
    return plain((text.strip() or "without a word").splitlines()[0].rstrip("."))
