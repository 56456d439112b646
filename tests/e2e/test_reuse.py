"""By the real command: what another sweep of the home has finished is known to the sampler, and not trained twice."""

from __future__ import annotations

import json
import shutil

from mlflow import MlflowClient

from pipeline import checkpoint
from tests.e2e.conftest import write_space


def test_what_a_sweep_finished_is_known_to_the_next_one_which_takes_it_and_trains_nothing(seat, spine, mice_folder):
    shutil.copytree(spine.seat.home.journal("spine"), seat.home.journal("spine"))
    done = [trial for trial in spine.seat.ledger("spine").ranked if trial.state == "COMPLETE"]
    space = write_space(
        seat.root / "again.yaml",
        enqueue=[trial.params for trial in done],
        trials={"count": len(done), "concurrent": 2},
    )
    ended = seat.mouselift("sweep", "run", space, "--data", mice_folder, "--name", "again", "--like", "spine")
    assert ended.returncode == 0, ended.stderr
    assert f"{len(done)} of {len(done)} trials taken from spine, 0 trained here" in ended.stderr
    again = seat.ledger("again")
    known = [trial for trial in spine.seat.ledger("spine").trials.values() if trial.state in ("COMPLETE", "PRUNED")]
    assert [(one.trial, one.params) for one in again.past] == [(trial.number, trial.params) for trial in known]
    assert f"spine: {len(known)} of {len(known)} finished trials known to the sampler" in ended.stderr
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
