"""The rows of an ordinary instance, with the objects that each of them has, and some whose object is lost or private.

No key here is derived by ``mastosync_dagster.mastodon``, so that a copy can be compared with what stands here. The
tests add the unusual cases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mastosync_dagster.demo.instance.case import (
    AUDIO,
    DOMAIN,
    GIFV,
    IMAGE,
    REMOTE,
    VIDEO,
    Case,
    File,
    Ids,
    Owner,
    account,
    avatar,
    cached,
    card,
    case,
    emoji,
    file_columns,
    header,
    image,
    media,
    pair,
    uncached,
    upload,
)
from mastosync_dagster.demo.instance.media_files import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping


def _picture(
    name: str, columns: Mapping[str, object], root: str, kind: Kind, *, weight: int, ids: Ids = Ids.NEW
) -> Case:
    files = pair(root, str(columns["file_file_name"]), kind)
    return media(name, columns, *files, weight=weight, ids=ids)


def _emoji(
    name: str, root: str, file_name: str, kind: Kind, version: int | None, *, weight: int, **columns: object
) -> Case:
    original, static = File(f"{root}/original/{file_name}", kind), File(f"{root}/static/{{hex}}.png", Kind.PNG)
    return emoji(name, image(file_name, kind.content_type, version, **columns), original, static, weight=weight)


COMMON_MEDIA = (
    _picture("local JPEG", file_columns("{hex}.jpeg", "image/jpeg"), "{files}", Kind.JPEG, weight=12),
    _picture("local PNG", file_columns("{hex}.png", "image/png"), "{files}", Kind.PNG, weight=6),
    _picture("local WebP", file_columns("{hex}.webp", "image/webp"), "{files}", Kind.WEBP, weight=2),
    _picture(
        "local JPEG of old, serial id",
        file_columns("{hex}.jpg", "image/jpeg", file_storage_schema_version=None, processing=None),
        "{files}",
        Kind.JPEG,
        weight=10,
        ids=Ids.OLD,
    ),
    _picture("remote JPEG in the cache", cached("{hex}.jpg", "image/jpeg"), "cache/{files}", Kind.JPEG, weight=30),
    _picture("remote PNG in the cache", cached("{hex}.png", "image/png"), "cache/{files}", Kind.PNG, weight=8),
    _picture("remote WebP in the cache", cached("{hex}.webp", "image/webp"), "cache/{files}", Kind.WEBP, weight=8),
    _picture(
        "remote JPEG of old, schema version NULL",
        uncached("{hex}.jpg", "image/jpeg"),
        "{files}",
        Kind.JPEG,
        weight=6,
        ids=Ids.OLD,
    ),
    _picture("remote JPEG, schema version NULL", uncached("{hex}.jpg", "image/jpeg"), "{files}", Kind.JPEG, weight=4),
    _picture(
        "remote JPEG, schema version 0",
        cached("{hex}.jpg", "image/jpeg", file_storage_schema_version=0),
        "{files}",
        Kind.JPEG,
        weight=2,
    ),
    media(
        "remote film in the cache, with its poster",
        cached("{hex}.mp4", "video/mp4", type=VIDEO),
        *pair("cache/{files}", "{hex}.mp4", Kind.MP4, "{hex}.png", Kind.PNG),
        weight=6,
    ),
    media(
        "remote animation in the cache, a GIF that became a film",
        cached("{hex}.mp4", "video/mp4", type=GIFV),
        *pair("cache/{files}", "{hex}.mp4", Kind.MP4, "{hex}.png", Kind.PNG),
        weight=3,
    ),
    media(
        "remote sound with its cover in the cache",
        cached(
            "{hex}.mp3",
            "audio/mpeg",
            type=AUDIO,
            thumbnail_file_name="{hex2}.png",
            thumbnail_content_type="image/png",
            thumbnail_storage_schema_version=1,
        ),
        File("cache/{files}/original/{hex}.mp3", Kind.MP3),
        File("cache/{thumbnails}/original/{hex2}.png", Kind.PNG),
        weight=2,
    ),
    media(
        "remote and cleaned up: no file name, all else kept",
        cached("", "", type=IMAGE) | {"file_file_name": None, "file_content_type": None, "file_meta": '{"small":{}}'},
        weight=15,
    ),
    media(
        "remote and cleaned up, of old",
        uncached("", "") | {"file_file_name": None, "file_content_type": None, "file_meta": '{"small":{}}'},
        weight=5,
        ids=Ids.OLD,
    ),
)

BIG_VIDEO = media(
    "local MP4 above 16 MiB, uploaded in parts",
    file_columns("{hex}.mp4", "video/mp4", type=VIDEO),
    *pair("{files}", "{hex}.mp4", Kind.BIG_MP4, "{hex}.png", Kind.PNG),
)

OF_A_SUSPENDED_ACCOUNT = media(
    "of a suspended account",
    file_columns("{hex}.jpg", "image/jpeg"),
    *pair("{files}", "{hex}.jpg", Kind.JPEG),
    owner=Owner.SUSPENDED,
)

LOST_MEDIA = media(
    "local, lost",
    file_columns("{hex}.jpg", "image/jpeg"),
    File("{files}/original/{hex}.jpg", Kind.JPEG, lost=True),
    File("{files}/small/{hex}.jpg", Kind.JPEG, lost=True),
)

COMMON_ACCOUNTS = (
    account(
        "remote, avatar and header in the cache",
        avatar("{hex}.jpg", "image/jpeg", 1, domain=DOMAIN) | header("{hex2}.png", "image/png", 1),
        File("cache/{avatars}/original/{hex}.jpg", Kind.JPEG),
        File("cache/{headers}/original/{hex2}.png", Kind.PNG),
        weight=30,
    ),
    account(
        "remote, avatar only",
        avatar("{hex}.png", "image/png", 1, domain=DOMAIN),
        File("cache/{avatars}/original/{hex}.png", Kind.PNG),
        weight=20,
    ),
    account("remote, neither avatar nor header", {"domain": DOMAIN}, weight=12),
    account(
        "remote, cleaned up: no file names, all else kept",
        avatar(None, None, 1, domain=DOMAIN, avatar_remote_url=REMOTE, header_remote_url=REMOTE)
        | header(None, None, 1),
        weight=8,
    ),
    account(
        "remote of old, schema version NULL",
        avatar("{hex}.jpg", "image/jpeg", domain=DOMAIN) | header("{hex2}.jpg", "image/jpeg"),
        File("{avatars}/original/{hex}.jpg", Kind.JPEG),
        File("{headers}/original/{hex2}.jpg", Kind.JPEG),
        weight=10,
        ids=Ids.OLD,
    ),
    account(
        "local",
        avatar("{hex}.png", "image/png") | header("{hex2}.jpeg", "image/jpeg"),
        File("{avatars}/original/{hex}.png", Kind.PNG),
        File("{headers}/original/{hex2}.jpeg", Kind.JPEG),
        weight=4,
    ),
    account(
        "local of old",
        avatar("{hex}.png", "image/png") | header("{hex2}.png", "image/png"),
        File("{avatars}/original/{hex}.png", Kind.PNG),
        File("{headers}/original/{hex2}.png", Kind.PNG),
        weight=6,
        ids=Ids.OLD,
    ),
    account(
        "the instance actor",
        avatar("{hex}.png", "image/png", actor_type="Application", username="mastodon.example"),
        File("accounts/avatars/000/000/original/{hex}.png", Kind.PNG),
        ids=-99,
    ),
)

ANIMATED_AVATAR = account(
    "remote, animated avatar in the cache",
    avatar("{hex}.gif", "image/gif", 1, domain=DOMAIN) | header("{hex2}.jpg", "image/jpeg", 1),
    File("cache/{avatars}/original/{hex}.gif", Kind.ANIMATED_GIF),
    File("cache/{avatars}/static/{hex}.png", Kind.PNG),
    File("cache/{headers}/original/{hex2}.jpg", Kind.JPEG),
    weight=3,
)

SUSPENDED_ACCOUNT = account(
    "local, suspended",
    avatar("{hex}.png", "image/png", suspended_at="2024-03-01 12:00:00"),
    File("{avatars}/original/{hex}.png", Kind.PNG),
)

COMMON_EMOJIS = (
    _emoji("remote in the cache", "cache/{images}", "{hex}.png", Kind.PNG, 1, weight=30, domain=DOMAIN),
    _emoji(
        "remote, animated, in the cache", "cache/{images}", "{hex}.gif", Kind.ANIMATED_GIF, 1, weight=8, domain=DOMAIN
    ),
    _emoji("remote, schema version NULL", "{images}", "{hex}.png", Kind.PNG, None, weight=4, domain=DOMAIN),
    _emoji("local", "{images}", "{hex}.png", Kind.PNG, None, weight=6),
    emoji("remote and cleaned up", image(None, None, 1, domain=DOMAIN, image_remote_url=REMOTE), weight=4),
)

COMMON_CARDS = (
    card(
        "in the cache",
        image("{hex}.jpg", "image/jpeg", 1),
        File("cache/{images}/original/{hex}.jpg", Kind.JPEG),
        weight=30,
    ),
    card(
        "PNG in the cache",
        image("{hex}.png", "image/png", 1),
        File("cache/{images}/original/{hex}.png", Kind.PNG),
        weight=6,
    ),
    card("without a picture", {}, weight=15),
    card("cleaned up", image(None, None, 1), weight=10),
    card(
        "schema version NULL",
        image("{hex}.jpg", "image/jpeg"),
        File("{images}/original/{hex}.jpg", Kind.JPEG),
        weight=6,
    ),
)

THUMBNAIL = upload(
    "thumbnail, of which the second size was never made",
    file_columns("{hex}.jpg", "image/jpeg", var="thumbnail"),
    File("{uploads}/original/{hex}.jpg", Kind.JPEG),
    File("{uploads}/@1x/{hex}.png", Kind.PNG),
    File("{uploads}/@2x/{hex}.png", Kind.PNG, lost=True, harmless=True),
)

MASCOT = upload(
    "mascot", file_columns("{hex}.png", "image/png", var="mascot"), File("{uploads}/original/{hex}.png", Kind.PNG)
)

FINISHED_BACKUP = case(
    "backups",
    "finished",
    {
        "dump_file_name": "archive-20240102030405-{hex}{hex2}.zip",
        "dump_content_type": "application/zip",
        "processed": True,
    },
    File("{dumps}/original/archive-20240102030405-{hex}{hex2}.zip", Kind.ZIP),
)

EXPIRED_BACKUP = case(
    "backups",
    "expired and removed",
    {"dump_file_name": "archive-20230102030405-{hex}.zip", "dump_content_type": "application/zip", "processed": True},
    File("{dumps}/original/archive-20230102030405-{hex}.zip", Kind.ZIP, lost=True),
)

CASES: tuple[Case, ...] = (
    *COMMON_MEDIA,
    BIG_VIDEO,
    OF_A_SUSPENDED_ACCOUNT,
    LOST_MEDIA,
    *COMMON_ACCOUNTS,
    ANIMATED_AVATAR,
    SUSPENDED_ACCOUNT,
    *COMMON_EMOJIS,
    *COMMON_CARDS,
    THUMBNAIL,
    MASCOT,
    FINISHED_BACKUP,
    EXPIRED_BACKUP,
)
"""What the demo's instance consists of."""
