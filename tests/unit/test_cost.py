"""What `check` multiplies out: the hours of a sweep and the room of its checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeps.home import Home
from sweeps.preflight.cost import cost_of
from sweeps.preflight.dry_run_messages import Measured
from sweeps.space.resources import Resources
from sweeps.space.space import SearchSpace
from tests.support.spaces import space_with

MEASURED = Measured(0.8, 10**9, None, 50 * 2**20, 10 * 2**20, ("val/psnr",), pace=0.1)


def space(count: int, concurrent: int) -> SearchSpace:
    """Trials of 1,050 steps."""
    return space_with("mine", "gslrm_tiny", trials=Resources(count=count, concurrent=concurrent, gpus=0.0))


@pytest.fixture
def home(tmp_path) -> Home:
    return Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})


def test_rounds_of_trials_times_steps_times_the_pace(home):
    """Seven trials, two at a time, are four rounds."""
    found = cost_of(space(7, 2), space(7, 2).base, home, MEASURED)
    assert found.seconds == pytest.approx(4 * 1050 * 0.1) and not found.stops_early
    # Two checkpoints and two copies of the release of each trial, and one checkpoint more of each that runs.
    assert found.bytes == 2**20 * (7 * (2 * 50 + 2 * 10) + 2 * 50)
    time, _, room = str(found).rpartition(", ")
    assert time == "about 7 min on this machine (5 min to 10 min or so, by the pace of a few steps)"
    assert room == "at most 0.9 GiB of checkpoints"


def test_a_sweep_that_may_prune_takes_at_most_so_long(home):
    asha = replace(space(7, 2), scheduler=replace(space(7, 2).scheduler, kind="asha"))
    assert str(cost_of(asha, asha.base, home, MEASURED)).startswith("at most about 7 min on this machine")


def test_without_a_pace_nothing_is_said_of_the_time(home):
    found = cost_of(space(1, 2), space(1, 2).base, home, replace(MEASURED, pace=None))
    assert found.seconds is None and str(found) == "at most 0.2 GiB of checkpoints"
