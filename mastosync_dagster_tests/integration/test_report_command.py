"""``mastosync report`` over the newest manifests: what is missing, what can be done, totals."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.mastodon import is_remote, stored_objects
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.manifest import ManifestLine, ManifestWriter
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.records.store import FolderManifests
from mastosync_dagster.refetch import remedies
from mastosync_dagster.resources import S3Bucket
from mastosync_dagster.runs.manifests import manifest_store
from mastosync_dagster.s3.reasons import Reason
from mastosync_dagster_tests.support.acls import anonymous_status
from mastosync_dagster_tests.support.corners import create_bucket
from mastosync_dagster_tests.support.reporting import report

if TYPE_CHECKING:
    from mastosync_dagster_tests.support.installation import Installation


def line(row_id: int, outcome: Outcome = Outcome.MISSING, **fields: Any) -> ManifestLine:
    key = f"accounts/avatars/000/000/{row_id:03d}/original/a.png"
    reason = Reason.TIMEOUT if outcome is Outcome.FAILED else None
    made = ManifestLine("accounts", row_id, "avatar/original", key, None, outcome, reason, None, 7, None, private=False)
    return made._replace(**fields)


@pytest.fixture
def manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderManifests:
    """A folder of manifests, and no database."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    for name, value in {
        "DAGSTER_HOME": str(home),
        "DESTINATION_S3_BUCKET": "destination",
        "DATABASE_URL": "postgresql://nobody:x@127.0.0.1:1/none",
        "MASTOSYNC_MANIFESTS": str(tmp_path / "manifests"),
    }.items():
        monkeypatch.setenv(name, value)
    return FolderManifests(tmp_path / "manifests")


def keep(store: FolderManifests, folder: Path, group: str, partition: str, run: str, *lines: ManifestLine) -> None:
    with ManifestWriter(folder / "lines.parquet") as writer:
        for each in lines:
            writer.write(each)
    store.write(folder / "lines.parquet", group, partition, run)


def in_order(folder: Path, *runs: str) -> None:
    """Have the manifests written a second apart, in the order of their runs."""
    for age, run in enumerate(runs):
        (file,) = folder.rglob(f"{run}.parquet")
        os.utime(file, (1_700_000_000 + age, 1_700_000_000 + age))


@pytest.mark.long
def test_every_object_that_the_source_has_lost_is_listed_with_what_can_be_done(world: Installation) -> None:
    world.register()
    assert world.run("sync_changes").success
    shown = json.loads(report("--format", "json"))
    lost = {each.key: each for each in world.instance.missing_of(*FileType)}
    listed = {each["key"]: each for each in shown["objects"]}
    assert listed.keys() == lost.keys()
    for file_type in FileType:
        assert shown["totals"][file_type.value]["missing"] == len(world.instance.missing_of(file_type))
        assert shown["totals"][file_type.value]["copied"] == len(world.instance.objects_of(file_type))
    accounts = {row["id"]: row for row in world.instance.rows["accounts"]}
    media = {row["id"]: row for row in world.instance.rows["media_attachments"]}
    for key, each in listed.items():
        row = {"accounts": accounts, "media_attachments": media}.get(each["file_type"], {}).get(each["id"], {})
        if lost[key].harmless:
            assert each["what_to_do"] == remedies.NOTHING_TO_DO
        elif each["file_type"] == "accounts" and row.get("domain"):
            assert each["command"] == f"tootctl accounts refresh {row['username']}@{row['domain']}"
        elif each["file_type"] == "media_attachments" and row["remote_url"]:
            assert each["command"] == f"tootctl media refresh --status {row['status_id']} --force"
        elif each["remote"]:
            assert each["what_to_do"] in {remedies.EMOJI, remedies.CARD}
        elif each["command"] is None:
            assert each["what_to_do"].startswith("lost")
        else:
            assert not each["part"].endswith("/original")
            assert each["what_to_do"] == remedies.MADE_AGAIN
    for begins in ("tootctl accounts", "tootctl media"):
        assert any(str(each["command"]).startswith(begins) for each in listed.values())


