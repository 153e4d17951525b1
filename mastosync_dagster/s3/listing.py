"""Ranges of keys, and answers in XML (listings, errors, uploads, ACLs).

Entities are not resolved: an answer comes from anybody's server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET


@dataclass(frozen=True, slots=True)
class KeyRange:
    """A contiguous range of keys in byte order, relative to the key prefix.

    Attributes:
        prefix: Every key starts with it; ends with ``/``.
        start: Inclusive lower bound, starts with ``prefix``.
        end: Exclusive upper bound.
    """

    prefix: str
    start: str
    end: str


class NotXmlError(ValueError):
    """An answer is not what S3 answers."""


class Entry(NamedTuple):
    """An object in a listing.

    Attributes:
        key: Full key.
        etag: As it came, quotes included; None: there is none.
        modified: ISO 8601, as it came; empty: there is none.
    """

    key: str
    size: int
    etag: str | None
    modified: str


class Page(NamedTuple):
    """One page of a listing.

    Attributes:
        folders: What lies behind a delimiter, up to it.
        token: Of the next page; None: there is none.
        truncated: Whether more follows.
        version: Of the listing: 1 where the server overlooked that the second one was wanted, `start-after` included.
    """

    entries: list[Entry]
    folders: list[str]
    token: str | None
    truncated: bool
    version: int


class Document(NamedTuple):
    """An answer in XML.

    Attributes:
        space: What stands before every tag: Amazon names a namespace, others another or none.
    """

    root: ET.Element
    space: str

    @property
    def tag(self) -> str:
        """The name of the outermost element."""
        return self.root.tag.removeprefix(self.space)

    def text(self, name: str, within: ET.Element | None = None) -> str | None:
        """Return the text of a child element, by default of the root; None where there is none."""
        found = (self.root if within is None else within).find(self.space + name)
        return None if found is None else found.text or ""

    def all(self, name: str) -> list[ET.Element]:
        """Return all elements of a name, at any depth."""
        return list(self.root.iter(self.space + name))


def parse(body: bytes) -> Document:
    """Parse an answer. Raises `NotXmlError` where it is no XML, or declares entities."""
    # Everybody sends UTF-8; in UTF-16 a declaration of entities would pass this look.
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body or b"\0" in body:
        raise NotXmlError("the answer is a page, not one of S3's")
    try:
        root = ET.fromstring(body)  # noqa: S314  (no entities get here, and expat itself limits what they may become)
    except (ET.ParseError, LookupError, ValueError) as error:
        raise NotXmlError(f"the answer is no XML ({error})") from error
    return Document(root, root.tag[: root.tag.rfind("}") + 1])


def parse_page(body: bytes) -> Page:
    """Parse one page of ListObjectsV2, or of ListObjects. Raises `NotXmlError` where it is none."""
    document = parse(body)
    if document.tag != "ListBucketResult":
        raise NotXmlError(f"the answer is a {document.tag}, not a listing")
    encoded = document.text("EncodingType") == "url"
    key_tag, size_tag, etag_tag, modified_tag = (
        document.space + name for name in ("Key", "Size", "ETag", "LastModified")
    )
    entries = []
    for element in document.root.iter(document.space + "Contents"):
        values = {child.tag: child.text or "" for child in element}
        try:
            key, size = values[key_tag], int(values[size_tag])
        except (KeyError, ValueError) as error:
            raise NotXmlError("the listing names an object without key or size") from error
        if encoded:
            key = unquote_plus(key, errors="surrogateescape")
        entries.append(Entry(key, size, values.get(etag_tag) or None, values.get(modified_tag, "")))
    token = document.text("NextContinuationToken") or None
    folders = [document.text("Prefix", element) or "" for element in document.all("CommonPrefixes")]
    if encoded:
        folders = [unquote_plus(name, errors="surrogateescape") for name in folders]
    truncated = document.text("IsTruncated") == "true"
    # In Amazon's API reference every page of the second version has a KeyCount, and a token where more follows.
    version = 1 if truncated and token is None and document.text("KeyCount") is None else 2
    return Page(entries, folders, token, truncated, version)
