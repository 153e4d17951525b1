"""One HTTP request and its answer, over a libcurl handle that is kept for the next one."""

from __future__ import annotations

import enum
import errno
import io
import os
import re
import socket
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol
from urllib.parse import urlsplit

import certifi
import pycurl

from mastosync_dagster.addresses import LookUpError, is_address, look_up

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mastosync_dagster.s3.loop import Loop, Task

_RECEIVE_BYTES = 256 * 1024
"""libcurl's buffer for what arrives, one for all transfers of a loop: a body of the common size comes in one piece."""
_SEND_BYTES = 256 * 1024
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL = 15, 10
_SOCKET_OPTIONS = {"TCP_USER_TIMEOUT": 30_000, "TCP_KEEPCNT": 3}
"""A peer that acknowledges nothing of what is sent counts as dead after 30 s; one whose answer is awaited, and which
does not answer three probes, after 45 s."""
_SMALLEST_RATE = 1
"""Bytes a second, over the time limit, below which a transfer counts as stuck."""
_NAME_SECONDS = 60.0
"""How long the addresses of a host serve until they are looked up again, as with libcurl."""
_OK = range(200, 300)
_REFUSAL_BYTES = 64 * 1024
_KEPT_BYTES = 256 * 1024
ANSWER_BYTES = 64 * 1024 * 1024
"""Bytes of the largest answer that is no object: a listing, an error."""


class Failure(enum.Enum):
    """How a request can end without an answer."""

    NAME = "name"
    PROXY = "proxy"
    PROXY_PASSWORD = "proxy_password"  # noqa: S105  (a proxy asks for one)
    CONNECT = "connect"
    TIMEOUT = "timeout"
    CERTIFICATE = "certificate"
    CA_FILE = "ca_file"
    NOT_TLS = "not_tls"
    BROKEN = "broken"
    NOT_HTTP = "not_http"
    TOO_LARGE = "too_large"
    SETTINGS = "settings"


_FAILURES = {
    pycurl.E_COULDNT_RESOLVE_HOST: Failure.NAME,
    pycurl.E_COULDNT_RESOLVE_PROXY: Failure.PROXY,
    pycurl.E_COULDNT_CONNECT: Failure.CONNECT,
    pycurl.E_OPERATION_TIMEDOUT: Failure.TIMEOUT,
    pycurl.E_PEER_FAILED_VERIFICATION: Failure.CERTIFICATE,
    pycurl.E_SSL_CACERT_BADFILE: Failure.CA_FILE,
    pycurl.E_SSL_CERTPROBLEM: Failure.CERTIFICATE,
    pycurl.E_FTP_WEIRD_SERVER_REPLY: Failure.NOT_HTTP,  # the older name of CURLE_WEIRD_SERVER_REPLY
    pycurl.E_UNSUPPORTED_PROTOCOL: Failure.NOT_HTTP,
    pycurl.E_FILESIZE_EXCEEDED: Failure.TOO_LARGE,
    pycurl.E_URL_MALFORMAT: Failure.SETTINGS,
}


_NOT_TLS = re.compile(r"wrong version number|packet length too long|unknown protocol|http request", re.IGNORECASE)
"""OpenSSL's words for an answer that is none in TLS; GnuTLS and others have no such word for it."""
_UNSUPPORTED_PROXY = "Unsupported proxy"
"""Begins libcurl's words for the URL of a proxy that it cannot use. The number differs."""
_OF_PROXY = re.compile(r"( in| for)? '.*|:.*", re.DOTALL)
"""What these say of the proxy's URL: all of it, or a host that may be a part of the password."""
_WANTS_PASSWORD = 407

_SILENT = frozenset({pycurl.E_OPERATION_TIMEDOUT, pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY})
_GIVEN_UP = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})


class TransportError(Exception):
    """No answer came, or it broke off.

    Attributes:
        reached: A connection had been made.
        status: Of the answer that broke off; 0: none had begun.
    """

    def __init__(self, failure: Failure, text: str, *, reached: bool, status: int = 0) -> None:
        super().__init__(text)
        self.failure = failure
        self.status = status
        self.reached = reached