def test_manifests_in_a_private_bucket_are_read_from_there(
    world_with_acls: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_with_acls
    bucket = create_bucket(world.destination.server)
    monkeypatch.setenv("MASTOSYNC_MANIFESTS", f"s3://{bucket.name}/of/mastosync")
    ((key,),) = world.register(FileType.ACCOUNTS).values()
    assert world.run("sync_accounts", key).success
    kept = [each["Key"] for each in bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]]
    # The manifest, and the list of what the source has lost.
    assert {name.rpartition("/")[0] for name in kept} == {
        f"of/mastosync/accounts/{key}",
        f"of/mastosync/doubts_accounts/{key}",
    }
    assert {anonymous_status(bucket.server, bucket.name, name) for name in kept} == {403}
    assert not list(Path(world.dagster.root_directory).rglob("*.parquet"))

    shown = json.loads(report("accounts", "--format", "json"))
    assert {each["key"] for each in shown["objects"]} == {each.key for each in world.instance.missing_of("accounts")}
    assert shown["totals"]["accounts"]["copied"] == len(world.instance.objects_of("accounts"))
    monkeypatch.setenv("MASTOSYNC_MANIFESTS", "s3://no-such-bucket/of/mastosync")
    refused = CliRunner().invoke(main, ["report", "accounts"])
    assert refused.exit_code == 1
    assert "no-such-bucket" in refused.output or "bucket" in refused.output


def lost_accounts(world: Installation, *, remote: bool) -> list[ManifestLine]:
    """Return lines of all objects of the local or the remote accounts, as if they were lost."""
    rows = [row for row in world.instance.rows["accounts"] if bool(row.get("domain")) is remote]
    return [
        line(int(str(row["id"])), key=stored.key, part=f"{stored.attachment}/{stored.style}", remote=remote)
        for row in rows
        for stored in stored_objects("accounts", row)
    ]


def test_what_mastodon_makes_from_a_local_file_is_not_lost_unless_that_is(world: Installation, tmp_path: Path) -> None:
    store = manifest_store(world.dagster, S3Bucket.destination())
    assert isinstance(store, FolderManifests)
    lines = lost_accounts(world, remote=False)
    static = next(each for each in lines if each.part == "avatar/static")
    keep(store, tmp_path, "accounts", "1-5", "run", static)
    ((key, what, command),) = (
        (each["key"], each["what_to_do"], each["command"])
        for each in json.loads(report("accounts", "--format", "json"))["objects"]
    )
    assert (key, what) == (static.key, remedies.MADE_AGAIN)
    ruby = f"'Account.find({static.row_id}).avatar.reprocess!(\"static\")'"
    assert command == f"RAILS_ENV=production bin/rails runner {ruby}"
    keep(store, tmp_path, "accounts", "1-5", "run", *(each for each in lines if each.row_id == static.row_id))
    shown = json.loads(report("accounts", "--format", "json"))["objects"]
    assert {each["what_to_do"][:4] for each in shown if each["part"].startswith("avatar/")} == {"lost"}


def test_for_many_remote_rows_there_is_one_command_and_none_for_dead_servers(
    world: Installation, tmp_path: Path
) -> None:
    store = manifest_store(world.dagster, S3Bucket.destination())
    assert isinstance(store, FolderManifests)
    lines = [each for each in lost_accounts(world, remote=True) if each.part == "avatar/original"]
    assert len(lines) > 20
    keep(store, tmp_path, "accounts", "1-5", "run", *lines)
    shown = report("accounts")
    assert shown.count("-> tootctl accounts refresh") == 20
    assert shown.count('RAILS_ENV=production bin/rails runner \'require "csv"; CSV.foreach') == 1

    dead = next(str(row["domain"]) for row in world.instance.rows["accounts"] if row["id"] == lines[0].row_id)
    with contextlib.closing(psycopg2.connect(world.database.url)) as admin, admin.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS unavailable_domains (id bigserial, domain varchar)")
        cursor.execute("INSERT INTO unavailable_domains (domain) VALUES (%s)", (dead,))
        admin.commit()
    for each in json.loads(report("accounts", "--format", "json"))["objects"]:
        row = next(row for row in world.instance.rows["accounts"] if row["id"] == each["id"])
        assert (each["what_to_do"] == remedies.UNAVAILABLE) is (row["domain"] == dead)
        assert (each["command"] is None) is (row["domain"] == dead)


