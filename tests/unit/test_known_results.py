"""Nothing twice: a trial whose result another sweep of the home has takes it, and no other trial does."""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

import pytest
import torch

import pipeline
from pipeline import checkpoint
from pipeline.cameras import facelift_ring
from pipeline.previews import Preview
from pipeline.recipes import override
from sweeps.book.journal import (
    TAKEN_FROM,
    CheckpointReleased,
    RunOpened,
    TrialClosed,
    TrialOpened,
)
from sweeps.book.ledger import read
from sweeps.book.provenance import COMPUTING
from sweeps.book.record import PROTOCOL, TARGETS, record_of
from sweeps.book.remaining import pace, seconds_left_of
from sweeps.book.scene_figures import read_scenes
from sweeps.errors import StudyError
from sweeps.preflight.repetition import original
from sweeps.reuse.code_version import CODE, CODE_CHANGED, code_version
from sweeps.reuse.known_results import KnownResults, described
from sweeps.run import driver
from sweeps.run.nodes import COMPUTED_ON, Seat, computed_on
from sweeps.space.objective import Objective
from sweeps.space.plan import Confirm
from sweeps.space.resources import Resources
from sweeps.space.space import Sampler, Scheduler
from tests.unit.test_driver import METRIC, STEPS, ActorDiedError, Desk
from tests.unit.test_gaussians import random_gaussians

MADE_BY = {CODE: "c" * 64, COMPUTED_ON: "cpu, 1 thread"}
RANDOM = {"sampler": Sampler(kind="random", seed=3), "scheduler": Scheduler()}


@pytest.fixture
def desk(tmp_path, mice_folder):
    """A sweep of one home; `made_by` and `data` as of the first one, unless they are given."""

    def made(name, made_by=MADE_BY, data=mice_folder, **changes):
        return Desk(tmp_path, data, sweep=name, made_by=made_by, **(RANDOM | changes))

    return made


def train(desk, value=20.0, tags=None, metric=METRIC):
    """The next trial, with its reports, its run, and its checkpoint released."""
    number = len(desk.events(TrialOpened))
    trial = desk.start(f"{desk.sweep}-{number}")
    number = trial.config["number"]
    for step in (4, 8, STEPS):
        metrics = {metric: value + step, "time/step_seconds": 9.0, "system/x": 1.0, "train/loss": 1 / step}
        said = {PROTOCOL: "p1", TARGETS: "views", "checkpointing": f"step {step} is kept"} | (tags or {})
        scenes = [{"scene": "s0", metric.removeprefix("val/"): value + step}]
        desk.driver.reported(number, step, metrics, {"val": png(step)}, said, scenes)
        desk.now += 10
        trial.last = {"step": step, metric: value + step}
    release(desk, number)
    desk.driver.write(RunOpened(number, f"run-{desk.sweep}-{number}"))
    desk.end(trial)
    return number


def png(step):
    return b"\x89PNG" + bytes([step])


def release(desk, number):
    recipe = override(desk.space.base, desk.driver.ledger.trials[number].params)
    shown = Preview(random_gaussians(3), facelift_ring(32, 3), "scene_000020")
    folder = desk.home.journal(desk.sweep) / "checkpoints" / f"t{number:04d}"
    model = torch.nn.Linear(1, 1)
    checkpoint.save(folder, model, recipe, STEPS, {METRIC: 32.0}, {"optimizer": 1}, shown.writers)
    kept = folder.parents[1] / "gaussians" / f"t{number:04d}" / "step-000012"
    kept.mkdir(parents=True)
    (kept / "preview.ply").write_bytes(b"ply")
    desk.driver.write(CheckpointReleased(number, str(folder)))
    desk.driver._kept(number, kept.parent)


def run_out(desk):
    """Ask until a trial is to be trained, or none is left; the configs that were given."""
    given, before = [], None
    while len(given) < 9 and desk.driver.ledger is not before:  # it takes for a second at most, and is asked again
        before = desk.driver.ledger
        config = desk.driver.next_trial(f"{desk.sweep}-x{len(given)}")
        if config is not None:
            given.append(config)
            before = None
    return given


