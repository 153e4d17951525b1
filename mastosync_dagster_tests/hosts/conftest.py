"""What the tests of a session share: the files of machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.hosts.machine import NoMachineError, installation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def opt() -> Iterator[Path]:
    """Python and mastosync as machines have them in /opt."""
    try:
        with installation() as made:
            yield made
    except NoMachineError as error:
        pytest.skip(str(error))