class Reply(NamedTuple):
    """An answer.

    Attributes:
        headers: By name in lower case. Of a name that comes twice, the last.
        body: Empty where it went to a sink.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class Sink(Protocol):
    """Takes a body while it arrives."""

    def begin(self, curl: pycurl.Curl, reply: Reply) -> bool:
        """Take the head of an answer. Returns whether its body is wanted; else it is kept as any other answer's."""

    def write(self, data: bytes) -> int | None:
        """Take some of the body. Returns None, or ``pycurl.WRITEFUNC_PAUSE``: then it is given once more."""


class Source(Protocol):
    """Gives a body of ``size`` bytes while it is sent."""

    size: int

    def begin(self, curl: pycurl.Curl) -> None:
        """Note which transfer sends it."""

    def read(self, size: int) -> bytes | int:
        """Give so many bytes at most, or ``pycurl.READFUNC_PAUSE``."""


@dataclass(frozen=True, slots=True)
class Transport:
    """How a server is reached.

    Attributes:
        ca_file: PEM file with the certificates to trust; None: AWS_CA_BUNDLE, SSL_CERT_FILE, else certifi's.
        connect_timeout: Seconds until a connection must stand.
    """

    verify: bool = True
    ca_file: str | None = None
    connect_timeout: float = 10.0


class _SetUp(NamedTuple):
    """What a handle is set up for: setting it up anew costs more than keeping one for each.

    Attributes:
        body: The request's body is in memory.
        stream: The request's body comes from a `Source`.
        silence: Seconds.
        limit: Bytes.
    """

    method: str
    body: bool
    stream: bool
    silence: float
    limit: int


class _Host:
    """The addresses of a host. Lives in the loop's thread.

    They are looked up here, and not by libcurl: it has no limit for that of its own, and waits for the C library where
    its transfers are ended meanwhile. Addresses that are known serve until there are newer ones.
    """

    def __init__(self, loop: Loop, url: str, seconds: float) -> None:
        parts = urlsplit(url)
        self._loop = loop
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._seconds = seconds
        self._addresses: list[str] = []
        self._failure: TransportError | None = None
        self._asking = False
        self._until = 0.0
        self._waiting: list[tuple[Task[Any], int]] = []
        # What has no name to look up, and what a proxy looks up, is libcurl's.
        self._is_ours = bool(self._host) and not is_address(self._host) and not proxy_variable(parts.scheme)

    async def entries(self) -> list[str]:
        """Return what libcurl is to know of the host (CURLOPT_RESOLVE).

        Raises:
            TransportError: It has no address, or no name server answers.
        """
        if not self._is_ours:
            return []
        if time.monotonic() >= self._until and not self._asking:
            self._asking = True
            threading.Thread(target=self._ask, name="look-up", daemon=True).start()
        if not self._addresses:
            while self._asking:
                await self._loop.park(self._waiting.append)
        if self._addresses:
            return [f"{self._host}:{self._port}:{','.join(self._addresses)}"]
        assert self._failure is not None  # noqa: S101  (else there would be addresses)
        raise TransportError(Failure.NAME, str(self._failure), reached=False)

    def _ask(self) -> None:
        """Look up: the target of a thread."""
        found: list[str] = []
        failure: TransportError | None = None
        try:
            addresses = look_up(self._host, self._port, self._seconds)
            found = [f"[{each.ip}]" if ":" in each.ip else each.ip for each in addresses]
        except LookUpError as error:
            failure = TransportError(Failure.NAME, f"{self._host}: {error.why}", reached=False)
        self._loop.call_if_running(lambda: self._take(found, failure))

    def _take(self, found: list[str], failure: TransportError | None) -> None:
        self._asking = False
        self._addresses, self._failure = found or self._addresses, failure
        self._until = time.monotonic() + (_NAME_SECONDS if self._addresses else 0.0)
        waiting, self._waiting = self._waiting, []
        for parked in waiting:
            self._loop.wake(parked)