@pytest.mark.parametrize("table", ["accounts", "media_attachments", "custom_emojis"])
def test_what_mastodon_makes_from_a_remote_file_that_is_there_is_not_fetched_again(
    world: Installation, tmp_path: Path, table: str
) -> None:
    """And the one command for many rows leaves its row alone: it would clear the name of the original."""
    store = manifest_store(world.dagster, S3Bucket.destination())
    assert isinstance(store, FolderManifests)
    made = [
        (row, stored)
        for row in world.instance.rows[table]
        if is_remote(table, row)
        for stored in stored_objects(table, row)
        if stored.style != "original"
    ]
    lines = [
        line(int(str(row["id"])), key=each.key, part=f"{each.attachment}/{each.style}", remote=True, group=table)
        for row, each in made
    ]
    assert lines
    keep(store, tmp_path, table, "1-5", "run", *lines)
    shown = json.loads(report(table, "--format", "json"))["objects"]
    assert {each["key"] for each in shown} == {each.key for each in lines}
    for each in shown:
        assert each["what_to_do"] == remedies.MADE_AGAIN
        assert f'reprocess!("{each["part"].partition("/")[2]}")' in each["command"]
    assert "update_all" not in report(table)
    assert "see below" not in report(table)


def test_one_command_for_many_rows_takes_those_lines_alone_that_are_fetched_again() -> None:
    # Ruby reads the column `command` of the CSV: a row without one, or with another one, keeps its file's name.
    assert {'line["command"].to_s.start_with?("tootctl ")' in ruby for ruby in remedies.ALL_AT_ONCE.values()} == {True}
    assert remedies.FETCHES == "tootctl "


def test_rows_that_have_gone_or_changed_need_nothing(world: Installation) -> None:
    assert world.run("sync_changes", config={"ops": {"plan_changes": {"config": {"file_types": ["accounts"]}}}}).success
    lost = {each.row_id for each in world.instance.missing_of("accounts") if not each.harmless}
    first, second = sorted(lost)[:2]
    with contextlib.closing(psycopg2.connect(world.database.url)) as admin, admin.cursor() as cursor:
        cursor.execute("DELETE FROM accounts WHERE id = %s", (first,))
        cursor.execute(
            "UPDATE accounts SET avatar_file_name = 'n.png', header_file_name = 'n.png' WHERE id = %s", (second,)
        )
        admin.commit()
    shown = {each["id"]: each["what_to_do"] for each in json.loads(report("accounts", "--format", "json"))["objects"]}
    assert (shown[first], shown[second]) == (remedies.ROW_GONE, remedies.ROW_CHANGED)


def test_the_newest_word_about_every_row_counts_once(manifests: FolderManifests, tmp_path: Path) -> None:
    present = Outcome.PRESENT
    keep(manifests, tmp_path, "accounts", "1-5", "run-1", line(1), line(2))
    keep(manifests, tmp_path, "sync_changes", "changes", "run-2", line(2), line(8), line(9), line(9, group="backups"))
    keep(manifests, tmp_path, "accounts", "1-5", "run-3", line(1, present), line(2, remote=False))
    keep(manifests, tmp_path, "sync_changes", "changes", "run-4", line(8, present), line(10, Outcome.FAILED))
    shown = json.loads(report("accounts", "--format", "json"))
    assert sorted((each["id"], each["outcome"]) for each in shown["objects"]) == [
        (2, "missing"),
        (9, "missing"),
        (10, "failed"),
    ]
    in_doubt = shown["totals"]["accounts"].pop("in_doubt")
    assert set(in_doubt.values()) == {0}
    assert shown["totals"]["accounts"] == {
        "manifests": 3, "copied": 0, "present": 2, "missing": 2, "failed": 1, "bytes": 0,
    }  # fmt: skip