def swept(desk, **changes):
    """A finished sweep of three trials."""
    found = desk("first", **changes)
    for value in (20.0, 22.0, 21.0):
        train(found, value)
    found.driver.close("COMPLETE", "")
    return found


def board(desk):
    return [(trial.number, trial.state, trial.best_value, trial.curve) for trial in desk.driver.ledger.ranked]


def test_runs_that_confirm_the_best_are_taken_from_those_of_another_sweep(desk):
    confirm = Confirm(seeds=2, top=1)
    first = desk("first", confirm=confirm)
    for value in (20.0, 22.0, 21.0, 21.5, 20.5):
        train(first, value)
    first.driver.close("COMPLETE", "")
    again = desk("again", confirm=confirm)
    assert run_out(again) == [] and again.driver.is_over
    assert board(again) == board(first) and again.driver.ledger.confirmed == first.driver.ledger.confirmed
    assert described(again.driver.ledger) == "5 of 5 trials taken from first, 0 trained here"


def test_the_same_sweep_under_another_name_trains_nothing_and_has_the_same_leaderboard(desk):
    first, again = swept(desk), desk("again")
    assert run_out(again) == [] and again.driver.is_over
    assert board(again) == board(first)
    assert described(again.driver.ledger) == "3 of 3 trials taken from first, 0 trained here"
    reasons = {trial.reason for trial in again.driver.ledger.trials.values()}
    assert reasons == {f"taken from first t000{n}" for n in range(3)}
    assert read(again.journal) == again.driver.ledger


def test_what_is_taken_has_its_figures_pictures_checkpoint_and_source_and_cost_nothing(desk):
    swept(desk)
    again = desk("again")
    run_out(again)
    one = record_of(again.journal, again.now).trial(1)
    assert one.tags[TAKEN_FROM] == "first t0001" and one.tags[f"{TAKEN_FROM}.run_id"] == "run-first-1"
    assert (one.protocol, "checkpointing" in one.tags) == ("p1", False)
    assert set(one.metrics) == {METRIC, "train/loss"} and len(one.metrics[METRIC]) == 3
    assert (one.busy_seconds, one.step_seconds) == (0.0, None)
    assert [preview.path.read_bytes() for preview in one.previews] == [png(step) for step in (4, 8, STEPS)]
    assert all(again.journal.folder in preview.path.parents for preview in one.previews)
    assert again.journal.folder in one.scenes.parents and one.tags[TARGETS] == "views"
    assert read_scenes(one.scenes, METRIC).values.tolist() == [one.last(METRIC)]
    released, kept = Path(one.trial.released), Path(one.trial.gaussians)
    assert {released.parents[1], kept.parents[1]} == {again.journal.folder}
    info = checkpoint.inspect(released)
    assert info.step == STEPS and "preview.ply" in info.hashes and not (released / checkpoint.TRAINING).exists()
    assert (kept / "step-000012" / "preview.ply").read_bytes() == b"ply"


def test_what_is_taken_needs_the_other_sweep_no_more(desk):
    first, again = swept(desk), desk("again")
    run_out(again)
    before = record_of(again.journal, 0.0)
    first.journal.close()
    shutil.rmtree(first.journal.folder)
    again.session()
    assert run_out(again) == [] and record_of(again.journal, 0.0).trials[0].trial == before.trials[0].trial
    for trial in again.driver.ledger.trials.values():
        checkpoint.inspect(trial.released)


def test_data_that_lies_elsewhere_is_the_same_by_its_content_and_the_checkpoint_names_where_it_lies(desk, mice_copy):
    swept(desk)
    moved = desk("moved", data=mice_copy)
    assert run_out(moved) == []
    assert checkpoint.inspect(moved.driver.ledger.trials[0].released).recipe.data.root == str(mice_copy)


CHANGES = {
    "fresh": {"fresh": True},
    "code": {"made_by": MADE_BY | {CODE: "d" * 64}},
    "threads": {"made_by": MADE_BY | {COMPUTED_ON: "cpu, 2 threads"}},
    "no code": {"made_by": None},
    "objective": {"objective": Objective("val/ssim", "max")},
}


@pytest.mark.parametrize("what", CHANGES)
def test_nothing_is_taken_where_anything_that_decides_the_figures_is_another(desk, what):
    swept(desk)
    other = desk("other", **CHANGES[what])
    assert len(run_out(other)) == 3 and not other.events(TrialClosed)


