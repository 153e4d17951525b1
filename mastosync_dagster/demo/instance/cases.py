"""Every kind of row that a Mastodon database holds, with the objects that such a row has: written out, case by case.

This is a second, independent telling of what ``mastosync_dagster.mastodon`` derives by rule: no key here comes from a
rule, so that the demo and the tests can hold one against the other. In keys and columns stand for

- ``{files}``, ``{thumbnails}``, ``{avatars}``, ``{headers}``, ``{images}``, ``{uploads}``, ``{dumps}``: the folder of
  the row, such as ``media_attachments/files/112/129/661/230/994/955``,
- ``{hex}``, ``{hex2}``: 16 random hex digits, the same ones in the whole row,
- ``{n}``: the row's number in the instance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from mastosync_dagster.demo.instance.media_files import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping


class Ids(Enum):
    """Where a row's id comes from."""

    OLD = "a small serial number, from before the table had snowflakes"
    NEW = "a snowflake where the table has them, else the next serial number"


class Owner(Enum):
    """Whose a media attachment is."""

    ACTIVE = "an account in good standing"
    SUSPENDED = "a suspended account"
    NOBODY = "nobody: account_id is NULL"


class Post(Enum):
    """Where a media attachment stands."""

    VISIBLE = "in a post"
    REMOVED = "in a post that moderation removed"
    NONE = "in no post: status_id is NULL"


