"""One item ahead, by a thread that ends with its block whatever ends the block."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest

from pipeline.errors import DataError
from pipeline.training.prefetch import Prefetch

PATIENCE = 20.0  # seconds for what must happen; a busy machine may take its time


class Made:
    """Items that are their own index, and what has been begun and ended so far."""

    def __init__(self, then: Callable[[int], object] = lambda index: None) -> None:
        self.begun, self.threads = [threading.Event() for _ in range(6)], set[threading.Thread]()
        self._then = then

    def __call__(self, index: int) -> int:
        self.threads.add(threading.current_thread())
        self.begun[index].set()
        self._then(index)
        return index

    @property
    def count(self) -> int:
        return sum(event.is_set() for event in self.begun)


def no_thread_is_left() -> bool:
    return not any(thread.name.startswith("prefetch") for thread in threading.enumerate())


def test_items_come_in_order_from_one_other_thread() -> None:
    made = Made()
    with Prefetch(made, range(6)) as items:
        assert list(items) == list(range(6))
    assert len(made.threads) == 1 and threading.main_thread() not in made.threads


def test_the_next_item_is_made_before_it_is_asked_for() -> None:
    made = Made()
    with Prefetch(made, range(6)) as items:
        assert made.begun[0].wait(PATIENCE)
        assert next(items) == 0 and made.begun[1].wait(PATIENCE)
        assert next(items) == 1 and made.begun[2].wait(PATIENCE)


def test_no_item_is_made_two_ahead() -> None:
    made = Made()
    with Prefetch(made, range(6)) as items:
        next(items)
        assert made.begun[1].wait(PATIENCE) and not made.begun[2].wait(0.1)


def test_what_breaks_an_item_is_raised_where_it_would_have_been_taken() -> None:
    def broken(index: int) -> None:
        if index == 2:
            raise DataError("scene_2: broken")

    with Prefetch(Made(broken), range(6)) as items:
        taken = [next(items), next(items)]
        with pytest.raises(DataError, match="scene_2: broken"):
            next(items)
    assert taken == [0, 1] and no_thread_is_left()


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, DataError])
def test_a_block_left_by_an_error_ends_the_thread_and_begins_nothing(error: type[BaseException]) -> None:
    def leave() -> None:
        with Prefetch(made, range(6)) as items:
            next(items)
            assert made.begun[1].wait(PATIENCE)
            raise error

    made = Made()
    with pytest.raises(error):
        leave()
    assert no_thread_is_left() and made.count == 2


def test_a_signal_that_comes_while_an_item_is_waited_for_ends_both() -> None:
    def interrupted(index: int) -> None:
        if index == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.05)  # the main thread is waiting for this item, or about to

    made = Made(interrupted)
    with pytest.raises(KeyboardInterrupt), Prefetch(made, range(6)) as items:
        list(items)
    assert no_thread_is_left() and made.count == 2
