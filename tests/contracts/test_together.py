"""Two processes that train one model: the same weights and figures as one alone, and an end for all when one fails."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import signal
import time
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from pipeline import checkpoint, losses
from pipeline.data.batch import HostBatch
from pipeline.data.loader import Loader
from pipeline.errors import DataError, NonFiniteError, PipelineError
from pipeline.recipe import Recipe
from pipeline.training.loop import train
from pipeline.training.processes import leave
from pipeline.training.saving import Report

GSLRM = {
    "a pass in halves": ["train.batch_size=2"],
    "every other pass": ["train.accumulate=2"],
    "of any number of views, in halves": ["train.batch_size=2", "data.min_input_views=1"],
    "masked, in halves and parts": ["train.batch_size=4", "loss.masked=true", "loss.background=0.5"],
    "skipping": ["train.batch_size=2", "optim.grad_clip_norm=1.0e-9", "optim.skip_factor=1.0"],
}
VIEWS = {"views, a pass in halves": ["train.batch_size=2"], "views, every other pass": ["train.accumulate=2"]}
CASES = [*GSLRM, *VIEWS]
SECONDS = 30  # in which the others end when one is killed; they need about one


@dataclass(frozen=True)
class Job:
    """A run, and what goes wrong in it."""

    recipe: Recipe
    splits: int = 1
    resume: Path | None = None
    nan_in: int | None = None  # the process whose third loss is no number
    broken_in: int | None = None  # the process whose third batch cannot be made


@dataclass(frozen=True)
class Told:
    """What one process had to say of a run."""

    reports: list[Report]
    error: PipelineError | None = None


def run(job: Job, folder: Path, cache: Path, rank: int = 0) -> Told:
    whole, calls, made = losses.mse, [], Loader.training_batch

    def training_batch(loader: Loader, step: int, batch_size: int, pieces: int) -> HostBatch:
        if rank == job.broken_in and step == 4 + rank:  # its half of the third pass
            raise DataError("scene_000004: broken")
        return made(loader, step, batch_size, pieces)

    def mse(*args: torch.Tensor | None) -> torch.Tensor:
        calls.append(args)
        return whole(*args) * (math.nan if rank == job.nan_in and len(calls) == 3 else 1.0)

    losses.mse, Loader.training_batch = mse, training_batch  # type: ignore[method-assign]
    reports: list[Report] = []
    try:
        reports.extend(train(job.recipe, folder, job.resume, cache=cache, splits=job.splits))
    except PipelineError as error:
        return Told(reports, error)
    finally:
        losses.mse, Loader.training_batch = whole, made  # type: ignore[method-assign]
    return Told(reports)


def work(rank: int, meeting: Path, jobs: dict[str, Job], out: Path, cache: Path) -> None:
    """One of two processes, in a process of its own."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    told = {name: run(job, out / name, cache, rank) for name, job in jobs.items()}
    (out / f"{rank}.pickle").write_bytes(pickle.dumps(told))
    leave()
    (out / f"{rank}.threads").write_text(threads())


def work_until_killed(rank: int, meeting: Path, recipe: Recipe, out: Path, cache: Path) -> None:
    """The second process ends itself at the third report, the hard way."""
    torch.set_num_threads(1)
    silence = timedelta(minutes=10)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=silence)
    try:
        for report in train(recipe, out, cache=cache):
            if rank == 1 and report.step == 4:
                (out / "killed").write_text(repr(time.time()))
                os.kill(os.getpid(), signal.SIGKILL)
    finally:
        leave()
        (out / "threads").write_text(threads())


def threads() -> str:
    """The names of all threads of this process, also of those that Python did not start, once gloo's have gone.

    The kernel lists a thread for a moment after it was joined.
    """
    names: list[str] = []
    until = time.monotonic() + 1.0
    while not names or ("gloo" in " ".join(names) and time.monotonic() < until):
        names = []
        for name in Path("/proc/self/task").glob("*/comm"):
            with contextlib.suppress(OSError):
                names.append(name.read_text().strip())
    return " ".join(sorted(names))


