"""The nginx configuration of the media host, and the list of rows that it must not take from the old bucket."""

from __future__ import annotations

import ipaddress
import re
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from mastosync_dagster.cutover.media_host import destination_url, media_host, source_url
from mastosync_dagster.errors import AdminError
from mastosync_dagster.expected.privacy import has_private
from mastosync_dagster.mastodon import TABLES, Database, Selection, id_partition, walk_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster.cutover.media_host import PublicUrl
    from mastosync_dagster.resources import MastodonDatabase
    from mastosync_dagster.s3.storage import Storage

EXAMPLE_HOST = "files.example.com"
_PRIVATE_MAP = "/etc/nginx/mastosync-private[.]map"
"""A pattern: nginx starts without the file."""
_RESOLV_CONF = Path("/etc/resolv.conf")
_STUB_RESOLVER = "127.0.0.53"
_CA_FILES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, Alpine, Arch
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # Fedora, RHEL
    Path("/etc/ssl/ca-bundle.pem"),  # openSUSE
)


class Stage(str, Enum):
    """Which buckets the media host asks. The command's option takes the members' names."""

    old = "old"
    both = "both"
    new = "new"


class NginxError(AdminError):
    """A setting cannot stand in an nginx configuration; the message names it."""


def nginx_configuration(source: Storage, destination: Storage, stage: Stage, *, resolver: str | None = None) -> str:
    """Return the configuration.

    ``resolver`` is the name server that nginx asks for the buckets' names; None: the first of this machine's.

    Raises:
        SettingsError: A public address, S3_ALIAS_HOST or the resolver is none.
        StorageError: Amazon does not say in which region a bucket is.
    """
    old, new = source_url(source), destination_url(destination)
    before, after = source.settings.prefix, destination.settings.prefix
    values = {
        "NAME": media_host() or EXAMPLE_HOST,
        "STAGE": stage.value,
        "PREFIXES": _prefixes(before, after),
        "NEW": _base(new, after),
        "OLD": _base(old, before),
        "NEW_HOST": new.host,
        "OLD_HOST": old.host,
        "RESOLVER": _resolver(resolver),
        "VERIFY": _verification(new, old),
        "PRIVATE": _PRIVATE_MAP,
    }
    # A server's name has no port.
    values["NAME"] = values["NAME"].rpartition(":")[0] or values["NAME"]
    template = resources.files("mastosync_dagster.cutover").joinpath("nginx.conf").read_text(encoding="utf-8")
    return re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], template)


def private_rows(mastodon_db: MastodonDatabase) -> Iterator[str]:
    """Yield a line of nginx's map for each row whose files are private now. Raises an `AdminError`.

    Whole tables are left out: all archives are private, and the configuration says so.
    """
    with mastodon_db.session() as connect:
        database = Database.open(connect)
        for table in TABLES:
            if not has_private(table) or TABLES[table].private or not database.schema.has(table):
                continue
            # Two rows may have one folder: ids of other lengths than 18 digits lose some.
            last = ""
            for page in walk_rows(database, Selection(table, private_only=True)):
                for row in page.rows:
                    row_id = row["id"]
                    assert isinstance(row_id, int)  # noqa: S101  (the primary key of all these tables is a bigint)
                    line = f"{table}/{id_partition(row_id)}/ 1;"
                    if line != last:
                        yield line
                    last = line


def _prefixes(*prefixes: str) -> str:
    """Return the part of a regular expression that takes either key prefix away."""
    found = list(dict.fromkeys(filter(None, prefixes)))
    for prefix in found:
        if re.search(r"[^\w./~%:@!+,=-]", prefix):
            raise NginxError(
                "S3_KEY_PREFIX has a character that cannot stand in an nginx configuration: write the configuration by"
                " hand, after the one of an instance without a prefix"
            )
    # nginx joins slashes in the path that it has decoded.
    return f"({'|'.join(re.escape(prefix).replace('//', '/+') for prefix in found)})?" if found else ""


def _base(url: PublicUrl, prefix: str) -> str:
    """Return the address before a key, which begins with a slash."""
    return url.of(prefix).rstrip("/") if prefix else str(url)


def _resolver(given: str | None) -> str:
    """Return nginx's name server: an address, in brackets where it is IPv6."""
    found = given or _first_nameserver() or _STUB_RESOLVER
    host, port = found, ""
    if given is not None and found.count(":") == 1:
        host, _, port = found.partition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise NginxError(f"--resolver must be the IP address of a name server, such as {_STUB_RESOLVER}") from None
    shown = f"[{address}]" if isinstance(address, ipaddress.IPv6Address) else str(address)
    return f"{shown}:{int(port)}" if port.isdecimal() else shown


def _first_nameserver() -> str | None:
    try:
        lines = _RESOLV_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return None
    servers = [words[1] for line in lines for words in [line.split()] if words[:1] == ["nameserver"] and words[1:]]
    return next((server for server in servers if "%" not in server), None)


def _verification(*urls: PublicUrl) -> str:
    if all(url.scheme == "http" for url in urls):
        return "    proxy_ssl_verify off;  # neither bucket has TLS"
    known = next((file for file in _CA_FILES if file.exists()), None)
    if known is None:
        return (
            "    # proxy_ssl_verify on;\n    # proxy_ssl_trusted_certificate /path/to/ca-certificates.crt;"
            "  # the system's CA certificates"
        )
    return f"    proxy_ssl_verify on;\n    proxy_ssl_verify_depth 5;\n    proxy_ssl_trusted_certificate {known};"