@dataclass(frozen=True, slots=True)
class File:
    """An object of a row.

    Attributes:
        key: What it must be called at the destination.
        kind: What is in it.
        lies: What it is called at the source, where that is another key.
        lost: The source does not have it.
        harmless: Its absence is to be expected.
        content_type: Content-Type header, where it is not the kind's own.
        cache_control: Whether it has the Cache-Control header that Mastodon sets.
    """

    key: str
    kind: Kind
    lies: str | None = None
    lost: bool = False
    harmless: bool = False
    content_type: str | None = None
    cache_control: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of row.

    Attributes:
        table: Its table.
        name: What is remarkable about it, unique within the table.
        columns: Column to value; all others get plain defaults.
        files: Its objects.
        strays: Objects at the source that look like the row's and are not: nothing may copy them.
        weight: How common such rows are; 0: there is exactly one.
        ids: Where its id comes from, or the id.
        owner: Whose it is (media attachments).
        post: Where it stands (media attachments).
    """

    table: str
    name: str
    columns: Mapping[str, object] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    strays: tuple[tuple[str, Kind], ...] = ()
    weight: int = 0
    ids: Ids | int = Ids.NEW
    owner: Owner = Owner.ACTIVE
    post: Post = Post.VISIBLE

    @property
    def private(self) -> bool:
        """Whether its objects must not be readable by everybody."""
        return self.table == "backups" or self.owner is Owner.SUSPENDED or self.post is Post.REMOVED


_REMOTE = "https://remote.example/media/{n}"
_IMAGE, _GIFV, _VIDEO, _UNKNOWN, _AUDIO = range(5)  # media_attachments.type


def _media(
    name: str,
    columns: Mapping[str, object],
    *files: File,
    strays: tuple[tuple[str, Kind], ...] = (),
    weight: int = 0,
    ids: Ids | int = Ids.NEW,
    owner: Owner = Owner.ACTIVE,
    post: Post = Post.VISIBLE,
) -> Case:
    defaults: dict[str, object] = {"type": _IMAGE, "processing": 2, "remote_url": "", "file_storage_schema_version": 1}
    return Case("media_attachments", name, defaults | dict(columns), files, strays, weight, ids, owner, post)


def _file(name: str | None, content_type: str | None, **more: object) -> dict[str, object]:
    return {"file_file_name": name, "file_content_type": content_type, **more}


def _cached(name: str, content_type: str, **more: object) -> dict[str, object]:
    return _file(name, content_type, remote_url=_REMOTE, **more)


def _uncached(name: str, content_type: str, **more: object) -> dict[str, object]:
    return _file(name, content_type, remote_url=_REMOTE, file_storage_schema_version=None, **more)


def _pair(
    root: str, name: str, kind: Kind, small: str | None = None, small_kind: Kind | None = None
) -> tuple[File, File]:
    return File(f"{root}/original/{name}", kind), File(f"{root}/small/{small or name}", small_kind or kind)


_COMMON_MEDIA = (
    _media("local JPEG", _file("{hex}.jpeg", "image/jpeg"), *_pair("{files}", "{hex}.jpeg", Kind.JPEG), weight=12),
    _media("local PNG", _file("{hex}.png", "image/png"), *_pair("{files}", "{hex}.png", Kind.PNG), weight=6),
    _media("local WebP", _file("{hex}.webp", "image/webp"), *_pair("{files}", "{hex}.webp", Kind.WEBP), weight=2),
    _media(
        "local JPEG of old, serial id",
        _file("{hex}.jpg", "image/jpeg", file_storage_schema_version=None, processing=None),
        *_pair("{files}", "{hex}.jpg", Kind.JPEG),
        weight=10,
        ids=Ids.OLD,
    ),
    _media(
        "remote JPEG in the cache",
        _cached("{hex}.jpg", "image/jpeg"),
        *_pair("cache/{files}", "{hex}.jpg", Kind.JPEG),
        weight=30,
    ),
    _media(
        "remote PNG in the cache",
        _cached("{hex}.png", "image/png"),
        *_pair("cache/{files}", "{hex}.png", Kind.PNG),
        weight=8,
    ),
    _media(
        "remote WebP in the cache",
        _cached("{hex}.webp", "image/webp"),
        *_pair("cache/{files}", "{hex}.webp", Kind.WEBP),
        weight=8,
    ),
    _media(
        "remote JPEG of old, schema version NULL",
        _uncached("{hex}.jpg", "image/jpeg"),
        *_pair("{files}", "{hex}.jpg", Kind.JPEG),
        weight=6,
        ids=Ids.OLD,
    ),
    _media(
        "remote JPEG, schema version NULL",
        _uncached("{hex}.jpg", "image/jpeg"),
        *_pair("{files}", "{hex}.jpg", Kind.JPEG),
        weight=4,
    ),
    _media(
        "remote JPEG, schema version 0",
        _cached("{hex}.jpg", "image/jpeg", file_storage_schema_version=0),
        *_pair("{files}", "{hex}.jpg", Kind.JPEG),
        weight=2,
    ),
    _media(
        "remote film in the cache, with its poster",
        _cached("{hex}.mp4", "video/mp4", type=_VIDEO),
        *_pair("cache/{files}", "{hex}.mp4", Kind.MP4, "{hex}.png", Kind.PNG),
        weight=6,
    ),
    _media(
        "remote animation in the cache, a GIF that became a film",
        _cached("{hex}.mp4", "video/mp4", type=_GIFV),
        *_pair("cache/{files}", "{hex}.mp4", Kind.MP4, "{hex}.png", Kind.PNG),
        weight=3,
    ),
    _media(
        "remote sound with its cover in the cache",
        _cached(
            "{hex}.mp3",
            "audio/mpeg",
            type=_AUDIO,
            thumbnail_file_name="{hex2}.png",
            thumbnail_content_type="image/png",
            thumbnail_storage_schema_version=1,
        ),
        File("cache/{files}/original/{hex}.mp3", Kind.MP3),
        File("cache/{thumbnails}/original/{hex2}.png", Kind.PNG),
        weight=2,
    ),
    _media(
        "remote and cleaned up: no file name, all else kept",
        _cached("", "", type=_IMAGE) | {"file_file_name": None, "file_content_type": None, "file_meta": '{"small":{}}'},
        weight=15,
    ),
    _media(
        "remote and cleaned up, of old",
        _uncached("", "") | {"file_file_name": None, "file_content_type": None, "file_meta": '{"small":{}}'},
        weight=5,
        ids=Ids.OLD,
    ),
)

_CONTENT_TYPES = (
    _media(
        "local GIF, small as PNG",
        _file("{hex}.gif", "image/gif"),
        *_pair("{files}", "{hex}.gif", Kind.GIF, "{hex}.png", Kind.PNG),
    ),
    _media(
        "local GIF, small named .png with a GIF in it",
        _file("{hex}.gif", "image/gif"),
        *_pair("{files}", "{hex}.gif", Kind.GIF, "{hex}.png", Kind.GIF),
    ),
    _media(
        "local GIF of 2.9.0, small named .gif",
        _file("{hex}.gif", "image/gif", file_storage_schema_version=None),
        File("{files}/original/{hex}.gif", Kind.GIF),
        File("{files}/small/{hex}.png", Kind.GIF, lies="{files}/small/{hex}.gif"),
        ids=Ids.OLD,
    ),
    _media(
        "local HEIC",
        _file("{hex}.heic", "image/heic"),
        *_pair("{files}", "{hex}.heic", Kind.HEIC, "{hex}.jpeg", Kind.JPEG),
    ),
    _media(
        "local HEIF",
        _file("{hex}.heif", "image/heif"),
        *_pair("{files}", "{hex}.heif", Kind.HEIF, "{hex}.jpeg", Kind.JPEG),
    ),
    _media(
        "local AVIF",
        _file("{hex}.avif", "image/avif"),
        *_pair("{files}", "{hex}.avif", Kind.AVIF, "{hex}.jpeg", Kind.JPEG),
    ),
    _media(
        "local AVIF of 4.0, small named .avif",
        _file("{hex}.avif", "image/avif"),
        File("{files}/original/{hex}.avif", Kind.AVIF),
        File("{files}/small/{hex}.jpeg", Kind.AVIF, lies="{files}/small/{hex}.avif"),
    ),
    _media(
        "local MP4",
        _file("{hex}.mp4", "video/mp4", type=_VIDEO),
        *_pair("{files}", "{hex}.mp4", Kind.MP4, "{hex}.png", Kind.PNG),
    ),
    _media(
        "local MP4 above 16 MiB, uploaded in parts",
        _file("{hex}.mp4", "video/mp4", type=_VIDEO),
        *_pair("{files}", "{hex}.mp4", Kind.BIG_MP4, "{hex}.png", Kind.PNG),
    ),
    _media(
        "remote WebM",
        _cached("{hex}.webm", "video/webm", type=_VIDEO),
        *_pair("cache/{files}", "{hex}.webm", Kind.WEBM, "{hex}.png", Kind.PNG),
    ),
    _media(
        "remote QuickTime film",
        _cached("{hex}.mov", "video/quicktime", type=_VIDEO),
        *_pair("cache/{files}", "{hex}.mov", Kind.QUICKTIME, "{hex}.png", Kind.PNG),
    ),
    _media(
        "remote Ogg film",
        _cached("{hex}.ogv", "video/ogg", type=_VIDEO),
        *_pair("cache/{files}", "{hex}.ogv", Kind.OGG_VIDEO, "{hex}.png", Kind.PNG),
    ),
    _media(
        "remote film of a type without poster",
        _cached("{hex}.asf", "video/x-ms-asf", type=_VIDEO),
        File("cache/{files}/original/{hex}.asf", Kind.ASF),
    ),
    _media(
        "remote file of unknown type",
        _cached("{hex}.bin", "") | {"file_content_type": None, "type": _UNKNOWN},
        File("cache/{files}/original/{hex}.bin", Kind.BINARY),
    ),
    _media(
        "local sound without cover, with a small in its meta",
        _file("{hex}.mp3", "audio/mpeg", type=_AUDIO, file_meta='{"small":{"width":640}}'),
        File("{files}/original/{hex}.mp3", Kind.MP3),
    ),
    _media(
        "local sound with its cover",
        _file(
            "{hex}.wav", "audio/wav", type=_AUDIO, thumbnail_file_name="{hex2}.png", thumbnail_content_type="image/png"
        ),
        File("{files}/original/{hex}.wav", Kind.WAV),
        File("{thumbnails}/original/{hex2}.png", Kind.PNG),
    ),
    _media(
        "local Ogg sound",
        _file("{hex}.ogg", "audio/ogg", type=_AUDIO),
        File("{files}/original/{hex}.ogg", Kind.OGG_AUDIO),
    ),
    _media(
        "local film with a thumbnail of its author's",
        _file(
            "{hex}.mp4",
            "video/mp4",
            type=_VIDEO,
            thumbnail_file_name="{hex2}.jpeg",
            thumbnail_content_type="image/jpeg",
        ),
        *_pair("{files}", "{hex}.mp4", Kind.MP4, "{hex}.png", Kind.PNG),
        File("{thumbnails}/original/{hex2}.jpeg", Kind.JPEG),
    ),
    _media(
        "local PNG whose header says what the column does not",
        _file("{hex}.png", "image/png"),
        File("{files}/original/{hex}.png", Kind.WEBP),
        File("{files}/small/{hex}.png", Kind.PNG, content_type="image/x-png"),
    ),
    _media(
        "local JPEG without Cache-Control",
        _file("{hex}.jpg", "image/jpeg", file_file_size=None),
        File("{files}/original/{hex}.jpg", Kind.JPEG, cache_control=False),
        File("{files}/small/{hex}.jpg", Kind.JPEG),
        ids=Ids.OLD,
    ),
)

_CACHE_FORMS = (
    _media(
        "local, remote_url of blanks",
        _file("{hex}.jpg", "image/jpeg", remote_url=" \t"),
        *_pair("{files}", "{hex}.jpg", Kind.JPEG),
    ),
    _media(
        "local, schema version 0",
        _file("{hex}.jpg", "image/jpeg", file_storage_schema_version=0),
        *_pair("{files}", "{hex}.jpg", Kind.JPEG),
    ),
    _media(
        "remote, schema version 1, lies without cache/",
        _cached("{hex}.jpg", "image/jpeg"),
        File("cache/{files}/original/{hex}.jpg", Kind.JPEG, lies="{files}/original/{hex}.jpg"),
        File("cache/{files}/small/{hex}.jpg", Kind.JPEG, lies="{files}/small/{hex}.jpg"),
    ),
    _media(
        "remote, schema version NULL, lies in cache/",
        _uncached("{hex}.jpg", "image/jpeg"),
        File("{files}/original/{hex}.jpg", Kind.JPEG, lies="cache/{files}/original/{hex}.jpg"),
        File("{files}/small/{hex}.jpg", Kind.JPEG, lies="cache/{files}/small/{hex}.jpg"),
    ),
    _media(
        "remote, original moved into cache/, small not yet",
        _cached("{hex}.png", "image/png"),
        File("cache/{files}/original/{hex}.png", Kind.PNG),
        File("cache/{files}/small/{hex}.png", Kind.PNG, lies="{files}/small/{hex}.png"),
    ),
    _media(
        "remote, lies in both forms, the derived one counts",
        _cached("{hex}.jpg", "image/jpeg"),
        *_pair("cache/{files}", "{hex}.jpg", Kind.JPEG),
        strays=(("{files}/original/{hex}.jpg", Kind.JPEG), ("{files}/small/{hex}.jpg", Kind.JPEG)),
    ),
    _media(
        "remote GIF of 2.9.0 in cache/, small named .gif without cache/",
        _cached("{hex}.gif", "image/gif"),
        File("cache/{files}/original/{hex}.gif", Kind.GIF),
        File("cache/{files}/small/{hex}.png", Kind.GIF, lies="{files}/small/{hex}.gif"),
        ids=Ids.OLD,
    ),
    _media(
        "remote sound, cover of before 4.6 without cache/",
        _cached(
            "{hex}.mp3",
            "audio/mpeg",
            type=_AUDIO,
            thumbnail_file_name="{hex2}.jpg",
            thumbnail_content_type="image/jpeg",
        ),
        File("cache/{files}/original/{hex}.mp3", Kind.MP3),
        File("{thumbnails}/original/{hex2}.jpg", Kind.JPEG),
    ),
    _media(
        "remote sound, cover of schema version 1 lies without cache/",
        _cached(
            "{hex}.mp3",
            "audio/mpeg",
            type=_AUDIO,
            thumbnail_file_name="{hex2}.jpg",
            thumbnail_content_type="image/jpeg",
            thumbnail_storage_schema_version=1,
        ),
        File("cache/{files}/original/{hex}.mp3", Kind.MP3),
        File("cache/{thumbnails}/original/{hex2}.jpg", Kind.JPEG, lies="{thumbnails}/original/{hex2}.jpg"),
    ),
    _media(
        "remote sound, cover of schema version NULL lies in cache/",
        _cached(
            "{hex}.mp3",
            "audio/mpeg",
            type=_AUDIO,
            thumbnail_file_name="{hex2}.jpg",
            thumbnail_content_type="image/jpeg",
        ),
        File("cache/{files}/original/{hex}.mp3", Kind.MP3),
        File("{thumbnails}/original/{hex2}.jpg", Kind.JPEG, lies="cache/{thumbnails}/original/{hex2}.jpg"),
    ),
)

_FEW_FILES = (
    _media("local, file name of blanks", _file("  ", "image/jpeg")),
    _media("local, file name empty", _file("", "image/jpeg")),
    _media(
        "remote and never downloaded", _cached("", "") | {"file_file_name": None, "type": _UNKNOWN, "processing": None}
    ),
    _media(
        "remote, file cleaned up, cover kept",
        _cached("", "", type=_AUDIO, thumbnail_file_name="{hex2}.gif", thumbnail_content_type="image/gif")
        | {"file_file_name": None, "thumbnail_storage_schema_version": 1},
        File("cache/{thumbnails}/original/{hex2}.gif", Kind.GIF),
    ),
)

_NAMES = (
    _media(
        "name of two dots, a.tar.gz",
        _file("{hex}.tar.gz", "image/gif"),
        *_pair("{files}", "{hex}.tar.gz", Kind.GIF, "{hex}.tar.png", Kind.PNG),
    ),
    _media("name without extension", _file("{hex}", "image/jpeg"), *_pair("{files}", "{hex}", Kind.JPEG)),
    _media(
        "name without extension, film",
        _file("{hex}", "video/mp4", type=_VIDEO),
        *_pair("{files}", "{hex}", Kind.MP4, "{hex}.png", Kind.PNG),
    ),
    _media("name in capitals", _file("{hex}.JPG", "image/jpeg"), *_pair("{files}", "{hex}.JPG", Kind.JPEG)),
    _media(
        "name that starts with a dot",
        _file(".{hex}", "video/mp4", type=_VIDEO),
        *_pair("{files}", ".{hex}", Kind.MP4, ".{hex}.png", Kind.PNG),
    ),
    _media(
        "name of dots and an extension's letters",
        _file("..png", "image/gif"),
        *_pair("{files}", "..png", Kind.GIF, "..png.png", Kind.PNG),
    ),
    _media(
        "name that ends in a dot",
        _file("{hex}.", "image/jpeg"),
        File("{files}/original/{hex}.", Kind.JPEG),
        File("{files}/small/{hex}", Kind.JPEG),
    ),
    _media(
        "name with a blank, a plus and a percent sign",
        _file("my +{hex}%20.png", "image/png"),
        *_pair("{files}", "my +{hex}%20.png", Kind.PNG),
    ),
    _media(
        "name in another script",
        _cached("ブロブ-{hex}-é.gif", "image/gif"),
        *_pair("cache/{files}", "ブロブ-{hex}-é.gif", Kind.GIF, "ブロブ-{hex}-é.png", Kind.PNG),
    ),
    _media(
        "name with marks that mean something in a URL",
        _file("q?{hex}#&=~(1).png", "image/png"),
        *_pair("{files}", "q?{hex}#&=~(1).png", Kind.PNG),
    ),
)

_IDS = (
    _media(
        "id of ten digits",
        _file("{hex}.jpg", "image/jpeg"),
        *_pair("media_attachments/files/001/234/567/890", "{hex}.jpg", Kind.JPEG),
        ids=1_234_567_890,
    ),
    _media(
        "id of ten digits, remote",
        _cached("{hex}.jpg", "image/jpeg"),
        *_pair("cache/media_attachments/files/001/234/567/891", "{hex}.jpg", Kind.JPEG),
        ids=1_234_567_891,
    ),
    _media(
        "id of ten digits in the folder of before 3.5",
        _file("{hex}.jpg", "image/jpeg"),
        File(
            "media_attachments/files/001/234/567/892/original/{hex}.jpg",
            Kind.JPEG,
            lies="media_attachments/files/123/456/789/original/{hex}.jpg",
        ),
        File(
            "media_attachments/files/001/234/567/892/small/{hex}.jpg",
            Kind.JPEG,
            lies="media_attachments/files/123/456/789/small/{hex}.jpg",
        ),
        ids=1_234_567_892,
    ),
    _media(
        "id of nine digits",
        _file("{hex}.jpg", "image/jpeg"),
        *_pair("media_attachments/files/123/456/789", "{hex}.jpg", Kind.JPEG),
        ids=123_456_789,
    ),
    _media(
        "id of thirteen digits, whose last one is no folder",
        _file("{hex}.jpg", "image/jpeg"),
        *_pair("media_attachments/files/123/456/789/012", "{hex}.jpg", Kind.JPEG),
        ids=1_234_567_890_123,
    ),
    _media(
        "id of thirteen digits, whose folder is another row's too",
        _file("{hex}.jpg", "image/jpeg"),
        *_pair("media_attachments/files/123/456/789/012", "{hex}.jpg", Kind.JPEG),
        ids=1_234_567_890_124,
    ),
)

_UNFINISHED = (
    _media(
        "film in the queue, not converted yet",
        _file("{hex}.mov", "video/quicktime", type=_VIDEO, processing=0),
        *_pair("{files}", "{hex}.mov", Kind.QUICKTIME, "{hex}.png", Kind.PNG),
    ),
    _media(
        "film being converted, already under its new name",
        _file("{hex}.mov", "video/quicktime", type=_VIDEO, processing=1),
        *_pair("{files}", "{hex}.mp4", Kind.MP4, "{hex}.png", Kind.PNG),
    ),
    _media(
        "film that failed, under its new name",
        _file("{hex}.webm", "video/webm", type=_VIDEO, processing=3),
        *_pair("{files}", "{hex}.mp4", Kind.MP4, "{hex}.png", Kind.PNG),
    ),
    _media(
        "sound in the queue, under its new name",
        _file("{hex}.wav", "audio/wav", type=_AUDIO, processing=0),
        File("{files}/original/{hex}.mp3", Kind.MP3),
    ),
    _media(
        "sound that failed, under its own name",
        _file("{hex}.ogg", "audio/ogg", type=_AUDIO, processing=3),
        File("{files}/original/{hex}.ogg", Kind.OGG_AUDIO),
    ),
    _media(
        "film in the queue, lost",
        _file("{hex}.mov", "video/quicktime", type=_VIDEO, processing=0),
        File("{files}/original/{hex}.mov", Kind.QUICKTIME, lost=True),
        File("{files}/small/{hex}.png", Kind.PNG, lost=True),
    ),
)

_PRIVATE = (
    _media(
        "of a suspended account",
        _file("{hex}.jpg", "image/jpeg"),
        *_pair("{files}", "{hex}.jpg", Kind.JPEG),
        owner=Owner.SUSPENDED,
    ),
    _media(
        "of a suspended account, remote",
        _cached("{hex}.jpg", "image/jpeg"),
        *_pair("cache/{files}", "{hex}.jpg", Kind.JPEG),
        owner=Owner.SUSPENDED,
    ),
    _media(
        "of a post that moderation removed",
        _file("{hex}.png", "image/png"),
        *_pair("{files}", "{hex}.png", Kind.PNG),
        post=Post.REMOVED,
    ),
    _media(
        "of a suspended account and a removed post, with a cover",
        _file(
            "{hex}.mp3", "audio/mpeg", type=_AUDIO, thumbnail_file_name="{hex2}.png", thumbnail_content_type="image/png"
        ),
        File("{files}/original/{hex}.mp3", Kind.MP3),
        File("{thumbnails}/original/{hex2}.png", Kind.PNG),
        owner=Owner.SUSPENDED,
        post=Post.REMOVED,
    ),
    _media(
        "of no post, a draft",
        _file("{hex}.png", "image/png"),
        *_pair("{files}", "{hex}.png", Kind.PNG),
        post=Post.NONE,
    ),
    _media(
        "of nobody",
        _cached("{hex}.png", "image/png"),
        *_pair("cache/{files}", "{hex}.png", Kind.PNG),
        owner=Owner.NOBODY,
        post=Post.NONE,
    ),
)

_LOST_MEDIA = (
    _media(
        "local, lost",
        _file("{hex}.jpg", "image/jpeg"),
        File("{files}/original/{hex}.jpg", Kind.JPEG, lost=True),
        File("{files}/small/{hex}.jpg", Kind.JPEG, lost=True),
    ),
    _media(
        "local, small lost",
        _file("{hex}.jpg", "image/jpeg"),
        File("{files}/original/{hex}.jpg", Kind.JPEG),
        File("{files}/small/{hex}.jpg", Kind.JPEG, lost=True),
    ),
    _media(
        "remote, lost",
        _cached("{hex}.jpg", "image/jpeg"),
        File("cache/{files}/original/{hex}.jpg", Kind.JPEG, lost=True),
        File("cache/{files}/small/{hex}.jpg", Kind.JPEG, lost=True),
    ),
    _media(
        "remote sound, cover lost",
        _cached(
            "{hex}.mp3",
            "audio/mpeg",
            type=_AUDIO,
            thumbnail_file_name="{hex2}.jpg",
            thumbnail_content_type="image/jpeg",
        ),
        File("cache/{files}/original/{hex}.mp3", Kind.MP3),
        File("{thumbnails}/original/{hex2}.jpg", Kind.JPEG, lost=True),
    ),
)


def _account(name: str, columns: Mapping[str, object], *files: File, weight: int = 0, ids: Ids | int = Ids.NEW) -> Case:
    return Case("accounts", name, columns, files, weight=weight, ids=ids)


def _avatar(
    name: str | None, content_type: str | None, version: int | None = None, **more: object
) -> dict[str, object]:
    return {
        "avatar_file_name": name,
        "avatar_content_type": content_type,
        "avatar_storage_schema_version": version,
        **more,
    }


def _header(name: str | None, content_type: str | None, version: int | None = None) -> dict[str, object]:
    return {"header_file_name": name, "header_content_type": content_type, "header_storage_schema_version": version}


_DOMAIN = "remote{n}.example"

_ACCOUNTS = (
    _account(
        "remote, avatar and header in the cache",
        _avatar("{hex}.jpg", "image/jpeg", 1, domain=_DOMAIN) | _header("{hex2}.png", "image/png", 1),
        File("cache/{avatars}/original/{hex}.jpg", Kind.JPEG),
        File("cache/{headers}/original/{hex2}.png", Kind.PNG),
        weight=30,
    ),
    _account(
        "remote, avatar only",
        _avatar("{hex}.png", "image/png", 1, domain=_DOMAIN),
        File("cache/{avatars}/original/{hex}.png", Kind.PNG),
        weight=20,
    ),
    _account("remote, neither avatar nor header", {"domain": _DOMAIN}, weight=12),
    _account(
        "remote, cleaned up: no file names, all else kept",
        _avatar(None, None, 1, domain=_DOMAIN, avatar_remote_url=_REMOTE, header_remote_url=_REMOTE)
        | _header(None, None, 1),
        weight=8,
    ),
    _account(
        "remote of old, schema version NULL",
        _avatar("{hex}.jpg", "image/jpeg", domain=_DOMAIN) | _header("{hex2}.jpg", "image/jpeg"),
        File("{avatars}/original/{hex}.jpg", Kind.JPEG),
        File("{headers}/original/{hex2}.jpg", Kind.JPEG),
        weight=10,
        ids=Ids.OLD,
    ),
    _account(
        "local",
        _avatar("{hex}.png", "image/png") | _header("{hex2}.jpeg", "image/jpeg"),
        File("{avatars}/original/{hex}.png", Kind.PNG),
        File("{headers}/original/{hex2}.jpeg", Kind.JPEG),
        weight=4,
    ),
    _account(
        "local of old",
        _avatar("{hex}.png", "image/png") | _header("{hex2}.png", "image/png"),
        File("{avatars}/original/{hex}.png", Kind.PNG),
        File("{headers}/original/{hex2}.png", Kind.PNG),
        weight=6,
        ids=Ids.OLD,
    ),
    _account(
        "the instance actor",
        _avatar("{hex}.png", "image/png", actor_type="Application", username="mastodon.example"),
        File("accounts/avatars/000/000/original/{hex}.png", Kind.PNG),
        ids=-99,
    ),
    _account(
        "local, schema version 1",
        _avatar("{hex}.png", "image/png", 1),
        File("{avatars}/original/{hex}.png", Kind.PNG),
    ),
    _account(
        "local, with remote URLs that say nothing",
        _avatar("{hex}.webp", "image/webp", 1, avatar_remote_url=_REMOTE),
        File("{avatars}/original/{hex}.webp", Kind.WEBP),
    ),
    _account(
        "remote, schema version 0",
        _avatar("{hex}.png", "image/png", 0, domain=_DOMAIN),
        File("{avatars}/original/{hex}.png", Kind.PNG),
    ),
    _account(
        "remote, domain empty",
        _avatar("{hex}.png", "image/png", 1, domain=""),
        File("cache/{avatars}/original/{hex}.png", Kind.PNG),
    ),
    _account(
        "remote, avatar in the cache, header not",
        _avatar("{hex}.png", "image/png", 1, domain=_DOMAIN) | _header("{hex2}.png", "image/png"),
        File("cache/{avatars}/original/{hex}.png", Kind.PNG),
        File("{headers}/original/{hex2}.png", Kind.PNG),
    ),
    _account(
        "remote, header in the cache, avatar not",
        _avatar("{hex}.png", "image/png", 0, domain=_DOMAIN) | _header("{hex2}.png", "image/png", 1),
        File("{avatars}/original/{hex}.png", Kind.PNG),
        File("cache/{headers}/original/{hex2}.png", Kind.PNG),
    ),
    _account(
        "local, animated avatar and header",
        _avatar("{hex}.gif", "image/gif") | _header("{hex2}.gif", "image/gif"),
        File("{avatars}/original/{hex}.gif", Kind.ANIMATED_GIF),
        File("{avatars}/static/{hex}.png", Kind.PNG),
        File("{headers}/original/{hex2}.gif", Kind.ANIMATED_GIF),
        File("{headers}/static/{hex2}.png", Kind.PNG),
    ),
    _account(
        "remote, animated avatar in the cache",
        _avatar("{hex}.gif", "image/gif", 1, domain=_DOMAIN) | _header("{hex2}.jpg", "image/jpeg", 1),
        File("cache/{avatars}/original/{hex}.gif", Kind.ANIMATED_GIF),
        File("cache/{avatars}/static/{hex}.png", Kind.PNG),
        File("cache/{headers}/original/{hex2}.jpg", Kind.JPEG),
        weight=3,
    ),
    _account(
        "local of 2017, animated avatar that never had a static one",
        _avatar("{hex}.gif", "image/gif", avatar_updated_at="2017-05-06 07:08:09"),
        File("{avatars}/original/{hex}.gif", Kind.ANIMATED_GIF),
        File("{avatars}/static/{hex}.png", Kind.PNG, lost=True, harmless=True),
        ids=Ids.OLD,
    ),
    _account(
        "local, PNG named .gif: no static one",
        _avatar("{hex}.gif", "image/png"),
        File("{avatars}/original/{hex}.gif", Kind.PNG),
    ),
    _account(
        "local, GIF named without extension",
        _avatar("{hex}", "image/gif"),
        File("{avatars}/original/{hex}", Kind.ANIMATED_GIF),
        File("{avatars}/static/{hex}.png", Kind.PNG),
    ),
    _account(
        "local, GIF named in capitals",
        _avatar("{hex}.GIF", "image/gif"),
        File("{avatars}/original/{hex}.GIF", Kind.ANIMATED_GIF),
        File("{avatars}/static/{hex}.png", Kind.PNG),
    ),
    _account(
        "remote, lies without cache/",
        _avatar("{hex}.gif", "image/gif", 1, domain=_DOMAIN) | _header("{hex2}.png", "image/png", 1),
        File("cache/{avatars}/original/{hex}.gif", Kind.ANIMATED_GIF, lies="{avatars}/original/{hex}.gif"),
        File("cache/{avatars}/static/{hex}.png", Kind.PNG, lies="{avatars}/static/{hex}.png"),
        File("cache/{headers}/original/{hex2}.png", Kind.PNG, lies="{headers}/original/{hex2}.png"),
    ),
    _account(
        "remote, schema version NULL, lies in cache/",
        _avatar("{hex}.png", "image/png", domain=_DOMAIN),
        File("{avatars}/original/{hex}.png", Kind.PNG, lies="cache/{avatars}/original/{hex}.png"),
    ),
    _account(
        "id of ten digits",
        _avatar("{hex}.png", "image/png", 1, domain=_DOMAIN),
        File("cache/accounts/avatars/001/000/000/007/original/{hex}.png", Kind.PNG),
        ids=1_000_000_007,
    ),
    _account(
        "local, suspended",
        _avatar("{hex}.png", "image/png", suspended_at="2024-03-01 12:00:00"),
        File("{avatars}/original/{hex}.png", Kind.PNG),
    ),
    _account(
        "remote, suspended, avatar lost",
        _avatar("{hex}.png", "image/png", 1, domain=_DOMAIN, suspended_at="2024-03-01 12:00:00"),
        File("cache/{avatars}/original/{hex}.png", Kind.PNG, lost=True),
    ),
    _account(
        "local, header lost",
        _avatar("{hex}.png", "image/png") | _header("{hex2}.png", "image/png"),
        File("{avatars}/original/{hex}.png", Kind.PNG),
        File("{headers}/original/{hex2}.png", Kind.PNG, lost=True),
    ),
)


def _emoji(name: str, columns: Mapping[str, object], *files: File, weight: int = 0, ids: Ids | int = Ids.NEW) -> Case:
    return Case("custom_emojis", name, columns, files, weight=weight, ids=ids)


def _image(name: str | None, content_type: str | None, version: int | None = None, **more: object) -> dict[str, object]:
    return {
        "image_file_name": name,
        "image_content_type": content_type,
        "image_storage_schema_version": version,
        **more,
    }


_EMOJIS = (
    _emoji(
        "remote in the cache",
        _image("{hex}.png", "image/png", 1, domain=_DOMAIN),
        File("cache/{images}/original/{hex}.png", Kind.PNG),
        File("cache/{images}/static/{hex}.png", Kind.PNG),
        weight=30,
    ),
    _emoji(
        "remote, animated, in the cache",
        _image("{hex}.gif", "image/gif", 1, domain=_DOMAIN),
        File("cache/{images}/original/{hex}.gif", Kind.ANIMATED_GIF),
        File("cache/{images}/static/{hex}.png", Kind.PNG),
        weight=8,
    ),
    _emoji(
        "remote, schema version NULL",
        _image("{hex}.png", "image/png", domain=_DOMAIN),
        File("{images}/original/{hex}.png", Kind.PNG),
        File("{images}/static/{hex}.png", Kind.PNG),
        weight=4,
    ),
    _emoji(
        "local",
        _image("{hex}.png", "image/png"),
        File("{images}/original/{hex}.png", Kind.PNG),
        File("{images}/static/{hex}.png", Kind.PNG),
        weight=6,
    ),
    _emoji("remote and cleaned up", _image(None, None, 1, domain=_DOMAIN, image_remote_url=_REMOTE), weight=4),
    _emoji(
        "local, WebP, schema version 1",
        _image("{hex}.webp", "image/webp", 1),
        File("{images}/original/{hex}.webp", Kind.WEBP),
        File("{images}/static/{hex}.png", Kind.PNG),
    ),
    _emoji(
        "remote, domain empty",
        _image("{hex}.png", "image/png", 1, domain=""),
        File("cache/{images}/original/{hex}.png", Kind.PNG),
        File("cache/{images}/static/{hex}.png", Kind.PNG),
    ),
    _emoji(
        "remote, schema version 0",
        _image("{hex}.png", "image/png", 0, domain=_DOMAIN),
        File("{images}/original/{hex}.png", Kind.PNG),
        File("{images}/static/{hex}.png", Kind.PNG),
    ),
    _emoji(
        "local, name in another script",
        _image("ブロブ{hex}.png", "image/png"),
        File("{images}/original/ブロブ{hex}.png", Kind.PNG),
        File("{images}/static/ブロブ{hex}.png", Kind.PNG),
    ),
    _emoji(
        "local, name without extension",
        _image("{hex}", "image/png"),
        File("{images}/original/{hex}", Kind.PNG),
        File("{images}/static/{hex}.png", Kind.PNG),
    ),
    _emoji(
        "local, name of two dots",
        _image("e.{hex}.gif", "image/gif"),
        File("{images}/original/e.{hex}.gif", Kind.ANIMATED_GIF),
        File("{images}/static/e.{hex}.png", Kind.PNG),
    ),
    _emoji(
        "remote, lies without cache/",
        _image("{hex}.png", "image/png", 1, domain=_DOMAIN),
        File("cache/{images}/original/{hex}.png", Kind.PNG, lies="{images}/original/{hex}.png"),
        File("cache/{images}/static/{hex}.png", Kind.PNG, lies="{images}/static/{hex}.png"),
    ),
    _emoji(
        "remote, schema version NULL, lies in cache/",
        _image("{hex}.png", "image/png", domain=_DOMAIN),
        File("{images}/original/{hex}.png", Kind.PNG, lies="cache/{images}/original/{hex}.png"),
        File("{images}/static/{hex}.png", Kind.PNG, lies="cache/{images}/static/{hex}.png"),
    ),
    _emoji(
        "local, static lost",
        _image("{hex}.png", "image/png"),
        File("{images}/original/{hex}.png", Kind.PNG),
        File("{images}/static/{hex}.png", Kind.PNG, lost=True),
    ),
    _emoji(
        "remote, lost",
        _image("{hex}.png", "image/png", 1, domain=_DOMAIN),
        File("cache/{images}/original/{hex}.png", Kind.PNG, lost=True),
        File("cache/{images}/static/{hex}.png", Kind.PNG, lost=True),
    ),
)


def _card(name: str, columns: Mapping[str, object], *files: File, weight: int = 0, ids: Ids | int = Ids.NEW) -> Case:
    return Case("preview_cards", name, columns, files, weight=weight, ids=ids)


_CARDS = (
    _card(
        "in the cache",
        _image("{hex}.jpg", "image/jpeg", 1),
        File("cache/{images}/original/{hex}.jpg", Kind.JPEG),
        weight=30,
    ),
    _card(
        "PNG in the cache",
        _image("{hex}.png", "image/png", 1),
        File("cache/{images}/original/{hex}.png", Kind.PNG),
        weight=6,
    ),
    _card("without a picture", {}, weight=15),
    _card("cleaned up", _image(None, None, 1), weight=10),
    _card(
        "schema version NULL",
        _image("{hex}.jpg", "image/jpeg"),
        File("{images}/original/{hex}.jpg", Kind.JPEG),
        weight=6,
    ),
    _card("schema version 0", _image("{hex}.jpg", "image/jpeg", 0), File("{images}/original/{hex}.jpg", Kind.JPEG)),
    _card(
        "GIF by name, a JPEG in it",
        _image("{hex}.gif", "image/gif", 1),
        File("cache/{images}/original/{hex}.gif", Kind.JPEG),
    ),
    _card("name without extension", _image("{hex}", "image/webp", 1), File("cache/{images}/original/{hex}", Kind.WEBP)),
    _card(
        "lies without cache/",
        _image("{hex}.jpg", "image/jpeg", 1),
        File("cache/{images}/original/{hex}.jpg", Kind.JPEG, lies="{images}/original/{hex}.jpg"),
    ),
    _card(
        "schema version NULL, lies in cache/",
        _image("{hex}.jpg", "image/jpeg"),
        File("{images}/original/{hex}.jpg", Kind.JPEG, lies="cache/{images}/original/{hex}.jpg"),
    ),
    _card(
        "lost", _image("{hex}.jpg", "image/jpeg", 1), File("cache/{images}/original/{hex}.jpg", Kind.JPEG, lost=True)
    ),
)


def _upload(name: str, columns: Mapping[str, object], *files: File) -> Case:
    return Case("site_uploads", name, columns, files)


_APP_ICON_SIZES = (57, 60, 72, 76, 114, 120, 144, 152, 167, 180, 1024, 36, 48, 96, 192, 256, 384, 512)

_UPLOADS = (
    _upload(
        "thumbnail, of which the second size was never made",
        _file("{hex}.jpg", "image/jpeg", var="thumbnail"),
        File("{uploads}/original/{hex}.jpg", Kind.JPEG),
        File("{uploads}/@1x/{hex}.png", Kind.PNG),
        File("{uploads}/@2x/{hex}.png", Kind.PNG, lost=True, harmless=True),
    ),
    _upload(
        "favicon",
        _file("{hex}.ico", "image/vnd.microsoft.icon", var="favicon"),
        File("{uploads}/original/{hex}.ico", Kind.ICO),
        *(File(f"{{uploads}}/{size}/{{hex}}.png", Kind.PNG) for size in (16, 32, 48)),
    ),
    _upload(
        "app icon",
        _file("{hex}.svg", "image/svg+xml", var="app_icon"),
        File("{uploads}/original/{hex}.svg", Kind.SVG),
        *(File(f"{{uploads}}/{size}/{{hex}}.png", Kind.PNG) for size in _APP_ICON_SIZES),
    ),
    _upload(
        "mascot",
        _file("{hex}.png", "image/png", var="mascot"),
        File("{uploads}/original/{hex}.png", Kind.PNG),
    ),
    _upload(
        "hero, lost",
        _file("{hex}.png", "image/png", var="hero"),
        File("{uploads}/original/{hex}.png", Kind.PNG, lost=True),
    ),
)

_BACKUPS = (
    Case(
        "backups",
        "finished",
        {
            "dump_file_name": "archive-20240102030405-{hex}{hex2}.zip",
            "dump_content_type": "application/zip",
            "processed": True,
        },
        (File("{dumps}/original/archive-20240102030405-{hex}{hex2}.zip", Kind.ZIP),),
    ),
    Case("backups", "unfinished"),
    Case(
        "backups",
        "expired and removed",
        {
            "dump_file_name": "archive-20230102030405-{hex}.zip",
            "dump_content_type": "application/zip",
            "processed": True,
        },
        (File("{dumps}/original/archive-20230102030405-{hex}.zip", Kind.ZIP, lost=True),),
    ),
)

CASES: tuple[Case, ...] = (
    *_COMMON_MEDIA,
    *_CONTENT_TYPES,
    *_CACHE_FORMS,
    *_FEW_FILES,
    *_NAMES,
    *_IDS,
    *_UNFINISHED,
    *_PRIVATE,
    *_LOST_MEDIA,
    *_ACCOUNTS,
    *_EMOJIS,
    *_CARDS,
    *_UPLOADS,
    *_BACKUPS,
)
"""All of them, by table."""
