"""Hosts of a test's own: network namespaces around a router that can let packets vanish, slow them down, or lose them.

Nothing reaches the network of this machine: the hosts have private addresses, and no way out.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from fcntl import ioctl
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_NETWORK = 0x40000000
_ROUTER = "router"
_TUNSETIFF, _TUN, _NO_PACKET_INFORMATION = 0x400454CA, 0x0001, 0x1000
_MOST_BYTES = 65536


@lru_cache(maxsize=1)
def why_not() -> str | None:
    """Return why this machine cannot make such hosts; None: it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "iptables", "sysctl") if shutil.which(name) is None]
    if missing:
        return f"without {' and '.join(missing)}"
    name = f"mst-{uuid.uuid4().hex[:8]}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces cannot be made: {made.stderr.strip()}"
    packets = subprocess.run(
        ["ip", "netns", "exec", name, "iptables", "-A", "FORWARD", "-j", "DROP"],
        capture_output=True,
        text=True,
        check=False,
    )
    subprocess.run(["ip", "netns", "del", name], check=False)
    return f"iptables does not work: {packets.stderr.strip()}" if packets.returncode else None


@dataclass(frozen=True)
class Line:
    """What a slow line does to each packet, either way. The kernel of a test machine need not have netem.

    Attributes:
        delay: Seconds.
        loss: Share of the packets.
        rate: Bytes a second; None: no limit.
        largest: Bytes of the largest packet that passes; a longer one vanishes, without a word (an MTU hole).
        queue: Seconds that packets wait at most; more are dropped, as by a router.
    """

    delay: float = 0.0
    loss: float = 0.0
    rate: float | None = None
    largest: int = _MOST_BYTES
    queue: float = 0.5


@dataclass
class Network:
    """Hosts with a router between them. The first host is ``client``.

    Attributes:
        name: What the names of the namespaces begin with.
        numbers: Of each host: its address is ``10.91.NUMBER.2``.
    """

    name: str
    numbers: dict[str, int] = field(default_factory=dict)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def address(self, host: str) -> str:
        """Return a host's address."""
        return f"10.91.{self.numbers[host]}.2"

    def nobody(self, host: str, number: int = 1) -> str:
        """Return an address beside a host that nobody has: packets to it vanish too while that host is silent."""
        return f"10.91.{self.numbers[host]}.{100 + number}"

    def add(self, host: str, line: Line | None = None) -> None:
        """Add a host, whose way to the router may be a slow line."""
        number = self.numbers[host] = len(self.numbers) + 1
        self._make(host)
        ours, theirs = f"h{number}", f"r{number}"
        if line is None:
            _ip("link", "add", ours, "netns", self._space(host), "type", "veth", "peer", theirs, "netns", self._router)
        else:
            self._stack.enter_context(_slow_line(line, (self._space(host), ours), (self._router, theirs)))
        for space, device, end in ((self._space(host), ours, 2), (self._router, theirs, 1)):
            peer = [] if line is None else ["peer", f"10.91.{number}.{3 - end}/32"]
            length = 24 if line is None else 32
            _ip("-n", space, "addr", "add", f"10.91.{number}.{end}/{length}", *peer, "dev", device)
            _ip("-n", space, "link", "set", device, "up")
        _ip("-n", self._space(host), "route", "add", "default", "via", f"10.91.{number}.1")

    @property
    def _router(self) -> str:
        return self._space(_ROUTER)

    def _space(self, host: str) -> str:
        return f"{self.name}-{host}"

    def _make(self, host: str) -> None:
        space = self._space(host)
        _ip("netns", "add", space)
        self._stack.callback(_ip, "netns", "del", space)
        _ip("-n", space, "link", "set", "lo", "up")
        if host == _ROUTER:
            subprocess.run(
                ["ip", "netns", "exec", space, "sysctl", "-qw", "net.ipv4.ip_forward=1"],
                check=True,
                capture_output=True,
            )

    def resolve(self, host: str, names: Mapping[str, Sequence[str]], server: str | None = None) -> None:
        """Give a host names, and a name server for others; commands of `command` see them.

        Args:
            host: The host that looks up.
            names: Addresses by name, in order.
            server: Address of the name server; None: there is none.
        """
        folder = Path("/etc/netns") / self._space(host)
        if not folder.exists():
            folder.mkdir(parents=True)
            self._stack.callback(shutil.rmtree, folder)
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, all_ in names.items() for address in all_)]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        (folder / "resolv.conf").write_text(f"nameserver {server or '127.0.0.1'}\n")

    def command(self, host: str, *command: str) -> list[str]:
        """Return the command that runs another one on a host, as the same process."""
        return ["ip", "netns", "exec", self._space(host), *command]

    @contextlib.contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """Have this thread open sockets, and start processes, on a host."""
        with Path("/proc/thread-self/ns/net").open(encoding="ascii") as before:
            with Path(f"/run/netns/{self._space(host)}").open(encoding="ascii") as there:
                _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    @contextlib.contextmanager
    def silent(self, host: str, *matches: str) -> Iterator[None]:
        """Let packets to and from a host vanish while the block runs; ``matches``: only such ones (iptables)."""
        self.silence(host, *matches)
        try:
            yield
        finally:
            self.restore(host, *matches)

    def silence(self, host: str, *matches: str) -> None:
        """Let packets to and from a host vanish from now on."""
        self._rules("-I", host, matches)

    def restore(self, host: str, *matches: str) -> None:
        """End what `silence` began."""
        self._rules("-D", host, matches)

    @contextlib.contextmanager
    def vanished(self, host: str, port: int) -> Iterator[None]:
        """Let the packets of one TCP connection vanish while the block runs; ``port`` is the host's own end of it."""
        with contextlib.ExitStack() as stack:
            for end in ("--sport", "--dport"):
                stack.enter_context(self.silent(host, "-p", "tcp", end, str(port)))
            yield

    def _rules(self, action: str, host: str, matches: tuple[str, ...]) -> None:
        for way in ("-i", "-o"):
            subprocess.run(
                self.command(
                    _ROUTER, "iptables", action, "FORWARD", way, f"r{self.numbers[host]}", *matches, "-j", "DROP"
                ),
                check=True,
                capture_output=True,
            )

    def close(self) -> None:
        """Remove everything."""
        self._stack.close()


