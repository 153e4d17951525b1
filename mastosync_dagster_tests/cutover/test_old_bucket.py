"""``mastosync cutover check --old-bucket`` says yes only when nothing is in the old bucket alone."""

from __future__ import annotations

import contextlib
import json
import os
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.cutover.conftest import role_that_may_not_read, table_away

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from mastosync_dagster_tests.cutover.conftest import Copied

    Wrong = Callable[[Copied, Random], AbstractContextManager[None]]


def against(*options: str) -> dict[str, str]:
    """Return the texts of the answers that are against it by their names; none exactly where the status is 0."""
    outcome = CliRunner().invoke(main, ["cutover", "check", "--old-bucket", "--json", *options])
    assert outcome.exit_code in {0, 1}, outcome.output
    found = {
        line["name"]: line["text"]
        for line in json.loads(outcome.output)["answers"]
        if line["answer"] not in {"ok", "note"}
    }
    assert outcome.exit_code == bool(found)
    return found


@pytest.fixture(scope="module")
def switched(copied: Copied) -> Copied:
    """Mastodon writes to the new bucket by now."""
    copied.living.source = copied.world.destination
    key = copied.living.original(copied.living.post_picture())
    for each in [key, key.replace("/original/", "/small/")]:
        bucket = copied.world.destination
        bucket.client.put_object_acl(Bucket=bucket.name, Key=each, ACL="public-read")
    return copied


@contextmanager
def put_at_source(copied: Copied, key: str) -> Iterator[None]:
    bucket = copied.world.source
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"here alone")
    yield
    bucket.client.delete_object(Bucket=bucket.name, Key=key)


@contextmanager
def nothing(copied: Copied, random: Random) -> Iterator[None]:
    assert copied
    assert random
    yield


def a_foreign_folder(copied: Copied, random: Random) -> AbstractContextManager[None]:
    return put_at_source(
        copied, random.choice(["imports/data/000/000/001/original/a.csv", "dump.sql", "cache/imports/b"])
    )


def a_foreign_object_in_mastodons_folders(copied: Copied, random: Random) -> AbstractContextManager[None]:
    return put_at_source(copied, random.choice(["accounts/avatars/readme.txt", "media_attachments/copy/1.png"]))


def an_object_of_no_row(copied: Copied, random: Random) -> AbstractContextManager[None]:
    return put_at_source(copied, f"media_attachments/files/000/000/{random.randrange(900, 999)}/original/a.png")


def a_style_that_is_not_known(copied: Copied, random: Random) -> AbstractContextManager[None]:
    keys = sorted(
        each.key for each in copied.world.instance.objects_of("media_attachments") if "/original/" in each.key
    )
    return put_at_source(copied, random.choice(keys).replace("/original/", "/large/"))


def read_whole(copied: Copied, key: str) -> dict[str, Any]:
    """Return body and headers of an object at the destination, as `put_object` takes them."""
    bucket: Any = copied.world.destination
    own = bucket.client.get_object(Bucket=bucket.name, Key=key)
    kept = {name: own[name] for name in ("ContentType", "CacheControl", "Metadata") if name in own}
    return {"Body": own["Body"].read(), **kept}


@contextmanager
def an_object_that_the_new_bucket_lacks(copied: Copied, random: Random) -> Iterator[None]:
    bucket: Any = copied.world.destination
    there = list_keys(bucket.server, bucket.name)
    here = list_keys(copied.world.source.server, copied.world.source.name)
    key = random.choice(sorted(each.key for each in copied.world.instance.objects if each.key in there & here))
    whole = read_whole(copied, key)
    acl = bucket.client.get_object_acl(Bucket=bucket.name, Key=key)["Grants"]
    bucket.client.delete_object(Bucket=bucket.name, Key=key)
    yield
    public = "public-read" if len(acl) > 1 else "private"
    bucket.client.put_object(Bucket=bucket.name, Key=key, ACL=public, **whole)


@contextmanager
def mastodon_that_writes_to_the_old_bucket(copied: Copied, random: Random) -> Iterator[None]:
    assert random
    copied.living.source = copied.world.source
    row = copied.living.post_picture()
    yield
    copied.living.delete_post(row)
    copied.living.source = copied.world.destination


WRONG: list[tuple[Wrong, str]] = [
    (a_foreign_folder, "other objects"),
    (a_foreign_object_in_mastodons_folders, "other objects"),
    (an_object_of_no_row, "orphans"),
    (a_style_that_is_not_known, "unknown styles"),
    (an_object_that_the_new_bucket_lacks, "objects"),
    (mastodon_that_writes_to_the_old_bucket, "switched"),
    (nothing, ""),
]


@pytest.mark.long(cases=3)
@pytest.mark.parametrize(("wrong", "name"), WRONG)
def test_it_says_yes_when_nothing_is_wrong_and_no_when_one_thing_is(switched: Copied, wrong: Wrong, name: str) -> None:
    with wrong(switched, Random(name)):
        found = against()
    assert found.keys() - {"objects"} == {name} - {"", "objects"}
    assert ("objects" in found) == (name in {"objects", "switched"})


