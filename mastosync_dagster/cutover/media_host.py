"""Under which addresses everybody reads media: of the instance, and of each bucket."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from mastosync_dagster.cutover.answers import Answer, Line
from mastosync_dagster.environment import DESTINATION_URL, SOURCE_URL, Environment, SettingsError
from mastosync_dagster.errors import AdminError
from mastosync_dagster.escaping import one_line
from mastosync_dagster.s3.settings import amazon_endpoint

if TYPE_CHECKING:
    from mastosync_dagster.s3.storage import Storage

ALIASES = ("S3_ALIAS_HOST", "S3_CLOUDFRONT_HOST")
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?", re.ASCII)
_PATH = re.compile(r"(/[A-Za-z0-9._~%:@!&'()*+,=-]+)*", re.ASCII)
"""What stands in an nginx configuration without quotes and without a meaning of its own."""
_ANY_BUCKET = re.compile(r"[A-Za-z0-9-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class PublicUrl:
    """The address of a bucket's objects, without the key.

    Attributes:
        host: Name or address, with a port that is not the scheme's.
        path: Begins with a slash, or is empty; does not end with one.
    """

    scheme: str
    host: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}"

    def of(self, key: str) -> str:
        """Return the address of an object, given its full key."""
        return f"{self}/{quote(key)}"


def media_host(environment: Environment | None = None) -> str | None:
    """Return the host of all media URLs (S3_ALIAS_HOST); None: the provider's own host is in them.

    Raises:
        SettingsError: It is no host name.
    """
    environment = environment or Environment.read()
    name = next((name for name in ALIASES if environment.text(name)), None)
    if name is None:
        return None
    host = (environment.text(name) or "").strip().rpartition("//")[2].strip("/")
    if "/" in host:
        # A folder at a provider's host, as Backblaze has it: that is no host of one's own.
        return None
    if not _HOST.fullmatch(host):
        raise SettingsError(f"{name} must be the name of the media host, such as files.example.com.")
    return host


def media_host_line(without: Answer) -> Line:
    """Answer whether media have a host of their own; ``without``: the answer where they have none."""
    try:
        host = media_host()
    except AdminError as error:
        return Line("media host", Answer.NO, one_line(str(error)))
    if host is None:
        return Line(
            "media host",
            without,
            "S3_ALIAS_HOST is not set, or is a folder at a provider's host: with the switch the addresses of all media"
            " change, and other servers keep the old ones. Give media a host of their own first, a week ahead",
        )
    return Line("media host", Answer.YES, f"{host} (nginx: mastosync cutover plan --nginx)")


def source_url(storage: Storage) -> PublicUrl:
    """Return the public address of the bucket that Mastodon uses now: MASTOSYNC_SOURCE_URL, else its endpoint."""
    return _public_url(storage, SOURCE_URL)


def destination_url(storage: Storage) -> PublicUrl:
    """Return the public address of the new bucket: MASTOSYNC_DESTINATION_URL, else its endpoint."""
    return _public_url(storage, DESTINATION_URL)


def check_addresses() -> None:
    """Raise a SettingsError where a public address that is set is no URL."""
    environment = Environment.read()
    for variable in (SOURCE_URL, DESTINATION_URL):
        if (text := environment.text(variable)) is not None:
            _parsed(text, variable)


def has_own_url(name: str) -> bool:
    """Return whether a public address is set that differs from the endpoint: `SOURCE_URL`, `DESTINATION_URL`."""
    return Environment.read().text(name) is not None


def _public_url(storage: Storage, variable: str) -> PublicUrl:
    """Raise a SettingsError where the variable is no URL, and a StorageError where Amazon does not name a region."""
    text = Environment.read().text(variable)
    if text is not None:
        return _parsed(text, variable)
    if storage.settings.is_folder:
        raise SettingsError(
            f"A folder has no address of its own: set {variable} to the one under which Mastodon serves it, such as"
            " https://mastodon.example/system."
        )
    return bucket_url(storage)


def bucket_url(storage: Storage) -> PublicUrl:
    """Return the address of a bucket at its endpoint, whatever else leads there. Raises as `destination_url`."""
    settings = storage.settings
    if settings.endpoint_url is None:
        url = _parsed(amazon_endpoint(storage.region), settings.variable("S3_REGION"))
    else:
        url = _parsed(settings.endpoint_url, settings.variable("S3_ENDPOINT"))
    # Amazon takes both forms; its certificate does not cover names with dots.
    in_path = settings.path_style if settings.endpoint_url else not _ANY_BUCKET.fullmatch(settings.bucket)
    if in_path:
        return PublicUrl(url.scheme, url.host, f"{url.path}/{settings.bucket}")
    return PublicUrl(url.scheme, f"{settings.bucket}.{url.host}", url.path)


def _parsed(text: str, variable: str) -> PublicUrl:
    problem = SettingsError(
        f"{variable} must be a URL such as https://new-bucket.example.com, without user, query and fragment."
    )
    try:
        url = urlsplit(text.strip())
        host = url.netloc.lower()
        url.port  # noqa: B018  (it raises if the port is invalid)
    except ValueError:
        raise problem from None
    path = url.path.rstrip("/")
    # `urlsplit` drops line breaks and tabs, wherever they are.
    if url.scheme not in {"http", "https"} or url.query or url.fragment or not text.strip().isprintable():
        raise problem
    if not _HOST.fullmatch(host) or not _PATH.fullmatch(path):
        raise problem
    return PublicUrl(url.scheme, host, path)