def test_a_later_run_over_changed_rows_has_the_last_word_about_an_attachment(
    manifests: FolderManifests, tmp_path: Path
) -> None:
    """What it did not take, and what a range's own run has said since, stays as it was said."""
    present, failed, copied = Outcome.PRESENT, Outcome.FAILED, Outcome.COPIED
    header: dict[str, Any] = {"part": "header/original", "key": "accounts/headers/000/000/001/original/h.png"}
    still: dict[str, Any] = {"part": "avatar/static", "key": "accounts/avatars/000/000/001/static/a.png"}
    keep(manifests, tmp_path, "sync_changes", "changes", "run-0", line(2, copied), line(7, copied))
    keep(
        manifests, tmp_path, "accounts", "1-5", "run-1",
        line(1), line(1, **still), line(1, **header), line(2), line(3, present), line(4, failed),
    )  # fmt: skip
    keep(manifests, tmp_path, "accounts", "6-9", "run-2", line(6), line(7), line(8), line(8, **header))
    keep(
        manifests, tmp_path, "sync_changes", "changes", "run-3",
        line(1, copied, refetched=True), line(1, present, **still), line(3), line(4), line(6, failed), line(8, copied),
        line(20), line(20, **header), line(1, group="backups"),
    )  # fmt: skip
    keep(
        manifests, tmp_path, "sync_changes", "changes", "run-4",
        line(4, copied), line(6, copied, key="accounts/avatars/000/000/006/original/new.png"),
        line(20, copied, **header),
    )  # fmt: skip
    in_order(tmp_path / "manifests", "run-0", "run-1", "run-2", "run-3", "run-4")
    shown = json.loads(report("accounts", "--format", "json"))
    assert sorted((each["id"], each["part"], each["outcome"]) for each in shown["objects"]) == [
        (1, "header/original", "missing"),
        (2, "avatar/original", "missing"),
        (3, "avatar/original", "missing"),
        (7, "avatar/original", "missing"),
        (8, "header/original", "missing"),
        (20, "avatar/original", "missing"),
    ]
    in_doubt = shown["totals"]["accounts"].pop("in_doubt")
    assert set(in_doubt.values()) == {0}
    assert shown["totals"]["accounts"] == {
        "manifests": 4, "copied": 5, "present": 1, "missing": 6, "failed": 0, "bytes": 5 * 7,
    }  # fmt: skip


def test_without_the_database_the_manifest_shows_what_is_lost(manifests: FolderManifests, tmp_path: Path) -> None:
    keep(
        manifests, tmp_path, "accounts", "1-5", "run",
        line(1, remote=False), line(2, remote=True), line(3), line(4, Outcome.FAILED), line(5, Outcome.COPIED),
    )  # fmt: skip
    rows = {int(row["id"]): row for row in csv.DictReader(io.StringIO(report("--format", "csv")))}
    assert rows.keys() == {1, 2, 3, 4}
    assert rows[1]["what_to_do"].startswith("lost")
    assert [rows[number]["what_to_do"] for number in (2, 3, 4)] == [
        remedies.REMOTE, remedies.UNKNOWN, remedies.SYNC_AGAIN,
    ]  # fmt: skip
    assert rows[4]["reason"] == "timeout"
    assert {row["id"] for row in csv.DictReader(io.StringIO(report("--outcome", "failed", "--format", "csv")))} == {"4"}
    table = report("accounts")
    assert "missing  accounts 1  avatar/original" in table
    assert table.splitlines()[-1].split() == ["accounts", "1", "1", "0", "3", "1", "0.0"]


def test_nothing_in_a_manifest_reaches_the_terminal_as_a_command(manifests: FolderManifests, tmp_path: Path) -> None:
    keep(manifests, tmp_path, "accounts", "1-5", "run", line(1, key="a/\x1b]0;evil\x07.png"))
    assert "\x1b" not in report("accounts")


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_what_others_have_written_stays_text_in_every_form(
    manifests: FolderManifests, tmp_path: Path, form: str
) -> None:
    keys = ["=cmd|' /C calc'!A0", "+1", "-1", "@x", "\t=1", "a\x1b[2J\r\x9bb", "a\u202eb"]
    lines = [line(number, key=key, detail="=1+1\x1b") for number, key in enumerate(keys)]
    keep(manifests, tmp_path, "accounts", "1-5", "run", *lines)
    shown = report("accounts", "--format", form)
    assert not [letter for letter in shown if letter != "\n" and not letter.isprintable()]
    if form == "csv":
        for row in csv.DictReader(io.StringIO(shown)):
            assert not [value for value in row.values() if value.startswith(("=", "+", "-", "@"))]
    if form == "json":
        assert [each["key"] for each in json.loads(shown)["objects"]] == keys


