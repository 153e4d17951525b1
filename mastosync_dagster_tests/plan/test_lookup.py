"""How key ranges are cut into pages that are listed at the same time."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mastosync_dagster.plan.lookup import split
from mastosync_dagster.s3.listing import KeyRange

PREFIX = "media/files/"
WHOLE = KeyRange(PREFIX, f"{PREFIX}000/", f"{PREFIX}9990")


def key(number: int) -> str:
    return f"{PREFIX}{number // 1000:03d}/{number % 1000:03d}/original/a.png"


@given(st.sets(st.integers(0, 20_000), max_size=200), st.integers(1, 40))
def test_pieces_cover_a_range_once_and_hold_a_page_each(numbers: set[int], spread: int) -> None:
    keys = [key(number + step) for number in numbers for step in range(spread)]
    pieces = split([WHOLE], keys)
    assert pieces[0].start == WHOLE.start
    assert pieces[-1].end == WHOLE.end
    for piece, following in pairwise(pieces):
        assert piece.end == following.start
        assert piece.end.endswith("/")
        assert piece.start < piece.end
    distinct = set(keys)
    for piece in pieces:
        assert piece.prefix == PREFIX
        assert sum(piece.start <= one < piece.end for one in distinct) <= 2000


def test_a_page_is_aimed_at_that_leaves_room_for_foreign_objects() -> None:
    pieces = split([WHOLE], [key(number) for number in range(5000)])
    held = [sum(piece.start <= key(number) < piece.end for number in range(5000)) for piece in pieces]
    assert sum(held) == 5000
    assert max(held) <= 900
    assert len(pieces) == 6


def test_ranges_without_keys_stay_whole_and_one_folder_is_not_cut() -> None:
    empty = KeyRange("cache/media/files/", "cache/media/files/000/", "cache/media/files/0000")
    assert split([empty, WHOLE], []) == [empty, WHOLE]
    folder = KeyRange(PREFIX, f"{PREFIX}000/", f"{PREFIX}0000")
    assert split([folder], [f"{PREFIX}000/{number:05d}" for number in range(5000)]) == [folder]
