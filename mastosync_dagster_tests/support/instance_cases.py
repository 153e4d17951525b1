"""Every kind of row that a Mastodon database holds, with the objects that such a row has: the demo's, and all others.

These keys and the rules of ``mastosync_dagster.mastodon`` are independent of each other, so that tests can compare
them: no key here comes from a rule.
"""

from __future__ import annotations

from mastosync_dagster.demo.instance.case import (
    AUDIO,
    DOMAIN,
    REMOTE,
    UNKNOWN,
    VIDEO,
    Case,
    File,
    Ids,
    Owner,
    Post,
    account,
    avatar,
    cached,
    card,
    emoji,
    file_columns,
    header,
    image,
    media,
    pair,
    uncached,
    upload,
)
from mastosync_dagster.demo.instance.cases import (
    ANIMATED_AVATAR,
    BIG_VIDEO,
    COMMON_ACCOUNTS,
    COMMON_CARDS,
    COMMON_EMOJIS,
    COMMON_MEDIA,
    EXPIRED_BACKUP,
    FINISHED_BACKUP,
    LOST_MEDIA,
    MASCOT,
    OF_A_SUSPENDED_ACCOUNT,
    SUSPENDED_ACCOUNT,
    THUMBNAIL,
)
from mastosync_dagster.demo.instance.media_files import Kind
from mastosync_dagster_tests.support.media_kinds import RareKind

_CONTENT_TYPES = (
    media(
        "local GIF, small as PNG",
        file_columns("{hex}.gif", "image/gif"),
        *pair("{files}", "{hex}.gif", RareKind.GIF, "{hex}.png", Kind.PNG),
    ),
    media(
        "local GIF, small named .png with a GIF in it",
        file_columns("{hex}.gif", "image/gif"),
        *pair("{files}", "{hex}.gif", RareKind.GIF, "{hex}.png", RareKind.GIF),
    ),
    media(
        "local GIF of 2.9.0, small named .gif",
        file_columns("{hex}.gif", "image/gif", file_storage_schema_version=None),
        File("{files}/original/{hex}.gif", RareKind.GIF),
        File("{files}/small/{hex}.png", RareKind.GIF, source_key="{files}/small/{hex}.gif"),
        ids=Ids.OLD,
    ),
    media(
        "local HEIC",
        file_columns("{hex}.heic", "image/heic"),
        *pair("{files}", "{hex}.heic", RareKind.HEIC, "{hex}.jpeg", Kind.JPEG),
    ),
    media(
        "local HEIF",
        file_columns("{hex}.heif", "image/heif"),
        *pair("{files}", "{hex}.heif", RareKind.HEIF, "{hex}.jpeg", Kind.JPEG),
    ),
    media(
        "local AVIF",
        file_columns("{hex}.avif", "image/avif"),
        *pair("{files}", "{hex}.avif", RareKind.AVIF, "{hex}.jpeg", Kind.JPEG),
    ),
    media(
        "local AVIF of 4.0, small named .avif",
        file_columns("{hex}.avif", "image/avif"),
        File("{files}/original/{hex}.avif", RareKind.AVIF),
        File("{files}/small/{hex}.jpeg", RareKind.AVIF, source_key="{files}/small/{hex}.avif"),
    ),
    media(
        "local MP4",
        file_columns("{hex}.mp4", "video/mp4", type=VIDEO),
        *pair("{files}", "{hex}.mp4", Kind.MP4, "{hex}.png", Kind.PNG),
    ),
    BIG_VIDEO,
    media(
        "remote WebM",
        cached("{hex}.webm", "video/webm", type=VIDEO),
        *pair("cache/{files}", "{hex}.webm", RareKind.WEBM, "{hex}.png", Kind.PNG),
    ),
    media(
        "remote QuickTime film",
        cached("{hex}.mov", "video/quicktime", type=VIDEO),
        *pair("cache/{files}", "{hex}.mov", RareKind.QUICKTIME, "{hex}.png", Kind.PNG),
    ),
    media(
        "remote Ogg film",
        cached("{hex}.ogv", "video/ogg", type=VIDEO),
        *pair("cache/{files}", "{hex}.ogv", RareKind.OGG_VIDEO, "{hex}.png", Kind.PNG),
    ),
    media(
        "remote film of a type without poster",
        cached("{hex}.asf", "video/x-ms-asf", type=VIDEO),
        File("cache/{files}/original/{hex}.asf", RareKind.ASF),
    ),
    media(
        "remote file of unknown type",
        cached("{hex}.bin", "") | {"file_content_type": None, "type": UNKNOWN},
        File("cache/{files}/original/{hex}.bin", RareKind.BINARY),
    ),
    media(
        "local sound without cover, with a small in its meta",
        file_columns("{hex}.mp3", "audio/mpeg", type=AUDIO, file_meta='{"small":{"width":640}}'),
        File("{files}/original/{hex}.mp3", Kind.MP3),
    ),
    media(
        "local sound with its cover",
        file_columns(
            "{hex}.wav", "audio/wav", type=AUDIO, thumbnail_file_name="{hex2}.png", thumbnail_content_type="image/png"
        ),
        File("{files}/original/{hex}.wav", RareKind.WAV),
        File("{thumbnails}/original/{hex2}.png", Kind.PNG),
    ),
    media(
        "local Ogg sound",
        file_columns("{hex}.ogg", "audio/ogg", type=AUDIO),
        File("{files}/original/{hex}.ogg", RareKind.OGG_AUDIO),
    ),
    media(
        "local film with a thumbnail of its author's",
        file_columns(
            "{hex}.mp4", "video/mp4", type=VIDEO, thumbnail_file_name="{hex2}.jpeg", thumbnail_content_type="image/jpeg"
        ),
        *pair("{files}", "{hex}.mp4", Kind.MP4, "{hex}.png", Kind.PNG),
        File("{thumbnails}/original/{hex2}.jpeg", Kind.JPEG),
    ),
    media(
        "local PNG whose header says what the column does not",
        file_columns("{hex}.png", "image/png"),
        File("{files}/original/{hex}.png", Kind.WEBP),
        File("{files}/small/{hex}.png", Kind.PNG, content_type="image/x-png"),
    ),
    media(
        "local JPEG without Cache-Control",
        file_columns("{hex}.jpg", "image/jpeg", file_file_size=None),
        File("{files}/original/{hex}.jpg", Kind.JPEG, cache_control=False),
        File("{files}/small/{hex}.jpg", Kind.JPEG),
        ids=Ids.OLD,
    ),
)

