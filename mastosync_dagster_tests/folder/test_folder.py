"""A folder answers as a bucket does: keys, order, bodies, who may read; and a copy goes there and back."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.copy.engine import copy_plan
from mastosync_dagster.copy.limits import CopySettings
from mastosync_dagster.folder.content import CACHE_CONTROL, type_of_bytes, type_of_name, type_of_row_and_file
from mastosync_dagster.folder.storage import FolderStorage, folder_settings
from mastosync_dagster.mastodon import id_partition
from mastosync_dagster.records.manifest import read_manifest
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.plan import COPIED, PlanWriter
from mastosync_dagster.s3.acl import everybody_reads, has_acl, set_acl
from mastosync_dagster.s3.errors import StorageError
from mastosync_dagster.s3.listing import KeyRange
from mastosync_dagster.s3.loop import Loop
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.mastodon.cases import paperclip_cases
from mastosync_dagster_tests.support.transfers import line, storage
from mastosync_dagster_tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster.s3.storage import Storage
    from mastosync_dagster_tests.support.corners import Bucket

MIB = 2**20
PNG = b"\x89PNG\r\n\x1a\n"


def folder(path: Path, *, writable: bool = False) -> FolderStorage:
    path.mkdir(parents=True, exist_ok=True)
    name = "destination" if writable else "source"
    return FolderStorage(folder_settings(name, "DESTINATION_" if writable else "", path), path, writable=writable)


def put(root: Path, key: str, body: bytes, mode: int = 0o644) -> None:
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    path.chmod(mode)


def listed(at: Storage, start: str, end: str, prefix: str) -> list[str]:
    return [entry.key for entry in at.list_range(KeyRange(prefix, start, end))]


def copy(
    tmp_path: Path,
    source: Storage,
    destination: Storage,
    keys: Iterable[str],
    types: Mapping[str, str] | None = None,
    **limits: float,
) -> list[ManifestLine]:
    tmp_path.mkdir(exist_ok=True)
    with PlanWriter(tmp_path) as writer:
        for key in keys:
            found = source.head(key)
            assert found is not None, key
            kind = (types or {}).get(key)
            private = "private" in key
            writer.write(line(key, size=found.size, etag=found.etag, private=private, content_type=kind))
    settings = CopySettings(concurrency=8, backoff_seconds=0.02, **limits)  # type: ignore[arg-type]  # (of bytes)
    copy_plan(tmp_path, source, destination, settings, on_progress=lambda _: None, stop=threading.Event())
    return [one for lines in read_manifest(tmp_path / COPIED) for one in lines]


def test_keys_come_in_byte_order_page_by_page_whatever_the_tree(tmp_path: Path) -> None:
    keys = [f"media/{id_partition(number)}/original/{number}.png" for number in (*range(2300), 10**15, 10**17 + 5)]
    keys += ["media/000/a-b/x", "media/000/a/x", "media/000/a.b", "media/000/ü", "other/y"]
    for key in keys:
        put(tmp_path, key, b"1")
    put(tmp_path, "media/000/.mastosync-1234", b"unfinished")
    expected = sorted(keys, key=str.encode)
    at = folder(tmp_path)
    within = [key for key in expected if key.startswith("media/")]
    assert listed(at, "media/", "media0", "media/") == within
    start, end = "media/000/000/5", "media/000/001/"
    assert listed(at, start, end, "media/") == [key for key in within if start <= key < end]
    page = at.ask(lambda client: client.list_page("", keys=1000, delimiter="/"))
    assert page.folders == ["media/", "other/"]


def test_a_file_has_the_headers_that_mastodon_gives_an_object(tmp_path: Path) -> None:
    put(tmp_path, "a/small/x.png", b"GIF89a" + b"0" * 100)
    headers = folder(tmp_path).read_attributes("a/small/x.png").to_keep().by_header()
    assert {name.lower(): value for name, value in headers.items()} == {
        "content-type": "image/gif",
        "cache-control": CACHE_CONTROL,
    }


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "x.png", "image/jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "x", "image/webp"),
        (b"\0\0\0\x20ftypavif", "x.avif", "image/avif"),
        (b"\0\0\0\x20ftypisom", "x.mp4", "video/mp4"),
        (b"OggS" + b"\0" * 24 + b"OpusHead", "x.ogg", "audio/ogg"),
        (b"<svg", "x.svg", "image/svg+xml"),
        (b"", "x.png", "image/png"),
        (b"?", "x", "application/octet-stream"),
    ],
)
def test_types_are_those_of_the_bytes_and_else_of_the_name(head: bytes, name: str, kind: str) -> None:
    assert (type_of_bytes(head) or type_of_name(name)) == kind


@pytest.mark.parametrize(
    ("row", "first_bytes", "kind"),
    [
        ("audio/mp4", "video/mp4", "audio/mp4"),  # first bytes show the container alone
        ("audio/ogg", "video/ogg", "audio/ogg"),
        ("audio/webm", "video/webm", "audio/webm"),
        ("image/avif", "image/heif", "image/avif"),
        ("image/x-icon", "image/vnd.microsoft.icon", "image/x-icon"),
        ("application/x-gzip", "application/gzip", "application/x-gzip"),
        ("audio/aac", None, "audio/aac"),
        ("image/gif", "image/jpeg", "image/jpeg"),  # the picture of a preview card
        ("image/png", "video/mp4", "video/mp4"),
        ("video/mp4", "image/png", "image/png"),
        ("", "image/png", "image/png"),
        (None, None, None),
        ("no type", None, None),
        ("text/html\r\nX-Evil: 1", None, None),
    ],
)
def test_the_row_says_what_the_bytes_leave_open(row: str | None, first_bytes: str | None, kind: str | None) -> None:
    assert type_of_row_and_file(row, first_bytes) == kind


def test_an_object_gets_the_type_of_its_row_and_file(tmp_path: Path, destination_bucket: Bucket) -> None:
    song = b"\0\0\0\x20ftypisom"
    bodies = {
        "a/song.m4a": song,
        "a/large.m4a": song + os.urandom(17 * MIB),
        "a/card.gif": b"\xff\xd8\xff\xe0",
        "a/unknown": b"?",
    }
    rows = dict(zip(bodies, ("audio/mp4", "audio/mp4", "image/gif", "audio/aac"), strict=True))
    for key, body in bodies.items():
        put(tmp_path / "system", key, body)
    source, bucket = folder(tmp_path / "system"), storage(destination_bucket, "destination")
    lines = copy(tmp_path / "there", source, bucket, bodies, types=rows)
    assert {one.outcome for one in lines} == {Outcome.COPIED}, [one.detail for one in lines if one.detail][:3]
    found = {key: bucket.read_attributes(key).headers["Content-Type"] for key in bodies}
    assert found == {**rows, "a/card.gif": "image/jpeg"}
    assert found == {key: source.read_attributes(key, content_type=rows[key]).headers["Content-Type"] for key in bodies}
    # An object in a bucket has the type that Mastodon gave it, whatever the row says.
    assert bucket.read_attributes("a/unknown", content_type="image/png").headers["Content-Type"] == "audio/aac"


def test_the_source_is_only_read_and_nothing_outside_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("no")
    at = folder(tmp_path / "system")
    put(tmp_path / "system", "a/b", b"body")
    for key in ("../secret", "a/../../secret", "/etc/passwd", "a//b", "a/b/c", "a", "a/\0", "x" * 300):
        assert at.head(key) is None, key
    for request in (
        lambda: at.ask(lambda client: client.put("a/c", b"1", {}, None)),
        lambda: at.ask(lambda client: client.delete("a/b")),
        lambda: at.ask(lambda client: client.put_acl("a/b", "private")),
    ):
        with pytest.raises(StorageError) as raised:
            request()
        assert raised.value.reason is Reason.ACCESS_DENIED
    assert (tmp_path / "system" / "a" / "b").read_bytes() == b"body"


def test_private_files_are_those_that_only_their_owner_reads(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    at = folder(tmp_path, writable=True)
    before = os.umask(0o077)
    request.addfinalizer(lambda: os.umask(before))
    for key, private in (("a/public", False), ("a/private", True)):
        headers = at.own_headers(private=private)
        at.ask(lambda client, key=key, headers=headers: client.put(key, b"body", headers, None))  # type: ignore[misc]  # defaults
        assert has_acl(at, key, private=private)
        assert everybody_reads(at, key) is not private
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755
    assert set_acl(at, "a/public", private=True)
    assert (tmp_path / "a" / "public").stat().st_mode & 0o777 == 0o600


def test_a_damaged_body_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    at = folder(tmp_path, writable=True)
    with pytest.raises(StorageError):
        at.ask(lambda client: client.put("a/b", b"body", {}, hashlib.md5(b"other", usedforsecurity=False).digest()))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.long
def test_from_a_folder_to_a_bucket_and_back_every_byte_is_the_same(tmp_path: Path, destination_bucket: Bucket) -> None:
    bodies = {
        stored["key"]: PNG + stored["key"].encode()
        for case in paperclip_cases()
        for stored in [{"key": key} for key in case.keys]
        if "//" not in stored["key"] and len(stored["key"].rpartition("/")[2].encode()) <= 255
    }
    bodies |= {"big/private": os.urandom(17 * MIB + 5), "big/empty": b"", "big/public": os.urandom(23 * MIB)}
    here, back = tmp_path / "system", tmp_path / "back"
    for key, body in bodies.items():
        put(here, key, body)
    bucket = storage(destination_bucket, "destination")
    lines = copy(tmp_path / "there", folder(here), bucket, bodies)
    assert {one.outcome for one in lines} == {Outcome.COPIED}, [one.detail for one in lines if one.detail][:3]
    lines = copy(tmp_path / "home", storage(destination_bucket, "source"), folder(back, writable=True), bodies)
    assert {one.outcome for one in lines} == {Outcome.COPIED}, [one.detail for one in lines if one.detail][:3]
    found = {str(path.relative_to(back)): path for path in back.rglob("*") if path.is_file()}
    assert {key: path.read_bytes() for key, path in found.items()} == bodies
    assert {key for key, path in found.items() if path.stat().st_mode & 0o777 == 0o600} == {"big/private"}


@pytest.mark.long
def test_a_copy_from_folder_to_folder_may_take_long(tmp_path: Path) -> None:
    bodies = {f"a/{number}": os.urandom(MIB) for number in range(4)}
    for key, body in bodies.items():
        put(tmp_path / "system", key, body)
    source, destination = folder(tmp_path / "system"), folder(tmp_path / "back", writable=True)
    begun = time.monotonic()
    lines = copy(tmp_path / "run", source, destination, bodies, source_bytes_per_second=1.5 * MIB)
    assert time.monotonic() - begun > 1.5, "too short for the watch of silence"
    assert {one.outcome for one in lines} == {Outcome.COPIED}


def refused(request: Callable[[], object]) -> StorageError:
    with pytest.raises(StorageError) as raised:
        request()
    return raised.value


def answers(at: Storage, key: str) -> Mapping[str, Callable[[], object]]:
    """The requests whose answers say whether an object is there."""
    return {
        "head": lambda: at.run(lambda client: client.head(key), key),
        "get": lambda: at.run(lambda client: client.get(key, limit=MIB), key),
        "acl": lambda: at.run(lambda client: client.get_acl(key), key),
        "list": lambda: at.run(lambda client: client.list_page(f"{key.rpartition('/')[0]}/", keys=10)),
        "list all": lambda: at.run(lambda client: client.list_page("", keys=10)),
        "list top": lambda: at.run(lambda client: client.list_page("", keys=10, delimiter="/")),
        "list after": lambda: at.run(lambda client: client.list_page("", after=key[:-1], keys=10)),
    }


@pytest.mark.parametrize("link", ["cache", "cache/cards", "cache/cards/x"])
@pytest.mark.parametrize("writable", [False, True])
def test_what_lies_behind_a_link_to_nowhere_is_not_missing(tmp_path: Path, link: str, *, writable: bool) -> None:
    root = tmp_path / "system"
    put(root, "accounts/a", b"1")
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(tmp_path / "disk" / "cards")
    at = folder(root, writable=writable)
    for name, request in answers(at, "cache/cards/x").items():
        if name == "list top" and link != "cache":
            continue
        error = refused(request)
        assert error.reason is Reason.CONNECTION, name
        assert error.retryable, name
        assert str(root / link) in str(error), name
    assert refused(lambda: at.head("cache/cards/x")).reason is Reason.CONNECTION
    # What does not lie behind it is there, or not.
    assert at.head("accounts/a") is not None
    assert at.head("accounts/b") is None
    assert listed(at, "accounts/", "accounts0", "accounts/") == ["accounts/a"]


def test_a_link_to_a_folder_or_file_elsewhere_is_followed(tmp_path: Path) -> None:
    put(tmp_path / "disk", "cards/x", b"1")
    put(tmp_path / "disk", "y", b"2")
    root = tmp_path / "system"
    root.mkdir()
    (root / "cache").symlink_to(tmp_path / "disk")
    (root / "y").symlink_to(tmp_path / "disk" / "y")
    at = folder(root, writable=True)
    assert listed(at, "", "\uffff", "") == ["cache/cards/x", "cache/y", "y"]
    at.run(lambda client: client.put("cache/new/z", b"3", {}, None))
    assert (tmp_path / "disk" / "new" / "z").read_bytes() == b"3"


@pytest.mark.parametrize("link", ["", "cache", "cache/cards"])
@pytest.mark.parametrize("writable", [False, True])
def test_what_lies_behind_a_link_to_an_empty_mount_point_is_not_missing(
    tmp_path: Path, link: str, *, writable: bool
) -> None:
    root, disk = tmp_path / "system", tmp_path / "disk"
    disk.mkdir()
    at_link = root / link if link else root
    if link:
        put(root, "accounts/a", b"1")
        at_link.parent.mkdir(exist_ok=True)
    at_link.symlink_to(disk)
    at = folder(root, writable=writable)
    if writable:
        # The first run marks what is empty as well, for it may be a new disk.
        at.mark("mounted")
        assert at.head("cache/cards/x") is None
        assert listed(at, "cache/", "cache0", "cache/") == []
        at.run(lambda client: client.put("cache/cards/x", b"1", {}, None))
        assert listed(at, "cache/", "cache0", "cache/") == ["cache/cards/x"]
        disk.rename(tmp_path / "unmounted")
        disk.mkdir()
    for name, request in answers(at, "cache/cards/x").items():
        if name == "list top" and link == "cache/cards":
            continue
        error = refused(request)
        assert error.reason is Reason.CONNECTION, name
        assert str(at_link) in str(error), name
    if writable:
        for write in (
            lambda: at.run(lambda client: client.put("cache/cards/y", b"1", {}, None)),
            lambda: at.run(lambda client: client.delete("cache/cards/x")),
        ):
            assert refused(write).reason is Reason.CONNECTION
    assert list(disk.iterdir()) == []
    if link:
        # What does not lie behind it is there, or not; and an admin may say that nothing is to be there.
        assert listed(at, "accounts/", "accounts0", "accounts/") == ["accounts/a"]
        (disk / ".mastosync-destination").touch()
        assert at.head("cache/cards/x") is None


@pytest.mark.parametrize("empty", ["cache", "cache/cards"])
def test_what_lies_in_a_folder_of_the_source_that_is_an_empty_mount_point_is_not_missing(
    tmp_path: Path, empty: str
) -> None:
    """Mastodon leaves no such folder empty. One of an id may be, as long as Mastodon writes into it."""
    put(tmp_path, "accounts/avatars/000/x", b"1")
    (tmp_path / "accounts/avatars/001").mkdir()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / empty).mkdir(parents=True)
    at = folder(tmp_path)
    for name, request in answers(at, "cache/cards/x").items():
        if name == "list top" and empty == "cache/cards":
            continue
        error = refused(request)
        assert error.reason is Reason.CONNECTION, name
        assert error.retryable, name
        assert f"{tmp_path / empty} is empty; if that is right, put a file .mastosync-destination into it" in str(error)
        assert str(error).endswith("is its disk mounted?"), name
    assert listed(at, "accounts/", "accounts0", "accounts/") == ["accounts/avatars/000/x"]
    assert at.head("accounts/avatars/001/x") is None
    # An admin may say that nothing is to be there.
    (tmp_path / empty / ".mastosync-destination").touch()
    assert at.head("cache/cards/x") is None
    assert listed(at, "", "\uffff", "") == ["accounts/avatars/000/x"]


def test_a_folder_of_the_destination_may_be_empty_while_files_are_written_there(tmp_path: Path) -> None:
    at = folder(tmp_path, writable=True)
    at.mark("mounted")
    (tmp_path / "cache/cards").mkdir(parents=True)
    assert at.head("cache/cards/x") is None
    at.run(lambda client: client.put("cache/cards/x", b"1", {}, None))
    assert listed(at, "cache/", "cache0", "cache/") == ["cache/cards/x"]


def test_nothing_can_be_written_behind_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to("/nowhere/cache")
    at = folder(tmp_path, writable=True)
    for request in (
        lambda: at.run(lambda client: client.put("cache/cards/x", b"1", {}, None)),
        lambda: at.run(lambda client: client.create_upload("cache/cards/x", {})),
        lambda: at.run(lambda client: client.delete("cache/cards/x")),
    ):
        error = refused(request)
        assert error.reason is Reason.CONNECTION
        assert f"{tmp_path}/cache is a link to /nowhere/cache" in str(error)
    assert (tmp_path / "cache").is_symlink()


def test_a_folder_that_goes_away_has_lost_nothing(tmp_path: Path) -> None:
    put(tmp_path / "system", "a/b", b"1")
    at = folder(tmp_path / "system", writable=True)
    assert at.head("a/b") is not None
    (tmp_path / "system").rename(tmp_path / "elsewhere")
    for name, request in answers(at, "a/b").items():
        error = refused(request)
        assert error.reason is Reason.CONNECTION, name
        assert str(tmp_path / "system") in str(error), name
    assert refused(lambda: at.run(lambda client: client.put("a/c", b"1", {}, None))).reason is Reason.CONNECTION
    assert not (tmp_path / "system").exists()


def test_a_disk_that_goes_away_during_a_run_has_lost_nothing(tmp_path: Path) -> None:
    root = tmp_path / "system"
    put(root, "a/b", b"1")
    at = folder(root, writable=True)
    at.marker.touch()
    assert at.head("a/b") is not None
    root.rename(tmp_path / "unmounted")
    root.mkdir()
    for name, request in answers(at, "a/b").items():
        assert refused(request).reason is Reason.CONNECTION, name
    for request in (
        lambda: at.run(lambda client: client.put("a/c", b"1", {}, None)),
        lambda: at.run(lambda client: client.create_upload("a/c", {})),
        lambda: at.run(lambda client: client.delete("a/b")),
    ):
        assert refused(request).reason is Reason.CONNECTION
    assert list(root.iterdir()) == []


def test_what_a_killed_run_left_behind_is_removed_by_a_listing_of_the_next_day(tmp_path: Path) -> None:
    left = [f"a/{name}/.mastosync-{number:016x}" for number, name in enumerate(("old", "new", "named", "link"))]
    left[2] = "a/named/.mastosync-notes"
    for key in (*left[:3], "a/kept", ".mastosync-destination"):
        put(tmp_path, key, b"unfinished")
    (tmp_path / left[3]).parent.mkdir()
    (tmp_path / left[3]).symlink_to(tmp_path / "a" / "kept")
    for key in (left[0], left[2], "a/kept", ".mastosync-destination"):
        os.utime(tmp_path / key, (time.time() - 90_000,) * 2)
    assert listed(folder(tmp_path), "", "z", "") == ["a/kept"]
    assert (tmp_path / left[0]).exists(), "the source is only read"
    assert listed(folder(tmp_path, writable=True), "", "z", "") == ["a/kept"]
    assert not (tmp_path / "a" / "old").exists()
    assert all(os.path.lexists(tmp_path / key) for key in (*left[1:], "a/kept", ".mastosync-destination"))


def test_a_file_that_is_opened_for_nobody_any_more_is_closed(tmp_path: Path) -> None:
    # A pipe without a writer: it is opened as slowly as a file on a disk that does not answer.
    os.mkfifo(tmp_path / "slow.png")
    loop = Loop("folder")
    client = folder(tmp_path).client_on(loop)
    task, ended = loop.submit(client.get("slow.png", limit=MIB))
    loop.call(lambda: loop.cancel(task))
    with pytest.raises(CancelledError):
        ended.result(10)
    with (tmp_path / "slow.png").open("wb", buffering=0) as writer:

        def nobody_reads() -> bool:
            try:
                writer.write(b"x")
            except BrokenPipeError:
                return True
            return False

        wait_until(nobody_reads)
    loop.close()
