"""Ids and file names become keys as Ruby and Paperclip make them, and ranges of ids become ranges of keys."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mastosync_dagster.mastodon import TABLES, KeySpan, id_partition, key_spans, prefixed, split_name, stored_objects
from mastosync_dagster.mastodon.keys import earlier_id_partition, id_class, is_blank, may_change, pattern_of
from mastosync_dagster.mastodon.tables import BLANK

# A busy machine is no failure.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

WIDTHS = tuple(10**digits for digits in (8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18))
BIGINTS = st.integers(-(2**63), 2**63 - 1)
IDS = st.one_of(
    BIGINTS,
    st.integers(-200, 10**6),  # serial
    st.integers(104 * 10**15, 120 * 10**15),  # snowflakes of our days
    *(st.integers(width - 3, width + 3) for width in WIDTHS),
    *(st.integers(-width - 3, -width + 3) for width in WIDTHS),
)
# Every character that PostgreSQL can store, with many of those that the rules look at.
NAMES = st.text(
    st.one_of(
        st.sampled_from("..a b/\\%?\u00a0é語😀\U0010ffff"), st.characters(exclude_characters="\0", codec="utf-8")
    ),
    max_size=12,
)


def ruby_format(number: int, width: int) -> str:
    """Ruby's ``"%0<width>d" % number``: the sign counts as a place."""
    sign, digits = ("-", str(-number)) if number < 0 else ("", str(number))
    while len(sign) + len(digits) < width:
        digits = "0" + digits
    return sign + digits


def ruby_scan_three_digits(text: str) -> list[str]:
    r"""Ruby's ``text.scan(/\d{3}/)``."""
    found, run = [], ""
    for character in text:
        run = run + character if character in "0123456789" else ""
        if len(run) == 3:
            found.append(run)
            run = ""
    return found


def ruby_basename_and_extname(path: str) -> tuple[str, str]:
    """``File.basename(path, '.*')`` and ``File.extname(path)`` without its dot, one character at a time.

    After the C of Ruby's file.c: the last component, less its trailing slashes; dots at its beginning belong to the
    name; the last dot after them parts name and extension.
    """
    component = ""
    after_slash = False
    for character in path:
        if character == "/":
            after_slash = True
        else:
            component = character if after_slash else component + character
            after_slash = False
    if not component:
        return ("/", "") if path else ("", "")
    position = 0
    while position < len(component) and component[position] == ".":
        position += 1
    last_dot = None
    while position < len(component):
        if component[position] == ".":
            last_dot = position
        position += 1
    if last_dot is None:
        return component, ""
    return component[:last_dot], component[last_dot + 1 :]


@pytest.mark.parametrize(
    ("row_id", "partition"),
    [
        (0, "000/000/000"),
        (1, "000/000/001"),
        (999_999_999, "999/999/999"),
        (1_000_000_000, "001/000/000/000"),
        (1_234_567_890, "001/234/567/890"),
        (123_456_789_012, "123/456/789/012"),
        (1_234_567_890_123, "123/456/789/012"),  # 13 digits lose one
        (12_345_678_901_234, "123/456/789/012"),  # 14 lose two
        (123_456_789_012_345, "123/456/789/012/345"),
        (1_234_567_890_123_456, "123/456/789/012/345"),
        (12_345_678_901_234_567, "123/456/789/012/345"),
        (112_129_661_230_994_955, "112/129/661/230/994/955"),
        (1_121_296_612_309_949_550, "112/129/661/230/994/955"),
        (-99, "000/000"),  # the instance's own account
    ],
)
def test_an_id_becomes_folders_of_three_digits(row_id: int, partition: str) -> None:
    assert id_partition(row_id) == partition


@given(IDS)
@settings(UNHURRIED, max_examples=500)
def test_partitions_are_those_of_paperclip(row_id: int) -> None:
    width = 9 if row_id < 1_000_000_000 else 12
    assert id_partition(row_id) == "/".join(ruby_scan_three_digits(ruby_format(row_id, width)))


@given(IDS)
@settings(UNHURRIED, max_examples=500)
def test_the_earlier_partition_is_named_where_it_differs(row_id: int) -> None:
    earlier = "/".join(ruby_scan_three_digits(ruby_format(row_id, 9)))
    assert earlier_id_partition(row_id) == (None if earlier == id_partition(row_id) else earlier)


