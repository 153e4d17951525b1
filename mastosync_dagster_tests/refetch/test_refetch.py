"""What is missing is fetched from where the caller says, and stored; what is refused stays missing, with a reason."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from mastosync_dagster.records.manifest import ManifestLine, ManifestWriter, merge, read_manifest
from mastosync_dagster.records.outcomes import NO_ACLS, ONLY_AT_DESTINATION, Outcome
from mastosync_dagster.records.plan import COPIED, DECIDED, REFETCHED
from mastosync_dagster.refetch import fetch
from mastosync_dagster.refetch.refetch import (
    FETCHED,
    NOT_FETCHED,
    SILENT_BEFORE,
    RefetchCounts,
    RemoteFile,
    refetch,
)
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.acls import anonymous_status
from mastosync_dagster_tests.support.proxy import Answer, Kind, Rule, s3_proxy
from mastosync_dagster_tests.support.transfers import storage
from mastosync_dagster_tests.support.web import HOST, JPEG, PNG, hostile_web

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mastosync_dagster.refetch.fetch import FetchSettings
    from mastosync_dagster.s3.storage import Storage
    from mastosync_dagster_tests.support.corners import Bucket
    from mastosync_dagster_tests.support.web import Web

CACHE_CONTROL = "public, max-age=315576000, immutable"
ACCEPTED = {"image/png": 100_000, "image/jpeg": 100_000}


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with hostile_web(tmp_path) as running:
        yield running


def missing(key: str, **fields: Any) -> ManifestLine:
    nothing = (None, None, None, None)
    plain = ManifestLine("accounts", 7, "avatar/original", key, None, Outcome.MISSING, *nothing, False, True)
    return plain._replace(**fields)


@dataclass
class Refetch:
    """A run's folder, and where its missing objects can be had."""

    folder: Path
    web: Web
    destination: Storage
    where: dict[str, RemoteFile | str | None] = field(default_factory=dict)
    counts: RefetchCounts = field(default_factory=RefetchCounts)
    copy_private: bool = True
    settings: FetchSettings | None = None

    def run(self, decided: Sequence[ManifestLine], copied: Sequence[ManifestLine] = ()) -> list[ManifestLine]:
        """Fetch, merge, and return the manifest."""
        for name, lines in ((DECIDED, decided), (COPIED, copied)):
            with ManifestWriter(self.folder / name) as writer:
                for line in lines:
                    writer.write(line)
        self.counts = refetch(
            self.folder,
            self.destination,
            lambda lines: [self.where.get(line.key) for line in lines],
            self.settings or self.web.settings(),
            memory_mb=16,
            copy_private=self.copy_private,
            on_progress=lambda _: None,
        )
        return self.manifest()

    def manifest(self) -> list[ManifestLine]:
        return [line for lines in read_manifest(merge(self.folder)) for line in lines]

    def at(self, path: str) -> RemoteFile:
        """Return the place of a file of the server, or of an address."""
        url = path if path.startswith("https") else self.web.url(path)
        return RemoteFile(url, ACCEPTED, {"Cache-Control": CACHE_CONTROL})


@pytest.fixture
def work(tmp_path: Path, web: Web, destination_bucket: Bucket) -> Refetch:
    folder = tmp_path / "run"
    folder.mkdir()
    return Refetch(folder, web, storage(destination_bucket, "destination", prefix="media/"))


