"""Nothing twice: a trial that another sweep of the home left before its end goes on from there."""

from __future__ import annotations

import shutil

import pytest
import torch

from dashboards.pages.notes import sweep_note
from dashboards.pages.trial_notes import trial_note
from pipeline import checkpoint
from pipeline.recipes import override
from sweeps.book.journal import CONTINUED_FROM, Reported, TrialClosed, TrialOpened
from sweeps.book.ledger import read
from sweeps.book.provenance import MACHINE
from sweeps.book.record import PROTOCOL, record_of
from sweeps.book.remaining import pace, seconds_left_of
from sweeps.conclusions.two_trials import recorded
from sweeps.errors import OutageError
from sweeps.reuse.code_version import CODE
from sweeps.reuse.known_results import described
from sweeps.run.checkpoints import Checkpoints
from sweeps.space.space import Scheduler
from sweeps.tracking.pages import Links
from tests.unit.test_driver import METRIC, STEPS, Desk
from tests.unit.test_known_results import MADE_BY, RANDOM, png, run_out

SHORT = 8  # steps of the first sweep, of STEPS


@pytest.fixture
def desk(tmp_path, mice_folder):
    """A sweep of one home whose trials have so many steps, and a learning rate that does not know where it ends."""

    def made(name, steps=STEPS, made_by=MADE_BY, schedule="constant", fixed=None, **changes):
        fixed = {"train.max_steps": steps, "optim.schedule": schedule, **(fixed or {})}
        return Desk(tmp_path, mice_folder, sweep=name, made_by=made_by, fixed=fixed, **(RANDOM | changes))

    return made


def store(desk, number=0):
    return Checkpoints(desk.home.checkpoints, desk.sweep, number)


def train(desk, steps=(4, SHORT), value=20.0, best=None, kept=None, equal=False):
    """The next trial as far as these steps, with the checkpoints that its worker keeps; it is best at step `best`."""
    trial = desk.start(f"{desk.sweep}-{len(desk.events(TrialOpened))}")
    number, best = trial.config["number"], steps[-1] if best is None else best
    recipe = override(desk.space.base, desk.driver.ledger.trials[number].params)
    for step in steps:
        figure = value if equal else value + (50 if step == best else step)
        said = {PROTOCOL: "p1", "checkpointing": f"step {step} is kept", f"{MACHINE}threads": "2"}
        metrics = {METRIC: figure, "time/step_seconds": 9.0, "train/loss": 1 / step}
        desk.driver.reported(number, step, metrics, {"val": png(step)}, said)
        desk.now += 10
        trial.last = {"step": step, METRIC: figure}
        if step in (kept or (best, steps[-1])):
            with store(desk, number).workspace() as folder:
                content = checkpoint.Content(
                    torch.nn.Linear(1, 1).state_dict(), recipe, step, {METRIC: figure}, {"at": step}
                )
                store(desk, number).keep(checkpoint.write(folder / f"step-{step:06d}", content))
    return trial


def short(desk, **how):
    """A finished sweep of one trial of SHORT steps."""
    found = desk("short", SHORT)
    trial = train(found, **how)
    found.end(trial)
    found.driver.close("COMPLETE", "")
    assert found.states()[0] == "COMPLETE"
    return found


