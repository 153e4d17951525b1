"""A name server that does not answer: named with what it was asked for, and no signal waits for it."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.support.waiting import slowdown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mastosync_dagster_tests.silence.site import Site

pytestmark = [pytest.mark.silence, pytest.mark.timeout(400)]

SECONDS = 2.0
_BESIDE_OTHERS = 5.0
LOOK_UP = 10.0
ADDRESS_IS_KEPT = 60.0

CONNECT = """
import time
from mastosync_dagster.resources import MastodonDatabase, S3Bucket
source = S3Bucket.source().storage()
with MastodonDatabase().session() as connect:
    for attempt in (lambda: connect().close(), source.check):
        for _ in range(2):
            begun = time.monotonic()
            attempt()
            print(time.monotonic() - begun, flush=True)
"""


CONNECT_AGAIN = """
import sys, time
from pathlib import Path
from mastosync_dagster.resources import MastodonDatabase
with MastodonDatabase().session(retry_first=True) as connect:
    connect().close()
    print("connected", flush=True)
    while not Path(sys.argv[1]).exists():
        time.sleep(0.05)
    begun = time.monotonic()
    connect().close()
    print(time.monotonic() - begun, flush=True)
"""


LOOK_UP_AGAIN = """
import sys, time
from pathlib import Path
from mastosync_dagster.addresses import KnownAddresses, LookUpError
known = KnownAddresses()
print("found", known.look_up("host.example", 1, 10)[0].ip, flush=True)
while not Path(sys.argv[1]).exists():
    time.sleep(0.05)
try:
    print("found", known.look_up("host.example", 1, 10)[0].ip, flush=True)
except LookUpError as error:
    print("unanswered" if error.unanswered else "gone", flush=True)
"""


@pytest.fixture(autouse=True)
def nobody(site: Site) -> Iterator[str]:
    """A name server whose packets vanish."""
    address = site.network.nobody("ssh")
    site.network.resolve("client", {}, server=address)
    # The addresses of nobody alone: the host beside them answers.
    with site.network.silent("ssh", "-d", f"{address.rpartition('.')[0]}.96/27"):
        yield address
    site.network.resolve("client", {})


@contextlib.contextmanager
def name_server_that_knows_nothing(site: Site) -> Iterator[None]:
    """Run a name server on the database's host that says of each name that there is none (NXDOMAIN)."""
    with site.network.inside("db"):
        server = socket.socket(type=socket.SOCK_DGRAM)
    server.bind((site.network.address("db"), 53))
    server.settimeout(0.1)
    done = threading.Event()

    def answer() -> None:
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                question, client = server.recvfrom(512)
                # The number of the question, "there is no such name", and the question.
                server.sendto(question[:2] + b"\x81\x83" + question[4:6] + bytes(6) + question[12:], client)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        server.close()


def names(site: Site) -> dict[str, str]:
    """Return the variables of storages that have names."""
    return {
        "S3_ENDPOINT": site.source.server.endpoint.replace(site.network.address("s3a"), "s3a.example"),
        "DESTINATION_S3_ENDPOINT": site.destination.server.endpoint.replace(site.network.address("s3b"), "s3b.example"),
    }


def test_check_names_what_cannot_be_resolved_and_who_was_asked(site: Site, nobody: str) -> None:
    usual = site.run("mastosync", "check", home="names-usual")
    url = site.database.url.replace(site.database.host, "db.example")
    ended = site.run("mastosync", "check", home="names-check", DATABASE_URL=url, **names(site))
    assert ended.status == 1
    asked = f"no name server answered within 10 s ({nobody} in /etc/resolv.conf)"
    for line, name in (("database", "db.example"), ("source", "s3a.example"), ("destination", "s3b.example")):
        (found,) = [each for each in ended.output.splitlines() if each.split()[1:2] == [f"{line}:"]]
        assert name in found, ended.output
        assert "cannot be resolved" in found, ended.output
        assert asked in found, ended.output
    # Three lines of ten seconds.
    assert ended.seconds < usual.seconds + 3 * (LOOK_UP + 2) * slowdown(), (usual, ended)


def test_a_command_says_at_once_that_a_name_cannot_be_resolved(site: Site) -> None:
    usual = site.run("mastosync", "status", home="names-sync")
    ended = site.run("mastosync", "sync", "custom_emojis", home="names-sync", **names(site))
    assert ended.status == 1
    assert "s3a.example: no name server answered within 10 s" in ended.output
    assert ended.seconds < usual.seconds + (LOOK_UP + 5) * slowdown(), (usual, ended)


