"""Tables are walked by primary key, in pages of bounded work, and divided into ranges of equally many rows."""

from __future__ import annotations

import contextlib
import itertools
import random
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from psycopg2 import sql

from mastosync_dagster.mastodon import (
    TABLES,
    Database,
    DatabaseReadError,
    IdRange,
    NotMastodonError,
    PrivateRows,
    Rows,
    Selection,
    changed_objects,
    database_now,
    highest_id,
    id_boundaries,
    id_ranges,
    newest_row,
    stored_objects,
    walk_rows,
)
from mastosync_dagster.mastodon.connection import ReadingCursor
from mastosync_dagster_tests.mastodon.cases import Case, paperclip_cases
from mastosync_dagster_tests.mastodon.conftest import role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster_tests.mastodon.conftest import MastodonDatabase

BIGINT_MIN, BIGINT_MAX = -(2**63), 2**63 - 1
SNOWFLAKE = 112129661230994955


@dataclass
class Shipped:
    """Counts the rows that reached us."""

    rows: int = 0


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> Shipped:
    """The counter of what cursors fetch, at nought."""
    counter, fetchall = Shipped(), ReadingCursor.fetchall

    def counted(cursor: ReadingCursor) -> list[tuple[Any, ...]]:
        found = fetchall(cursor)
        counter.rows += len(found)
        return found

    monkeypatch.setattr(ReadingCursor, "fetchall", counted)
    return counter


def cards(mastodon: MastodonDatabase, ids: list[int], *, with_file: Callable[[int], bool] = lambda _: True) -> None:
    """Insert preview cards."""
    mastodon.execute(
        "INSERT INTO preview_cards (id, url, created_at, updated_at, image_file_name, image_updated_at)"
        " SELECT id, id::text, '2023-01-01', '2023-01-01', name, '2023-01-01'"
        " FROM unnest(%s::bigint[], %s::text[]) AS card (id, name)",
        ids,
        ["a.png" if with_file(row_id) else None for row_id in ids],
    )


# --- what is in the rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v3.5.0", "v4.2.0", "main"])
def test_walked_rows_give_the_keys_of_paperclip(
    database_of_version: Callable[[str], MastodonDatabase], version: str
) -> None:
    """Every row of every version, as far as this one has its columns; in a table of its own schema."""
    mastodon = database_of_version(version)
    schema = mastodon.schema()
    mastodon.execute("DROP INDEX IF EXISTS index_site_uploads_on_var")
    for table in TABLES:
        if not schema.has(table):
            continue
        cases: dict[Any, Case] = {
            case.row["id"]: case for case in paperclip_cases() if case.table == table and schema.has(table, *case.row)
        }
        assert cases
        mastodon.insert(table, *(case.row for case in cases.values()))
        rows = mastodon.rows(Selection(table), page_rows=4)
        assert [row["id"] for row in rows] == sorted(row_id for row_id, case in cases.items() if case.keys)
        for row in rows:
            objects = stored_objects(table, row)
            assert objects == stored_objects(table, cases[row["id"]].row)
            assert tuple(stored.key for stored in objects) == cases[row["id"]].keys


def test_a_version_without_thumbnails_is_walked_too(database_of_version: Callable[[str], MastodonDatabase]) -> None:
    mastodon = database_of_version("v3.5.0")
    mastodon.execute(
        "ALTER TABLE media_attachments DROP thumbnail_file_name, DROP thumbnail_updated_at, DROP processing,"
        " DROP file_storage_schema_version, DROP thumbnail_file_size"
    )
    mastodon.insert("media_attachments", {"id": 1, "file_file_name": "a.png"}, {"id": 2})
    since = datetime(2020, 1, 1, tzinfo=timezone.utc)
    assert mastodon.ids(Selection("media_attachments", changed_since=since)) == [1]


def test_rows_without_a_file_never_leave_the_database(mastodon: MastodonDatabase, shipped: Shipped) -> None:
    cards(mastodon, list(range(1, 1001)), with_file=lambda row_id: row_id == 700)
    for row_id, blank in enumerate(["", " ", "\t\n", "\u00a0\u3000\u2028"], start=2000):
        mastodon.insert("preview_cards", {"id": row_id, "image_file_name": blank})
    mastodon.insert("preview_cards", {"id": 2100, "image_file_name": "\x1c"})
    database = Database(lambda: psycopg2.connect(mastodon.server.url), mastodon.schema())
    shipped.rows = 0
    pages = list(
        walk_rows(
            database,
            Selection("preview_cards"),
            page_rows=100,
        )
    )
    assert [row["id"] for page in pages for row in page.rows] == [700, 2100]
    assert sum(page.scanned for page in pages) == 1005
    assert shipped.rows == len(pages) == 11  # one line a page, with or without a row in it


