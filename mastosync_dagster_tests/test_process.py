"""What a process does about memory loses no signal."""

from __future__ import annotations

import gc
import signal

import pytest

from mastosync_dagster.process import collect_young, collecting_by_hand


class _Garbage:
    """Has a signal arrive while it is finalized, as Ctrl-C may."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_that_comes_while_garbage_is_collected_is_not_lost() -> None:
    gc.collect()
    with collecting_by_hand():
        _Garbage()
        with pytest.raises(KeyboardInterrupt):
            collect_young()
