"""AdamW is fused on every device, and takes up what was saved before it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline import checkpoint
from pipeline.gslrm.model import GSLRM
from pipeline.training.loop import train
from pipeline.training.processes import ALONE
from pipeline.training.update import Part, Updates


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, frames_cache: Path, tiny_recipe) -> Path:
    """The checkpoint of four steps of eight."""
    reports = train(tiny_recipe(), tmp_path_factory.mktemp("half"), cache=frames_cache)
    return next(report.checkpoint for report in reports if report.checkpoint is not None)


def last_weights(recipe, folder: Path, resume: Path, cache: Path) -> dict[str, torch.Tensor]:
    *_, last = train(recipe, folder, resume, cache=cache)
    assert last.checkpoint is not None and last.step == recipe.train.max_steps
    return load_file(last.checkpoint / checkpoint.WEIGHTS)


def test_the_optimizer_is_fused_on_the_cpu(half: Path) -> None:
    groups = checkpoint.load_training(half)["optimizer"]["param_groups"]
    assert [group["fused"] for group in groups] == [True] * len(groups)


def test_a_run_saved_by_the_optimizer_that_was_not_fused_goes_on(half, tmp_path, frames_cache, tiny_recipe) -> None:
    """Fused from then on, as one that was fused from the start."""
    recipe, training = tiny_recipe(), checkpoint.load_training(half)
    for group in training["optimizer"]["param_groups"]:
        group["fused"] = False
    model = GSLRM(recipe.model)
    checkpoint.load_weights(model, half)
    older = checkpoint.save(tmp_path / "older", model, recipe, 4, training=training)
    came = last_weights(recipe, tmp_path / "plain", older, frames_cache)
    fused = last_weights(recipe, tmp_path / "fused", half, frames_cache)
    assert all(torch.equal(came[name], tensor) for name, tensor in fused.items())


def test_a_float16_run_saved_by_the_optimizer_that_was_not_fused_goes_on(tiny_recipe) -> None:
    """The loss scale's check of the gradients is made by the fused optimizer; the others refuse it."""

    def updates() -> Updates:
        return Updates(tiny_recipe("train.precision=fp16"), model, torch.device("cpu"), ALONE)

    def update(one: Updates) -> None:
        loss = model(torch.ones(1, 2)).sum()
        one.scaler.scale(loss).backward()
        one.make(2, [Part.of(loss, {}, {})], lambda: None)

    model = torch.nn.Linear(2, 1)
    first, second = updates(), updates()
    update(first)
    saved, before = first.state(), model.weight.detach().clone()
    for group in saved["optimizer"]["param_groups"]:
        group["fused"] = None
    second.restore(saved)
    update(second)
    assert second.skipped == first.skipped == 0 and not torch.equal(model.weight, before)
