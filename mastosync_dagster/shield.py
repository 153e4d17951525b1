"""Work that signals do not end: what has been done must be on record, however impatient somebody is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


def run_shielded(work: Callable[[], _Result], on_interrupt: Callable[[BaseException], None]) -> _Result:
    """Do something in a thread of its own, to its end, and wait for it.

    Handlers of signals raise in the main thread, at every signal: they interrupt the wait here, and never the work.

    Args:
        work: What to do.
        on_interrupt: Hears of each interrupt; afterwards the wait goes on.

    Returns:
        What the work returns. What it raises is raised.
    """
    claimed, done = threading.Lock(), threading.Event()
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        # A start that was interrupted may have been one all the same.
        if not claimed.acquire(blocking=False):
            return
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  (raised again in the calling thread)
            errors.append(error)
        finally:
            done.set()

    while not done.is_set():
        try:
            if not claimed.locked():
                threading.Thread(target=run, name="run_shielded", daemon=True).start()
            done.wait()
        except RuntimeError:  # noqa: PERF203  (no thread can be started)
            raise
        except BaseException as error:  # noqa: BLE001  (for the caller to raise)
            on_interrupt(error)
    if errors:
        raise errors[0]
    return results[0]
