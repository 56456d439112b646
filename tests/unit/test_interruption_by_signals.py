"""What a signal asks of a sweep: an end in good order, KILLED with its name, whoever else handles it."""

from __future__ import annotations

import signal

import pytest

import mouselift
from sweeps.book.journal import State
from sweeps.own_process import ENDING, Interrupted, handled
from sweeps.run.tune import Interruption

ALL = pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
ORDERLY = pytest.mark.parametrize("number", [n for n in ENDING if n != signal.SIGTERM], ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def _handlers_as_before():
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Loop:
    """Ray Tune's loop as far as signals go: it sets a handler of SIGUSR1, which ends it, and tells its callbacks."""

    def __init__(self, interruption: Interruption) -> None:
        self.ended = False
        signal.signal(signal.SIGUSR1, self._end)
        interruption.take_over()

    def _end(self, *_: object) -> None:
        self.ended = True


def test_a_signal_within_compiled_code_is_said_in_one_line_as_any_other(monkeypatch, capsys):
    """numba gives a SystemError then, with our exception as its cause or that of its cause."""

    def compiled(**_: object) -> None:
        try:
            try:
                raise Interrupted(signal.SIGINT)
            except Interrupted as error:
                raise SystemError("_numba_unpickle returned a result with an exception set") from error
        except SystemError as error:
            raise SystemError("CPUDispatcher returned a result with an exception set") from error

    monkeypatch.setattr(mouselift, "app", compiled)
    with pytest.raises(SystemExit) as left:
        mouselift.main()
    assert left.value.code == 130 and capsys.readouterr().err == "mouselift: interrupted by SIGINT\n"


def test_a_system_error_of_no_signal_stays_what_it_is(monkeypatch):
    def broken(**_: object) -> None:
        raise SystemError("the interpreter's own")

    monkeypatch.setattr(mouselift, "app", broken)
    with pytest.raises(SystemError, match="the interpreter's own"):
        mouselift.main()


@ORDERLY
def test_a_signal_ends_rays_loop_and_the_sweep_is_killed_by_its_name(number):
    interruption = Interruption()
    with interruption.signals_handled(), interruption.ray_tunes():
        loop = Loop(interruption)
        signal.raise_signal(number)
    assert loop.ended
    assert interruption.asked
    assert interruption.verdict == (State.KILLED, f"interrupted by {number.name}")


@ALL
def test_a_sigterm_waits_for_no_loop_and_one_behind_it_shortens_only_the_wait_for_the_stores(number):
    interruption = Interruption()
    with interruption.signals_handled(), interruption.ray_tunes():
        Loop(interruption)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(number)  # the end has begun
        interruption.waits_for_stores = True
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert interruption.verdict == (State.KILLED, "interrupted by SIGTERM")


@ORDERLY
def test_a_second_signal_waits_for_no_loop_and_the_first_name_stands(number):
    interruption = Interruption()
    with interruption.signals_handled(), interruption.ray_tunes():
        Loop(interruption)
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
    assert interruption.verdict == (State.KILLED, f"interrupted by {number.name}")


@ALL
def test_before_there_is_a_sweep_the_caller_hears_the_signal(number):
    interruption = Interruption()
    with handled(), pytest.raises(Interrupted, match=number.name), interruption.signals_handled():
        signal.raise_signal(number)


@ALL
def test_after_rays_loop_a_signal_still_ends_the_sweep(number):
    interruption = Interruption()
    with interruption.signals_handled():
        with interruption.ray_tunes():
            Loop(interruption)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert interruption.verdict == (State.KILLED, f"interrupted by {number.name}")


def test_a_signal_that_is_ignored_does_not_end_rays_loop_either():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    interruption = Interruption()
    with interruption.signals_handled(), interruption.ray_tunes():
        loop = Loop(interruption)
        signal.raise_signal(signal.SIGUSR1)
    assert not loop.ended
    assert not interruption.asked