# What Ruby 3.1 answers.
RUBY = {
    "": ("", ""),
    "a.tar.gz": ("a.tar", "gz"),
    "a": ("a", ""),
    ".hidden": (".hidden", ""),
    ".hidden.png": (".hidden", "png"),
    "..png": ("..png", ""),
    "..a.png": ("..a", "png"),
    "x.": ("x", ""),
    ".": (".", ""),
    "..": ("..", ""),
    "...": ("...", ""),
    "a..": ("a.", ""),
    "a..b": ("a.", "b"),
    ".a.": (".a", ""),
    "a.b.": ("a.b", ""),
    "a. ": ("a", " "),
    " .png": (" ", "png"),
    ". .png": (". ", "png"),
    "a.\n": ("a", "\n"),
    "Mixed.JpEg": ("Mixed", "JpEg"),
    "日本.語": ("日本", "語"),
    "no-ext-😀": ("no-ext-😀", ""),
    "a/b.png": ("b", "png"),
    "a/..png": ("..png", ""),
    "a.b/": ("a", "b"),
    "x.y/z": ("z", ""),
    "/": ("/", ""),
    "//": ("/", ""),
}


@pytest.mark.parametrize("name", RUBY)
def test_names_are_split_as_ruby_splits_them(name: str) -> None:
    assert split_name(name) == RUBY[name]
    assert ruby_basename_and_extname(name) == RUBY[name]


@given(NAMES)
@settings(UNHURRIED, max_examples=1000)
def test_every_name_is_split_as_rubys_c_code_splits_it(name: str) -> None:
    assert split_name(name) == ruby_basename_and_extname(name)


@pytest.mark.parametrize(
    ("text", "blank"),
    [("", True), (" \t\n\v\f\r", True), ("\u00a0\u3000\u2028\x85", True), ("\x1c", False), ("\u200b", False)]
    + [(" a ", False), ("\u180e", False)],
)
def test_blank_is_what_rails_calls_so(text: str, *, blank: bool) -> None:
    assert is_blank(text) is blank
    assert len(set(BLANK)) == len(BLANK) == 25  # as many as Ruby's [[:space:]] has


@pytest.mark.parametrize(
    ("key_prefix", "full"),
    [
        ("", "a/b"),
        ("media", "media/a/b"),
        ("media/", "media//a/b"),  # verbatim, as Mastodon does
        ("/media", "media/a/b"),
        ("//media", "/media/a/b"),
        ("deep/er", "deep/er/a/b"),
    ],
)
def test_the_key_prefix_stands_verbatim_less_one_leading_slash(key_prefix: str, full: str) -> None:
    assert prefixed(key_prefix, "a/b") == full
    assert prefixed(key_prefix, "") + "a/b" == full


@given(
    table=st.sampled_from(sorted(TABLES)),
    ids=st.tuples(IDS, IDS, IDS).map(sorted),
    names=st.tuples(NAMES, NAMES),
    content_type=st.sampled_from([None, "image/gif", "image/avif", "image/jpeg", "video/mp4", "audio/mpeg"]),
    remote=st.sampled_from([None, "", "there.example"]),
    version=st.sampled_from([None, 0, 1]),
    processing=st.sampled_from([None, 0, 2]),
    var=st.sampled_from(["thumbnail", "app_icon", "mascot"]),
)
@settings(UNHURRIED, max_examples=1000)
def test_every_key_and_candidate_of_a_row_lies_in_a_span_of_its_ids(
    table: str,
    ids: list[int],
    names: tuple[str, str],
    content_type: str | None,
    remote: str | None,
    version: int | None,
    processing: int | None,
    var: str,
) -> None:
    lo, row_id, hi = ids
    row: dict[str, object] = {"id": row_id, "remote_url": remote, "domain": remote, "var": var}
    row["processing"] = processing
    for attachment, name in zip(TABLES[table].attachments, names, strict=False):
        row[attachment.file_name_column] = name
        row[attachment.content_type_column] = content_type
        row[attachment.storage_schema_version_column] = version
    spans = [(span.start.encode(), span.end.encode()) for span in key_spans(table, lo, hi)]
    for stored in stored_objects(table, row):
        for key in (stored.key, *stored.candidates):
            assert any(start <= key.encode() < end for start, end in spans), key


