"""A trial of two processes: the same command, the same books."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import write_space
from tests.e2e.faults.invariants import check


@pytest.mark.faults
def test_a_sweep_whose_trials_have_two_processes_is_like_any_other(seat, mice_folder):
    space = write_space(
        seat.root / "pairs.yaml",
        fixed={"train.batch_size": 2},
        trials={"count": 2, "concurrent": 1, "workers": 2},
        scheduler={"kind": "none"},
    )
    done = seat.mouselift("sweep", "run", space, "--data", mice_folder, "--name", "pairs")
    assert done.returncode == 0, done.stderr
    assert check(seat, "pairs").wrong == []
    assert set(seat.curve("pairs", 0)) == {4, 8, 12}
    promoted = seat.answer("model", "promote", "pairs")
    assert "champion" in promoted["aliases"]