def proxy_variable(scheme: str) -> str:
    """Return the variable that names a proxy for libcurl's requests; empty where none does."""
    names = (f"{scheme}_proxy", *(["HTTPS_PROXY"] if scheme == "https" else []), "all_proxy", "ALL_PROXY")
    return next((name for name in names if os.environ.get(name)), "")


class Http:
    """Sends requests over one loop. Lives in the loop's thread.

    Attributes:
        transfers: What is under way.
        answers: How many requests have ended because of something that the server sent.
    """

    def __init__(self, loop: Loop, transport: Transport) -> None:
        self.loop = loop
        self._transport = transport
        self._idle: defaultdict[_SetUp, list[pycurl.Curl]] = defaultdict(list)
        self.transfers: set[pycurl.Curl] = set()
        self.answers = 0
        self._hosts: dict[str, _Host] = {}
        self._loaded: dict[pycurl.Curl, tuple[int, list[str]]] = {}

    async def request(
        self,
        method: str,
        url: str,
        headers: Iterable[bytes],
        *,
        silence: float,
        body: bytes | Source | None = None,
        sink: Sink | None = None,
        limit: int = ANSWER_BYTES,
    ) -> Reply:
        """Send a request, and wait for its answer, whatever its status. Without a sink the answer's body is kept.

        Args:
            method: ``GET``, …
            url: With a quoted path, which is sent as it is.
            headers: Whole lines.
            silence: Seconds in which nothing moves, neither way, after which the request counts as lost.
            body: Of the request.
            sink: Takes the body of the answer.
            limit: Bytes of an answer's body at most.

        Raises:
            TransportError: No answer came, or it broke off.
        """
        entries = await self._host(url).entries()
        in_memory = isinstance(body, bytes)
        set_up = _SetUp(method, in_memory, body is not None and not in_memory, silence, limit)
        idle = self._idle[set_up]
        curl = idle.pop() if idle else self._handle(set_up)
        receiver = _Receiver(curl, sink)
        if entries and self._loaded.get(curl) != (self.loop.beginning, entries):
            curl.setopt(pycurl.RESOLVE, entries)
            self._loaded[curl] = (self.loop.beginning, entries)
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.HTTPHEADER, list(headers))
        curl.setopt(pycurl.HEADERFUNCTION, receiver.lines.append)
        curl.setopt(pycurl.WRITEFUNCTION, receiver.chunks.append if sink is None else receiver.write)
        _give(curl, body)
        self.transfers.add(curl)
        try:
            await self.loop.perform(curl)
            self.answers += 1
            receiver.announce_empty()
        except pycurl.error as error:
            receiver.chunks.clear()
            failure = receiver.declined() or _failure(curl, error)
            # A refusal or a reset comes from somebody; where the kernel or libcurl has given up, nobody has answered.
            self.answers += error.args[0] not in _SILENT and curl.getinfo(pycurl.OS_ERRNO) not in _GIVEN_UP
            raise failure from None
        finally:
            self.transfers.discard(curl)
            receiver.sink = None
            _forget(curl, body)
            idle.append(curl)
        reply = receiver.reply()
        if len(reply.body) > limit and reply.status in _OK:
            raise TransportError(Failure.TOO_LARGE, f"{len(reply.body)} bytes", reached=True, status=reply.status)
        return reply

    def _host(self, url: str) -> _Host:
        end = url.find("/", len("https://"))
        origin = url if end < 0 else url[:end]
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts[origin] = _Host(self.loop, origin, self._transport.connect_timeout)
        return host

    def _handle(self, set_up: _SetUp) -> pycurl.Curl:
        curl, transport = pycurl.Curl(), self._transport
        options = {
            # A key may hold `//`, `/./` and `/../`.
            pycurl.PATH_AS_IS: 1,
            # One HTTP/2 connection for everything would be the bottleneck.
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.FOLLOWLOCATION: 0,
            pycurl.NOSIGNAL: 1,
            pycurl.BUFFERSIZE: _RECEIVE_BYTES,
            pycurl.CONNECTTIMEOUT_MS: round(transport.connect_timeout * 1000),
            pycurl.LOW_SPEED_LIMIT: _SMALLEST_RATE,
            pycurl.LOW_SPEED_TIME: max(1, round(set_up.silence)),
            pycurl.TCP_KEEPALIVE: 1,
            pycurl.TCP_KEEPIDLE: _KEEPALIVE_IDLE,
            pycurl.TCP_KEEPINTVL: _KEEPALIVE_INTERVAL,
            pycurl.SOCKOPTFUNCTION: _set_up_socket,
        }
        if transport.verify:
            options[pycurl.CAINFO] = transport.ca_file or default_ca_file()
        else:
            options |= {pycurl.SSL_VERIFYPEER: 0, pycurl.SSL_VERIFYHOST: 0}
        if set_up.method == "HEAD":
            options[pycurl.NOBODY] = 1
        else:
            # (To a HEAD libcurl would apply it, for the length in its answer.) A refusal may be longer than the object.
            options[pycurl.MAXFILESIZE_LARGE] = max(set_up.limit, _REFUSAL_BYTES)
        if set_up.body:
            options |= {pycurl.POST: 1, pycurl.CUSTOMREQUEST: set_up.method}
        elif set_up.stream:
            options |= {pycurl.UPLOAD: 1, pycurl.UPLOAD_BUFFERSIZE: _SEND_BYTES}
        elif set_up.method not in {"GET", "HEAD"}:
            options[pycurl.CUSTOMREQUEST] = set_up.method
        for option, value in options.items():
            curl.setopt(option, value)
        return curl