_CACHE_FORMS = (
    media(
        "local, remote_url of blanks",
        file_columns("{hex}.jpg", "image/jpeg", remote_url=" \t"),
        *pair("{files}", "{hex}.jpg", Kind.JPEG),
    ),
    media(
        "local, schema version 0",
        file_columns("{hex}.jpg", "image/jpeg", file_storage_schema_version=0),
        *pair("{files}", "{hex}.jpg", Kind.JPEG),
    ),
    media(
        "remote, schema version 1, lies without cache/",
        cached("{hex}.jpg", "image/jpeg"),
        File("cache/{files}/original/{hex}.jpg", Kind.JPEG, source_key="{files}/original/{hex}.jpg"),
        File("cache/{files}/small/{hex}.jpg", Kind.JPEG, source_key="{files}/small/{hex}.jpg"),
    ),
    media(
        "remote, schema version NULL, lies in cache/",
        uncached("{hex}.jpg", "image/jpeg"),
        File("{files}/original/{hex}.jpg", Kind.JPEG, source_key="cache/{files}/original/{hex}.jpg"),
        File("{files}/small/{hex}.jpg", Kind.JPEG, source_key="cache/{files}/small/{hex}.jpg"),
    ),
    media(
        "remote, original moved into cache/, small not yet",
        cached("{hex}.png", "image/png"),
        File("cache/{files}/original/{hex}.png", Kind.PNG),
        File("cache/{files}/small/{hex}.png", Kind.PNG, source_key="{files}/small/{hex}.png"),
    ),
    media(
        "remote, lies in both forms, the derived one counts",
        cached("{hex}.jpg", "image/jpeg"),
        *pair("cache/{files}", "{hex}.jpg", Kind.JPEG),
        strays=(("{files}/original/{hex}.jpg", Kind.JPEG), ("{files}/small/{hex}.jpg", Kind.JPEG)),
    ),
    media(
        "remote GIF of 2.9.0 in cache/, small named .gif without cache/",
        cached("{hex}.gif", "image/gif"),
        File("cache/{files}/original/{hex}.gif", RareKind.GIF),
        File("cache/{files}/small/{hex}.png", RareKind.GIF, source_key="{files}/small/{hex}.gif"),
        ids=Ids.OLD,
    ),
    media(
        "remote sound, cover of before 4.6 without cache/",
        cached(
            "{hex}.mp3", "audio/mpeg", type=AUDIO, thumbnail_file_name="{hex2}.jpg", thumbnail_content_type="image/jpeg"
        ),
        File("cache/{files}/original/{hex}.mp3", Kind.MP3),
        File("{thumbnails}/original/{hex2}.jpg", Kind.JPEG),
    ),
    media(
        "remote sound, cover of schema version 1 lies without cache/",
        cached(
            "{hex}.mp3",
            "audio/mpeg",
            type=AUDIO,
            thumbnail_file_name="{hex2}.jpg",
            thumbnail_content_type="image/jpeg",
            thumbnail_storage_schema_version=1,
        ),
        File("cache/{files}/original/{hex}.mp3", Kind.MP3),
        File("cache/{thumbnails}/original/{hex2}.jpg", Kind.JPEG, source_key="{thumbnails}/original/{hex2}.jpg"),
    ),
    media(
        "remote sound, cover of schema version NULL lies in cache/",
        cached(
            "{hex}.mp3", "audio/mpeg", type=AUDIO, thumbnail_file_name="{hex2}.jpg", thumbnail_content_type="image/jpeg"
        ),
        File("cache/{files}/original/{hex}.mp3", Kind.MP3),
        File("{thumbnails}/original/{hex2}.jpg", Kind.JPEG, source_key="cache/{thumbnails}/original/{hex2}.jpg"),
    ),
)

