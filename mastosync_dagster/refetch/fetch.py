"""Fetches files from untrusted servers: over HTTPS, from public addresses only, with checks and limits.

URLs come from remote messages, and redirects from remote servers. They must not lead into the network that this process
runs in: a name is resolved once, all its addresses are checked, and the connection goes to one of these. The name is
used for TLS alone.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin

from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.exceptions import TimeoutError as UrllibTimeoutError
from urllib3.util import Url, parse_url

from mastosync_dagster.addresses import look_up
from mastosync_dagster.refetch.magic_bytes import begins_like
from mastosync_dagster.refetch.public_addresses import is_public_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from urllib3.response import BaseHTTPResponse

    from mastosync_dagster.refetch.public_addresses import Network

NO_ADDRESS = "its address is none"
NOT_HTTPS = "its address, or one that it redirects to, is not https://"
NOT_PUBLIC = "its address, or one that it redirects to, leads to a network that is not public"
UNRESOLVABLE = "its server's name is not known"
UNREACHABLE = "its server cannot be reached"
UNTRUSTED = "its server's certificate is not trusted"
TOO_MANY_REDIRECTS = "it redirects too often"
TOO_SLOW = "its server takes too long"
BROKEN = "its server's answer broke off"
WRONG_TYPE = "it is not of the content type that Mastodon has, or takes"
DISGUISED = "its bytes are not what its content type says"
ENCODED = "its server compresses it without being asked"
UNBOUNDED = "its server does not say where it ends"
TOO_LARGE = "it is larger than Mastodon takes"
EMPTY = "it is empty"
STOPPED = "the run was stopped before"

_HTTPS_PORT = 443
_PIECE = 64 * 1024
_ADDRESSES_TRIED = 4
_LOOK_UP_SECONDS = 10.0
_OK = 200
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = 429
_SERVER_ERRORS = range(500, 600)
# What servers send that do not know the content type.
_UNKNOWN_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_SYNONYMS = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "audio/mp3": "audio/mpeg"}


class FetchError(Exception):
    """A file was not fetched. The message is one of few texts, without the address.

    Attributes:
        silent: Its server is down or overloaded: requests for other files will hardly succeed.
    """

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a name.

    Raises:
        LookUpError: It has none, or no name server answers.
    """
    return list(dict.fromkeys(address.ip for address in look_up(host, port, _LOOK_UP_SECONDS)))


@dataclass(frozen=True)
class FetchSettings:
    """Limits and exceptions. Timeouts are in seconds; ``redirects`` and ``idle_timeout`` are Mastodon's.

    Attributes:
        idle_timeout: Without a byte.
        total_timeout: For one file, redirects included, the resolution of names excluded.
        allowed: Networks that count as public though they are not.
        ca_file: PEM file of certificates to trust in addition to the system's.
    """

    redirects: int = 3
    connect_timeout: float = 10.0
    idle_timeout: float = 10.0
    total_timeout: float = 120.0
    resolve: Callable[[str, int], Sequence[str]] = resolve
    allowed: Sequence[Network] = ()
    ca_file: str | None = None


def host_of(url: str) -> str:
    """Return the host of a URL as it is written there; empty for none."""
    try:
        return parse_url(url).host or ""
    except (LocationParseError, ValueError):
        return ""


class Fetched(NamedTuple):
    """A file that has passed all checks; its content type is one of the accepted ones."""

    body: bytearray
    content_type: str


