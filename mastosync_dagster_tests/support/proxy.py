"""A proxy before a real S3 server that counts requests and, by rule, does what networks and providers do.

It passes Host and bodies through unchanged, so signatures hold: clients are given its endpoint and the real server's
credentials, and the real server checks them. It speaks HTTP/1.1 in a thread of the test process.

As the ``http_proxy`` of a client it stands for every name, with the server's own Host.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from email.utils import format_datetime
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from mastosync_dagster_tests.support.listening import stop_listening, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from datetime import datetime

_CHUNK = 64 * 1024
_HEAD_LIMIT = 64 * 1024
_START_SECONDS = 10.0
_AT_ONCE_SECONDS = 1.0
"""Of so many seconds a server takes the requests at once (`Rule.above`)."""
_ENTRY = re.compile(rb"<(Contents|CommonPrefixes)>.*?<(Key|Prefix)>(?P<key>.*?)</\2>.*?</\1>", re.DOTALL)
_MORE = re.compile(rb"<(IsTruncated|NextContinuationToken|NextMarker)>.*?</\1>", re.DOTALL)
_OF_VERSION_2 = re.compile(r"(?<=[?&])(list-type|start-after|continuation-token|encoding-type)=[^& ]*&?")
_SUBRESOURCES = frozenset({"acl", "attributes", "location", "policy", "tagging", "versioning", "versions"})


class Kind(str, Enum):
    """What a request asks of an S3 server."""

    LIST = "list"
    GET = "get"
    HEAD = "head"
    PUT = "put"
    COPY = "copy"
    DELETE = "delete"
    CREATE_UPLOAD = "create_upload"
    UPLOAD_PART = "upload_part"
    COMPLETE_UPLOAD = "complete_upload"
    ABORT_UPLOAD = "abort_upload"
    LIST_UPLOADS = "list_uploads"
    OTHER = "other"

    @property
    def multipart(self) -> bool:
        """Whether it belongs to an upload in parts."""
        return self.value.endswith(("_upload", "_part", "_uploads"))


class When(str, Enum):
    """When a connection is reset."""

    BEFORE = "before"
    """Nothing has reached the server."""
    DURING = "during"
    """Half of the request's body has, or half of the reply has come back where the request has no body."""
    AFTER = "after"
    """The server has done what was asked; its reply is lost."""


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait before the request is passed on; other rules still apply."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the request back until the rules are replaced; other rules still apply."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer in the server's place, with an S3 error document. Status 200 makes it an error inside a success."""

    status: int
    code: str = ""
    retry_after: float | None = None
    message: str = "answered by the proxy"
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Answer in the server's place, as a proxy does that knows nothing of S3; an empty text is an empty body."""

    status: int
    text: str = "<html><head><title>Maintenance</title></head><body>Back soon.</body></html>"
    etag: str | None = None
    content_type: str = "text/html"


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection (RST)."""

    when: When = When.BEFORE


@dataclass(frozen=True, slots=True)
class Cut:
    """End the reply's body early and close.

    Attributes:
        after: Bytes of the body that still go out.
        announced: Whether the reply announces its full length; without, the end looks like a regular one.
    """

    after: int
    announced: bool = True


@dataclass(frozen=True, slots=True)
class Flip:
    """Flip bits of one byte of the reply's body, or of the request's body.

    Attributes:
        at: Which byte.
        request: Damage what goes to the server instead of what comes back.
        bits: Which of its bits. All of them make a text invalid; the lowest alone makes another text.
        behind: ``at`` counts from the end of this text, where it is found first; empty: from the beginning.
    """

    at: int = 0
    request: bool = False
    bits: int = 0xFF
    behind: bytes = b""

    def damaged(self, body: bytes) -> bytes:
        """Return a body with that byte damaged; the body itself where it has no such byte."""
        found = body.find(self.behind)
        at = found + len(self.behind) + self.at
        if found < 0 or at >= len(body):
            return body
        return body[:at] + bytes([body[at] ^ self.bits]) + body[at + 1 :]


@dataclass(frozen=True, slots=True)
class Stall:
    """Stop in the middle of the reply and keep the connection open.

    Attributes:
        after: Bytes of the body that still go out. None: not even the head does.
    """

    after: int | None = None


@dataclass(frozen=True, slots=True)
class Trickle:
    """Send the reply's body slowly."""

    bytes_per_second: float = 1.0


@dataclass(frozen=True, slots=True)
class WrongEtag:
    """Replace the reply's ETag; None takes it away."""

    etag: str | None


