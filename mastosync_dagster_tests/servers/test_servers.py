"""Every ordered pair of servers is whole, and docs/providers.md says what each of them does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.model.world import run_processes
from mastosync_dagster_tests.servers.pairs import Facts, Filled, Pair, ask, fill, pair
from mastosync_dagster_tests.servers.start import SERVERS, Absent, RunningServers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster_tests.model.world import Runs

SELECTION = [("rclone", "moto"), ("moto", "nginx"), ("nginx", "juicefs")]
"""What `make test` tries: each of three as source, and as destination what is on this machine."""
PAGE = Path(__file__).parents[2] / "docs" / "providers.md"
FEW, MANY = 60, 300
SMALL, LARGE = (20,), (20, 80)


class Site:
    """The servers of a session, and the instance at each."""

    def __init__(self, postgres: PostgresServer, runs: Runs, folder: Path) -> None:
        self.servers = RunningServers()
        self._postgres, self._runs, self._folder = postgres, runs, folder
        self._facts: dict[str, Facts] = {}
        self._filled: dict[str, Filled] = {}

    def facts(self, name: str) -> Facts:
        """Return what a server does; the test is skipped where it is not on this machine."""
        if name not in self._facts:
            try:
                self._facts[name] = ask(self.servers.get(name))
            except Absent as absent:
                pytest.skip(str(absent))
        return self._facts[name]

    def filled(self, name: str, rows: int, large: tuple[int, ...]) -> Filled:
        """Return the instance at a server."""
        self.facts(name)
        if name not in self._filled:
            self._filled[name] = fill(self.servers.get(name), self._postgres, rows=rows, large=large)
        return self._filled[name]


@pytest.fixture(scope="module")
def site(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("servers")
    with run_processes(folder / "runs.log") as runs:
        made = Site(postgres_server, runs, folder)
        try:
            yield made
        finally:
            made.servers.close()


def try_pair(site: Site, names: tuple[str, str], *, whole: bool) -> Pair:
    """Try everything between two servers."""
    source, destination = names
    facts = site.facts(destination)
    filled = site.filled(source, MANY if whole else FEW, LARGE if whole else SMALL)
    with pair(filled, site.servers.get(destination), facts, site._runs, site._folder) as tried:
        tried.kill_and_copy()
        tried.copy_again()
        tried.verify()
        tried.suspend_and_back()
        tried.prune_listing()
        if tried.result.problems:
            tried.result.problems.append(site._runs.log.read_text()[-2000:])
    return tried


def check_page(site: Site, name: str) -> None:
    """Compare a server's line in docs/providers.md with what it answers."""
    facts = site.facts(name)
    assert f"| {site.servers.get(name).name} | {facts.row()} |" in PAGE.read_text()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["rclone", "moto", "nginx"])
def test_the_page_says_what_a_server_does(name: str, site: Site) -> None:
    check_page(site, name)


@pytest.mark.servers
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SERVERS)
def test_the_page_says_what_every_server_does(name: str, site: Site) -> None:
    check_page(site, name)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("names", SELECTION, ids=" to ".join)
def test_a_pair_of_servers_is_whole(names: tuple[str, str], site: Site) -> None:
    assert try_pair(site, names, whole=False).result.problems == []


@pytest.mark.servers
@pytest.mark.timeout(900)
@pytest.mark.parametrize("names", [(one, other) for one in SERVERS for other in SERVERS], ids=" to ".join)
def test_every_pair_of_servers_is_whole(names: tuple[str, str], site: Site, report: Callable[[object], None]) -> None:
    began = time.monotonic()
    tried = try_pair(site, names, whole=True)
    state = "whole" if not tried.result.problems else "NOT WHOLE"
    report(f"PAIR {' to '.join(names)}: {state}, in {time.monotonic() - began:.0f} s; {tried.facts}")
    assert tried.result.problems == []