_FEW_FILES = (
    media("local, file name of blanks", file_columns("  ", "image/jpeg")),
    media("local, file name empty", file_columns("", "image/jpeg")),
    media(
        "remote and never downloaded", cached("", "") | {"file_file_name": None, "type": UNKNOWN, "processing": None}
    ),
    media(
        "remote, file cleaned up, cover kept",
        cached("", "", type=AUDIO, thumbnail_file_name="{hex2}.gif", thumbnail_content_type="image/gif")
        | {"file_file_name": None, "thumbnail_storage_schema_version": 1},
        File("cache/{thumbnails}/original/{hex2}.gif", RareKind.GIF),
    ),
)

_NAMES = (
    media(
        "name of two dots, a.tar.gz",
        file_columns("{hex}.tar.gz", "image/gif"),
        *pair("{files}", "{hex}.tar.gz", RareKind.GIF, "{hex}.tar.png", Kind.PNG),
    ),
    media("name without extension", file_columns("{hex}", "image/jpeg"), *pair("{files}", "{hex}", Kind.JPEG)),
    media(
        "name without extension, film",
        file_columns("{hex}", "video/mp4", type=VIDEO),
        *pair("{files}", "{hex}", Kind.MP4, "{hex}.png", Kind.PNG),
    ),
    media("name in capitals", file_columns("{hex}.JPG", "image/jpeg"), *pair("{files}", "{hex}.JPG", Kind.JPEG)),
    media(
        "name that starts with a dot",
        file_columns(".{hex}", "video/mp4", type=VIDEO),
        *pair("{files}", ".{hex}", Kind.MP4, ".{hex}.png", Kind.PNG),
    ),
    media(
        "name of dots and an extension's letters",
        file_columns("..png", "image/gif"),
        *pair("{files}", "..png", RareKind.GIF, "..png.png", Kind.PNG),
    ),
    media(
        "name that ends in a dot",
        file_columns("{hex}.", "image/jpeg"),
        File("{files}/original/{hex}.", Kind.JPEG),
        File("{files}/small/{hex}", Kind.JPEG),
    ),
    media(
        "name with a blank, a plus and a percent sign",
        file_columns("my +{hex}%20.png", "image/png"),
        *pair("{files}", "my +{hex}%20.png", Kind.PNG),
    ),
    media(
        "name in another script",
        cached("ブロブ-{hex}-é.gif", "image/gif"),
        *pair("cache/{files}", "ブロブ-{hex}-é.gif", RareKind.GIF, "ブロブ-{hex}-é.png", Kind.PNG),
    ),
    media(
        "name with marks that mean something in a URL",
        file_columns("q?{hex}#&=~(1).png", "image/png"),
        *pair("{files}", "q?{hex}#&=~(1).png", Kind.PNG),
    ),
)

