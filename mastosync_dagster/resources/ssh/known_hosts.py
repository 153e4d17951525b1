"""Which keys a known_hosts file lists for a host, by OpenSSH's rules (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DEFAULT_PORT = 22
_REVOKED = "@revoked"


@dataclass(frozen=True, slots=True)
class HostKey:
    """A public key of a host: its type, such as ``ssh-ed25519``, and its bytes as SSH sends them.

    ``line`` is the number of the line that lists it; 0 for a key that a server presented.
    """

    kind: str
    blob: bytes
    line: int = 0

    @property
    def fingerprint(self) -> str:
        """The fingerprint as ``ssh-keygen -l`` prints it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        return f"SHA256:{digest}"


@dataclass(frozen=True, slots=True)
class KnownHost:
    """The keys that a known_hosts file lists for ``[host]:port``, or for the host alone."""

    name: str
    keys: tuple[HostKey, ...] = ()
    revoked: tuple[HostKey, ...] = ()


def host_name(host: str, port: int) -> str:
    """Return the name of a host in known_hosts: ``host``, or ``[host]:port`` for other ports than 22."""
    return host.lower() if port == _DEFAULT_PORT else f"[{host.lower()}]:{port}"


def known_host(path: Path, host: str, port: int) -> KnownHost:
    """Return the keys that a file lists for a host. A file that does not exist lists none.

    As in OpenSSH, keys of the host without port count for other ports if ``[host]:port`` has none. Lines that cannot be
    parsed, and certificate authorities, are ignored.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    found = _listed(lines, host_name(host, port))
    return found if found.keys or found.revoked or port == _DEFAULT_PORT else _listed(lines, host.lower())


def _listed(lines: list[str], name: str) -> KnownHost:
    keys: list[HostKey] = []
    revoked: list[HostKey] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else None
        if len(words) < 3 or words[0].startswith("#") or marker not in {None, _REVOKED}:  # noqa: PLR2004  (three fields)
            continue
        patterns, kind, encoded = words[:3]
        if not _matches(patterns, name):
            continue
        try:
            key = HostKey(kind, base64.b64decode(encoded, validate=True), number)
        except binascii.Error:
            continue
        (revoked if marker else keys).append(key)
    return KnownHost(name, tuple(keys), tuple(revoked))


def _matches(patterns: str, name: str) -> bool:
    if patterns.startswith("|"):
        return _matches_hash(patterns, name)
    matched = False
    for pattern in patterns.lower().split(","):
        if fnmatch.fnmatchcase(name, pattern.removeprefix("!").replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched


def _matches_hash(entry: str, name: str) -> bool:
    """Return whether a hashed entry (``|1|salt|HMAC-SHA1``) is for a name."""
    try:
        _, version, salt, digest = entry.split("|")
        expected = base64.b64decode(digest, validate=True)
        actual = hmac.digest(base64.b64decode(salt, validate=True), name.encode(), "sha1")
    except (ValueError, binascii.Error):
        return False
    return version == "1" and hmac.compare_digest(actual, expected)
