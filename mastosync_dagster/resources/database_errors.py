"""The error of a failed connection to the database."""

from __future__ import annotations

import psycopg2

from mastosync_dagster.errors import AdminError


class ConnectionFailedError(AdminError, psycopg2.OperationalError):
    """The database, or the tunnel to it, cannot be reached, or refuses the login. The message holds no secret.

    It is one of psycopg2's own errors, so that code which reconnects after a lost connection handles it too. If it is
    ``permanent``, no retry helps until somebody changes a setting.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