@given(table=st.sampled_from(sorted(TABLES)), ids=st.tuples(IDS, IDS).map(sorted))
@settings(UNHURRIED, max_examples=500)
def test_spans_are_ordered_disjoint_and_one_for_each_prefix_where_ids_are_alike(table: str, ids: list[int]) -> None:
    spans = key_spans(table, *ids)
    prefixes = [span.prefix for span in spans]
    by_prefix = {prefix: [span for span in spans if span.prefix == prefix] for prefix in prefixes}
    roots = {f"{table}/{attachment.folder}/" for attachment in TABLES[table].attachments}
    kept_from_others = table in {"site_uploads", "backups", "imports", "preview_card_providers"}
    assert set(prefixes) == (roots if kept_from_others else roots | {f"cache/{root}" for root in roots})
    for prefix, same in by_prefix.items():
        for span in same:
            assert span.start.startswith(prefix)
            assert span.end.startswith(prefix)
            assert span.start < span.end
        assert all(one.end <= other.start for one, other in itertools.pairwise(same))
        if id_class(ids[0]) == id_class(ids[1]) and earlier_id_partition(ids[0]) is None:
            assert len(same) == 1


def test_the_spans_of_snowflakes_hold_nothing_of_other_ids() -> None:
    spans = key_spans("preview_cards", 112_129_661_230_994_955, 112_129_661_230_995_001)
    assert spans == tuple(
        KeySpan(prefix, f"{prefix}112/129/661/230/994/955/", f"{prefix}112/129/661/230/995/0010")
        for prefix in ("preview_cards/images/", "cache/preview_cards/images/")
    )


def test_the_spans_of_wide_serial_ids_include_the_partition_of_old() -> None:
    assert [(span.start, span.end) for span in key_spans("backups", 1_234_567_890, 1_234_567_899)] == [
        ("backups/dumps/001/234/567/890/", "backups/dumps/001/234/567/8990"),
        ("backups/dumps/123/456/789/", "backups/dumps/123/456/7890"),
    ]


def test_serial_ids_and_snowflakes_are_of_different_classes() -> None:
    edges = [-99, 0, 10**9, 10**12, 10**13, 10**14, 10**15, 10**16, 10**17, 10**18]
    assert [id_class(edge) for edge in edges] == sorted({id_class(edge) for edge in edges})
    assert id_class(1) == id_class(999_999_999) != id_class(112_129_661_230_994_955)


@pytest.mark.parametrize(("table", "lo", "hi"), [("statuses", 1, 2), ("accounts", 2, 1)])
def test_spans_of_an_unknown_table_or_a_reversed_range_are_refused(table: str, lo: int, hi: int) -> None:
    with pytest.raises(ValueError, match=table if table == "statuses" else "2 to 1"):
        key_spans(table, lo, hi)


@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        ("media_attachments/files/109/001/002/original/a.png", "media_attachments/files/109/*/original/*.png"),
        ("cache/media_attachments/files/112/003/small/a.PNG", "cache/media_attachments/files/112/*/small/*.PNG"),
        ("cache/accounts/avatars/000/000/001/static/a", "cache/accounts/avatars/000/*/static/*"),
        ("backups/dumps/000/000/007/original/a.tar.gz", "backups/dumps/000/*/original/*.gz"),
    ],
)
def test_the_pattern_of_a_key_has_what_a_policy_would_name(key: str, pattern: str) -> None:
    assert pattern_of(key) == pattern


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("media_attachments/files/112/000/original/0123456789abcdef.png", False),
        ("cache/accounts/avatars/112/000/static/0123456789abcdef.webp", False),
        ("backups/dumps/000/001/original/archive-20240102030405-0123456789abcdef0123456789abcdef.zip", False),
        # Converted under its name, or maybe so.
        ("media_attachments/files/112/000/original/0123456789abcdef.mp4", True),
        ("media_attachments/files/112/000/original/0123456789abcdef.mp3", True),
        ("media_attachments/files/112/000/original/0123456789abcdef", True),
        # tootctl emojis import --overwrite, and files of early versions.
        ("custom_emojis/images/000/001/original/blobcat.png", True),
        ("media_attachments/files/000/001/original/cafe.png", True),
        ("media_attachments/files/000/001/original/my-0123456789abcde.png", True),
    ],
)
def test_whether_a_key_may_get_another_content(key: str, *, changes: bool) -> None:
    assert may_change(key) is changes