_IDS = (
    media(
        "id of ten digits",
        file_columns("{hex}.jpg", "image/jpeg"),
        *pair("media_attachments/files/001/234/567/890", "{hex}.jpg", Kind.JPEG),
        ids=1_234_567_890,
    ),
    media(
        "id of ten digits, remote",
        cached("{hex}.jpg", "image/jpeg"),
        *pair("cache/media_attachments/files/001/234/567/891", "{hex}.jpg", Kind.JPEG),
        ids=1_234_567_891,
    ),
    media(
        "id of ten digits in the folder of before 3.5",
        file_columns("{hex}.jpg", "image/jpeg"),
        File(
            "media_attachments/files/001/234/567/892/original/{hex}.jpg",
            Kind.JPEG,
            source_key="media_attachments/files/123/456/789/original/{hex}.jpg",
        ),
        File(
            "media_attachments/files/001/234/567/892/small/{hex}.jpg",
            Kind.JPEG,
            source_key="media_attachments/files/123/456/789/small/{hex}.jpg",
        ),
        ids=1_234_567_892,
    ),
    media(
        "id of nine digits",
        file_columns("{hex}.jpg", "image/jpeg"),
        *pair("media_attachments/files/123/456/789", "{hex}.jpg", Kind.JPEG),
        ids=123_456_789,
    ),
    media(
        "id of thirteen digits, whose last one is no folder",
        file_columns("{hex}.jpg", "image/jpeg"),
        *pair("media_attachments/files/123/456/789/012", "{hex}.jpg", Kind.JPEG),
        ids=1_234_567_890_123,
    ),
    media(
        "id of thirteen digits, whose folder is another row's too",
        file_columns("{hex}.jpg", "image/jpeg"),
        *pair("media_attachments/files/123/456/789/012", "{hex}.jpg", Kind.JPEG),
        ids=1_234_567_890_124,
    ),
)

_UNFINISHED = (
    media(
        "film in the queue, not converted yet",
        file_columns("{hex}.mov", "video/quicktime", type=VIDEO, processing=0),
        *pair("{files}", "{hex}.mov", RareKind.QUICKTIME, "{hex}.png", Kind.PNG),
    ),
    media(
        "film being converted, already under its new name",
        file_columns("{hex}.mov", "video/quicktime", type=VIDEO, processing=1),
        *pair("{files}", "{hex}.mp4", Kind.MP4, "{hex}.png", Kind.PNG),
    ),
    media(
        "film that failed, under its new name",
        file_columns("{hex}.webm", "video/webm", type=VIDEO, processing=3),
        *pair("{files}", "{hex}.mp4", Kind.MP4, "{hex}.png", Kind.PNG),
    ),
    media(
        "sound in the queue, under its new name",
        file_columns("{hex}.wav", "audio/wav", type=AUDIO, processing=0),
        File("{files}/original/{hex}.mp3", Kind.MP3),
    ),
    media(
        "sound that failed, under its own name",
        file_columns("{hex}.ogg", "audio/ogg", type=AUDIO, processing=3),
        File("{files}/original/{hex}.ogg", RareKind.OGG_AUDIO),
    ),
    media(
        "film in the queue, lost",
        file_columns("{hex}.mov", "video/quicktime", type=VIDEO, processing=0),
        File("{files}/original/{hex}.mov", RareKind.QUICKTIME, lost=True),
        File("{files}/small/{hex}.png", Kind.PNG, lost=True),
    ),
)

