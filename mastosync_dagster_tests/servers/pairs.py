"""What is tried between two real servers, from the first copy to a kill."""

from __future__ import annotations

import contextlib
import io
import random
import signal
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import dagster as dg
import psycopg2
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from mastosync_dagster.demo.comparison import compare
from mastosync_dagster.demo.instance.load import build
from mastosync_dagster.ranges.partitions import FileType, register_ranges
from mastosync_dagster.records.findings import Finding, FindingLine, read_findings
from mastosync_dagster.records.manifest import ManifestLine, read_manifest
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster_tests.support.acls import anonymous_status
from mastosync_dagster_tests.support.corners import (
    Bucket,
    create_bucket,
    create_database,
    drop_database,
    environment_of,
)
from mastosync_dagster_tests.support.instance_cases import ALL_CASES
from mastosync_dagster_tests.support.large_media import add_large
from mastosync_dagster_tests.support.transfers import open_uploads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mastosync_dagster.demo.instance.book import GeneratedObject, Instance
    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster_tests.model.world import Runs
    from mastosync_dagster_tests.servers.start import RealServer

MIB = 1024 * 1024
MEDIA = FileType.MEDIA_ATTACHMENTS
TABLES = [file_type.value for file_type in FileType]
_FIRST_LARGE = 900_000_000
"""An id that no generated row has."""
_PART = 16 * MIB
_FINE = {Finding.EQUAL, Finding.MISSING}
_CHANGED = {"ops": {"plan_changes": {"config": {"changed_since": "last", "wait_seconds": 1}}}}


@dataclass(frozen=True)
class Filled:
    """A generated instance whose bucket lies at a server."""

    at: RealServer
    instance: Instance
    database: PostgresServer
    bucket: Bucket

    @property
    def expected(self) -> tuple[GeneratedObject, ...]:
        """What a sync of all file types must bring."""
        return self.instance.objects_of(*TABLES)


@dataclass(frozen=True)
class Facts:
    """What a server does, as its answers show.

    Attributes:
        acls: Whether a private object is private, and a public one public: `enforced`, `ignored`, `refused`.
        wrong_md5: Whether a body with another Content-MD5 is `refused` or `stored`.
        lists_uploads: Whether uploads in parts that nobody has ended are shown.
        is_open: Whether everybody reads what was written without an ACL.
    """

    acls: str
    wrong_md5: str
    lists_uploads: bool
    is_open: bool

    def row(self) -> str:
        """Return what a table says of the server."""
        uploads = "shown" if self.lists_uploads else "not shown"
        return f"{self.acls} | {'everybody' if self.is_open else 'nobody'} | {self.wrong_md5} | {uploads}"


@dataclass
class Result:
    """What came of a pair; `problems` is empty where all was as it must be."""

    problems: list[str] = field(default_factory=list)

    def expect(self, what: str, found: object, expected: object) -> None:
        """Note a difference."""
        if found != expected:
            self.problems.append(f"{what}: {found!r} instead of {expected!r}")


def ask(at: RealServer) -> Facts:
    """Ask a server what it does."""
    bucket = create_bucket(at.server)
    client: Any = bucket.client
    lists = True
    acls = "enforced"
    for key, acl, status in (("public", "public-read", 200), ("private", "private", 403)):
        try:
            client.put_object(Bucket=bucket.name, Key=key, Body=b"x", ACL=acl)
        except ClientError:
            acls = "refused"
            break
        if anonymous_status(at.server, bucket.name, key) != status:
            acls = "ignored"
    try:
        wrong = "1B2M2Y8AsgTpgAmY7PhCfg=="  # of an empty body
        client.put_object(Bucket=bucket.name, Key="wrong", Body=b"not empty", ContentMD5=wrong)
        md5 = "stored"
    except ClientError:
        md5 = "refused"
    try:
        client.create_multipart_upload(Bucket=bucket.name, Key="upload")
        lists = "upload" in open_uploads(bucket)
    except (ClientError, BotoCoreError):
        lists = False
    client.put_object(Bucket=bucket.name, Key="plain", Body=b"x")
    is_open = anonymous_status(at.server, bucket.name, "plain") == 200
    return Facts(acls, md5, lists, is_open)