@dataclass(frozen=True, slots=True)
class LostHeaders:
    """Leave header fields out of the reply, as a server does that does not keep them.

    Attributes:
        names: In lower case.
    """

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewHeaders:
    """Replace header fields of the reply, or take them away (None); a body without a length is sent in chunks.

    Attributes:
        fields: Names in lower case, and values.
        after: Bytes of the body after which the connection is closed; None: all.
    """

    fields: tuple[tuple[str, str | None], ...]
    after: int | None = None


@dataclass(frozen=True, slots=True)
class ShortList:
    """Leave the end of a listing out, and say that it is complete.

    Attributes:
        entries: Objects and folders that are left.
    """

    entries: int

    def shortened(self, body: bytes) -> bytes:
        """Return the document without the other entries, and without a token to go on with."""
        found = sorted(_ENTRY.finditer(body), key=lambda entry: entry["key"])
        for entry in sorted(found[self.entries :], key=lambda entry: -entry.start()):
            body = body[: entry.start()] + body[entry.end() :]
        return _MORE.sub(b"", body)


@dataclass(frozen=True, slots=True)
class TakenForBody:
    """Overlook the ``?acl`` of a PUT, as some servers do: what sets an ACL writes the object anew, and empty."""


@dataclass(frozen=True, slots=True)
class FirstVersion:
    """Overlook what belongs to ListObjectsV2, as a server does that knows ListObjects alone."""


