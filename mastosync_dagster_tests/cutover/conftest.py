"""A small instance that lives, and its copy into a bucket that enforces ACLs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg2
import pytest
from psycopg2 import sql

from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.demo.instance.cases import CASES
from mastosync_dagster.demo.instance.load import build
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.acls import NOBODY_LISTS, acl_server
from mastosync_dagster_tests.support.corners import create_bucket, create_database
from mastosync_dagster_tests.support.installation import Installation, Original, make_world
from mastosync_dagster_tests.support.living import LivingInstance

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg

    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server

ROWS = len(CASES)


@dataclass
class Copied:
    """An instance, and a copy of it that deltas keep current."""

    world: Installation
    living: LivingInstance
    definitions: dg.Definitions

    def run(self, job: str, partition: str | None = None, config: dict[str, object] | None = None) -> bool:
        """Run a job in this process, without Dagster's lines; return whether it succeeded."""
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.world.dagster,
            partition_key=partition,
            run_config={**(config or {}), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
        return result.success

    def copy_ranges(self) -> None:
        """Copy every ID range: the first copy."""
        for file_type, keys in self.world.register().items():
            for key in keys:
                assert self.run(f"sync_{file_type.value}", key)

    def delta(self) -> bool:
        """Do what a night does; return whether it succeeded."""
        return self.run("sync_changes", None, {"ops": {"plan_changes": {"config": {"changed_since": "last"}}}})


@contextlib.contextmanager
def role_that_may_not_read(copied: Copied, table: str) -> Iterator[None]:
    """Let commands use a role that may read every table but one."""
    server = copied.world.database
    copied.living.execute(
        "CREATE ROLE narrow LOGIN PASSWORD 'word'; GRANT USAGE ON SCHEMA public, clock TO narrow;"
        " GRANT SELECT ON ALL TABLES IN SCHEMA public, clock TO narrow"
    )
    copied.living.execute(sql.SQL("REVOKE SELECT ON {} FROM narrow").format(sql.Identifier(table)))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATABASE_URL", f"postgresql://narrow:word@{server.host}:{server.port}/{server.database}")
            yield
    finally:
        copied.living.execute("DROP OWNED BY narrow; DROP ROLE narrow")


@contextlib.contextmanager
def table_away(copied: Copied, table: str) -> Iterator[None]:
    """Let the database be one that lacks a table."""
    copied.living.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
    try:
        yield
    finally:
        copied.living.execute(f"ALTER TABLE {table}_away RENAME TO {table}")


@contextlib.contextmanager
def uncopied_instance(
    postgres_server: PostgresServer,
    source_server: S3Server,
    destination_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Copied]:
    """Generate an instance, of which nothing is copied yet."""
    database, bucket = create_database(postgres_server), create_bucket(source_server)
    with contextlib.closing(psycopg2.connect(database.url)) as connection:
        instance = build(connection, source_server, bucket.name, cases=CASES, rows=ROWS)
        connection.cursor().execute("UPDATE media_attachments SET processing = 2 WHERE processing IN (0, 1)")
        connection.commit()
    home = tmp_path_factory.mktemp("cutover") / "home"
    original = Original(instance, database, bucket)
    with (
        pytest.MonkeyPatch.context() as patch,
        make_world(original, create_bucket(destination_server), home, patch) as world,
    ):
        for name, value in {
            "MASTOSYNC_ROWS_PER_PARTITION": "1000",
            "DESTINATION_S3_PERMISSION": "public-read",
            "S3_ALIAS_HOST": "files.example.com",
        }.items():
            patch.setenv(name, value)
        patch.delenv("MASTOSYNC_COPY_PRIVATE")
        world.destination_proxy.set_rules(NOBODY_LISTS)
        living = LivingInstance.of(world.database, world.source, instance.objects_of(*FileType))
        yield Copied(world, living, build_definitions())


@contextlib.contextmanager
def copied_instance(
    postgres_server: PostgresServer,
    source_server: S3Server,
    destination_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Copied]:
    """Generate an instance, and copy it by its ID ranges and a delta."""
    with uncopied_instance(postgres_server, source_server, destination_server, tmp_path_factory) as copied:
        copied.copy_ranges()
        assert copied.delta()
        yield copied


@pytest.fixture(scope="module")
def copied(
    postgres_server: PostgresServer, source_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Copied]:
    """One for the tests of a module, which leave it as they have found it."""
    with acl_server() as server, copied_instance(postgres_server, source_server, server, tmp_path_factory) as made:
        yield made


@pytest.fixture
def uncopied(
    postgres_server: PostgresServer, source_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Copied]:
    """One of the test's own, of which nothing is copied yet."""
    with acl_server() as server, uncopied_instance(postgres_server, source_server, server, tmp_path_factory) as made:
        yield made