def test_a_thumbnail_alone_is_a_file(mastodon: MastodonDatabase) -> None:
    mastodon.insert("media_attachments", {"id": 1, "thumbnail_file_name": "t.png"}, {"id": 2, "file_file_name": " "})
    assert mastodon.ids(Selection("media_attachments")) == [1]


# --- the order and the pages ---------------------------------------------------------------------------------------


def test_all_ids_are_walked_in_order(mastodon: MastodonDatabase) -> None:
    ids = [BIGINT_MIN, -(10**12), -99, -1, 0, 1, 10**9 - 1, 10**9, 10**13, SNOWFLAKE, BIGINT_MAX - 1]
    cards(mastodon, random.Random(1).sample(ids, len(ids)))
    for page_rows in (1, 2, 3, 100):
        assert mastodon.ids(Selection("preview_cards"), page_rows=page_rows) == ids


def test_only_ids_of_the_range_are_walked(mastodon: MastodonDatabase) -> None:
    cards(mastodon, [-99, 1, 2, 3, 4, 5, SNOWFLAKE])
    assert mastodon.ids(Selection("preview_cards", IdRange(2, 4)), page_rows=2) == [2, 3, 4]
    assert mastodon.ids(Selection("preview_cards", IdRange(-99, 1))) == [-99, 1]
    assert mastodon.ids(Selection("preview_cards", IdRange(6, 1000))) == []


def test_a_page_holds_ids_of_one_form_and_says_where_they_lie(mastodon: MastodonDatabase) -> None:
    cards(mastodon, [-99, 1, 2, 3, 10**9, SNOWFLAKE, SNOWFLAKE + 1], with_file=lambda row_id: row_id != 2)
    pages = list(walk_rows(mastodon.database(), Selection("preview_cards")))
    assert [(page.lo, page.hi, page.scanned, len(page.rows)) for page in pages] == [
        (-99, -99, 1, 1),
        (1, 3, 2, 2),
        (10**9, 10**9, 1, 1),
        (SNOWFLAKE, SNOWFLAKE + 1, 3, 2),
    ]


def test_pages_without_a_file_show_how_far_the_walk_is(mastodon: MastodonDatabase) -> None:
    cards(mastodon, list(range(1, 11)), with_file=lambda row_id: row_id == 9)
    pages = list(walk_rows(mastodon.database(), Selection("preview_cards"), page_rows=4))
    assert [(page.lo, page.hi, page.scanned, len(page.rows)) for page in pages] == [
        (1, 4, 4, 0),
        (5, 8, 4, 0),
        (9, 9, 2, 1),
    ]


def test_an_empty_table_has_no_pages(mastodon: MastodonDatabase) -> None:
    assert list(walk_rows(mastodon.database(), Selection("preview_cards"))) == []


