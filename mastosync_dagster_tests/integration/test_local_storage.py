"""An instance with local storage: its folder is copied, verified and reported as a bucket is."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.private_media import execute

if TYPE_CHECKING:
    from pathlib import Path

    from mastosync_dagster_tests.support.installation import Installation


@pytest.fixture
def system(world: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The emojis and cards of the source as the files of ``public/system``."""
    root = tmp_path / "public" / "system"
    root.mkdir(parents=True)

    def save(key: str) -> None:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(world.source.client.get_object(Bucket=world.source.name, Key=key)["Body"].read())

    keys = [key for key in list_keys(world.source.server, world.source.name) if "emojis" in key or "cards" in key]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, keys))
    monkeypatch.setenv("MASTOSYNC_SOURCE_FOLDER", str(root))
    for name in ("S3_BUCKET", "S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    return root


@pytest.mark.long
def test_a_folder_is_copied_verified_and_reported(world: Installation, system: Path) -> None:
    types = (FileType.CUSTOM_EMOJIS, FileType.PREVIEW_CARDS)
    for file_type, keys in world.register(*types).items():
        for key in keys:
            assert world.run(f"sync_{file_type.value}", key).success
            assert world.run(f"verify_{file_type.value}", key).success
    expected = {each.key: each.md5 for each in world.instance.objects_of(*(file_type.value for file_type in types))}
    pages = world.destination.client.get_paginator("list_objects_v2").paginate(Bucket=world.destination.name)
    found = {entry["Key"]: entry["ETag"].strip('"') for page in pages for entry in page.get("Contents", ())}
    assert found == expected
    (some, *_) = sorted(path for path in system.rglob("*.png"))
    some.unlink()
    outcome = CliRunner().invoke(main, ["status", "custom_emojis"])
    assert outcome.exit_code == 0, outcome.output
    assert "59 done" in outcome.output


@pytest.mark.long(cases=0)
def test_an_original_has_the_type_of_its_row_and_other_styles_that_of_their_file(
    world: Installation, system: Path
) -> None:
    original = min(path for path in system.glob("custom_emojis/images/**/original/*.png"))
    key = str(original.relative_to(system))
    original.write_bytes(b"\0\0\0\x20ftypheic" + b"0" * 100)
    execute(
        world, "UPDATE custom_emojis SET image_content_type = 'image/avif' WHERE image_file_name = %s", original.name
    )
    ranges = world.register(FileType.CUSTOM_EMOJIS)[FileType.CUSTOM_EMOJIS]
    for ids in ranges:
        assert world.run("sync_custom_emojis", ids).success
        found = world.run(
            "verify_custom_emojis", ids, {"ops": {"custom_emojis_verification": {"config": {"headers": "all"}}}}
        )
        assert found.success

    def kind(of: str) -> str:
        return str(world.destination.client.head_object(Bucket=world.destination.name, Key=of)["ContentType"])

    static = next((original.parents[1] / "static").iterdir())
    assert (kind(key), kind(str(static.relative_to(system)))) == ("image/avif", "image/png")


@pytest.mark.long
def test_a_file_that_is_still_being_written_is_copied_when_it_is_complete(world: Installation, system: Path) -> None:
    (some, *_) = sorted(system.rglob("*.png"))
    pieces = [bytes([number]) * 1_000_000 for number in range(6)]

    def write() -> None:
        with some.open("wb") as file:
            for piece in pieces:
                file.write(piece)
                file.flush()
                time.sleep(0.5)

    with ThreadPoolExecutor(1) as writer:
        written = writer.submit(write)
        outcome = CliRunner().invoke(main, ["sync", "custom_emojis"])
        written.result()
    assert outcome.exit_code == 0, outcome.output
    key = str(some.relative_to(system))
    found = world.destination.client.get_object(Bucket=world.destination.name, Key=key)["Body"].read()
    assert found == b"".join(pieces)


@pytest.mark.long
def test_a_destination_folder_that_is_full_ends_the_run_with_a_sentence_and_the_next_one_goes_on(
    world: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        monkeypatch.setenv("MASTOSYNC_DESTINATION_FOLDER", str(disk))
        outcome = CliRunner().invoke(main, ["sync", "media_attachments"])
        assert outcome.exit_code == 1
        assert "the destination is full" in " ".join(outcome.output.split())
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        outcome = CliRunner().invoke(main, ["sync", "media_attachments"])
        assert outcome.exit_code == 0, outcome.output
        files = [path for path in disk.rglob("*") if path.is_file() and path.name != ".mastosync-destination"]
        bodies = [path.read_bytes() for path in files]
        expected = {each.md5 for each in world.instance.objects_of(FileType.MEDIA_ATTACHMENTS.value)}
        assert {hashlib.md5(body, usedforsecurity=False).hexdigest() for body in bodies} == expected
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_is_not_there_is_named(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTOSYNC_SOURCE_FOLDER", "/nowhere/system")
    outcome = CliRunner().invoke(main, ["sync", "custom_emojis"])
    assert outcome.exit_code == 1
    assert "MASTOSYNC_SOURCE_FOLDER names /nowhere/system" in " ".join(outcome.output.split())
    assert world.requests().total() == 0


@pytest.mark.long(cases=0)
def test_check_and_run_name_a_folder_of_the_source_whose_disk_is_not_mounted(system: Path) -> None:
    shutil.rmtree(system / "cache")
    (system / "cache").mkdir()
    problem = f"{system}/cache is empty; if that is right, put a file .mastosync-destination into it"
    outcome = CliRunner().invoke(main, ["check"])
    assert outcome.exit_code == 1
    assert problem in outcome.output
    outcome = CliRunner().invoke(main, ["sync", "preview_cards"])
    assert outcome.exit_code == 1
    assert problem in " ".join(outcome.output.split())
    assert "│ preview_cards" not in outcome.output, "nothing counts as missing"

    (system / "cache/.mastosync-destination").touch()
    assert "source folder: no folder in it looks like" in CliRunner().invoke(main, ["check"]).output


@pytest.mark.long
def test_a_destination_folder_whose_disk_is_not_mounted_is_refused(
    world: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, marker = tmp_path / "disk", tmp_path / "disk" / ".mastosync-destination"
    disk.mkdir()
    monkeypatch.setenv("MASTOSYNC_DESTINATION_FOLDER", str(disk))
    key, *_ = world.register(FileType.CUSTOM_EMOJIS)[FileType.CUSTOM_EMOJIS]
    assert world.run("sync_custom_emojis", key).success
    assert marker.is_file()
    copied = sorted(disk.rglob("*.png"))
    assert copied

    disk.rename(tmp_path / "unmounted")
    disk.mkdir()
    for job in ("sync_custom_emojis", "verify_custom_emojis", "prune_custom_emojis"):
        message = failure_of(world.run(job, key))
        assert f"MASTOSYNC_DESTINATION_FOLDER names {disk}, which lacks the file {marker.name}" in message, job
    for arguments in (["sync", "custom_emojis"], ["check"]):
        outcome = CliRunner().invoke(main, arguments)
        assert outcome.exit_code == 1
        assert "is its disk mounted?" in " ".join(outcome.output.split())
    assert list(disk.iterdir()) == []

    disk.rmdir()
    (tmp_path / "unmounted").rename(disk)
    assert world.run("sync_custom_emojis", key).success
    assert sorted(disk.rglob("*.png")) == copied
