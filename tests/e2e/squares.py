"""A registry to test with: squares to look at, random weights from worst to best, a store that has them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from pipeline import GSLRM, checkpoint, load_recipe
from pipeline.cameras import facelift_six
from pipeline.data.scenes import Manifest, write_manifest, write_scene
from sweeps.book.journal import Journal, Reported, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.home import Home
from sweeps.registry.registry import Registry
from sweeps.registry.verification import Verification, verify
from sweeps.space.objective import Objective
from sweeps.tracking.mlflow_writer import MLflowDelivery

NAME = "mouse-gslrm"
OTHER = "mouse-other"
SIZE = 32
OBJECTIVE = Objective("val/psnr", "max")
OVERRIDES = [f"data.image_size={SIZE}", "model.dim=32", "model.head_dim=16", "model.num_layers=1"]


def make_dataset(root, seed=0):
    """Three scenes of a dark square on a transparent ground, one for each split."""
    generator = np.random.default_rng(seed)
    for name in "abc":
        images = np.zeros((6, 48, 48, 4), np.uint8)
        images[:, 16:32, 14:34] = [*generator.integers(40, 160, 3), 255]
        write_scene(root / name, images, facelift_six(48))
    return write_manifest(root, Manifest(name="squares", splits={"train": ("a",), "val": ("b",), "test": ("c",)})).root


def make_checkpoint(folder, seed, overrides=()):
    torch.manual_seed(seed)
    recipe = load_recipe("gslrm_tiny", [*OVERRIDES, *overrides])
    training = {"optimizer": torch.zeros(3)}
    return checkpoint.save(folder, GSLRM(recipe.model), recipe, step=40 + seed, training=training)


def home_at(root):
    return Home.from_environment({"MOUSELIFT_HOME": str(root)})


def finished_run(home):
    """A trial's run as the tracker leaves it."""
    client = MlflowClient(home.tracking_uri, registry_uri=home.tracking_uri)
    experiment = client.create_experiment("gslrm_tiny", (home.artifacts / "gslrm_tiny").as_uri())
    run = client.create_run(experiment, run_name="demo/t0001")
    client.set_terminated(run.info.run_id, "FINISHED", end_time=1_699_999_999_000)
    return run.info.run_id


class World(NamedTuple):
    """A dataset, three verified checkpoints of random weights from worst to best, a store that has them."""

    dataset: Path
    ranked: list[Verification]
    home: Home
    run_id: str


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("registry")
    dataset = make_dataset(root / "squares")
    folders = [make_checkpoint(root / f"step-{seed}", seed) for seed in range(3)]
    verified = [verify(folder, dataset, {}, root / "cache") for folder in folders]
    ranked = sorted(verified, key=lambda one: one.metrics["test/psnr"])
    home = home_at(root / "home")
    registry, run_id = Registry(home), finished_run(home)
    for one in ranked:
        registry.register(NAME, run_id, one, {"sweep": "demo"})
    return World(dataset, ranked, home, run_id)


@pytest.fixture
def dataset(world):
    return world.dataset


@pytest.fixture
def ranked(world):
    return world.ranked


@pytest.fixture
def run_id(world):
    return world.run_id


@pytest.fixture
def home(world, tmp_path):
    """A copy of the store; the models' files are shared."""
    home = home_at(tmp_path / "home")
    home.root.mkdir()
    shutil.copy(world.home.root / "mlflow.db", home.root)
    return home


@pytest.fixture
def registry(home):
    return Registry(home, clock=lambda: 1_700_000_000.0)


@pytest.fixture
def client(home):
    return MlflowClient(home.tracking_uri, registry_uri=home.tracking_uri)


@pytest.fixture
def three(registry):
    """Versions 1, 2, 3 of NAME, each better than the one before."""
    return registry.list_versions(NAME)[::-1]


def aliases(registry, name=NAME):
    return {alias: version.version for version in registry.list_versions(name) for alias in version.aliases}


def write_sweep(home, name, folders, gates=None, aims=None, figures=None):
    """A finished sweep of a home, one trial for each checkpoint, as the driver and its tracker leave it.

    aims: objectives and constraints of its space. figures: what each trial reported.
    """
    space = {"objective": {"metric": "val/psnr", "mode": "max"}, "space": {}, "trials": {"count": len(folders)}}
    recipe = checkpoint.inspect(folders[0]).recipe
    with Journal(home.journal(name)) as journal:
        journal.append(SweepOpened(name, recipe.name, space | {"gates": gates or {}} | (aims or {}), {}, recipe.params))
        for number, folder in enumerate(folders):
            journal.append(TrialOpened(number, f"ray_{number}", 1, {}, recipe.params, f"print{name}{number}"))
            journal.append(Reported(number, 1, figures[number] if figures else {"val/psnr": 1.0}))
            journal.append(TrialClosed(number, "COMPLETE", "", {"checkpoint": str(folder)}))
        journal.append(SweepClosed("COMPLETE"))
        assert MLflowDelivery(journal, home.tracking_uri, home.artifacts).start().close(240)
