"""Checkpoints that a thread writes while training goes on: of their step, whole, and before their report."""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pipeline import checkpoint, kinds, losses
from pipeline.errors import NonFiniteError
from pipeline.recipe import Recipe
from pipeline.training.fit import fit
from pipeline.training.loop import train
from pipeline.training.saving import Report, Reports, copied

SECONDS = 30  # more than eight steps take
BETWEEN = "train.checkpoint_every=2"  # validations are every 4


class SlowDisk:
    """Writes of the checkpoint of step 4 wait, until `goes_on` is set or SECONDS are over, and then may fail."""

    def __init__(self) -> None:
        self.goes_on, self.waited_in_vain = threading.Event(), False
        self.error: OSError | None = None

    def sha256_of(self, path: Path) -> str:
        if "step-000004" in str(path) and path.name == checkpoint.WEIGHTS:
            self.waited_in_vain = not self.goes_on.wait(SECONDS)
            if self.error is not None:
                raise self.error
        return "0" * 64 if self.error else self._whole(path)

    _whole = staticmethod(checkpoint.sha256_of)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    disk = SlowDisk()
    monkeypatch.setattr(checkpoint, "sha256_of", disk.sha256_of)
    return disk


@pytest.fixture
def at_update(request: pytest.FixtureRequest):
    """Have something done before the n-th update of this test, in the thread that trains."""

    def install(number: int, act: Callable[[], object]) -> None:
        updates: list[object] = []

        def count(*args: object) -> None:
            updates.append(args)
            if len(updates) == number:
                act()

        request.addfinalizer(register_optimizer_step_pre_hook(count).remove)

    return install


@pytest.fixture(scope="module", params=["gslrm", "mvdiffusion"])
def recipe(request: pytest.FixtureRequest, tiny_recipe, views_recipe) -> Recipe:
    return {"gslrm": tiny_recipe, "mvdiffusion": views_recipe}[request.param](BETWEEN)


@pytest.fixture(scope="module")
def unbroken(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory, frames_cache: Path) -> list[Report]:
    """Eight steps whose checkpoints are written at once."""
    return list(train(recipe, tmp_path_factory.mktemp("unbroken"), cache=frames_cache))


def half_written(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".*")]


def writing_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def weights(folder: Path | None) -> dict[str, Tensor]:
    assert folder is not None
    return load_file(folder / checkpoint.WEIGHTS)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------- meanwhile


def test_steps_are_made_while_a_checkpoint_is_written_and_nobody_hears_of_them_before_it(
    disk: SlowDisk, at_update, recipe: Recipe, unbroken: list[Report], tmp_path: Path, frames_cache: Path
) -> None:
    at_update(6, disk.goes_on.set)
    folder = tmp_path / "run"
    heard = [
        (report.step, half_written(folder), report.checkpoint and checkpoint.inspect(report.checkpoint).step)
        for report in train(recipe, folder, cache=frames_cache)
    ]
    assert not disk.waited_in_vain
    assert heard == [(1, [], None), (2, [], 2), (4, [], 4), (6, [], 6), (8, [], 8)]
    assert writing_threads() == []
    assert equal(weights(folder / "step-000004"), weights(unbroken[2].checkpoint))
    resumed = list(train(recipe, tmp_path / "resumed", folder / "step-000004", cache=frames_cache))
    assert equal(weights(resumed[-1].checkpoint), weights(unbroken[-1].checkpoint))
    assert [report.step for report in resumed] == [6, 8]  # as of one that was never stopped


# ---------------------------------------------------------------- between validations


def test_a_checkpoint_between_validations_has_no_figures_and_is_whole(unbroken: list[Report]) -> None:
    infos = [checkpoint.inspect(report.checkpoint) for report in unbroken if report.checkpoint is not None]
    assert [info.step for info in infos] == [2, 4, 6, 8]
    assert ["val/psnr_fg" in info.metrics for info in infos] == [False, True, False, True]
    assert all("train/lr" in info.metrics for info in infos)
    assert kinds.load(infos[2].folder).info.step == 6


def test_a_checkpoint_between_validations_has_the_weights_of_its_step(unbroken: list[Report]) -> None:
    *_, validated, between, _ = (report.checkpoint for report in unbroken)
    assert not equal(weights(validated), weights(between))


def test_a_run_goes_on_from_a_checkpoint_between_validations_to_the_bit(
    recipe: Recipe, unbroken: list[Report], tmp_path: Path, frames_cache: Path
) -> None:
    resumed = list(train(recipe, tmp_path, unbroken[3].checkpoint, cache=frames_cache))
    assert equal(weights(resumed[-1].checkpoint), weights(unbroken[-1].checkpoint))


def test_validations_may_be_more_frequent_than_checkpoints(tiny_recipe, tmp_path: Path, frames_cache: Path) -> None:
    rare = tiny_recipe("train.validate_every=2", "train.checkpoint_every=6")
    reports = list(train(rare, tmp_path, cache=frames_cache))
    assert [report.step for report in reports if "val/psnr_fg" in report.metrics] == [2, 4, 6, 8]
    assert [report.step for report in reports if report.checkpoint] == [6, 8]


# ---------------------------------------------------------------- what goes wrong


