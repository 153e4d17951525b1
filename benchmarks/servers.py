"""The S3 servers that the contenders copy between."""

from __future__ import annotations

import contextlib
import enum
import functools
import secrets
import subprocess
import tempfile
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import obstore
from botocore.config import Config
from obstore.store import S3Store

from benchmarks.native import build
from benchmarks.network import LARGEST_PACKET, Place, wait_until_listening
from mastosync_dagster.demo.servers.start import free_port, rclone_binary
from mastosync_dagster.installation.processes import running
from mastosync_dagster_tests.support.tls import self_signed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mypy_boto3_s3 import S3Client

    from benchmarks.dataset import Body

BUCKET = "media"
REGION = "us-east-1"


class Kind(enum.Enum):
    """Which server."""

    RCLONE = "rclone serve s3"
    """A real one: checks signatures, keeps every header. A third of a CPU millisecond a request."""

    RCLONE_HTTPS = "rclone serve s3, HTTPS"
    """The same behind TLS, with a certificate that has signed itself."""

    MEMORY = "memory_s3"
    """Ours in C: a few hundredths of a millisecond a request, counts what it answers, holds a million objects."""

    STALLING = "memory_s3, 1 % of GETs stalled for 10 s"
    """The same, which answers every hundredth GET of an object only after ten seconds."""

    @property
    def counts_requests(self) -> bool:
        """Whether it tells how many requests it has answered."""
        return self in {Kind.MEMORY, Kind.STALLING}


@dataclass(frozen=True)
class Server:
    """A running server with one bucket, `BUCKET`.

    Attributes:
        kind: Which server it is.
        place: Where it stands.
        port: Its TCP port.
        access_key_id: Its only access key.
        secret_access_key: That key's secret.
        pid: Its process id.
        certificate: What it shows where it speaks TLS, which is also what has to be trusted.
    """

    kind: Kind
    place: Place
    port: int
    access_key_id: str
    secret_access_key: str = field(repr=False)
    pid: int
    certificate: Path | None = None

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://{self.place.address}:{self.port}"

    @property
    def description(self) -> str:
        """Kind of the server, and of the way to it where that is not the usual one."""
        if self.place.packet_bytes == LARGEST_PACKET:
            return self.kind.value
        return f"{self.kind.value}, packets of {self.place.packet_bytes:,} bytes"

    def client(self) -> S3Client:
        """Return a boto3 client as a script for third-party storage makes it."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            region_name=REGION,
            verify=str(self.certificate) if self.certificate else None,
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def store(self) -> S3Store:
        """Return an obstore store of the bucket."""
        return S3Store(
            BUCKET,
            endpoint=self.endpoint,
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            region=REGION,
            unsigned_payload=True,
            virtual_hosted_style_request=False,
            # It fills and checks; whether certificates are looked at is the contenders' matter.
            client_options={
                "allow_http": True,
                "allow_invalid_certificates": self.certificate is not None,
                "timeout": timedelta(minutes=5),
            },
        )

    def environment(self, prefix: str = "") -> dict[str, str]:
        """Return the variables that describe this storage to mastosync."""
        trusted = {"AWS_CA_BUNDLE": str(self.certificate)} if self.certificate else {}
        return trusted | {
            f"{prefix}S3_BUCKET": BUCKET,
            f"{prefix}S3_ENDPOINT": self.endpoint,
            f"{prefix}S3_REGION": REGION,
            f"{prefix}AWS_ACCESS_KEY_ID": self.access_key_id,
            f"{prefix}AWS_SECRET_ACCESS_KEY": self.secret_access_key,
        }

    def counts(self) -> dict[str, int]:
        """Return how many requests a server that counts has answered, by name (GET, HEAD, PUT, LIST, ...)."""
        with urllib.request.urlopen(f"{self.endpoint}/-/counts", timeout=10) as answer:  # noqa: S310  (our own server)
            lines = answer.read().decode().splitlines()
        return {name: int(number) for name, number in (line.split() for line in lines)}


@contextlib.contextmanager
def server(kind: Kind, place: Place, programs: Path) -> Iterator[Server]:
    """Run a server with an empty bucket until the block ends.

    Args:
        kind: Which server.
        place: Where it stands.
        programs: Where compiled programs lie.
    """
    port, key, secret = free_port(), secrets.token_hex(8), secrets.token_hex(20)
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mastosync-bench-s3-")))
        certificate: Path | None = None
        if kind.counts_requests:
            command = [str(build("memory_s3", programs)), place.address, str(port)]
            command += ["100", "10000"] if kind is Kind.STALLING else []
            process = stack.enter_context(_held(place, command))
        else:
            command = [str(rclone_binary()), "serve", "s3", "--auth-key", f"{key},{secret}"]
            command += ["--addr", f"{place.address}:{port}", "--config", "", "-q", ":memory:"]
            if kind is Kind.RCLONE_HTTPS:
                # Both servers show the same certificate: a contender gets one file.
                certificate, private = _certificate(programs)
                command += ["--cert", str(certificate), "--key", str(private)]
            process = stack.enter_context(running([*place.enter, *command], log=base / "log", grace=2))
        wait_until_listening(place, port)
        made = Server(kind, place, port, key, secret, process.pid, certificate)
        made.client().create_bucket(Bucket=BUCKET)
        yield made


@functools.cache
def _certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate and its key, once."""
    return self_signed(folder)


@contextlib.contextmanager
def _held(place: Place, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that ends when its standard input closes."""
    with subprocess.Popen([*place.enter, *command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None  # noqa: S101  (it is a pipe)
        try:
            yield process
        finally:
            process.stdin.close()


def fill(target: Server, bodies: Iterable[Body], threads: int = 32) -> None:
    """Put objects into a server.

    Args:
        target: The server.
        bodies: The objects.
        threads: Requests in flight.

    Raises:
        BaseException: What the first request that failed raised.
    """
    store, lock, source = target.store(), threading.Lock(), iter(bodies)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not errors:
                with lock:
                    body = next(source, None)
                if body is None:
                    return
                obstore.put(store, body.key, body.content(), attributes=body.attributes(), use_multipart=body.is_large)
        except BaseException as error:  # noqa: BLE001  (handed to the caller)
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]


def remove(target: Server, keys: Iterable[str], threads: int = 32) -> None:
    """Delete objects from a server, one by one: not every server can delete many at once."""
    client = target.client()
    with contextlib.closing(client), ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda key: client.delete_object(Bucket=BUCKET, Key=key), keys))
