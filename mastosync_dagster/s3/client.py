"""S3's requests, as coroutines. Each is sent once: who repeats it sees every refusal (`retry`)."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from mastosync_dagster.s3.http import BytesSource, Http, Reply, Transport, host_of
from mastosync_dagster.s3.listing import NotXmlError, Page, parse, parse_page
from mastosync_dagster.s3.signing import Signer, quoted_path, quoted_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mastosync_dagster.s3.http import Sink, Source
    from mastosync_dagster.s3.loop import Loop
    from mastosync_dagster.s3.signing import Credentials

_OK = range(200, 300)
_EXPECTED_REGION = re.compile(r"expecting '([\w-]+)'")
_STREAMED_BYTES = 1024 * 1024
"""Bodies above this are handed to libcurl in pieces: it would copy them whole."""
_SMALL_BYTES = 256 * 1024
"""Bodies up to this size are stored as soon as they have come."""
_AGENT = b"User-Agent: mastosync"
_NOTHING = (b"Expect:", b"Content-Type:")
"""Headers that libcurl would add: a wait for 100 Continue, and the type of a form."""


class S3Error(Exception):
    """The server answered with a refusal.

    Attributes:
        method: Of the request.
        on_bucket: The request was about the bucket, not an object.
        reply: The answer.
        code: S3's word for the error; empty where the answer has none (to a HEAD there is no body).
        text: The server's own sentence; empty likewise.
        region: Where the bucket lives, if the answer names it.
    """

    def __init__(self, method: str, reply: Reply, *, on_bucket: bool) -> None:
        super().__init__(f"{method}: HTTP {reply.status}")
        self.method = method
        self.on_bucket = on_bucket
        self.reply = reply
        self.code = self.text = self.region = ""
        try:
            document = parse(reply.body) if reply.body else None
        except NotXmlError:
            self.text = _words_of(reply.body)
            document = None
        if document is not None and document.tag == "Error":
            self.code = document.text("Code") or ""
            self.text = document.text("Message") or ""
            self.region = document.text("Region") or ""
        expected = _EXPECTED_REGION.search(self.text)
        self.region = reply.headers.get("x-amz-bucket-region") or self.region or (expected[1] if expected else "")

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.reply.status

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait; None where it says nothing."""
        wait = self.reply.headers.get("retry-after", "")
        return float(wait) if wait.isdecimal() else None

    @property
    def location(self) -> str:
        """Where a redirect points; empty: nowhere."""
        return self.reply.headers.get("location", "")


def _words_of(body: bytes) -> str:
    """Return the beginning of an answer that is no XML: a firewall's page, a proxy's sentence."""
    return body[:400].decode("utf-8", "replace")