def _nodes(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [plan, *itertools.chain.from_iterable(_nodes(part) for part in plan.get("Plans", []))]


@pytest.mark.parametrize("analyzed", [True, False])
def test_a_query_reads_a_page_of_rows_whatever_is_in_them(
    own_mastodon: MastodonDatabase, monkeypatch: pytest.MonkeyPatch, *, analyzed: bool
) -> None:
    """PostgreSQL's own count of the rows that each step of the query read."""
    own_mastodon.execute(
        "INSERT INTO media_attachments (id, account_id, status_id, file_file_name, created_at, updated_at)"
        " SELECT i, i, i, CASE WHEN i % 50 = 0 THEN 'a.png' END, '2023-01-01', '2023-01-01'"
        " FROM generate_series(1, 20000) AS i; INSERT INTO statuses (id) SELECT generate_series(1, 20000)"
    )
    if analyzed:
        own_mastodon.execute("VACUUM ANALYZE media_attachments")
        own_mastodon.execute("VACUUM ANALYZE statuses")
    queries: list[str] = []
    execute = ReadingCursor.execute

    def listened(cursor: ReadingCursor, query: sql.Composable, parameters: Any = None) -> None:
        execute(cursor, query, parameters)
        assert cursor.query is not None
        queries.append(cursor.query.decode())

    monkeypatch.setattr(ReadingCursor, "execute", listened)
    since = datetime(2022, 1, 1, tzinfo=timezone.utc)
    pages = walk_rows(
        Database(lambda: psycopg2.connect(own_mastodon.server.url), own_mastodon.schema()),
        Selection("media_attachments", changed_since=since),
        page_rows=500,
    )
    assert sum(len(page.rows) for page in pages) == 400
    asked = [query for query in queries if "scanned" in query]
    assert len(asked) == 40 + 1
    for query in (asked[0], asked[20]):
        with contextlib.closing(own_mastodon.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(query.replace("WITH scanned", "EXPLAIN (ANALYZE, FORMAT JSON) WITH scanned"))
            ((explained,),) = cursor.fetchall()
        for node in _nodes(explained[0]["Plan"]):
            assert node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0) <= 500, node


# --- what has changed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "row", "column"),
    [
        ("media_attachments", {"file_file_name": "a.png"}, "file_updated_at"),
        ("media_attachments", {"file_file_name": "a.png"}, "thumbnail_updated_at"),
        ("media_attachments", {"file_file_name": "a.png"}, "created_at"),
        ("accounts", {"avatar_file_name": "a.png"}, "avatar_updated_at"),
        ("accounts", {"avatar_file_name": "a.png"}, "header_updated_at"),
        ("custom_emojis", {"image_file_name": "a.png"}, "image_updated_at"),
        ("preview_cards", {"image_file_name": "a.png"}, "image_updated_at"),
        ("backups", {"dump_file_name": "a.zip"}, "dump_updated_at"),
    ],
)
def test_a_row_has_changed_when_one_of_its_times_is_later(
    mastodon: MastodonDatabase, table: str, row: dict[str, object], column: str
) -> None:
    known = {name.replace("_file_name", "_updated_at"): "2019-01-01" for name in row if name.endswith("_file_name")}
    row = known | row
    mastodon.insert(
        table,
        row | {"id": 1, column: "2024-05-06 07:08:09.000001"},
        row | {"id": 2, column: "2024-05-06 07:08:09"},
        row | {"id": 3, column: "2019-01-01"},
        {"id": 4, column: "2024-05-07"},  # no file
    )
    mastodon.execute(sql.SQL("UPDATE {} SET updated_at = '2025-01-01'").format(sql.Identifier(table)))  # says nothing
    since = datetime(2024, 5, 6, 9, 8, 9, tzinfo=timezone(timedelta(hours=2)))
    assert mastodon.ids(Selection(table, changed_since=since)) == [1]


@pytest.mark.parametrize("with_zone", [False, True])
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_the_session_time_zone_changes_nothing(own_mastodon: MastodonDatabase, zone: str, *, with_zone: bool) -> None:
    if with_zone:
        for name in ("created_at", "updated_at", "image_updated_at"):
            own_mastodon.execute(
                f"ALTER TABLE preview_cards ALTER {name} TYPE timestamptz USING {name} AT TIME ZONE 'UTC'"
            )
    own_mastodon.insert(
        "preview_cards", {"id": 1, "image_file_name": "a", "image_updated_at": "2024-05-06 07:08:09+00"}
    )
    own_mastodon.execute(f"ALTER DATABASE \"{own_mastodon.server.database}\" SET timezone = '{zone}'")
    since, second = datetime(2024, 5, 6, 7, 8, 8, tzinfo=timezone.utc), timedelta(seconds=1)
    (row,) = own_mastodon.rows(Selection("preview_cards", changed_since=since))
    assert [changed.written for changed in changed_objects("preview_cards", row, since)] == [since + second]
    assert own_mastodon.ids(Selection("preview_cards", changed_since=since + second)) == []
    with contextlib.closing(own_mastodon.connect()) as connection:
        now = database_now(connection)
        assert newest_row(connection, own_mastodon.schema()) == datetime(2023, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    assert now.utcoffset() == timedelta(0)
    assert abs(now - datetime.now(timezone.utc)) < timedelta(minutes=1)


# --- limit and offset ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_rows", [1, 3, 10, 1000])
@pytest.mark.parametrize("changed", [True, False])
def test_limit_and_offset_count_rows_that_have_a_file(
    mastodon: MastodonDatabase, page_rows: int, *, changed: bool
) -> None:
    """Against Python's slices."""
    cards(mastodon, list(range(-5, 25)), with_file=lambda row_id: row_id % 3 != 0)
    mastodon.execute("UPDATE preview_cards SET image_updated_at = '2024-01-01' WHERE id % 2 = 0")
    since = datetime(2023, 6, 1, tzinfo=timezone.utc) if changed else None
    expected = [row_id for row_id in range(-5, 25) if row_id % 3 != 0 and (row_id % 2 == 0 or not changed)]
    database = mastodon.database()
    for offset, limit in itertools.product((0, 1, 4, 10, 100), (None, 0, 1, 2, 7, 100)):
        selection = Selection("preview_cards", changed_since=since, limit=limit, offset=offset)
        pages = walk_rows(database, selection, page_rows=page_rows)
        found = [row["id"] for page in pages for row in page.rows]
        assert found == expected[offset:][:limit], (offset, limit)


def test_rows_of_the_offset_stay_in_the_database(mastodon: MastodonDatabase, shipped: Shipped) -> None:
    cards(mastodon, list(range(1, 1001)))
    database = Database(lambda: psycopg2.connect(mastodon.server.url), mastodon.schema())
    shipped.rows = 0
    pages = walk_rows(
        database,
        Selection("preview_cards", offset=850, limit=20),
        page_rows=100,
    )
    assert [row["id"] for page in pages for row in page.rows] == list(range(851, 871))
    assert shipped.rows == 8 + 20


def test_nothing_is_read_beyond_the_limit(mastodon: MastodonDatabase) -> None:
    cards(mastodon, list(range(1, 101)))
    pages = list(walk_rows(mastodon.database(), Selection("preview_cards", limit=5), page_rows=10))
    assert [(page.lo, page.hi, len(page.rows)) for page in pages] == [(1, 5, 5)]


def test_a_time_without_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="2024-01-01T00:00:00 has no time zone"):
        Selection("accounts", changed_since=datetime(2024, 1, 1))  # noqa: DTZ001  (the point)


