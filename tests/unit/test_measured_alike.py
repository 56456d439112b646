"""Which trials of a sweep were measured alike, and so may share a table."""

from __future__ import annotations

import itertools
from pathlib import Path

from sweeps.book.journal import Journal, Reported, SweepOpened, TrialOpened
from sweeps.book.record import PROTOCOL, SweepRecord, record_of

SPACE = {"space": {}, "objective": {"metric": "val/psnr", "mode": "max"}, "trials": {"count": 4}}


def recorded(folder: Path, trials: dict[tuple[int, str | None], float | None]) -> SweepRecord:
    """A sweep with a trial for each (input views, protocol it told), and the objective that it reported."""
    with Journal(folder, clock=itertools.count(1.7e9).__next__) as journal:
        journal.append(SweepOpened("s", "tiny", SPACE, {}, {}))
        for number, ((views, protocol), value) in enumerate(trials.items()):
            recipe = {"data.num_input_views": views}
            journal.append(TrialOpened(number, f"r{number}", 1, recipe, recipe, f"p{number}", {"data.digest": "d"}))
            if value is not None:
                tags = {PROTOCOL: protocol} if protocol else {}
                journal.append(Reported(number, 1, {"val/psnr": value}, {}, tags))
    return record_of(journal, 1.8e9)


def numbers(record: SweepRecord) -> list[tuple[str | None, list[int]]]:
    return [(group.protocol, [one.trial.number for one in group.trials]) for group in record.by_protocol]


def test_trials_of_two_protocols_share_no_group_and_that_of_the_best_comes_first(tmp_path: Path) -> None:
    record = recorded(tmp_path, {(3, "aaa"): 20.0, (5, "bbb"): 22.0, (3, "ccc"): 19.0})
    assert numbers(record) == [("bbb", [1]), ("aaa", [0]), ("ccc", [2])]


def test_a_trial_that_told_no_protocol_is_with_those_of_its_settings(tmp_path: Path) -> None:
    record = recorded(tmp_path, {(3, "aaa"): 20.0, (5, "bbb"): 22.0, (3, None): None})
    assert numbers(record) == [("bbb", [1]), ("aaa", [0, 2])]


def test_where_none_told_a_protocol_the_settings_that_decide_it_part_the_trials(tmp_path: Path) -> None:
    record = recorded(tmp_path, {(3, None): 20.0, (5, None): 22.0})
    assert numbers(record) == [(None, [1]), (None, [0])]
    assert record.by_protocol[0].words == "input views 5"
