"""Signs requests with Signature Version 4 (Amazon's "Authenticating requests", SigV4 for S3)."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

UNSIGNED = "UNSIGNED-PAYLOAD"
"""Stands for the body's SHA-256: bodies are proven by Content-MD5 and by their ETags."""

_SPACES = re.compile(r" {2,}")
_UNRESERVED = "-_.~"


class Credentials(NamedTuple):
    """What a request is signed with; permanent credentials have no token."""

    access_key_id: str
    secret_access_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.access_key_id!r})"


def quoted_path(path: str) -> str:
    """Return a path as it stands in a URL and in the signature: slashes stay, whatever lies between them."""
    return quote(path, safe="/" + _UNRESERVED, errors="surrogateescape")


def quoted_query(arguments: Iterable[tuple[str, str]]) -> str:
    """Return a query as it stands in a URL and in the signature: sorted, with ``=`` behind every name."""
    return "&".join(
        f"{quote(name, safe=_UNRESERVED)}={quote(value, safe=_UNRESERVED, errors='surrogateescape')}"
        for name, value in sorted(arguments)
    )


class Signer:
    """Signs requests to one region, with credentials that are asked for each time: temporary ones are renewed.

    The signing key of a day is computed once.
    """

    def __init__(self, region: str, credentials: Callable[[], Credentials]) -> None:
        self._region = region
        self._credentials = credentials
        self._second = 0
        self._timestamp = ""
        self._key: tuple[str, str, bytes] = ("", "", b"")

    def sign(
        self, method: str, host: str, path: str, query: str, headers: Iterable[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """Return the headers that sign a request.

        Args:
            method: ``GET``, …
            host: The Host header: with the port where it is not the scheme's own.
            path: Quoted; see `quoted_path`.
            query: Quoted; see `quoted_query`.
            headers: Further headers to sign. Names in lower case.
        """
        access_key_id, secret, token = self._credentials()
        second = int(time.time())
        if second != self._second:
            self._timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
            self._second = second
        timestamp = self._timestamp
        added = [("x-amz-content-sha256", UNSIGNED), ("x-amz-date", timestamp)]
        if token:
            added.append(("x-amz-security-token", token))
        signed = sorted([("host", host), *added, *headers])
        names = ";".join([name for name, _ in signed])
        lines = "".join([f"{name}:{_canonical(value)}\n" for name, value in signed])
        request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{UNSIGNED}"
        digest = hashlib.sha256(request.encode("utf-8", "surrogateescape")).hexdigest()
        scope = f"{timestamp[:8]}/{self._region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{digest}"
        signature = hmac.digest(self._signing_key(secret, timestamp[:8]), text.encode(), "sha256").hex()
        added.append(
            (
                "authorization",
                f"AWS4-HMAC-SHA256 Credential={access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}",
            )
        )
        return added

    def _signing_key(self, secret: str, day: str) -> bytes:
        if self._key[:2] != (secret, day):
            key = b"AWS4" + secret.encode()
            for word in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, word.encode(), "sha256")
            self._key = (secret, day, key)
        return self._key[2]


def _canonical(value: str) -> str:
    """Return a header's value as it is signed: runs of blanks count as one."""
    return _SPACES.sub(" ", value) if "  " in value else value
