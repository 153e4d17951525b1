"""Coroutines on a loop of their own: they wait, are cancelled, fail alone, and survive neither a close nor a fork."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mastosync_dagster.s3.loop import Loop, ResourcesError, TaskCancelled

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Iterator[Loop]:
    running = Loop("test")
    yield running
    running.close()


def test_many_threads_wait_for_their_own_results(loop: Loop) -> None:
    async def double(number: int) -> int:
        await loop.sleep(0.001 * (number % 7))
        return 2 * number

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda number: loop.run(double(number)), range(300))) == [2 * n for n in range(300)]


def test_what_a_coroutine_raises_is_raised_where_it_is_waited_for(loop: Loop) -> None:
    async def fail() -> None:
        await loop.sleep(0)
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        loop.run(fail())


def test_sleepers_wake_in_the_order_of_their_times(loop: Loop) -> None:
    order: list[float] = []

    async def sleep(seconds: float) -> None:
        await loop.sleep(seconds)
        order.append(seconds)

    async def live() -> None:
        tasks = [loop.spawn(sleep(seconds)) for seconds in (0.03, 0.01, 0.02)]
        while not all(task.done for task in tasks):
            await loop.sleep(0.005)

    loop.run(live())
    assert order == [0.01, 0.02, 0.03]


def test_a_cancelled_coroutine_may_clean_up_and_is_not_woken_by_what_it_waited_for(loop: Loop) -> None:
    seen: list[str] = []

    async def wait() -> None:
        try:
            await loop.sleep(0.02)
            seen.append("slept")
        except TaskCancelled:
            seen.append("cancelled")
            await loop.sleep(0.05)
            seen.append("cleaned up")
            raise

    async def live() -> None:
        task = loop.spawn(wait())
        await loop.sleep(0.001)
        loop.cancel(task)
        while not task.done:
            await loop.sleep(0.005)

    loop.run(live())
    assert seen == ["cancelled", "cleaned up"]


def test_whoever_waits_is_released_when_the_loop_is_closed() -> None:
    loop = Loop("test")
    _, future = loop.submit(loop_forever(loop))
    time.sleep(0.05)
    loop.close()
    with pytest.raises(CancelledError):
        future.result(5)
    assert not any(thread.name == "test" for thread in threading.enumerate())


async def loop_forever(loop: Loop) -> None:
    while True:
        await loop.sleep(1)


def test_a_closed_loop_begins_again(loop: Loop) -> None:
    async def number() -> int:
        return 7

    assert loop.run(number()) == 7
    loop.close()
    assert loop.run(number()) == 7


def test_a_fault_ends_the_loop_and_reaches_whoever_waits() -> None:
    loop = Loop("test")
    _, waiting = loop.submit(loop_forever(loop))

    async def fail() -> None:
        raise KeyError("a fault")

    loop.call(lambda: loop.spawn(fail()))
    with pytest.raises(KeyError, match="a fault"):
        waiting.result(5)
    loop.close()
    assert isinstance(loop.fault, KeyError)


def test_a_system_that_gives_no_descriptors_is_named_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def number() -> int:
        return 7

    def nothing_left() -> object:
        raise OSError(errno.EMFILE, "too many open files")

    loop = Loop("test")
    with monkeypatch.context() as scarce:
        scarce.setattr(select, "epoll", nothing_left)
        with pytest.raises(ResourcesError, match="may open no more files"):
            loop.run(number())
    assert loop.run(number()) == 7
    loop.close()


def test_many_threads_get_an_answer_or_an_error_while_the_loop_is_closed_again_and_again() -> None:
    loop = Loop("test")

    async def number() -> int:
        await loop.sleep(0)
        return 7

    def ask(_: int) -> int:
        try:
            return loop.run(number())
        except CancelledError:
            return 7

    with ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(ask, turn) for turn in range(2000)]
        while not all(answer.done() for answer in answers):
            loop.close()
            time.sleep(0.001)
    assert {answer.result(5) for answer in answers} == {7}
    loop.close()


def test_a_coroutine_that_is_cancelled_before_its_first_line_does_what_it_does_at_its_end(loop: Loop) -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await loop.sleep(60)
        finally:
            ended.append("ended")

    async def live() -> None:
        loop.cancel(loop.spawn(wait()))
        await loop.sleep(0.01)

    loop.run(live())
    assert ended == ["ended"]


def test_a_forked_process_has_a_loop_of_its_own(loop: Loop) -> None:
    async def number() -> int:
        await loop.sleep(0.001)
        return 7

    assert loop.run(number()) == 7
    child = os.fork()
    if child == 0:
        os._exit(loop.run(number()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert loop.run(number()) == 7
