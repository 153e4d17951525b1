"""A storage as a Dagster resource: dagster-aws' S3Resource with Mastodon's settings for its bucket."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from dagster_aws.s3 import S3Resource
from pydantic import Field

from mastosync_dagster.addresses import is_address
from mastosync_dagster.environment import (
    BUCKET,
    DESTINATION_FOLDER,
    DESTINATION_PREFIX,
    SOURCE_FOLDER,
    Environment,
    MissingSettingError,
    SettingsError,
    media_folder,
)
from mastosync_dagster.folder.storage import FolderStorage, folder_settings
from mastosync_dagster.mastodon.keys import CACHE, prefixed
from mastosync_dagster.mastodon.tables import TABLES
from mastosync_dagster.resources.fields import Fields, Secret, refuse_variables
from mastosync_dagster.s3.credentials import aws_session, reason_without_output, sendable
from mastosync_dagster.s3.probes import are_one_place
from mastosync_dagster.s3.settings import StorageSettings
from mastosync_dagster.s3.storage import Storage

if TYPE_CHECKING:
    import dagster as dg
    from botocore.loaders import Loader
    from mypy_boto3_s3 import S3Client

_CANNED_ACLS = (
    *("private", "public-read", "public-read-write", "authenticated-read"),
    *("aws-exec-read", "bucket-owner-read", "bucket-owner-full-control"),
)
_CREDENTIALS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
# The name may become a part of the host name: other characters could change the host.
_NAME = re.compile(r"[A-Za-z0-9._:-]+", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9]+)?", re.ASCII)
_PLACEHOLDER = re.compile(r"(YOUR[_-].*|MY[_-].*|ACCOUNT([_-]?ID)?|REGION|BUCKET([_-]?NAME)?|HOST(NAME)?)", re.ASCII)
"""Placeholders of documentation pages, such as ACCOUNT_ID."""

_MASTODONS_FOLDERS = frozenset({CACHE.removesuffix("/"), *TABLES})
"""At the top of a storage, under its key prefix."""


@functools.cache
def _service_models(data_path: str | None) -> Loader:
    """Return botocore's loader of service descriptions, which caches them.

    Sessions share it: a client with a loader of its own takes 12 MB and a tenth of a second more.
    """
    return botocore.loaders.create_loader(data_path)


class S3Bucket(S3Resource):
    """A bucket and its endpoint: the source's, or `DestinationBucket`.

    An unset field comes from the environment: Mastodon's own variables after ``variable_prefix``. An empty text means
    "none", whatever the variable says. Source and destination are classes, not a field: run config that overrides one
    field of a resource resets all others to the defaults of its class.
    """

    storage_name: ClassVar[str] = "source"
    """The resource's key, and the storage's name in messages."""
    variable_prefix: ClassVar[str] = ""
    folder_variable: ClassVar[str] = SOURCE_FOLDER
    """Names a folder that is the storage in the place of a bucket."""

    bucket: str | None = Field(default=None, description="Bucket name. Unset: S3_BUCKET.")
    key_prefix: str | None = Field(
        default=None, description="Text before every key, as Mastodon 4.3 has it. Unset: S3_KEY_PREFIX."
    )
    permission: str | None = Field(
        default=None,
        description="Canned ACL of the objects that are written; an empty text sends none, for buckets without ACLs. "
        "Unset: S3_PERMISSION, else public-read. Private objects stay private where there are ACLs.",
    )
    storage_class: str | None = Field(
        default=None, description="Storage class of the objects that are written. Unset: S3_STORAGE_CLASS."
    )
    path_style: bool | None = Field(
        default=None,
        description="endpoint/bucket/key instead of bucket.endpoint/key. Unset: as Mastodon does it, path style where "
        "S3_ENDPOINT is set and S3_OVERRIDE_PATH_STYLE is not true.",
    )
    endpoint_url: str | None = Field(
        default=None, description="URL of the storage, without the bucket. Unset: S3_ENDPOINT, else Amazon."
    )
    region_name: str | None = Field(
        default=None,
        description="Region to sign for. Unset: S3_REGION, else asked of Amazon, and us-east-1 everywhere else.",
    )
    aws_access_key_id: str | None = Field(
        default=None,
        description="Access key. Unset: AWS_ACCESS_KEY_ID, else the profile, else the machine's own role; needed, with "
        "its secret, where endpoint_url is set here.",
    )
    aws_secret_access_key: Secret | None = Field(  # type: ignore[assignment]  # never a literal here
        default=None, description="Its secret, as {env: NAME}. Unset: AWS_SECRET_ACCESS_KEY."
    )
    aws_session_token: Secret | None = Field(  # type: ignore[assignment]  # never a literal here
        default=None, description="Token of temporary credentials, as {env: NAME}. Unset: AWS_SESSION_TOKEN."
    )
    ca_file: str | None = Field(
        default=None,
        description="PEM file with the certificates that the server's is checked against. Unset: S3_CA_FILE, else the"
        " file of AWS_CA_BUNDLE or SSL_CERT_FILE.",
    )
    connect_timeout: int | None = Field(
        default=None, description="Seconds until a connection stands. Unset: S3_CONNECT_TIMEOUT, else 10."
    )
    read_timeout: int | None = Field(
        default=None,
        description="Seconds without a byte until a request is repeated. Unset: S3_ANSWER_TIMEOUT, else 50.",
    )
    upload_timeout: int | None = Field(
        default=None,
        description="Seconds that the storage may take to answer once a large body has been sent. Unset:"
        " S3_UPLOAD_TIMEOUT, else 300.",
    )

    @staticmethod
    def source() -> S3Bucket:
        """Return the bucket that Mastodon's own variables describe."""
        return S3Bucket()

    @staticmethod
    def destination() -> S3Bucket:
        """Return the bucket that the same variables with the prefix ``DESTINATION_`` describe."""
        return DestinationBucket()

    @property
    def variables(self) -> dict[str, str]:
        """The environment variable that each field falls back to."""
        return {field: self.variable_prefix + name for field, name in BUCKET.items()}

    def is_named(self) -> bool:
        """Return whether run config or a variable names a bucket or a folder, whatever else is not set."""
        environment = Environment.read()
        return self._names_bucket() or any(map(environment.text, (self.variables["bucket"], self.folder_variable)))

    def storage(self) -> Storage:
        """Return the storage for a transfer. Nothing is opened yet."""
        settings = self.settings()
        if self.use_unsigned_session:
            raise SettingsError(
                f"resources.{self.storage_name}.config.use_unsigned_session is for get_client() only: a transfer signs."
            )
        folder = None if self._names_bucket() else media_folder(self.folder_variable)
        if folder is not None:
            return FolderStorage(settings, folder, writable=bool(self.variable_prefix))
        return Storage(settings)

    def _names_bucket(self) -> bool:
        """Return whether run config names a bucket: that wins over the variable of a folder."""
        return self.bucket is not None or self.endpoint_url is not None

    def get_client(self) -> S3Client:
        """Return a boto3 client."""
        settings = self.settings()
        profile = f"{settings.profile_settings} and the AWS configuration files"
        try:
            session = aws_session(settings)
            session.register_component("data_loader", _service_models(session.get_config_variable("data_path")))
            if settings.access_key_id is None and not self.use_unsigned_session:
                _ensure_sendable(session, profile)
            client: S3Client = boto3.Session(botocore_session=session).client(
                "s3",
                region_name=settings.region or "us-east-1",
                endpoint_url=settings.endpoint_url,
                use_ssl=self.use_ssl,
                verify=(settings.ca_file or None) if settings.verify else False,
                aws_access_key_id=settings.access_key_id,
                aws_secret_access_key=settings.secret_access_key,
                aws_session_token=settings.session_token,
                config=self._client_config(settings),
            )
        except (BotoCoreError, OSError, ValueError, RuntimeError) as error:
            raise SettingsError(
                f"The client of the {self.storage_name} cannot be created: {reason_without_output(error)}."
                f" Check {profile}."
            ) from None
        return client

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Check the variables that run config names before anything is opened."""
        refuse_variables(context, self.storage_name, self.variables)

    def get_object_to_set_on_execution_context(self) -> S3Bucket:
        """Return the resource itself: dagster-aws would create a client whenever a step starts."""
        return self

    def settings(self, environment: Environment | None = None) -> StorageSettings:
        """Return the fields merged with the environment; None: as it is now."""
        environment = environment or Environment.read()
        folder = None if self._names_bucket() else media_folder(self.folder_variable, environment)
        if folder is not None:
            return folder_settings(self.storage_name, self.variable_prefix, folder)
        fields = Fields(self.storage_name, self, self.variables, environment)
        fields = replace(fields, apart=fields.detached("endpoint_url", *_CREDENTIALS))
        bucket, endpoint = _bucket(fields), _endpoint(fields, use_ssl=self.use_ssl)
        path_style = self._path_style(fields, bucket, endpoint)
        _ensure_url(fields, bucket, endpoint, path_style=path_style)
        key, secret, token = (None, None, None) if self.use_unsigned_session else _credentials(fields)
        return StorageSettings(
            name=self.storage_name,
            variable_prefix=self.variable_prefix,
            bucket=bucket,
            prefix=_prefix(fields),
            endpoint_url=endpoint,
            region=_region(fields),
            path_style=path_style,
            access_key_id=key,
            secret_access_key=secret,
            session_token=token,
            profile=fields.text("profile_name"),
            verify=_verifies(fields),
            ca_file=fields.text("ca_file"),
            permission=_permission(fields),
            storage_class=_storage_class(fields),
            connect_timeout=fields.number("connect_timeout", lowest=1, highest=600, default=10),
            read_timeout=fields.number("read_timeout", lowest=1, highest=3_600, default=50),
            upload_timeout=fields.number("upload_timeout", lowest=1, highest=3_600, default=300),
        )

    def _path_style(self, fields: Fields, bucket: str, endpoint: str | None) -> bool:
        if self.path_style is not None:
            return self.path_style
        if endpoint is None:
            # Amazon's wildcard certificate does not cover names with dots.
            return "." in bucket
        return fields.text("path_style") != "true"

    def _client_config(self, settings: StorageSettings) -> Config:
        unsigned = {"signature_version": UNSIGNED} if self.use_unsigned_session else {}
        return Config(  # type: ignore[call-arg]  # the stubs lack ignore_configured_endpoint_urls
            **unsigned,
            s3={"addressing_style": "path" if settings.path_style else "virtual"},
            # Checksum trailers are Amazon's: other storages refuse them or, worse, store them as part of the object.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # AWS_ENDPOINT_URL is for other programs, and would set one endpoint for source and destination.
            ignore_configured_endpoint_urls=True,
            retries={"mode": "standard", "max_attempts": self.max_attempts},
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
            max_pool_connections=settings.max_connections,
        )


class DestinationBucket(S3Bucket):
    """The bucket that is copied to."""

    storage_name: ClassVar[str] = "destination"
    variable_prefix: ClassVar[str] = DESTINATION_PREFIX
    folder_variable: ClassVar[str] = DESTINATION_FOLDER


def ensure_different(source: S3Bucket, destination: S3Bucket) -> None:
    """Raise SettingsError if source and destination are the same bucket with the same key prefix, by their settings.

    And if one of them lies in a folder of Mastodon's at the other, such as ``cache/``: the copy's objects would lie
    among those that are copied.
    """
    settings = destination.settings()
    mine, theirs = _folders(source.settings()), _folders(settings)
    if mine == theirs:
        at = settings.endpoint_url or "Amazon"
        under = f" under {settings.prefix}" if settings.prefix else ""
        place = settings.identity if settings.is_folder else f"the bucket {settings.bucket}{under} at {at}"
        raise SettingsError(f"Source and destination are the same place: {place}. {_how_to_differ(settings)}")
    outer, inner = sorted((mine, theirs), key=len)
    below = inner[len(outer) :]
    if inner[: len(outer)] == outer and below[0] in _MASTODONS_FOLDERS:
        raise SettingsError(
            f"Of source and destination, one lies in the other's folder {below[0]}/, which is Mastodon's own."
            f" {_how_to_differ(settings)}"
        )


def _folders(settings: StorageSettings) -> list[str]:
    """Return server, bucket and folders of the key prefix. Some servers take ``a//b`` and ``./a/b`` for ``a/b``."""
    return [part for part in settings.identity.split("/") if part not in {"", "."}]


