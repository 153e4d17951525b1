"""The demo's Dagster home, and the environment in which its runs find the servers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastosync_dagster.demo.servers.start import LOOPBACK, PostgresServer, S3Server
from mastosync_dagster.installation.home_files import make_home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCE_BUCKET, DESTINATION_BUCKET = "mastodon", "mastodon-copy"
ROWS_PER_PARTITION = 250

_MARK = "made-by-mastosync-demo"
# The user's own settings must not reach the demo: they may be a real instance's.
_FOREIGN = ("AWS_", "DAGSTER_", "DB_", "DESTINATION_", "MASTOSYNC_", "PG", "S3_", "SSH_TUNNEL_")
_FOREIGN_NAMES = ("DATABASE_URL", "NO_PROXY", "no_proxy")


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True)
class Servers:
    """The servers of a demo. The S3 servers have `SOURCE_BUCKET` and `DESTINATION_BUCKET`."""

    database: PostgresServer
    source: S3Server
    destination: S3Server


@contextlib.contextmanager
def fresh_home(directory: Path) -> Iterator[Path]:
    """Yield a new Dagster home below a directory, in place of an earlier demo's; it stays afterwards.

    Raises:
        DemoError: Another demo is running there, or the home there is not an earlier demo's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"another demo is running in {directory}: choose another folder with --directory") from None
        home = directory / "home"
        if home.exists():
            if not (home / _MARK).exists():
                raise DemoError(f"{home} is not of an earlier demo: choose another folder with --directory")
            shutil.rmtree(home)
        home.mkdir()
        (home / _MARK).touch()
        make_home(home)
        yield home


def environment_of_runs(home: Path, servers: Servers) -> dict[str, str]:
    """Return the environment of Dagster's processes: the settings that an admin would make for a real instance."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and name not in _FOREIGN_NAMES
    }
    return {
        **inherited,
        "NO_PROXY": LOOPBACK,
        "DAGSTER_HOME": str(home),
        "MASTOSYNC_ROWS_PER_PARTITION": str(ROWS_PER_PARTITION),
        "DATABASE_URL": servers.database.url,
        "S3_BUCKET": SOURCE_BUCKET,
        "S3_ENDPOINT": servers.source.endpoint,
        "S3_REGION": servers.source.region,
        "AWS_ACCESS_KEY_ID": servers.source.access_key_id,
        "AWS_SECRET_ACCESS_KEY": servers.source.secret_access_key,
        "DESTINATION_S3_BUCKET": DESTINATION_BUCKET,
        "DESTINATION_S3_ENDPOINT": servers.destination.endpoint,
        "DESTINATION_S3_REGION": servers.destination.region,
        "DESTINATION_AWS_ACCESS_KEY_ID": servers.destination.access_key_id,
        "DESTINATION_AWS_SECRET_ACCESS_KEY": servers.destination.secret_access_key,
        # rclone's server keeps no ACLs, and lets nobody read without a signature.
        "DESTINATION_S3_PERMISSION": "",
        "MASTOSYNC_COPY_PRIVATE": "true",
    }
