"""What is on the doubt list stays there until a check has found it right, whoever dies or cannot ask meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.installation.processes import running
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs import run_lock
from mastosync_dagster.runs.watermarks import watermark
from mastosync_dagster.sync import doubt_checks, plan_step, publication
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.installation import failure_of
from mastosync_dagster_tests.support.private_media import (
    MEDIA,
    answers,
    execute,
    expected_answers,
    media_of,
    newest,
    nightly,
    wait_until,
)
from mastosync_dagster_tests.support.proxy import Answer, Delay, Kind, Rule
from mastosync_dagster_tests.support.suspensions import SUSPEND, UNSUSPEND, open_objects

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg

    from mastosync_dagster.demo.instance.book import GeneratedObject
    from mastosync_dagster.plan.items import Batch
    from mastosync_dagster.pool import Pool
    from mastosync_dagster.sync.doubt_checks import DoubtChecks
    from mastosync_dagster_tests.support.installation import Installation


PLAN = {"plan_changes": {"config": {"file_types": [MEDIA.value], "changed_since": "last"}}}
ONE_ATTEMPT = {"copy": {"config": {"max_attempts": 1}}}
OLD = "UPDATE media_attachments SET file_updated_at = '2020-01-01' WHERE id = %s"


def night(world: Installation) -> dg.ExecuteInProcessResult:
    """Run a night that tries everything once."""
    return world.run("sync_changes", config={"ops": {**PLAN, **ONE_ATTEMPT}})


def lose(world: Installation, *, changed: bool = True) -> GeneratedObject:
    """Delete a public original at the destination, and refuse to have it back; its row may have changed."""
    lost = next(each for each in world.instance.objects_of(MEDIA) if not each.private and "/original/" in each.key)
    if changed:
        execute(world, "UPDATE media_attachments SET file_updated_at = now() WHERE id = %s", lost.row_id)
    world.destination.client.delete_object(Bucket=world.destination.name, Key=lost.key)
    refuse(world, Answer(503, "SlowDown"), lost.key)
    return lost


def refuse(world: Installation, answer: Answer, key: str = "") -> None:
    world.destination_proxy.set_rules(Rule(answer, kinds=frozenset({Kind.PUT}), key=key))


@pytest.mark.long
def test_what_has_failed_stays_on_the_list_when_the_night_that_asks_for_it_is_killed(
    settled: Installation, tmp_path: Path
) -> None:
    lost = lose(settled)
    assert not night(settled).success
    assert open_objects(settled)["failed"] == 1
    execute(settled, OLD, lost.row_id)
    # Nights are processes of their own; this one lets go of its locks.
    run_lock.living(settled.dagster)
    settled.destination_proxy.set_rules(Rule(Delay(30), kinds=frozenset({Kind.PUT}), key=lost.key))
    settled.destination_proxy.forget()
    config, log = tmp_path / "night.json", tmp_path / "night.log"
    config.write_text(json.dumps({"ops": PLAN}))
    command = [str(Path(sys.executable).with_name("dagster")), "job", "execute", "-m", "mastosync_dagster"]
    with running([*command, "-j", "sync_changes", "-c", str(config)], log=log) as process:
        wait_until(lambda: settled.destination_proxy.count(Kind.PUT, key=lost.key) > 0, log)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
    settled.destination_proxy.set_rules()
    assert nightly(settled).success
    assert answers(settled) == expected_answers(settled)


@pytest.mark.long
def test_nights_take_every_row_while_a_list_cannot_be_read(
    settled: Installation, capfd: pytest.CaptureFixture[str]
) -> None:
    lost = lose(settled)
    assert not night(settled).success
    execute(settled, OLD, lost.row_id)
    settled.destination_proxy.set_rules()
    lists = list(Path(settled.dagster.root_directory, "manifests", f"doubts_{MEDIA.value}").rglob("*.parquet"))
    for file in lists:
        os.truncate(file, 50)
    assert "is passed over" in CliRunner().invoke(main, ["status", MEDIA.value]).stderr
    capfd.readouterr()
    assert nightly(settled).success
    assert answers(settled) == expected_answers(settled)
    said = capfd.readouterr().err
    assert f"{lists[0].name} is passed over" in said
    assert "until the file is deleted, each night takes every row" in said
    assert all(file.exists() for file in lists)
    taken = watermark(settled.dagster, MEDIA, S3Bucket.destination().settings().identity)
    assert taken is not None
    assert taken.every_row


@pytest.mark.long
def test_nor_does_it_leave_the_list_when_a_run_of_its_range_dies(
    settled: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(settled, changed=False)
    key = settled.dagster.get_dynamic_partitions(MEDIA.partitions_name)[0]
    config = {"ops": {MEDIA.value: {"ops": ONE_ATTEMPT}}}
    assert not settled.run("sync_media_attachments", key, config=config).success
    settled.destination_proxy.set_rules()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(plan_step, "_note", die)
        with contextlib.suppress(KeyboardInterrupt):
            settled.run("sync_media_attachments", key)
    assert nightly(settled).success
    assert answers(settled) == expected_answers(settled)


@pytest.mark.long(cases=0)
def test_what_is_on_the_list_and_has_changed_again_is_planned_once(settled: Installation) -> None:
    lost = lose(settled)
    assert not night(settled).success
    settled.destination_proxy.set_rules()
    execute(settled, "UPDATE media_attachments SET file_updated_at = now()")
    plan = {"plan_changes": {"config": {**PLAN["plan_changes"]["config"], "page_rows": 5}}}
    assert settled.run("sync_changes", config={"ops": plan}).success
    lines = Counter(line.key for line in newest(settled, "sync_changes"))
    assert lines[lost.key] == 1
    assert max(lines.values()) == 1


@pytest.mark.long(cases=0)
def test_nights_that_could_try_nothing_do_not_use_up_its_retries(
    settled: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_RETRY_NIGHTS", "2")
    lost = lose(settled)
    assert not night(settled).success
    execute(settled, OLD, lost.row_id)
    refuse(settled, Answer(403, "AccessDenied"))
    for _ in range(2):
        assert not night(settled).success
    settled.destination_proxy.set_rules()
    assert nightly(settled).success
    assert answers(settled) == expected_answers(settled)


@pytest.mark.long(cases=0)
@pytest.mark.parametrize("copy_private", ["true", "false"])
def test_a_night_without_acls_forgets_nothing(
    settled: Installation, monkeypatch: pytest.MonkeyPatch, copy_private: str
) -> None:
    account, _ = media_of(settled, suspended=False)
    execute(settled, SUSPEND, account)
    assert nightly(settled).success
    with monkeypatch.context() as patch:
        patch.setenv("DESTINATION_S3_PERMISSION", "")
        patch.setenv("MASTOSYNC_COPY_PRIVATE", copy_private)
        nightly(settled)
    execute(settled, UNSUSPEND, account)
    assert nightly(settled).success
    assert answers(settled) == expected_answers(settled)


@pytest.mark.long(cases=0)
def test_a_row_that_becomes_private_while_the_night_asks_is_not_forgotten(
    settled: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, _ = media_of(settled, suspended=False)
    execute(settled, SUSPEND, account)
    assert nightly(settled).success
    execute(settled, UNSUSPEND, account)
    ask, done = doubt_checks.DoubtChecks._private_rows, list[bool]()

    def then_suspend(self: DoubtChecks, pool: Pool) -> Iterator[Batch]:
        yield from ask(self, pool)
        if not done:
            done.append(True)
            execute(settled, SUSPEND, account)

    monkeypatch.setattr(doubt_checks.DoubtChecks, "_private_rows", then_suspend)
    assert nightly(settled).success
    assert done
    execute(settled, UNSUSPEND, account)
    assert nightly(settled).success
    assert answers(settled) == expected_answers(settled)


@pytest.mark.long(cases=0)
def test_a_run_over_every_row_settles_the_list(settled: Installation) -> None:
    lose(settled)
    config = {"ops": {"plan_changes": {"config": {"file_types": [MEDIA.value]}}, **ONE_ATTEMPT}}
    assert not settled.run("sync_changes", config=config).success
    settled.destination_proxy.set_rules()
    for _ in range(3):
        assert settled.run("sync_changes", config=config).success
    assert open_objects(settled)["failed"] == 0
    lists = Path(settled.environment["DAGSTER_HOME"], "manifests", f"doubts_{MEDIA.value}", "changes")
    assert len(list(lists.glob("*.parquet"))) <= 2


@pytest.mark.long(cases=0)
def test_what_became_private_at_a_destination_without_acls_is_named(
    skipping: Installation,
) -> None:
    world = skipping
    assert open_objects(world)["exposed"] == 0
    account, hidden = media_of(world, suspended=False)
    execute(world, SUSPEND, account)
    # Also where the night takes the row.
    changed = "UPDATE media_attachments SET file_updated_at = now() - interval '1 minute' WHERE account_id = %s"
    execute(world, changed, account)
    for _ in range(2):
        assert nightly(world).success
        assert open_objects(world)["exposed"] == hidden
    execute(world, UNSUSPEND, account)
    assert nightly(world).success
    assert open_objects(world)["exposed"] == 0


@pytest.mark.long(cases=0)
def test_a_bucket_of_manifests_that_refuses_deletion_ends_no_night(
    world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_with_acls
    monkeypatch.setenv("MASTOSYNC_MANIFESTS", f"s3://{create_bucket(world.destination.server).name}/manifests")
    ((key,),) = world.register(MEDIA).values()
    assert world.run("sync_media_attachments", key).success
    world.destination_proxy.set_rules(Rule(Answer(403, "AccessDenied"), method="DELETE", key="^manifests/"))
    account, _ = media_of(world, suspended=False)
    for statement in (SUSPEND, UNSUSPEND, UNSUSPEND):
        execute(world, statement, account)
        result = nightly(world)
        assert result.success, failure_of(result)
        assert answers(world) == expected_answers(world)
        messages = "\n".join(entry.user_message for entry in world.dagster.all_logs(result.run_id))
        assert "s3:DeleteObject" in messages
        assert "MASTOSYNC_MANIFESTS" in messages


def test_a_manifest_waits_also_if_the_list_cannot_be_brought_up_to_date(
    world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_with_acls
    monkeypatch.setenv("MASTOSYNC_MANIFESTS", f"s3://{create_bucket(world.destination.server).name}/manifests")
    publish = publication.publish

    def without_a_store(*arguments: object, **options: object) -> object:
        world.destination_proxy.set_rules(
            Rule(Answer(403, "AccessDenied"), key="manifests"),
            Rule(Answer(403, "AccessDenied"), kinds=frozenset({Kind.LIST})),
        )
        return publish(*arguments, **options)  # type: ignore[arg-type]  # handed through as they are

    with monkeypatch.context() as patch:
        patch.setattr(publication, "publish", without_a_store)
        config = {"file_types": ["preview_cards", "accounts"], "limit": 2, "offset": 3}
        assert not world.run("sync_changes", config={"ops": {"plan_changes": {"config": config}}}).success
    waiting = [file.name for file in Path(world.environment["DAGSTER_HOME"]).rglob("mastosync-unpublished/*")]
    assert any(name.startswith("sync_changes~") for name in waiting)