def test_an_error_comes_after_the_reports_of_the_steps_before_it(
    disk: SlowDisk, tiny_recipe, tmp_path: Path, frames_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls, heard = losses.mse, [], []

    def mse(*args: Tensor | None) -> Tensor:
        calls.append(args)
        if len(calls) == 7:
            disk.goes_on.set()
        return whole(*args) * (math.nan if len(calls) == 7 else 1.0)

    monkeypatch.setattr(losses, "mse", mse)
    strict = tiny_recipe("optim.max_nonfinite_updates=0")
    with pytest.raises(NonFiniteError, match="step 7: "):
        heard.extend((r.step, r.checkpoint) for r in train(strict, tmp_path, cache=frames_cache))
    assert heard == [(1, None), (2, None), (4, tmp_path / "step-000004"), (6, None)]
    assert half_written(tmp_path) == []


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_an_interruption_waits_for_the_checkpoint_in_hand(
    disk: SlowDisk, at_update, tiny_recipe, tmp_path: Path, frames_cache: Path, ending: type[BaseException]
) -> None:
    def interrupt() -> None:
        threading.Timer(0.2, disk.goes_on.set).start()
        raise ending

    at_update(6, interrupt)
    heard = []
    with pytest.raises(ending):
        heard.extend(report.step for report in train(tiny_recipe(), tmp_path, cache=frames_cache))
    assert heard == [1, 2] and half_written(tmp_path) == [] and writing_threads() == []
    assert checkpoint.inspect(tmp_path / "step-000004").step == 4


def test_what_the_thread_raises_ends_the_run_and_leaves_nothing(
    disk: SlowDisk, tiny_recipe, tmp_path: Path, frames_cache: Path
) -> None:
    disk.error = OSError(errno.EIO, "Input/output error")
    disk.goes_on.set()
    heard = []
    with pytest.raises(OSError, match="Input/output error"):
        heard.extend(report.step for report in train(tiny_recipe(), tmp_path, cache=frames_cache))
    assert heard == [1, 2] and list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_leaves_the_checkpoint_out(
    disk: SlowDisk, tiny_recipe, tmp_path: Path, frames_cache: Path
) -> None:
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    disk.goes_on.set()
    reports = {report.step: report for report in train(tiny_recipe(), tmp_path, cache=frames_cache)}
    assert reports[4].unsaved == f"the disk of {tmp_path} is full" and reports[4].checkpoint is None
    assert "val/psnr_fg" in reports[4].metrics and reports[8].checkpoint == tmp_path / "step-000008"


def test_a_run_that_is_left_ends_its_thread(tiny_recipe, tmp_path: Path, frames_cache: Path) -> None:
    reports = train(tiny_recipe(), tmp_path, cache=frames_cache)
    assert [next(reports).step for _ in range(3)] == [1, 2, 4] and writing_threads() != []
    reports.close()
    assert writing_threads() == [] and half_written(tmp_path) == []


def test_what_a_kill_left_half_written_goes_with_the_next_checkpoint(
    tiny_recipe, tmp_path: Path, frames_cache: Path
) -> None:
    (tmp_path / ".step-000004.123.456").mkdir()
    list(fit(tiny_recipe(), tmp_path, "cpu", {}, frames_cache))
    assert half_written(tmp_path) == []


# ---------------------------------------------------------------- the parts


def test_a_copy_is_nobody_elses_and_keeps_its_layout() -> None:
    image = torch.rand(2, 3, 4, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    state = {"a": [image, (torch.ones(2, requires_grad=True), 3)], 0: {"b": None}}
    copy = copied(state)
    taken = copy["a"][0]
    before = taken.clone()
    image.zero_()
    assert torch.equal(taken, before) and taken.stride() == image.stride() and taken.dtype == torch.float64
    assert copy["a"][1][1] == 3 and not copy["a"][1][0].requires_grad and copy[0] == {"b": None}


def test_what_stands_in_several_places_is_copied_once_and_its_views_apart() -> None:
    mean = torch.rand(2, 3)
    copy = copied(({"weight": mean}, {"mean": [mean.detach()], "row": mean[0], "columns": mean.T}))
    once = copy[0]["weight"]
    assert copy[1]["mean"][0] is once and once.data_ptr() != mean.data_ptr()
    assert torch.equal(copy[1]["row"], mean[0]) and torch.equal(copy[1]["columns"], mean.T)


def test_reports_come_in_their_order_however_long_the_writing_takes() -> None:
    goes_on, heard = threading.Event(), []
    with Reports() as reports:
        reports.write(lambda: Report(1 if goes_on.wait(SECONDS) else 0, {}))
        for step in (2, 3):
            reports.add(Report(step, {}))
            heard += reports.ready()
        assert heard == []
        goes_on.set()
        heard += reports.rest()
        reports.add(Report(4, {}))
        heard += reports.ready()
    assert [report.step for report in heard] == [1, 2, 3, 4]


def test_no_report_follows_an_error_of_the_thread() -> None:
    with Reports() as reports:
        reports.write(lambda: Report(1 // 0, {}))
        reports.add(Report(2, {}))
        with pytest.raises(ZeroDivisionError):
            list(reports.rest())
        assert list(reports.rest()) == []
