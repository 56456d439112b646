"""By the real command: what another sweep of the home has finished is known to the sampler, and not trained twice. Its
best is confirmed with other seeds, which are.
"""

from __future__ import annotations

import json
import shutil
import statistics

from mlflow import MlflowClient

from pipeline import checkpoint
from sweeps.book.journal import Journal
from sweeps.book.record import record_of
from tests.e2e.conftest import write_space


def test_what_a_sweep_finished_is_known_to_the_next_one_which_takes_it_and_trains_nothing(seat, spine, mice_folder):
    shutil.copytree(spine.seat.home.journal("spine"), seat.home.journal("spine"))
    done = [trial for trial in spine.seat.ledger("spine").ranked if trial.state == "COMPLETE"]
    space = write_space(
        seat.root / "again.yaml",
        enqueue=[trial.params for trial in done],
        trials={"count": len(done), "concurrent": 2},
        confirm={"seeds": 2, "top": 1},
    )
    ended = seat.mouselift("sweep", "run", space, "--data", mice_folder, "--name", "again", "--like", "spine")
    assert ended.returncode == 0, ended.stderr
    assert f"{len(done)} of {len(done) + 2} trials taken from spine, 2 trained here" in ended.stderr
    again = seat.ledger("again")
    known = [trial for trial in spine.seat.ledger("spine").trials.values() if trial.state in ("COMPLETE", "PRUNED")]
    assert [(one.trial, one.params) for one in again.past] == [(trial.number, trial.params) for trial in known]
    assert f"spine: {len(known)} of {len(known)} finished trials known to the sampler" in ended.stderr
    search = again.ranked[: len(done)]
    assert [(trial.params, trial.curve) for trial in search] == [(trial.params, trial.curve) for trial in done]
    taken = [report.metrics for report in seat.reports("again") if report.trial < len(done)]
    assert not any(name.startswith(("time/", "system/")) for metrics in taken for name in metrics)
    status = json.loads(seat.mouselift("sweep", "status", "again", "--json").stdout)
    assert (status["taken"], status["undelivered"]) == (len(done), 0)
    run = MlflowClient(seat.home.tracking_uri).get_run(again.best.run_id)
    source = f"spine t{done[0].number:04d}"
    assert run.data.tags["trial.taken_from"] == source and run.data.tags["trial.reason"] == f"taken from {source}"
    assert run.data.tags["trial.taken_from.run_id"] == spine.seat.runs("spine")[done[0].number]
    assert run.data.metrics["best/val/psnr_fg"] == done[0].best_value and run.info.status == "FINISHED"
    assert checkpoint.inspect(again.best.released).sha256 == checkpoint.inspect(done[0].released).sha256
    _its_best_is_confirmed(seat, again, ended.stderr, status)


def _its_best_is_confirmed(seat, again, said, status):
    confirming = [trial for trial in again.trials.values() if trial.confirms is not None]
    base = again.params["train.seed"]
    assert [(one.confirms, one.params["train.seed"]) for one in confirming] == [
        (again.best.number, base + n) for n in (1, 2)
    ]
    values = [one.best_value for one in confirming]
    (told,) = status["confirmed"]
    assert (told["trial"], told["mean"], told["n"]) == (again.best.number, statistics.fmean(values), 2)
    assert f"t{again.best.number:04d} was ahead in the search" in said and " over 2 seeds (" in said
    client, runs = MlflowClient(seat.home.tracking_uri), seat.runs("again")
    tags = client.get_run(runs[None]).data.tags
    assert tags["best.confirmed"].startswith(f"mean {told['mean']:.4g} over 2 seeds (")
    assert client.get_run(runs[confirming[0].number]).data.tags["trial.confirms"] == f"t{again.best.number:04d}"
    record = record_of(Journal(seat.home.journal("again")), 0.0)
    assert {record.trial(one.number).protocol for one in confirming} == {record.trial(again.best.number).protocol}