@pytest.mark.long
def test_what_an_admin_has_looked_at_is_not_in_the_way(switched: Copied) -> None:
    with (
        put_at_source(switched, "imports/data/1.csv"),
        put_at_source(switched, "dump.sql"),
        put_at_source(switched, "accounts/avatars/readme.txt"),
        put_at_source(switched, "accounts/avatars/000/000/999/original/a.png"),
    ):
        found = against("--accept", "imports")
        assert found.keys() == {"other objects", "orphans"}
        assert "imports" not in found["other objects"]
        assert "dump.sql" in found["other objects"]
        assert "accounts/avatars/readme.txt" in found["other objects"]
        accepted = ("imports/", "dump.sql", "foreign", "orphans")
        assert against(*(word for name in accepted for word in ("--accept", name))) == {}


@pytest.mark.long(cases=0)
def test_what_lies_beside_the_key_prefix_goes_with_the_bucket_too(
    switched: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Everything once more, behind a prefix.
    bucket: Any = switched.world.source
    keys = list_keys(bucket.server, bucket.name)
    for key in keys:
        bucket.client.copy_object(Bucket=bucket.name, Key=f"a/b/{key}", CopySource={"Bucket": bucket.name, "Key": key})
    monkeypatch.setenv("S3_KEY_PREFIX", "a/b")
    try:
        found = against()
    finally:
        for key in keys:
            bucket.client.delete_object(Bucket=bucket.name, Key=f"a/b/{key}")
    # This server's copies have other headers.
    assert found.keys() - {"objects"} == {"other objects"}
    assert "media_attachments/" in found["other objects"]
    assert "a/b" not in found["other objects"]


@pytest.mark.long
def test_a_bucket_that_holds_the_new_objects_is_not_the_old_one(
    switched: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("S3_BUCKET", "S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, os.environ[f"DESTINATION_{name}"])
    monkeypatch.setenv("S3_KEY_PREFIX", "before")
    found = against("--accept", "orphans", "--accept", "foreign", "--accept", "private")
    assert "the same bucket" in found["bucket"]
    assert switched


@pytest.mark.long
def test_what_was_left_out_as_private_is_lost_with_it_unless_accepted(
    switched: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same destination, as one without ACLs.
    bucket = switched.world.destination
    monkeypatch.setenv("DESTINATION_S3_PERMISSION", "")
    monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "false")
    private = [each.key for each in switched.world.instance.objects_of(*FileType) if each.private]
    whole = {key: read_whole(switched, key) for key in private}
    for key in private:
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    try:
        found = against()
        assert found.keys() == {"left out"}
        assert f"{len(private)} private objects" in found["left out"]
        assert against("--accept", "private") == {}
    finally:
        for key, each in whole.items():
            bucket.client.put_object(Bucket=bucket.name, Key=key, ACL="private", **each)


@pytest.mark.long(cases=0)
def test_what_the_settings_leave_out_is_in_the_old_bucket_alone(
    switched: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert switched
    monkeypatch.setenv("MASTOSYNC_LOCAL_ONLY", "true")
    found = against()
    assert found.keys() == {"subset"}
    assert "--accept remote" in found["subset"]
    assert against("--accept", "remote") == {}


@pytest.mark.parametrize("options", [[], ["--quick"], ["--old-bucket"]])
@pytest.mark.parametrize("table", ["site_uploads", "backups"])
def test_a_table_that_the_role_may_not_read_is_an_error_and_not_absent(
    switched: Copied, table: str, options: list[str]
) -> None:
    with role_that_may_not_read(switched, table):
        outcome = CliRunner().invoke(main, ["cutover", "check", *options])
    assert outcome.exit_code == 1
    assert f"does not let its user read table {table}. GRANT SELECT" in outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.long(cases=0)
@pytest.mark.parametrize("table", ["site_uploads", "backups"])
def test_what_lies_in_the_folder_of_a_table_that_is_absent_is_named(switched: Copied, table: str) -> None:
    with put_at_source(switched, f"{table}/files/000/000/001/original/a.png"), table_away(switched, table):
        found = against()
        assert found.keys() == {"other objects"}
        assert f"{table}/" in found["other objects"]
        assert against("--accept", "foreign") == {}


@pytest.mark.long(cases=0)
def test_a_keyword_accepts_nothing_that_has_its_name(switched: Copied) -> None:
    words = ("orphans", "private", "remote", "foreign")
    keywords = [part for word in words for part in ("--accept", word)]
    with contextlib.ExitStack() as stack:
        for word in words:
            stack.enter_context(put_at_source(switched, f"{word}/only-copy.png"))
        found = against(*keywords)
        assert found.keys() == {"other objects"}
        assert all(f"{word}/" in found["other objects"] for word in words)
        folders = [part for word in words for part in ("--accept", f"{word}/")]
        assert against(*folders) == {}
        # Nor is a folder's name a keyword.
        stack.enter_context(put_at_source(switched, "accounts/avatars/000/000/999/original/a.png"))
        assert against(*folders).keys() == {"orphans"}


@pytest.mark.long(cases=0)
def test_a_file_with_the_name_of_a_keyword_is_named_from_the_top(switched: Copied) -> None:
    with put_at_source(switched, "private"):
        found = against("--accept", "private", "--accept", "private/")
        assert "beside Mastodon's folders lie /private;" in found["other objects"]
        assert against("--accept", "/private") == {}


@pytest.mark.parametrize("options", [["--accept", "orphans"], ["--full"], ["--old-bucket", "--quick"]])
def test_options_that_do_not_fit_are_refused(options: list[str]) -> None:
    outcome = CliRunner().invoke(main, ["cutover", "check", *options])
    assert outcome.exit_code == 2
    assert "--old-bucket" in outcome.output
