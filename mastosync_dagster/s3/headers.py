"""An object's header fields and its user metadata: two things, whatever they are named."""

from __future__ import annotations

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