def keys(bucket: Bucket) -> set[str]:
    return {each["Key"] for each in bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", [])}


def test_a_file_is_stored_with_mastodons_headers_and_its_line_says_where_it_came_from(
    work: Refetch, destination_bucket: Bucket
) -> None:
    png, jpeg = missing("media/cache/a.png"), missing("media/cache/b.jpg")
    work.where = {png.key: work.at("/thrice"), jpeg.key: work.at("/good.jpg")}
    lines = {line.key: line for line in work.run([png], [jpeg])}
    client, bucket = destination_bucket.client, destination_bucket.name
    for line, body, content_type in ((png, PNG, "image/png"), (jpeg, JPEG, "image/jpeg")):
        digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
        assert lines[line.key] == line._replace(
            outcome=Outcome.COPIED, detail=FETCHED, size=len(body), etag=digest, refetched=True
        )
        found = client.get_object(Bucket=bucket, Key=line.key)
        assert found["Body"].read() == body
        assert (found["ContentType"], found["CacheControl"]) == (content_type, CACHE_CONTROL)
    assert (work.counts.refetched, work.counts.refused) == (2, 0)
    assert work.counts.bytes == len(PNG) + len(JPEG)


HOSTILE = {
    "https://127.0.0.1:PORT/good.png": fetch.NOT_PUBLIC,
    "/to?https://127.0.0.1:PORT/good.png": fetch.NOT_PUBLIC,
    "/to?https://169.254.169.254/latest/meta-data/": fetch.NOT_PUBLIC,
    "https://inside.example:PORT/good.png": fetch.NOT_PUBLIC,
    "https://both.example:PORT/good.png": fetch.NOT_PUBLIC,
    "/to?http://files.example:PORT/good.png": fetch.NOT_HTTPS,
    "/endless.png": fetch.TOO_LARGE,
    "/page": fetch.WRONG_TYPE,
    "/disguised.png": fetch.DISGUISED,
    "/loop": fetch.TOO_MANY_REDIRECTS,
    "/drip.png": fetch.TOO_SLOW,
    "/drip-of-headers": fetch.TOO_SLOW,
    "/short.png": fetch.BROKEN,
    "/gone": "its server answers HTTP 404",
    "https://[1:2/": fetch.NO_ADDRESS,
    "https://": fetch.NO_ADDRESS,
}


@pytest.mark.long
def test_of_a_hostile_server_nothing_is_stored_and_every_line_says_why(
    work: Refetch, web: Web, destination_bucket: Bucket
) -> None:
    lines = [missing(f"media/{number}.png", row_id=number) for number in range(len(HOSTILE))]
    for line, url in zip(lines, HOSTILE, strict=True):
        # Each from a server of another name, since one that does not serve is not asked for ever.
        at = url if url.startswith("https") else web.url(url, f"server-{line.row_id}.{HOST}")
        work.where[line.key] = work.at(at.replace("PORT", str(web.port)))
    work.settings = web.settings(idle_timeout=2.0, total_timeout=4.0)
    recorded = [line.detail for line in sorted(work.run(lines), key=lambda line: line.row_id)]
    assert recorded == [NOT_FETCHED + why for why in HOSTILE.values()]
    assert {line.outcome for line in work.manifest()} == {Outcome.MISSING}
    assert not any(line.refetched for line in work.manifest())
    assert keys(destination_bucket) == set()
    assert (work.counts.refetched, work.counts.refused) == (0, len(HOSTILE))


def test_lines_that_are_not_to_be_had_elsewhere_stay_as_they_are_or_say_why(work: Refetch) -> None:
    local, preview = missing("media/local.png", remote=False), missing("media/small.png", part="file/small")
    done = missing("media/done.png", outcome=Outcome.COPIED, size=3)
    work.where = {preview.key: "Mastodon makes it from the original"}
    lines = work.run([local, done, preview])
    assert lines == [done, local, preview._replace(detail=f"{NOT_FETCHED}Mastodon makes it from the original")]
    assert work.counts.refused == 0


def test_what_has_come_to_the_destination_meanwhile_stays(work: Refetch, destination_bucket: Bucket) -> None:
    line = missing("media/a.png")
    destination_bucket.client.put_object(Bucket=destination_bucket.name, Key=line.key, Body=b"Mastodon's own")
    work.where = {line.key: work.at("/good.png")}
    assert work.run([line]) == [line._replace(outcome=Outcome.PRESENT, detail=ONLY_AT_DESTINATION, size=14)]
    assert work.web.asked["/good.png"] == 0


@pytest.mark.long
def test_what_the_destination_does_not_show_is_written_but_never_over_anything(
    tmp_path: Path, web: Web, moto_bucket: Bucket
) -> None:
    (tmp_path / "run").mkdir()
    moto_bucket.client.put_object(Bucket=moto_bucket.name, Key="there.png", Body=b"Mastodon's own")
    with s3_proxy(moto_bucket.server.endpoint) as proxy:
        # Without the rights to list and to read S3 says so of every object.
        proxy.set_rules(Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.HEAD})))
        work = Refetch(tmp_path / "run", web, storage(moto_bucket, "destination", endpoint=proxy.endpoint))
        lines = [missing("there.png"), missing("absent.png")]
        work.where = {line.key: work.at("/good.png") for line in lines}
        there, absent = work.run(lines)
    assert (there.outcome, there.detail) == (Outcome.PRESENT, ONLY_AT_DESTINATION)
    assert moto_bucket.client.get_object(Bucket=moto_bucket.name, Key="there.png")["Body"].read() == b"Mastodon's own"
    assert (absent.outcome, absent.refetched) == (Outcome.COPIED, True)