@contextlib.contextmanager
def make_network(*hosts: str, client_line: Line | None = None) -> Iterator[Network]:
    """Make a network with a ``client`` and other hosts; the test is skipped where that cannot be done."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no test hosts: {reason}")
    network = Network(f"mst-{uuid.uuid4().hex[:6]}")
    try:
        network._make(_ROUTER)
        network.add("client", client_line)
        for host in hosts:
            network.add(host)
        yield network
    finally:
        network.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


# ---- a slow line: two devices, and a process that carries packets between them ----


@contextlib.contextmanager
def _slow_line(line: Line, *ends: tuple[str, str]) -> Iterator[None]:
    """Have a process that carries packets between two devices, each of which it makes in a namespace."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            devices = [_tun(*end) for end in ends]
            os.write(writing, b"!")
            _carry(line, devices)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"!", "the slow line could not be made"
        yield
    finally:
        os.close(reading)
        os.kill(child, 9)
        os.waitpid(child, 0)


def _tun(space: str, name: str) -> int:
    with Path(f"/run/netns/{space}").open(encoding="ascii") as there:
        _enter(there.fileno())
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN | _NO_PACKET_INFORMATION))
    return device


def _carry(line: Line, devices: list[int]) -> None:
    """Carry packets for ever."""
    chance = random.Random(1)
    waiting: list[tuple[float, int, int, bytes]] = []
    free = dict.fromkeys(devices, 0.0)
    number = 0
    other = dict(zip(devices, reversed(devices), strict=True))
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, device, packet = heapq.heappop(waiting)
            with contextlib.suppress(OSError):
                os.write(device, packet)
        pause = waiting[0][0] - now if waiting else None
        for device in select.select(devices, [], [], pause)[0]:
            with contextlib.suppress(BlockingIOError):
                packet = os.read(device, _MOST_BYTES)
                now = time.monotonic()
                if len(packet) > line.largest or chance.random() < line.loss or free[device] - now > line.queue:
                    continue
                if line.rate:
                    free[device] = max(free[device], now) + len(packet) / line.rate
                number += 1
                heapq.heappush(waiting, (max(free[device], now) + line.delay, number, other[device], packet))
