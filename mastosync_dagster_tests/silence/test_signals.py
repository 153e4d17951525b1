"""Ctrl-C and SIGTERM end a command at once, whatever it waits for."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster_tests.support.waiting import slowdown, wait_until

if TYPE_CHECKING:
    from mastosync_dagster_tests.silence.site import Ended, Running, Site

SECONDS = 2.0


def _wait_for_lock(site: Site) -> None:
    wait_until(
        lambda: any("scanned" in query or "FROM" in query for state, query in site.sessions() if state == "active")
    )


@pytest.mark.long(cases=0)
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.silence)])
def test_a_signal_ends_every_wait(site: Site, number: signal.Signals) -> None:
    network = site.network
    nobody = network.nobody("ssh")
    network.resolve("client", {}, server=nobody)
    waits: dict[str, Running] = {}
    with site.connection() as locker:
        locker.autocommit = False
        locker.cursor().execute("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
        waits["query"] = site.start("mastosync", "ranges", "accounts")
        _wait_for_lock(site)
        with network.silent("db"), network.silent("ssh"), network.silent("s3a"):
            # Longer than the other commands need to begin, also where the machine has much else to do.
            patient = {"DB_CONNECT_TIMEOUT": "300"}
            named = {**patient, **_url(site, "db.example")}
            waits["connect"] = site.start("mastosync", "ranges", "accounts", home="home2", **patient)
            endpoint = {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "S3_CONNECT_TIMEOUT": "300"}
            waits["listing"] = site.start("mastosync", "check", home="home5", **endpoint)
            site.wait_for_sockets("syn-sent", network.address("db"), 90)
            site.wait_for_sockets("syn-sent", network.address("s3a"), 90)
            # These two wait no longer than ten seconds: they begin last, and are ended first.
            waits["name"] = site.start("mastosync", "ranges", "accounts", home="home3", **named)
            waits["tunnel"] = site.start("mastosync", "ranges", "accounts", home="home4", **site.tunnel())
            site.wait_for_sockets("connected", nobody, 90)
            site.wait_for_sockets("syn-sent", network.address("ssh"), 90)
            before = slowdown()
            ended = _end_all(waits, number)
    limit = SECONDS * max(before, slowdown())
    assert {name: each.seconds for name, each in ended.items() if each.seconds > limit} == {}, (limit, ended)
    # What has ended by itself has another status.
    assert {each.status for each in ended.values()} <= {128 + number, -number}, ended


def _url(site: Site, host: str) -> dict[str, str]:
    return {"DATABASE_URL": site.database.url.replace(site.database.host, host)}


def _end_all(waits: dict[str, Running], number: signal.Signals) -> dict[str, Ended]:
    """Send a signal to one after the other, so that they do not slow each other down."""
    return {name: running.signal(number) for name, running in reversed(waits.items())}
