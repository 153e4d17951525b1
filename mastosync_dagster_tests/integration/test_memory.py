"""What a run holds in memory, measured from outside as the peak of its process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import psycopg2
import pytest

from mastosync_dagster_tests.support.installation import PROJECT, environment_for
from mastosync_dagster_tests.support.memory import peak_megabytes

if TYPE_CHECKING:
    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster_tests.support.corners import Bucket

pytestmark = pytest.mark.long

OBJECTS = 20
MEGABYTES = 64
THREADS = 16
PEAK_MEGABYTES = 400


@pytest.mark.long(cases=0)
@pytest.mark.timeout(300)
def test_twenty_large_objects_with_sixteen_threads_stay_under_the_bound(
    database: PostgresServer, source_bucket: Bucket, destination_bucket: Bucket, tmp_path: Path
) -> None:
    content = os.urandom(1 << 20) * MEGABYTES
    name = "0123456789abcdef.mp3"
    keys = [f"media_attachments/files/000/000/{number:03d}/original/{name}" for number in range(1, OBJECTS + 1)]
    with ThreadPoolExecutor(2) as pool:
        for key in keys:
            pool.submit(source_bucket.client.put_object, Bucket=source_bucket.name, Key=key, Body=content)
    with contextlib.closing(psycopg2.connect(database.url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(resources.files("mastosync_dagster.demo").joinpath("schema_main.sql").read_text())
        cursor.execute("CREATE TABLE statuses (id bigint PRIMARY KEY, deleted_at timestamp)")
        cursor.execute(
            "INSERT INTO media_attachments (id, file_file_name, file_content_type, file_file_size, created_at,"
            " updated_at, file_updated_at) SELECT n, %s, 'audio/mpeg', %s, now(), now(), now()"
            " FROM generate_series(1, %s) n",
            (name, len(content), OBJECTS),
        )
    (tmp_path / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    environment = environment_for(
        database,
        source_bucket,
        destination_bucket,
        source_bucket.server.endpoint,
        destination_bucket.server.endpoint,
        tmp_path,
    )
    partition = f"1-{OBJECTS}"
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.add_dynamic_partitions("media_attachments_ids", [partition])

    command = [str(Path(sys.executable).with_name("dagster")), "job", "execute", "-m", "mastosync_dagster"]
    command += ["-j", "sync_media_attachments", "--tags", json.dumps({"dagster/partition": partition})]
    peak = peak_megabytes(command, {**os.environ, **environment, "MASTOSYNC_CONCURRENCY": str(THREADS)})
    assert peak < PEAK_MEGABYTES
    expected = hashlib.md5(content, usedforsecurity=False).hexdigest()
    for key in keys[:: OBJECTS // 4]:
        body = destination_bucket.client.get_object(Bucket=destination_bucket.name, Key=key)["Body"].read()
        assert hashlib.md5(body, usedforsecurity=False).hexdigest() == expected
    for bucket in (source_bucket, destination_bucket):
        for key in keys:
            bucket.client.delete_object(Bucket=bucket.name, Key=key)
    print(f"peak {peak:.0f} MB")  # noqa: T201  (the figure, for whoever asks with -s)
