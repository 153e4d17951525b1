"""The configuration that ``mastosync cutover plan --nginx`` writes, in a real nginx before two real servers."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from mastosync_dagster.cutover.media_host import PublicUrl, destination_url, source_url
from mastosync_dagster.cutover.nginx import Stage, nginx_configuration
from mastosync_dagster.environment import SettingsError
from mastosync_dagster.errors import AdminError
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.s3.settings import StorageSettings
from mastosync_dagster.s3.storage import Storage
from mastosync_dagster_tests.support.acls import acl_server, let_everybody_read
from mastosync_dagster_tests.support.corners import Bucket, create_bucket
from mastosync_dagster_tests.support.nginx import Nginx, check_configuration, needs_nginx, nginx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs_nginx

NAMES = [
    "0123456789abcdef.png",
    "a b.png",
    "plus+sign.png",
    "percent%41.png",
    "ümlaut.jpg",
    "日本.webp",
    "semi;colon,comma&amp=1.png",
    "question?.png",
    "hash#.png",
    "quote'\".png",
    ".hidden",
    "..png",
    "brackets[1]{2}.gif",
    "dollar$uri.png",
]
FOLDER = "media_attachments/files/109/123/456/789/012/345"


def storage(bucket: str = "new", **settings: object) -> Storage:
    values = {"name": "destination", "bucket": bucket, "endpoint_url": "https://s3.example", **settings}
    return Storage(StorageSettings(**values))  # type: ignore[arg-type]  # a table of settings


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("old", ["", "media/", "a/b/", "media//"])
@pytest.mark.parametrize("new", ["", "other.files/"])
def test_nginx_takes_it_whatever_the_settings(tmp_path: Path, stage: Stage, old: str, new: str) -> None:
    text = nginx_configuration(
        storage("old", prefix=old, endpoint_url="http://127.0.0.1:9000"),
        storage(prefix=new, endpoint_url=None, region="eu-central-1"),
        stage,
        resolver="::1",
    )
    status, output = check_configuration(tmp_path, text)
    assert status == 0, output
    assert "warn" not in output


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "https://s3.example/new"),
        ({"path_style": False}, "https://new.s3.example"),
        ({"endpoint_url": None, "region": "eu-west-1"}, "https://new.s3.eu-west-1.amazonaws.com"),
        (
            {"endpoint_url": None, "region": "eu-west-1", "bucket": "a.b"},
            "https://s3.eu-west-1.amazonaws.com/a.b",
        ),
        ({"endpoint_url": None, "region": "cn-north-1"}, "https://new.s3.cn-north-1.amazonaws.com.cn"),
        ({"endpoint_url": None, "region": "eusc-de-east-1"}, "https://new.s3.eusc-de-east-1.amazonaws.eu"),
        ({"endpoint_url": "http://[::1]:9000/s3/"}, "http://[::1]:9000/s3/new"),
    ],
)
def test_a_buckets_public_address_follows_from_its_settings(settings: dict[str, object], url: str) -> None:
    assert str(destination_url(storage(**settings))) == url  # type: ignore[arg-type]  # a parameter


def test_or_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTOSYNC_DESTINATION_URL", "https://media.example.net/")
    monkeypatch.setenv("MASTOSYNC_SOURCE_URL", "https://cdn.example/file/old")
    assert destination_url(storage()) == PublicUrl("https", "media.example.net", "")
    assert source_url(storage()).of("a b") == "https://cdn.example/file/old/a%20b"


@pytest.mark.parametrize(
    "text",
    [
        "media.example",
        "ftp://a.example",
        "https://u:p@a.example",
        "https://a.example/?x",
        "https://a b",
        "https://a\nb.example/c",
    ],
)
def test_a_variable_that_is_no_url_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MASTOSYNC_DESTINATION_URL", text)
    with pytest.raises(SettingsError, match="MASTOSYNC_DESTINATION_URL"):
        destination_url(storage())


def test_a_folder_needs_the_address_of_public_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASTOSYNC_SOURCE_FOLDER", str(tmp_path))
    with pytest.raises(SettingsError, match="MASTOSYNC_SOURCE_URL"):
        source_url(S3Bucket.source().storage())
    monkeypatch.setenv("MASTOSYNC_SOURCE_URL", "https://mastodon.example/system")
    assert source_url(S3Bucket.source().storage()).of("a/b.png") == "https://mastodon.example/system/a/b.png"


@pytest.mark.parametrize("prefix", ['a"b/', "a b/", "a$b/", "a{b/", "a\nb/"])
def test_a_key_prefix_that_cannot_stand_there_is_named(prefix: str) -> None:
    with pytest.raises(AdminError, match="S3_KEY_PREFIX"):
        nginx_configuration(storage(prefix=prefix), storage(), Stage.both)


@pytest.mark.parametrize("resolver", ["localhost", "1.2.3", "8.8.8.8;evil"])
def test_a_name_server_is_an_address(resolver: str) -> None:
    with pytest.raises(AdminError, match="--resolver"):
        nginx_configuration(storage(), storage(), Stage.both, resolver=resolver)


# --- real requests ---------------------------------------------------------------------------------------------------


class Site:
    """Two buckets, and an nginx before them."""

    def __init__(self, old: Bucket, new: Bucket, server: Nginx) -> None:
        self.old, self.new, self.server = old, new, server

    def put(self, bucket: Bucket, key: str, body: bytes, acl: str = "public-read") -> None:
        bucket.client.put_object(
            Bucket=bucket.name,
            Key=key,
            Body=body,
            ACL=acl,  # type: ignore[arg-type]  # one of a list
            ContentType="image/png",
            CacheControl="public, max-age=315576000, immutable",
        )

    def stage(self, stage: Stage, old: str = "", new: str = "") -> None:
        self.server.reload(configuration(self.old, self.new, stage, old, new))


def configuration(old: Bucket, new: Bucket, stage: Stage, old_prefix: str = "", new_prefix: str = "") -> str:
    return nginx_configuration(
        storage(old.name, prefix=old_prefix, endpoint_url=old.server.endpoint),
        storage(new.name, prefix=new_prefix, endpoint_url=new.server.endpoint),
        stage,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with acl_server() as one:
        old, new = create_bucket(one), create_bucket(one)
        folder = tmp_path_factory.mktemp("nginx")
        with nginx(folder, configuration(old, new, Stage.both)) as server:
            yield Site(old, new, server)


counter = itertools.count(1)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_comes_from_the_new_bucket_first_and_else_from_the_old_one(site: Site, name: str) -> None:
    site.stage(Stage.both)
    key = f"{FOLDER}/{next(counter)}/{name}"
    path = f"/{quote(key)}"
    assert site.server.ask(path).status in {403, 404}
    site.put(site.old, key, b"old")
    assert site.server.ask(path).body == b"old"
    site.put(site.new, key, b"new")
    answer = site.server.ask(path)
    assert answer.body == b"new"
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"] == "public, max-age=315576000, immutable"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert not answer.headers.keys() & {"x-amz-request-id", "x-amz-id-2", "set-cookie"}
    # As browsers and other servers write it.
    assert site.server.ask(f"{path}?name=small").body == b"new"
    assert site.server.ask(path, "HEAD").headers["content-length"] == "3"
    part = site.server.ask(path, Range="bytes=1-1")
    assert (part.status, part.body) == (206, b"e")
    site.stage(Stage.old)
    assert site.server.ask(path).body == b"old"


def test_each_stage_asks_its_buckets(site: Site) -> None:
    old, new = f"{FOLDER}/{next(counter)}/a.png", f"{FOLDER}/{next(counter)}/b.png"
    site.put(site.old, old, b"old")
    site.put(site.new, new, b"new")
    for stage, readable in ((Stage.old, {old}), (Stage.both, {old, new}), (Stage.new, {new})):
        site.stage(stage)
        assert {key for key in (old, new) if site.server.ask(f"/{key}").status == 200} == readable


def test_what_is_private_is_never_taken_from_the_old_bucket(site: Site) -> None:
    site.stage(Stage.both)
    files = [f"{FOLDER}/original/c.png", f"cache/{FOLDER}/small/c.png", f"{FOLDER}/original/d%20e.png"]
    for key in files:
        site.put(site.old, key.replace("%20", " "), b"secret")
        assert site.server.ask(f"/{key}").status == 200
    (site.server.folder / "mastosync-private.map").write_text("media_attachments/109/123/456/789/012/345/ 1;\n")
    try:
        site.server.reload()
        spellings = [*files, files[0].replace("media", "%6dedia"), files[0].replace("/345/", "/%33%34%35/")]
        for key in spellings:
            assert site.server.ask(f"/{key}").status == 403, key
        other = "media_attachments/files/109/123/456/789/012/346/original/c.png"
        site.put(site.old, other, b"public")
        assert site.server.ask(f"/{other}").status == 200
    finally:
        (site.server.folder / "mastosync-private.map").unlink()
        site.server.reload()


def test_archives_are_never_taken_from_it_even_if_it_shows_them(site: Site) -> None:
    site.stage(Stage.both)
    key = "backups/dumps/000/000/001/original/archive-20220101.zip"
    site.put(site.old, key, b"secret")
    assert site.server.ask(f"/{key}").status == 403


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/?list-type=2", "//", "/media_attachments/", "/a/../b.png", "/a/./b.png", "/a/%2e%2e/b.png"),
        *("/..", "/%2E%2e%2fother/b.png", "/a/..?x", "/../other-bucket/b.png"),
    ],
)
def test_no_folder_no_listing_and_no_other_bucket_is_reached(site: Site, path: str) -> None:
    site.stage(Stage.both)
    let_everybody_read(site.new)
    let_everybody_read(site.old)
    assert site.server.ask(path).status in {400, 404}


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_but_reading_passes(site: Site, method: str) -> None:
    key = f"{FOLDER}/{next(counter)}/a.png"
    site.put(site.new, key, b"new")
    assert site.server.ask(f"/{key}", method).status == 405
    assert site.server.ask(f"/{key}").status == 200


def test_addresses_with_either_key_prefix_lead_to_the_same_object(site: Site) -> None:
    site.stage(Stage.both, old="media/", new="prod/files/")
    name = f"{next(counter)}/a.png"
    site.put(site.old, f"media/{FOLDER}/{name}", b"old")
    for prefix in ("media/", "prod/files/", ""):
        assert site.server.ask(f"/{prefix}{FOLDER}/{name}").body == b"old"
    site.put(site.new, f"prod/files/{FOLDER}/{name}", b"new")
    for prefix in ("media/", "prod/files/", ""):
        assert site.server.ask(f"/{prefix}{FOLDER}/{name}").body == b"new"
