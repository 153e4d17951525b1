"""``mastosync sync`` and ``status`` in a terminal and without one: bar, screen, signals, lost output."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import dagster as dg
import psycopg2
import pytest
from click.testing import CliRunner
from rich.console import Console

from mastosync_dagster.cli import sync
from mastosync_dagster.cli.main import _WORK_IS_RESULT, main
from mastosync_dagster.cli.sync import _show_counts
from mastosync_dagster.definitions import build_definitions
from mastosync_dagster.ranges.partitions import FileType, parse_range
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.summaries import CHECK_NAME, OutcomeCounts, Summary
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.installation import PROJECT
from mastosync_dagster_tests.support.proxy import Answer, Delay, Hold, Kind, Rule
from mastosync_dagster_tests.support.terminal import Terminal, executable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from dagster import AssetCheckEvaluation

    from mastosync_dagster.records.manifest import ManifestLine
    from mastosync_dagster_tests.support.installation import Installation

SYNC = ("mastosync", "sync", "accounts", "--concurrency", "2")
CTRL_C = "\x03"
HELD = Rule(Hold(), kinds=frozenset({Kind.PUT}), key=r"^accounts/(?!.*/mastosync-check/)", skip=6)
CLASS_NAMES = re.compile(r"Traceback|[A-Z]\w+(Error|Interrupt|Exception)\b")


@contextlib.contextmanager
def half_copied(world: Installation) -> Iterator[Terminal]:
    """Run a sync in a terminal that has shown its first objects, and cannot end: the other PUTs are held."""
    world.destination_proxy.set_rules(HELD)
    with Terminal(*SYNC, environment=world.environment) as terminal:
        terminal.wait_for(r"copying.* [1-9]\d*/")
        yield terminal


def newest_lines(world: Installation) -> list[ManifestLine]:
    """Return the lines of the newest manifest."""
    store = manifest_store(world.dagster, S3Bucket.destination())
    *_, manifest = store.in_order("sync_changes")
    return [line for batch in store.read(manifest) for line in batch]


def holds(key: str, row_id: int) -> bool:
    """Whether a range holds a row."""
    ids = parse_range(key)
    return ids.lo <= row_id <= ids.hi


def status(*arguments: str) -> list[dict[str, int]]:
    """What ``mastosync status`` says of file types."""
    outcome = CliRunner().invoke(main, ["status", *arguments, "--json"])
    assert outcome.exit_code == 0, outcome.output
    found: list[dict[str, int]] = json.loads(outcome.output)
    return found


def ensure_stopped_well(world: Installation, text: str, keys: Sequence[str] = ()) -> None:
    """Check what a stopped run says, and what it leaves in history and manifests."""
    said = re.search(r"([\d,]+) of ([\d,]+) objects are copied and stay", text)
    assert said, text
    assert "same command" in text
    # As a table, or in lines where the terminal is narrow.
    assert re.search(r"(│ |\n)accounts\b", text), text
    assert not CLASS_NAMES.search(text), text
    (run,) = world.dagster.get_runs()
    assert run.status is dg.DagsterRunStatus.CANCELED
    lines = newest_lines(world)
    done = {key for key in keys if not any(line.reason and holds(key, line.row_id) for line in lines)}
    assert materialized(world, FileType.ACCOUNTS) == done
    copied = sum(line.outcome is Outcome.COPIED for line in lines)
    left = [line for line in lines if line.reason is Reason.NOT_ATTEMPTED]
    assert (f"{copied:,}", f"{len(lines):,}") == said.groups()
    assert copied
    assert left

    world.destination_proxy.set_rules()
    again = world.command(*SYNC)
    assert (again.returncode, again.stderr) == (0, "")
    assert world.compare("accounts").differences == ()


def materialized(world: Installation, *file_types: FileType) -> set[str]:
    """Return the materialized ranges."""
    return {
        key
        for file_type in file_types
        for key in world.dagster.get_materialized_partitions(dg.AssetKey(file_type.value))
    }


@pytest.mark.long
def test_the_bar_moves_while_objects_are_copied(world: Installation) -> None:
    world.destination_proxy.set_rules(Rule(Delay(0.1), kinds=frozenset({Kind.PUT})))
    with Terminal(*SYNC, environment=world.environment) as terminal:
        assert terminal.end() == 0
        text = terminal.text
    states = re.findall(r"copying.*?([\d,]+)/([\d,]+) objects +([\d.,]+) MB.*?([\d,]+)/s", text)
    assert len({done for done, *_ in states}) >= 4, text
    assert len({total for _, total, *_ in states}) == 1
    assert re.search(r"copying.*\d:\d\d:\d\d +\d:\d\d:\d\d", text), text  # time gone, time left
    assert "│ accounts" in text


def test_a_narrow_terminal_shows_whole_numbers() -> None:
    counts = OutcomeCounts()
    counts.add(Outcome.COPIED, None, 1_670_000, 10**12)
    counts.add(Outcome.FAILED, Reason.NOT_ATTEMPTED, 5_000_000, 0)
    summary = Summary(total=counts, groups={"media_attachments": counts}, first=())
    for width in (40, 80, 120):
        console = Console(width=width, file=io.StringIO())
        _show_counts(console, summary)
        text = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
        for number in ("6,670,000", "1,670,000", "5,000,000", "1,000,000.0"):
            assert number in text.replace("\n", ""), width
        assert "…" not in text


@pytest.mark.long
def test_without_a_terminal_the_output_is_a_table_and_has_no_control_sequences(world: Installation) -> None:
    ended = world.command(*SYNC, FORCE_COLOR="1")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\x1b" not in ended.stdout
    assert "\r" not in ended.stdout
    assert "│ accounts" in ended.stdout


@pytest.mark.long
def test_ctrl_c_stops_with_a_sentence_and_the_same_command_goes_on(world: Installation) -> None:
    keys = world.register(FileType.ACCOUNTS)[FileType.ACCOUNTS]
    with half_copied(world) as terminal:
        terminal.press(CTRL_C)
        pressed = time.monotonic()
        assert terminal.end() == 130
        assert time.monotonic() - pressed < 10
        text = terminal.text
    assert "Ctrl-C" in text
    ensure_stopped_well(world, text, keys)


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "kind", "stays"),
    [
        (0, None, "copied nothing yet"),  # before there is a run
        (1, "PIPELINE_START", "copied nothing yet"),
        (1, "ENGINE_EVENT", "copied nothing yet"),
        (1, "STEP_SUCCESS", "copied nothing yet"),
        (2, "STEP_SUCCESS", "What it has copied stays"),
    ],
)
def test_a_signal_between_two_steps_ends_the_run_as_in_one(
    world: Installation, monkeypatch: pytest.MonkeyPatch, number: int, kind: str | None, stays: str
) -> None:
    handle, seen, come = dg.DagsterInstance.handle_new_event, Counter[str](), False

    def handled(instance: dg.DagsterInstance, entry: dg.EventLogEntry, **options: Any) -> None:
        nonlocal come
        handle(instance, entry, **options)
        event = entry.dagster_event
        seen[event.event_type_value if event else ""] += 1
        if kind is not None and seen[kind] == number and not come:
            come = True
            signal.raise_signal(signal.SIGINT)

    def defined(*arguments: Any) -> dg.Definitions:
        if kind is None:
            signal.raise_signal(signal.SIGINT)
        return build_definitions(*arguments)

    monkeypatch.setattr(dg.DagsterInstance, "handle_new_event", handled)
    monkeypatch.setattr(sync, "build_definitions", defined)
    outcome = CliRunner().invoke(main, ["sync", "custom_emojis"])
    assert outcome.exit_code == 130, outcome.output
    assert "Stopped by Ctrl-C (SIGINT). " in outcome.output
    assert stays in outcome.output
    assert [run.status for run in world.dagster.get_runs()] == [dg.DagsterRunStatus.CANCELED] * (kind is not None)


@pytest.mark.long
def test_sigterm_stops_with_a_sentence_too(world: Installation) -> None:
    world.destination_proxy.set_rules(HELD)
    process = subprocess.Popen(
        [executable(SYNC[0]), *SYNC[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=PROJECT
    )
    wait_for_puts(world)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 143, text
    ensure_stopped_well(world, text)


def wait_for_puts(world: Installation) -> None:
    deadline = time.monotonic() + 60
    while not world.destination_proxy.used[HELD]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.long
def test_the_end_of_a_session_ends_a_run_of_dagsters_own_command_in_good_order_too(world: Installation) -> None:
    world.destination_proxy.set_rules(HELD)
    command = [executable("dagster"), "job", "execute", "-m", "mastosync_dagster", "-j", "sync_changes"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=PROJECT) as process:
        wait_for_puts(world)
        process.send_signal(signal.SIGHUP)
        process.wait(60)
    (run,) = world.dagster.get_runs()
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert any(line.outcome is Outcome.COPIED for line in newest_lines(world))


@pytest.mark.long
def test_the_end_of_the_terminal_stops_the_run_with_its_manifest(world: Installation) -> None:
    with half_copied(world) as terminal:
        terminal.close()
        assert terminal.end() == 129
    (run,) = world.dagster.get_runs()
    assert run.status is dg.DagsterRunStatus.CANCELED
    store = manifest_store(world.dagster, S3Bucket.destination())
    (manifest,) = store.in_order("sync_changes")
    assert any(line.outcome is Outcome.COPIED for batch in store.read(manifest) for line in batch)


@pytest.mark.long(cases=1)
@pytest.mark.parametrize(
    "shell",
    ['"$@" > /dev/full', '"$@" >&- 2>&- <&-', '{ "$@"; echo $? > "$STATUS"; } | true; exit $(cat "$STATUS")'],
)
def test_what_becomes_of_the_output_changes_neither_run_nor_exit_status(
    world: Installation, tmp_path: Path, shell: str
) -> None:
    command = [executable("mastosync"), "sync", "custom_emojis"]
    environment = {**os.environ, **world.environment, "STATUS": str(tmp_path / "status")}
    ended = subprocess.run(
        ["sh", "-c", shell, "sh", *command], env=environment, capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    if shell == '"$@" > /dev/full':
        assert ended.stderr == "Error: a part of the output could not be written: No space left on device\n"
    (run,) = world.dagster.get_runs()
    assert run.status is dg.DagsterRunStatus.SUCCESS
    assert world.compare("custom_emojis").differences == ()


@pytest.mark.long
def test_a_failing_run_has_its_status_on_a_full_disk_too(world: Installation) -> None:
    world.source_proxy.set_rules(Rule(Answer(403, "InvalidObjectState"), kinds=frozenset({Kind.GET}), times=1))
    ended = subprocess.run(
        ["sh", "-c", '"$@" > /dev/full', "sh", executable("mastosync"), "sync", "custom_emojis"],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr


PRINTING = ("--help", "status", "check", "completion bash", "cutover plan", "cutover check --quick")
"""Of what is called for its output, some of each kind: before a command, with a table, with lines, in a group."""


@pytest.mark.long(cases=0)
@pytest.mark.timeout(300)
def test_every_command_that_is_called_for_its_output_fails_where_the_disk_is_full(world: Installation) -> None:
    assert {*main.commands} >= _WORK_IS_RESULT, "any other command is of these kinds"
    shell = f'for each in {" ".join(map(shlex.quote, PRINTING))}; do "$0" $each > /dev/full; echo "$? $each" >&2; done'
    command = ["sh", "-c", shell, executable("mastosync")]
    ended = subprocess.run(
        command,
        env={**os.environ, **world.environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
    )
    said = ended.stderr.splitlines()
    assert [line for line in said if line[0] in "0123456789"] == [f"1 {each}" for each in PRINTING]
    assert said.count("Error: a part of the output could not be written: No space left on device") == len(PRINTING)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("shell", "status"), [('"$@" > /dev/full', 1), ('"$@" | head -1 > /dev/null', 0)])
def test_a_report_that_is_lost_on_a_full_disk_fails_and_one_that_nobody_reads_on_does_not(
    world: Installation, shell: str, status: int
) -> None:
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell, "sh", executable("mastosync"), "ranges"],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
    )
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    assert world.dagster.get_dynamic_partitions("accounts_ids")


@pytest.mark.long
def test_a_sync_of_a_whole_table_materializes_its_ranges_and_status_says_the_same_of_them(world: Installation) -> None:
    keys = world.register(FileType.ACCOUNTS, FileType.CUSTOM_EMOJIS)
    (before,) = status("accounts")
    assert (before["not_run"], before["missing"]) == (len(keys[FileType.ACCOUNTS]),) * 2
    outcome = CliRunner().invoke(main, ["sync", "accounts"])
    assert outcome.exit_code == 0, outcome.output
    assert materialized(world, *FileType) == set(keys[FileType.ACCOUNTS])

    (after,) = status("accounts")
    assert (after["materialized"], after["not_run"], after["failed"]) == (len(keys[FileType.ACCOUNTS]), 0, 0)
    assert (after["objects_left"], after["bytes_left"]) == (0, 0)
    for key in keys[FileType.ACCOUNTS]:
        assert world.run("sync_accounts", key).success
    (by_ranges,) = status("accounts")
    names = ("materialized", "objects_done", "objects_missing", "objects_left", "bytes_done", "bytes_left")
    assert [after[name] for name in names] == [by_ranges[name] for name in names]


@pytest.mark.long(cases=0)
def test_a_watched_status_is_shown_again_until_ctrl_c(world: Installation) -> None:
    world.register(FileType.ACCOUNTS)
    with Terminal("mastosync", "status", "--watch", environment=world.environment) as terminal:
        terminal.wait_for(r"next  ")
        first = terminal.text
        assert (first.count("time left"), first.count("ID ranges have not run yet")) == (1, 1), first
        # The second screen says what has happened since.
        for key in world.dagster.get_dynamic_partitions(FileType.ACCOUNTS.partitions_name):
            world.dagster.delete_dynamic_partition(FileType.ACCOUNTS.partitions_name, key)
        terminal.wait_for(r"(?s)(next  .*){2}")
        second = terminal.text.removeprefix(first)
        terminal.press(CTRL_C)
        assert terminal.end() == 130
        text = terminal.text
    assert (second.count("time left"), second.count("ID ranges have not run yet")) == (1, 0), second
    assert text.rstrip().endswith("Stopped."), text
    assert not CLASS_NAMES.search(text), text


@pytest.mark.long
def test_an_answer_that_is_no_utf_8_is_asked_for_again(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "DATABASE_URL": "postgresql://db.example/mastodon"}
    with Terminal("mastosync", "init", str(tmp_path / "home"), environment=environment) as terminal:
        terminal.wait_for("the bucket that Mastodon uses now: ")
        terminal.press("b\udcff\n")
        terminal.wait_for("That is no UTF-8 text.\nSource: the bucket that Mastodon uses now: ")
        terminal.press(CTRL_C)
        assert terminal.end() == 130
        assert "Traceback" not in terminal.text


@pytest.mark.long
def test_a_watched_status_ends_when_nobody_reads_it(world: Installation) -> None:
    shown = subprocess.Popen(
        [executable("mastosync"), "status", "--watch"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **world.environment},
    )
    assert shown.stdout is not None
    with shown:
        try:
            assert shown.stdout.readline()
            shown.stdout.close()
            # Before the next screen, which would be ten seconds later.
            assert shown.wait(8) == 0
        finally:
            shown.kill()


def test_a_watched_status_is_not_for_scripts() -> None:
    outcome = CliRunner().invoke(main, ["status", "--watch", "--json"])
    assert outcome.exit_code == 2
    usage, hint, empty, sentence = outcome.output.splitlines()
    assert (usage.split(":")[0], "--help" in hint, empty) == ("Usage", True, "")
    assert sentence == "Error: --watch is for people, --json for scripts: leave one of them away."


@pytest.mark.long
def test_the_page_of_a_range_that_a_sync_has_finished_says_what_a_run_of_it_would(world: Installation) -> None:
    """Totals over all ranges, the list of what is missing with what to do, and a check of this materialization."""
    keys = world.register(FileType.MEDIA_ATTACHMENTS)[FileType.MEDIA_ATTACHMENTS]
    lost = world.instance.missing_of("media_attachments")[0]
    (key,) = [key for key in keys if holds(key, lost.row_id)]
    assert CliRunner().invoke(main, ["sync", "media_attachments"]).exit_code == 0
    by_sync, check_by_sync = page_of(world, key)
    assert world.run("sync_media_attachments", key).success
    by_run, check_by_run = page_of(world, key)
    for name in ("missing and failed", "created"):
        assert by_sync[name].value == by_run[name].value, name
    assert lost.key.rpartition("/")[2] in str(by_sync["missing and failed"].value)
    assert f"{len(keys)} of {len(keys)} ID ranges have run" in str(by_sync["all ID ranges"].value)
    assert by_sync["all ID ranges"].value == by_run["all ID ranges"].value
    assert (check_by_sync.passed, check_by_sync.description) == (check_by_run.passed, check_by_run.description)
    assert not check_by_sync.passed


def page_of(world: Installation, key: str) -> tuple[Mapping[str, dg.MetadataValue], AssetCheckEvaluation]:
    """Return what the UI shows of a range of media attachments: metadata, and a check that came after it."""
    asset = dg.AssetKey("media_attachments")
    filters = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key])
    (record,) = world.dagster.fetch_materializations(filters, limit=1).records
    assert record.asset_materialization is not None
    check = dg.AssetCheckKey(asset, CHECK_NAME)
    history = world.dagster.event_log_storage.get_asset_check_execution_history(check, limit=100)
    entry, evaluation = next(
        (each.event, found)
        for each in history
        if each.event is not None
        and each.event.dagster_event is not None
        and (found := each.event.dagster_event.asset_check_evaluation_data).partition == key
    )
    assert entry.timestamp >= record.timestamp, "the UI takes it for a check of an older materialization"
    return record.asset_materialization.metadata, evaluation


@pytest.mark.long
def test_a_sync_of_a_whole_table_registers_its_ranges_as_the_command_would(world: Installation) -> None:
    """Where none were: then status, the UI and the night know of them too."""
    outcome = CliRunner().invoke(main, ["sync", "accounts"])
    assert outcome.exit_code == 0, outcome.output
    registered = world.dagster.get_dynamic_partitions(FileType.ACCOUNTS.partitions_name)
    assert len(registered) > 1
    assert materialized(world, *FileType) == set(registered)
    (found,) = status("accounts")
    assert (found["ranges"], found["materialized"], found["not_run"]) == (len(registered),) * 2 + (0,)
    assert f"{len(registered)} ranges, 0 of them new" in CliRunner().invoke(main, ["ranges", "accounts"]).output
    # Rows above the last range make a new one when they fill it, not at every sync.
    add_account(world, int(registered[-1].rpartition("-")[2]) + 1)
    assert CliRunner().invoke(main, ["sync", "accounts"]).exit_code == 0
    assert world.dagster.get_dynamic_partitions(FileType.ACCOUNTS.partitions_name) == registered


def add_account(world: Installation, row_id: int) -> None:
    """Add a row without a file."""
    with (
        contextlib.closing(psycopg2.connect(world.database.url)) as connection,
        connection,
        connection.cursor() as rows,
    ):
        rows.execute(
            "INSERT INTO accounts (id, username, domain, created_at, updated_at)"
            " VALUES (%s, 'above', 'above.example', now(), now())",
            (row_id,),
        )


@pytest.mark.long
def test_a_stopped_sync_registers_the_ranges_and_a_night_takes_what_it_has_left(world: Installation) -> None:
    with half_copied(world) as terminal:
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    registered = set(world.dagster.get_dynamic_partitions(FileType.ACCOUNTS.partitions_name))
    left = [line for line in newest_lines(world) if line.reason is Reason.NOT_ATTEMPTED]
    assert left
    unfinished = {key for key in registered if any(holds(key, line.row_id) for line in left)}
    assert registered - unfinished == materialized(world, FileType.ACCOUNTS)
    world.destination_proxy.set_rules()
    outcome = CliRunner().invoke(main, ["night"])
    assert outcome.exit_code == 0, outcome.output
    assert f"{len(unfinished):,} ID ranges have not run yet" in outcome.output
    assert world.compare().differences == ()


@pytest.mark.long
def test_a_sync_that_is_killed_registers_nothing_so_that_the_night_takes_every_row(world: Installation) -> None:
    with half_copied(world) as terminal:
        terminal.process.kill()
        terminal.end()
    assert not world.dagster.get_dynamic_partitions(FileType.ACCOUNTS.partitions_name)


@pytest.mark.long
def test_ranges_that_were_registered_beside_a_sync_stay_as_they_are(world: Installation) -> None:
    with half_copied(world) as terminal:
        beside = world.command("mastosync", "ranges", "accounts", MASTOSYNC_ROWS_PER_PARTITION="17")
        assert beside.returncode == 0, beside.stderr
        registered = world.dagster.get_dynamic_partitions(FileType.ACCOUNTS.partitions_name)
        world.destination_proxy.set_rules()
        assert terminal.end() == 0
    assert world.dagster.get_dynamic_partitions(FileType.ACCOUNTS.partitions_name) == registered
    assert materialized(world, FileType.ACCOUNTS) <= set(registered)


@pytest.mark.long
@pytest.mark.parametrize("copy_private", [True, False])
def test_status_counts_each_object_once_where_rows_lie_outside_of_ranges(
    world: Installation, monkeypatch: pytest.MonkeyPatch, *, copy_private: bool
) -> None:
    """Done, missing, left or skipped as private: a failed object is not done, and one that is skipped neither."""
    if not copy_private:
        monkeypatch.setenv("MASTOSYNC_COPY_PRIVATE", "false")
    world.source_proxy.set_rules(Rule(Answer(403, "InvalidObjectState"), kinds=frozenset({Kind.GET}), times=1))
    assert CliRunner().invoke(main, ["sync", "media_attachments"]).exit_code == 1
    outcomes = Counter(line.outcome for line in newest_lines(world))
    private = sum(line.reason is Reason.PRIVATE_NOT_COPIED for line in newest_lines(world))
    assert outcomes[Outcome.FAILED] == 1 + private
    assert bool(private) is not copy_private
    # As if they were rows of nights, which no range has taken yet.
    for key in world.dagster.get_dynamic_partitions(FileType.MEDIA_ATTACHMENTS.partitions_name):
        world.dagster.delete_dynamic_partition(FileType.MEDIA_ATTACHMENTS.partitions_name, key)
    (found,) = status("media_attachments")
    assert (found["objects_done"], found["objects_missing"], found["objects_left"]) == (
        outcomes[Outcome.COPIED] + outcomes[Outcome.PRESENT],
        outcomes[Outcome.MISSING],
        1,
    )


def test_a_range_with_a_failed_object_is_not_materialized_and_the_others_are(world: Installation) -> None:
    keys = world.register(FileType.ACCOUNTS)[FileType.ACCOUNTS]
    world.source_proxy.set_rules(Rule(Answer(403, "InvalidObjectState"), kinds=frozenset({Kind.GET}), times=1))
    assert CliRunner().invoke(main, ["sync", "accounts"]).exit_code == 1
    failed = {line.row_id for line in newest_lines(world) if line.outcome is Outcome.FAILED}
    assert len(failed) == 1
    (red,) = [key for key in keys if any(holds(key, row_id) for row_id in failed)]
    assert set(keys) - materialized(world, FileType.ACCOUNTS) == {red}
    # Its check is an error until a run, of whatever job, puts it right.
    world.source_proxy.set_rules()
    assert severity(world, red) is dg.AssetCheckSeverity.ERROR
    assert CliRunner().invoke(main, ["sync", "accounts"]).exit_code == 0
    assert severity(world, red) is not dg.AssetCheckSeverity.ERROR


@pytest.mark.long
def test_a_night_does_not_name_a_range_whose_failed_object_it_retries(
    world: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTOSYNC_ROWS_PER_PARTITION", "1000")
    world.source_proxy.set_rules(Rule(Answer(403, "InvalidObjectState"), kinds=frozenset({Kind.GET}), times=1))
    assert CliRunner().invoke(main, ["sync", "accounts"]).exit_code == 1
    (found,) = status("accounts")
    assert (found["failed"], found["not_run"]) == (1, 0)
    outcome = CliRunner().invoke(main, ["night"])
    assert outcome.exit_code == 0, outcome.output
    assert "have not run yet" not in outcome.output
    (found,) = status("accounts")
    assert (found["failed"], found["materialized"]) == (0, 1)
    assert world.compare().differences == ()


def severity(world: Installation, key: str) -> dg.AssetCheckSeverity | None:
    """Return how bad the newest result of a range's check is; None: it has passed."""
    check = dg.AssetCheckKey(dg.AssetKey("accounts"), CHECK_NAME)
    for each in world.dagster.event_log_storage.get_asset_check_execution_history(check, limit=100):
        event = None if each.event is None else each.event.dagster_event
        if event is not None and (found := event.asset_check_evaluation_data).partition == key:
            return None if found.passed else found.severity
    raise AssertionError(key)


