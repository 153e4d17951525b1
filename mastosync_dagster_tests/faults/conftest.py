"""Instances of several sizes, and a world for each test."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from mastosync_dagster.resources import S3Bucket
from mastosync_dagster_tests.faults.world import (
    FaultyInstallation,
    Original,
    environment,
    impatient_settings,
    make_original,
)
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.proxy import s3_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer, S3Server

SEED = 1


@pytest.fixture(scope="session")
def some(postgres_server: PostgresServer, source_server: S3Server) -> Original:
    """Some 450 objects, every case among them."""
    return make_original(postgres_server, source_server, rows=300, videos=1)


@pytest.fixture(scope="session")
def few(postgres_server: PostgresServer, source_server: S3Server) -> Original:
    """Some 400 objects, every case among them, of which three are large."""
    return make_original(postgres_server, source_server, rows=250, videos=2)


@pytest.fixture(scope="session")
def thousand(postgres_server: PostgresServer, source_server: S3Server) -> Original:
    """A thousand objects."""
    return make_original(postgres_server, source_server, rows=660, videos=3)


@pytest.fixture(scope="session")
def ten_thousand(postgres_server: PostgresServer, source_server: S3Server) -> Original:
    """Ten thousand objects."""
    return make_original(postgres_server, source_server, rows=6_640, videos=5)


@pytest.fixture
def make_world(
    destination_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Original], FaultyInstallation]]:
    """Makes a world of an instance: proxies before both storages, an empty destination, a Dagster home."""
    with contextlib.ExitStack() as stack:

        def make(original: Original) -> FaultyInstallation:
            destination = create_bucket(destination_server)
            source_proxy = stack.enter_context(s3_proxy(original.bucket.server.endpoint, seed=SEED))
            destination_proxy = stack.enter_context(s3_proxy(destination_server.endpoint, seed=SEED))
            variables = environment(
                original.database,
                original.bucket,
                destination,
                source_proxy.endpoint,
                destination_proxy.endpoint,
                tmp_path,
            )
            # rclone's server keeps no ACLs, and nobody reads it without a signature.
            variables |= {"DESTINATION_S3_PERMISSION": "", "MASTOSYNC_COPY_PRIVATE": "true"}
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setattr(S3Bucket, "settings", impatient_settings)
            (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
            dagster = stack.enter_context(dg.DagsterInstance.get())
            return FaultyInstallation(original, destination, source_proxy, destination_proxy, dagster)

        yield make
