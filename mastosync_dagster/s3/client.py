"""S3's requests, as coroutines. Each is sent once, and its caller (`s3.storage`, `copy.endpoint`) retries."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from mastosync_dagster.s3.http import ANSWER_BYTES, BytesSource, Http, Reply, Transport, host_of
from mastosync_dagster.s3.listing import NotXmlError, Page, parse, parse_page
from mastosync_dagster.s3.signing import Signer, quoted_path, quoted_query

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    import pycurl

    from mastosync_dagster.s3.http import Sink, Source
    from mastosync_dagster.s3.loop import Loop
    from mastosync_dagster.s3.signing import Credentials

_OK = range(200, 300)
_MARKUP = re.compile(r"<(script|style)\b.*?(</\1\s*>|\Z)|<!--.*?(-->|\Z)|<[^>]*(>|\Z)", re.DOTALL | re.IGNORECASE)
_PAGE_BYTES = 10_000
_EXPECTED_REGION = re.compile(r"expecting '([\w-]+)'")
_STREAMED_BYTES = 1024 * 1024
"""Bodies above this are handed to libcurl in pieces: it would copy them whole."""
_SMALL_BYTES = 256 * 1024
"""Bodies up to this size are stored as soon as they have arrived."""
_AGENT = b"User-Agent: mastosync"
_NO_EXPECT, _NO_CONTENT_TYPE = b"Expect:", b"Content-Type:"
"""Take away headers that libcurl would add: a wait for 100 Continue, and the type of a form."""


class S3Error(Exception):
    """The server answered with a refusal.

    Attributes:
        on_bucket: The request was about the bucket, not an object.
        code: S3's word for the error; empty where the answer has none (to a HEAD there is no body).
        text: The server's own sentence, or what a page says that is no answer of S3's; empty where there is none.
        region: Where the bucket lives, if the answer names it; else empty.
        is_page: The answer is a page in HTML: not the storage's, but that of a firewall or proxy before it.
        is_foreign: The answer says something, and not as S3 does.
    """

    def __init__(self, method: str, reply: Reply, *, on_bucket: bool) -> None:
        super().__init__(f"{method}: HTTP {reply.status}")
        self.method = method
        self.on_bucket = on_bucket
        self.reply = reply
        self.code = self.text = self.region = self._endpoint = ""
        self.is_page = self.is_foreign = False
        try:
            document = parse(reply.body) if reply.body else None
        except NotXmlError:
            document = None
        if document is not None and document.tag == "Error":
            self.code = document.text("Code") or ""
            self.text = document.text("Message") or ""
            self.region = document.text("Region") or ""
            self._endpoint = document.text("Endpoint") or ""
        else:
            # A firewall's page, or a proxy's sentence.
            page = reply.body[:_PAGE_BYTES].decode("utf-8", "replace")
            self.text, self.is_page = _page_text(page), _is_page(reply.body)
            self.is_foreign = self.is_page or bool(self.text)
        expected = _EXPECTED_REGION.search(self.text)
        self.region = reply.headers.get("x-amz-bucket-region") or self.region or (expected[1] if expected else "")

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.reply.status

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait; None where it does not."""
        wait = self.reply.headers.get("retry-after", "")
        return float(wait) if wait.isdecimal() else None

    @property
    def location(self) -> str:
        """The target of a redirect (a URL, or Amazon's host name); empty where the answer names none."""
        return self.reply.headers.get("location") or self._endpoint


def _is_page(body: bytes) -> bool:
    return b"<html" in body[:_PAGE_BYTES].lower()


def _page_text(page: str) -> str:
    """Return what a page in HTML says, or a text as it is."""
    return " ".join(_MARKUP.sub(" ", page).split())


class Acl(NamedTuple):
    """Who may do what with an object.

    Attributes:
        grants: The URI of a group (empty: a single user) and a permission, each.
        is_acl: Whether the answer was an ACL at all: some servers answer with the object, or an empty page.
    """

    grants: list[tuple[str, str]]
    is_acl: bool


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """A bucket, as a request names it.

    Attributes:
        endpoint: ``https://host[:port][/path]``, without the bucket, and without a slash at its end.
        path_style: ``endpoint/bucket/key`` instead of ``bucket.endpoint/key``.
    """

    endpoint: str
    bucket: str
    path_style: bool = True