_PRIVATE = (
    OF_A_SUSPENDED_ACCOUNT,
    media(
        "of a suspended account, remote",
        cached("{hex}.jpg", "image/jpeg"),
        *pair("cache/{files}", "{hex}.jpg", Kind.JPEG),
        owner=Owner.SUSPENDED,
    ),
    media(
        "of a post that moderation removed",
        file_columns("{hex}.png", "image/png"),
        *pair("{files}", "{hex}.png", Kind.PNG),
        post=Post.REMOVED,
    ),
    media(
        "of a suspended account and a removed post, with a cover",
        file_columns(
            "{hex}.mp3", "audio/mpeg", type=AUDIO, thumbnail_file_name="{hex2}.png", thumbnail_content_type="image/png"
        ),
        File("{files}/original/{hex}.mp3", Kind.MP3),
        File("{thumbnails}/original/{hex2}.png", Kind.PNG),
        owner=Owner.SUSPENDED,
        post=Post.REMOVED,
    ),
    media(
        "of no post, a draft",
        file_columns("{hex}.png", "image/png"),
        *pair("{files}", "{hex}.png", Kind.PNG),
        post=Post.NONE,
    ),
    media(
        "of nobody",
        cached("{hex}.png", "image/png"),
        *pair("cache/{files}", "{hex}.png", Kind.PNG),
        owner=Owner.NOBODY,
        post=Post.NONE,
    ),
)

_LOST_MEDIA = (
    LOST_MEDIA,
    media(
        "local, small lost",
        file_columns("{hex}.jpg", "image/jpeg"),
        File("{files}/original/{hex}.jpg", Kind.JPEG),
        File("{files}/small/{hex}.jpg", Kind.JPEG, lost=True),
    ),
    media(
        "remote, lost",
        cached("{hex}.jpg", "image/jpeg"),
        File("cache/{files}/original/{hex}.jpg", Kind.JPEG, lost=True),
        File("cache/{files}/small/{hex}.jpg", Kind.JPEG, lost=True),
    ),
    media(
        "remote sound, cover lost",
        cached(
            "{hex}.mp3", "audio/mpeg", type=AUDIO, thumbnail_file_name="{hex2}.jpg", thumbnail_content_type="image/jpeg"
        ),
        File("cache/{files}/original/{hex}.mp3", Kind.MP3),
        File("{thumbnails}/original/{hex2}.jpg", Kind.JPEG, lost=True),
    ),
)

