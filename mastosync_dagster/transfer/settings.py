"""How to reach one side of a transfer: the bucket, the endpoint, the credentials."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StorageSettings:
    """One side of a transfer, as an admin describes it.

    Attributes:
        name: ``source`` or ``destination``: the word for this side in messages, and the resource to configure.
        bucket: Bucket name.
        prefix: Text put verbatim before every relative key: empty, or for example ``foo/``.
        endpoint_url: ``https://…`` or ``http://…`` without the bucket; None: Amazon S3.
        region: Region to sign for; None: found out on Amazon S3, ``us-east-1`` elsewhere.
        path_style: ``endpoint/bucket/key`` instead of ``bucket.endpoint/key``.
        access_key_id: Access key; None: credentials come from botocore's chain (profile, instance role, container).
        secret_access_key: That key's secret.
        session_token: Token of temporary credentials.
        profile: Profile in the AWS configuration files that holds the credentials.
        verify: Whether the server's certificate is checked.
        ca_file: PEM file with the certificates to trust beside the system's.
        permission: Canned ACL of public objects; None or empty: no ACL header is sent at all.
        storage_class: Storage class of written objects; None: the bucket's default.
        variable_prefix: What stands before this side's environment variables: empty, or ``DESTINATION_``.
        connect_timeout: Seconds until a connection must stand.
        read_timeout: Seconds without a byte of an answer until a GET, HEAD or listing counts as lost.
        small_timeout: Seconds that the GET or PUT of a small body (256 KiB) may take, so that a dead or dying peer is
            noticed soon: nearly all objects are small.
        download_timeout: Seconds that a GET may take, body included.
        upload_timeout: Seconds that a PUT (or one part of an upload) may take. No shorter limit of the HTTP client can
            hold for it: its read timeout also runs while a body is being sent. A peer that takes nothing for half a
            minute, or whose machine is dead, is noticed by TCP (the HTTP client, reqwest, sets TCP_USER_TIMEOUT
            to 30 s and keepalive to 15 s); this limit is for one that takes everything and never answers.
        max_connections: Connections that the boto3 client keeps; obstore opens what its callers need.
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
    variable_prefix: str = ""
    connect_timeout: float = 10.0
    read_timeout: float = 50.0
    small_timeout: float = 50.0
    download_timeout: float = 1800.0
    upload_timeout: float = 300.0
    max_connections: int = 64

    def variable(self, name: str) -> str:
        """Return the environment variable of this side, for messages: ``DESTINATION_S3_BUCKET``."""
        return f"{self.variable_prefix}{name}"

    def field(self, name: str) -> str:
        """Return the path of a field in the run config, for messages: ``resources.source.config.bucket``."""
        return f"resources.{self.name}.config.{name}"
