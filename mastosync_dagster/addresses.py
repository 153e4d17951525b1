"""Names to addresses, and to the one that answers: with limits that the C library does not have."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_STAGGER_SECONDS = 0.25
"""How long an address has until the next one is tried beside it (RFC 8305)."""
_IN_PROGRESS = frozenset({0, errno.EINPROGRESS})


_RESOLVERS = Path("/etc/resolv.conf")
_MOST_SECONDS = 10.0
"""The C library asks each name server several times, for half a minute in all."""


class LookUpError(OSError):
    """A name cannot be resolved. The message says why.

    Attributes:
        unanswered: Nobody has said that the name has no address.
    """

    def __init__(self, host: str, why: str, *, unanswered: bool) -> None:
        super().__init__(f"the name {host} cannot be resolved: {why}")
        self.why = why
        self.unanswered = unanswered


@dataclass(frozen=True, slots=True)
class Address:
    """An address to connect to over TCP: what `socket.connect` takes."""

    family: socket.AddressFamily
    sockaddr: tuple[str, int] | tuple[str, int, int, int]

    @property
    def ip(self) -> str:
        """Its text."""
        return self.sockaddr[0]


def look_up(host: str, port: int, seconds: float) -> list[Address]:
    """Return the addresses of a host, in the order of the system's preference. Signals interrupt the wait.

    It takes ten seconds at most, and no more than ``seconds``.

    Raises:
        LookUpError: There are none, or no name server answered in time.
    """
    found: list[Address] = []
    errors: list[LookUpError] = []
    done = threading.Event()

    def ask() -> None:
        try:
            for family, _, _, _, sockaddr in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                found.append(Address(family, sockaddr))  # type: ignore[arg-type]  # of these two families
        except OSError as error:
            unanswered = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
            errors.append(LookUpError(host, error.strerror or str(error), unanswered=unanswered))
        except UnicodeError:
            errors.append(LookUpError(host, "it is no host name", unanswered=False))
        finally:
            done.set()

    if is_address(host):
        ask()
    if not done.is_set():
        # The C library asks every name server several times, and nothing can interrupt it: it is left alone.
        threading.Thread(target=ask, name="look-up", daemon=True).start()
        seconds = max(0.0, min(seconds, _MOST_SECONDS))
        if not done.wait(seconds):
            why = f"no name server answered within {seconds:.0f} s{_name_servers()}"
            raise LookUpError(host, why, unanswered=True)
    if errors:
        raise errors[0]
    return list(dict.fromkeys(found))


class KnownAddresses:
    """Looks names up; while no name server answers, what was found before holds."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], list[Address]] = {}

    def look_up(self, host: str, port: int, seconds: float) -> list[Address]:
        """Return the addresses of a host, as `look_up` does; a name that is gone, or was never found, raises as it."""
        try:
            found = look_up(host, port, seconds)
        except LookUpError as error:
            if not error.unanswered or (host, port) not in self._found:
                raise
            return list(self._found[host, port])
        self._found[host, port] = list(found)
        return found


def is_address(host: str) -> bool:
    """Return whether a host is given by its IP address, and so has no name to look up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _name_servers() -> str:
    """Return which name servers were asked, in parentheses, as far as the system says."""
    try:
        lines = [line.split() for line in _RESOLVERS.read_text("utf-8", "replace").splitlines()]
    except OSError:
        return ""
    found = [words[1] for words in lines if words[:1] == ["nameserver"] and len(words) > 1]
    return f" ({', '.join(found)} in {_RESOLVERS})" if found else ""


def connect_first(addresses: Sequence[Address], seconds: float) -> tuple[Address, socket.socket]:
    """Connect to the first address that answers: one after the other, a quarter of a second apart, beside each other.

    The socket has no time limit.

    Raises:
        TimeoutError: None answered in time.
        OSError: All refused; it is the last one's.
    """
    deadline = time.monotonic() + seconds
    waiting = list(addresses)
    trying: dict[int, tuple[Address, socket.socket]] = {}
    failure: OSError = TimeoutError(errno.ETIMEDOUT, "no answer in time")
    with contextlib.ExitStack() as stack:
        poller = select.poll()
        while waiting or trying:
            if waiting:
                address = waiting.pop(0)
                try:
                    attempt = stack.enter_context(socket.socket(address.family, socket.SOCK_STREAM))
                    attempt.setblocking(False)
                    refused = attempt.connect_ex(address.sockaddr)
                except OSError as error:  # the system has no such family
                    refused, failure = -1, error
                else:
                    if refused in _IN_PROGRESS:
                        trying[attempt.fileno()] = address, attempt
                        poller.register(attempt, select.POLLOUT)
                    else:
                        failure = OSError(refused, os.strerror(refused))
            left = deadline - time.monotonic()
            if left <= 0:
                break
            for descriptor, _ in (
                poller.poll(1000 * (min(left, _STAGGER_SECONDS) if waiting else left)) if trying else ()
            ):
                address, attempt = trying.pop(descriptor)
                poller.unregister(descriptor)
                number = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if number == 0:
                    connected = attempt.dup()
                    connected.setblocking(True)
                    return address, connected
                failure = OSError(number, os.strerror(number))
    raise failure if not trying else TimeoutError(errno.ETIMEDOUT, "no answer in time")
