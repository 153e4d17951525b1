"""``mastosync cutover plan`` as a whole: what it says is not done yet, and the parts that an admin copies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.ranges.partitions import FileType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mastosync_dagster_tests.cutover.conftest import Copied

pytestmark = pytest.mark.long

TABLES = [each.value for each in FileType]
RESOLVER = ("--resolver", "192.0.2.53")
SETTLED = ("media host", "key prefix", "private media", "public address")


def printed(*options: str) -> str:
    outcome = CliRunner().invoke(main, ["cutover", "plan", *options])
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


@dataclass(frozen=True)
class Plan:
    """The parts of the output: answers and texts by their names, the lines for Mastodon, nginx's file."""

    answers: Mapping[str, str]
    texts: Mapping[str, str]
    env: list[str]
    nginx: str


def plan(copied: Copied) -> Plan:
    """Print all of it, and take it apart."""
    world = copied.world
    first, done, env, nginx, last = re.split(r"^# [1-4]\. .*\n", printed(*RESOLVER) + "\n", flags=re.MULTILINE)
    assert re.fullmatch(rf"From {world.source.name} at \S+ to {world.destination.name} at \S+\n\n", first)
    assert last.strip() == ""
    lines = [re.fullmatch(r"(ok|no|note) +([a-z ]+): (.*)", line) for line in done.strip().splitlines()]
    found = [line.groups() for line in lines if line is not None]
    assert len(found) == len(lines) == len({name for _, name, _ in found})
    # Each part is what its own option prints.
    assert env.strip() == printed("--env").strip()
    assert nginx.strip() == printed("--nginx", "both", *RESOLVER).strip()
    return Plan(
        {name: answer for answer, name, _ in found},
        {name: text for _, name, text in found},
        env.strip().splitlines(),
        nginx,
    )


@pytest.mark.long(cases=0)
def test_it_says_at_each_step_what_is_not_done_yet(uncopied: Copied) -> None:
    world = uncopied.world
    shown = plan(uncopied)
    undone = {"first copy": "no", "nights": "no", "failed objects": "ok"}
    assert shown.answers == {**dict.fromkeys(SETTLED, "ok"), **undone}
    nothing = {table for table in TABLES if world.instance.objects_of(table)}
    assert nothing
    assert shown.texts["first copy"] == "; ".join(
        f"{table}: nothing has been copied yet" for table in TABLES if table in nothing
    )
    assert shown.texts["nights"] == f"no incremental run yet of {', '.join(TABLES)}"
    assert shown.env[:2] == ["S3_ENABLED=true", f"S3_BUCKET={world.destination.name}"]
    assert {"S3_ALIAS_HOST=files.example.com", "S3_PERMISSION=public-read", "AWS_SECRET_ACCESS_KEY="} < set(shown.env)
    assert f"S3_ENDPOINT={world.destination_proxy.endpoint}" in shown.env
    assert world.destination.server.secret_access_key not in "\n".join(shown.env)
    for proxy, bucket in ((world.source_proxy, world.source), (world.destination_proxy, world.destination)):
        assert f"{proxy.endpoint}/{bucket.name}" in shown.nginx
    assert "server_name files.example.com;" in shown.nginx
    assert "resolver 192.0.2.53" in shown.nginx

    keys = world.register()
    shown = plan(uncopied)
    assert shown.texts["first copy"] == "; ".join(
        f"{table.value}: of {len(some)} ID ranges {len(some)} have not run" for table, some in keys.items() if some
    )

    uncopied.copy_ranges()
    shown = plan(uncopied)
    lost = sum(not each.harmless for each in world.instance.missing_of(*TABLES))
    after = {"first copy": "ok", "nights": "no", "failed objects": "ok", "lost objects": "note"}
    assert shown.answers == {**dict.fromkeys(SETTLED, "ok"), **after}
    assert shown.texts["nights"] == f"no incremental run yet of {', '.join(TABLES)}"
    assert shown.texts["lost objects"].startswith(f"{lost} were not at the source")

    assert uncopied.delta()
    shown = plan(uncopied)
    assert shown.answers == {**dict.fromkeys(SETTLED, "ok"), **after, "nights": "ok"}