def ensure_two_places(source: S3Bucket, destination: S3Bucket, *, whatever_their_names: bool = False) -> None:
    """Raise SettingsError as `ensure_different`, and if what is written to the destination appears at the source.

    A bucket may have two addresses. Unless it is to be tried ``whatever_their_names``, only buckets of the same name,
    and folders, are suspected.
    """
    ensure_different(source, destination)
    here, there = source.storage(), destination.storage()
    if (whatever_their_names or _may_be_one(here.settings, there.settings)) and are_one_place(here, there):
        raise SettingsError(
            f"Source and destination are the same place under two names: what was written to {there.settings.identity}"
            f" appeared at {here.settings.identity}. {_how_to_differ(there.settings)}"
        )


def _may_be_one(source: StorageSettings, destination: StorageSettings) -> bool:
    named = source.bucket.lower() == destination.bucket.lower() and source.prefix == destination.prefix
    return named and source.is_folder == destination.is_folder


def _how_to_differ(settings: StorageSettings) -> str:
    if settings.is_folder:
        return f"Change {DESTINATION_FOLDER}."
    names = " or ".join(settings.variable(name) for name in ("S3_BUCKET", "S3_ENDPOINT", "S3_KEY_PREFIX"))
    return f"Change {names} (or their fields under resources.{settings.name}.config)."


