"""Fixtures of whole runs: a generated instance on servers of the test's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.mastodon import connection
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.sync import clocks
from mastosync_dagster_tests.support.acls import acl_server, let_everybody_read
from mastosync_dagster_tests.support.corners import Bucket, create_bucket
from mastosync_dagster_tests.support.instance_cases import ALL_CASES
from mastosync_dagster_tests.support.life import Life
from mastosync_dagster_tests.support.living import LivingInstance
from mastosync_dagster_tests.support.suspensions import settled, skipping

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server

from mastosync_dagster_tests.support.installation import ROWS, Installation, Original, make_world

__all__ = ["settled", "skipping"]
"""Fixtures that live elsewhere."""


@pytest.fixture(autouse=True)
def retry_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that does not answer is retried three times, soon."""
    monkeypatch.setattr(connection, "_RETRY_DELAYS", (0.1,) * 3)


@pytest.fixture(scope="session")
def original(postgres_server: PostgresServer, source_server: S3Server) -> Original:
    """Some 300 rows in which every case of Mastodon's storage occurs."""
    return Original.generated(postgres_server, source_server, cases=ALL_CASES, rows=ROWS)


@pytest.fixture
def world(
    original: Original, destination_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installation]:
    """The instance with a database of the test's own, and nothing copied yet."""
    with make_world(original, destination_bucket, tmp_path / "home", monkeypatch) as made:
        yield made


@pytest.fixture(scope="session")
def server_with_acls() -> Iterator[S3Server]:
    """A server that enforces ACLs."""
    with acl_server() as server:
        yield server


@pytest.fixture
def world_with_acls(
    original: Original, server_with_acls: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installation]:
    """The same, with a destination that enforces ACLs, and one ID range per file type."""
    with make_world(original, create_bucket(server_with_acls), tmp_path / "home", monkeypatch) as made:
        monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "1000")
        monkeypatch.setenv("DESTINATION_S3_PERMISSION", "public-read")
        monkeypatch.delenv("MASTOSYNC_COPY_PRIVATE")
        yield made


@pytest.fixture
def everybody_reads(world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch, permission: str) -> Installation:
    """The same, with a policy that lets everybody read, a permission of the test's own, and private objects wanted."""
    let_everybody_read(world_with_acls.destination)
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", permission)
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "true")
    return world_with_acls


@pytest.fixture
def synced_with_acls(world_with_acls: Installation) -> Installation:
    """The same, its media copied."""
    ((key,),) = world_with_acls.register(FileType.MEDIA_ATTACHMENTS).values()
    assert world_with_acls.run("sync_media_attachments", key).success
    return world_with_acls


@pytest.fixture
def life(world: Installation, monkeypatch: pytest.MonkeyPatch) -> Life:
    """The instance, alive; few ID ranges, and nothing copied yet."""

    def set_rows_per_partition(rows: int) -> None:
        monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", str(rows))

    set_rows_per_partition(150)
    # What the generated instance has lost is not asked for again: the nights' requests are counted.
    monkeypatch.setenv("MASTOSYNC_RETRY_NIGHTS", "0")
    living = LivingInstance.of(world.database, world.source, world.instance.objects_of(*FileType))
    made = Life(world, living, set_rows_per_partition)
    monkeypatch.setattr(clocks, "machine_now", lambda: living.now + made.machine_ahead)
    world.destination_proxy.clock = lambda: living.now + made.destination_ahead
    return made
