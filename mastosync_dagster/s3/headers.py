"""An object's header fields and its user metadata: two things, whatever they are named."""

from __future__ import annotations

from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

STORAGE_CLASS = "x-amz-storage-class"
CONTENT_ENCODING = "Content-Encoding"

_KEPT_NAMES = ("Content-Type", "Cache-Control", "Content-Disposition", CONTENT_ENCODING, "Content-Language", "Expires")
_KEPT = {name.lower(): name for name in _KEPT_NAMES}
_METADATA = "x-amz-meta-"
_TRANSPORT = "aws-chunked"


class Attributes(NamedTuple):
    """What belongs to an object beside its body.

    Attributes:
        headers: Header fields, under HTTP's names (``Content-Type``).
        metadata: User metadata, without ``x-amz-meta-``, under names in lower case.
    """

    headers: Mapping[str, str]
    metadata: Mapping[str, str]

    def by_header(self) -> dict[str, str]:
        """Return both under the names that they have in a request."""
        return {**self.headers, **{_METADATA + name: value for name, value in self.metadata.items()}}

    def to_keep(self) -> Attributes:
        """Return what a copy takes over.

        ``aws-chunked`` says how a body was sent, not what it is: some servers store it with the object, and others
        refuse it.
        """
        headers = dict(self.headers)
        encoding = headers.pop(CONTENT_ENCODING, None)
        if encoding is not None:
            words = (word.strip() for word in encoding.split(","))
            encoding = ", ".join(word for word in words if word and word.lower() != _TRANSPORT)
        if encoding:
            headers[CONTENT_ENCODING] = encoding
        return Attributes(headers, self.metadata)

    @property
    def names_transport(self) -> bool:
        """Whether ``aws-chunked`` is stored with the object."""
        return _TRANSPORT in self.headers.get(CONTENT_ENCODING, "").lower()


def shown(headers: Mapping[str, str]) -> Attributes:
    """Return what belongs to an object, from the headers (in lower case) of an answer to a GET or HEAD."""
    return Attributes(
        {_KEPT[name]: value for name, value in headers.items() if name in _KEPT},
        {name[len(_METADATA) :]: value for name, value in headers.items() if name.startswith(_METADATA)},
    )


def length_of(headers: Mapping[str, str]) -> int | None:
    """Return the bytes that an answer announces (``Content-Length``); None: none that can be read.

    A proxy that rewrites bodies takes the header away, and one that merges headers makes ``5, 5`` of two (RFC 9110,
    section 8.6).
    """
    announced = {word.strip() for word in headers.get("content-length", "").split(",")}
    length = announced.pop()
    return int(length) if not announced and length.isascii() and length.isdecimal() else None


def http_date(text: str | None) -> datetime | None:
    """Parse a header's date, which is in UTC where it names no zone; None where it is none."""
    try:
        return None if text is None else in_utc(parsedate_to_datetime(text))
    except (TypeError, ValueError, OverflowError):
        return None


def in_utc(time: datetime) -> datetime:
    """Return a time in UTC, which one without a zone is already. Raises OverflowError beyond the year 9999."""
    if time.tzinfo is timezone.utc:  # as of every key in a listing
        return time
    return time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time.astimezone(timezone.utc)
