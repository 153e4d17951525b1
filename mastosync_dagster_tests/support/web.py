"""A server of the fediverse, good and hostile, with TLS under a CA of its own, on a loopback address of its own.

Its address, 127.0.0.2, is what the tests declare to be public: 127.0.0.1 stays what it is.
"""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mastosync_dagster.refetch.fetch import FetchSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

ADDRESS = "127.0.0.2"
HOST = "files.example"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 30
PAGE = b"<html><script>alert(1)</script></html>"


def _authority(folder: Path) -> tuple[Path, Path]:
    """Make a CA and a server's certificate. Returns the CA's file, and the server's with its key."""

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    now = datetime.now(timezone.utc)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]

    def sign(name: str, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("CA of the tests"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(keys[0], hashes.SHA256())

    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    authority = sign("CA of the tests", keys[0], x509.BasicConstraints(ca=True, path_length=0), usage)
    names = [x509.DNSName(name) for name in (HOST, f"*.{HOST}", "both.example", "inside.example")]
    server = sign(HOST, keys[1], x509.SubjectAlternativeName(names))
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(authority.public_bytes(pem))
    (folder / "server.pem").write_bytes(
        server.public_bytes(pem)
        + keys[1].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "ca.pem", folder / "server.pem"


@dataclass
class Web:
    """The server.

    Attributes:
        port: Where it listens.
        ca_file: Its CA.
        asked: The requests so far, by path.
        names: Name to addresses: all that the resolver knows, beside the names under `HOST`.
        hosts: The Host and SNI of each request.
    """

    port: int
    ca_file: Path
    asked: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)
    hosts: set[tuple[str, str | None]] = field(default_factory=set)

    def url(self, path: str, host: str = HOST) -> str:
        """Return the address of a file."""
        return f"https://{host}:{self.port}{path}"

    def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a name, or of an address."""
        assert port
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        if host.endswith(f".{HOST}"):
            return [ADDRESS]
        if host not in self.names:
            raise OSError(f"no such name: {host}")
        return self.names[host]

    def settings(self, **changes: Any) -> FetchSettings:
        """Return settings that trust the CA and take the server's address for a public one."""
        values: dict[str, Any] = {
            "resolve": self.resolve,
            "allowed": [ipaddress.IPv4Network(f"{ADDRESS}/32")],
            "ca_file": str(self.ca_file),
        }
        return FetchSettings(**{**values, **changes})


class _Answers(BaseHTTPRequestHandler):
    """Answers by path."""

    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the signature)
        pass

    def do_GET(self) -> None:
        web = self.web
        path, _, query = self.path.partition("?")
        web.asked[path] += 1
        web.hosts.add((self.headers["Host"], getattr(self.connection, "sni", None)))
        self.close_connection = True
        answers: Mapping[str, Callable[[], None]] = {
            "/good.png": lambda: self._send(PNG, "image/png; charset=binary"),
            "/good.jpg": lambda: self._send(JPEG, "image/jpg"),
            "/unsaid.png": lambda: self._send(PNG, "application/octet-stream"),
            "/chunked.png": self._chunked,
            "/page": lambda: self._send(PAGE, "text/html"),
            "/disguised.png": lambda: self._send(PAGE, "image/png"),
            "/svg": lambda: self._send(b"<svg/>", "image/svg+xml"),
            "/empty.png": lambda: self._send(b"", "image/png"),
            "/gzip.png": lambda: self._send(PNG, "image/png", more={"Content-Encoding": "gzip"}),
            "/large.png": lambda: self._send(PNG, "image/png", more={"Content-Length": str(2**34)}),
            "/short.png": lambda: self._send(PNG, "image/png", more={"Content-Length": str(len(PNG) + 1)}),
            "/endless.png": self._endless,
            "/unbounded.png": self._unbounded,
            "/broken-chunk.png": self._broken_chunk,
            "/drip.png": self._drip,
            "/drip-of-headers": self._drip_headers,
            "/silent": lambda: time.sleep(30),
            "/gone": lambda: self._send(b"", "text/plain", status=404),
            "/busy": lambda: self._send(b"", "text/plain", status=503),
            "/loop": lambda: self._redirect("/loop"),
            "/thrice": lambda: self._redirect("/twice"),
            "/twice": lambda: self._redirect("/once"),
            "/once": lambda: self._redirect("good.png"),
            "/to": lambda: self._redirect(unquote(query)),
        }
        with contextlib.suppress(OSError):
            answers.get(path, lambda: self._send(b"", "text/plain", status=404))()

    def _send(
        self, body: bytes, content_type: str, *, status: int = 200, more: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(body)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _redirect(self, location: str) -> None:
        self._send(b"", "text/plain", status=302, more={"Location": location})

    def _begin(self, name: str, value: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header(name, value)
        self.end_headers()

    def _chunk(self, piece: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def _chunked(self) -> None:
        self._begin("Transfer-Encoding", "chunked")
        for start in range(0, len(PNG), 1000):
            self._chunk(PNG[start : start + 1000])
        self._chunk(b"")

    def _broken_chunk(self) -> None:
        self._begin("Transfer-Encoding", "chunked")
        self._chunk(PNG)
        self.wfile.write(b"ffff\r\nand no more")

    def _endless(self) -> None:
        self._begin("Transfer-Encoding", "chunked")
        self._chunk(PNG)
        while True:
            self._chunk(bytes(65536))

    def _unbounded(self) -> None:
        self._begin("X-Length", "unsaid")
        self.wfile.write(PNG)

    def _drip(self) -> None:
        self._begin("Content-Length", "90000")
        self.wfile.write(PNG)
        self._drop_by_drop(b"\0")

    def _drip_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        self._drop_by_drop(b"x")

    def _drop_by_drop(self, drop: bytes) -> None:
        while True:
            self.wfile.write(drop)
            time.sleep(0.1)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Begin TLS in the connection's own thread, so that a client that gives up disturbs nobody."""
        request.settimeout(10)
        with contextlib.suppress(OSError), self.context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what is tested."""


@contextlib.contextmanager
def hostile_web(folder: Path) -> Iterator[Web]:
    """Run the server until the block ends."""
    ca_file, server_file = _authority(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_file)

    def note_name(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
        connection.sni = name

    context.sni_callback = note_name
    handler = type("Answers", (_Answers,), {})
    server = _Server((ADDRESS, 0), handler)
    server.context = context
    web = Web(port=server.server_address[1], ca_file=ca_file)
    handler.web = web  # type: ignore[attr-defined]  # what each request needs
    web.names = {
        HOST: [ADDRESS],
        "other-name.example": [ADDRESS],
        "inside.example": ["10.0.0.7"],
        "both.example": [ADDRESS, "192.168.0.7"],
        "metadata.example": ["169.254.169.254"],
        "nobody.example": [],
    }
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