@pytest.mark.long(cases=3)
@pytest.mark.parametrize(
    ("variables", "expected", "env"),
    [
        pytest.param({}, dict.fromkeys([*SETTLED, "first copy", "nights"], "ok"), [], id="as it is"),
        pytest.param(
            {"S3_ALIAS_HOST": None},
            {"media host": "no S3_ALIAS_HOST is not set", "first copy": "ok", "nights": "ok"},
            [],
            id="no media host",
        ),
        pytest.param(
            {"S3_ALIAS_HOST": "f000.provider.example/file/old"},
            {"media host": "no S3_ALIAS_HOST is not set, or is a folder at a provider's host"},
            ["# delete the line S3_ALIAS_HOST, unless its host is yours"],
            id="a provider's host",
        ),
        pytest.param(
            {"S3_ALIAS_HOST": None, "S3_CLOUDFRONT_HOST": "files.example.com"},
            {"media host": "ok files.example.com"},
            ["S3_ALIAS_HOST=files.example.com", "# delete the line S3_CLOUDFRONT_HOST"],
            id="an older name",
        ),
        pytest.param(
            {"DESTINATION_S3_PERMISSION": ""},
            {
                "private media": "no the new bucket has no ACLs: decide with MASTOSYNC_COPY_PRIVATE",
                "public address": "note {url}; if everybody reads the new bucket under another address",
            },
            ["S3_PERMISSION="],
            id="no ACLs",
        ),
        pytest.param(
            {"DESTINATION_S3_PERMISSION": "", "MASTOSYNC_COPY_PRIVATE": "true"},
            {"private media": "note copied: the bucket is not public"},
            ["S3_PERMISSION="],
            id="no ACLs, private copied",
        ),
        pytest.param(
            {
                "DESTINATION_S3_PERMISSION": "",
                "MASTOSYNC_COPY_PRIVATE": "false",
                "MASTOSYNC_DESTINATION_URL": "https://media.example.net",
            },
            {"private media": "note left out: who is unsuspended", "public address": "ok https://media.example.net"},
            ["S3_PERMISSION="],
            id="no ACLs, private left out",
        ),
        pytest.param(
            {"DESTINATION_S3_KEY_PREFIX": "new/place"},
            {
                "key prefix": "note none becomes new/place/: addresses change with it",
                "first copy": "no media_attachments: of 1 ID ranges 1 have not run",
                "nights": "no no incremental run yet of media_attachments",
            },
            ["S3_KEY_PREFIX=new/place"],
            id="a key prefix",
        ),
        pytest.param(
            {"DATABASE_URL": "postgresql://nobody:x@127.0.0.1:1/none"},
            {"media host": "ok", "copy": "no Cannot connect to the database none at 127.0.0.1:1"},
            ["S3_ALIAS_HOST=files.example.com"],
            id="no database",
        ),
    ],
)
def test_what_the_settings_say_stands_in_its_answers_and_its_lines(
    copied: Copied,
    monkeypatch: pytest.MonkeyPatch,
    variables: Mapping[str, str | None],
    expected: Mapping[str, str],
    env: list[str],
) -> None:
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    shown = plan(copied)
    url = f"{copied.world.destination_proxy.endpoint}/{copied.world.destination.name}"
    for name, begins in expected.items():
        assert f"{shown.answers[name]} {shown.texts[name]}".startswith(begins.format(url=url)), name
    for begins in env:
        assert [line for line in shown.env if line.startswith(begins)]
    if variables.get("S3_ALIAS_HOST", "") is None and "S3_CLOUDFRONT_HOST" not in variables:
        assert not [line for line in shown.env if "ALIAS" in line]
    assert "server_name files.example.com;" in shown.nginx


def test_a_media_host_that_is_none_is_named_before_the_lines_that_need_it(
    copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert copied
    monkeypatch.setenv("S3_ALIAS_HOST", "two hosts")
    outcome = CliRunner().invoke(main, ["cutover", "plan", *RESOLVER])
    assert outcome.exit_code == 1
    assert "no    media host: S3_ALIAS_HOST must be the name of the media host" in outcome.stdout
    assert "S3_BUCKET=" not in outcome.stdout
    assert outcome.stderr.startswith("Error: S3_ALIAS_HOST must be the name of the media host")