def test_ranges_pages_and_tables_that_make_no_sense_are_refused(mastodon: MastodonDatabase) -> None:
    with pytest.raises(ValueError, match="from 5 to 4"):
        IdRange(5, 4)
    with pytest.raises(ValueError, match="statuses"):
        Selection("statuses")
    with pytest.raises(ValueError, match="at least one row, not 0"):
        walk_rows(mastodon.database(), Selection("accounts"), page_rows=0)
    with pytest.raises(NotMastodonError, match="no table imports"):
        walk_rows(mastodon.database(), Selection("imports"))


# --- what is private -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "since",
    [
        {"suspended_at": "2024-01-01"},
        # Since 4.7 of accounts whose deletion was asked for: a migration empties the other column.
        {"requested_deletion_at": "2024-01-01"},
        {"suspended_at": "2024-01-01", "requested_deletion_at": "2024-01-01"},
    ],
    ids="+".join,
)
def test_media_of_suspended_accounts_and_removed_posts_are_private(
    mastodon: MastodonDatabase, since: dict[str, str]
) -> None:
    mastodon.execute("INSERT INTO statuses (id, deleted_at) VALUES (1, NULL), (2, '2024-01-01')")
    mastodon.insert("accounts", {"id": 1, "avatar_file_name": "a.png"})
    mastodon.insert("accounts", {"id": 2, "avatar_file_name": "a.png", **since})
    expected = {}
    for row_id, (account, status) in enumerate(itertools.product((None, 1, 2, 77), repeat=2)):
        mastodon.insert(
            "media_attachments",
            {"id": row_id, "account_id": account, "status_id": status, "file_file_name": "a.png"},
        )
        expected[row_id] = account == 2 or status == 2
    assert {row["id"]: row["private"] for row in mastodon.rows(Selection("media_attachments"))} == expected
    # Mastodon keeps the avatar of a suspended account public.
    assert [row["private"] for row in mastodon.rows(Selection("accounts"))] == [False, False]


def test_the_column_that_came_with_4_7_may_be_absent(own_mastodon: MastodonDatabase) -> None:
    own_mastodon.execute("ALTER TABLE accounts DROP requested_deletion_at")
    own_mastodon.execute("INSERT INTO statuses (id, deleted_at) VALUES (1, '2024-01-01')")
    own_mastodon.insert("accounts", {"id": 1, "suspended_at": "2024-01-01"})
    own_mastodon.insert("media_attachments", {"id": 1, "account_id": 1, "file_file_name": "a.png"})
    own_mastodon.insert("media_attachments", {"id": 2, "status_id": 1, "file_file_name": "a.png"})
    assert [row["private"] for row in own_mastodon.rows(Selection("media_attachments"))] == [True, True]