def both(target, *args: object) -> list[int | None]:
    """Run two processes to their end; their exit codes."""
    processes = [get_context("spawn").Process(target=target, args=(rank, *args)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


@pytest.fixture(scope="module")
def jobs(tiny_recipe, views_recipe, tmp_path_factory, frames_cache) -> dict[str, Job]:
    short = ["train.max_steps=4", "train.validate_every=4"]
    found = {name: Job(tiny_recipe(*overrides, *short)) for name, overrides in GSLRM.items()}
    found["masked, in halves and parts"] = Job(found["masked, in halves and parts"].recipe, splits=2)
    found |= {name: Job(views_recipe(*overrides, *short)) for name, overrides in VIEWS.items()}
    longer = tiny_recipe("train.batch_size=2")
    half = run(Job(longer), tmp_path_factory.mktemp("half"), frames_cache).reports[2].checkpoint
    found["resumed"] = Job(longer, resume=half)
    found["no number in one"] = Job(tiny_recipe("train.batch_size=2", "optim.max_nonfinite_updates=0"), nan_in=1)
    found["left out"] = Job(tiny_recipe("train.batch_size=2", *short), nan_in=1)
    found["broken in one"] = Job(tiny_recipe("train.batch_size=2", "train.report_every=1"), broken_in=1)
    found["indivisible"] = Job(tiny_recipe("train.batch_size=1"))
    return found


@pytest.fixture(scope="module")
def together(jobs, tmp_path_factory, frames_cache) -> list[dict[str, Told]]:
    """What both processes say of every run, made by one pair of them."""
    out = tmp_path_factory.mktemp("together")
    assert both(work, out / "meeting", jobs, out, frames_cache) == [0, 0]
    assert [(out / f"{rank}.threads").read_text().count("gloo") for rank in range(2)] == [0, 0]
    return [pickle.loads((out / f"{rank}.pickle").read_bytes()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(jobs, tmp_path_factory, frames_cache) -> dict[str, Told]:
    out = tmp_path_factory.mktemp("alone")
    return {name: run(jobs[name], out / name, frames_cache) for name in (*CASES, "resumed")}


@pytest.mark.parametrize("case", [*CASES, "resumed"])
def test_two_processes_make_the_weights_of_one(together, alone, case) -> None:
    own, theirs = (load_file(told[case].reports[-1].checkpoint / checkpoint.WEIGHTS) for told in (alone, together[0]))
    assert own.keys() == theirs.keys()
    # Not one by one: a weight whose gradient is nothing but rounding is moved by Adam as far as any other.
    apart = torch.cat([(theirs[name] - tensor).flatten() for name, tensor in own.items()])
    assert float(apart.square().mean().sqrt()) < 0.01 * 1e-3  # a hundredth of a step at this learning rate


@pytest.mark.parametrize("case", [*CASES, "resumed"])
def test_two_processes_report_the_figures_of_one(together, alone, case) -> None:
    for own, theirs in zip(alone[case].reports, together[0][case].reports, strict=True):
        expected = {name: v for name, v in own.metrics.items() if name.startswith(("train/", "val/"))}
        found = {name: v for name, v in theirs.metrics.items() if name.startswith(("train/", "val/"))}
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("case", CASES)
def test_both_processes_report_the_same_at_the_same_steps(together, case) -> None:
    first, second = (
        [(r.step, {k: v for k, v in r.metrics.items() if k.startswith(("train/", "val/"))}) for r in told[case].reports]
        for told in together
    )
    assert first == second


@pytest.mark.parametrize("case", CASES)
def test_one_process_alone_writes(together, case) -> None:
    leader, other = together[0][case].reports[-1], together[1][case].reports[-1]
    assert leader.checkpoint is not None and "val/preview" in leader.images
    assert other.checkpoint is None and other.images == {}


def test_a_loss_that_is_no_number_in_one_process_stops_both_with_the_same_words(together) -> None:
    errors = [told["no number in one"].error for told in together]
    assert [type(error) for error in errors] == [NonFiniteError, NonFiniteError]
    assert str(errors[0]) == str(errors[1])
    assert str(errors[0]).startswith("step 3: expected a finite loss, got nan from mse nan")


def test_an_update_without_a_finite_loss_in_one_process_is_left_out_by_both(together) -> None:
    first, second = (told["left out"].reports[-1] for told in together)
    assert first.metrics["train/nonfinite_updates"] == second.metrics["train/nonfinite_updates"] == 1
    assert first.metrics["train/loss"] == second.metrics["train/loss"]
    assert math.isfinite(first.metrics["train/loss"])
    told = [told["broken in one"] for told in together]
    assert [str(one.error) for one in told] == ["scene_000004: broken"] * 2
    assert [[report.step for report in one.reports] for one in told] == [[1, 2]] * 2


def test_scenes_that_cannot_be_shared_are_refused_in_one_line(together) -> None:
    expected = (
        "train.batch_size: expected 1 × accumulate 1 scenes a step to divide among 2 processes, got a rest — take "
        "fewer processes, or change one of them."
    )
    assert [str(told["indivisible"].error) for told in together] == [expected] * 2


def test_when_one_is_killed_the_other_ends_with_an_error_soon(tiny_recipe, tmp_path, frames_cache) -> None:
    codes = both(work_until_killed, tmp_path / "meeting", tiny_recipe("train.batch_size=2"), tmp_path, frames_cache)
    after = time.time() - float((tmp_path / "killed").read_text())
    assert codes == [1, -signal.SIGKILL] and after < SECONDS
    assert "gloo" not in (tmp_path / "threads").read_text()