def test_another_recipe_takes_nothing(desk):
    first = swept(desk)
    other = desk("other")
    other.space = first.space.with_fixed({"train.seed": 7})
    other.session()
    assert len(run_out(other)) == 3


def test_a_sweep_that_recorded_no_code_gives_nothing(desk):
    swept(desk, made_by=None)
    assert len(run_out(desk("again"))) == 3


def test_other_data_take_nothing(desk):
    first = swept(desk)
    known = KnownResults(first.home, "other", first.space.aims, MADE_BY)
    trial = first.driver.ledger.trials[0]
    recipe = override(first.space.base, trial.params)
    digest = first.events(TrialOpened)[0].tags["data.digest"]
    assert [one.origin for one in known.find(recipe, digest, {})] == ["first t0000"]
    assert not list(known.find(recipe, "0" * 64, {}))


@pytest.mark.parametrize(("theirs", "own", "left"), [("h", "h", 0), ("h", "g", 3), (None, "h", 3), ("h", None, 3)])
def test_weights_to_begin_with_are_the_same_by_their_content_wherever_they_lie(desk, theirs, own, left):
    def beginning(name, path, content):
        found = desk(name, tags={"artefact.train.init_from": content} if content else {})
        found.space = found.space.with_fixed({"train.init_from": path})
        found.session()
        return found

    first = beginning("first", "/there/weights", theirs)
    for _ in range(3):
        train(first)
    assert len(run_out(beginning("again", "/here/weights", own))) == left


@pytest.mark.parametrize(
    "spoil",
    [
        lambda first, trial: shutil.rmtree(trial.released),
        lambda first, trial: (Path(trial.released) / "model.safetensors").write_bytes(b"damaged"),
    ],
)
def test_a_result_whose_checkpoint_is_gone_or_damaged_is_trained_again(desk, spoil):
    first = swept(desk)
    spoil(first, first.driver.ledger.trials[1])
    again = desk("again")
    assert [config["number"] for config in run_out(again)] == [1]
    assert again.states() == {0: "COMPLETE", 1: "WAITING", 2: "COMPLETE"}


@pytest.mark.parametrize("tags", [{CODE_CHANGED: "x"}, {PROTOCOL: ""}])
def test_a_trial_whose_process_had_other_code_gives_nothing(desk, tags):
    first = desk("first")
    train(first, tags=tags if CODE_CHANGED in tags else None)
    if PROTOCOL in tags:  # it told two: what it was measured by changed on the way
        lines = first.journal.path.read_text().splitlines(keepends=True)
        first.journal.close()
        at = next(i for i, line in enumerate(lines) if '"step": 8' in line)
        lines[at] = lines[at].replace('"p1"', '"p2"')
        first.journal.path.write_text("".join(lines))
    assert len(run_out(desk("again"))) == 3


def test_a_trial_that_was_interrupted_and_finished_gives_each_step_as_it_was_first_reported(desk):
    first = desk("first")
    trial = first.start("a")
    first.driver.reported(0, 4, {METRIC: 20.0}, {}, {PROTOCOL: "p1"})
    first.fail(trial, ActorDiedError("gone"))
    again = first.start("b")
    for step, value in ((4, 99.0), (8, 21.0), (STEPS, 22.0)):
        first.driver.reported(0, step, {METRIC: value}, {}, {PROTOCOL: "p1"})
    again.last = {"step": STEPS, METRIC: 22.0}
    release(first, 0)
    first.end(again)
    taking = desk("taking")
    assert taking.start("x").config["number"] == 1
    assert taking.driver.ledger.trials[0].curve == ((4, 20.0), (8, 21.0), (STEPS, 22.0))


def test_a_trial_whose_batches_were_in_parts_gives_nothing(desk):
    first = desk("first")
    first.fail(first.start("a"), RuntimeError("CUDA out of memory. Tried to allocate"))
    again = first.start("b")
    assert again.config["splits"] == 2
    first.driver.reported(0, STEPS, {METRIC: 22.0}, {}, {PROTOCOL: "p1"})
    again.last = {"step": STEPS, METRIC: 22.0}
    release(first, 0)
    first.end(again)
    assert first.states()[0] == "COMPLETE" and desk("taking").start("x").config["number"] == 0


