"""What everybody gets: requests without a signature, to a bucket's public address and to its endpoint."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin

from mastosync_dagster.errors import AdminError
from mastosync_dagster.s3.errors import is_busy_or_broken
from mastosync_dagster.s3.http import Failure, Http, Reply, Transport, TransportError
from mastosync_dagster.s3.loop import Loop

if TYPE_CHECKING:
    import threading
    from typing import Self

    from mastosync_dagster.cutover.media_host import PublicUrl
    from mastosync_dagster.s3.settings import StorageSettings

_HEADERS = (b"User-Agent: mastosync", b"Range: bytes=0-0", b"Accept-Encoding: identity")
_SILENCE = 30.0
_LIMIT = 64 * 1024
_LISTING_LIMIT = 8 * 2**20
"""Of a server that sends a whole page, though one key was asked for."""
_PAUSES = (0.2, 1.0, 3.0)
_OK = 200
_REDIRECTS = 5
_REDIRECTS_TO = frozenset({301, 302, 303, 307, 308})
_HOPELESS = frozenset(
    {Failure.NAME, Failure.PROXY, Failure.PROXY_PASSWORD, Failure.CERTIFICATE, Failure.CA_FILE, Failure.SETTINGS}
)
_READABLE = frozenset({200, 206, 416})
"""416: the object is empty."""


class PublicAddressError(AdminError):
    """A public address does not answer; the message names it."""


class PublicAnswer(NamedTuple):
    """What everybody gets of an object, at the end of all redirects.

    Attributes:
        content_type: None: there is none, or it is not known.
        redirect: Where the first redirect leads; None: there is none.
    """

    status: int
    content_type: str | None
    redirect: str | None = None

    @property
    def readable(self) -> bool:
        """Whether everybody can read it."""
        return self.status in _READABLE


class PublicReader:
    """Asks for objects at a public address. A context manager; thread-safe."""

    def __init__(self, url: PublicUrl, settings: StorageSettings) -> None:
        self._url = url
        self._loop = Loop("public")
        self._http = Http(self._loop, Transport(settings.verify, settings.ca_file, settings.connect_timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.close()

    def ask(self, key: str, halt: threading.Event | None = None) -> PublicAnswer:
        """Ask for the first byte of an object, by its full key. Redirects are followed, as every reader does.

        Raises:
            PublicAddressError: No answer comes, or none that says who may read the object (429, 5xx, redirects without
                end).
        """
        url, first = self._url.of(key), None
        for _ in range(_REDIRECTS):
            reply = self._get(url, halt)
            target = _redirect(url, reply)
            if target is None:
                return PublicAnswer(reply.status, reply.headers.get("content-type"), first)
            url, first = target, first or target
        raise PublicAddressError(
            f"{self._url} answers with {_REDIRECTS} redirects, one after the other: check the address"
        )

    def answers_to_anything(self) -> bool:
        """Return whether an object can be read that does not exist: then no answer says anything. Raises as `ask`."""
        return self.ask(f"media_attachments/files/{secrets.token_hex(8)}/original/no-such-object.png").readable

    def lists(self) -> bool:
        """Return whether everybody can list the bucket. Raises as `ask`."""
        reply = self._get(f"{self._url}/?list-type=2&max-keys=1", limit=_LISTING_LIMIT)
        return reply.status == _OK and b"<ListBucketResult" in reply.body

    def _get(self, url: str, halt: threading.Event | None = None, limit: int = _LIMIT) -> Reply:
        for pause in (*_PAUSES, None):
            try:
                reply = self._loop.run(self._http.request("GET", url, _HEADERS, silence=_SILENCE, limit=limit))
            except TransportError as error:
                # TOO_LARGE: the server sends all of it, though a byte was asked for.
                if error.failure is Failure.TOO_LARGE:
                    reply = Reply(error.status, {}, b"")
                else:
                    problem = PublicAddressError(f"{self._url} does not answer ({error}): check the address")
                    if pause is None or error.failure in _HOPELESS:
                        raise problem from error
                    reply = None
            if reply is not None:
                if not is_busy_or_broken(reply.status):
                    return reply
                if pause is None:
                    # Nobody may take this for a refusal: another time the object may be readable.
                    raise PublicAddressError(
                        f"{self._url} answers HTTP {reply.status}, which does not say who may read an object: look"
                        " whether it limits the rate of requests, or cannot reach the bucket, and check again"
                    )
            if halt is not None and halt.is_set():
                raise PublicAddressError("stopped")
            time.sleep(pause or 0)
        raise AssertionError  # the last pass returns or raises


def _redirect(url: str, reply: Reply) -> str | None:
    """Return where a redirect leads; None: it is none that a reader could follow."""
    location = reply.headers.get("location") if reply.status in _REDIRECTS_TO else None
    target = urljoin(url, location) if location else ""
    return target if target.startswith(("http://", "https://")) else None
