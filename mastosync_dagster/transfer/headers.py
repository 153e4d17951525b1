"""An object's header fields and its user metadata: two things, whatever they are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    import obstore

STORAGE_CLASS = "Storage-Class"
CONTENT_ENCODING = "Content-Encoding"

_OBSTORES = frozenset(
    {"Content-Type", "Cache-Control", "Content-Disposition", CONTENT_ENCODING, "Content-Language", STORAGE_CLASS}
)
"""Header fields that obstore knows, under the names by which it shows them. Metadata it shows in lower case."""
_TAKEN_FOR_HEADERS = frozenset(name.replace("-", "").lower() for name in _OBSTORES)
"""What obstore takes for one of these when it writes, with and without hyphens, in any case: metadata too."""
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

    def for_obstore(self) -> obstore.Attributes | None:
        """Return both as obstore takes them when it writes; None where it would take one for the other."""
        if not _OBSTORES.issuperset(self.headers):
            return None
        for name in self.metadata:
            if name.replace("-", "") in _TAKEN_FOR_HEADERS:
                return None
        return {**self.headers, **self.metadata}

    def to_keep(self) -> Attributes:
        """Return what a copy takes over.

        The storage class is each side's own business. ``aws-chunked`` says how a body was sent, not what it is: some
        servers store it with the object, and others refuse it.
        """
        headers = {name: value for name, value in self.headers.items() if name != STORAGE_CLASS}
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


def shown_by_obstore(attributes: obstore.Attributes) -> Attributes:
    """Return the header fields and the metadata that obstore has read together."""
    return Attributes(
        {name: value for name, value in attributes.items() if name in _OBSTORES},
        {name: value for name, value in attributes.items() if name not in _OBSTORES},
    )