def test_a_trial_goes_on_from_the_end_of_a_shorter_one_with_its_reports_and_costs_what_is_new(desk):
    short(desk, best=4)
    long = desk("long")
    trial = long.start("a")
    assert (trial.config["attempt"], trial.config["reported"], trial.config["number"]) == (2, SHORT, 0)
    found = long.driver.ledger.trials[0]
    assert (found.continued_from, found.steps_elsewhere, found.steps_made) == ("short t0000", SHORT, 0)
    assert found.state == "RUNNING" and found.curve == ((4, 70.0), (SHORT, 28.0)) and found.best_step == 4
    record = record_of(long.journal, long.now).trial(0)
    assert record.tags[CONTINUED_FROM] == "short t0000" and "time/step_seconds" not in record.metrics
    assert [one.path.read_bytes() for one in record.previews] == [png(4), png(SHORT)]
    recipe = override(long.space.base, found.params)
    with store(long).newest(at_most=SHORT) as (folder, damaged):
        info = checkpoint.inspect(folder)
        assert (info.step, info.recipe, damaged) == (SHORT, recipe, [])
        assert checkpoint.load_training(info)["at"] == SHORT
    assert [one.step for one in store(long).all()] == [4, SHORT]
    long.now += 30
    long.driver.reported(0, STEPS, {METRIC: 99.0}, {}, {f"{MACHINE}threads": "2"})
    trial.last = {"step": STEPS, METRIC: 99.0}
    long.end(trial)
    assert recorded(long.journal, 0).facts["machine threads"] == "2"  # of both attempts
    ended = record_of(long.journal, long.now).trial(0)
    assert (ended.trial.state, ended.busy_seconds, ended.trial.steps_made) == ("COMPLETE", 30.0, STEPS - SHORT)
    assert described(long.driver.ledger) == "1 of 1 trial continued from short, 0 begun here"
    page = sweep_note(record_of(long.journal, long.now), Links("7"))
    assert "1 of 1 trial continued from short, 0 begun here." in page
    page = trial_note(record_of(long.journal, long.now), 0, Links("7"))
    assert "Its first 8 steps are those of `short t0000`, an attempt that cost nothing." in page
    long.driver.close("COMPLETE", "")  # with its releases, which a thread makes
    assert read(long.journal) == long.driver.ledger


def test_time_is_told_by_the_steps_that_were_made_here(desk):
    short(desk)
    long = desk("long")
    trial = long.start("a")
    assert pace(long.driver.ledger) is None and seconds_left_of(record_of(long.journal, long.now)) is None
    long.now += 20
    long.report(trial, STEPS - 2, 30.0)
    two_trials = (2 + 2 * STEPS) / 2 * (20 / (STEPS - 2 - SHORT))
    assert seconds_left_of(record_of(long.journal, long.now)) == pytest.approx(two_trials)


OTHERWISE = {
    "a cosine knows its end": {"schedule": "cosine"},
    "other code": {"made_by": MADE_BY | {CODE: "d" * 64}},
    "fresh": {"fresh": True},
    "fewer steps": {"steps": 6},
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_it_begins_anew_where_the_first_steps_would_be_others(desk, what):
    schedule = OTHERWISE[what].get("schedule", "constant")
    first = desk("short", SHORT, schedule=schedule)
    first.end(train(first))
    other = desk("other", **OTHERWISE[what])
    assert run_out(other)[0]["attempt"] == 1 and not other.events(Reported)


def test_what_was_stopped_by_others_beside_it_goes_on_whatever_the_schedule(desk):
    first = desk("first", schedule="cosine", scheduler=Scheduler(kind="asha", grace_steps=4, reduction_factor=2))
    better, beaten = train(first, steps=(4,), value=50.0), train(first, steps=(4,))
    assert [first.scheduler.on_trial_result(None, one, one.last) for one in (better, beaten)] == ["CONTINUE", "STOP"]
    first.end(beaten)
    assert first.states() == {0: "RUNNING", 1: "PRUNED"}
    first.driver.close("KILLED", "stopped")
    again = desk("again", schedule="cosine")
    assert [(one["number"], one["attempt"], one["reported"]) for one in run_out(again)] == [
        (0, 2, 4),
        (1, 2, 4),
        (2, 1, -1),
    ]
    assert described(again.driver.ledger) == "2 of 3 trials continued from first, 0 begun here"  # the third waits


def test_what_is_among_the_weaker_here_is_pruned_before_it_trains(desk):
    first = desk("first")
    first.start("a")
    train(first, steps=(4,))
    first.driver.close("KILLED", "stopped")
    again = desk("again", scheduler=Scheduler(kind="asha", grace_steps=4, reduction_factor=2))
    better = again.start("a")
    assert better.config["attempt"] == 1 and again.report(better, 4, 90.0) == "CONTINUE"
    assert again.start("b").config["number"] == 2
    assert again.states() == {0: "RUNNING", 1: "PRUNED", 2: "RUNNING"}
    assert again.driver.ledger.trials[1].reason.startswith("asha: val/psnr_fg 70 is among the weaker, at step 4 of 12")
    again.session()
    assert again.states() == {0: "WAITING", 1: "PRUNED", 2: "WAITING"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: shutil.rmtree(folder / "step-000008"),
        lambda folder: (folder / "step-000008" / "model.safetensors").write_bytes(b"damaged"),
        lambda folder: (folder / "step-000008" / "training.pt").unlink(),
        lambda folder: relabel(folder / "step-000008", "optim.lr", 0.5),
        lambda folder: relabel(folder / "step-000008", METRIC, 1.0),
        shutil.rmtree,
    ],
)
def test_what_lacks_its_own_checkpoint_is_trained_whole_and_a_line_says_why(desk, spoil, tmp_path, caplog):
    first = short(desk)
    spoil(tmp_path / "checkpoints" / first.sweep / "t0000")
    long = desk("long")
    assert long.start("a").config["attempt"] == 1 and not long.events(Reported)
    (said,) = [text for text in caplog.messages if text.startswith("t0000: does not go on from short t0000: ")]
    assert "\n" not in said and not store(long).all()


