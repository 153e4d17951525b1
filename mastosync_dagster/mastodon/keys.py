"""How Mastodon's keys are made of ids and file names, and which ranges of keys hold a range of ids.

The whole keys of a row's files are those of `objects.stored_objects`.

The rules are those of Ruby and of the Paperclip gem: ``Paperclip::Interpolations#id_partition``, ``File.basename(name,
'.*')`` and ``File.extname(name)``.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass

from mastosync_dagster.mastodon.tables import BLANK, Remote, table_named

CACHE = "cache/"
"""Prefix of the keys of remote files, since 3.2 or since ``tootctl upgrade storage-schema``."""

_WIDE = 10**9
"""From this id on partitions have at least twelve digits."""

SNOWFLAKES = (10**17, 10**18)
"""Ids of 18 digits: those that Mastodon generates from 2018 to 2453."""

_three_digits = re.compile(r"[0-9]{3}").findall

_ONE_CONTENT = re.compile(r"(?:^|[/-])[0-9a-f]{16,}\.(?:png|jpe?g|gif|webp|avif|hei[cf]|zip|tar\.gz)$")
"""A random name of a file that Mastodon does not convert under it: no video, no sound."""

# Within each of these classes of ids all partitions have the same number of groups, and their order is the ids' order
# (for negative ids, the reverse), in today's format and in the one of 3.4 and before.
_CLASS_STARTS = (*(1 - 10**digits for digits in range(19, 7, -1)), 0, *(10**digits for digits in range(9, 19)))


def id_partition(row_id: int) -> str:
    """Return the folders of an id: ``112/129/661/230/994/955``, ``000/000/001``.

    Digits that fill no group of three are dropped, as Paperclip does: ids with 13, 14, 16, 17 or 19 digits lose some,
    and -99 gives ``000/000``.
    """
    if SNOWFLAKES[0] <= row_id < SNOWFLAKES[1]:  # the thousands separator splits 18 digits alike, three times faster
        return f"{row_id:,}".replace(",", "/")
    return "/".join(_three_digits(f"{row_id:09d}" if row_id < _WIDE else f"{row_id:012d}"))


def earlier_id_partition(row_id: int) -> str | None:
    """Return the folders of an id in Mastodon 3.4 and before; None if they are the same as today."""
    # From 12 digits on %09d and %012d give the same text.
    return "/".join(_three_digits(f"{row_id:09d}")) if _WIDE <= row_id < 10**11 else None


def split_name(name: str) -> tuple[str, str]:
    """Return a file name's basename and extension (without its dot), as Ruby sees them.

    ``a.tar.gz`` is ``a.tar`` and ``gz``; ``.hidden`` and ``..png`` have no extension; ``x.`` is ``x`` without one.
    """
    if "/" in name:  # no Mastodon writes such names; Ruby would take the last part
        name = name.rstrip("/").rpartition("/")[2] or "/"
    base, _, extension = name.rpartition(".")
    # Leading dots separate no extension.
    return (base, extension) if base.strip(".") else (name, "")


def pattern_of(key: str) -> str:
    """Return the pattern of the keys that are like a key: ``media_attachments/files/112/*/original/*.png``.

    It has what a bucket policy can name of many keys: the folder, the first digits of ids, the style and the extension.
    (There a ``*`` matches slashes too.)
    """
    *folders, name = key.split("/")
    above = 4 if key.startswith(CACHE) else 3
    extension = split_name(name)[1]
    return "/".join((*folders[:above], "*", *folders[above:][-1:], f"*.{extension}" if extension else "*"))


def may_change(key: str) -> bool:
    """Return whether Mastodon may write another content under a key that has one.

    It gives files random names (``app/models/concerns/attachmentable.rb``), so one name has one content. Not so the
    videos and sounds that it converts in place, and names that others have given: ``tootctl emojis import --overwrite``
    (``lib/mastodon/cli/emoji.rb``) keeps them.
    """
    return _ONE_CONTENT.search(key) is None


def is_blank(text: str) -> bool:
    """Return whether Ruby on Rails calls the text blank: empty, or white space only."""
    return not text.strip(BLANK)


def prefixed(key_prefix: str, key: str) -> str:
    """Return the full key of a key that is relative to ``S3_KEY_PREFIX``. An empty key gives the prefix of all keys.

    The prefix is followed by a slash (so ``media/`` gives two), and one leading slash of the result is dropped:
    Mastodon's ``config/initializers/paperclip.rb`` since 4.3, and Paperclip's S3 storage.
    """
    return f"{key_prefix}/{key}".removeprefix("/")


@dataclass(frozen=True, slots=True)
class KeySpan:
    """A range of keys in byte order, relative to the key prefix, from ``start`` up to, but without, ``end``.

    Every key of it, and ``start``, begins with ``prefix``, which ends with ``/``.
    """

    prefix: str
    start: str
    end: str


def id_class(row_id: int) -> int:
    """Return a number that is equal for ids whose partitions have equally many groups, and sort as the ids do.

    Only ids of one class have a narrow key span. Nearly all other keys of the table lie between 000/…, the last serial
    id, and 112/…, the first snowflake.
    """
    return bisect.bisect_right(_CLASS_STARTS, row_id)


def key_spans(table: str, lo: int, hi: int) -> tuple[KeySpan, ...]:
    """Return the key ranges of all keys and candidates of a table's rows with ids from ``lo`` to ``hi``, both included.

    They do not overlap, and come in byte order within each prefix. They may hold keys of other rows.
    """
    facts = table_named(table)
    if hi < lo:
        raise ValueError(f"ids from {lo} to {hi} are no range")
    partitions = _partition_spans(lo, hi)
    caches = ("",) if facts.remote is Remote.NEVER else ("", CACHE)
    prefixes = [f"{cache}{table}/{attachment.folder}/" for attachment in facts.attachments for cache in caches]
    return tuple(KeySpan(prefix, prefix + start, prefix + end) for prefix in prefixes for start, end in partitions)


def _partition_spans(lo: int, hi: int) -> list[tuple[str, str]]:
    """Return disjoint, sorted ranges of the part of keys after the attachment's folder, for ids lo to hi."""
    starts = [lo, *(start for start in _CLASS_STARTS if lo < start <= hi)]
    ends = [*(start - 1 for start in starts[1:]), hi]
    spans = []
    for first, last in zip(starts, ends, strict=True):
        for partition in (id_partition, earlier_id_partition):
            bounds = sorted(bound for bound in (partition(first), partition(last)) if bound is not None)
            if bounds:
                # "0" follows "/" in ASCII: every key below the last partition sorts before it.
                spans.append((bounds[0] + "/", bounds[-1] + "0"))
    spans.sort()
    disjoint = spans[:1]
    for start, end in spans[1:]:
        if start < disjoint[-1][1]:
            disjoint[-1] = (disjoint[-1][0], max(end, disjoint[-1][1]))
        else:
            disjoint.append((start, end))
    return disjoint
