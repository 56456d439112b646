"""Notices: who is told what of a sweep, by real requests to servers of this machine, and that no address is shown."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import pytest

from sweeps.book.journal import AttemptFailed, State, SweepClosed, SweepOpened, TrialClosed, TrialProposed
from sweeps.book.ledger import Ledger
from sweeps.errors import SpaceError, StudyError
from sweeps.space.plan import SEED
from sweeps.space.space import load_space
from sweeps.tracking.notices import VARIABLE, Notices, Service, addresses, announced, described
from tests.support.listening import closed_port, listening, mute
from tests.unit.test_record import SPACE, opened, reported

SECRET = "hunter2"
OPENED = SweepOpened("mine", "gslrm_tiny", SPACE, {}, {}, time=1.0)


def url(port):
    return f"json://{SECRET}:{SECRET}@127.0.0.1:{port}/{SECRET}"


class Desk:
    """What one service is told, without a network; the clock is ours."""

    def __init__(self, stall_seconds=60.0):
        self.now, self.sent = 1000.0, []
        self.notices = Notices([self], Ledger(), stall_seconds, lambda: self.now, look_seconds=1e6)

    def post(self, title, text):
        self.sent.append(text)

    def hear(self, *events):
        for event in events:
            self.notices(event)
        return self.sent


def best_of(trial, value, state=State.COMPLETE):
    return [opened(trial), reported(trial, 1, value), TrialClosed(trial, state)]


def test_a_new_best_is_told_once_its_trial_is_complete_and_no_other_is():
    desk = Desk()
    desk.hear(OPENED, opened(0), reported(0, 1, 20.0), reported(0, 2, 21.0))
    assert desk.sent == []
    desk.hear(TrialClosed(0, State.COMPLETE))
    assert desk.sent == ["new best: val/psnr 21 (t0000, step 2); 1 of 2 trials ended"]
    desk.hear(*best_of(1, 20.5), *best_of(2, 30.0, State.PRUNED))
    assert len(desk.sent) == 1
    desk.hear(*best_of(3, 22.0))
    assert desk.sent[1:] == ["new best: val/psnr 22 (t0003, step 1); 4 of 4 trials ended"]


def test_a_best_that_other_seeds_put_in_the_place_of_another_is_told():
    desk = Desk()
    space = OPENED.space | {"confirm": {"seeds": 1, "top": 2}}
    desk.hear(replace(OPENED, space=space), *best_of(0, 21.0), *best_of(1, 20.0))
    assert [text.partition(";")[0] for text in desk.sent] == ["new best: val/psnr 21 (t0000, step 1)"]
    for number, confirms, value in ((2, 0, 18.0), (3, 1, 19.0)):
        proposed = TrialProposed(number, {SEED: 1}, f"again {confirms}", confirms=confirms)
        begun = replace(opened(number), params={SEED: 1})
        desk.hear(proposed, begun, reported(number, 1, value), TrialClosed(number, State.COMPLETE))
    assert desk.sent[1:] == [
        "new best: val/psnr 20 (t0001, step 1), with other seeds 19 with 1 seed, so without a spread; 4 of 4 trials "
        "ended"
    ]


@pytest.mark.parametrize("state", [State.COMPLETE, State.KILLED, State.FAIL])
def test_an_end_is_told_with_its_reason_the_best_and_how_far_it_came(state):
    reason = "" if state == State.COMPLETE else "because"
    sent = Desk().hear(OPENED, *best_of(0, 21.0), SweepClosed(state, reason))
    said = f"{state}: because" if reason else state
    assert sent[-1] == f"{said}; 1 of 2 trials ended; best val/psnr 21 (t0000, step 1)"


def test_silence_is_told_once_until_something_is_heard_again():
    desk = Desk()
    desk.notices.look()
    desk.hear(OPENED, opened(0))
    desk.now += 59
    desk.notices.look()
    assert desk.sent == []
    for _ in range(3):
        desk.now += 60
        desk.notices.look()
    assert desk.sent == ["stalled: nothing was reported for 2 min; 0 of 2 trials ended"]
    desk.hear(reported(0, 1, 1.0))
    desk.now += 61
    desk.notices.look()
    assert len(desk.sent) == 2
    desk.hear(SweepClosed(State.COMPLETE))
    desk.now += 1000
    desk.notices.look()
    assert len(desk.sent) == 3


def test_a_trial_that_hangs_is_told():
    sent = Desk().hear(OPENED, opened(0), AttemptFailed(0, 1, "hang", "retry", "no report for 30 minutes"))
    assert sent == ["t0000 stalled: no report for 30 minutes; it is tried again"]


def test_the_first_message_goes_at_once_and_of_those_that_wait_the_latest():
    sent = []
    service = Service("x", lambda title, text: sent.append((time.monotonic(), text)) or True, gap=0.5)
    for text in "abc":
        service.post("t", text)
        time.sleep(0.05)
    deadline = time.monotonic() + 10
    while len(sent) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [text for _, text in sent] == ["a", "c"]
    assert sent[1][0] - sent[0][0] >= 0.5
    service.post("t", "d")
    service.finish()
    service.close(5.0)
    assert [text for _, text in sent] == ["a", "c", "d"]
    assert time.monotonic() - sent[1][0] < 0.5  # the last one waits for no minute


def run(environment, names=()):
    """A short sweep; how long its listener and its end kept it, in seconds."""
    heard, began = [], time.monotonic()
    with announced(heard.append, names, environment, Ledger(), 60.0) as listen:
        for event in (OPENED, *best_of(0, 21.0)):
            listen(event)
        took = time.monotonic() - began
        listen(SweepClosed(State.COMPLETE))
    assert len(heard) == 5
    return took, time.monotonic() - began


def test_a_service_that_listens_gets_text_and_nothing_else(caplog):
    with listening() as (port, came):
        run({VARIABLE: url(port)})
    assert came[-1]["title"] == "mouselift mine" and came[-1]["attachments"] == []
    assert came[-1]["message"] == "COMPLETE; 1 of 2 trials ended; best val/psnr 21 (t0000, step 1)"
    assert caplog.messages == []


def test_a_service_that_raises_is_told_of_once_without_its_words_and_asked_again(caplog):
    asked = []

    def broken(title, text):
        asked.append(text)
        raise RuntimeError(SECRET)

    service = Service("x", broken, gap=0.0)
    for text in "ab":
        service.post("t", text)
        time.sleep(0.2)
    service.finish()
    service.close(5.0)
    assert asked == ["a", "b"]
    assert caplog.messages == ["notices: x did not take it — the sweep goes on; this is said once."]


@pytest.mark.parametrize("how", ["refuses", "is away", "never answers"])
def test_a_service_that_does_not_take_it_keeps_no_sweep_and_is_told_of_once(how, caplog, capfd):
    with listening(status=500) as (refusing, _), mute() as silent, listening() as (good, came):
        port = {"refuses": refusing, "is away": closed_port(), "never answers": silent}[how]
        events, whole = run({"MICE_CHAT": url(port), VARIABLE: url(good)}, ["MICE_CHAT"])
    assert events < 1.0 and whole < 8.0
    (line,) = caplog.messages
    assert line.startswith("notices: JSON of MICE_CHAT did not ") and line.endswith(
        "the sweep goes on; this is said once."
    )
    assert came[-1]["message"].startswith("COMPLETE")
    assert SECRET not in caplog.text + "".join(capfd.readouterr())


def test_a_driver_that_ends_by_an_error_is_told():
    def broken(port):
        with announced(lambda _: None, (), {VARIABLE: url(port)}, Ledger(), 60.0) as listen:
            listen(OPENED)
            raise ZeroDivisionError(SECRET)

    with listening() as (port, came):
        with pytest.raises(ZeroDivisionError):
            broken(port)
        assert [one["message"] for one in came] == ["FAIL: its driver ended by ZeroDivisionError"]


def test_without_an_address_the_listener_is_the_listener():
    with announced(print, (), {VARIABLE: "  "}, Ledger(), 60.0) as listen:
        assert listen is print


def test_addresses_are_those_of_the_named_variables_and_of_all_sweeps_each_once():
    environment = {"A": "json://a json://b", VARIABLE: "json://b\njson://c", "OTHER": "json://d"}
    found = addresses(["A", "A"], environment)
    assert [(one.place, one.url) for one in found] == [("A", "json://a"), ("A", "json://b"), (VARIABLE, "json://c")]
    assert "json" not in repr(found)
    assert described(["A"], environment) == f"JSON of A, JSON of A, JSON of {VARIABLE}"


@pytest.mark.parametrize(
    ("environment", "names", "message"),
    [
        ({}, ["MICE_CHAT"], "notify: expected an address in the environment variable MICE_CHAT, got none — export it"),
        (
            {"MICE_CHAT": f"nonsense://{SECRET}"},
            ["MICE_CHAT"],
            "MICE_CHAT: expected addresses that apprise understands",
        ),
        ({VARIABLE: SECRET}, [], f"{VARIABLE}: expected addresses that apprise understands"),
    ],
)
def test_an_address_that_is_none_is_refused_before_a_sweep_and_not_repeated(environment, names, message, caplog, capfd):
    with pytest.raises(StudyError) as refused:
        described(names, environment)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)
    assert SECRET not in str(refused.value) + caplog.text + "".join(capfd.readouterr())


def test_without_the_package_an_address_is_refused_and_no_address_is_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    assert described([], {}) == ""
    with pytest.raises(
        StudyError, match=rf"^{VARIABLE}: .* found none — pip install 'mouselift\[notify\]', or unset it"
    ):
        described([], {VARIABLE: "json://localhost"})


@pytest.mark.parametrize(
    "written", [f"[json://{SECRET}]", f"json://{SECRET}", f"[{{a: {SECRET}}}]", f"{{{SECRET}: 1}}"]
)
def test_an_address_in_a_space_is_refused_and_not_repeated(tmp_path, written):
    path = tmp_path / "mine.yaml"
    begin = "recipe: gslrm_tiny\nspace: {optim.lr: {float: [1.0e-4, 1.0e-3]}}\n"
    path.write_text(f"{begin}notify: {written}\n")
    with pytest.raises(SpaceError, match=r"notify: expected a list of environment variables") as refused:
        load_space(path)
    assert SECRET not in str(refused.value)
    path.write_text(f"{begin}notify: [MICE_CHAT]\n")
    assert load_space(path).notify == ("MICE_CHAT",)
    with pytest.raises(SpaceError) as refused:
        load_space(path, [f"notify={written}"])
    assert SECRET not in str(refused.value)
