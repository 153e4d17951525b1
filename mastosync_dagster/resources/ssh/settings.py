"""The settings of the tunnel, apart from the tunnel itself, whose libraries take long to import."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CONNECT_SECONDS = 10.0
_LOGIN_SECONDS = 30.0
"""PAM modules and directories of users answer late, and OpenSSH itself gives them two minutes."""


def setting(name: str) -> str:
    """Return a setting's name in messages: ``SSH_TUNNEL_HOST (or resources.mastodon_db.config.ssh_tunnel_host)``."""
    return f"SSH_TUNNEL_{name.upper()} (or resources.mastodon_db.config.ssh_tunnel_{name})"


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """How to reach the database through an SSH server.

    ``remote_host`` and ``remote_port`` are the database's, as seen from the SSH server. After ``deadline`` (of the
    monotonic clock) nothing is waited for. ``connect_timeout`` is how long the admin waits for a connection.
    """

    host: str
    port: int
    user: str
    known_hosts: Path
    remote_host: str
    remote_port: int
    password: str | None = field(default=None, repr=False)
    key_file: Path | None = None
    key_passphrase: str | None = field(default=None, repr=False)
    connect_timeout: float = 0.0
    deadline: float = math.inf

    @property
    def seconds(self) -> float:
        """How long each step of a connection may take that is begun now."""
        return max(0.1, min(_CONNECT_SECONDS, self.deadline - time.monotonic()))

    @property
    def login_seconds(self) -> float:
        """How long a login may take that is begun now."""
        return max(0.1, min(max(_LOGIN_SECONDS, self.connect_timeout), self.deadline - time.monotonic()))

    @property
    def server(self) -> str:
        """The SSH server in messages."""
        return f"{self.host}:{self.port}"

    @property
    def login(self) -> str:
        """The user in messages: a gateway's has the target after a colon, and a mistaken one a password."""
        return re.sub(r"(?<=:).+", "…", self.user)

    @property
    def database(self) -> str:
        """The database's address in messages."""
        return f"{self.remote_host}:{self.remote_port}"