def _bucket(fields: Fields) -> str:
    bucket = fields.needed("bucket")
    if not _NAME.fullmatch(bucket):
        raise SettingsError(
            f"{fields.name('bucket')} must be the name of a bucket only; a prefix of the keys in it belongs in "
            f"{fields.name('key_prefix')}."
        )
    return bucket


def _endpoint(fields: Fields, *, use_ssl: bool) -> str | None:
    text = fields.text("endpoint_url")
    if text is None:
        if not use_ssl:
            raise SettingsError(
                f"{fields.path('use_ssl')} is off: without TLS, {fields.name('endpoint_url')} must be an http:// URL."
            )
        return None
    problem = SettingsError(
        f"{fields.name('endpoint_url')} must be a URL such as https://s3.example.com, without user, password and query."
    )
    try:
        url = urlsplit(text)
        if url.scheme not in {"http", "https"} or not url.hostname or "@" in url.netloc or url.query or url.fragment:
            raise problem
        url.port  # noqa: B018  (it raises if the port is invalid)
    except ValueError:
        raise problem from None
    return text.rstrip("/")


def _ensure_url(fields: Fields, bucket: str, endpoint: str | None, *, path_style: bool) -> None:
    """Raise SettingsError if bucket and endpoint give no valid URL of an object."""
    if endpoint is None:
        return
    url = urlsplit(endpoint)
    host = url.hostname or ""
    if not _HOST.fullmatch(host) or any(_PLACEHOLDER.fullmatch(word) for word in url.netloc.split(".")):
        raise SettingsError(
            f"{fields.name('endpoint_url')} still has a placeholder, or a character that no host name has: put your own"
            " account, region or host name in its place."
        )
    # `urlsplit` drops line breaks and tabs, wherever they are.
    if " " in endpoint or not endpoint.isprintable():
        raise SettingsError(f"{fields.name('endpoint_url')} has a line break or a blank, which no URL has.")
    if url.path.rstrip("/").rpartition("/")[2] == bucket:
        raise SettingsError(
            f"{fields.name('endpoint_url')} ends with the name of the bucket: remove it, since {fields.name('bucket')}"
            " has it already."
        )
    if path_style:
        return
    if is_address(host) or ":" in bucket:
        what = "an IP address" if is_address(host) else "a host name with the bucket in it"
        raise SettingsError(
            f"The bucket {bucket} cannot be put before {what}: leave {fields.variables['path_style']} unset, or set"
            f" {fields.path('path_style')} to true, so that the bucket is in the path."
        )