def test_only_what_finished_is_taken_and_of_a_sweep_that_still_runs_too(desk):
    first = desk("first")
    train(first)
    running = first.start("r")
    first.report(running, 4, 20.0)
    failed = first.start("f")
    first.fail(failed, ValueError("bad"))
    again = desk("again")
    assert [config["number"] for config in run_out(again)] == [1, 2]
    assert again.driver.ledger.trials[0].taken_from == "first t0000"


def test_a_trial_that_ends_while_another_sweep_runs_is_taken_by_it(desk):
    first, again = desk("first"), desk("again", trials=Resources(count=2, concurrent=1))
    train(first)
    assert again.start("a").config["number"] == 1  # 0 was taken
    later = desk("later")
    again_trial = train(first)
    assert again_trial == 1 and run_out(later)[0]["number"] == 2


def test_ray_hears_its_trials_while_many_results_are_taken_and_the_sweep_is_not_over_meanwhile(desk, monkeypatch):
    swept(desk)
    again = desk("again")
    monkeypatch.setattr(driver, "_TAKING_SECONDS", 0.0)
    seen = [(again.driver.next_trial("a"), again.driver.is_over, len(again.events(TrialClosed))) for _ in range(3)]
    assert seen == [(None, False, 1), (None, False, 2), (None, True, 3)]


def test_what_was_taken_is_taken_on_by_its_origin(desk):
    first, again = swept(desk), desk("again")
    run_out(again)
    first.journal.close()
    shutil.rmtree(first.journal.folder)
    third = desk("third")
    assert run_out(third) == []
    assert third.driver.ledger.trials[2].taken_from == "first t0002"


def test_a_kill_between_any_two_events_is_completed_by_the_next_session(desk):
    first = swept(desk)
    whole = desk("whole")
    run_out(whole)
    lines = whole.journal.path.read_bytes().splitlines(keepends=True)
    whole.driver.close("COMPLETE", "")
    wanted = board(whole)
    for cut in range(1, len(lines) + 1):
        folder = whole.home.journal(f"cut{cut}")
        folder.mkdir()
        shutil.copytree(whole.journal.folder / "blobs", folder / "blobs")
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:cut]))
        found = desk(f"cut{cut}")
        assert run_out(found) == [], cut
        assert board(found) == wanted, cut
        assert all(trial.released and trial.taken_from for trial in found.driver.ledger.trials.values()), cut
        found.journal.close()
        shutil.rmtree(folder)
    assert first.driver.ledger.state == "COMPLETE"


def test_a_copy_that_was_cut_off_and_whose_source_is_gone_is_trained_whole(desk):
    first, again = swept(desk), desk("again")
    run_out(again)
    lines = again.journal.path.read_bytes().splitlines(keepends=True)
    again.journal.close()
    at = next(i for i, line in enumerate(lines) if b'"kind": "Reported"' in line)
    again.journal.path.write_bytes(b"".join(lines[: at + 2]))
    first.journal.close()
    shutil.rmtree(first.journal.folder)
    again.session()
    trial = again.start("a")
    assert (trial.config["number"], trial.config["attempt"]) == (0, 2)
    assert again.driver.ledger.trials[0].taken_from == ""


def test_asha_compares_others_with_what_was_taken(desk):
    changes = {"scheduler": Scheduler(kind="asha", grace_steps=4, reduction_factor=2)}
    first = desk("first", **changes)
    train(first, 30.0)
    again = desk("again", **changes)
    trial = again.start("a")
    assert trial.config["number"] == 1 and again.report(trial, 4, 20.0) == "STOP"
    again.session()
    assert again.states()[0] == "COMPLETE"