Fault: TypeAlias = (
    "Delay | Hold | Answer | Page | Reset | Cut | Flip | Stall | Trickle | WrongEtag | LostHeaders | NewHeaders"
    " | ShortList | TakenForBody | FirstVersion"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to which requests. The first rule that applies decides; delays add to whatever else applies.

    Attributes:
        fault: What happens.
        kinds: To requests of these kinds; empty: of every kind.
        key: To keys in which this regular expression is found; empty: to every key.
        method: To requests with this method of HTTP's; empty: with any.
        unsigned: To requests without a signature alone.
        skip: So many matching requests are spared first.
        times: So many are hit after that; None: all.
        per_key: ``skip`` and ``times`` count for each key and kind on its own.
        probability: Share of the requests that are hit. Which ones depends on the proxy's seed, the key, the kind and
            how often it was asked before, not on the timing.
        prefix: To listings whose prefix has this regular expression; empty: to every listing.
        above: So many matching requests a second are spared, as a provider counts those of an account; None: none are.
    """

    fault: Fault
    kinds: frozenset[Kind] = frozenset()
    key: str = ""
    method: str = ""
    unsigned: bool = False
    skip: int = 0
    times: int | None = None
    per_key: bool = False
    probability: float = 1.0
    prefix: str = ""
    above: float | None = None


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request that came in.

    Attributes:
        method: HTTP's.
        kind: What it asks for.
        key: Unquoted, without the bucket; empty for requests about a bucket.
        headers: With lower-case names.
        at: `time.monotonic` when its head had arrived.
        body_bytes: Length of its body.
        prefix: Of a listing, the prefix that it is about.
    """

    method: str
    kind: Kind
    key: str
    headers: dict[str, str]
    at: float
    body_bytes: int
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class _Head:
    """First line and headers of a request or a reply, as they came."""

    first: str
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def without(self, *names: str) -> _Head:
        return _Head(self.first, tuple(pair for pair in self.headers if pair[0].lower() not in names))

    def adding(self, name: str, value: str) -> _Head:
        return _Head(self.first, (*self.headers, (name, value)))

    def for_server(self, host: str, port: int) -> _Head:
        """Return the head of a request as a server takes it, where its client took us for its HTTP proxy."""
        method, target, version = self.first.split(" ", 2)
        url = urlsplit(target)
        if not url.scheme:
            return self
        first = f"{method} {url._replace(scheme='', netloc='').geturl() or '/'} {version}"
        return _Head(first, self.without("host").headers).adding("Host", f"{host}:{port}")

    @property
    def status(self) -> int:
        return int(self.first.split()[1])

    def encode(self) -> bytes:
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _altered(reply: _Head, fault: Fault | None) -> _Head:
    """Return the head that the client gets."""
    if isinstance(fault, LostHeaders):
        return reply.without(*fault.names)
    if isinstance(fault, NewHeaders):
        for name, value in fault.fields:
            reply = reply.without(name)
            reply = reply if value is None else reply.adding(name, value)
        return reply if reply.get("content-length") else reply.adding("Transfer-Encoding", "chunked")
    if isinstance(fault, WrongEtag):
        reply = reply.without("etag")
        return reply if fault.etag is None else reply.adding("ETag", f'"{fault.etag}"')
    return reply


async def _read_head(reader: asyncio.StreamReader) -> _Head | None:
    """Read a head; None where the peer has closed the connection instead."""
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = text.rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return _Head(first, tuple((name, value.strip()) for name, _, value in pairs))


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the data of a body with ``Transfer-Encoding: chunked``."""
    while size := int((await reader.readline()).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    while (await reader.readline()).strip():
        pass  # trailers


async def _body(reader: asyncio.StreamReader, head: _Head, *, to_the_end: bool) -> AsyncIterator[bytes]:
    """Yield a body in pieces.

    Args:
        reader: Where it comes from, its head already read.
        head: That head.
        to_the_end: A body without a length ends with the connection (a reply's does).
    """
    length = head.get("content-length")
    if (head.get("transfer-encoding") or "").lower() == "chunked":
        async for piece in _chunks(reader):
            yield piece
    elif length is not None:
        left = int(length)
        while left:
            piece = await reader.read(min(left, _CHUNK))
            if not piece:
                raise ConnectionResetError("the body ended early")
            left -= len(piece)
            yield piece
    elif to_the_end:
        while piece := await reader.read(_CHUNK):
            yield piece


def _kind(method: str, key: str, query: dict[str, str], head: _Head) -> Kind:  # noqa: PLR0911  (a table of cases)
    """Tell what a request asks for, as the S3 API encodes it in method and query."""
    upload = "uploadId" in query
    if method == "GET":
        if "uploads" in query or upload:
            return Kind.LIST_UPLOADS
        if key:
            return Kind.OTHER if _SUBRESOURCES & set(query) else Kind.GET
        return Kind.OTHER if _SUBRESOURCES & set(query) else Kind.LIST
    if method == "POST":
        return Kind.CREATE_UPLOAD if "uploads" in query else Kind.COMPLETE_UPLOAD if upload else Kind.OTHER
    if method == "DELETE":
        return Kind.ABORT_UPLOAD if upload else Kind.DELETE
    if method == "PUT" and key and "acl" not in query:
        if upload:
            return Kind.UPLOAD_PART
        return Kind.COPY if head.get("x-amz-copy-source") else Kind.PUT
    return Kind.HEAD if method == "HEAD" and key else Kind.OTHER


def _error_document(answer: Answer, request: RecordedRequest) -> bytes:
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{answer.code}</Code>'
        f"<Message>{escape(answer.message)}</Message><Key>{escape(request.key)}</Key></Error>"
    )
    return b"" if request.method == "HEAD" else text.encode()


def _own_answer(answer: Answer | Page, request: RecordedRequest) -> bytes:
    """Return what is sent in the server's place, whole."""
    if isinstance(answer, Answer):
        body, content_type = _error_document(answer, request), "application/xml"
    else:
        body, content_type = answer.text.encode(), answer.content_type
    reply = _Head(f"HTTP/1.1 {answer.status} Proxy", (("Content-Length", str(len(body))),))
    if isinstance(answer, Answer) and answer.retry_after is not None:
        reply = reply.adding("Retry-After", f"{answer.retry_after:g}")
    if answer.etag is not None:
        reply = reply.adding("ETag", answer.etag)
    return reply.adding("Content-Type", content_type).encode() + (b"" if request.method == "HEAD" else body)


@dataclass
class _Progress:
    """How often a rule was met, altogether or per key."""

    met: Counter[tuple[int, str, Kind]] = field(default_factory=Counter)
    asked: Counter[tuple[str, Kind]] = field(default_factory=Counter)
    spared: dict[int, tuple[float, float]] = field(default_factory=dict)
    """By rule: how many requests more are spared at once, and when that was."""

    def spares(self, number: int, rule: Rule, now: float) -> bool:
        """Whether a request is one of those that a rule spares every second."""
        if rule.above is None:
            return False
        most = rule.above * _AT_ONCE_SECONDS
        left, at = self.spared.get(number, (most, now))
        left = min(most, left + (now - at) * rule.above)
        self.spared[number] = (left - 1 if left >= 1 else left, now)
        return left >= 1


NO_PROBES = r"^(?!.*/mastosync-check/)"
"""Keys of objects, and not of the probes that a run writes before private ones."""


class Proxy:
    """A running proxy. Its methods may be called from any thread.

    Attributes:
        endpoint: What clients are given instead of the server's endpoint.
        injected: How many faults there were so far, delays aside.
        used: How often each rule hit a request.
    """

    def __init__(self, upstream: str, rules: Sequence[Rule], seed: int) -> None:
        url = urlsplit(upstream)
        self._upstream = (url.hostname or "", url.port or 80)
        self._seed = seed
        self._rules = tuple(rules)
        self._progress = _Progress()
        self._recorded: list[RecordedRequest] = []
        self._in_flight = 0
        self._most_in_flight = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.endpoint = ""
        self.injected = 0
        self.used: Counter[Rule] = Counter()
        self.clock: Callable[[], datetime] | None = None
        """What replies say that the time is; None: what the server says."""

    def set_rules(self, *rules: Rule) -> None:
        """Replace the rules; their counting starts anew."""
        with self._lock:
            self._rules = rules
            self._progress = _Progress()

    async def while_in_force(self, rule: Rule) -> None:
        """Wait until a rule is replaced."""
        while rule in self._rules:  # noqa: ASYNC110  # rules are set by other threads, which no event of asyncio takes
            await asyncio.sleep(0.02)

    def forget(self) -> None:
        """Start counting requests anew."""
        with self._lock:
            self._recorded.clear()
            self.used.clear()
            self._most_in_flight = self._in_flight

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """The requests so far, in the order in which their heads arrived."""
        with self._lock:
            return tuple(self._recorded)

    @property
    def most_in_flight(self) -> int:
        """The most requests that were in flight at the same time."""
        with self._lock:
            return self._most_in_flight

    @property
    def in_flight(self) -> int:
        """Requests in flight now."""
        with self._lock:
            return self._in_flight

    def counts(self) -> Counter[tuple[str, Kind]]:
        """Return the number of requests by method and kind."""
        return Counter((request.method, request.kind) for request in self.requests)

    def count(self, *kinds: Kind, key: str = NO_PROBES) -> int:
        """Return the number of requests of some kinds (none given: of all), to keys that match a regular expression."""
        return sum(
            1 for request in self.requests if (not kinds or request.kind in kinds) and re.search(key, request.key)
        )

    def note(self, request: RecordedRequest) -> list[Rule]:
        """Count a request, and decide what happens to it: any delays, and at most one other fault."""
        with self._lock:
            self._recorded.append(request)
            asked = self._progress.asked[request.key, request.kind]
            self._progress.asked[request.key, request.kind] += 1
            hit: list[Rule] = []
            for number, rule in enumerate(self._rules):
                final = bool(hit) and not isinstance(hit[-1].fault, Delay | Hold)
                if final or (rule.kinds and request.kind not in rule.kinds) or not re.search(rule.key, request.key):
                    continue
                if request.kind is Kind.LIST and not re.search(rule.prefix, request.prefix):
                    continue
                if rule.method not in {"", request.method} or (rule.unsigned and "authorization" in request.headers):
                    continue
                dice = Random(f"{self._seed}/{number}/{request.kind.value}/{request.key}/{asked}")
                if dice.random() >= rule.probability or self._progress.spares(number, rule, request.at):
                    continue
                counter = (number, request.key if rule.per_key else "", request.kind if rule.per_key else Kind.OTHER)
                self._progress.met[counter] += 1
                met = self._progress.met[counter] - rule.skip
                if met >= 1 and (rule.times is None or met <= rule.times):
                    hit.append(rule)
            self.injected += sum(not isinstance(rule.fault, Delay | Hold) for rule in hit)
            self.used.update(hit)
            return hit

    def take_back(self, rule: Rule) -> None:
        """Count a fault out again: there was nothing to damage."""
        with self._lock:
            self.injected -= 1
            self.used[rule] -= 1

    @contextlib.contextmanager
    def flying(self) -> Iterator[None]:
        """Count a request as in flight while the block runs."""
        with self._lock:
            self._in_flight += 1
            self._most_in_flight = max(self._most_in_flight, self._in_flight)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1

    def close_connections(self) -> None:
        """Close every connection that is open now; new ones are taken."""

        def cancel() -> None:
            for task in tuple(self._tasks):
                task.cancel()

        if self._loop is not None:
            self._loop.call_soon_threadsafe(cancel)

    async def serve(self, started: Callable[[], None], stop: asyncio.Event) -> None:
        """Serve until ``stop``. Runs in the proxy's own thread."""
        loop = self._loop = asyncio.get_running_loop()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Not a coroutine, which may be cancelled before it has begun and would leave the connection open.
            task = loop.create_task(_Connection(self, reader, writer, self._upstream).run())
            self._tasks[task] = writer
            task.add_done_callback(ended)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.pop(task).transport.abort()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_HEAD_LIMIT, backlog=1024)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started()
        await stop.wait()
        await stop_listening(server)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await turns()


class _Connection:
    """One client's connection, with its own connection to the server."""

    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: tuple[str, int],
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._address = upstream
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        """Answer requests until the client, the server or a fault ends the connection, or the proxy does."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self.exchange():
                pass
        await self._drop_server()
        await _close(self._writer)

    async def _drop_server(self) -> None:
        if self._server is not None:
            writer, self._server = self._server[1], None
            await _close(writer)

    async def exchange(self) -> bool:
        """Take one request and answer it. Returns whether the connection goes on."""
        head = await _read_head(self._reader)
        if head is None:
            return False
        head = head.for_server(*self._address)
        at = time.monotonic()
        if (head.get("expect") or "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = b"".join([piece async for piece in _body(self._reader, head, to_the_end=False)])
        method, target, _ = head.first.split(" ", 2)
        url = urlsplit(target)
        key = unquote(url.path).lstrip("/").partition("/")[2]
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        request = RecordedRequest(
            method=method,
            kind=_kind(method, key, query, head),
            key=key,
            headers={name.lower(): value for name, value in head.headers},
            at=at,
            body_bytes=len(body),
            prefix=query.get("prefix", ""),
        )
        with self._proxy.flying():
            rule: Rule | None = None
            for rule in self._proxy.note(request):
                if isinstance(rule.fault, Delay):
                    await asyncio.sleep(rule.fault.seconds)
                if isinstance(rule.fault, Hold):
                    await self._proxy.while_in_force(rule)
            # The body arrives decoded here: what goes on announces its length.
            forward = head.without("expect", "transfer-encoding")
            if body and head.get("content-length") is None:
                forward = forward.adding("Content-Length", str(len(body)))
            return await self._answer(request, forward, body, rule)

    async def _answer(self, request: RecordedRequest, head: _Head, body: bytes, rule: Rule | None) -> bool:
        fault = None if rule is None else rule.fault
        if isinstance(fault, (Answer, Page)):
            self._writer.write(_own_answer(fault, request))
            await self._writer.drain()
            return True
        if isinstance(fault, Reset) and fault.when is When.BEFORE:
            return self._reset()
        if isinstance(fault, TakenForBody) and request.method == "PUT":
            head = _Head(head.first.replace("?acl ", " "), head.headers)
        if isinstance(fault, FirstVersion):
            head = _Head(_OF_VERSION_2.sub("", head.first), head.headers)
        if rule is not None and isinstance(fault, Flip) and fault.request:
            body = self._damaged(body, fault, rule)
        if isinstance(fault, Reset) and fault.when is When.DURING and body:
            reader, writer = await self._connect()
            writer.write(head.encode() + body[: len(body) // 2])
            writer.write_eof()
            # Until the server has given it up: rclone's else removes, late, what the next request has written there.
            await reader.read()
            return self._reset()
        reader, reply = await self._forward(head, body)
        if self._proxy.clock is not None:
            date = format_datetime(self._proxy.clock(), usegmt=True)
            reply = reply.without("date").adding("Date", date)
        return await self._relay(request, reader, reply, rule)

    def _damaged(self, body: bytes, flip: Flip, rule: Rule) -> bytes:
        damaged = flip.damaged(body)
        if damaged == body:
            self._proxy.take_back(rule)
        return damaged

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._server is None:
            self._server = await asyncio.open_connection(*self._address, limit=_HEAD_LIMIT)
        return self._server

    async def _forward(self, head: _Head, body: bytes) -> tuple[asyncio.StreamReader, _Head]:
        """Send a request on; a kept connection that the server has closed meanwhile is opened again, once."""
        for kept in (self._server is not None, False):
            reader, writer = await self._connect()
            writer.write(head.encode() + body)
            with contextlib.suppress(ConnectionError):
                # A server that refuses a body answers, and closes before it has read it.
                await writer.drain()
            reply = await _read_head(reader)
            while reply is not None and reply.status == 100:
                reply = await _read_head(reader)
            if reply is not None:
                return reader, reply
            await self._drop_server()
            if not kept:
                break
        raise ConnectionResetError("the server closed the connection")

    async def _relay(
        self, request: RecordedRequest, reader: asyncio.StreamReader, reply: _Head, rule: Rule | None
    ) -> bool:
        """Send the server's reply to the client."""
        fault = None if rule is None else rule.fault
        empty = request.method == "HEAD" or reply.status in {204, 304}
        body = _pieces() if empty else _body(reader, reply, to_the_end=True)
        if isinstance(fault, Reset) and fault.when is When.AFTER:
            async for _ in body:
                pass
            return self._reset()
        if isinstance(fault, Stall) and fault.after is None:
            return await self._hang()
        reply = _altered(reply, fault)
        if rule is not None and isinstance(fault, Flip) and not fault.request:
            body = _pieces(self._damaged(b"".join([piece async for piece in body]), fault, rule))
        if isinstance(fault, ShortList):
            whole = fault.shortened(b"".join([piece async for piece in body]))
            body = _pieces(whole)
            reply = reply.without("content-length", "transfer-encoding").adding("Content-Length", str(len(whole)))
        unannounced = isinstance(fault, Cut) and not fault.announced
        closes = unannounced or (reply.get("connection") or "").lower() == "close"
        # A reply without a body may say that it would be in chunks; the end of them is not sent.
        chunked = not empty and (reply.get("transfer-encoding") or "").lower() == "chunked"
        out = reply
        if not empty and (unannounced or (reply.get("content-length") is None and not chunked)):
            out = reply.without("content-length", "transfer-encoding", "connection").adding("Connection", "close")
            chunked, closes = False, True
        self._writer.write(out.encode())
        alive = await self._relay_body(body, reply, fault, chunked=chunked)
        if closes or not alive:
            await self._drop_server()
        return alive and not closes

    async def _relay_body(
        self, body: AsyncIterator[bytes], reply: _Head, fault: Fault | None, *, chunked: bool
    ) -> bool:
        """Send a body, damaged as the fault says. Returns whether the connection goes on."""
        stop_at: int | None = None
        if isinstance(fault, (Cut, Stall, NewHeaders)):
            stop_at = fault.after
        elif isinstance(fault, Reset):
            stop_at = int(reply.get("content-length") or 0) // 2
        sent = 0
        async for whole in body:
            piece = whole if stop_at is None else whole[: stop_at - sent]
            sent += len(piece)
            await self._send(piece, fault, chunked=chunked)
            if stop_at is not None and sent >= stop_at:
                break
        if stop_at is not None:
            await self._writer.drain()
            if isinstance(fault, Stall):
                return await self._hang()
            return self._reset() if isinstance(fault, Reset) else False
        if chunked:
            self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        return True

    async def _send(self, piece: bytes, fault: Fault | None, *, chunked: bool) -> None:
        if isinstance(fault, Trickle):
            for number in range(len(piece)):
                self._writer.write(piece[number : number + 1])
                await self._writer.drain()
                await asyncio.sleep(1 / fault.bytes_per_second)
            return
        self._writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked and piece else piece)
        await self._writer.drain()

    async def _hang(self) -> bool:
        """Keep the connection open and send nothing more, until the client gives up."""
        while await self._reader.read(_CHUNK):
            pass
        return False

    def _reset(self) -> bool:
        for writer in (self._writer, *(() if self._server is None else (self._server[1],))):
            raw = writer.get_extra_info("socket")
            if raw is not None:
                # Closing a socket that lingers for no time sends RST instead of FIN.
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return False


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    """Yield a body that is known."""
    for piece in pieces:
        yield piece


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except (OSError, asyncio.CancelledError):
        # What is still to be sent would keep the socket open.
        writer.transport.abort()


@contextlib.contextmanager
def s3_proxy(upstream: str, *rules: Rule, seed: int = 0) -> Iterator[Proxy]:
    """Run a proxy on a free loopback port until the block ends.

    Args:
        upstream: The real server's endpoint, ``http://host:port``.
        rules: What happens to which requests, from the start; see `Proxy.set_rules`.
        seed: Decides which requests rules with a probability hit.
    """
    proxy = Proxy(upstream, rules, seed)
    started = threading.Event()
    ends: list[Callable[[], object]] = []

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(stop.set))
        await proxy.serve(started.set, stop)

    thread = threading.Thread(target=asyncio.run, args=(main(),), name="s3-proxy", daemon=True)
    thread.start()
    if not started.wait(_START_SECONDS):
        raise RuntimeError("the proxy did not start")
    try:
        yield proxy
    finally:
        ends[0]()
        thread.join(_START_SECONDS)