class Acl(NamedTuple):
    """Who may do what with an object.

    Attributes:
        grants: The URI of a group (empty: a single user) and a permission, each.
        is_acl: Whether the answer was an ACL at all: some servers answer with the object, or an empty page.
    """

    grants: list[tuple[str, str]]
    is_acl: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket, as a request names it.

    Attributes:
        endpoint: ``https://host[:port][/path]``, without the bucket, and without a slash at its end.
        bucket: Its name.
        path_style: ``endpoint/bucket/key`` instead of ``bucket.endpoint/key``.
    """

    endpoint: str
    bucket: str
    path_style: bool = True


class Client:
    """Sends requests to one bucket. Keys are full keys. Lives in its loop's thread.

    Args:
        loop: Carries the requests.
        place: The bucket.
        transport: How its server is reached.
        region: Region to sign for.
        credentials: Returns those of the moment.
        silence: Seconds without a byte of an answer until a request counts as lost.
        write_silence: The same for a request with a body that is not small.
    """

    def __init__(
        self,
        loop: Loop,
        place: Place,
        transport: Transport,
        *,
        region: str,
        credentials: Callable[[], Credentials],
        silence: float,
        write_silence: float,
    ) -> None:
        self.loop = loop
        self.bucket = place.bucket
        url = urlsplit(place.endpoint)
        netloc = url.netloc.rpartition("@")[2]
        root = url.path.rstrip("/")
        if place.path_style:
            root = f"{root}/{place.bucket}"
        else:
            netloc = f"{place.bucket}.{netloc}"
        self._site = f"{url.scheme}://{netloc}"
        self._root = quoted_path(root)
        self._host = host_of(self._site)
        self._http = Http(loop, transport)
        self._signer = Signer(region, credentials)
        self._silence = silence
        self._write_silence = write_silence

    async def _send(
        self,
        method: str,
        key: str | None,
        *,
        query: Iterable[tuple[str, str]] = (),
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Source | None = None,
        sink: Sink | None = None,
        limit: int | None = None,
        signed: bool = True,
    ) -> Reply:
        """Send a request.

        Args:
            method: ``GET``, …
            key: Full key; None: the request is about the bucket.
            query: Arguments.
            headers: Names in lower case.
            body: What is sent.
            sink: Takes the body of the answer.
            limit: Bytes of an answer's body at most; None: what an answer that is no object may have.
            signed: Else it gets what everybody may have.

        Raises:
            S3Error: The server refuses.
            TransportError: It does not answer.
        """
        path = self._root if key is None else f"{self._root}/{quoted_path(key)}"
        arguments = quoted_query(query) if query else ""
        given = list(headers)
        lines = [
            (f"{name}: {value}" if value else f"{name};").encode("utf-8", "surrogateescape") for name, value in given
        ]
        if signed:
            proof = self._signer.sign(method, self._host, path or "/", arguments, given)
            lines += [f"{name}: {value}".encode() for name, value in proof]
        lines += (_AGENT, *_NOTHING) if not any(name == "content-type" for name, _ in given) else (_AGENT, _NOTHING[0])
        reply = await self._http.request(
            method,
            f"{self._site}{path or '/'}{_as_sent(arguments)}",
            lines,
            silence=self._write_silence if _is_large(body) else self._silence,
            body=body,
            sink=sink,
            **({} if limit is None else {"limit": limit}),
        )
        if reply.status not in _OK:
            raise S3Error(method, reply, on_bucket=key is None)
        return reply

    async def get(
        self,
        key: str,
        *,
        limit: int,
        headers: Iterable[tuple[str, str]] = (),
        sink: Sink | None = None,
        signed: bool = True,
    ) -> Reply:
        """Read an object.

        Args:
            key: Full key.
            limit: Bytes at most: `Failure.TOO_LARGE` above.
            headers: ``range``, ``if-match``.
            sink: Takes the body; None: it comes with the answer.
            signed: Else as everybody.
        """
        return await self._send("GET", key, headers=headers, sink=sink, limit=limit, signed=signed)

    async def head(self, key: str, *, query: Iterable[tuple[str, str]] = ()) -> Reply:
        """Ask for an object's headers."""
        return await self._send("HEAD", key, query=query)

    async def head_bucket(self) -> Reply:
        """Ask whether there is such a bucket."""
        return await self._send("HEAD", None)

    async def put(
        self, key: str, body: bytes | bytearray | Source, headers: Mapping[str, str], md5: bytes | None
    ) -> Reply:
        """Write an object.

        Args:
            key: Full key.
            body: Its body.
            headers: All that belongs to it, ACL and storage class included.
            md5: The body's MD5, which the server is to check; None: it is not known.
        """
        return await self._send("PUT", key, headers=[*_lower(headers), *_md5_header(md5)], body=_streamed(body))

    async def copy(self, bucket: str, source_key: str, key: str, headers: Mapping[str, str]) -> Reply:
        """Have the server copy an object.

        Args:
            bucket: Where it is.
            source_key: Full key there.
            key: Full key here.
            headers: ACL and storage class; all others are kept by the server.
        """
        origin = ("x-amz-copy-source", f"/{bucket}/{quoted_path(source_key)}")
        reply = await self._send("PUT", key, headers=[origin, *_lower(headers)], body=b"")
        return self._without_error("PUT", reply)

    async def delete(self, key: str) -> None:
        """Delete an object. That it was not there is no error."""
        await self._send("DELETE", key)

    async def get_acl(self, key: str) -> Acl:
        """Ask for an object's ACL."""
        reply = await self._send("GET", key, query=[("acl", "")])
        try:
            document = parse(reply.body)
        except NotXmlError:
            return Acl([], is_acl=False)
        if document.tag != "AccessControlPolicy":
            return Acl([], is_acl=False)
        return Acl(
            [
                (
                    next((uri.text or "" for uri in grant.iter(document.space + "URI")), ""),
                    document.text("Permission", grant) or "",
                )
                for grant in document.all("Grant")
            ],
            is_acl=True,
        )

    async def put_acl(self, key: str, acl: str) -> None:
        """Give an object a canned ACL."""
        await self._send("PUT", key, query=[("acl", "")], headers=[("x-amz-acl", acl)], body=b"")

    async def list_page(
        self, prefix: str, *, after: str | None = None, token: str | None = None, keys: int, delimiter: str = ""
    ) -> Page:
        """List some objects (ListObjectsV2).

        Args:
            prefix: Of their full keys.
            after: A full key: list what comes behind it; None: from the beginning.
            token: Of an earlier page; then ``after`` does not count.
            keys: So many at most.
            delimiter: What lies behind the next one of these counts as a folder, and is not listed.

        Raises:
            NotXmlError: The answer is no listing.
        """
        query = [("list-type", "2"), ("max-keys", str(keys)), ("prefix", prefix)]
        if delimiter:
            query.append(("delimiter", delimiter))
        if token is not None:
            query.append(("continuation-token", token))
        elif after is not None:
            query.append(("start-after", after))
        reply = await self._send("GET", None, query=query)
        try:
            return parse_page(reply.body)
        except NotXmlError:
            self._without_error("GET", reply)
            # A key may hold characters that XML cannot: then it has to be written as in a URL.
            reply = await self._send("GET", None, query=[*query, ("encoding-type", "url")])
            return parse_page(reply.body)

    async def create_upload(self, key: str, headers: Mapping[str, str]) -> tuple[str, Reply]:
        """Begin an upload in parts. Returns its id, and the answer.

        Raises:
            NotXmlError: The answer names none.
        """
        reply = await self._send("POST", key, query=[("uploads", "")], headers=_lower(headers), body=b"")
        upload_id = parse(reply.body).text("UploadId")
        if not upload_id:
            raise NotXmlError("the answer names no upload")
        return upload_id, reply

    async def put_part(
        self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview | Source, md5: bytes | None
    ) -> Reply:
        """Send a part, counted from 1."""
        query = [("partNumber", str(number)), ("uploadId", upload_id)]
        return await self._send("PUT", key, query=query, headers=_md5_header(md5), body=_streamed(body))

    async def complete_upload(self, key: str, upload_id: str, etags: Sequence[str]) -> str | None:
        """Publish an upload.

        Args:
            key: Full key.
            upload_id: Of the upload.
            etags: Bare ones of all parts, in their order.

        Returns:
            The object's ETag as it came; None where there is none.
        """
        parts = "".join(
            f"<RowWindow><PartNumber>{number}</PartNumber><ETag>&quot;{escape(etag)}&quot;</ETag></RowWindow>"
            for number, etag in enumerate(etags, 1)
        )
        body = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{parts}</CompleteMultipartUpload>'
        reply = await self._send(
            "POST",
            key,
            query=[("uploadId", upload_id)],
            headers=[("content-type", "application/xml")],
            body=body.encode(),
        )
        reply = self._without_error("POST", reply)
        try:
            return parse(reply.body).text("ETag") or None
        except NotXmlError:
            return None

    async def abort_upload(self, key: str, upload_id: str) -> None:
        """Remove an upload and its parts."""
        await self._send("DELETE", key, query=[("uploadId", upload_id)])

    async def list_uploads(self, prefix: str) -> list[tuple[str, str]]:
        """Return uploads that nobody has ended, by full key and id.

        Raises:
            NotXmlError: The answer is no listing.
        """
        document = parse((await self._send("GET", None, query=[("uploads", ""), ("prefix", prefix)])).body)
        return [
            (document.text("Key", upload) or "", document.text("UploadId", upload) or "")
            for upload in document.all("Upload")
        ]

    def _without_error(self, method: str, reply: Reply) -> Reply:
        """Return an answer that holds no error: servers that work long say 200 before they know.

        Raises:
            S3Error: It holds one.
        """
        try:
            document = parse(reply.body) if reply.body else None
        except NotXmlError:
            return reply
        if document is not None and document.tag == "Error":
            # No status tells it; what the code does not, is the server's own failure.
            raise S3Error(method, reply._replace(status=500), on_bucket=method == "GET")
        return reply


def _as_sent(arguments: str) -> str:
    """Return a query as everybody sends it: ``?acl``. Signed it is ``acl=``."""
    if not arguments:
        return ""
    return "?" + "&".join(argument.removesuffix("=") for argument in arguments.split("&"))


def _line(name: str, value: str) -> bytes:
    """Return a header as libcurl takes it: one without a value would be left out."""
    return (f"{name}: {value}" if value else f"{name};").encode("utf-8", "surrogateescape")


def _lower(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in headers.items()]


def _md5_header(md5: bytes | None) -> list[tuple[str, str]]:
    return [] if md5 is None else [("content-md5", base64.b64encode(md5).decode())]


def _is_large(body: bytes | Source | None) -> bool:
    return body is not None and (len(body) if isinstance(body, bytes) else body.size) > _SMALL_BYTES


def _streamed(body: bytes | bytearray | memoryview | Source) -> bytes | Source:
    if isinstance(body, (bytearray, memoryview)) or (isinstance(body, bytes) and len(body) > _STREAMED_BYTES):
        return BytesSource(body)
    return body