def test_a_server_that_does_not_serve_is_asked_three_times_and_no_more(work: Refetch, web: Web) -> None:
    lines = [missing(f"media/{number}.png") for number in range(200)]
    work.where = {line.key: work.at("/busy") for line in lines}
    recorded = [line.detail for line in work.run(lines)]
    assert web.asked["/busy"] < 20
    assert recorded[-1] == NOT_FETCHED + SILENT_BEFORE
    assert f"{NOT_FETCHED}its server answers HTTP 503" in recorded


def test_private_objects_are_stored_private_or_where_there_are_no_acls_not_at_all(
    tmp_path: Path, web: Web, moto_bucket: Bucket
) -> None:
    # The last one's key has an empty segment.
    lines = [missing("public.png"), missing("private.png", private=True), missing("odd//private.png", private=True)]
    where: dict[str, RemoteFile | str | None] = {}
    for permission, copy_private in (("public-read", True), (None, False)):
        folder = tmp_path / str(permission)
        folder.mkdir()
        destination = storage(moto_bucket, "destination", permission=permission, storage_class="STANDARD_IA")
        work = Refetch(folder, web, destination, where, copy_private=copy_private)
        where.update({line.key: work.at("/good.png") for line in lines})
        recorded = {line.key: line.detail for line in work.run(lines)}
        assert recorded["public.png"] == FETCHED
        for private in lines[1:]:
            assert recorded[private.key] == (FETCHED if copy_private else NOT_FETCHED + NO_ACLS)
        head = moto_bucket.client.head_object(Bucket=moto_bucket.name, Key="public.png")
        assert head["StorageClass"] == "STANDARD_IA"
        if permission:
            for line in lines:
                status = 403 if line.private else 200
                assert anonymous_status(moto_bucket.server, moto_bucket.name, line.key) == status
                moto_bucket.client.delete_object(Bucket=moto_bucket.name, Key=line.key)
    assert keys(moto_bucket) == {"public.png"}


def test_a_destination_that_takes_nothing_ends_it_and_every_line_is_written_once(
    tmp_path: Path, web: Web, destination_bucket: Bucket
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    wrong = storage(destination_bucket, "destination", secret_access_key="wrong-secret-0123456789")
    work = Refetch(folder, web, wrong)
    lines = [missing(f"{number}.png", row_id=number) for number in range(200)]
    work.where = {line.key: work.at("/good.png") for line in lines}
    recorded = work.run(lines)
    assert work.counts.stopped is not None
    assert work.counts.stopped.reason in {Reason.BAD_CREDENTIALS, Reason.ACCESS_DENIED}
    assert "wrong-secret" not in "".join(line.detail or "" for line in recorded)
    assert sorted(line.row_id for line in recorded) == list(range(200))
    assert {line.outcome for line in recorded} == {Outcome.MISSING}
    assert recorded[-1].detail is None


def test_an_interrupt_leaves_every_line_written_once(work: Refetch) -> None:
    lines = [missing(f"media/{number}.png", row_id=number) for number in range(10)]
    with ManifestWriter(work.folder / DECIDED) as writer:
        for line in lines:
            writer.write(line)

    def interrupted(_: Sequence[ManifestLine]) -> Sequence[str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refetch(
            work.folder,
            work.destination,
            interrupted,
            work.web.settings(),
            memory_mb=16,
            copy_private=True,
            on_progress=lambda _: None,
        )
    assert (work.folder / REFETCHED).exists()
    assert work.manifest() == lines


def test_what_an_interrupt_finds_stored_is_on_record(work: Refetch, destination_bucket: Bucket) -> None:
    lines = [missing(f"media/{number}.png", row_id=number) for number in range(10)]
    work.where = {line.key: work.at("/good.png") for line in lines}
    with ManifestWriter(work.folder / DECIDED) as writer:
        for line in lines:
            writer.write(line)
    # One of the step is under way for as long as the server drips, and the others are stored.
    work.where[lines[0].key] = work.at("/drip.png")

    def interrupt(_: RefetchCounts) -> None:
        if len(keys(destination_bucket)) == len(lines) - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refetch(
            work.folder,
            work.destination,
            lambda asked: [work.where.get(line.key) for line in asked],
            work.web.settings(total_timeout=20.0),
            memory_mb=16,
            copy_private=True,
            on_progress=interrupt,
        )
    recorded = {line.row_id: (line.outcome, line.refetched) for line in work.manifest()}
    assert recorded == {0: (Outcome.MISSING, False), **dict.fromkeys(range(1, 10), (Outcome.COPIED, True))}