@pytest.mark.parametrize("table", ["media_attachments", "accounts", "statuses"])
def test_rows_that_a_policy_hides_since_the_tables_were_found_are_an_error(
    own_mastodon: MastodonDatabase, table: str
) -> None:
    """Else they were taken for deleted, and media of an account that is not shown for public."""
    own_mastodon.execute("INSERT INTO statuses (id, deleted_at) VALUES (1, '2024-01-01')")
    own_mastodon.insert("accounts", {"id": 1, "suspended_at": "2024-01-01"})
    own_mastodon.insert("media_attachments", {"id": 1, "account_id": 1, "status_id": 1, "file_file_name": "a.png"})
    with role(own_mastodon, "SELECT ON ALL TABLES IN SCHEMA public") as connection:
        dsn = connection.dsn

        def connect() -> Connection:
            return psycopg2.connect(dsn, password="secret word")

        database = Database.open(connect)
        assert [row["private"] for page in walk_rows(database, Selection("media_attachments")) for row in page.rows]
        own_mastodon.execute(
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; CREATE POLICY hides ON {table} USING (id > 1)"
        )
        for read in (
            lambda: list(walk_rows(database, Selection("media_attachments"))),
            lambda: PrivateRows(database, "media_attachments").among({1}),
            lambda: list(Rows(database, "media_attachments").of([1])),
        ):
            with pytest.raises(DatabaseReadError, match=f'row-level security.*"{table}".*BYPASSRLS') as error:
                read()
            assert "GRANT" not in str(error.value)


def test_backups_are_private_and_other_tables_are_not(mastodon: MastodonDatabase) -> None:
    for table, column in (("backups", "dump_file_name"), ("custom_emojis", "image_file_name")):
        mastodon.insert(table, {"id": 1, column: "a"})
        assert [row["private"] for row in mastodon.rows(Selection(table))] == [table == "backups"]


# --- ranges of ids -------------------------------------------------------------------------------------------------


def boundaries(mastodon: MastodonDatabase, rows_per_range: int, after: int | None = None) -> list[tuple[int, int, int]]:
    return [
        (boundary.ids.lo, boundary.ids.hi, boundary.rows)
        for boundary in id_boundaries(mastodon.connect, "preview_cards", after=after, rows_per_range=rows_per_range)
    ]