def test_a_copy_goes_on_over_its_connections_when_the_name_server_falls_silent(site: Site, nobody: str) -> None:
    hosts = {f"{host}.example": [site.network.address(host)] for host in ("db", "s3a", "s3b")}
    site.network.resolve("client", hosts)
    url = site.database.url.replace(site.database.host, "db.example")
    command = ("mastosync", "sync", "accounts", "custom_emojis", "preview_cards", "--concurrency", "2")
    slowly = {"MASTOSYNC_DESTINATION_REQUESTS_PER_SECOND": "1.5"}
    fresh, running = site.begin_copy(*command, home="names-copy", DATABASE_URL=url, **names(site), **slowly)
    site.network.resolve("client", {}, server=nobody)
    ended = running.end()
    assert ended.status == 0, ended.output
    assert fresh.copied() == fresh.expected
    # Longer than an address is kept, so that it was looked up meanwhile.
    assert ended.seconds > ADDRESS_IS_KEPT + LOOK_UP


def test_silent_addresses_beside_one_that_answers_cost_a_second_once(site: Site) -> None:
    silent = [site.network.nobody("ssh", number) for number in range(2, 5)]
    hosts = {
        name: [*silent, site.network.address(host)] for name, host in (("db.example", "db"), ("s3a.example", "s3a"))
    }
    site.network.resolve("client", hosts)
    url = site.database.url.replace(site.database.host, "db.example")
    before = slowdown()
    ended = site.run("python", "-c", CONNECT, DATABASE_URL=url, **names(site))
    assert ended.status == 0, ended.output
    first, second, storage_first, storage_second = map(float, ended.output.split())
    slow = max(before, slowdown())
    assert first < 1.5 * slow, ended.output
    assert second < 0.5 * slow, ended.output
    assert storage_first < 1.5 * slow, ended.output
    assert storage_second < 0.5 * slow, ended.output


@pytest.mark.parametrize("way", ["plain", "tunnel"])
def test_a_host_that_was_reached_is_reached_again_while_no_name_can_be_looked_up(
    site: Site, nobody: str, way: str
) -> None:
    site.network.resolve("client", {"host.example": [site.network.address("ssh" if way == "tunnel" else "db")]})
    if way == "tunnel":
        lines = site.ssh.known_hosts_line(name=f"[host.example]:{site.ssh.port}")
        (file := site.folder / "known_hosts_of_names").write_text(lines)
        variables = {**site.tunnel(), "SSH_TUNNEL_HOST": "host.example", "SSH_TUNNEL_KNOWN_HOSTS": str(file)}
    else:
        variables = {"DATABASE_URL": site.database.url.replace(site.database.host, "host.example")}
    go_on = site.folder / f"go-on-{way}"
    running = site.start("python", "-c", CONNECT_AGAIN, str(go_on), **variables)
    running.wait_for("connected")
    site.network.resolve("client", {}, server=nobody)
    site.ssh.drop_connections()
    go_on.touch()
    ended = running.end()
    assert ended.status == 0, ended.output
    assert LOOK_UP - 1 < float(ended.output.split()[-1]) < (LOOK_UP + 5) * slowdown(), ended.output


def test_a_name_that_is_gone_is_not_reached_at_its_old_address(site: Site) -> None:
    address = site.network.address("db")
    site.network.resolve("client", {"host.example": [address]})
    go_on = site.folder / "go-on-gone"
    with name_server_that_knows_nothing(site):
        running = site.start("python", "-c", LOOK_UP_AGAIN, str(go_on))
        running.wait_for(f"found {address}")
        site.network.resolve("client", {}, server=address)
        go_on.touch()
        ended = running.end()
    assert ended.output.split() == ["gone"], ended.output


def test_of_several_hosts_that_cannot_be_looked_up_the_first_is_named_in_time(site: Site, nobody: str) -> None:
    usual = site.run("mastosync", "check", home="names-usual")
    database = {
        "DATABASE_URL": "",
        "DB_HOST": "db1.example,db2.example,db3.example",
        "DB_PORT": str(site.database.port),
        "DB_NAME": site.database.database,
        "DB_USER": site.database.user,
        "DB_PASS": site.database.password,
    }
    ended = site.run("mastosync", "check", home="names-several", **database)
    assert ended.status == 1
    assert "db1.example cannot be resolved: no name server answered within 10 s" in ended.output, ended.output
    assert nobody in ended.output
    assert ended.seconds < usual.seconds + (LOOK_UP + 5) * slowdown(), (usual, ended)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_look_up_of_a_storage(site: Site, nobody: str, number: signal.Signals) -> None:
    running = site.start("mastosync", "sync", "custom_emojis", home=f"names-{number}", **names(site))
    site.wait_for_sockets("connected", nobody, 120)
    before = slowdown()
    ended = running.signal(number, 60)
    assert ended.seconds < SECONDS * max(_BESIDE_OTHERS if before > 1.5 else 1.0, before, slowdown()), ended
    assert ended.status != 0
