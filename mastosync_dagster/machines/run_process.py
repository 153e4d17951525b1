"""The process that executes one run for a worker: ``python -m mastosync_dagster.machines.run_process RUN SECONDS``.

A worker that is gone, stands still or is cut off has lost its run to another one. So this process ends when it does not
hear from its worker for so many seconds, fewer than a lease lasts: a line on its standard input is due every few
seconds, each time that broker or history has confirmed the run. It then ends at once, as the whole machine would.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def begin_watch(descriptor: int, seconds: float) -> None:
    """Have this process killed when the worker has closed a pipe, or has not written into it for too long."""
    # Whoever started the worker may have ignored or blocked the signal, which every thread would inherit.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    threading.Thread(target=_watch, args=(descriptor, seconds), daemon=True).start()


def _watch(descriptor: int, seconds: float) -> None:
    # The kernel's timer runs while this process stands still, and its signal, which nobody handles, then ends it before
    # any thread goes on: a request that was about to be sent belongs to the run's next process by now.
    while True:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        if not os.read(descriptor, 4096):
            os.kill(os.getpid(), signal.SIGKILL)


def main(run_id: str) -> None:
    """Execute a run that the history knows."""
    # Imported after the watch has begun: it takes seconds.
    from dagster._cli.api import _execute_run_command_body  # noqa: PLC0415  (see above)
    from dagster._core.instance import DagsterInstance  # noqa: PLC0415  (see above)
    from dagster._utils.interrupts import capture_interrupts  # noqa: PLC0415  (see above)

    with capture_interrupts(), DagsterInstance.get() as instance:
        _execute_run_command_body(run_id, instance, lambda _: None, set_exit_code_on_failure=False)


if __name__ == "__main__":
    begin_watch(sys.stdin.fileno(), float(sys.argv[2]))
    main(sys.argv[1])
