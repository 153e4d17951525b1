"""Media of suspended accounts: who may read them, and nights that see to it."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2

from mastosync_dagster.installation.processes import running
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster_tests.support.acls import anonymous_status
from mastosync_dagster_tests.support.manifests import newest_of_each
from mastosync_dagster_tests.support.proxy import Delay, Kind, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import dagster as dg

    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster_tests.support.installation import Installation


MEDIA = FileType.MEDIA_ATTACHMENTS
MANIFEST = r"manifests/media_attachments/.*\.parquet$"


def execute(world: Installation, query: str, *parameters: object) -> list[tuple[object, ...]]:
    with contextlib.closing(psycopg2.connect(world.database.url)) as connection, connection.cursor() as cursor:
        cursor.execute(query, parameters)
        found = cursor.fetchall() if cursor.description else []
        connection.commit()
        return found


def private_rows(world: Installation) -> set[int]:
    """Return the media that are private by the database, asked in one go."""
    found = execute(
        world,
        "SELECT m.id FROM media_attachments m LEFT JOIN accounts a ON a.id = m.account_id"
        " LEFT JOIN statuses s ON s.id = m.status_id"
        " WHERE a.suspended_at IS NOT NULL OR s.deleted_at IS NOT NULL",
    )
    return {row_id for (row_id,) in found if isinstance(row_id, int)}


def answers(world: Installation) -> dict[str, int]:
    """Return what an anonymous GET of each object of the media is answered with."""
    return {
        each.key: anonymous_status(world.destination.server, world.destination.name, each.key)
        for each in world.instance.objects_of(MEDIA)
    }


def expected_answers(world: Installation) -> dict[str, int]:
    private = private_rows(world)
    return {each.key: 403 if each.row_id in private else 200 for each in world.instance.objects_of(MEDIA)}


def newest(world: Installation, group: str) -> list[ManifestLine]:
    store = manifest_store(world.dagster, S3Bucket.destination())
    (manifest,) = newest_of_each(store, group)
    return [line for lines in store.read(manifest) for line in lines]


def media_of(world: Installation, *, suspended: bool) -> tuple[int, int]:
    """Return an account that is, or is not, suspended and the most media of which are at the source, and how many."""
    here = Counter(each.row_id for each in world.instance.objects_of(MEDIA))
    owners: Counter[int] = Counter()
    for account, row_id in execute(
        world,
        "SELECT m.account_id, m.id FROM media_attachments m JOIN accounts a ON a.id = m.account_id"
        " LEFT JOIN statuses s ON s.id = m.status_id WHERE (a.suspended_at IS NOT NULL) = %s AND s.deleted_at IS NULL",
        suspended,
    ):
        assert isinstance(account, int)
        assert isinstance(row_id, int)
        owners[account] += here[row_id]
    return owners.most_common(1)[0]


NEVER_PUBLISHED = Rule(Delay(100), kinds=frozenset({Kind.PUT}), key=MANIFEST)


@contextlib.contextmanager
def sync_in_a_process(
    world: Installation, key: str, log: Path, rule: Rule = NEVER_PUBLISHED, *, until: Kind = Kind.PUT
) -> Iterator[int]:
    """Sync a range of the media in a process of its own, until the destination sees a request that a rule holds up.

    Args:
        world: The servers.
        key: The range.
        log: Gets what the process prints.
        rule: What happens to the destination; by default its manifest never gets to where it stays.
        until: The kind of the request to wait for.

    Yields:
        The id of the process.
    """
    world.destination_proxy.set_rules(rule)
    world.destination_proxy.forget()
    command = [str(Path(sys.executable).with_name("dagster")), "job", "execute", "-m", "mastosync_dagster"]
    command += ["-j", f"sync_{MEDIA.value}", "--tags", json.dumps({"dagster/partition": key})]
    with running(command, log=log) as process:
        wait_until(
            lambda: any(
                request.kind is until and re.search(rule.key, request.key)
                for request in world.destination_proxy.requests
            ),
            log,
        )
        yield process.pid
        process.wait(100)
    world.destination_proxy.set_rules()


def wait_until(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)


def nightly(world: Installation) -> dg.ExecuteInProcessResult:
    config = {"file_types": [MEDIA.value, FileType.BACKUPS.value], "changed_since": "last"}
    return world.run("sync_changes", config={"ops": {"plan_changes": {"config": config}}})