def _region(fields: Fields) -> str | None:
    region = fields.text("region_name")
    if region is not None and not _NAME.fullmatch(region):
        raise SettingsError(f"{fields.name('region_name')} must be the name of a region, such as us-east-1.")
    return region


def _prefix(fields: Fields) -> str:
    key_prefix = fields.text("key_prefix")
    if key_prefix is None:
        return ""
    if not key_prefix.isprintable():
        raise SettingsError(
            f"{fields.name('key_prefix')} has a line break, or another character that no key of Mastodon has."
        )
    if "://" in key_prefix:
        # Not repeated: there may be credentials in it.
        raise SettingsError(f"{fields.name('key_prefix')} holds a URL: it is what keys begin with, such as media.")
    if key_prefix != key_prefix.strip():
        raise SettingsError(f"{fields.name('key_prefix')} begins or ends with a blank.")
    return prefixed(key_prefix, "")


def _storage_class(fields: Fields) -> str | None:
    storage_class = fields.text("storage_class")
    if storage_class is not None and not _NAME.fullmatch(storage_class):
        # It becomes a header.
        raise SettingsError(f"{fields.name('storage_class')} must be the name of a storage class, such as STANDARD_IA.")
    return storage_class


def _credentials(fields: Fields) -> tuple[str | None, str | None, str | None]:
    key, secret = fields.secret("aws_access_key_id"), fields.secret("aws_secret_access_key")
    if key is None and secret is None and fields.apart:
        raise MissingSettingError(fields.alone("endpoint_url", *_CREDENTIALS[:2]))
    if (key is None) != (secret is None):
        there, absent = ("aws_access_key_id", "aws_secret_access_key")[:: 1 if secret is None else -1]
        raise MissingSettingError(f"{fields.name(there)} is set, but {fields.name(absent)} is not.")
    if not sendable(key, secret, None):
        raise _unsendable(fields.name("aws_access_key_id"))
    # A token belongs to the key beside it.
    token = None if key is None else fields.secret("aws_session_token")
    if not sendable(None, None, token):
        raise _unsendable(fields.name("aws_session_token"))
    for name, value in zip(_CREDENTIALS, (key, secret, token), strict=True):
        if value is not None and value != value.strip():
            # A header loses them, and then what arrives is not what was signed; a secret has none.
            raise SettingsError(f"{fields.name(name)} begins or ends with a blank: remove it.")
    return key, secret, token


def _ensure_sendable(session: botocore.session.Session, where: str) -> None:
    """Raise SettingsError if botocore finds credentials that cannot be sent. Without any, the first request fails."""
    found = session.get_credentials()
    if found is not None:
        frozen = found.get_frozen_credentials()
        if not sendable(frozen.access_key, frozen.secret_key, frozen.token):
            raise _unsendable(where)


def _unsendable(where: str) -> SettingsError:
    return SettingsError(f"{where} holds a character that cannot be sent: it must be printable ASCII.")


def _verifies(fields: Fields) -> bool:
    return fields.one_of("verify", ("true", "false", "True", "False"), default="true").lower() == "true"


def _permission(fields: Fields) -> str:
    # Paperclip accepts public_read for public-read too.
    permission = fields.text_or_empty("permission", default="public-read").strip().replace("_", "-")
    if permission and permission not in _CANNED_ACLS:
        raise SettingsError(
            f"{fields.name('permission')} must be empty (no ACL is sent) or one of {', '.join(_CANNED_ACLS)}."
        )
    return permission
