"""The hosts that the tests of a session share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.silence.site import Site, make_site

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A small instance on hosts of its own, on a fast network."""
    with make_site(tmp_path_factory.mktemp("site")) as made:
        yield made
