"""A living instance is moved by the commands of docs/moving.md, behind the nginx that mastosync has configured."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import click
import psycopg2
import pytest
from click.testing import CliRunner

from mastosync_dagster.cli.main import main
from mastosync_dagster.demo.comparison import list_keys
from mastosync_dagster.demo.instance.cases import CASES
from mastosync_dagster.demo.instance.load import build
from mastosync_dagster_tests.support.acls import NOBODY_LISTS, acl_server
from mastosync_dagster_tests.support.corners import create_bucket, create_database
from mastosync_dagster_tests.support.installation import Original, make_world
from mastosync_dagster_tests.support.living import md5
from mastosync_dagster_tests.support.mastodon import Mastodon
from mastosync_dagster_tests.support.moving_page import BLOCKS, PAGE, Admin
from mastosync_dagster_tests.support.nginx import Nginx, needs_nginx, nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mastosync_dagster.demo.servers.start import PostgresServer

pytestmark = needs_nginx

_READ_PAUSE = 0.01
_LINES = [line for lines in BLOCKS.values() for line in lines]
_INDENTED = re.findall(r"^    (mastosync .*)$", PAGE, re.MULTILINE)


class Reader:
    """Fetches every address it knows, again and again, and notes what a person would complain about."""

    def __init__(self, mastodon: Mastodon, site: Nginx) -> None:
        self.complaints: list[str] = []
        self.fetched = 0
        self._mastodon = mastodon
        self._site = site

    def read_all(self, pause: float = 0) -> None:
        """Fetch every address once, with a pause in seconds after each."""
        mastodon = self._mastodon
        for key in list(mastodon.expected):
            wanted = mastodon.expected.get(key)
            answer = self._site.ask(f"/{quote(key)}")
            self.fetched += 1
            time.sleep(pause)
            if key in mastodon.hidden and answer.status == 200:
                self.complaints.append(f"{key} is private, and was served")
            same = mastodon.expected.get(key) == wanted and key not in mastodon.private
            if wanted is not None and same and (answer.status != 200 or md5(answer.body) != wanted):
                self.complaints.append(f"{key} was answered {answer.status}")

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Read until the block ends, and then once more."""
        end = threading.Event()

        def read() -> None:
            while not end.is_set():
                self.read_all(_READ_PAUSE)

        worker = threading.Thread(target=read)
        worker.start()
        try:
            yield
        finally:
            end.set()
            worker.join()
        self.read_all()


class Move:
    """The instance, its two buckets, the media host, and the admin who moves it."""

    def __init__(self, mastodon: Mastodon, site: Nginx, home: Path) -> None:
        self.mastodon, self.site = mastodon, site
        self.reader = Reader(mastodon, site)
        self._admin = Admin(mastodon, site, home)
        self._follow: Callable[[str], None] = self._admin.follow

    def follow(self, block: str) -> None:
        """Type a block of the page, while people go on."""
        before = set(self.mastodon.private)
        self._follow(block)
        if "cutover private" in "\n".join(BLOCKS[block]) or block == "new-only":
            self.mastodon.hidden |= before

    def people_do(self, count: int = 5) -> None:
        """Let people do something."""
        before = set(self.mastodon.private)
        self.mastodon.wait(count)
        if self.mastodon.source is self.mastodon.buckets["old"]:
            self.mastodon.hidden |= before


@pytest.fixture
def move(postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Move]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(acl_server())
        database, old, new = create_database(postgres_server), create_bucket(server), create_bucket(server)
        with contextlib.closing(psycopg2.connect(database.url)) as connection:
            instance = build(connection, server, old.name, cases=CASES, rows=len(CASES))
            connection.cursor().execute("UPDATE media_attachments SET processing = 2 WHERE processing IN (0, 1)")
            connection.commit()
        world = stack.enter_context(make_world(Original(instance, database, old), new, tmp_path / "home", monkeypatch))
        world.destination_proxy.set_rules(NOBODY_LISTS)
        monkeypatch.setenv("DESTINATION_S3_PERMISSION", "public-read")
        monkeypatch.delenv("MASTOSYNC_COPY_PRIVATE")
        monkeypatch.setenv("S3_ALIAS_HOST", "files.example.com")
        mastodon = Mastodon.of(world.database, old, (each for each in instance.objects if each.key == each.source_key))
        mastodon.buckets = {"old": old, new.name: new}
        mastodon.private |= {each.key for each in instance.objects if each.private}
        mastodon.hidden |= mastodon.private
        for each in instance.objects:
            acl = "private" if each.private else "public-read"
            old.client.put_object_acl(Bucket=old.name, Key=each.source_key, ACL=acl)  # type: ignore[arg-type]  # one of the literals
        written = CliRunner().invoke(main, ["cutover", "plan", "--nginx", "old"])
        assert written.exit_code == 0, written.output
        (tmp_path / "nginx").mkdir()
        site = stack.enter_context(nginx(tmp_path / "nginx", written.output))
        yield Move(mastodon, site, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_copy_then_switch(move: Move) -> None:
    mastodon, reader = move.mastodon, move.reader
    with mastodon.alive(), reader.reading():
        move.people_do()
        move.follow("first-copy")
        move.people_do()
        move.follow("delta")
        # As the page says: nothing is in the way but that Mastodon writes.
        move.people_do()
        move.follow("switch")
        move.people_do()
        move.follow("private")
        move.follow("after")
        move.people_do()
        move.follow("new-only")
        move.people_do()
    _assert_moved(move)


@pytest.mark.long(cases=0)
@pytest.mark.timeout(300)
def test_switch_then_copy(move: Move) -> None:
    mastodon, reader = move.mastodon, move.reader
    with mastodon.alive(), reader.reading():
        move.people_do()
        move.follow("switch-first")
        move.people_do()
        move.follow("private")
        move.follow("after")
        move.people_do()
        move.follow("new-only")
        move.people_do()
    _assert_moved(move)


def _assert_moved(move: Move) -> None:
    """Nobody has complained; the old bucket may be deleted by the page's word, and then nothing is missed."""
    mastodon, reader = move.mastodon, move.reader
    assert reader.complaints == []
    assert reader.fetched > 2 * len(mastodon.expected)
    assert mastodon.hidden - mastodon.private == set()
    assert mastodon.private & mastodon.expected.keys()
    move.follow("old-bucket-accepted")
    old = mastodon.buckets["old"]
    for key in list_keys(old.server, old.name):
        old.client.delete_object(Bucket=old.name, Key=key)
    mastodon.hidden |= mastodon.private
    reader.read_all()
    assert reader.complaints == []


def test_every_command_that_the_page_shows_exists_with_its_options() -> None:
    shown = re.findall(r"^mastosync ([a-z].*)$", "\n".join([*_INDENTED, *_LINES]), re.MULTILINE)
    assert {line.split()[0] for line in shown} == {"check", "cutover", "estimate", "report", "status", "sync"}
    for line in shown:
        name, *words = re.split(r"[|>#&]", line)[0].split()
        command = main.commands[name]
        if isinstance(command, click.Group):
            command, words = command.commands[words[0]], words[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