def test_a_trial_says_what_it_was_and_materializes_nothing(world: Installation) -> None:
    world.register(FileType.ACCOUNTS)
    outcome = CliRunner().invoke(main, ["sync", "accounts", "--limit", "10"])
    assert outcome.exit_code == 0, outcome.output
    assert "trial: 10 rows at most of each file type" in outcome.output
    assert materialized(world, FileType.ACCOUNTS) == set()


@pytest.mark.long
def test_without_a_file_type_sync_takes_all_and_points_at_the_report_of_what_is_missing(world: Installation) -> None:
    outcome = CliRunner().invoke(main, ["sync"])
    assert outcome.exit_code == 0, outcome.output
    assert world.compare().differences == ()
    (line,) = [line for line in outcome.output.splitlines() if "mastosync report" in line]
    assert f"{len(world.instance.missing_of(*FileType)):,} missing" in line


@pytest.mark.long
def test_a_second_sync_says_that_another_one_is_running(world: Installation) -> None:
    with half_copied(world) as terminal:
        (first,) = world.dagster.get_runs()
        beside = CliRunner().invoke(main, ["sync", "accounts", "--limit", "1"])
        elsewhere = CliRunner().invoke(main, ["sync", "custom_emojis", "--limit", "1"])
        terminal.press(CTRL_C)
        terminal.end()
    assert "Another sync of these file types is running since" in beside.output
    assert first.run_id in beside.output
    assert beside.exit_code == elsewhere.exit_code == 0
    assert "Another sync" not in elsewhere.output
    assert "Another sync" not in CliRunner().invoke(main, ["sync", "accounts", "--limit", "1"]).output
