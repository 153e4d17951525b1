"""Requests to a secret URL: in time, nowhere else than there, and the URL in no error."""

from __future__ import annotations

import http.client
import re
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mastosync_dagster.environment import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PAUSE_SECONDS = 2.0
_TIMEOUT_SECONDS = 10.0
_ALL_SECONDS = 25.0
"""For all attempts together: Dagster ends a tick, which may ping and deliver, after a minute, and the C library looks a
name up for longer."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: urllib would repeat the POST as a GET without the message, and call that delivered."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Refuse: the redirect becomes an HTTPError."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def check_url(url: str, name: str) -> None:
    """Raise a `SettingsError` where the variable ``name`` has no URL that can be asked."""
    # The HTTP library would quote an odd URL in its own error, and the URL is a secret.
    try:
        known = _URL.fullmatch(url) is not None and bool(urlsplit(url).hostname)
    except ValueError:
        known = False
    if not known:
        raise SettingsError(f"{name} must be an http:// or https:// URL, in printable ASCII without spaces.")


def post(
    url: str, name: str, body: bytes, content_type: str, *, attempts: int = 3, seconds: float | None = None
) -> str | None:
    """Post to the URL of the variable ``name`` until it is taken. Returns why it was not; None: it was.

    ``seconds``: how long that may take; None: as long as a tick allows.
    """
    check_url(url, name)
    headers = {"Content-Type": content_type}
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310  (the scheme is one of two)
    return all_in_time([lambda: _post(request, name, attempts)], seconds)[0]


def all_in_time(works: Sequence[Callable[[], str | None]], seconds: float | None = None) -> list[str | None]:
    """Do some pieces of work at the same time. Returns what each returns, a sentence where it does not end in time."""
    limit = _ALL_SECONDS if seconds is None else seconds
    late = f"it did not answer within {limit:.0f} s. Can its name be resolved?"
    results: list[str | None] = [late] * len(works)

    def run(number: int) -> None:
        try:
            results[number] = works[number]()
        except Exception as error:  # noqa: BLE001  (an alert fails no run, and the error's text may quote the URL)
            results[number] = f"it failed ({type(error).__name__})"

    # In threads, which are left alone where they do not end: nothing can interrupt the look-up of a name.
    threads = [threading.Thread(target=run, args=(number,), name="alert", daemon=True) for number in range(len(works))]
    deadline = time.monotonic() + limit
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(results)


def pause() -> None:
    """Wait between two attempts."""
    time.sleep(_PAUSE_SECONDS)


def _post(request: urllib.request.Request, name: str, attempts: int) -> str | None:
    why = None
    for attempt in range(1, attempts + 1):
        try:
            with _OPENER.open(request, timeout=_TIMEOUT_SECONDS):
                return None
        except urllib.error.HTTPError as error:
            error.close()
            why = f"it answers {error.code}"
            if error.code in _REDIRECTS:
                why = f"it redirects ({error.code}): set {name} to the address that it redirects to"
                break  # it may have taken the message, and would answer the same again
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = f"it cannot be reached ({type(error).__name__})"
        if attempt < attempts:
            pause()
    return why
