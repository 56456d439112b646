"""The table of a sweep's trials, how long the sweep still takes, and what a sweep of a home is in a list."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from sweeps.book.journal import Event, Journal, Reported, RunOpened, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.record import SweepRecord, record_of
from sweeps.book.remaining import seconds_left_of
from sweeps.cli import terminal
from sweeps.cli.leaderboard import Leaderboard
from sweeps.cli.terminal import table
from sweeps.home import Home
from sweeps.tracking import listing

HOSTILE = "가나다 [/red] <script>alert('생쥐')</script> | \"quoted\"\nand a line"


def swept(folder: Path, *happened: tuple[float, Event], trials: int = 4) -> SweepRecord:
    """Trials of 100 steps, two at a time; each event with its time."""
    space = {
        "space": {"data.name": {}, "optim.lr": {}},
        "objective": {"metric": "val/psnr_fg", "mode": "max"},
        "trials": {"count": trials, "concurrent": 2},
    }
    opened = SweepOpened("mine", "gslrm_tiny", space, {"data.name": "mice"}, {"train.max_steps": 100})
    times = iter([0.0, *(time for time, _ in happened)])
    journal = Journal(folder, clock=times.__next__)
    for event in (opened, *(event for _, event in happened)):
        journal.append(event)
    return record_of(journal, now=1000.0)


def begun(trial: int, **params: object) -> TrialOpened:
    return TrialOpened(trial, f"ray-{trial}", 1, params, {}, f"f{trial}", {})


def report(trial: int, step: int, psnr: float) -> Reported:
    return Reported(trial, step, {"val/psnr_fg": psnr})


def two_ended(folder: Path) -> SweepRecord:
    return swept(
        folder,
        (0, begun(0, **{"optim.lr": 0.0012345, "data.name": HOSTILE})),
        (0, begun(1, **{"optim.lr": 0.1})),
        (50, report(0, 50, 21.0)),
        (60, report(1, 50, 19.0)),
        (60, TrialClosed(1, "PRUNED", "asha: val/psnr_fg 19 is among the weaker, at step 50 of 100")),
        (130, report(0, 100, 20.5)),
        (130, TrialClosed(0, "COMPLETE")),
        (131, RunOpened(0, "abc")),
    )


def drawn(board: Leaderboard, width: int, in_terminal: bool = True) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=in_terminal, color_system=None)
    console.print(*board.tables(width), sep="\n")
    return console.file.getvalue()


@pytest.mark.parametrize(("width", "in_terminal"), [(80, True), (200, True), (200, False)])
def test_best_and_last_value_the_step_of_the_best_and_the_time_stand_in_a_row(tmp_path, width, in_terminal):
    text = drawn(Leaderboard(two_ended(tmp_path)), width, in_terminal)
    assert re.search(r"t0000 +COMPLETE +100/100 +21\.000 +50 +20\.500 +2 min 10 s", text)
    assert re.search(r"t0001 +PRUNED +50/100 +19\.000 +50 +19\.000 +1 min", text)
    assert "lr=0.1 — asha: val/psnr_fg 19 is among the weaker" in text
    assert "val/psnr_fg" in text.partition("t0000")[0]


@pytest.mark.parametrize("width", [80, 200])
def test_hostile_and_wide_words_break_no_row(tmp_path, width):
    """Words of two columns a letter, marks of rich's own, and lines."""
    lines = drawn(Leaderboard(two_ended(tmp_path)), width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert sum(line.startswith("t0000") for line in lines) == (2 if width == 80 else 1)
    words = [word.strip() for line in lines for word in line.split()]
    assert "[/red]" in words and "<script>alert('생쥐')</script>" in words


def test_a_trial_is_a_link_to_its_run_where_the_terminal_shows_links(tmp_path):
    record = two_ended(tmp_path)
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")
    console.print(Leaderboard(record, lambda run: f"http://lab:5000/#/experiments/1/runs/{run}").tables(200)[0])
    assert "http://lab:5000/#/experiments/1/runs/abc" in console.file.getvalue()


def test_of_many_trials_the_best_are_shown_and_those_that_run(tmp_path):
    events: list[tuple[float, Event]] = []
    for trial in range(30):
        events += [(trial, begun(trial)), (trial + 1.0, report(trial, 10, float(trial)))]
        events += [(trial + 1.0, TrialClosed(trial, "COMPLETE"))] if trial else []
    board = Leaderboard(swept(tmp_path, *events, trials=30))
    numbers = [found.trial.number for found in board.shown]
    assert numbers == [*range(29, 9, -1), 0] and board.left_out == 9
    assert len(Leaderboard(board.record, rows=None).shown) == 30


def test_the_time_left_is_that_of_the_steps_left_at_the_pace_so_far(tmp_path):
    """150 steps in 190 s of trials. Two trials are left, of 75 steps as those that ended, two at a time."""
    assert seconds_left_of(two_ended(tmp_path)) == pytest.approx(150 * 190 / 150 / 2)


def test_a_sweep_that_ended_has_no_time_left(tmp_path):
    record = swept(tmp_path, (0, begun(0)), (9, report(0, 50, 1.0)), (9, SweepClosed("KILLED", "SIGINT")))
    assert seconds_left_of(record) is None


def test_a_killed_trial_is_not_done_in_the_list(tmp_path):
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})
    swept(home.journal("mine"), (0, begun(0)), (9, report(0, 50, 1.5)), (9, TrialClosed(0, "KILLED", "SIGINT")),
          (10, begun(1)), (11, TrialClosed(1, "FAIL", "broke")), (12, SweepClosed("KILLED", "SIGINT")))  # fmt: skip
    (found,), troubles = listing.known_sweeps(home)
    assert (found.name, found.state, found.done, found.planned) == ("mine", "KILLED", 1, 4)
    assert (found.best, found.metric, found.data, found.began) == (1.5, "val/psnr_fg", "mice", 0.0)
    assert found.home.endswith(f":{tmp_path}") and troubles == []


def test_a_store_that_does_not_answer_leaves_the_sweeps_of_this_home(tmp_path):
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    swept(home.journal("mine"), (0, begun(0)))
    (found,), [trouble] = listing.known_sweeps(home)
    assert found.name == "mine"
    assert trouble.startswith("the sweeps of other homes are not listed: http://127.0.0.1:9: expected an answer")


def test_a_damaged_journal_is_named_and_leaves_the_other_sweeps(tmp_path):
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})
    for name in ("mine", "spoilt"):
        swept(home.journal(name), (0, begun(0)))
    Journal(home.journal("spoilt")).path.write_bytes(b"{}\n")
    (found,), [trouble] = listing.known_sweeps(home)
    assert found.name == "mine" and trouble.startswith("spoilt is not listed: ") and "is damaged" in trouble


def test_cells_are_shown_as_they_are(capsys):
    table(["name", "path"], [["[bold]생쥐[/bold]", "[/]"]])
    assert capsys.readouterr().out.splitlines()[1].split() == ["[bold]생쥐[/bold]", "[/]"]


def test_a_table_without_room_is_a_block_for_each_row(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "console", lambda: Console(width=60))
    terminal.table_or_blocks(["sweep", "state", "home"], [["mine", "COMPLETE", "lab:/data/" + "r" * 60]])
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "mine" and others[0].startswith("  state COMPLETE, home")
    terminal.table_or_blocks(["sweep", "state", "home"], [["mine", "COMPLETE", "lab:/data"]])
    assert capsys.readouterr().out.splitlines()[1].split() == ["mine", "COMPLETE", "lab:/data"]
