"""The options of a policy, by the book of a generated instance: what a sync copies, and the list of the rest."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.ranges.partitions import FileType
from mastosync_dagster_tests.support.private_media import execute
from mastosync_dagster_tests.support.reporting import report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mastosync_dagster.demo.instance.book import GeneratedObject, MissingObject
    from mastosync_dagster_tests.support.installation import Installation

MEDIA, ACCOUNTS, EMOJIS, CARDS = "media_attachments", "accounts", "custom_emojis", "preview_cards"
AGES = {
    MEDIA: "UPDATE media_attachments SET created_at = now() AT TIME ZONE 'UTC'"
    " - interval '1 day' * CASE WHEN id = ANY(%s) THEN 31 ELSE 29 END",
    CARDS: "UPDATE preview_cards SET updated_at = now() AT TIME ZONE 'UTC'"
    " - interval '1 day' * CASE WHEN id = ANY(%s) THEN 31 ELSE 29 END",
}
NEVER, DAYS = "never", "30 days"
LOCAL_ONLY = {"MASTOSYNC_LOCAL_ONLY": "true"}

POLICIES = [
    pytest.param(["--local-only"], {}, dict.fromkeys([MEDIA, ACCOUNTS, EMOJIS, CARDS], NEVER), id="local only"),
    pytest.param(["--remote-days", "30"], {}, dict.fromkeys([MEDIA, CARDS], DAYS), id="days"),
    pytest.param(
        ["--remote", "accounts=never", "--remote", "preview_cards=30"], {}, {ACCOUNTS: NEVER, CARDS: DAYS}, id="types"
    ),
    pytest.param(
        ["--remote-days", "30", "--remote", "media_attachments=always", "--remote", "custom_emojis=never"],
        {},
        {EMOJIS: NEVER, CARDS: DAYS},
        id="a type wins over days",
    ),
    pytest.param(
        [],
        {**LOCAL_ONLY, "MASTOSYNC_REMOTE": "accounts=always,media_attachments=30"},
        {MEDIA: DAYS, EMOJIS: NEVER, CARDS: NEVER},
        id="variables",
    ),
    pytest.param(["--remote", "accounts=never"], LOCAL_ONLY, {ACCOUNTS: NEVER}, id="an option replaces variables"),
    pytest.param(["--no-local-only"], LOCAL_ONLY, {}, id="everything"),
]


def is_of_another_server(table: str, row: Mapping[str, object]) -> bool:
    if table == MEDIA:
        return bool(str(row.get("remote_url") or "").strip())
    return table == CARDS or (table in {ACCOUNTS, EMOJIS} and row.get("domain") is not None)


@pytest.fixture
def old(world: Installation) -> Mapping[str, set[object]]:
    """Have every second row that has an age be old, and the others new; return the ids of the old ones."""
    found: dict[str, set[object]] = {}
    for table, query in AGES.items():
        ids = [row["id"] for row in world.instance.rows[table]]
        found[table] = set(ids[::2])
        execute(world, query, ids[::2])
    return found


@pytest.fixture
def out(
    world: Installation,
    old: Mapping[str, set[object]],
    monkeypatch: pytest.MonkeyPatch,
    variables: Mapping[str, str],
    rules: Mapping[str, str],
) -> Mapping[str, set[object]]:
    """The ids of the rows that the rules of a test leave out; its variables are set."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return {
        table: {
            row["id"]
            for row in world.instance.rows[table]
            if is_of_another_server(table, row) and (rule == NEVER or row["id"] in old[table])
        }
        for table, rule in rules.items()
    }


def book(world: Installation) -> list[GeneratedObject | MissingObject]:
    """Return every object that a row says exists."""
    return [*world.instance.objects, *world.instance.missing]


def listed(*arguments: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in report("--left-out", "--format", "json", *arguments).splitlines()]


def estimate(*arguments: str) -> dict[str, int]:
    outcome = CliRunner().invoke(main, ["estimate", "--json", *arguments])
    assert outcome.exit_code == 0, outcome.output
    found: dict[str, int] = json.loads(outcome.stdout)
    return found


@pytest.mark.parametrize(("options", "variables", "rules"), POLICIES)
def test_the_list_has_exactly_what_a_policy_leaves_out(
    world: Installation,
    out: Mapping[str, set[object]],
    monkeypatch: pytest.MonkeyPatch,
    options: Sequence[str],
    rules: Mapping[str, str],
) -> None:
    expected = {(each.table, each.row_id, each.key) for each in book(world) if each.row_id in out.get(each.table, ())}
    assert bool(expected) is bool(rules)
    lines = listed(*options)
    assert {(line["file_type"], line["id"], line["key"]) for line in lines} == expected
    assert len(lines) == len(expected)
    # The same as a table, with its sums, and as CSV.
    table = report("--left-out", *options).splitlines()
    shown = [f"{line['file_type']} {line['id']}  {line['part']}  {line['key']}" for line in lines]
    assert table[: len(lines)] == shown
    counts = {each.value: sum(line["file_type"] == each.value for line in lines) for each in FileType}
    assert table[len(lines) :] == [
        f"{name}: {count:,} objects left out (other servers' files: {rules.get(name, 'always')})"
        for name, count in counts.items()
    ]
    written = list(csv.DictReader(io.StringIO(report("--left-out", "--format", "csv", *options))))
    assert [(line["file_type"], line["id"], line["part"]) for line in written] == [
        (line["file_type"], str(line["id"]), line["part"]) for line in lines
    ]
    assert {line["file_type"] for line in listed(CARDS, *options)} == ({CARDS} if CARDS in rules else set())
    monkeypatch.setenv("DESTINATION_S3_KEY_PREFIX", "new")
    assert [line["key"] for line in listed(*options)] == [f"new/{line['key']}" for line in lines]


@pytest.mark.long(cases=0)
@pytest.mark.parametrize(("options", "variables", "rules"), [POLICIES[0], *POLICIES[3:]])
def test_a_sync_copies_what_its_policy_wants_and_nothing_else(
    world: Installation, out: Mapping[str, set[object]], options: Sequence[str], rules: Mapping[str, str]
) -> None:
    whole, part = estimate("--all", "--no-local-only"), estimate("--all", *options)
    left_out = [each for each in book(world) if each.row_id in out.get(each.table, ())]
    assert (whole["left_out"], part["left_out"]) == (0, len(left_out))
    assert (whole["objects"], part["objects"]) == (len(book(world)), len(book(world)) - len(left_out))
    assert part["gets"] == part["objects"]
    assert (part["bytes"] < whole["bytes"]) is bool(rules)

    outcome = CliRunner().invoke(main, ["sync", *options])
    assert outcome.exit_code == 0, outcome.output
    wanted = {each.key for each in world.instance.objects if each.row_id not in out.get(each.table, ())}
    assert set(list_keys(world.destination.server, world.destination.name)) == wanted
    cells = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]]
        for line in outcome.output.splitlines()
        if line.startswith("│")
    }
    assert ("left out" in outcome.output) is bool(rules)
    if rules:
        counts = {table: sum(each.table == table for each in left_out) for table in cells}
        assert {table: int(cell[-2].replace(",", "")) for table, cell in cells.items()} == counts
    # By the same policy nothing is left to copy.
    assert estimate(*options)["objects"] == 0