_ACCOUNTS = (
    *COMMON_ACCOUNTS,
    account(
        "local, schema version 1", avatar("{hex}.png", "image/png", 1), File("{avatars}/original/{hex}.png", Kind.PNG)
    ),
    account(
        "local, with remote URLs that say nothing",
        avatar("{hex}.webp", "image/webp", 1, avatar_remote_url=REMOTE),
        File("{avatars}/original/{hex}.webp", Kind.WEBP),
    ),
    account(
        "remote, schema version 0",
        avatar("{hex}.png", "image/png", 0, domain=DOMAIN),
        File("{avatars}/original/{hex}.png", Kind.PNG),
    ),
    account(
        "remote, domain empty",
        avatar("{hex}.png", "image/png", 1, domain=""),
        File("cache/{avatars}/original/{hex}.png", Kind.PNG),
    ),
    account(
        "remote, avatar in the cache, header not",
        avatar("{hex}.png", "image/png", 1, domain=DOMAIN) | header("{hex2}.png", "image/png"),
        File("cache/{avatars}/original/{hex}.png", Kind.PNG),
        File("{headers}/original/{hex2}.png", Kind.PNG),
    ),
    account(
        "remote, header in the cache, avatar not",
        avatar("{hex}.png", "image/png", 0, domain=DOMAIN) | header("{hex2}.png", "image/png", 1),
        File("{avatars}/original/{hex}.png", Kind.PNG),
        File("cache/{headers}/original/{hex2}.png", Kind.PNG),
    ),
    account(
        "local, animated avatar and header",
        avatar("{hex}.gif", "image/gif") | header("{hex2}.gif", "image/gif"),
        File("{avatars}/original/{hex}.gif", Kind.ANIMATED_GIF),
        File("{avatars}/static/{hex}.png", Kind.PNG),
        File("{headers}/original/{hex2}.gif", Kind.ANIMATED_GIF),
        File("{headers}/static/{hex2}.png", Kind.PNG),
    ),
    ANIMATED_AVATAR,
    account(
        "local of 2017, animated avatar that never had a static one",
        avatar("{hex}.gif", "image/gif", avatar_updated_at="2017-05-06 07:08:09"),
        File("{avatars}/original/{hex}.gif", Kind.ANIMATED_GIF),
        File("{avatars}/static/{hex}.png", Kind.PNG, lost=True, harmless=True),
        ids=Ids.OLD,
    ),
    account(
        "local, PNG named .gif: no static one",
        avatar("{hex}.gif", "image/png"),
        File("{avatars}/original/{hex}.gif", Kind.PNG),
    ),
    account(
        "local, GIF named without extension",
        avatar("{hex}", "image/gif"),
        File("{avatars}/original/{hex}", Kind.ANIMATED_GIF),
        File("{avatars}/static/{hex}.png", Kind.PNG),
    ),
    account(
        "local, GIF named in capitals",
        avatar("{hex}.GIF", "image/gif"),
        File("{avatars}/original/{hex}.GIF", Kind.ANIMATED_GIF),
        File("{avatars}/static/{hex}.png", Kind.PNG),
    ),
    account(
        "remote, lies without cache/",
        avatar("{hex}.gif", "image/gif", 1, domain=DOMAIN) | header("{hex2}.png", "image/png", 1),
        File("cache/{avatars}/original/{hex}.gif", Kind.ANIMATED_GIF, source_key="{avatars}/original/{hex}.gif"),
        File("cache/{avatars}/static/{hex}.png", Kind.PNG, source_key="{avatars}/static/{hex}.png"),
        File("cache/{headers}/original/{hex2}.png", Kind.PNG, source_key="{headers}/original/{hex2}.png"),
    ),
    account(
        "remote, schema version NULL, lies in cache/",
        avatar("{hex}.png", "image/png", domain=DOMAIN),
        File("{avatars}/original/{hex}.png", Kind.PNG, source_key="cache/{avatars}/original/{hex}.png"),
    ),
    account(
        "id of ten digits",
        avatar("{hex}.png", "image/png", 1, domain=DOMAIN),
        File("cache/accounts/avatars/001/000/000/007/original/{hex}.png", Kind.PNG),
        ids=1_000_000_007,
    ),
    SUSPENDED_ACCOUNT,
    account(
        "remote, suspended, avatar lost",
        avatar("{hex}.png", "image/png", 1, domain=DOMAIN, suspended_at="2024-03-01 12:00:00"),
        File("cache/{avatars}/original/{hex}.png", Kind.PNG, lost=True),
    ),
    account(
        "local, header lost",
        avatar("{hex}.png", "image/png") | header("{hex2}.png", "image/png"),
        File("{avatars}/original/{hex}.png", Kind.PNG),
        File("{headers}/original/{hex2}.png", Kind.PNG, lost=True),
    ),
)

