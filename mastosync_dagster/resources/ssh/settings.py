"""How the tunnel is set up, and its error.

Apart from the tunnel itself: its libraries take long to import, and are needed only where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mastosync_dagster.errors import AdminError

if TYPE_CHECKING:
    from pathlib import Path


def setting(name: str) -> str:
    """Return what to change in words: ``SSH_TUNNEL_HOST (or resources.mastodon_db.config.ssh_tunnel_host)``."""
    return f"SSH_TUNNEL_{name.upper()} (or resources.mastodon_db.config.ssh_tunnel_{name})"


class TunnelError(AdminError):
    """The tunnel cannot be opened, or does not reach the database; the message names what to change.

    Attributes:
        permanent: No retry helps until somebody changes a setting.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """How to reach the database through an SSH server.

    Attributes:
        host: The SSH server's name or address.
        port: Its TCP port.
        user: Who logs in.
        known_hosts: File that lists the server's key.
        remote_host: The database's host as the SSH server sees it.
        remote_port: The database's port.
        password: The user's password; None: key only.
        key_file: A private key file; None: password only.
        key_passphrase: What the key file is encrypted with.
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

    @property
    def server(self) -> str:
        """The SSH server in messages."""
        return f"{self.host}:{self.port}"

    @property
    def database(self) -> str:
        """The database's address in messages."""
        return f"{self.remote_host}:{self.remote_port}"
