"""Attachments with a large file, beside those of the generated instance."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from mastosync_dagster.demo.instance.book import GeneratedObject
from mastosync_dagster.mastodon import CACHE_CONTROL
from mastosync_dagster.mastodon.keys import id_partition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psycopg2.extensions import connection as Connection


def add_large(
    connection: Connection, row_id: int, name: str, body: bytes, put: Callable[[str, Mapping[str, str]], object]
) -> GeneratedObject:
    """Insert a local attachment, and have its file put: ``put`` gets the key and boto3's headers."""
    key = f"media_attachments/files/{id_partition(row_id)}/original/{name}"
    put(key, {"ContentType": "video/mp4", "CacheControl": CACHE_CONTROL})
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO media_attachments (id, file_file_name, file_content_type, file_file_size,"
            " file_updated_at, remote_url, created_at, updated_at)"
            " VALUES (%s, %s, 'audio/mpeg', %s, '2018-01-01', '', '2018-01-01', '2018-01-01')",
            (row_id, name, len(body)),
        )
    md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
    return GeneratedObject("media_attachments", row_id, key, key, len(body), md5, "video/mp4", CACHE_CONTROL, {}, False)