def relabel(folder, name, value):
    """Another training's checkpoint, sound in itself, lies in the place of this one."""
    info = checkpoint.inspect(folder)
    recipe = info.recipe if name == METRIC else override(info.recipe, {name: value})
    metrics = {METRIC: value} if name == METRIC else info.metrics
    training, weights = checkpoint.load_training(info), checkpoint.read_tensors(folder)
    checkpoint.write(folder, checkpoint.Content(weights, recipe, info.step, metrics, training))


def test_a_store_that_does_not_answer_is_asked_once_and_ends_no_sweep(desk, monkeypatch, caplog):
    first = desk("short", SHORT)
    for _ in range(2):
        first.end(train(first))
    first.driver.close("COMPLETE", "")  # with its releases, which ask the store, too
    first.journal.close()
    shutil.copytree(first.journal.folder, first.journal.folder.with_name("twin"))
    long = desk("long")
    asked = []

    def away(kept):
        asked.append(kept)
        raise OutageError("MOUSELIFT_CHECKPOINTS: expected a store that answers, got none for 180 s — bring it back.")

    monkeypatch.setattr(Checkpoints, "all", away)
    assert [config["attempt"] for config in run_out(long)] == [1, 1, 1]
    assert len(asked) == 1 and sum("does not go on from" in text for text in caplog.messages) == 1


def test_a_trial_that_its_own_sweep_took_up_again_is_left_alone_and_counts_as_it_ended_then(desk):
    first = desk("first")
    train(first, steps=(4,))
    first.driver.close("KILLED", "stopped")
    reading = desk("reading")
    first.session()
    again = first.start("b")
    assert again.config["attempt"] == 2 and reading.start("a").config["attempt"] == 1
    assert desk("other").start("a").config["attempt"] == 1
    first.fail(again, RuntimeError("CUDA out of memory. Tried to allocate"))
    assert first.start("c").config["splits"] == 2
    first.driver.close("KILLED", "stopped")
    assert desk("last").start("a").config["attempt"] == 1  # its batches went through the network in parts


def test_a_checkpoint_whose_report_nobody_heard_is_passed_over(desk):
    first = desk("first")
    train(first, steps=(4, SHORT), kept=(4, SHORT))
    lines = first.journal.path.read_text().splitlines(keepends=True)
    first.journal.close()
    first.journal.path.write_text("".join(lines[:-1]))  # the driver was killed before it wrote the last one
    assert '"step": 8' in lines[-1]
    first.session()
    first.driver.close("KILLED", "stopped")
    assert [one.step for one in store(first).all()] == [4, SHORT]
    assert desk("again").start("a").config["reported"] == 4


