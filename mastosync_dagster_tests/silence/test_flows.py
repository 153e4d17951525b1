"""Flows that vanish while their hosts are up, as a NAT forgets them, or whose large packets do (an MTU hole)."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.silence.site import LARGE, SLOWLY, SYNC, pgbouncer, with_destination
from mastosync_dagster_tests.support.waiting import slowdown, wait_until

if TYPE_CHECKING:
    from mastosync_dagster_tests.silence.site import Site

pytestmark = [pytest.mark.silence, pytest.mark.timeout(500)]

HOSTS = {"s3a": "source", "s3b": "destination"}
NOTICED = 60.0
"""Seconds within which a flow that has vanished is noticed."""
GONE = 90.0
"""Seconds after which no session is left on the database."""


def test_queries_whose_flows_vanish_are_repeated_and_leave_no_session(site: Site) -> None:
    """Plain, through the tunnel and behind pgbouncer: each waits for a lock when its flow vanishes."""
    with pgbouncer(site) as pooled, contextlib.ExitStack() as stack:
        ways = {"plain": {}, "tunnel": site.tunnel(), "pgbouncer": pooled}
        ends = {
            "plain": f"{site.database.host}:{site.database.port}",
            "tunnel": f"{site.ssh.host}:{site.ssh.port}",
            "pgbouncer": f"{site.database.host}:6432",
        }
        locker = stack.enter_context(site.connection())
        locker.autocommit = False
        locker.cursor().execute("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
        commands = {
            name: site.start("mastosync", "ranges", "accounts", home=f"flow-{name}", **variables)
            for name, variables in ways.items()
        }
        wait_until(lambda: sum(state == "active" for state, _ in site.sessions()) == len(ways), 240)
        ports = [site.ports(address) for address in ends.values()]
        assert [len(each) for each in ports] == [1, 1, 1]
        for (port,) in ports:
            stack.enter_context(site.network.vanished("client", port))
        began = time.monotonic()
        locker.rollback()
        ended = {name: command.end(200) for name, command in commands.items()}
        seconds = time.monotonic() - began
        # The server's ends of the flows that have vanished: their clients are gone too, by now.
        wait_until(lambda: all(state == "idle" for state, _ in site.sessions()), max(1.0, GONE - seconds))
        with site.connection() as connection:
            connection.cursor().execute("ALTER TABLE accounts ADD COLUMN flows int")
    for name, each in ended.items():
        assert each.status == 0, (name, each.output)
        assert "has not answered a query for 15 s" in each.output, (name, each.output)
        assert (site.ssh.host if name == "tunnel" else site.database.host) in each.output, (name, each.output)
        assert "the database answers again" in each.output, (name, each.output)
    assert seconds < NOTICED * slowdown(), seconds


@pytest.mark.parametrize("host", HOSTS)
def test_flows_to_a_storage_that_vanish_cost_no_object(site: Site, host: str) -> None:
    fresh, running = site.begin_copy(*SYNC, home=f"flows-{host}", **SLOWLY)
    ports = fresh.ports(fresh.network.address(host))
    assert ports
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(fresh.network.vanished("client", port))
        ended = running.end(200)
    assert ended.status == 0, ended.output
    assert fresh.copied() == fresh.expected
    assert ended.seconds < (NOTICED + 30) * slowdown(), ended


@pytest.mark.parametrize("host", [*HOSTS, "db"])
def test_where_nothing_large_gets_through_it_is_said_and_the_run_ends(site: Site, host: str) -> None:
    short = {"S3_ANSWER_TIMEOUT": "10", "DESTINATION_S3_ANSWER_TIMEOUT": "10", "MASTOSYNC_SILENCE_SECONDS": "40"}
    with site.network.silent(host, *LARGE):
        ended = site.start(*SYNC, home=f"hole-{host}", **short).end(400)
    assert ended.status == 1, ended.output
    first = ended.output.splitlines()[0]
    assert "has not answered" in first or "has fallen silent" in first, ended.output
    assert site.network.address(host) in ended.output or "the database" in first, ended.output


@pytest.mark.parametrize("host", HOSTS)
def test_where_large_packets_vanish_for_a_while_the_run_goes_on(site: Site, host: str) -> None:
    fresh = with_destination(site)
    with fresh.network.silent(host, *LARGE):
        running = fresh.start(*SYNC, home=f"hole-closed-{host}", S3_ANSWER_TIMEOUT="20")
        said = running.wait_for(" s")
    ended = running.end(300)
    assert "has not answered" in said or "has fallen silent" in said, said
    assert ended.status == 0, said + ended.output
    assert "answers again" in ended.output, ended.output
    assert fresh.copied() == fresh.expected
