"""How many connections the database has left for mastosync."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.mastodon.connection import reading_once

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# A role without pg_monitor sees of other roles' sessions that they are there, and not what kind they are; so all that
# are connected to a database count, which a few of PostgreSQL's own processes are too. `true`: a setting that this
# version of PostgreSQL lacks is NULL.
_QUERY = """
SELECT current_setting('max_connections')::int
     - current_setting('superuser_reserved_connections')::int
     - COALESCE(current_setting('reserved_connections', true), '0')::int,
       (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL),
       role.rolconnlimit,
       (SELECT count(*) FROM pg_stat_activity WHERE usesysid = role.oid),
       base.datconnlimit,
       (SELECT count(*) FROM pg_stat_activity WHERE datid = base.oid)
FROM pg_roles role, pg_database base
WHERE role.rolname = current_user AND base.datname = current_database()
"""


class FreeConnections(NamedTuple):
    """The connections that the tightest limit leaves free, the caller's own not among them.

    Attributes:
        of: How many the limit allows.
        limit: Its name, for an admin.
    """

    left: int
    of: int
    limit: str


def free_connections(connection: Connection) -> FreeConnections:
    """Ask PostgreSQL for its limits, and for the connections that count against them."""
    with reading_once(connection) as cursor:
        cursor.execute(_QUERY)
        ((allowed, used, of_role, by_role, of_database, in_database),) = cursor.fetchall()
    limits = [
        FreeConnections(allowed - used, allowed, "max_connections of PostgreSQL, less the reserved ones"),
        FreeConnections(of_role - by_role, of_role, "CONNECTION LIMIT of the role"),
        FreeConnections(of_database - in_database, of_database, "CONNECTION LIMIT of the database"),
    ]
    # -1 stands for no limit.
    tightest = min(limit for limit in limits if limit.of >= 0)
    return tightest._replace(left=max(0, tightest.left))
