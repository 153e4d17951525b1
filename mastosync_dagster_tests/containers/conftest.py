"""One deployment in containers, which the tests of a session share."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.containers.deployment import Deployment, documented
from mastosync_dagster_tests.containers.engine import make_images, unavailable
from mastosync_dagster_tests.containers.instance import Mastodon, mastodon

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROWS, _ROWS_PER_RANGE = 360, 50
"""Four ranges of media."""
SECTION = "With Docker"


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mastodon]:
    """An instance whose servers are containers."""
    if reason := unavailable():
        pytest.skip(reason)
    make_images()
    with mastodon(tmp_path_factory.mktemp("instance"), rows=_ROWS, rows_per_range=_ROWS_PER_RANGE) as made:
        yield made


@pytest.fixture(scope="session")
def deployment(
    instance: Mastodon, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Deployment]:
    """Mastosync in containers, made by the commands of docs/deploy.md; after a failure its log is printed."""
    made = Deployment(tmp_path_factory.mktemp("mastosync"), instance)
    made.unpack()
    try:
        made.follow(itertools.takewhile(lambda line: "mastodon.yaml" not in line, documented(SECTION)))
        yield made
    finally:
        if request.session.testsfailed:
            sys.stdout.write(made.compose("logs", "--no-color", "--tail", "200"))
        made.remove()


@pytest.fixture
def clean(deployment: Deployment) -> Deployment:
    """The deployment with nothing copied yet, all of it healthy, and no limit set."""
    deployment.wait_until_healthy()
    deployment.mastodon.empty_destination()
    deployment.limit_runs(None)
    return deployment
