"""A night always becomes a run, whichever host does not answer."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.silence.site import LARGE, with_destination
from mastosync_dagster_tests.support.waiting import slowdown

if TYPE_CHECKING:
    from mastosync_dagster_tests.silence.site import Running, Site

SECONDS = 17.0
"""The look takes fifteen; Dagster gives a tick a minute."""

TICK = """
import json, sys, time
from datetime import datetime, timezone
import dagster as dg
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.resources import MastodonDatabase
definitions = build_definitions()
with dg.DagsterInstance.get() as instance, dg.build_schedule_context(
    instance=instance,
    repository_def=definitions.get_repository_def(),
    scheduled_execution_time=datetime(2026, 11, 1, 3, tzinfo=timezone.utc),
    resources={"mastodon_db": MastodonDatabase()},
) as context, dg.partition_loading_context(dynamic_partitions_store=instance):
    print("begun", flush=True)
    started = time.monotonic()
    tick = definitions.resolve_schedule_def("nightly_incremental").evaluate_tick(context)
    print(json.dumps([len(tick.run_requests or ()), time.monotonic() - started]), flush=True)
"""


def begin(site: Site, home: str, **variables: str) -> Running:
    """Begin a tick of the night."""
    running = site.start("python", "-c", TICK, home=home, **variables)
    running.wait_for("begun")
    return running


@pytest.mark.long(cases=0)
def test_a_night_becomes_a_run_while_a_host_is_silent(site: Site) -> None:
    network = site.network
    four = [network.nobody("db", number) for number in range(1, 5)]
    network.resolve("client", {"four.example": four}, server=network.nobody("ssh"))
    url = site.database.url
    with network.silent("db"), network.silent("ssh"):
        ticks = {
            "database": begin(site, "night1"),
            "tunnel": begin(site, "night2", **site.tunnel()),
            "name": begin(site, "night3", DATABASE_URL=url.replace(site.database.host, "db.example")),
            "addresses": begin(site, "night4", DATABASE_URL=url.replace(site.database.host, "four.example")),
        }
        before = slowdown()
        ended = {name: running.end(90) for name, running in ticks.items()}
        most = SECONDS * max(before, slowdown())
    for name, each in ended.items():
        requests, seconds = json.loads(each.output.splitlines()[-1])
        assert requests == 1, (name, each.output)
        assert seconds < most, (name, each.output)


@pytest.mark.silence
def test_a_night_names_the_database_that_is_silent_behind_an_ssh_server_that_answers(site: Site) -> None:
    with site.network.silent("db"):
        ended = begin(site, "night6", **site.tunnel()).end(90)
        most = SECONDS * slowdown()
    requests, seconds = json.loads(ended.output.splitlines()[-1])
    assert requests == 1, ended.output
    assert f"answers, but the database at {site.database.host}:{site.database.port} does not" in ended.output
    assert seconds < most, ended.output


@pytest.mark.silence
def test_a_night_becomes_a_run_when_a_query_falls_silent(site: Site) -> None:
    with site.connection() as locker:
        locker.autocommit = False
        locker.cursor().execute("LOCK TABLE media_attachments IN ACCESS EXCLUSIVE MODE")
        tick = begin(site, "night5")
        with site.network.silent("db"):
            ended = tick.end(90)
            most = SECONDS * slowdown()
    requests, seconds = json.loads(ended.output.splitlines()[-1])
    assert requests == 1, ended.output
    assert seconds < most, ended.output


@pytest.mark.silence
@pytest.mark.timeout(400)
@pytest.mark.parametrize("what", [(), LARGE], ids=["silent", "nothing large gets through"])
@pytest.mark.parametrize("host", ["db", "ssh", "s3a", "s3b", "db behind ssh"])
def test_a_run_that_nobody_waits_for_waits_for_a_host_that_is_silent_when_it_begins(
    site: Site, host: str, what: tuple[str, ...]
) -> None:
    """As it does in the middle: a night, a queued range. A command says at once what does not answer."""
    fresh = with_destination(site)
    tunnel = site.tunnel() if "ssh" in host else {}
    host = host.split(maxsplit=1)[0]
    with site.network.silent(host, *what):
        job = ("dagster", "job", "execute", "-m", "mastosync_dagster", "-j", "sync_changes")
        running = fresh.start(*job, home=f"begins-{host}-{len(tunnel)}-{len(what)}", **tunnel)
        said = running.wait_for("STEP_START")
        time.sleep(45)
    ended = running.end(200)
    assert ended.status == 0, ended.output
    assert fresh.copied() == len(site.instance.objects_of(*FileType))
    said += ended.output
    assert site.network.address(host) in said, said
    assert said.count("answers again") == 1, said
