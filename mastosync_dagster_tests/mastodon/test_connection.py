"""Reading disturbs nobody, survives what happens to long-lived connections, and says plainly when it cannot go on."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from psycopg2 import errors, sql
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.extensions import connection as Connection

from mastosync_dagster.demo.servers.start import free_port
from mastosync_dagster.mastodon import (
    Database,
    DatabaseReadError,
    NotMastodonError,
    Selection,
    database_now,
    id_boundaries,
    walk_rows,
)
from mastosync_dagster.mastodon import connection as connections
from mastosync_dagster.mastodon.connection import ReadingCursor, Reconnecting, reading, reading_once
from mastosync_dagster.resources import ConnectionFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mastosync_dagster.mastodon import RowPage
    from mastosync_dagster_tests.mastodon.conftest import MastodonDatabase

CARDS = Selection("preview_cards")


@dataclass
class Opener:
    """A ``connect`` that counts, keeps what it opened, and can do something first.

    Attributes:
        mastodon: The database.
        before: Called with the number of the connection (from 1) before it is opened.
        opened: The connections, in order.
        options: For ``psycopg2.connect``.
    """

    mastodon: MastodonDatabase
    before: Callable[[int], object] = lambda _: None
    opened: list[Connection] = field(default_factory=list)
    calls: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Connection:
        self.calls += 1
        self.before(self.calls)
        self.opened.append(psycopg2.connect(self.mastodon.server.url, **self.options))
        return self.opened[-1]


def fill(mastodon: MastodonDatabase, count: int) -> MastodonDatabase:
    """Insert preview cards that have a file."""
    mastodon.execute(
        "INSERT INTO preview_cards (id, url, image_file_name, created_at, updated_at)"
        " SELECT id, id::text, 'a.png', '2023-01-01', '2023-01-01' FROM generate_series(1, %s) AS id",
        count,
    )
    return mastodon


@pytest.fixture
def hundred(mastodon: MastodonDatabase) -> MastodonDatabase:
    """A database with a hundred preview cards that have a file."""
    return fill(mastodon, 100)


@pytest.fixture
def own_hundred(own_mastodon: MastodonDatabase) -> MastodonDatabase:
    """The same, for tests that change its tables."""
    return fill(own_mastodon, 100)


@contextlib.contextmanager
def locked(mastodon: MastodonDatabase, table: str) -> Iterator[Callable[[], None]]:
    """Hold a table so that nobody can read it, until the function that is given is called or the block ends."""
    with contextlib.closing(mastodon.connect()) as holder:
        holder.cursor().execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield holder.rollback


def walk(opener: Opener) -> Iterator[RowPage]:
    """Walk the preview cards, ten rows a page."""
    return walk_rows(Database(opener, opener.mastodon.schema()), CARDS, page_rows=10)


def ids(pages: list[RowPage]) -> list[object]:
    return [row["id"] for page in pages for row in page.rows]


# --- nobody is disturbed -------------------------------------------------------------------------------------------


def test_every_page_is_one_read_only_message_and_leaves_nothing_in_the_session(
    hundred: MastodonDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What pgbouncer asks for in transaction mode."""
    messages: list[str] = []
    execute = ReadingCursor.execute

    def listened(cursor: ReadingCursor, query: sql.Composable, parameters: Any = None) -> None:
        execute(cursor, query, parameters)
        assert cursor.query is not None
        assert cursor.name is None  # a named one is a server-side cursor
        messages.append(cursor.query.decode())

    def session(connection: Connection) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT name, setting FROM pg_settings"
                " UNION ALL SELECT 'cursor', name FROM pg_cursors"
                " UNION ALL SELECT 'prepared', name FROM pg_prepared_statements"
                " UNION ALL SELECT 'lock', mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'"
                " UNION ALL SELECT 'temporary', relname FROM pg_class WHERE relpersistence = 't'"
            )
            return cursor.fetchall()

    opener = Opener(hundred)
    with contextlib.closing(opener()) as connection:
        connection.autocommit = True
        before = session(connection)
    pages = walk(opener)
    monkeypatch.setattr(ReadingCursor, "execute", listened)
    for number, _ in enumerate(pages, start=1):
        connection = opener.opened[-1]
        assert connection.info.transaction_status == TRANSACTION_STATUS_IDLE
        assert len(messages) == number
        connection.autocommit = True
        assert session(connection) == before
    for message in messages:
        assert message.startswith(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY; SET LOCAL search_path TO DEFAULT; "
        )
        assert "SET LOCAL row_security TO off; SET LOCAL TimeZone TO 'UTC'; " in message
        assert "SET LOCAL statement_timeout TO 30000; SET LOCAL application_name TO 'mastosync'; " in message
        *settings, query = (part.strip() for part in message.split(";"))
        assert query.startswith("WITH scanned")
        assert all(setting.startswith(("SET LOCAL ", "SET TRANSACTION ")) for setting in settings)
    assert len(opener.opened) == 2


