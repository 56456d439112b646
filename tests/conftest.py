"""What the tests share: one thread, seven small mice and a GS-LRM that trains in a second."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.data.scenes import Dataset, open_dataset
from pipeline.recipe import Recipe
from pipeline.recipes import load_recipe
from sweeps.own_process import ENDING

torch.set_num_threads(1)
# What is ignored here is ignored by every command that is started, as `nohup` wants it. But a script's background job
# ignores Ctrl-C, as does a worker of pytest-xdist, and the tests send these signals to commands.
HANDLERS = {number: signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL for number in ENDING}

# A recipe of its own: the committed ones are tuned now and then, and no test here should mind.
TINY = """
model: {dim: 32, head_dim: 16, num_layers: 2}
data: {image_size: 32, num_views: 6, num_input_views: 4, num_held_out_views: 2}
optim: {lr: 1.0e-3, warmup_steps: 2, grad_clip_norm: 5.0}
train: {max_steps: 8, batch_size: 1, precision: fp32, report_every: 2, validate_every: 4}
"""

TINY_VIEWS = """
model:
  kind: mvdiffusion
  ema_decay: 0.9
  scratch: {channels: [16, 32], head_dim: 16, text_dim: 16}
  sampling: {steps: 3, guidance: 2.0}
data: {image_size: 32, num_views: 6, num_input_views: 1, num_held_out_views: 5, view_sampling: ring}
loss: {kind: denoising}
optim: {lr: 1.0e-3, betas: [0.9, 0.999], weight_decay: 0.0, warmup_steps: 2, schedule: constant}
train: {max_steps: 8, batch_size: 1, precision: fp32, report_every: 2, validate_every: 4}
"""

MakeRecipe = Callable[..., Recipe]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that two processes end together."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist is interrupted at its end, which then is nobody's Ctrl-C."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def _signals_end_what_is_started():
    """A command that ran in this process ignores them when it ends, and so would every command started later."""
    hear()
    yield
    hear()


@pytest.fixture(autouse=True)
def _one_thread():
    """A test may change how many threads this process has, which decides the last bits of what later ones compute."""
    yield
    torch.set_num_threads(1)


def hear() -> None:
    """Let signals do what they do in a terminal's job."""
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)


hear()  # for what fixtures of whole modules start


@pytest.fixture(scope="session")
def mice_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven procedural mice at 32 px, six views each: five to train on, one to validate, one to test. Read only."""
    from pipeline.data.mice.mice import write_mice  # here: tests/gpu go on where embreex is missing

    return write_mice(tmp_path_factory.mktemp("data") / "mice", scenes=7, size=32, rig="mouse_centred")


@pytest.fixture(scope="session")
def mice(mice_folder: Path) -> Dataset:
    return open_dataset(mice_folder)


@pytest.fixture
def mice_copy(mice_folder: Path, tmp_path: Path) -> Path:
    """The same mice, to be broken."""
    return Path(shutil.copytree(mice_folder, tmp_path / "mice"))


@pytest.fixture(scope="session")
def frames_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded frames, shared by every test that loads the mice."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny_recipe(mice_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    """A GS-LRM of two layers, 32 px and eight steps, on the mice; takes `key=value` overrides."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(TINY)
    return lambda *overrides: load_recipe(path, [f"data.root={mice_folder}", *overrides])


@pytest.fixture(scope="session")
def views_recipe(mice_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    """An MVDiffusion from nothing, 32 px and eight steps, on the mice; takes `key=value` overrides."""
    path = tmp_path_factory.mktemp("recipes") / "tiny_views.yaml"
    path.write_text(TINY_VIEWS)
    return lambda *overrides: load_recipe(path, [f"data.root={mice_folder}", *overrides])
