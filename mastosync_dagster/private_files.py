"""Files that nobody else on the machine may read."""

from __future__ import annotations

import os

_MASK = 0o077


def keep_files_private() -> None:
    """Have whatever this process and its children write from now on be readable for its own user alone.

    Manifests, plans and Dagster's records name the media of suspended accounts, and much else.
    """
    os.umask(_MASK)
