"""ID ranges: their text form, their registration, and what is said of a wrong one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import dagster as dg
import psycopg2
import pytest

from mastosync_dagster.mastodon import IdRange
from mastosync_dagster.ranges.partitions import (
    FileType,
    InvalidRangeError,
    parse_range,
    range_key,
    register_ranges,
    registered_range,
    registered_ranges,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection as Connection

    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster.mastodon import Connect

ACCOUNTS = FileType.ACCOUNTS


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as opened:
        yield opened


@pytest.fixture
def connect(database: PostgresServer) -> Connect:
    with contextlib.closing(psycopg2.connect(database.url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE accounts (id bigint PRIMARY KEY)")
    return lambda: psycopg2.connect(database.url)


def insert(connect: Connect, *ids: int) -> None:
    with contextlib.closing(connect()) as connection, connection, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO accounts VALUES (%s)", [(number,) for number in ids])


@pytest.mark.parametrize(
    ("key", "lo", "hi"),
    [
        ("1-50000", 1, 50_000),
        ("-99-7", -99, 7),
        ("-99--1", -99, -1),
        ("7-7", 7, 7),
        ("110000000000000000-9223372036854775807", 110_000_000_000_000_000, 2**63 - 1),
    ],
)
def test_a_key_is_lowest_and_highest_id(key: str, lo: int, hi: int) -> None:
    assert parse_range(key) == IdRange(lo=lo, hi=hi)
    assert range_key(IdRange(lo=lo, hi=hi)) == key


@pytest.mark.parametrize(
    "key",
    ["", "1", "1-", "-", "a-b", "1-2-3", "1..5", "9-1", "1-9223372036854775808", "\uff11-\uff12", "1-50000\n", "1 - 5"],
)
def test_anything_else_is_refused_with_a_word_on_what_a_key_looks_like(key: str) -> None:
    with pytest.raises(InvalidRangeError, match="1-50000"):
        parse_range(key)


def test_ranges_cover_every_row_and_a_second_call_changes_nothing(
    instance: dg.DagsterInstance, connect: Connect
) -> None:
    insert(connect, -99, *range(1, 10), 112_000_000_000_000_001)
    new = register_ranges(instance, ACCOUNTS, connect, rows_per_partition=4)
    assert [range_key(ids) for ids in new] == ["-99-3", "4-7", "8-112000000000000001"]
    assert register_ranges(instance, ACCOUNTS, connect, rows_per_partition=4) == []
    assert registered_ranges(instance, ACCOUNTS) == new


def test_new_rows_become_ranges_behind_the_registered_ones(instance: dg.DagsterInstance, connect: Connect) -> None:
    insert(connect, *range(1, 6))
    first = register_ranges(instance, ACCOUNTS, connect, rows_per_partition=4)
    insert(connect, *range(6, 12))
    second = register_ranges(instance, ACCOUNTS, connect, rows_per_partition=4)
    assert [range_key(ids) for ids in first + second] == ["1-4", "5-5", "6-9", "10-11"]
    assert registered_ranges(instance, ACCOUNTS) == first + second


def test_a_partly_filled_range_can_be_left_to_the_tail(instance: dg.DagsterInstance, connect: Connect) -> None:
    insert(connect, *range(1, 8))
    new = register_ranges(instance, ACCOUNTS, connect, rows_per_partition=3, full_only=True)
    assert [range_key(ids) for ids in new] == ["1-3", "4-6"]


def test_a_walk_that_takes_long_is_ended_and_the_next_call_goes_on(
    instance: dg.DagsterInstance, connect: Connect
) -> None:
    insert(connect, *range(1, 8))
    found = [register_ranges(instance, ACCOUNTS, connect, rows_per_partition=3, seconds=0) for _ in range(3)]
    assert [[range_key(ids) for ids in new] for new in found] == [["1-3"], ["4-6"], ["7-7"]]


def test_two_who_register_at_the_same_time_leave_no_overlap(instance: dg.DagsterInstance, connect: Connect) -> None:
    insert(connect, *range(1, 11))
    theirs: list[IdRange] = []

    def connect_while_another_registers() -> Connection:
        theirs.extend(register_ranges(instance, ACCOUNTS, connect, rows_per_partition=3, full_only=True))
        return connect()

    ours = register_ranges(instance, ACCOUNTS, connect_while_another_registers, rows_per_partition=4)

    assert [range_key(ids) for ids in theirs] == ["1-3", "4-6", "7-9"]
    assert ours == []  # 1-4, 5-8, 9-10 would overlap
    assert registered_ranges(instance, ACCOUNTS) == theirs


def test_an_empty_table_has_no_ranges(instance: dg.DagsterInstance, connect: Connect) -> None:
    assert register_ranges(instance, ACCOUNTS, connect, rows_per_partition=3) == []


def test_a_key_that_is_not_registered_is_refused(instance: dg.DagsterInstance, connect: Connect) -> None:
    insert(connect, 1)
    register_ranges(instance, ACCOUNTS, connect, rows_per_partition=3)
    assert registered_range(instance, ACCOUNTS, "1-1") == IdRange(1, 1)
    with pytest.raises(InvalidRangeError, match="mastosync ranges --all accounts"):
        registered_range(instance, ACCOUNTS, "1-2")


def test_a_key_that_somebody_typed_in_the_ui_does_not_stop_registration(
    instance: dg.DagsterInstance, connect: Connect
) -> None:
    instance.add_dynamic_partitions(ACCOUNTS.partitions_name, ["everything", "9-6", f"1-{2**63}"])
    insert(connect, 1)
    assert register_ranges(instance, ACCOUNTS, connect, rows_per_partition=3) == [IdRange(1, 1)]