class _Receiver:
    """What arrives of one answer."""

    __slots__ = ("_curl", "_known", "_refused", "_wanted", "chunks", "lines", "sink")

    def __init__(self, curl: pycurl.Curl, sink: Sink | None) -> None:
        self._curl = curl
        self.sink = sink
        self._wanted: bool | None = None
        self._refused = 0
        self._known: tuple[int, dict[str, str]] | None = None
        self.lines: list[bytes] = []
        self.chunks: list[bytes] = []

    def write(self, data: bytes) -> int | None:
        """Take some of the body (libcurl's callback)."""
        assert self.sink is not None  # noqa: S101  (else this is not the callback)
        if self._wanted is None:
            self._known = self._head()
            self._wanted = self.sink.begin(self._curl, Reply(*self._known, b""))
        if not self._wanted:
            if self._known is not None and self._known[0] in _OK:
                return -1  # an object that nobody wants is not kept, however large it is
            self._refused += len(data)
            if self._refused <= _REFUSAL_BYTES:
                self.chunks.append(data)
            return None
        return self.sink.write(data)

    def declined(self) -> TransportError | None:
        """Return the error of an answer that is no refusal, and whose body nobody wanted; None: it is another error."""
        if self._wanted is not False or self._known is None or self._known[0] not in _OK:
            return None
        status = self._known[0]
        text = f"it answers with HTTP {status}, which was not asked for"
        return TransportError(Failure.BROKEN, text, reached=True, status=status)

    def reply(self) -> Reply:
        """Return the answer, which has come to its end."""
        status, headers = self._known or self._head()
        chunks = self.chunks
        reply = Reply(status, headers, chunks[0] if len(chunks) == 1 else b"".join(chunks))
        chunks.clear()
        return reply

    def announce_empty(self) -> None:
        """Hand an answer with an empty body to the sink: no callback has done it."""
        if self.sink is not None and self._wanted is None:
            self._wanted = self.sink.begin(self._curl, Reply(*self._head(), b""))

    def _head(self) -> tuple[int, dict[str, str]]:
        status = 0
        headers: dict[str, str] = {}
        for line in self.lines:
            name, colon, value = line.partition(b":")
            if line[:5] == b"HTTP/":
                # An interim answer (100 Continue), or a proxy's own, comes before the one that counts.
                status = int(line.split(None, 2)[1])
                headers = {}
            elif colon:
                headers[name.lower().decode("latin-1")] = value.strip().decode("utf-8", "surrogateescape")
        return status, headers