def test_pages_are_the_same_when_each_comes_from_another_session(hundred: MastodonDatabase) -> None:
    """As behind a pooler in transaction mode; here because every session ends after one page."""
    opener = Opener(hundred)
    pages = []
    for page in walk(opener):
        pages.append(page)
        hundred.terminate_others()
    assert pages == list(walk(Opener(hundred)))
    assert ids(pages) == list(range(1, 101))
    assert opener.calls == len(pages) + 1 == 11  # the last one finds the end


def test_what_others_left_in_a_poolers_session_does_not_matter(hundred: MastodonDatabase) -> None:
    """pg_dump through pgbouncer leaves an empty search path behind."""

    def poisoned() -> Connection:
        connection = hundred.connect()
        connection.autocommit = True  # a COMMIT of its own would be under the time-out too
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('search_path', '', false); SET timezone = 'Asia/Tokyo'; SET statement_timeout = 1"
            )
        connection.autocommit = False
        return connection

    with contextlib.closing(poisoned()) as connection:
        assert database_now(connection).tzinfo is not None
    assert ids(list(walk_rows(Database.open(poisoned), CARDS))) == list(range(1, 101))
    (boundary,) = id_boundaries(poisoned, "preview_cards", after=None, rows_per_range=100)
    assert (boundary.ids.lo, boundary.ids.hi) == (1, 100)


@pytest.mark.parametrize("type_name", ["timestamp", "timestamptz"])
@pytest.mark.parametrize("text", ["0044-03-15 BC", "0001-01-01 00:00:00+14", "9999-12-31 23:59:59-12", "20000-01-01"])
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_a_time_that_python_does_not_have_is_the_nearest_one(
    mastodon: MastodonDatabase, type_name: str, text: str, zone: str
) -> None:
    opened = psycopg2.connect(mastodon.server.url, options=f"-c timezone={zone}")
    with contextlib.closing(opened) as connection, reading(connection) as cursor:
        cursor.execute(f"SELECT '{text}'::{type_name}, now()")
        ((found, now),) = cursor.fetchall()
    assert found.year in {1, 9999}
    assert now.utcoffset() == timedelta(0)
    hour = timedelta(hours=1)
    assert found - hour < found < found + hour


def test_a_time_limit_of_transactions_is_not_that_of_queries(hundred: MastodonDatabase) -> None:
    """PostgreSQL 17 ends the session then, and a page is no shorter the next time."""
    with contextlib.closing(psycopg2.connect(hundred.server.url, options="-c transaction_timeout=100ms")) as connection:
        for _ in range(2):
            with reading(connection) as cursor:
                cursor.execute("SELECT pg_sleep(0.3)")


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_reading_cannot_write_and_ends_after_an_error(hundred: MastodonDatabase, *, autocommit: bool) -> None:
    with contextlib.closing(hundred.connect()) as connection:
        connection.autocommit = autocommit
        with pytest.raises(errors.ReadOnlySqlTransaction), reading(connection) as cursor:
            cursor.execute("DELETE FROM preview_cards")
        assert connection.info.transaction_status == TRANSACTION_STATUS_IDLE
        with pytest.raises(errors.QueryCanceled), reading(connection, 10) as cursor:
            cursor.execute("SELECT pg_sleep(60)")
        assert connection.info.transaction_status == TRANSACTION_STATUS_IDLE
        with pytest.raises(KeyboardInterrupt), reading(connection):
            raise KeyboardInterrupt
        assert connection.info.transaction_status == TRANSACTION_STATUS_IDLE
    assert hundred.execute("SELECT count(*) FROM preview_cards") == [(100,)]


def test_a_walk_that_is_given_up_closes_its_connection(hundred: MastodonDatabase) -> None:
    opener = Opener(hundred)
    pages = walk(opener)
    next(pages)
    assert not opener.opened[0].closed
    pages.close()  # type: ignore[attr-defined]  # a generator
    assert opener.opened[0].closed
    list(walk(opener))
    assert opener.opened[1].closed


# --- what passes ---------------------------------------------------------------------------------------------------


