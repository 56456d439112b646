"""Nothing twice, by the real command: what another sweep of the home has finished is taken, and not trained."""

from __future__ import annotations

import json
import shutil

from mlflow import MlflowClient

from pipeline import checkpoint
from tests.e2e.conftest import write_space


def test_what_a_sweep_of_the_home_finished_is_taken_by_the_next_one_and_nothing_is_trained(seat, spine, mice_folder):
    shutil.copytree(spine.seat.home.journal("spine"), seat.home.journal("spine"))
    done = [trial for trial in spine.seat.ledger("spine").ranked if trial.state == "COMPLETE"]
    space = write_space(
        seat.root / "again.yaml",
        enqueue=[trial.params for trial in done],
        trials={"count": len(done), "concurrent": 2},
    )
    ended = seat.mouselift("sweep", "run", space, "--data", mice_folder, "--name", "again")
    assert ended.returncode == 0, ended.stderr
    assert f"{len(done)} of {len(done)} trials taken from spine, 0 trained here" in ended.stderr
    again = seat.ledger("again")
    assert [(trial.params, trial.curve) for trial in again.ranked] == [(trial.params, trial.curve) for trial in done]
    assert not any(name.startswith(("time/", "system/")) for report in seat.reports("again") for name in report.metrics)
    status = json.loads(seat.mouselift("sweep", "status", "again", "--json").stdout)
    assert (status["taken"], status["undelivered"]) == (len(done), 0)
    run = MlflowClient(seat.home.tracking_uri).get_run(again.best.run_id)
    source = f"spine t{done[0].number:04d}"
    assert run.data.tags["trial.taken_from"] == source and run.data.tags["trial.reason"] == f"taken from {source}"
    assert run.data.tags["trial.taken_from.run_id"] == spine.seat.runs("spine")[done[0].number]
    assert run.data.metrics["best/val/psnr_fg"] == done[0].best_value and run.info.status == "FINISHED"
    assert checkpoint.inspect(again.best.released).sha256 == checkpoint.inspect(done[0].released).sha256