def _give(curl: pycurl.Curl, body: bytes | Source | None) -> None:
    """Give a handle the body that it sends."""
    if isinstance(body, bytes):
        curl.setopt(pycurl.POSTFIELDS, body)
    elif body is not None:
        body.begin(curl)
        curl.setopt(pycurl.READFUNCTION, body.read)
        curl.setopt(pycurl.INFILESIZE_LARGE, body.size)


def _forget(curl: pycurl.Curl, body: bytes | Source | None) -> None:
    """Drop the body that a handle would keep until it is used again."""
    if isinstance(body, bytes):
        if len(body) > _KEPT_BYTES:
            curl.setopt(pycurl.POSTFIELDS, b"")
    elif body is not None:
        curl.setopt(pycurl.READFUNCTION, _no_data)


def _no_data(_size: int) -> bytes:
    """Give nothing (libcurl's callback): the body that was sent has been freed."""
    return b""


def _set_up_socket(descriptor: int, _purpose: int) -> int:
    """Have the kernel notice a dead peer while a body is being sent (libcurl's callback)."""
    own = socket.socket(fileno=descriptor)
    try:
        for name, value in _SOCKET_OPTIONS.items():
            option = getattr(socket, name, None)  # Linux has them all
            if option is not None:
                own.setsockopt(socket.IPPROTO_TCP, option, value)
    finally:
        own.detach()
    return pycurl.SOCKOPT_OK


def default_ca_file() -> str:
    """Return the PEM file of the certificates to trust: as the AWS tools and OpenSSL have it, else certifi's."""
    return os.environ.get(ca_variable()) or certifi.where()


def ca_variable() -> str:
    """Return the variable that names that file; empty where none does."""
    return next((name for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE") if os.environ.get(name)), "")


def _failure(curl: pycurl.Curl, error: pycurl.error) -> TransportError:
    number, text = int(str(error.args[0])), str(error.args[-1])
    # A connection that was kept has no time of its own; that some of a request has gone shows that it stood.
    reached = bool(curl.getinfo(pycurl.CONNECT_TIME) or curl.getinfo(pycurl.REQUEST_SIZE))
    failure = _FAILURES.get(number, Failure.BROKEN)
    if failure is Failure.TIMEOUT and not reached:
        failure = Failure.CONNECT if curl.getinfo(pycurl.NAMELOOKUP_TIME) else Failure.NAME
    if number == pycurl.E_SSL_CONNECT_ERROR and _NOT_TLS.search(text):
        failure = Failure.NOT_TLS
    if failure is Failure.PROXY or text.startswith(_UNSUPPORTED_PROXY):
        failure, text = Failure.PROXY, _OF_PROXY.sub("", text)
    if curl.getinfo(pycurl.HTTP_CONNECTCODE) == _WANTS_PASSWORD:
        failure = Failure.PROXY_PASSWORD
    return TransportError(failure, text, reached=reached, status=int(curl.getinfo(pycurl.RESPONSE_CODE)))


def host_of(url: str) -> str:
    """Return the Host header that libcurl sends for a URL."""
    parts = urlsplit(url)
    port = parts.port
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    return host if port in {None, {"http": 80, "https": 443}.get(parts.scheme)} else f"{host}:{port}"


class FileSource:
    """A file, sent as a body."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        self._file = file

    def begin(self, _curl: pycurl.Curl) -> None:
        """Go to the file's beginning, for a retry too."""
        self._file.seek(0)

    def read(self, size: int) -> bytes:
        """Give the next bytes."""
        return self._file.read(size)


class FileSink:
    """Writes a body to a file. The caller checks the answer's status."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def begin(self, _curl: pycurl.Curl, reply: Reply) -> bool:
        """Take the body of an object, not of a refusal; a retry begins at the file's beginning."""
        wanted = reply.status in _OK
        if wanted:
            self._file.seek(0)
            self._file.truncate()
        return wanted

    def write(self, data: bytes) -> int | None:
        """Write a piece; where that fails, the transfer ends."""
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            return -1
        return None


class BytesSource(FileSource):
    """A body in memory, sent as a stream: for buffers that are no `bytes`."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        super().__init__(io.BytesIO(data), len(data))