def test_what_others_have_put_among_the_manifests_ends_no_report(manifests: FolderManifests, tmp_path: Path) -> None:
    keep(manifests, tmp_path, "accounts", "1-5", "run", line(1))
    for name in (
        "accounts/photos/x.parquet",
        "accounts/1-5/notes.txt",
        "accounts/x.parquet",
        "sync_changes/a/b/c.parquet",
    ):
        file = tmp_path / "manifests" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("foreign")
    assert "missing  accounts 1  avatar/original" in report("accounts")


def test_an_empty_report_is_whole_in_every_form(manifests: FolderManifests) -> None:  # noqa: ARG001  (it sets the scene)
    assert json.loads(report("--format", "json"))["objects"] == []
    assert len(report("--format", "csv").splitlines()) == 1
    assert "accounts" in report()


_PEAK = """
import resource, sys
from pathlib import Path
from mastosync_dagster.cli.latest_outcomes import Inventory
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster.records.store import FolderManifests
from mastosync_dagster.records.outcomes import Outcome
from mastosync_dagster.runs.manifests import Damaged, ManifestOrigin
origin = ManifestOrigin("one/", acls=True)
inventory = Inventory(FolderManifests(Path(sys.argv[1])), origin, FileType.ACCOUNTS, Damaged(print))
missing = sum(len(lines) for lines in inventory.lines([Outcome.MISSING]))
print(missing, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_lines(tmp_path: Path) -> None:
    def peak(lines: int) -> int:
        folder = tmp_path / str(lines)
        folder.mkdir()
        keep(FolderManifests(folder), folder, "accounts", "1-999", "run", *(line(1) for _ in range(lines)))
        shown = subprocess.run([sys.executable, "-c", _PEAK, str(folder)], capture_output=True, text=True, check=True)
        missing, kilobytes = map(int, shown.stdout.split())
        assert missing == lines
        return kilobytes

    assert peak(150_000) < peak(5_000) + 12_000


@pytest.mark.long(cases=0)
def test_nor_with_what_later_runs_say_of_rows_in_ranges(tmp_path: Path) -> None:
    def peak(ranges: int) -> int:
        folder = tmp_path / str(ranges)
        store = FolderManifests(folder / "manifests")
        folder.mkdir()
        begun = [number * 1_000 for number in range(ranges)]
        for begin in begun:
            lines = [line(begin + number, Outcome.COPIED) for number in range(1_000)]
            keep(store, folder, "accounts", f"{begin}-{begin + 999}", f"run-{begin}", *lines)
        changed = [line(begin + number) for number in range(1_000) for begin in begun]
        keep(store, folder, "sync_changes", "changes", "run-later", *changed)
        in_order(folder / "manifests", *(f"run-{begin}" for begin in begun), "run-later")
        shown = subprocess.run(
            [sys.executable, "-c", _PEAK, str(folder / "manifests")], capture_output=True, text=True, check=True
        )
        missing, kilobytes = map(int, shown.stdout.split())
        assert missing == ranges * 1_000
        return kilobytes

    assert peak(120) < peak(20) + 12_000


@pytest.mark.parametrize("kind", ["garbage", "empty", "parquet"])
def test_a_foreign_file_among_the_manifests_is_passed_over_with_one_warning(
    manifests: FolderManifests, tmp_path: Path, kind: str
) -> None:
    keep(manifests, tmp_path, "accounts", "1-9", "own", line(1))
    keep(manifests, tmp_path, "sync_changes", "changes", "night", line(2))
    in_order(tmp_path / "manifests", "own", "night")
    for number, place in enumerate(("sync_changes/changes", "accounts/10-19")):
        file = tmp_path / "manifests" / place / f"{uuid.UUID(int=number)}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        if kind == "parquet":
            pq.write_table(pa.table({"a": [1, 2]}), file)
        else:
            file.write_bytes(b"foreign" if kind == "garbage" else b"")
    outcome = CliRunner().invoke(main, ["report", "accounts", "custom_emojis", "--format", "json"])
    assert outcome.exit_code == 0, outcome.output
    assert {each["id"] for each in json.loads(outcome.stdout)["objects"]} == {1, 2}
    warned = [each for each in outcome.stderr.splitlines() if "is passed over" in each]
    assert len(warned) == 2
