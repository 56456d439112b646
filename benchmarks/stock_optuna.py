"""The sweep of benchmarks.overhead as Optuna in two processes with a figure at a time to MLflow does it."""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.overhead import SLOTS, TRIALS
from pipeline.recipes import load_recipe, override
from pipeline.training.loop import train


def work(recipe: str, root: str, share: int) -> None:
    """Some of the trials, one after the other."""
    torch.set_num_threads(1)
    mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
    study = optuna.load_study(storage=JournalStorage(JournalFileBackend(f"{root}/optuna.log")), study_name="stock")

    def objective(trial: optuna.Trial) -> float:
        began = time.perf_counter()
        lr = trial.suggest_float("lr", 1e-5, 1e-3, log=True)
        found, value = override(load_recipe(recipe), {"optim.lr": lr}), 0.0
        with tempfile.TemporaryDirectory() as folder, mlflow.start_run():
            mlflow.log_params(trial.params)
            for report in train(found, Path(folder), cache=Path(root) / "cache"):
                for key, figure in report.metrics.items():
                    mlflow.log_metric(key, figure, step=report.step)
                if report.checkpoint is not None:
                    mlflow.log_artifacts(str(report.checkpoint), "checkpoint")
                value = report.metrics.get("val/psnr_fg", value)
                trial.set_user_attr("seconds", time.perf_counter() - began)
        return value

    study.optimize(objective, n_trials=share)


def main() -> None:
    """Print the seconds of each trial as JSON."""
    recipe, root = sys.argv[1], sys.argv[2]
    mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
    mlflow.set_experiment("Default")
    storage = JournalStorage(JournalFileBackend(f"{root}/optuna.log"))
    study = optuna.create_study(storage=storage, study_name="stock", direction="maximize")
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=work, args=(recipe, root, TRIALS // SLOTS)) for _ in range(SLOTS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps([trial.user_attrs["seconds"] for trial in study.trials]))


if __name__ == "__main__":
    main()