_EMOJIS = (
    *COMMON_EMOJIS,
    emoji(
        "local, WebP, schema version 1",
        image("{hex}.webp", "image/webp", 1),
        File("{images}/original/{hex}.webp", Kind.WEBP),
        File("{images}/static/{hex}.png", Kind.PNG),
    ),
    emoji(
        "remote, domain empty",
        image("{hex}.png", "image/png", 1, domain=""),
        File("cache/{images}/original/{hex}.png", Kind.PNG),
        File("cache/{images}/static/{hex}.png", Kind.PNG),
    ),
    emoji(
        "remote, schema version 0",
        image("{hex}.png", "image/png", 0, domain=DOMAIN),
        File("{images}/original/{hex}.png", Kind.PNG),
        File("{images}/static/{hex}.png", Kind.PNG),
    ),
    emoji(
        "local, name in another script",
        image("ブロブ{hex}.png", "image/png"),
        File("{images}/original/ブロブ{hex}.png", Kind.PNG),
        File("{images}/static/ブロブ{hex}.png", Kind.PNG),
    ),
    emoji(
        "local, name without extension",
        image("{hex}", "image/png"),
        File("{images}/original/{hex}", Kind.PNG),
        File("{images}/static/{hex}.png", Kind.PNG),
    ),
    emoji(
        "local, name of two dots",
        image("e.{hex}.gif", "image/gif"),
        File("{images}/original/e.{hex}.gif", Kind.ANIMATED_GIF),
        File("{images}/static/e.{hex}.png", Kind.PNG),
    ),
    emoji(
        "remote, lies without cache/",
        image("{hex}.png", "image/png", 1, domain=DOMAIN),
        File("cache/{images}/original/{hex}.png", Kind.PNG, source_key="{images}/original/{hex}.png"),
        File("cache/{images}/static/{hex}.png", Kind.PNG, source_key="{images}/static/{hex}.png"),
    ),
    emoji(
        "remote, schema version NULL, lies in cache/",
        image("{hex}.png", "image/png", domain=DOMAIN),
        File("{images}/original/{hex}.png", Kind.PNG, source_key="cache/{images}/original/{hex}.png"),
        File("{images}/static/{hex}.png", Kind.PNG, source_key="cache/{images}/static/{hex}.png"),
    ),
    emoji(
        "local, static lost",
        image("{hex}.png", "image/png"),
        File("{images}/original/{hex}.png", Kind.PNG),
        File("{images}/static/{hex}.png", Kind.PNG, lost=True),
    ),
    emoji(
        "remote, lost",
        image("{hex}.png", "image/png", 1, domain=DOMAIN),
        File("cache/{images}/original/{hex}.png", Kind.PNG, lost=True),
        File("cache/{images}/static/{hex}.png", Kind.PNG, lost=True),
    ),
)

_CARDS = (
    *COMMON_CARDS,
    card("schema version 0", image("{hex}.jpg", "image/jpeg", 0), File("{images}/original/{hex}.jpg", Kind.JPEG)),
    card(
        "GIF by name, a JPEG in it",
        image("{hex}.gif", "image/gif", 1),
        File("cache/{images}/original/{hex}.gif", Kind.JPEG),
    ),
    card("name without extension", image("{hex}", "image/webp", 1), File("cache/{images}/original/{hex}", Kind.WEBP)),
    card(
        "lies without cache/",
        image("{hex}.jpg", "image/jpeg", 1),
        File("cache/{images}/original/{hex}.jpg", Kind.JPEG, source_key="{images}/original/{hex}.jpg"),
    ),
    card(
        "schema version NULL, lies in cache/",
        image("{hex}.jpg", "image/jpeg"),
        File("{images}/original/{hex}.jpg", Kind.JPEG, source_key="cache/{images}/original/{hex}.jpg"),
    ),
    card("lost", image("{hex}.jpg", "image/jpeg", 1), File("cache/{images}/original/{hex}.jpg", Kind.JPEG, lost=True)),
)

_APP_ICON_SIZES = (57, 60, 72, 76, 114, 120, 144, 152, 167, 180, 1024, 36, 48, 96, 192, 256, 384, 512)

_UPLOADS = (
    THUMBNAIL,
    upload(
        "favicon",
        file_columns("{hex}.ico", "image/vnd.microsoft.icon", var="favicon"),
        File("{uploads}/original/{hex}.ico", RareKind.ICO),
        *(File(f"{{uploads}}/{size}/{{hex}}.png", Kind.PNG) for size in (16, 32, 48)),
    ),
    upload(
        "app icon",
        file_columns("{hex}.svg", "image/svg+xml", var="app_icon"),
        File("{uploads}/original/{hex}.svg", RareKind.SVG),
        *(File(f"{{uploads}}/{size}/{{hex}}.png", Kind.PNG) for size in _APP_ICON_SIZES),
    ),
    MASCOT,
    upload(
        "hero, lost",
        file_columns("{hex}.png", "image/png", var="hero"),
        File("{uploads}/original/{hex}.png", Kind.PNG, lost=True),
    ),
)

_BACKUPS = (FINISHED_BACKUP, Case("backups", "unfinished"), EXPIRED_BACKUP)

ALL_CASES: tuple[Case, ...] = (
    *COMMON_MEDIA,
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