class Client:
    """Sends requests to one bucket. Keys are full keys. Lives in its loop's thread.

    Requests raise `S3Error` where the server refuses, `TransportError` where it does not answer, and `NotXmlError`
    where its answer is not what S3 answers.

    Args:
        credentials: Called for each request: temporary credentials are renewed.
        silence: Seconds without a byte of an answer until a request counts as lost.
        write_silence: The same for a request with a body that is not small.
    """

    def __init__(
        self,
        loop: Loop,
        address: BucketAddress,
        transport: Transport,
        *,
        region: str,
        credentials: Callable[[], Credentials],
        silence: float,
        write_silence: float,
    ) -> None:
        self.loop = loop
        self.bucket = address.bucket
        url = urlsplit(address.endpoint)
        netloc = url.netloc.rpartition("@")[2]
        root = url.path.rstrip("/")
        if address.path_style:
            root = f"{root}/{address.bucket}"
        else:
            netloc = f"{address.bucket}.{netloc}"
        # libcurl sends the host as the URL spells it, and `host_of`, which is signed, in lower case.
        self._site = f"{url.scheme}://{netloc.lower()}"
        self._root = quoted_path(root)
        self._host = host_of(self._site)
        self._lists_version = 2
        self._http = Http(loop, transport)
        self._signer = Signer(region, credentials)
        self._silence = silence
        self._write_silence = write_silence

    @property
    def transfers(self) -> Collection[pycurl.Curl]:
        """What is under way. Within the loop."""
        return self._http.transfers

    @property
    def answers(self) -> int:
        """How many requests have ended because of something that the server sent."""
        return self._http.answers

    async def _send(
        self,
        method: str,
        key: str | None,
        *,
        query: Iterable[tuple[str, str]] = (),
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Source | None = None,
        sink: Sink | None = None,
        limit: int = ANSWER_BYTES,
        signed: bool = True,
    ) -> Reply:
        """Send a request; names of headers are in lower case. Without a key it is about the bucket.

        ``limit`` is the bytes of an answer's body at most. Without a signature a request gets what everybody may have.
        """
        path = self._root if key is None else f"{self._root}/{quoted_path(key)}"
        arguments = quoted_query(query) if query else ""
        given = list(headers)
        # libcurl leaves out a header without a value, unless it ends with a semicolon.
        lines = [
            (f"{name}: {value}" if value else f"{name};").encode("utf-8", "surrogateescape") for name, value in given
        ]
        if signed:
            signature = self._signer.sign(method, self._host, path or "/", arguments, given)
            lines += [f"{name}: {value}".encode() for name, value in signature]
        lines += (_AGENT, _NO_EXPECT)
        if not any(name == "content-type" for name, _ in given):
            lines.append(_NO_CONTENT_TYPE)
        reply = await self._http.request(
            method,
            f"{self._site}{path or '/'}{_as_sent(arguments)}",
            lines,
            silence=self._write_silence if _is_large(body) else self._silence,
            body=body,
            sink=sink,
            limit=limit,
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
        """Read an object into a sink, or into the answer. Above ``limit`` bytes it fails with `Failure.TOO_LARGE`."""
        return await self._send("GET", key, headers=headers, sink=sink, limit=limit, signed=signed)

    async def head(self, key: str, *, query: Iterable[tuple[str, str]] = ()) -> Reply:
        """Ask for an object's headers."""
        return await self._send("HEAD", key, query=query)

    async def head_bucket(self) -> Reply:
        """Ask whether the bucket exists."""
        return await self._send("HEAD", None)

    async def put(
        self, key: str, body: bytes | bytearray | Source, headers: Mapping[str, str], md5: bytes | None
    ) -> Reply:
        """Write an object with all its headers, ACL and storage class included. The server checks the MD5, if given."""
        return await self._send("PUT", key, headers=[*_lower(headers), *_md5_header(md5)], body=_streamed(body))

    async def copy(self, bucket: str, source_key: str, key: str, headers: Mapping[str, str]) -> Reply:
        """Have the server copy an object, by full keys. It keeps all headers but the ACL and the storage class."""
        origin = ("x-amz-copy-source", f"/{bucket}/{quoted_path(source_key)}")
        reply = await self._send("PUT", key, headers=[origin, *_lower(headers)], body=b"")
        return self._without_error("PUT", reply)

    async def delete(self, key: str) -> None:
        """Delete an object. That it does not exist is no error."""
        self._without_error("DELETE", await self._send("DELETE", key))

    async def get_acl(self, key: str) -> Acl:
        """Read an object's ACL."""
        reply = await self._send("GET", key, query=[("acl", "")])
        try:
            document = parse(reply.body)
        except NotXmlError:
            document = None
        if document is None or document.tag != "AccessControlPolicy":
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
        reply = await self._send("PUT", key, query=[("acl", "")], headers=[("x-amz-acl", acl)], body=b"")
        self._without_error("PUT", reply)

    async def list_page(
        self, prefix: str, *, after: str | None = None, token: str | None = None, keys: int, delimiter: str = ""
    ) -> Page:
        """List at most ``keys`` objects (ListObjectsV2) by the prefix of their full keys.

        The listing goes on behind ``after`` (a full key), or at the token of an earlier page, which wins. What lies
        behind a delimiter counts as a folder, and is not listed. Old servers get ListObjects.
        """
        query = [("max-keys", str(keys)), ("prefix", prefix)]
        if delimiter:
            query.append(("delimiter", delimiter))
        if self._lists_version == 1:
            return await self._page([*query, ("marker", after)] if after is not None else query)
        second = [("list-type", "2"), *query]
        if token is not None:
            second.append(("continuation-token", token))
        elif after is not None:
            second.append(("start-after", after))
        page = await self._page(second)
        self._lists_version = page.version
        if page.version == 1 and after is not None:
            # It began at the first key, since it knows no `start-after`.
            return await self._page([*query, ("marker", after)])
        return page

    async def _page(self, query: list[tuple[str, str]]) -> Page:
        reply = await self._send("GET", None, query=query)
        try:
            return parse_page(reply.body)
        except NotXmlError:
            self._without_error("GET", reply)
            # A key may hold characters that XML cannot: then it has to be written as in a URL.
            reply = await self._send("GET", None, query=[*query, ("encoding-type", "url")])
            return parse_page(reply.body)

    async def create_upload(self, key: str, headers: Mapping[str, str]) -> tuple[str, Reply]:
        """Begin an upload in parts. Returns its id, and the answer."""
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
        """Publish an upload, given its parts' ETags in order, without quotes. Returns the object's ETag as it came."""
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{escape(etag)}&quot;</ETag></Part>"
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
        """Return the uploads that are still open, by full key and id."""
        document = parse((await self._send("GET", None, query=[("uploads", ""), ("prefix", prefix)])).body)
        return [
            (document.text("Key", upload) or "", document.text("UploadId", upload) or "")
            for upload in document.all("Upload")
        ]

    def _without_error(self, method: str, reply: Reply) -> Reply:
        """Return an answer, or raise the `S3Error` in it: servers that work long say 200 before they know.

        Raises:
            NotXmlError: It is a proxy's page: nothing is known to have been done.
        """
        if _is_page(reply.body):
            raise NotXmlError("the answer is a page in HTML")
        try:
            document = parse(reply.body) if reply.body else None
        except NotXmlError:
            return reply
        if document is not None and document.tag == "Error":
            # The status says 200; an error whose code is unknown counts as the server's own failure.
            raise S3Error(method, reply._replace(status=500), on_bucket=method == "GET")
        return reply


def _as_sent(arguments: str) -> str:
    """Return a query as every client sends it: ``?acl``. Signed it is ``acl=``."""
    if not arguments:
        return ""
    return "?" + "&".join(argument.removesuffix("=") for argument in arguments.split("&"))


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