def fill(at: RealServer, postgres: PostgresServer, *, rows: int, large: tuple[int, ...]) -> Filled:
    """Generate an instance at a server.

    Args:
        at: The server.
        postgres: Where its database goes.
        rows: About so many rows, some 1.5 objects each.
        large: Sizes in MiB of further videos; from 64 on they are uploaded in parts.
    """
    database, bucket = create_database(postgres), create_bucket(at.server)
    added = []
    with contextlib.closing(psycopg2.connect(database.url)) as connection:
        instance = build(connection, at.server, bucket.name, cases=ALL_CASES, rows=rows)
        for number, size in enumerate(large):
            body = random.Random(number).randbytes(size * MIB + number)

            def put(key: str, headers: Mapping[str, str], body: bytes = body) -> None:
                threshold = TransferConfig(multipart_threshold=64 * MIB, multipart_chunksize=_PART, use_threads=False)
                file = io.BytesIO(body)
                bucket.client.upload_fileobj(file, bucket.name, key, ExtraArgs=dict(headers), Config=threshold)

            added.append(add_large(connection, _FIRST_LARGE + number, f"video{number}.mp4", body, put))
    return Filled(at, replace(instance, objects=(*instance.objects, *added)), database, bucket)


@dataclass
class Pair:
    """Two servers, an empty bucket at the second, and a Dagster home."""

    source: Filled
    destination: RealServer
    facts: Facts
    runs: Runs
    home: Path
    database: PostgresServer
    bucket: Bucket
    result: Result = field(default_factory=Result)

    @property
    def _expected(self) -> list[GeneratedObject]:
        skipped = self.facts.is_open and self.facts.acls != "enforced"
        return [each for each in self.source.expected if not (skipped and each.private)]

    @property
    def _same(self) -> bool:
        return self.source.at.endpoint == self.destination.endpoint

    @property
    def _variables(self) -> dict[str, str]:
        at, to = self.source.at, self.destination
        variables = environment_of(self.database, self.source.bucket, self.bucket, at.endpoint, to.endpoint, self.home)
        enforced = self.facts.acls == "enforced"
        return variables | {
            "MASTOSYNC_ROWS_PER_PARTITION": "1000000",
            "DESTINATION_S3_PERMISSION": "public-read" if enforced else "",
            # A run refuses to write something private where everybody can read it.
            "MASTOSYNC_COPY_PRIVATE": "" if enforced else "false" if self.facts.is_open else "true",
            "S3_CA_FILE": str(at.ca_file or ""),
            "DESTINATION_S3_CA_FILE": str(to.ca_file or ""),
        }

    def _run(self, job: str = "sync_changes", **wanted: Any) -> bool | str | None:
        return self.runs.start(variables=self._variables, job=job, **wanted)

    def _lines(self) -> list[ManifestLine]:
        """Return the lines of the newest manifest of a sync."""
        files = (self.home / "manifests" / "sync_changes").rglob("*.parquet")
        newest = max(files, key=lambda file: file.stat().st_mtime_ns)
        return [line for lines in read_manifest(newest) for line in lines]

    def _outcomes(self) -> dict[str, int]:
        outcomes = [line.outcome.value for line in self._lines()]
        return {outcome.value: outcomes.count(outcome.value) for outcome in Outcome}

    def _compare(self, when: str) -> None:
        found = compare(self.destination.server, self.bucket.name, self._expected)
        self.result.expect(when, [each for each in found.differences if not self._is_mtime(each)][:5], [])

    def _is_mtime(self, difference: str) -> bool:
        """Tell whether a difference is rclone's own: it adds a time to the metadata of what it copies by itself."""
        return self._same and "mtime" in difference

    def kill_and_copy(self) -> None:
        """A first copy that is killed in its middle, and goes on."""
        # One server copies by itself: there is no PUT.
        stop = ("after bodies", 1) if self._same else ("after PUT", 40)
        killed = self._run(stop=(*stop, signal.SIGKILL))
        self.result.expect("the first run", killed, None)
        self.result.expect("the run after the kill", self._run(), True)
        self._compare("after the first copy")
        if self.facts.lists_uploads:
            self.result.expect("open uploads", open_uploads(self.bucket), [])

    def copy_again(self) -> None:
        """A second copy writes nothing."""
        self.result.expect("the second copy", self._run(), True)
        self.result.expect("copied by the second copy", self._outcomes()["copied"], 0)
        skipped = len(self.source.expected) - len(self._expected)
        self.result.expect("failed in the second copy", self._outcomes()["failed"], skipped)

    def verify(self) -> None:
        """Every body, header and ACL is as it must be."""
        with dg.DagsterInstance.from_config(str(self.home)) as dagster:
            for file_type in FileType:
                register_ranges(
                    dagster, file_type, lambda: psycopg2.connect(self.database.url), rows_per_partition=1_000_000
                )
            ranges = {each: list(dagster.get_dynamic_partitions(each.partitions_name)) for each in FileType}
        acls = "all" if self.facts.acls == "enforced" else "none"
        for file_type, keys in ranges.items():
            config = {"headers": "all", "acls": acls, "full": True}
            ops = {"ops": {f"{file_type.value}_verification": {"config": config}}}
            for key in keys:
                self._run(f"verify_{file_type.value}", partition=key, config=ops)
        skipped = {each.key for each in self.source.expected} - {each.key for each in self._expected}
        found = list(self._findings("verify_*"))
        wrong = [
            f"{line.finding.value}: {line.key} ({line.detail})"
            for line in found
            if line.finding not in _FINE and line.key not in skipped
        ]
        self.result.expect("verification", [each for each in wrong if not self._is_mtime(each)][:5], [])
        equal = sum(line.finding is Finding.EQUAL for line in found)
        self.result.expect("objects verified", self._same or equal == len(self._expected), True)

    def _findings(self, group: str) -> Iterator[FindingLine]:
        for folder in (self.home / "manifests").glob(f"{group}/*"):
            newest = max(folder.glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)
            for lines in read_findings(newest):
                yield from lines

    def suspend_and_back(self) -> None:
        """A row becomes private and public again."""
        if self.facts.acls != "enforced":
            return
        with contextlib.closing(psycopg2.connect(self.database.url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(
                "SELECT m.account_id, array_agg(m.id) FROM media_attachments m JOIN accounts a ON a.id = m.account_id"
                " LEFT JOIN statuses s ON s.id = m.status_id WHERE a.suspended_at IS NULL AND s.deleted_at IS NULL"
                " GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1"
            )
            ((account, rows),) = cursor.fetchall()
            keys = [each.key for each in self.source.expected if each.table == MEDIA.value and each.row_id in rows]
            self.result.expect("a night", self._run(config=_CHANGED), True)
            for value, status in (("now()", 403), ("NULL", 200)):
                cursor.execute(f"UPDATE accounts SET suspended_at = {value} WHERE id = %s", (account,))  # noqa: S608  (one of two words)
                self.result.expect("the night after", self._run(config=_CHANGED), True)
                answers = {anonymous_status(self.destination.server, self.bucket.name, key) for key in keys}
                self.result.expect("answers to everybody", answers, {status})

    def prune_listing(self) -> None:
        """The objects of a row that is deleted are listed, and they alone."""
        row = min(each.row_id for each in self.source.expected if each.table == MEDIA.value)
        with contextlib.closing(psycopg2.connect(self.database.url)) as connection, connection.cursor() as cursor:
            cursor.execute("DELETE FROM media_attachments WHERE id = %s", (row,))
            connection.commit()
        self.result.expect("prune", self._run("prune_every_range"), True)
        listed = sorted(line.key for line in self._findings("prune_*") if line.finding is Finding.EXTRA)
        orphans = [each.key for each in self._expected if each.table == MEDIA.value and each.row_id == row]
        self.result.expect("orphans", listed, sorted(orphans))


@contextlib.contextmanager
def pair(source: Filled, destination: RealServer, facts: Facts, runs: Runs, folder: Path) -> Iterator[Pair]:
    """Make an empty destination and a home, until the block ends."""
    database = create_database(source.database, template=source.database.database)
    home = folder / f"home-{uuid.uuid4().hex[:8]}"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    bucket = create_bucket(destination.server)
    try:
        yield Pair(source, destination, facts, runs, home, database, bucket)
    finally:
        drop_database(database)
        # Servers hold their objects in memory, or on this machine's disk.
        with contextlib.suppress(ClientError, BotoCoreError):
            for page in bucket.client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name):
                for entry in page.get("Contents", ()):
                    bucket.client.delete_object(Bucket=bucket.name, Key=entry["Key"])
