"""Starts S3 servers of several makers on loopback, without root and without containers.

What pip and apt have is brought by ``scripts/servers.sh`` into a folder (SERVERS_HOME, by default ``.servers``). Of a
server that is not there, `Absent` says why.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mastosync_dagster.demo.servers.start import LOOPBACK, S3Server, free_port, rclone_s3
from mastosync_dagster.installation.processes import running
from mastosync_dagster_tests.support.acls import acl_server
from mastosync_dagster_tests.support.nginx import NGINX
from mastosync_dagster_tests.support.tls import self_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

HOME = Path(os.environ.get("SERVERS_HOME", Path(__file__).parents[2] / ".servers"))
KEY, SECRET = "AKOFTHETESTS", "secret-of-the-tests"
_SECONDS = 90.0


class Absent(Exception):  # noqa: N818  (no error: the reason why a server is not tried)
    """The server is not on this machine."""


@dataclass(frozen=True)
class RealServer:
    """A running server.

    Attributes:
        name: For people.
        server: Where tests fill and inspect it.
        endpoint: Where mastosync is sent; differs where something stands before it.
        ca_file: What has signed its certificate.
    """

    name: str
    server: S3Server
    endpoint: str
    ca_file: Path | None = None


def _binary(name: str) -> str:
    found = [HOME / "bin" / name, Path(sys.executable).with_name(name)]
    path = next((str(each) for each in found if each.exists()), None) or shutil.which(name)
    if path is None:
        raise Absent(f"there is no {name}: scripts/servers.sh brings it")
    return path


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers HTTP."""
    address, deadline = urlsplit(url), time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/")
            if connection.getresponse().status < 500:
                return
        time.sleep(0.1)
    raise AssertionError(f"no answer from {url}: {log.read_text()[-2000:]}")


def _server(port: int, process: subprocess.Popen[bytes], log: Path) -> S3Server:
    server = S3Server(f"http://{LOOPBACK}:{port}", KEY, SECRET, pid=process.pid, log=log)
    _wait(server.endpoint, process, log)
    return server


@contextlib.contextmanager
def _rclone(_: Path) -> Iterator[RealServer]:
    with rclone_s3() as server:
        yield RealServer("rclone", server, server.endpoint)


@contextlib.contextmanager
def _moto(_: Path) -> Iterator[RealServer]:
    with acl_server() as server:
        yield RealServer("moto", server, server.endpoint)