def test_the_time_that_is_left_is_not_told_by_the_pace_of_what_was_taken(desk):
    first = desk("first")
    train(first)
    again = desk("again")
    trial = again.start("a")
    assert seconds_left_of(record_of(again.journal, again.now)) is None
    again.now += 60
    again.report(trial, STEPS // 2, 20.0)
    assert seconds_left_of(record_of(again.journal, again.now)) == pytest.approx((60 + 120) / 2)


def test_what_was_taken_tells_a_budget_nothing_of_the_pace(desk):
    """It took no time here. What the preflight measured counts until a trial is trained."""
    swept(desk)
    again = desk("again")
    run_out(again)
    assert pace(again.driver.ledger) is None
    assert again.driver.ledger.spending.at(None)[1] == 0.0


def test_what_was_taken_is_run_again_where_it_was_trained(desk):
    swept(desk)
    again = desk("again")
    run_out(again)
    with pytest.raises(StudyError, match=r"again/t0001: .* got one taken from first t0001 — reproduce that one\."):
        original(again.journal, 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"nonsense\n" + path.read_bytes()),
        lambda path: path.write_bytes(path.read_bytes().replace(b'{"kind": "TrialClosed"', b"{{", 1)),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"step": 8', b'"step": "x"', 1)),
        lambda path: path.write_bytes(b"\x00" * 100 + b"\n"),
    ],
)
def test_a_damaged_journal_is_named_once_and_left_out_and_others_are_read(desk, damage, caplog):
    first = swept(desk)
    first.journal.close()
    shutil.copytree(first.journal.folder, first.journal.folder.with_name("broken"))
    damage(first.journal.folder.with_name("broken") / "journal.jsonl")
    again = desk("again")
    assert run_out(again) == [] and described(again.driver.ledger).startswith("3 of 3 trials taken from first,")
    named = [text for text in caplog.messages if text.startswith("broken: no result is taken from this sweep: ")]
    assert len(named) == 1 and "\n" not in named[0]


def test_a_last_line_that_is_being_written_waits(desk):
    first = swept(desk)
    path = first.journal.path
    content = path.read_bytes()
    end = content.rindex(b'{"kind": "SweepClosed"')
    path.write_bytes(content[: end + 20])
    assert run_out(desk("again")) == []


def test_the_digest_is_of_every_line_of_the_code_and_of_nothing_else(tmp_path):
    package = Path(pipeline.__file__).parent
    copy = tmp_path / "pipeline"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__", "bases"))
    shutil.copytree(package / "bases", copy / "bases")
    same = code_version.__wrapped__(copy)
    assert same == code_version()
    (copy / "notes.md").write_text("words")
    assert code_version.__wrapped__(copy) == same
    losses = copy / "losses.py"
    losses.write_text(losses.read_text().replace("** 2", "** 2.0", 1) + "\n")
    changed = code_version.__wrapped__(copy)
    assert changed != same
    losses.rename(copy / "losses_of_old.py")
    assert code_version.__wrapped__(copy) not in (same, changed)


def test_a_changed_line_in_a_loss_takes_nothing(desk, tmp_path):
    copy = tmp_path / "pipeline"
    shutil.copytree(Path(pipeline.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = MADE_BY | {CODE: code_version.__wrapped__(copy)}
    swept(desk, made_by=before)
    assert run_out(desk("again", made_by=before)) == []
    (copy / "losses.py").write_text((copy / "losses.py").read_text() + "# a line\n")
    after = MADE_BY | {CODE: code_version.__wrapped__(copy)}
    assert len(run_out(desk("changed", made_by=after))) == 3


def test_the_kind_of_machine_tells_what_rounding_depends_on():
    assert computed_on([Seat(1)]) == "cpu, 1 thread"
    assert computed_on([Seat(4), Seat(4)]) == "cpu, 2 processes of 4 threads"
    assert computed_on([Seat(4, 0.5)]) == "cuda" == computed_on([Seat(8, 1.0)])


def test_every_library_that_the_science_imports_was_judged():
    """One that computes counts in the digest of the code; the others are named here, with what they do."""
    reads_or_shows = {"av", "embreex", "jaxtyping", "psutil", "pydantic", "rich", "safetensors", "threadpoolctl"}
    reads_or_shows |= {"typer", "yaml", "trimesh", "gsply", "onnxruntime", "rembg", "click", "filelock"}
    named = {"PIL": "pillow", "skimage": "scikit-image"}
    found = set()
    for file in Path(pipeline.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    others = found - sys.stdlib_module_names - {"pipeline", "__future__"}
    assert {named.get(name, name) for name in others - reads_or_shows} <= set(COMPUTING)
