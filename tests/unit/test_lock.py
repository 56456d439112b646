"""Turns on a board in memory: one at a time, the dead are passed over, and those passed over notice."""

import threading
import time

import pytest

from sweeps.errors import RegistryError
from sweeps.registry.lock import Lease


class Memory:
    """A board that is read and written at one moment each, by any thread."""

    def __init__(self):
        self.tags, self._lock, self.away = {}, threading.Lock(), False

    def read(self):
        return self._ask(lambda: dict(self.tags))

    def write(self, key, value):
        self._ask(lambda: self.tags.update({key: value}))

    def erase(self, key):
        self._ask(lambda: self.tags.pop(key, None))

    def _ask(self, call):
        if self.away:
            raise ConnectionError("away")
        time.sleep(0.0005)
        with self._lock:
            return call()


@pytest.fixture
def board():
    return Memory()


def lease(board, route="", seconds=60.0, clock=time.monotonic):
    return Lease(board, "mouse", route, "me@here", seconds=seconds, poll=0.002, clock=clock)


def test_twelve_at_once_go_one_by_one_and_all_of_them_go(board):
    inside, most, went = set(), [], []

    def go(number):
        for _ in range(5):
            with lease(board).held() as turn:
                inside.add(number)
                most.append(len(inside))
                time.sleep(0.001)
                turn.check()
                inside.discard(number)
            went.append(number)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (max(most), len(went), board.tags) == (1, 60, {})


def test_who_came_first_goes_first(board):
    order = []
    threads = []
    with lease(board).held():
        for number in range(4):
            threads.append(threading.Thread(target=lambda number=number: _enter(board, order, number)))
            threads[-1].start()
            while len(board.tags) < number + 2 or any(tag.startswith("0 ") for tag in board.tags.values()):
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3]


def _enter(board, order, number):
    with lease(board).held():
        order.append(number)


@pytest.mark.parametrize("left", ["7 3 - me@there", "0 0 - me@there"])
def test_a_lease_that_does_not_change_is_a_dead_ones_and_removed(board, left):
    board.tags = {"lease.dead": left, "sweep": "mine"}
    started = time.monotonic()
    with lease(board, seconds=0.2).held():
        assert time.monotonic() - started > 0.2
        assert "lease.dead" not in board.tags
    assert board.tags == {"sweep": "mine"}


def test_a_lease_that_is_kept_up_is_waited_for(board):
    with lease(board, seconds=0.2).held() as first:
        waiting = threading.Thread(target=lambda: _enter(board, [], 0))
        waiting.start()
        time.sleep(0.7)
        first.check()
        assert waiting.is_alive()
    waiting.join()


def test_under_the_stores_own_lock_a_lease_of_the_same_lock_is_a_dead_ones_at_once(board):
    board.tags = {"lease.dead": "7 3 postgresql me@there"}
    with lease(board, route="postgresql").held():
        assert len(board.tags) == 1
    assert board.tags == {}


def test_who_was_taken_for_dead_notices_before_it_writes(board):
    with lease(board).held() as turn:
        board.tags.clear()
        with pytest.raises(RegistryError) as lost:
            turn.check()
    assert str(lost.value) == (
        "mouse: expected to keep the turn to change it, got none any more: another process took this one for dead — "
        "run it again."
    )


def test_who_was_away_for_half_the_time_gives_up_though_nobody_has_noticed(board):
    now = [0.0]
    with lease(board, clock=lambda: now[0]).held() as turn:
        now[0] = 29.0
        turn.check()
        now[0] = 31.0
        with pytest.raises(RegistryError, match="this process was away for 31 s"):
            turn.check()


def test_a_store_that_is_away_for_a_moment_costs_no_turn(board):
    with lease(board, seconds=0.6).held() as turn:
        board.away = True
        time.sleep(0.15)
        board.away = False
        time.sleep(0.25)
        assert turn.check() is None
