"""Where servers stand: on loopback, or behind a delay in a network namespace of their own."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import socket
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.native import build

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
LARGEST_PACKET = 65_520
"""Bytes: the whole window of a new connection holds most objects, so a request takes one round trip, as on loopback."""
ETHERNET_PACKET = 1_500
_FAR = "198.18.0.2"  # delayline.c gives it to the far end
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


@dataclass(frozen=True)
class Place:
    """Where a server stands.

    Attributes:
        address: Its IPv4 address, as the contenders see it.
        enter: What stands before a command so that it runs there.
        delay_ms: Round trip time between the contenders and it, in milliseconds; 0: loopback.
        packet_bytes: Largest packet on the way.
    """

    address: str = LOOPBACK
    enter: tuple[str, ...] = ()
    delay_ms: int = 0
    packet_bytes: int = LARGEST_PACKET


def leave_the_network() -> bool:
    """Move this process into a network namespace of its own, in which only loopback exists.

    Returns:
        False where that is not allowed (it takes root): then there can be no delay either.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))
    return True


@contextlib.contextmanager
def place(delay_ms: int, programs: Path, packet_bytes: int = LARGEST_PACKET) -> Iterator[Place]:
    """Make a place for servers: loopback, or the far end of a delay line.

    Args:
        delay_ms: Round trip time in milliseconds; half of it each way.
        packet_bytes: Largest packet of the delay line.
        programs: Where compiled programs lie.

    Raises:
        RuntimeError: The delay line did not start.
    """
    if delay_ms == 0:
        yield Place()
        return
    command = [str(build("delayline", programs)), str(delay_ms * 1000 // 2), str(packet_bytes)]
    # It ends when its standard input closes: also when this process is killed.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as line:
        assert line.stdout is not None  # noqa: S101  (it is a pipe)
        if line.stdout.readline() != b"ready\n":
            raise RuntimeError("the delay line did not start")
        namespace = Path(f"/proc/{line.pid}/ns/net")
        if namespace.samefile("/proc/self/ns/net"):
            raise RuntimeError("the delay line has no namespace of its own")
        yield Place(address=_FAR, enter=("nsenter", f"--net={namespace}"), delay_ms=delay_ms, packet_bytes=packet_bytes)
        assert line.stdin is not None  # noqa: S101  (it is a pipe)
        line.stdin.close()


def wait_until_listening(where: Place, port: int, seconds: float = 30.0) -> None:
    """Return when a server takes connections.

    Raises:
        TimeoutError: It does not.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((where.address, port), timeout=1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens on {where.address}:{port}")
