"""Signals and work: what they do not interrupt, and the end of a terminal that ends a run in good order."""

from __future__ import annotations

import contextlib
import importlib
import signal
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        except RuntimeError:
            raise
        except BaseException as error:  # noqa: BLE001  (for the caller to raise)
            on_interrupt(error)
    if errors:
        raise errors[0]
    return results[0]


def load_shielded(module: str) -> None:
    """Import a module, in spite of signals, and only then raise what the first one has raised.

    An import is full of places where Python drops such an exception, or turns it into another one: callbacks of weak
    references, the compiler, ``__set_name__``. An import that follows finds the module loaded.
    """
    interrupts: list[BaseException] = []
    run_shielded(lambda: importlib.import_module(module), interrupts.append)
    if interrupts:
        raise interrupts[0]


@contextlib.contextmanager
def hangup_terminates() -> Iterator[None]:
    """Let SIGHUP, which comes when an SSH session ends, do within the block what SIGTERM does.

    By default it kills: no manifest, and no end in the history. Where it is ignored (``nohup``) it stays ignored.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