@contextlib.contextmanager
def _juicefs(folder: Path) -> Iterator[RealServer]:
    binary, port, log = _binary("juicefs"), free_port(), folder / "log"
    database = f"sqlite3://{folder}/meta.db"
    command = [binary, "format", "--storage", "file", "--bucket", f"{folder}/blobs/", database, "demo"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    command = [binary, "gateway", "--no-usage-report", "--multi-buckets", "--keep-etag", "--object-meta"]
    command += ["--no-banner", "--cache-dir", f"{folder}/cache", "--cache-size", "64M"]
    command += ["--metrics", f"{LOOPBACK}:{free_port()}", database, f"{LOOPBACK}:{port}"]
    keys = {"MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET}
    with running(command, log=log, env={**os.environ, **keys}, cwd=folder) as process:
        server = _server(port, process, log)
        yield RealServer("JuiceFS gateway (MinIO's front end)", server, server.endpoint)


@contextlib.contextmanager
def _seaweedfs(folder: Path) -> Iterator[RealServer]:
    binary, log = _binary("weed"), folder / "log"
    identity = {
        "name": "demo",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    ports = {name: free_port() for name in (*names, "s3.port", "s3.port.grpc")}
    command = [binary, "server", f"-dir={folder}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", "-filer", "-s3"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder}/identities.json", "-s3.iam=false"]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=400", "-master.telemetry=false"]
    with running(command, log=log, cwd=folder) as process:
        server = _server(ports["s3.port"], process, log)
        yield RealServer("SeaweedFS", server, server.endpoint)


@contextlib.contextmanager
def _ministack(folder: Path) -> Iterator[RealServer]:
    binary, port, log = _binary("ministack"), free_port(), folder / "log"
    settings = {"GATEWAY_PORT": str(port), "LOG_LEVEL": "ERROR", "SERVICES": "s3"}
    with running([binary], log=log, env={**os.environ, **settings}, cwd=folder) as process:
        server = _server(port, process, log)
        yield RealServer("MiniStack", server, server.endpoint)


@contextlib.contextmanager
def _nginx(folder: Path) -> Iterator[RealServer]:
    """Before rclone, with TLS by a CA of its own."""
    if NGINX is None:
        raise Absent("there is no nginx (Debian: apt-get install nginx-light)")
    certificate, key = self_signed(folder, ca=True)
    port, log = free_port(), folder / "log"
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    with rclone_s3() as upstream:
        (folder / "nginx.conf").write_text(
            f"{user} daemon off; worker_processes 1; pid {folder}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {places} client_max_body_size 0;\n"
            f" ssl_certificate {certificate}; ssl_certificate_key {key};\n"
            f" upstream storage {{ server {urlsplit(upstream.endpoint).netloc}; keepalive 32; }}\n"
            f" server {{ listen {LOOPBACK}:{port} ssl; location / {{\n"
            "  proxy_pass http://storage; proxy_http_version 1.1;\n"
            "  proxy_set_header Connection ''; proxy_set_header Host $http_host; } } }\n"
        )
        command = [str(NGINX), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
        with running(command, log=log, cwd=folder) as process:
            deadline = time.monotonic() + _SECONDS
            while not (folder / "pid").exists():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield RealServer("nginx with TLS before rclone", upstream, f"https://localhost:{port}", certificate)


@contextlib.contextmanager
def _ceph(folder: Path) -> Iterator[RealServer]:
    """A monitor, an OSD in memory and a gateway."""
    root = HOME / "root"
    if not (root / "usr/bin/radosgw").exists():
        raise Absent("there is no radosgw: scripts/servers.sh brings it on Debian 12")
    libraries = root / "usr/lib/x86_64-linux-gnu"
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{libraries}:{libraries}/ceph:{root}/lib/x86_64-linux-gnu",
        "PATH": f"{root}/usr/bin:{os.environ['PATH']}",
        "PYTHONPATH": f"{root}/usr/lib/python3/dist-packages",
        "CEPH_CONF": f"{folder}/ceph.conf",
    }

    def call(*words: str, seconds: float = 60) -> str:
        done = subprocess.run(
            [f"{root}/usr/bin/{words[0]}", *words[1:]],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds,
        )
        return done.stdout

    ports = [free_port() for _ in range(3)]
    fsid = str(uuid.uuid4())
    _ceph_files(folder, root, fsid, ports)
    addresses = f"[v2:{LOOPBACK}:{ports[0]},v1:{LOOPBACK}:{ports[1]}]"
    monmap, monitor, admin = f"{folder}/monmap", f"{folder}/mon.keyring", f"{folder}/admin.keyring"
    call("monmaptool", "--create", "--fsid", fsid, "--clobber", monmap)
    call("monmaptool", "--addv", "a", addresses, monmap)
    call("ceph-authtool", "--create-keyring", monitor, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    caps = [word for name in ("mon", "osd", "mgr") for word in ("--cap", name, "allow *")]
    call("ceph-authtool", "--create-keyring", admin, "--gen-key", "-n", "client.admin", *caps)
    call("ceph-authtool", monitor, "--import-keyring", admin)
    call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", monitor)
    binaries, log = f"{root}/usr/bin", folder / "log-of-all"
    with contextlib.ExitStack() as stack:

        def begin(*words: str) -> subprocess.Popen[bytes]:
            command = [f"{binaries}/{words[0]}", *words[1:]]
            return stack.enter_context(running(command, log=log, env=environment, cwd=folder))

        begin("ceph-mon", "-i", "a", "-f")

        def monitor_answers() -> None:
            call("ceph", "-s", seconds=10)

        _repeat(monitor_answers)
        identity = str(uuid.uuid4())
        number = call("ceph", "osd", "new", identity).strip()
        keyring = call("ceph", "auth", "get-or-create", f"osd.{number}", "mon", "allow profile osd", "osd", "allow *")
        (folder / "osd" / "keyring").write_text(keyring)
        call("ceph-osd", "-i", number, "--mkfs", "--osd-uuid", identity)
        call("ceph", "osd", "crush", "add", f"osd.{number}", "1.0", "root=default")
        begin("ceph-osd", "-i", number, "-f")

        def osd_is_up() -> None:
            assert "1 up" in call("ceph", "osd", "stat")

        _repeat(osd_is_up)
        gateway = begin("radosgw", "-n", "client.admin", "-f")
        server = _server(ports[2], gateway, log)
        user = ("--uid", "tests", "--display-name", "tests", "--access-key", KEY, "--secret-key", SECRET)
        call("radosgw-admin", "user", "create", *user)
        yield RealServer("Ceph RADOS Gateway", server, server.endpoint)


def _ceph_files(folder: Path, root: Path, fsid: str, ports: list[int]) -> None:
    for name in ("mon", "osd", "run", "log"):
        (folder / name).mkdir()
    libraries = root / "usr/lib/x86_64-linux-gnu"
    (folder / "ceph.conf").write_text(f"""
[global]
fsid = {fsid}
mon host = [v2:{LOOPBACK}:{ports[0]},v1:{LOOPBACK}:{ports[1]}]
public network = 127.0.0.0/8
keyring = {folder}/admin.keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd class dir = {libraries}/rados-classes
erasure code dir = {libraries}/ceph/erasure-code
plugin dir = {libraries}/ceph
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 2000
run dir = {folder}/run
admin socket = {folder}/run/$cluster-$name.asok
log file = {folder}/log/$name.log
pid file = {folder}/run/$name.pid
debug ms = 0
[mon]
mon data = {folder}/mon
mon initial members = a
mon data avail crit = 1
[osd]
osd data = {folder}/osd
keyring = {folder}/osd/keyring
osd objectstore = memstore
memstore device bytes = 4294967296
osd memory target = 1073741824
osd op num shards = 2
osd max object name len = 256
osd max object namespace len = 64
[client]
rgw frontends = beast endpoint={LOOPBACK}:{ports[2]} tcp_nodelay=1
rgw enable ops log = false
rgw enable usage log = false
rgw thread pool size = 64
debug rgw = 0
rgw gc obj min wait = 1
""")


def _repeat(attempt: Callable[[], None]) -> None:
    """Try something until it succeeds."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            attempt()
        except (AssertionError, subprocess.SubprocessError):
            assert time.monotonic() < deadline
            time.sleep(0.3)
        else:
            return


SERVERS: Mapping[str, Callable[[Path], AbstractContextManager[RealServer]]] = {
    "rclone": _rclone,
    "moto": _moto,
    "nginx": _nginx,
    "juicefs": _juicefs,
    "seaweedfs": _seaweedfs,
    "ministack": _ministack,
    "ceph": _ceph,
}


class RunningServers:
    """Starts each server when it is first asked for, and ends all at the end."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._running: dict[str, RealServer | Absent] = {}

    def get(self, name: str) -> RealServer:
        """Return a server. `Absent`: it is not on this machine."""
        if name not in self._running:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix=f"mastosync-{name}-")))
            try:
                self._running[name] = self._stack.enter_context(SERVERS[name](folder))
            except Absent as absent:
                self._running[name] = absent
        found = self._running[name]
        if isinstance(found, Absent):
            raise found
        return found

    def close(self) -> None:
        """End all of them."""
        self._stack.close()
