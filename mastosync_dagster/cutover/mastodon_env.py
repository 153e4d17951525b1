"""The lines of Mastodon's ``.env.production`` for the new bucket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mastosync_dagster.cutover.media_host import ALIASES, media_host
from mastosync_dagster.environment import Environment
from mastosync_dagster.s3.settings import amazon_endpoint

if TYPE_CHECKING:
    from mastosync_dagster.s3.storage import Storage

_QUIRKS = (
    # Mastodon's documentation of object storage, by the end of the endpoint's host.
    ("wasabisys.com", "S3_FORCE_SINGLE_REQUEST", "true"),
    ("exo.io", "S3_FORCE_SINGLE_REQUEST", "true"),
    ("storage.googleapis.com", "S3_MULTIPART_THRESHOLD", "52428800"),
)
_UNLESS_YOURS = ", unless its host is yours: then keep it, and let that host take the folder from the new bucket"
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@dataclass(frozen=True, slots=True)
class EnvLine:
    """A line to set; ``value`` None: a line to delete. An empty value is one that the admin fills in, or means none.

    Attributes:
        unless: When a line is not to be deleted.
    """

    name: str
    value: str | None
    unless: str = ""

    def __str__(self) -> str:
        return f"# delete the line {self.name}{self.unless}" if self.value is None else f"{self.name}={self.value}"


def env_lines(destination: Storage, environment: Environment | None = None) -> list[EnvLine]:
    """Return the lines, in the order of Mastodon's documentation. Secrets are left empty: Mastodon has its own key.

    Raises:
        SettingsError: S3_ALIAS_HOST is no host name.
        StorageError: Amazon does not say in which region the bucket is.
    """
    environment = environment or Environment.read()
    settings = destination.settings
    if settings.is_folder:
        return [EnvLine("S3_ENABLED", "false")]
    endpoint = urlsplit(settings.endpoint_url or amazon_endpoint(destination.region))
    lines = [
        EnvLine("S3_ENABLED", "true"),
        EnvLine("S3_BUCKET", settings.bucket),
        EnvLine("S3_REGION", destination.region),
        EnvLine("S3_PROTOCOL", endpoint.scheme),
        EnvLine("S3_HOSTNAME", endpoint.netloc),
    ]
    values = {
        "S3_ENDPOINT": settings.endpoint_url,
        "S3_OVERRIDE_PATH_STYLE": None if settings.path_style or not settings.endpoint_url else "true",
        "S3_STORAGE_CLASS": settings.storage_class,
        "S3_KEY_PREFIX": settings.prefix.removesuffix("/") or None,
        "S3_FORCE_SINGLE_REQUEST": None,
        "S3_MULTIPART_THRESHOLD": None,
        **{name: value for end, name, value in _QUIRKS if settings.server.endswith(end)},
    }
    lines += [EnvLine(name, value) for name, value in values.items() if value or environment.text(name)]
    # An empty permission is a value: Mastodon then sends no ACL.
    lines.append(EnvLine("S3_PERMISSION", settings.permission or ""))
    host = media_host(environment)
    lines += [EnvLine("S3_ALIAS_HOST", host)] if host else []
    lines += [
        EnvLine(name, None, "" if host else _UNLESS_YOURS)
        for name in ALIASES
        if environment.text(name) and not (host and name == ALIASES[0])
    ]
    return lines + [EnvLine(name, "") for name in _KEYS]


def env_text(destination: Storage) -> str:
    """Return the lines as text, with a remark above those that the admin fills in. Raises as `env_lines`."""
    lines = env_lines(destination)
    set_lines = [str(line) for line in lines if line.value is not None and line.name not in _KEYS]
    gone = [str(line) for line in lines if line.value is None]
    keys = [str(line) for line in lines if line.name in _KEYS]
    if not keys:
        return "\n".join([*set_lines, *gone])
    remark = "# Mastodon's own key for the new bucket, not mastosync's: it also deletes objects and sets ACLs"
    return "\n".join([*set_lines, *gone, remark, *keys])
