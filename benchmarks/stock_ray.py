"""The sweep of benchmarks.overhead as Ray Tune, OptunaSearch and the MLflow callback do it by themselves."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from benchmarks.overhead import SLOTS, TRIALS
from pipeline.recipes import load_recipe, override
from pipeline.training.loop import train


def trial(config: dict[str, Any]) -> None:
    """Train, report, hand over checkpoints."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    recipe = override(load_recipe(config["recipe"]), {"optim.lr": config["lr"]})
    last = 0.0  # OptunaSearch wants the objective in each report
    with tempfile.TemporaryDirectory() as folder:
        for report in train(recipe, Path(folder), cache=Path(config["cache"])):
            last = report.metrics.get("val/psnr_fg", last)
            spent = time.perf_counter() - began
            result = {**report.metrics, "val/psnr_fg": last, "step": report.step, "trial_seconds": spent}
            if report.checkpoint is None:
                tune.report(result)
            else:
                tune.report(result, checkpoint=tune.Checkpoint.from_directory(report.checkpoint))


def main() -> None:
    """Print the seconds of each trial as JSON."""
    recipe, root = Path(sys.argv[1]), Path(sys.argv[2])
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # most reports carry no validation
    ray.init(include_dashboard=False, log_to_driver=False)
    space = {"lr": tune.loguniform(1e-5, 1e-3), "recipe": str(recipe), "cache": str(root / "cache")}
    callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{root / 'mlflow.db'}", experiment_name="stock")
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="val/psnr_fg",
            mode="max",
            num_samples=TRIALS,
            max_concurrent_trials=SLOTS,
            search_alg=OptunaSearch(),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=str(root / "ray"),
            callbacks=[callback],
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        ),
    )
    results = tuner.fit()
    print(json.dumps([result.metrics["trial_seconds"] for result in results]))


if __name__ == "__main__":
    main()
