"""How to reach one storage: the bucket, the endpoint, the credentials."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

_REGION = r"[a-z]{2,4}(-[a-z]+)+-\d"
_AMAZON = re.compile(
    rf"(^|\.)s3(-(fips|accelerate|external-1))?([.-]dualstack)?([.-](?P<region>{_REGION}))?(\.vpce)?"
    r"\.(?P<domain>amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu)\Z"
)
"""Host names of Amazon S3. Other servers have names below amazonaws.com too: load balancers, and machines of EC2."""
_AMAZON_S3 = "Amazon S3"


class _Partition(NamedTuple):
    """Regions of Amazon whose bucket names are apart from those of the others: see botocore's ``partitions.json``."""

    name: str
    domain: str


_OTHER_REGIONS = _Partition("", "amazonaws.com")
_PARTITIONS = (
    _Partition("cn", "amazonaws.com.cn"),
    _Partition("us-gov", "amazonaws.com"),
    _Partition("eusc", "amazonaws.eu"),
)
_PUBLIC = frozenset({"public-read", "public-read-write"})
FOLDER_SCHEME = "file://"
"""Begins the endpoint of a storage that is a folder of this machine."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


def one_spelling(text: str) -> str:
    """Return the one spelling of a destination id: ``<endpoint>/<bucket>/<prefix>`` or ``Amazon S3/<bucket>/<prefix>``.

    Earlier versions recorded it as the settings spelled it. What has one spelling already stays as it is.
    """
    scheme, _, rest = text.partition("://")
    if scheme.lower() not in _DEFAULT_PORTS:
        return text
    netloc, slash, path = rest.partition("/")
    return _server(f"{scheme}://{netloc}", None) + slash + path


def _server(endpoint_url: str | None, region: str | None) -> str:
    """Return the one name of a server.

    Scheme, default port, the host's case and dot, and slashes at the end make no difference; nor does which of Amazon's
    endpoints it is, for a bucket's name is taken once in all of its regions. A path does. The region matters for Amazon
    alone, and so does an endpoint of None: it is Amazon.
    """
    if endpoint_url is not None and endpoint_url.startswith(FOLDER_SCHEME):
        # A path, in which # and ? are characters like others.
        return endpoint_url.removeprefix(FOLDER_SCHEME).rstrip("/")
    url = urlsplit(endpoint_url or "")
    host = (url.hostname or "").rstrip(".")
    amazon = _AMAZON.search(host)
    if not endpoint_url or amazon:
        named, domain = (amazon["region"], amazon["domain"]) if amazon else (None, None)
        return f"{_AMAZON_S3} {_partition(named or region, domain).name}".rstrip()
    name = f"[{host}]" if ":" in host else host
    port = "" if url.port in {None, _DEFAULT_PORTS.get(url.scheme)} else f":{url.port}"
    return f"{name}{port}{url.path.rstrip('/')}"


def _partition(region: str | None, domain: str | None = None) -> _Partition:
    """Return the partition of a region, or else of a domain that only one has."""
    by_region = (each for each in _PARTITIONS if region is not None and region.startswith(f"{each.name}-"))
    by_domain = (each for each in _PARTITIONS if each.domain == domain != _OTHER_REGIONS.domain)
    return next(by_region, None) or next(by_domain, _OTHER_REGIONS)


def amazon_endpoint(region: str) -> str:
    """Return the URL of Amazon S3 in a region."""
    return f"https://s3.{region}.{_partition(region).domain}"


@dataclass(frozen=True)
class StorageSettings:
    """One storage, as an admin describes it.

    Attributes:
        name: ``source`` or ``destination``: the word for this storage in messages, and the resource to configure.
        prefix: Text put verbatim before every relative key: empty, or for example ``foo/``.
        endpoint_url: ``https://…`` or ``http://…`` without the bucket; None: Amazon S3.
        region: Region to sign for; None: found out on Amazon S3, ``us-east-1`` elsewhere.
        path_style: ``endpoint/bucket/key`` instead of ``bucket.endpoint/key``.
        access_key_id: None: credentials come from botocore's chain (profile, instance role, container).
        profile: Profile in the AWS configuration files that holds the credentials.
        ca_file: PEM file with the certificates to trust beside the system's.
        permission: Canned ACL of public objects; None or empty: no ACL header is sent at all.
        storage_class: Of written objects; None: the bucket's default.
        bucket_from: The setting that names the bucket, and stands for it in messages; empty: ``S3_BUCKET``.
        variable_prefix: What stands before this storage's environment variables: empty, or ``DESTINATION_``.
        connect_timeout: Seconds until a connection must stand.
        read_timeout: Seconds in which nothing moves, neither way, until a request counts as lost. It is no limit of a
            whole request: a slow line takes as long as it takes.
        upload_timeout: The same for the PUT of a body above 256 KiB (or one part of an upload), which a server may need
            time to store after it has come. A peer that takes nothing for half a minute, or whose machine is dead, is
            noticed by TCP; this limit is for one that takes everything and never answers.
        max_connections: Connections that the boto3 client of `get_client` keeps.
    """

    name: str
    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = True
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    verify: bool = True
    ca_file: str | None = None
    permission: str | None = None
    storage_class: str | None = None
    bucket_from: str = ""
    variable_prefix: str = ""
    connect_timeout: float = 10.0
    read_timeout: float = 50.0
    upload_timeout: float = 300.0
    max_connections: int = 64

    @property
    def is_amazon(self) -> bool:
        """Whether it is Amazon S3 itself."""
        return self.server.startswith(_AMAZON_S3)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, which keeps no headers."""
        return (self.endpoint_url or "").startswith(FOLDER_SCHEME)

    @property
    def server(self) -> str:
        """The one name of the server, however the endpoint is spelled."""
        return _server(self.endpoint_url, self.region)

    @property
    def identity(self) -> str:
        """The destination id: server, bucket and key prefix."""
        return f"{self.server}/{self.bucket}/{self.prefix}"

    @property
    def has_acls(self) -> bool:
        """Whether ACLs tell public objects from private ones here.

        With a permission that lets nobody (or not everybody) read, public objects are read in another way: by a policy,
        or through a proxy, to which a private object looks like any other.
        """
        return self.permission in _PUBLIC

    def variable(self, name: str) -> str:
        """Return the environment variable of this storage, for messages: ``DESTINATION_S3_BUCKET``."""
        return f"{self.variable_prefix}{name}"

    @property
    def profile_settings(self) -> str:
        """What sets the profile, for messages."""
        return f"{self.variable('AWS_PROFILE')} or {self.field('profile_name')}"

    def field(self, name: str) -> str:
        """Return the path of a field in the run config, for messages: ``resources.source.config.bucket``."""
        return f"resources.{self.name}.config.{name}"
