"""The journal, what it adds up to, and how it is handed on."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import mouselift
from pipeline.recipes import load_recipe
from sweeps.book import ledger, provenance
from sweeps.book.delivery import Delivery, RefusedError, UnansweredError
from sweeps.book.journal import (
    AttemptFailed,
    Event,
    Journal,
    Reported,
    RunOpened,
    SweepClosed,
    SweepOpened,
    TrialClosed,
    TrialOpened,
)
from sweeps.errors import DamagedError, NoRoomError, StudyError
from sweeps.home import Home
from sweeps.tracking import mlflow_layout, queries

SPACE = {
    "recipe": "gslrm_tiny",
    "space": {"optim.lr": {"float": [1e-5, 1e-3], "log": True}},
    "objective": {"metric": "val/psnr", "mode": "max"},
    "trials": {"count": 4},
}
OPENED = SweepOpened("mice", "gslrm_tiny", SPACE, {"data.name": "mice"}, {"optim.lr": 1e-4})


def trial_opened(number: int, attempt: int = 1) -> TrialOpened:
    return TrialOpened(number, f"ray{number}", attempt, {"optim.lr": 1e-4}, {"optim.lr": 1e-4}, f"f{number}")


def reported(number: int, step: int, psnr: float) -> Reported:
    return Reported(number, step, {"val/psnr": psnr})


def filled(folder: Path, *events: Event) -> Journal:
    journal = Journal(folder, clock=itertools.count(100.0).__next__)
    for event in events:
        journal.append(event)
    return journal


def events_of(journal: Journal) -> list[Event]:
    return [event for _, event in journal.events()]


EVERY_KIND = (
    OPENED,
    trial_opened(0),
    RunOpened(None, "parent"),
    RunOpened(0, "child"),
    Reported(0, 5, {"val/psnr": 20.0, "train/mse": float("inf")}, {"preview": "blobs/x.png"}),
    TrialClosed(0, "FAIL", "out of memory", {"checkpoint": "checkpoints/t0000"}),
    SweepClosed("KILLED", "SIGINT", {"time/hours": 0.5}, {"note": "x"}),
)


def test_every_event_reads_back_as_it_was_written_with_the_time_of_the_clock(tmp_path: Path) -> None:
    journal = filled(tmp_path, *EVERY_KIND)
    stamped = [dataclasses.replace(event, time=100.0 + n) for n, event in enumerate(EVERY_KIND)]
    assert events_of(journal) == stamped


def test_numbers_of_numpy_and_paths_are_written_as_plain_values(tmp_path: Path) -> None:
    journal = filled(tmp_path, Reported(0, np.int64(3), {"val/psnr": np.float32(0.5)}), trial_opened(1))
    journal.append(SweepOpened("s", "r", {}, {}, {"data.root": Path("/data")}))
    first, _, last = events_of(journal)
    assert isinstance(first, Reported)
    assert (first.step, first.metrics) == (3, {"val/psnr": 0.5})
    assert isinstance(last, SweepOpened)
    assert last.params == {"data.root": "/data"}


def test_reading_goes_on_at_the_offset_where_it_stopped(tmp_path: Path) -> None:
    journal = filled(tmp_path, OPENED, trial_opened(0))
    *_, (offset, _) = journal.events()
    journal.append(reported(0, 1, 20.0))
    ((end, event),) = journal.events(offset)
    assert (event, end) == (
        dataclasses.replace(reported(0, 1, 20.0), time=102.0),
        journal.path.stat().st_size,
    )


def test_a_line_torn_by_a_kill_has_not_happened_and_the_next_writer_removes_it(tmp_path: Path, caplog) -> None:
    filled(tmp_path, OPENED, trial_opened(0)).close()
    with Journal(tmp_path).path.open("ab") as file:
        file.write(b'{"kind": "Reported", "tri')
    journal = Journal(tmp_path)
    assert len(events_of(journal)) == 2
    journal.append(reported(0, 1, 20.0))
    assert [type(event) for event in events_of(journal)] == [SweepOpened, TrialOpened, Reported]
    assert caplog.messages == [f"{journal.path}: 25 bytes of a last line that was cut off are dropped"]


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b"[]",
        b'{"kind": "Nonsense"}',
        b'{"kind": "RunOpened", "extra": 1}',
        b'{"kind": "RunOpened", "trial": "x", "run_id": "a"}',
        b'{"kind": "TrialClosed", "trial": 0, "state": "COMPLEUE"}',
        b'{"kind": "Reported", "trial": 0, "step": 4, "metrics": {"val/psnr": "high"}}',
        b"[" * 10_000,
        b"\xff\xfe",
    ],
)
def test_damage_in_the_middle_names_the_file_and_the_line(tmp_path: Path, damage: bytes) -> None:
    journal = filled(tmp_path, OPENED, trial_opened(0))
    lines = journal.path.read_bytes().splitlines()
    journal.path.write_bytes(b"\n".join([lines[0], damage, lines[1], b""]))
    with pytest.raises(DamagedError, match=r"journal\.jsonl:2: expected an event of a sweep, got .* — "):
        list(journal.events())


@pytest.mark.parametrize("space", [{"trials": {}}, {"trials": 3}, {"objective": {"metric": "val/psnr"}}])
def test_a_space_that_is_none_is_damage_too(tmp_path: Path, space: dict[str, object]) -> None:
    journal = filled(tmp_path, dataclasses.replace(OPENED, space=space))
    with pytest.raises(DamagedError, match="expected a search space in the journal, got a fault at"):
        ledger.read(journal)


def test_a_damaged_journal_is_no_mistake_of_the_users(tmp_path: Path, monkeypatch, capsys) -> None:
    filled(tmp_path / "home/journal/mine", OPENED).close()
    (tmp_path / "home/journal/mine/journal.jsonl").write_bytes(b"{}\n")
    monkeypatch.setenv("MOUSELIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "argv", ["mouselift", "sweep", "status", "mine"])
    with pytest.raises(SystemExit) as left:
        mouselift.main()
    said = capsys.readouterr()
    assert (left.value.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert "journal.jsonl:1: expected an event of a sweep, got b'{}" in said.err


def test_appends_of_many_threads_are_whole_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    work = [
        threading.Thread(target=lambda t=t: [journal.append(reported(t, s, 1.0)) for s in range(25)]) for t in range(8)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    seen = {(event.trial, event.step) for event in events_of(journal) if isinstance(event, Reported)}
    assert seen == {(trial, step) for trial in range(8) for step in range(25)}


def test_what_append_returned_for_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    program = (
        "import sys, itertools; from pathlib import Path; from sweeps.book.journal import *\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for step in itertools.count():\n"
        "    journal.append(Reported(0, step, {'x': 1.0}))\n"
        "    sys.stdout.write(f'{step}\\n'); sys.stdout.flush()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as writer:
        assert writer.stdout is not None
        acknowledged = [int(next(writer.stdout)) for _ in range(50)]
        read_while_written = events_of(Journal(tmp_path))
        writer.kill()
        acknowledged += [int(line) for line in writer.stdout]
    steps = [event.step for event in events_of(Journal(tmp_path)) if isinstance(event, Reported)]
    assert len(read_while_written) >= 50
    assert steps[: len(acknowledged)] == acknowledged
    assert len(steps) - len(acknowledged) in (0, 1)


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    first, second = filled(tmp_path, OPENED), Journal(tmp_path)
    with pytest.raises(StudyError, match="another process runs this sweep — stop it first"):
        second.append(OPENED)
    assert second.is_being_written
    first.close()
    assert not second.is_being_written
    second.append(OPENED)
    assert len(events_of(second)) == 2


def test_equal_blobs_are_kept_once_and_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    one, same, other = journal.keep("a.png", b"x"), journal.keep("b.png", b"x"), journal.keep("a.png", b"y")
    assert one == same != other
    assert journal.blob(one).read_bytes() == b"x"
    assert one.endswith(".png")
    assert len(os.listdir(tmp_path / "blobs")) == 2


def test_the_ledger_counts_states_and_takes_the_best_of_the_finished_trials(tmp_path: Path) -> None:
    journal = filled(tmp_path, OPENED)
    for number, (psnr, state) in enumerate([(21.0, "COMPLETE"), (23.0, "PRUNED"), (22.0, "COMPLETE")]):
        for event in (trial_opened(number), reported(number, 1, psnr), reported(number, 2, psnr - 5)):
            journal.append(event)
        journal.append(TrialClosed(number, state))  # type: ignore[arg-type]
    book = ledger.read(journal)
    assert (book.count("COMPLETE"), book.count("PRUNED")) == (2, 1)
    assert book.best is not None
    assert (book.best.number, book.best.best_value, book.best.best_step) == (2, 22.0, 1)


def test_a_value_that_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    book = ledger.read(filled(tmp_path, OPENED, trial_opened(0), reported(0, 1, float("nan")), reported(0, 2, 3.0)))
    assert book.trials[0].best_value == 3.0


def test_the_end_of_the_sweep_is_the_end_of_its_open_trials(tmp_path: Path) -> None:
    book = ledger.read(filled(tmp_path, OPENED, trial_opened(0), SweepClosed("KILLED", "SIGINT")))
    assert (book.state, book.trials[0].state) == ("KILLED", "KILLED")


def test_events_of_a_trial_that_was_never_opened_are_damage(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="mice: trial 7: expected it to be opened"):
        ledger.read(filled(tmp_path, OPENED, reported(7, 1, 1.0)))


def home_at(root: Path) -> Home:
    return Home.from_environment({"MOUSELIFT_HOME": str(root)})


def test_status_counts_what_runs_what_waits_and_what_is_best(tmp_path: Path) -> None:
    home = home_at(tmp_path)
    journal = filled(home.journal("mice"), OPENED, trial_opened(0), reported(0, 1, 20.0), reported(0, 2, 21.5))
    journal.append(TrialClosed(0, "COMPLETE"))
    journal.append(trial_opened(1))
    journal.append(RunOpened(0, "abc"))
    told = queries.status(home, "mice")
    assert told.pop("budget").keys() == {"hours", "gpu_hours"}
    assert told == {
        "name": "mice",
        "state": "RUNNING",
        "trials": {"complete": 1, "pruned": 0, "fail": 0, "running": 1, "waiting": 2},
        "best": {
            "trial": 0,
            "state": "COMPLETE",
            "metric": "val/psnr",
            "value": 21.5,
            "step": 2,
            "params": {"optim.lr": 1e-4},
            "run_id": "abc",
        },
        "reason": "",
        "undelivered": 7,
        "seconds_left": None,
        "confirmed": [],
        "eta": None,
        "ends_by_budget": False,
        "taken": 0,
        "continued": 0,
    }


def test_a_trial_that_broke_waits_for_its_next_attempt_or_ends(tmp_path: Path) -> None:
    broke = [AttemptFailed(0, attempt, "worker_lost", "retry", "gone") for attempt in (1, 2)]
    journal = filled(tmp_path, OPENED, trial_opened(0), broke[0])
    assert (ledger.read(journal).trials[0].state, ledger.read(journal).open) == ("WAITING", {0})
    journal.append(broke[1])
    journal.append(AttemptFailed(0, 3, "out_of_memory", "halve", "no memory"))
    assert (ledger.read(journal).trials[0].splits, len(ledger.read(journal).trials[0].faults)) == (2, 3)
    journal.append(SweepClosed("KILLED", "SIGTERM"))
    assert (ledger.read(journal).trials[0].state, ledger.read(journal).reason) == ("KILLED", "SIGTERM")


def test_a_closed_journal_knows_it_without_being_read_through(tmp_path: Path) -> None:
    journal = filled(tmp_path, OPENED, trial_opened(0))
    assert not journal.is_closed
    journal.append(SweepClosed("COMPLETE"))
    assert journal.is_closed
    journal.append(OPENED)
    assert not journal.is_closed


def test_a_claimed_journal_refuses_another_writer_before_a_word_is_written(tmp_path: Path) -> None:
    with Journal(tmp_path).claim(), pytest.raises(StudyError, match="expected to be the only writer"):
        Journal(tmp_path).claim()
    Journal(tmp_path).claim().close()


def test_a_sweep_that_nobody_runs_and_nobody_closed_is_interrupted(tmp_path: Path) -> None:
    home = home_at(tmp_path)
    filled(home.journal("mice"), OPENED, trial_opened(0)).close()
    status = queries.status(home, "mice")
    assert (status["state"], status["trials"]["running"], status["trials"]["waiting"]) == (
        "INTERRUPTED",
        0,
        4,
    )


def test_status_of_an_unknown_sweep_names_the_known_ones(tmp_path: Path) -> None:
    home = home_at(tmp_path)
    filled(home.journal("mice"), OPENED).close()
    with pytest.raises(StudyError, match=r"mise: expected a sweep of .*, got none — it has mice\."):
        queries.status(home, "mise")


def test_the_recipe_kept_with_a_run_loads_as_the_recipe_it_was(tmp_path: Path) -> None:
    recipe = load_recipe("gslrm_tiny")
    (tmp_path / "gslrm_tiny.yaml").write_text(mlflow_layout.recipe_yaml(json.loads(json.dumps(recipe.params))))
    assert load_recipe(tmp_path / "gslrm_tiny.yaml") == recipe


def test_provenance_has_commit_and_uncommitted_changes_where_there_is_git(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x@x")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init", "-b", "main")
    (tmp_path / "code.py").write_text("old\n")
    git("add", "."), git("commit", "-m", "x")
    (tmp_path / "code.py").write_text("new\n")
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "own.py").write_text("mine\n")
    kept: dict[str, bytes] = {}
    tags, artifacts = provenance.provenance(lambda name, content: kept.setdefault(name, content) and name, tmp_path)
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert tags["mlflow.source.git.dirty"] == "true"
    assert b"+new" in kept[artifacts["code/diff.patch"]]
    assert b"mlflow==" in kept[artifacts["code/packages.txt"]]
    assert kept[artifacts["code/unknown.txt"]].endswith(b" sweeps/own.py\n")


def test_provenance_without_git_has_packages_only(tmp_path: Path) -> None:
    tags, artifacts = provenance.provenance(lambda name, content: name, tmp_path)
    assert "mlflow.source.git.commit" not in tags
    assert list(artifacts) == ["code/packages.txt"]


class Receiver:
    """Takes reports, but fails as told before."""

    def __init__(self, *failures: Exception) -> None:
        self.failures, self.steps = list(failures), []

    def send(self, book, events):
        events = list(events)
        if self.failures:
            raise self.failures.pop(0)
        self.steps += [event.step for event in events if isinstance(event, Reported)]
        return ledger.fold_all(book, events)


STEPS = (OPENED, trial_opened(0), *(reported(0, step, 1.0) for step in range(5)))


def test_what_a_receiver_does_not_take_is_sent_again(tmp_path: Path) -> None:
    receiver = Receiver(UnansweredError("down"))
    assert Delivery(filled(tmp_path, *STEPS), "receiver", lambda: receiver.send).start().close(10)
    assert receiver.steps == [0, 1, 2, 3, 4]


def test_a_drain_goes_on_where_the_one_before_it_stopped(tmp_path: Path) -> None:
    journal, first, second = filled(tmp_path, *STEPS), Receiver(), Receiver()
    assert Delivery(journal, "receiver", lambda: first.send).start().close(10)
    journal.append(reported(0, 5, 1.0))
    assert Delivery(journal, "receiver", lambda: second.send).start().close(10)
    assert (first.steps, second.steps) == ([0, 1, 2, 3, 4], [5])


def test_an_event_refused_time_and_again_is_left_out_and_the_rest_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.book.delivery._POLL_SECONDS", 0.01)

    class Fussy(Receiver):
        def send(self, book, events):
            events = list(events)
            if any(isinstance(event, Reported) and event.step == 2 for event in events):
                raise RefusedError("no")
            return super().send(book, events)

    fussy = Fussy()
    assert Delivery(filled(tmp_path, *STEPS), "receiver", lambda: fussy.send).start().close(30)
    assert fussy.steps == [0, 1, 3, 4]


def test_a_receiver_that_never_answers_holds_up_close_for_its_timeout_only(tmp_path: Path) -> None:
    receiver = Receiver(*[UnansweredError("down")] * 100)
    assert not Delivery(filled(tmp_path, *STEPS), "receiver", lambda: receiver.send).start().close(0.3)


def test_a_damaged_journal_is_told_when_the_drain_closes(tmp_path: Path) -> None:
    journal = filled(tmp_path, OPENED)
    journal.path.write_bytes(b"nonsense\n" + journal.path.read_bytes())
    with pytest.raises(StudyError, match=r"journal\.jsonl:1"):
        Delivery(journal, "receiver", lambda: Receiver().send).start().close(10)


def test_an_event_of_which_a_full_disk_took_a_part_has_not_happened(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "mice")
    journal.append(OPENED)
    write, asked = os.write, []

    def full(file: int, content: bytes) -> int:
        asked.append(content)
        if len(asked) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content[:10])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(NoRoomError, match=r"mice: expected room .*, got No space left .* resume mice` goes on"):
            journal.append(trial_opened(0))
    journal.append(trial_opened(1))
    assert [type(event) for _, event in journal.events()] == [SweepOpened, TrialOpened]