def test_of_equal_figures_the_later_checkpoint_is_the_best_as_it_is_for_those_who_keep_them(desk):
    short(desk, value=20.0, best=SHORT, kept=(SHORT,), equal=True)
    assert desk("long").start("a").config["reported"] == SHORT


def test_a_chain_goes_on_from_its_last_link(desk):
    first = desk("first", 4)
    first.end(train(first, steps=(4,)))
    second = desk("second", SHORT)
    trial = train(second, steps=(SHORT,))
    assert trial.config["attempt"] == 2
    second.end(trial)
    third = desk("third")
    assert third.start("a").config["reported"] == SHORT
    assert third.driver.ledger.trials[0].continued_from == "second t0000"
    assert third.driver.ledger.trials[0].curve == second.driver.ledger.trials[0].curve


def test_without_its_best_checkpoint_it_goes_on_from_where_another_is_the_best(desk):
    short(desk, steps=(2, 4, SHORT), best=4, kept=(2, SHORT))
    long = desk("long")
    trial = long.start("a")
    assert (trial.config["attempt"], trial.config["reported"]) == (2, 2)
    assert long.driver.ledger.trials[0].curve == ((2, 22.0),)


def test_the_end_of_a_shorter_one_counts_where_a_longer_one_has_figures_too(desk):
    """Here at steps 4 and 8, and at the last."""
    first = desk("short", 6)
    first.end(train(first, steps=(4, 6), best=4))
    assert desk("long").start("a").config["reported"] == 4
    other = desk("other", 6, fixed={"train.seed": 5})
    other.end(train(other, steps=(4, 6)))  # 6 is its best, too, and of 4 there is none
    assert desk("another", fixed={"train.seed": 5}).start("a").config["reported"] == -1


def test_a_kill_between_any_two_files_of_it_leaves_nothing_that_counts(desk, monkeypatch):
    short(desk, best=4)
    killed = desk("killed")
    monkeypatch.setattr(Checkpoints, "keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        killed.start("a")
    monkeypatch.undo()
    assert not killed.events(TrialOpened)
    killed.session()
    assert killed.start("a").config["reported"] == SHORT and [one.step for one in store(killed).all()] == [4, SHORT]


def test_a_kill_between_any_two_events_of_it_loses_steps_at_the_most(desk):
    short(desk, best=4)
    whole = desk("whole")
    whole.start("a")
    lines = whole.journal.path.read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines) + 1):
        folder = whole.home.journal(f"cut{cut}")
        folder.mkdir()
        shutil.copytree(whole.journal.folder / "blobs", folder / "blobs")
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:cut]))
        shutil.copytree(store(whole).folder, f"{whole.home.checkpoints}/cut{cut}/t0000")
        found = desk(f"cut{cut}")
        trial = found.start("b")
        with store(found).newest(trial.config["reported"]) as (start, damaged):
            begins = -1 if start is None else checkpoint.inspect(start).step
        assert not damaged and begins <= trial.config["reported"], cut
        for step in range(max(begins, 0) + 2, STEPS + 1, 2):
            found.report(trial, step, 20.0 + step)
        if found.states()[0] == "RUNNING":
            found.end(trial)
        found.driver.close("KILLED", "")  # its releases are made
        assert found.states()[0] == "COMPLETE" and len(found.events(TrialClosed)) == 1, cut
        ended = found.driver.ledger.trials[0]
        if begins > 0:  # its best there is its best here, and is released
            assert (ended.best_step, checkpoint.inspect(ended.released).step) == (4, 4), cut
        assert (begins > 0) == (cut != 3), cut  # between its opening and its first report it begins anew
        found.journal.close()
        shutil.rmtree(folder)
