"""docs/conclusions.md: its commands do what it says, in its order, by the real processes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from sweeps.book.journal import Journal
from sweeps.book.record import record_of
from tests.e2e.conftest import Seat, write_space

GUIDE = (Path(__file__).parents[2] / "docs" / "conclusions.md").read_text()
COMMANDS = "".join(re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.DOTALL)).splitlines()


@pytest.fixture(scope="module")
def followed(tmp_path_factory, mice_folder):
    """Every command of the guide, on the guide's plan with fewer settings and trainings of a second."""
    seat = Seat(tmp_path_factory.mktemp("guide"))
    (seat.folder / "mice").symlink_to(mice_folder)
    plan = yaml.safe_load(re.search(r"```yaml\n(.*?)```", GUIDE, flags=re.DOTALL)[1])
    write_space(
        seat.folder / "question.yaml",
        plan=plan["plan"] | {"seeds": [0, 1]},
        space={"loss.ssim": {"choice": [0.0, 0.2]}},
        scheduler={"kind": "none"},
        trials={"concurrent": 1},
    )
    said = {}
    for command in COMMANDS:
        run = seat.here if "--json" in command else seat.mouselift
        said[command] = run(*shlex.split(command)[1:])
    return seat, said


def test_each_command_ends_well(followed):
    _, said = followed
    assert [(command, one.returncode) for command, one in said.items()] == [(command, 0) for command in COMMANDS]


def test_the_sweep_ran_what_the_check_announced_and_compared_it(followed):
    seat, said = followed
    check, run, *_ = said.values()
    assert "one_factor: 2 settings × 2 seeds over gslrm_tiny, 4 trials" in check.stdout + check.stderr
    assert [one.params["train.seed"] for one in seat.ledger("question").trials.values()] == [0, 0, 1, 1]
    assert "loss.ssim 0.2" in run.stdout and "against" in run.stdout
    assert "importance" not in run.stdout + run.stderr


def test_the_comparison_is_that_of_the_reported_figures_and_one_scene_tells_nothing_apart(followed):
    """The mice of these tests have one scene to validate: the difference is known, how sure it is cannot be."""
    seat, said = followed
    (one,) = json.loads(said["mouselift sweep compare question --metric val/mask_iou --json"].stdout)["comparisons"]
    record = record_of(Journal(seat.home.journal("question")), 0.0)
    values = {
        (t.trial.params["loss.ssim"], t.trial.params["train.seed"]): t.last("val/mask_iou") for t in record.trials
    }
    difference = sum(values[0.2, seed] - values[0.0, seed] for seed in (0, 1)) / 2
    assert (one["effect"], one["verdict"], one["seeds"]) == ("loss.ssim 0.2", "not told apart", [0, 1])
    assert one["why"] == f"{difference:+.3g}; 2 seeds and 1 scene have no spread"


def test_a_plan_has_no_further_trials(followed):
    seat, _ = followed
    refused = seat.here("sweep", "resume", "question", "--trials", "9")
    assert refused.returncode == 2
    assert "question: expected a search, got a plan, which says what is run" in refused.stderr


def test_a_sweep_that_is_not_there_has_nothing_to_compare(followed):
    seat, _ = followed
    refused = seat.here("sweep", "compare", "nothing")
    assert refused.returncode == 2
    assert "nothing: expected a sweep of" in refused.stderr