def test_a_session_that_ends_in_the_middle_of_a_query_is_opened_again(hundred: MastodonDatabase) -> None:
    """And until then everybody can see in pg_stat_activity who it is that waits."""
    opener = Opener(hundred)
    pages = walk(opener)
    found = [next(pages)]
    with locked(hundred, "preview_cards") as release:
        walker = threading.Thread(target=lambda: found.extend(pages))
        walker.start()
        try:
            deadline = time.monotonic() + 30
            waiting: list[tuple[Any, ...]] = []
            while not waiting and time.monotonic() < deadline:
                waiting = hundred.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name = 'mastosync' AND wait_event_type = 'Lock'"
                )
            assert len(waiting) == 1
            opener.before = lambda _: release()
            hundred.execute("SELECT pg_terminate_backend(%s)", waiting[0][0])
        finally:
            walker.join(30)
    assert not walker.is_alive()
    assert ids(found) == list(range(1, 101))
    assert opener.calls == 2


def test_a_page_that_takes_too_long_is_repeated_by_halves(
    mastodon: MastodonDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_STATEMENT_TIMEOUT_MS", 1000)
    fill(mastodon, 1000)
    schema = mastodon.schema()
    with locked(mastodon, "preview_cards") as release:
        opener = Opener(mastodon, before=lambda number: release() if number == 3 else None)
        pages = walk_rows(Database(opener, schema), CARDS, page_rows=1000)
        sizes = [page.scanned for page in pages]
    assert sizes == [250] * 4
    assert opener.calls == 3


def test_halving_ends_at_a_hundred_rows(hundred: MastodonDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_STATEMENT_TIMEOUT_MS", 1000)
    schema = hundred.schema()
    with locked(hundred, "preview_cards") as release:
        opener = Opener(hundred, before=lambda number: release() if number == 2 else None)
        pages = walk_rows(Database(opener, schema), CARDS, page_rows=150)
        assert [page.scanned for page in pages] == [100]


# --- what does not pass --------------------------------------------------------------------------------------------


def _nobody(number: int) -> None:
    """Refuse every connection but the first one."""
    if number > 1:
        psycopg2.connect(host="127.0.0.1", port=free_port(), user="mastodon", password="secret word", dbname="mastodon")


def test_a_server_that_stays_away_ends_with_the_error_of_the_last_connection(hundred: MastodonDatabase) -> None:
    opener, said = Opener(hundred, before=_nobody), list[str]()
    pages = walk_rows(
        Database(Reconnecting(opener, at_once=True, warn=said.append), hundred.schema()), CARDS, page_rows=10
    )
    assert len(next(pages).rows) == 10
    hundred.terminate_others()
    with pytest.raises(psycopg2.OperationalError, match="Connection refused"):
        next(pages)
    assert opener.calls == 1 + 4
    (line,) = said
    assert "Connection refused" in line
    assert "tried again for up to 3 minutes" in line
    assert "secret word" not in line


def test_the_first_connection_is_waited_for_where_nobody_watches(hundred: MastodonDatabase) -> None:
    said = list[str]()
    opener = Opener(hundred, before=lambda number: _nobody(4 - min(number, 3)))
    connect = Reconnecting(opener, at_once=False, warn=said.append)
    assert ids(list(walk_rows(Database(connect, hundred.schema()), CARDS))) == list(range(1, 101))
    assert opener.calls == 3
    assert [line.partition(",")[0] for line in said[1:]] == ["the database answers again"]

    opener = Opener(hundred, before=lambda _: _nobody(2))
    with pytest.raises(psycopg2.OperationalError):
        next(walk_rows(Database(Reconnecting(opener, at_once=True, warn=said.append), hundred.schema()), CARDS))
    assert opener.calls == 1


def _refused(number: int) -> None:
    """Say of the first of two connections that no retry helps, and let the second one through."""
    if number == 1:
        raise ConnectionFailedError("password authentication failed", permanent=True)


def test_what_only_a_setting_can_mend_is_retried_once_the_settings_have_worked(hundred: MastodonDatabase) -> None:
    """A server that restarts, or a pooler before it, may refuse for a while what it has accepted before."""
    said = list[str]()
    opener = Opener(hundred, before=lambda number: _refused(number - 1))
    pages = walk_rows(
        Database(Reconnecting(opener, at_once=False, warn=said.append), hundred.schema()), CARDS, page_rows=10
    )
    assert len(next(pages).rows) == 10
    hundred.terminate_others()
    assert ids(list(pages)) == list(range(11, 101))
    assert opener.calls == 3
    assert len(said) == 2

    opener = Opener(hundred, before=_refused)
    with pytest.raises(ConnectionFailedError):
        Reconnecting(opener, at_once=False, warn=said.append)()
    assert opener.calls == 1


def test_a_server_that_answers_no_query_is_one_clear_error(hundred: MastodonDatabase) -> None:
    pages = walk(Opener(hundred, options={"options": "-c statement_timeout=1"}))
    with locked(hundred, "preview_cards"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "_STATEMENT_TIMEOUT_MS", 20)
        with pytest.raises(DatabaseReadError, match=r"failed 4 times in a row.*DATABASE_URL or DB_HOST"):
            next(pages)


def test_a_connection_that_was_not_used_for_long_is_opened_anew(
    hundred: MastodonDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends sessions that are idle, and the first query after that would fail."""
    monkeypatch.setattr(connections, "_IDLE_SECONDS", 0.0)
    opener = Opener(hundred)
    assert len(list(walk(opener))) == 10
    assert opener.calls == 11


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("SELECT nothing FROM preview_cards", NotMastodonError, 'column "nothing" does not exist'),
        ("SELECT 1 / 0", DatabaseReadError, "division by zero"),
        ("SELECT '\\x80'::bytea::text::int", DatabaseReadError, "invalid input syntax"),
    ],
)
def test_whatever_a_single_query_fails_for_is_said_in_a_sentence(
    hundred: MastodonDatabase, query: str, error: type[Exception], message: str
) -> None:
    with (
        contextlib.closing(hundred.connect()) as connection,
        pytest.raises(error, match=message),
        reading_once(connection) as cursor,
    ):
        cursor.execute(query)


def test_failures_in_a_row_are_counted_anew_after_every_page(
    hundred: MastodonDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_RETRY_DELAYS", (0.01,))
    opener = Opener(hundred)
    pages = []
    for page in walk(opener):
        pages.append(page)
        hundred.terminate_others()
    assert ids(pages) == list(range(1, 101))


def test_the_first_connection_is_not_tried_again_and_its_error_not_changed(hundred: MastodonDatabase) -> None:
    class NoTunnelError(Exception):
        """As the tunnel's."""

    def refuse(number: int) -> None:
        raise NoTunnelError(number)

    opener = Opener(hundred, before=refuse)
    with pytest.raises(NoTunnelError):
        next(walk(opener))
    assert opener.calls == 1


def test_a_table_that_stays_locked_is_one_clear_error(
    hundred: MastodonDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_STATEMENT_TIMEOUT_MS", 20)
    pages = walk(Opener(hundred))
    with locked(hundred, "preview_cards"), pytest.raises(DatabaseReadError, match="statement timeout"):
        next(pages)


def test_a_column_that_vanishes_is_named_at_once(own_hundred: MastodonDatabase) -> None:
    opener = Opener(own_hundred)
    pages = walk(opener)
    next(pages)
    own_hundred.execute("ALTER TABLE preview_cards DROP image_file_name")
    with pytest.raises(NotMastodonError, match=r'column "image_file_name" does not exist.*DATABASE_URL or DB_NAME'):
        next(pages)
    assert opener.calls == 1
    assert opener.opened[0].closed


def test_a_user_who_may_no_longer_read_gets_a_message_at_once(hundred: MastodonDatabase) -> None:
    hundred.execute("CREATE ROLE somebody LOGIN PASSWORD 'secret'; GRANT SELECT ON preview_cards TO somebody")
    try:
        opener = Opener(hundred, options={"user": "somebody", "password": "secret"})
        pages = walk(opener)
        next(pages)
        hundred.execute("REVOKE SELECT ON preview_cards FROM somebody")
        with pytest.raises(
            DatabaseReadError, match=r"permission denied for table preview_cards.*GRANT SELECT.*DB_USER"
        ):
            next(pages)
        assert opener.calls == 1
    finally:
        hundred.execute("DROP OWNED BY somebody; DROP ROLE somebody")


def test_an_error_that_does_not_pass_is_not_repeated(own_hundred: MastodonDatabase) -> None:
    own_hundred.execute(
        "ALTER TABLE preview_cards RENAME TO cards; CREATE VIEW preview_cards AS"
        " SELECT id, created_at, image_updated_at, image_file_name || 1 / (id - 15) AS image_file_name FROM cards"
    )
    opener = Opener(own_hundred)
    pages = walk(opener)
    next(pages)
    with pytest.raises(DatabaseReadError, match="division by zero"):
        next(pages)
    assert opener.calls == 1
