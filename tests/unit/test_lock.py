"""The lock in tags, in memory: one holder at a time, dead ones are passed over, and those passed over notice."""

import threading
import time

import pytest

from sweeps.errors import RegistryError
from sweeps.registry.lock import TagLock


class Memory:
    """Tags that are read and written at one moment each, by any thread."""

    def __init__(self):
        self.kept, self._lock, self.away = {}, threading.Lock(), False

    def read(self):
        return self._ask(lambda: dict(self.kept))

    def write(self, key, value):
        self._ask(lambda: self.kept.update({key: value}))

    def erase(self, key):
        self._ask(lambda: self.kept.pop(key, None))

    def _ask(self, call):
        if self.away:
            raise ConnectionError("away")
        time.sleep(0.0005)
        with self._lock:
            return call()


@pytest.fixture
def tags():
    return Memory()


def lock(tags, route="", seconds=60.0, clock=time.monotonic):
    return TagLock(tags, "mouse", route, "me@here", seconds=seconds, poll=0.002, clock=clock)


def test_twelve_at_once_go_one_by_one_and_all_of_them_go(tags):
    inside, most, went = set(), [], []

    def go(number):
        for _ in range(5):
            with lock(tags).held() as turn:
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
    assert (max(most), len(went), tags.kept) == (1, 60, {})


def test_who_came_first_goes_first(tags):
    order = []
    threads = []
    with lock(tags).held():
        for number in range(4):
            threads.append(threading.Thread(target=lambda number=number: _enter(tags, order, number)))
            threads[-1].start()
            while len(tags.kept) < number + 2 or any(tag.startswith("0 ") for tag in tags.kept.values()):
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3]


def _enter(tags, order, number):
    with lock(tags).held():
        order.append(number)


@pytest.mark.parametrize("left", ["7 3 - me@there", "0 0 - me@there"])
def test_a_lease_that_does_not_change_is_a_dead_ones_and_removed(tags, left):
    tags.kept = {"lease.dead": left, "sweep": "mine"}
    started = time.monotonic()
    with lock(tags, seconds=0.2).held():
        assert time.monotonic() - started > 0.2
        assert "lease.dead" not in tags.kept
    assert tags.kept == {"sweep": "mine"}


def test_a_lease_that_is_kept_up_is_waited_for(tags):
    with lock(tags, seconds=0.2).held() as first:
        waiting = threading.Thread(target=lambda: _enter(tags, [], 0))
        waiting.start()
        time.sleep(0.7)
        first.check()
        assert waiting.is_alive()
    waiting.join()


def test_under_the_stores_own_lock_a_lease_of_the_same_lock_is_a_dead_ones_at_once(tags):
    tags.kept = {"lease.dead": "7 3 postgresql me@there"}
    with lock(tags, route="postgresql").held():
        assert len(tags.kept) == 1
    assert tags.kept == {}


def test_who_was_taken_for_dead_notices_before_it_writes(tags):
    with lock(tags).held() as turn:
        tags.kept.clear()
        with pytest.raises(RegistryError) as lost:
            turn.check()
    assert str(lost.value) == (
        "mouse: expected to keep the turn to change it, got none any more: another process took this one for dead — "
        "run the command again."
    )


def test_who_was_away_for_half_the_time_gives_up_though_nobody_has_noticed(tags):
    now = [0.0]
    with lock(tags, clock=lambda: now[0]).held() as turn:
        now[0] = 29.0
        turn.check()
        now[0] = 31.0
        with pytest.raises(RegistryError, match="this process was away for 31 s"):
            turn.check()


def test_a_store_that_is_away_for_a_moment_costs_no_turn(tags):
    with lock(tags, seconds=0.6).held() as turn:
        tags.away = True
        time.sleep(0.15)
        tags.away = False
        time.sleep(0.25)
        assert turn.check() is None
