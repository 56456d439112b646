"""docs/sweeps.md: its commands do what it says, in its order, and its YAML is what a space has unless it says more."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from sweeps.space.faults import Faults
from sweeps.space.space import Retention, load_space
from tests.e2e.conftest import Seat, write_space

# Commands that other tests start as processes of their own.
ELSEWHERE = (
    "mouselift check lr.yaml --data mice",
    "mouselift sweep status lr",
    "mouselift sweep gc lr",  # after one with --dry-run
    "mouselift model promote lr",
)
GUIDE = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def followed(tmp_path_factory, mice_folder):
    """Every command of the guide, in its order; what each said. ELSEWHERE has those that other tests start."""
    seat = Seat(tmp_path_factory.mktemp("guide"))
    (seat.folder / "mice").symlink_to(mice_folder)
    write_space(seat.folder / "lr.yaml", trials={"count": 2, "concurrent": 1}, scheduler={"kind": "none"})
    said = {}
    for command in "".join(blocks("sh")).splitlines():
        words = shlex.split(command)
        assert words[0] == "mouselift"
        done = (seat.here if command in ELSEWHERE else seat.mouselift)(*words[1:])
        assert done.returncode == 0, (command, done.stderr)
        said[command] = done
    assert said.keys() >= set(ELSEWHERE)
    return seat, said


def test_the_guide_ends_with_a_champion_of_the_resumed_sweep(followed):
    seat, said = followed
    assert [trial.state for trial in seat.ledger("lr").trials.values()] == ["COMPLETE"] * 3
    assert "is champion" in said["mouselift model promote lr"].stdout


def test_status_tells_how_far_the_sweep_is(followed):
    _, said = followed
    assert said["mouselift sweep status lr"].stdout.startswith("lr: COMPLETE; 2 complete")
    assert "it is not running" in said["mouselift sweep stop lr"].stderr


def test_what_gc_would_remove_it_removes(followed):
    seat, said = followed
    would, did = said["mouselift sweep gc --dry-run"], said["mouselift sweep gc lr"]
    assert would.stdout == did.stdout and "the trial is COMPLETE" in did.stdout
    assert would.stderr.startswith("would free") and did.stderr.startswith("freed")
    left = list(Path(seat.home.checkpoints).rglob("checkpoint.json"))
    assert len(left) == 1 and f"t{seat.ledger('lr').best.number:04d}" in str(left[0])


def test_the_policies_it_shows_are_the_defaults():
    shown = {key: value for block in blocks("yaml") for key, value in yaml.safe_load(block).items()}
    assert shown["faults"] == asdict(Faults())
    assert shown["retention"] == asdict(Retention())


def test_the_rules_it_shows_are_rules(tmp_path):
    shown = next(yaml.safe_load(block) for block in blocks("yaml") if "pruning" in block)
    space = load_space(write_space(tmp_path / "ruled.yaml", fixed={"train.max_steps": 10_000}, **shown))
    assert set(space.pruning.rules) == set(shown["pruning"])