class _Deadline:
    """Shuts a connection down when the time is over: a server that sends a byte now and then would keep it for ever."""

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let the time run while the block does."""
        self._timer.start()
        try:
            yield
        finally:
            self._timer.cancel()

    def watch(self, connected: socket.socket) -> None:
        """Watch this connection instead of the one before."""
        with self._lock:
            self._socket = connected
            if self.over:
                _shut(connected)

    def _expire(self) -> None:
        with self._lock:
            self.over = True
            if self._socket is not None:
                _shut(self._socket)


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # The method of the plain socket: a TLS socket's drops its TLS state while another thread reads from it.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


class Fetcher:
    """Fetches files. Thread-safe. It uses no proxy, keeps no connection and no cookie, and sends no credentials."""

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._context = ssl.create_default_context()
        if settings.ca_file is not None:
            self._context.load_verify_locations(settings.ca_file)
        self._user_agent = f"mastosync/{version('mastosync-dagster')}"

    def fetch(self, url: str, accepted: Mapping[str, int], halt: threading.Event) -> Fetched:
        """Fetch a file, or raise `FetchError`.

        ``accepted`` are the content types it may have, each with the number of bytes that it must stay below.
        """
        deadline = _Deadline(self._settings.total_timeout)
        with deadline.running():
            try:
                return self._follow(url, accepted, deadline, halt)
            except FetchError as error:
                if deadline.over:
                    raise FetchError(TOO_SLOW, silent=True) from error
                raise

    def _follow(self, url: str, accepted: Mapping[str, int], deadline: _Deadline, halt: threading.Event) -> Fetched:
        for _ in range(self._settings.redirects + 1):
            if halt.is_set():
                raise FetchError(STOPPED)
            with _fetch_errors(), contextlib.closing(self._connect(_parsed(url), deadline)) as connection:
                answer = self._ask(connection, _parsed(url))
                with contextlib.closing(answer):
                    location = answer.headers.get("Location")
                    if answer.status not in _REDIRECTS or location is None:
                        return _read(answer, accepted, halt)
                    url = urljoin(url, location)
        raise FetchError(TOO_MANY_REDIRECTS)

    def _connect(self, url: Url, deadline: _Deadline) -> HTTPSConnection:
        """Connect to one of the addresses of a URL's host, with TLS for its name."""
        settings = self._settings
        host, port = _bare(url.host or ""), url.port or _HTTPS_PORT
        try:
            addresses = settings.resolve(host, port)
        except OSError as error:
            raise FetchError(UNRESOLVABLE, silent=True) from error
        if not addresses:
            raise FetchError(UNRESOLVABLE, silent=True)
        # All of them: a name with internal addresses beside public ones is an attack.
        if not all(is_public_address(address, settings.allowed) for address in addresses):
            raise FetchError(NOT_PUBLIC)
        problem: Exception | None = None
        for address in addresses[:_ADDRESSES_TRIED]:
            if deadline.over:
                break
            connection = HTTPSConnection(
                address, port, timeout=settings.connect_timeout, server_hostname=host, ssl_context=self._context
            )
            try:
                connection.connect()
            except ssl.SSLCertVerificationError as error:
                connection.close()
                raise FetchError(UNTRUSTED) from error
            except (OSError, HTTPError) as error:
                connection.close()
                problem = error
            except BaseException:
                connection.close()
                raise
            else:
                connected = connection.sock
                connected.settimeout(settings.idle_timeout)
                connection.timeout = settings.idle_timeout
                deadline.watch(connected)
                return connection
        raise FetchError(UNREACHABLE, silent=True) from problem

    def _ask(self, connection: HTTPSConnection, url: Url) -> BaseHTTPResponse:
        connection.request(
            "GET",
            url.request_uri,
            headers={
                "Host": url.netloc or "",
                "User-Agent": self._user_agent,
                "Accept": "*/*",
                "Accept-Encoding": "identity",
                "Connection": "close",
            },
            preload_content=False,
            decode_content=False,
        )
        return connection.getresponse()


def _parsed(url: str) -> Url:
    try:
        found = parse_url(url)
    except LocationParseError as error:
        raise FetchError(NO_ADDRESS) from error
    if found.scheme != "https":
        raise FetchError(NOT_HTTPS if found.scheme else NO_ADDRESS)
    if not found.host:
        raise FetchError(NO_ADDRESS)
    try:
        # As TLS will: with a name that cannot be encoded, Python's ssl leaks the connection.
        _bare(found.host).encode("idna")
    except UnicodeError as error:
        raise FetchError(NO_ADDRESS) from error
    return found


def _bare(host: str) -> str:
    """Return a host without the brackets of an IPv6 address."""
    return host.strip("[]")


@contextlib.contextmanager
def _fetch_errors() -> Iterator[None]:
    """Convert errors of a connection to `FetchError`."""
    try:
        yield
    except FetchError:
        raise
    except (TimeoutError, UrllibTimeoutError) as error:
        raise FetchError(TOO_SLOW, silent=True) from error
    except (OSError, HTTPError, http.client.HTTPException) as error:
        raise FetchError(BROKEN, silent=True) from error
    except ValueError as error:
        # The server sent an invalid Location.
        raise FetchError(NO_ADDRESS) from error


def _read(answer: BaseHTTPResponse, accepted: Mapping[str, int], halt: threading.Event) -> Fetched:
    """Read an accepted file to its end."""
    content_type, announced = _check_headers(answer, accepted)
    body = bytearray()
    while piece := answer.read1(_PIECE):
        body += piece
        if len(body) >= accepted[content_type]:
            raise FetchError(TOO_LARGE)
        if halt.is_set():
            raise FetchError(STOPPED)
    if not body:
        raise FetchError(EMPTY)
    if announced is not None and announced != len(body):
        raise FetchError(BROKEN, silent=True)
    if not begins_like(content_type, body):
        raise FetchError(DISGUISED)
    return Fetched(body, content_type)


def _check_headers(answer: BaseHTTPResponse, accepted: Mapping[str, int]) -> tuple[str, int | None]:
    """Check the headers of a file; return its content type and, if announced, its length."""
    if answer.status != _OK:
        busy = answer.status == _BUSY or answer.status in _SERVER_ERRORS
        raise FetchError(f"its server answers HTTP {answer.status}", silent=busy)
    content_type = _content_type(answer.headers.get("Content-Type", ""), accepted)
    if answer.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise FetchError(ENCODED)
    announced = answer.headers.get("Content-Length", "")
    if announced.isdecimal():
        if int(announced) >= accepted[content_type]:
            raise FetchError(TOO_LARGE)
        return content_type, int(announced)
    if answer.headers.get("Transfer-Encoding", "").strip().lower() != "chunked":
        # Without a length, a broken connection looks like the end of the file.
        raise FetchError(UNBOUNDED)
    return content_type, None


def _content_type(header: str, accepted: Mapping[str, int]) -> str:
    """Return which of the accepted content types a header means, or raise `FetchError`."""
    sent = header.partition(";")[0].strip().lower()
    if sent in _UNKNOWN_TYPES and len(accepted) == 1:
        return next(iter(accepted))
    same = _SYNONYMS.get(sent, sent)
    for content_type in accepted:
        if _SYNONYMS.get(content_type, content_type) == same:
            return content_type
    raise FetchError(WRONG_TYPE)
