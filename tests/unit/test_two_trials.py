"""Two trials side by side: what each ran under, whether figures came out again, and what `run diff` says of both."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mouselift
from pipeline.recipes import load_recipe
from sweeps.book.journal import Journal, Reported, RunOpened, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.record import PROTOCOL, Point, TrialRecord, record_of
from sweeps.conclusions.two_trials import (
    Check,
    Conditions,
    Figure,
    Side,
    checks,
    diff,
    figures,
    other_packages,
    outcome,
    recorded,
    tables,
)
from sweeps.errors import StudyError
from sweeps.home import Home
from sweeps.tracking.queries import trial_of
from tests.support.spaces import space_with

COMMIT, RUN = "c" * 40, "4f" * 16
MACHINE = {"machine.cpu": "Xeon", "machine.device": "cpu", "machine.threads": "2"}
PACKAGES = "Torch==2.11.0\nnumpy==2.2.0\nmlflow==3.17.0\n"


def begin(journal: Journal, packages: str | None = PACKAGES, **tags: str) -> None:
    """A session of a sweep; packages: None of a version that recorded none."""
    space = space_with(name="mine", recipe="gslrm_tiny")
    artifacts = {} if packages is None else {"code/packages.txt": journal.keep("packages.txt", packages.encode())}
    known = {"data.digest": "d" * 64, "mlflow.source.git.commit": COMMIT, **tags}
    journal.append(
        SweepOpened(journal.folder.name, "gslrm_tiny", space.as_plain(), known, space.base.params, artifacts)
    )


def attempt(journal: Journal, number: int = 0, machine: dict[str, str] = MACHINE, step: int = 20, **params) -> None:
    """An attempt that reports once."""
    recipe = load_recipe("gslrm_tiny").params | {"data.root": str(journal.folder)} | params
    journal.append(TrialOpened(number, f"r{number}", 1, params, recipe, "print", {PROTOCOL: "p" * 12}))
    metrics = {"val/psnr_fg": 20.0 + number, "train/loss": 0.5, "time/step_seconds": 1.0}
    journal.append(Reported(number, step, metrics, {}, machine))


def ended(journal: Journal, number: int = 0, run: str = RUN) -> Journal:
    journal.append(RunOpened(number, run))
    journal.append(TrialClosed(number, "COMPLETE"))
    return journal


def ran(folder: Path, packages: str | None = PACKAGES, machine: dict[str, str] = MACHINE, **tags: str) -> Journal:
    journal = Journal(folder)
    begin(journal, packages, **tags)
    attempt(journal, machine=machine)
    return ended(journal)


def differing(one: Conditions, other: Conditions) -> list[str]:
    return [check.line for check in checks(one, other) if not check.is_same]


def test_what_is_the_same_is_no_difference(tmp_path):
    one, other = (recorded(ran(tmp_path / name), 0) for name in "ab")
    assert differing(one, other) == []
    assert {"recipe", "seed", "data", "code", "machine cpu", "package torch"} <= one.facts.keys()


def test_a_version_that_changed_is_named_with_both(tmp_path):
    one = recorded(ran(tmp_path / "a"), 0)
    other = recorded(ran(tmp_path / "b", packages="torch==2.12.1\nmlflow==3.17.1\n"), 0)
    assert differing(one, other) == [
        "package torch: then 2.11.0, now 2.12.1",
        "package numpy: then 2.2.0, now not installed",
    ]
    assert other_packages(one, other) == [Check("mlflow", "3.17.0", "3.17.1")]


def test_what_an_older_version_did_not_record_is_said(tmp_path):
    one, other = recorded(ran(tmp_path / "a", packages=None, machine={}), 0), recorded(ran(tmp_path / "b"), 0)
    assert differing(one, other) == [
        "machine cpu: then not recorded, now Xeon",
        "machine device: then not recorded, now cpu",
        "machine threads: then not recorded, now 2",
        "packages: then not recorded, now recorded",
    ]
    assert other_packages(one, other) == []


def test_a_trial_of_two_machines_and_two_versions_ran_under_both(tmp_path):
    journal = Journal(tmp_path)
    begin(journal)
    attempt(journal)
    journal.append(TrialClosed(0, "KILLED"))
    journal.append(SweepClosed("KILLED"))
    begin(journal, packages="torch==2.12.1\n")
    attempt(journal, machine=MACHINE | {"machine.cpu": "EPYC"}, step=40)
    facts = recorded(journal, 0).facts
    assert (facts["machine cpu"], facts["machine device"]) == ("Xeon and EPYC", "cpu")
    assert facts["package torch"] == "2.11.0 and 2.12.1"


def test_code_that_is_not_committed_is_known_by_its_content(tmp_path):
    found = []
    for name, patch in (("a", b"+x"), ("b", b"+y"), ("c", b"+x")):
        journal = Journal(tmp_path / name)
        space = space_with(name="mine", recipe="gslrm_tiny")
        changed = {"code/diff.patch": journal.keep("diff.patch", patch)}
        tags = {"mlflow.source.git.commit": COMMIT}
        journal.append(SweepOpened(name, "gslrm_tiny", space.as_plain(), tags, space.base.params, changed))
        attempt(journal)
        found.append(recorded(journal, 0).facts["uncommitted changes"])
    assert found[0] != found[1] and found[0] == found[2]
    assert recorded(ran(tmp_path / "d"), 0).facts["uncommitted changes"] == "none"


def trial_with(tmp_path: Path, last: int, **curves: dict[int, float]) -> TrialRecord:
    one = record_of(ran(tmp_path), 0.0).trial(0)
    points = {n.replace("_", "/", 1): tuple(Point(s, v, 0.0) for s, v in curve.items()) for n, curve in curves.items()}
    return replace(one, metrics=points, trial=replace(one.trial, last_step=last))


def test_figures_are_compared_to_the_last_bit_over_the_steps_that_were_made(tmp_path):
    loss = {10: math.nan, 20: 0.1}
    then = trial_with(tmp_path / "a", 20, val_psnr={10: 1.0, 20: 2.0}, train_loss=loss, time_x={10: 1.0})
    came = {10: 1.0, 20: math.nextafter(2.0, 3.0), 30: 9.0}
    now = trial_with(tmp_path / "b", 30, val_psnr=came, train_loss=loss)
    same, psnr = figures(then, now)
    assert (same.metric, same.is_same, same.steps) == ("train/loss", True, 2)
    assert (psnr.step, psnr.steps, psnr.differing, psnr.missing, psnr.is_same) == (20, 2, 1, 0, False)
    assert psnr.largest == math.ulp(2.0)


def test_a_step_that_did_not_come_again_is_a_difference(tmp_path):
    then, now = (trial_with(tmp_path / n, 20, val_psnr=c) for n, c in (("a", {10: 1.0, 20: 2.0}), ("b", {10: 1.0})))
    (psnr,) = figures(then, now)
    assert (psnr.step, psnr.missing, psnr.is_same) == (10, 1, False)


SAME, OTHER = Figure("val/psnr", 20, 1.0, 1.0, 2, 0, 0.0, 0), Figure("val/psnr", 20, 1.0, 1.5, 2, 1, 0.5, 0)
CPU, GPU = Check("machine device", "cpu", "cpu"), Check("machine device", "H100", "H100")
TORCH = Check("torch", "1", "2")


@pytest.mark.parametrize(
    ("checked", "figure", "agrees", "said"),
    [
        ([CPU], SAME, True, "1 metrics over 2 steps are the same to the last bit"),
        ([CPU, TORCH], SAME, True, "same to the last bit"),
        ([CPU], OTHER, False, "1 of 1 metrics differ, though nothing else does"),
        ([CPU, TORCH], OTHER, None, "and so does, or is not known, torch: no band is established"),
        ([CPU, Check("packages", None, "recorded")], OTHER, None, "not known, packages"),
        ([GPU], OTHER, None, "no band is established for a GPU"),
        ([GPU], SAME, True, "same to the last bit"),
    ],
)
def test_the_verdict_is_given_only_where_figures_have_to_be_the_same(checked, figure, agrees, said):
    found = outcome(checked, [figure])
    assert found.agrees is agrees and said in found.reason


def side(journal: Journal, number: int = 0) -> Side:
    record = record_of(journal, 0.0)
    return Side(record, record.trial(number), recorded(journal, number))


def two_trials(folder: Path, **of_second: str) -> tuple[Side, Side]:
    """Of two sweeps; the second has another learning rate, and lies elsewhere."""
    first, second = Journal(folder / "one"), Journal(folder / "two")
    begin(first)
    attempt(first)
    begin(second, packages=PACKAGES.replace("2.11.0", "2.12.1"), **of_second)
    attempt(second, **{"optim.lr": 0.5})
    return side(ended(first)), side(ended(second, run="5e" * 16))


def test_run_diff_says_the_settings_and_facts_that_differ_and_not_where_files_lie(tmp_path):
    found = diff(*two_trials(tmp_path))
    (setting,) = found["settings"]
    assert (setting["path"], setting["values"][1]) == ("optim.lr", 0.5)
    assert found["facts"] == [{"name": "package torch", "values": ["2.11.0", "2.12.1"]}]
    assert [run["figures"]["best val/psnr_fg"] for run in found["runs"]] == [{"value": 20.0, "step": 20}] * 2
    assert found["alike"]


def test_figures_of_trials_that_were_measured_differently_share_no_table(tmp_path):
    first, second = two_trials(tmp_path, **{"data.digest": "e" * 64})
    assert not diff(first, second)["alike"]
    assert [len(columns) for columns, _ in tables(first, second)] == [3, 3]
    assert [len(columns) for columns, _ in tables(first, first)] == [5]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MOUSELIFT_CHECKPOINTS", "MOUSELIFT_STORAGE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOUSELIFT_HOME", str(tmp_path))
    two_trials(tmp_path / "journal")
    return Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})


@pytest.mark.parametrize("text", [RUN, "one/0", "one/t0000", "t0000 · one"])
def test_a_trial_is_named_by_its_runs_id_or_by_its_sweep_and_number(home, text):
    journal, number = trial_of(home, text)
    assert (journal.folder.name, number) == ("one", 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one/3", "expected a trial of one, got none of this number"),
        ("three/0", "expected a sweep of .*, got none — it has one, two"),
        ("one", "expected a run of .*, got another text — name it by MLflow's id of it, or as SWEEP/NUMBER"),
        ("ab" * 16, "got none, and MLflow has no run of this id"),
    ],
)
def test_a_text_that_names_no_trial_is_refused(home, text, said):
    with pytest.raises(StudyError, match=said):
        trial_of(home, text)
    assert not (home.root / "mlflow.db").exists()


def test_the_run_of_a_whole_sweep_is_no_trial(home):
    Journal(home.journal("one")).append(RunOpened(None, "77" * 16))
    with pytest.raises(StudyError, match=r"expected the run of a trial, got that of the sweep one — .* such as one/0"):
        trial_of(home, "77" * 16)


def test_the_command_prints_both_forms(home):
    told = CliRunner().invoke(mouselift.app, ["run", "diff", "one/0", "two/0", "--json"])
    assert json.loads(told.stdout)["settings"][0]["path"] == "optim.lr"
    shown = CliRunner().invoke(mouselift.app, ["run", "diff", "one/0", "two/0"]).stdout
    assert "package torch  2.11.0       2.12.1" in shown and "best val/psnr_fg" in shown
