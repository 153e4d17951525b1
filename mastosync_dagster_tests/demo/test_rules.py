"""Compares two independent descriptions of what Mastodon stores: the cases of generated rows, and the rules.

The rows come from the database, through the queries that every run uses.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING

import psycopg2
import pytest

from mastosync_dagster.demo.instance.load import build
from mastosync_dagster.mastodon import Database, Selection, key_spans, read_schema, stored_objects, walk_rows
from mastosync_dagster.ranges.file_types import FILE_TYPES
from mastosync_dagster_tests.support.instance_cases import ALL_CASES

if TYPE_CHECKING:
    from mastosync_dagster.demo.servers.start import PostgresServer
    from mastosync_dagster_tests.support.corners import Bucket


@pytest.mark.parametrize("page_rows", [7, 5000])
def test_the_rules_derive_from_the_database_the_objects_of_the_cases(
    database: PostgresServer, source_bucket: Bucket, page_rows: int
) -> None:
    with contextlib.closing(psycopg2.connect(database.url)) as connection:
        instance = build(connection, source_bucket.server, source_bucket.name, cases=ALL_CASES, rows=600)
        schema = read_schema(connection)
    found = {each.source_key: each for each in instance.objects}
    lost = {each.key: each for each in instance.missing}
    names = defaultdict(str, {(case[0], row_id): case[1] for case, ids in instance.cases.items() for row_id in ids})
    derived: set[str] = set()
    for table in FILE_TYPES:
        for page in walk_rows(
            Database(lambda: psycopg2.connect(database.url), schema), Selection(table=table), page_rows=page_rows
        ):
            spans = key_spans(table, page.lo, page.hi)
            for row in page.rows:
                name = f"{table}: {names[table, int(str(row['id']))]}"
                for stored in stored_objects(table, row):
                    keys = (stored.key, *stored.candidates)
                    assert all(any(span.start <= key < span.end for span in spans) for key in keys), name
                    there = next((key for key in keys if key in found), None)
                    if there is None:
                        assert stored.key in lost, name
                        assert stored.may_be_absent == lost[stored.key].harmless, name
                        assert row["private"] == lost[stored.key].private, name
                        derived.add(stored.key)
                    else:
                        expected = found[there]
                        assert (there if stored.unfinished else stored.key) == expected.key, name
                        assert row["private"] == expected.private, name
                        derived.add(there)
    assert derived == {*found, *lost}
