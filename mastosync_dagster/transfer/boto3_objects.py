"""Objects through boto3: what obstore cannot name or write, uploads in parts, answers whose headers matter."""

from __future__ import annotations

import base64
import contextlib
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from mastosync_dagster.transfer.headers import CONTENT_ENCODING, STORAGE_CLASS, Attributes
from mastosync_dagster.transfer.verify import bare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, GetObjectOutputTypeDef, HeadObjectOutputTypeDef

    from mastosync_dagster.transfer.storage import Storage

_ARGUMENTS = {
    "Content-Type": "ContentType",
    "Cache-Control": "CacheControl",
    "Content-Disposition": "ContentDisposition",
    CONTENT_ENCODING: "ContentEncoding",
    "Content-Language": "ContentLanguage",
    "Expires": "Expires",
    STORAGE_CLASS: "StorageClass",
}
_READ = tuple(name for name in _ARGUMENTS if name != STORAGE_CLASS)
_OWN_KEY_ENCRYPTION = frozenset({"aws:kms", "aws:kms:dsse"})


class Reply(NamedTuple):
    """An object that is being read.

    Attributes:
        size: Bytes of the whole object.
        etag: Bare; None where there is none.
        attributes: Header fields and user metadata.
        pieces: The body.
        close: Ends the connection, if the body is not to be read to its end.
        modified: When it was last written, by the server's clock; None: not known.
    """

    size: int
    etag: str | None
    attributes: Attributes
    pieces: Iterator[bytes]
    close: Callable[[], None]
    modified: datetime | None = None


def get(storage: Storage, key: str, piece_size: int) -> Reply:
    """Start reading an object.

    Args:
        storage: The side.
        key: Full key.
        piece_size: Bytes of a piece at most.
    """
    answer = storage.single_try_client.get_object(Bucket=storage.settings.bucket, Key=key)
    return Reply(
        size=answer["ContentLength"],
        etag=bare(answer.get("ETag")),
        attributes=_attributes(answer),
        pieces=answer["Body"].iter_chunks(piece_size),
        close=answer["Body"].close,
        modified=answer.get("LastModified"),
    )


def read_attributes(storage: Storage, key: str) -> Attributes:
    """Ask for the header fields and metadata of an object, given its full key."""
    return _attributes(storage.single_try_client.head_object(Bucket=storage.settings.bucket, Key=key))


def _attributes(answer: GetObjectOutputTypeDef | HeadObjectOutputTypeDef) -> Attributes:
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    return Attributes(
        {name: headers[name.lower()] for name in _READ if name.lower() in headers},
        # botocore leaves them as the server writes them, and some write capitals.
        {name.lower(): value for name, value in answer["Metadata"].items()},
    )


def _arguments(storage: Storage, attributes: Attributes, *, private: bool) -> dict[str, Any]:
    """Return boto3's arguments for writing an object: its header fields, its metadata, its ACL, its storage class."""
    headers, metadata = storage.write_attributes(attributes)
    arguments: dict[str, Any] = {_ARGUMENTS[name]: value for name, value in headers.items()}
    if "Expires" in arguments:
        with contextlib.suppress(ValueError):
            arguments["Expires"] = parsedate_to_datetime(arguments["Expires"])
    if metadata:
        arguments["Metadata"] = dict(metadata)
    if storage.settings.permission:
        arguments["ACL"] = "private" if private else storage.settings.permission
    return arguments


def put(storage: Storage, key: str, body: bytes, md5: bytes, attributes: Attributes, *, private: bool) -> str | None:
    """Write an object in one request; the server checks the MD5. Returns its bare ETag."""
    answer = storage.single_try_client.put_object(
        Bucket=storage.settings.bucket,
        Key=key,
        Body=body,
        ContentMD5=base64.b64encode(md5).decode(),
        **_arguments(storage, attributes, private=private),
    )
    return bare(answer.get("ETag"))


class UploadLostError(Exception):
    """The server has dropped an upload, as rclone does with a part that arrives damaged: start again."""


class Upload:
    """An upload in parts. It is published by `complete` alone, and leaves nothing behind after `abort`.

    Header fields, ACL and storage class go with the first request only: some servers refuse them with the others.

    Attributes:
        etags_are_md5: Whether the ETags of its parts are MD5s: not so where the server encrypts with a key of its own.
    """

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self._bucket = storage.settings.bucket
        self._key = key
        self._upload_id: str | None = None
        self._parts: list[CompletedPartTypeDef] = []
        self._creations = 0
        self.etags_are_md5 = True

    @property
    def _client(self) -> S3Client:
        return self._storage.single_try_client

    def create(self, attributes: Attributes, *, private: bool) -> None:
        """Begin."""
        self._creations += 1
        answer = self._client.create_multipart_upload(
            Bucket=self._bucket, Key=self._key, **_arguments(self._storage, attributes, private=private)
        )
        self._upload_id = answer["UploadId"]
        self.etags_are_md5 = answer.get("ServerSideEncryption") not in _OWN_KEY_ENCRYPTION

    def put_part(self, body: bytes | bytearray, md5: bytes) -> str | None:
        """Send the next part; the server checks the MD5. Returns its bare ETag.

        Raises:
            UploadLostError: The server has no such upload any more.
        """
        number = len(self._parts) + 1
        try:
            answer = self._client.upload_part(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id or "",
                PartNumber=number,
                Body=body,  # type: ignore[arg-type]  # boto3 takes a bytearray too, the stubs do not know it
                ContentMD5=base64.b64encode(md5).decode(),
            )
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in {"NoSuchUpload", "BadDigest"}:
                raise UploadLostError from error
            raise
        return bare(answer.get("ETag"))

    def keep_part(self, etag: str | None) -> None:
        """Take the part that was sent last into the object."""
        self._parts.append({"ETag": f'"{etag}"', "PartNumber": len(self._parts) + 1})

    def complete(self) -> str | None:
        """Publish the object.

        Returns:
            Its bare ETag; None where the server says that the upload is over already: an earlier request was carried
            out and its reply lost, or somebody has removed the upload. The object itself has to be looked at.
        """
        try:
            answer = self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id or "",
                MultipartUpload={"Parts": self._parts},
            )
        except self._client.exceptions.NoSuchUpload:
            return None
        return bare(answer.get("ETag"))

    def abort(self) -> None:
        """Remove the upload and its parts; others of this key too, if it began one whose id was lost."""
        if self._upload_id is not None:
            self._abort(self._upload_id)
        if self._creations > (self._upload_id is not None):
            self.remove_others()

    def remove_others(self) -> None:
        """Remove other uploads of this key: of requests whose replies were lost, and of runs that died.

        After `complete` that harms nobody: a run that is copying the same object beside us begins again, and is not
        disturbed any more.
        """
        answer = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=self._key)
        for found in answer.get("Uploads", []):
            if found["Key"] == self._key and found["UploadId"] != self._upload_id:
                self._abort(found["UploadId"])

    def _abort(self, upload_id: str) -> None:
        with contextlib.suppress(self._client.exceptions.NoSuchUpload):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=upload_id)