@pytest.mark.parametrize(
    ("ids", "rows_per_range", "after", "expected"),
    [
        ([], 2, None, []),
        ([], 2, 50, []),
        ([7], 2, None, [(7, 7, 1)]),
        ([-99, 1, 2, 3, 4], 2, None, [(-99, 1, 2), (2, 3, 2), (4, 4, 1)]),
        ([1, 2, 3, 4], 2, None, [(1, 2, 2), (3, 4, 2)]),
        ([1, 5, 9, SNOWFLAKE], 3, None, [(1, 9, 3), (10, SNOWFLAKE, 1)]),
        ([1, 2, 3, 4, 8, 9], 2, 2, [(3, 4, 2), (5, 9, 2)]),
        ([1, 2, 3], 2, 3, []),
        ([1, 2, 3], 2, 100, []),
        ([1, 2, BIGINT_MAX], 5, None, [(1, BIGINT_MAX, 3)]),
        ([1, 2, BIGINT_MAX], 3, 2, [(3, BIGINT_MAX, 1)]),
        ([1, 2, BIGINT_MAX], 3, BIGINT_MAX, []),
        ([BIGINT_MIN, -99], 1, None, [(BIGINT_MIN, BIGINT_MIN, 1), (BIGINT_MIN + 1, -99, 1)]),
    ],
)
def test_ranges_are_contiguous_and_hold_equally_many_rows(
    mastodon: MastodonDatabase,
    ids: list[int],
    rows_per_range: int,
    after: int | None,
    expected: list[tuple[int, int, int]],
) -> None:
    cards(mastodon, ids, with_file=lambda row_id: row_id % 2 == 0)  # files do not matter
    assert boundaries(mastodon, rows_per_range, after) == expected


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_ranges_are_the_same_whatever_a_query_may_count(
    mastodon: MastodonDatabase, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Against Python's slices of random ids."""
    monkeypatch.setattr(id_ranges, "_STEP_ROWS", step)
    ids = sorted(random.Random(step).sample(range(-100, 5000), 90))
    cards(mastodon, ids)
    for rows_per_range in (1, 10, 45, 89, 90, 91):
        chunks = [ids[start : start + rows_per_range] for start in range(0, 90, rows_per_range)]
        starts = [ids[0], *(chunk[-1] + 1 for chunk in chunks)]
        expected = [(start, chunk[-1], len(chunk)) for start, chunk in zip(starts, chunks, strict=False)]
        assert boundaries(mastodon, rows_per_range) == expected


def test_a_second_call_appends_what_is_new_and_nothing_else(mastodon: MastodonDatabase) -> None:
    cards(mastodon, list(range(1, 11)))
    first = boundaries(mastodon, 4)
    assert first == [(1, 4, 4), (5, 8, 4), (9, 10, 2)]
    assert boundaries(mastodon, 4, after=10) == []
    cards(mastodon, list(range(20, 26)))
    assert boundaries(mastodon, 4, after=10) == [(11, 23, 4), (24, 25, 2)]


def test_ranges_survive_the_loss_of_connections(mastodon: MastodonDatabase) -> None:
    cards(mastodon, list(range(1, 101)))
    found = []
    for boundary in id_boundaries(mastodon.connect, "preview_cards", after=None, rows_per_range=10):
        found.append(boundary.ids)
        mastodon.terminate_others()
    assert found == [IdRange(start, start + 9) for start in range(1, 100, 10)]


def test_ranges_of_a_table_that_is_absent_or_of_no_rows_are_refused(mastodon: MastodonDatabase) -> None:
    with pytest.raises(NotMastodonError, match=r'relation "imports" does not exist.*DATABASE_URL or DB_NAME'):
        list(id_boundaries(mastodon.connect, "imports", after=None, rows_per_range=5))
    with pytest.raises(ValueError, match="'statuses'"):
        id_boundaries(mastodon.connect, "statuses", after=None, rows_per_range=5)
    with pytest.raises(ValueError, match="at least one row, not 0"):
        id_boundaries(mastodon.connect, "accounts", after=None, rows_per_range=0)


def test_times_that_others_set_do_not_make_a_row_new(own_mastodon: MastodonDatabase) -> None:
    """A post of another server says when it was published, an account when it was created: in 2199, or an hour ago."""
    mastodon = own_mastodon
    mastodon.execute("ALTER TABLE statuses ADD created_at timestamp, ADD updated_at timestamp")
    written = "2023-06-01 00:00:00"
    for said in ("2199-01-01 00:00:00", "2024-01-01 00:00:00", "2009-01-01 00:00:00"):
        for table in ("statuses", "accounts"):
            mastodon.execute(f"DELETE FROM {table}")  # noqa: S608  (of a list)
            mastodon.insert(table, {"id": 1, "created_at": said, "updated_at": written})
        with contextlib.closing(mastodon.connect()) as connection:
            assert newest_row(connection, mastodon.schema()) == datetime(2023, 6, 1, tzinfo=timezone.utc)


def test_a_row_of_the_future_does_not_hide_those_before_it(mastodon: MastodonDatabase) -> None:
    with contextlib.closing(mastodon.connect()) as connection:
        future = {"created_at": "2199-01-01 00:00:00", "updated_at": "2199-01-01 00:00:00"}
        mastodon.insert("media_attachments", {"id": 7, **future})
        assert newest_row(connection, mastodon.schema()) is None
        mastodon.insert("media_attachments", {"id": 5, "updated_at": "2023-06-01 00:00:00"})
        assert newest_row(connection, mastodon.schema()) == datetime(2023, 6, 1, tzinfo=timezone.utc)


def test_the_newest_row_is_that_of_any_table(mastodon: MastodonDatabase) -> None:
    schema = mastodon.schema()
    with contextlib.closing(mastodon.connect()) as connection:
        assert newest_row(connection, schema) is None
        mastodon.insert("accounts", {"id": 1, "created_at": "2024-05-06 07:08:09"}, {"id": 2})
        mastodon.insert("custom_emojis", {"id": 5, "updated_at": "2023-06-01 00:00:00"}, {"id": 4})
        assert newest_row(connection, schema) == datetime(2023, 6, 1, tzinfo=timezone.utc)
        mastodon.insert("media_attachments", {"id": SNOWFLAKE, "created_at": "2024-02-01 00:00:01"}, {"id": 9})
        assert newest_row(connection, schema) == datetime(2024, 2, 1, 0, 0, 1, tzinfo=timezone.utc)
        highest = {table: highest_id(connection, schema, table) for table in ("media_attachments", "backups")}
        assert highest == {"media_attachments": SNOWFLAKE, "backups": None}
