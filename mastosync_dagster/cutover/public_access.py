"""What everybody gets: requests without a signature, to a bucket's public address and to its endpoint."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from mastosync_dagster.errors import AdminError
from mastosync_dagster.s3.errors import is_busy_or_broken
from mastosync_dagster.s3.http import Failure, Http, Transport, TransportError
from mastosync_dagster.s3.loop import Loop

if TYPE_CHECKING:
    import threading

    from typing_extensions import Self

    from mastosync_dagster.cutover.media_host import PublicUrl
    from mastosync_dagster.s3.settings import StorageSettings

_HEADERS = (b"User-Agent: mastosync", b"Range: bytes=0-0", b"Accept-Encoding: identity")
_SILENCE = 30.0
_LIMIT = 64 * 1024
_PAUSES = (0.2, 1.0, 3.0)
_READABLE = frozenset({200, 206, 416})
"""416: the object is empty."""


class PublicAddressError(AdminError):
    """A public address does not answer; the message names it."""


class PublicAnswer(NamedTuple):
    """What everybody gets of an object; ``content_type`` None: there is none, or it is not known."""

    status: int
    content_type: str | None

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
        """Ask for the first byte of an object, by its full key.

        Raises:
            PublicAddressError: No answer comes, or none that says who may read the object (429, 5xx).
        """
        for pause in (*_PAUSES, None):
            try:
                reply = self._loop.run(
                    self._http.request("GET", self._url.of(key), _HEADERS, silence=_SILENCE, limit=_LIMIT)
                )
            except TransportError as error:
                # TOO_LARGE: the server sends all of it, though a byte was asked for.
                if error.failure is not Failure.TOO_LARGE:
                    problem = PublicAddressError(f"{self._url} does not answer ({error}): check the address")
                    if pause is None or error.failure in {Failure.NAME, Failure.CERTIFICATE, Failure.SETTINGS}:
                        raise problem from error
                    answer = None
                else:
                    answer = PublicAnswer(error.status, None)
            else:
                answer = PublicAnswer(reply.status, reply.headers.get("content-type"))
            if answer is not None:
                if not is_busy_or_broken(answer.status):
                    return answer
                if pause is None:
                    # Nobody may take this for a refusal: another time the object may be readable.
                    raise PublicAddressError(
                        f"{self._url} answers HTTP {answer.status}, which does not say who may read an object: look"
                        " whether it limits the rate of requests, or cannot reach the bucket, and check again"
                    )
            if halt is not None and halt.is_set():
                raise PublicAddressError("stopped")
            time.sleep(pause or 0)
        raise AssertionError  # the last pass returns or raises
