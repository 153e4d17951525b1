"""Work that signals do not interrupt: results must be on record even if somebody terminates the run."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


def run_shielded(work: Callable[[], _Result], on_interrupt: Callable[[BaseException], None]) -> _Result:
    """Run ``work`` to its end in a thread of its own, wait for it, and return or raise what it does.

    Signal handlers raise in the main thread: they interrupt only the wait. Each such exception goes to
    ``on_interrupt``; then the wait goes on.
    """
    claimed, done = threading.Lock(), threading.Event()
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        # An interrupted `start` may have started a thread, so that two may get here.
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
