"""Two steps in a process of their own: what they tell, and what is said of a process that breaks."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sweeps.errors import StudyError
from sweeps.preflight import dry_run_process, dry_run_steps
from sweeps.preflight.dry_run_messages import Job, Measured
from sweeps.preflight.dry_run_process import DryRunProcess
from sweeps.preflight.dry_run_steps import attempt, measure, shortened


@pytest.fixture(scope="module")
def job(tiny_recipe, frames_cache):
    return Job(tiny_recipe(), str(frames_cache), threads=1, gpu=False)


def refusal(process, jobs):
    process.send(jobs)
    with pytest.raises(StudyError) as error:
        process.receive("small: the first configuration")
    return str(error.value)


def test_a_shortened_recipe_takes_two_steps_with_every_term(tiny_recipe):
    short = shortened(tiny_recipe("train.accumulate=3", "loss.warmup_steps=4", "optim.lr=1.0e+30"))
    assert (short.train.max_steps, short.train.accumulate, short.loss.warmup_steps, short.optim.lr) == (2, 2, 0, 1.0e-6)


def test_a_copy_is_written_while_the_second_step_is_made_and_its_checkpoint_goes_before_the_next(job, tmp_path):
    short = shortened(job.recipe)
    assert (short.train.validate_every, short.train.checkpoint_every) == (2, 1)
    measure(job, tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-000002"]


@pytest.fixture(scope="module")
def seen(job):
    """One process that meets a sound job, one whose data is gone, and a sound one again; then it is let go."""
    with DryRunProcess() as process:
        broken = replace(job, recipe=replace(job.recipe, data=replace(job.recipe.data, root="/nowhere")))
        process.send([job, broken, job])
        first = process.receive("small: the first configuration")
        with pytest.raises(StudyError) as error:
            process.receive("small: the largest configuration")
        again = process.receive("small: the first configuration")
        folder, child = process._folder, process._process
    return first, str(error.value), again, folder, child


def test_two_steps_tell_time_memory_and_disk(seen):
    found: Measured = seen[0]
    assert found.step_seconds > 0
    assert 1e7 < found.memory < 4e9
    assert 0 < found.release < found.checkpoint < 1e7
    assert "val/psnr_fg" in found.figures


def test_a_refusal_of_the_science_is_passed_on(seen):
    assert seen[1] == (
        "small: the largest configuration: tiny: data.root: expected a file or folder, found none at /nowhere — "
        "correct the path."
    )


def test_the_process_goes_on_after_a_refusal(seen):
    assert seen[2].figures == seen[0].figures
    assert seen[2].checkpoint == pytest.approx(seen[0].checkpoint, rel=0.01)


def test_nothing_stays_of_the_process(seen):
    *_, folder, child = seen
    assert not folder.exists() and child.returncode is not None


@pytest.fixture(params=["SIGKILL", "a signal"])
def told(request):
    """What is said of a SIGKILL: in good order, and while Ray has the exit codes of children thrown away."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL if request.param == "SIGKILL" else signal.SIG_IGN)
    yield request.param
    signal.signal(signal.SIGCHLD, before)


def test_a_process_that_is_killed_is_a_refusal_that_says_so(job, told):
    with DryRunProcess() as process:
        process.start()
        os.kill(process._process.pid, signal.SIGKILL)
        assert refusal(process, [job]) == (
            f"small: the first configuration: expected 2 steps, got a process that was ended by {told} — memory "
            "may have run out; lower train.batch_size, data.num_views or data.image_size."
        )


@pytest.mark.usefixtures("told")
def test_a_process_that_crashes_is_a_refusal_with_its_last_words(job):
    with DryRunProcess() as process:
        said = refusal(process, [replace(job, recipe=None)])
    assert said.startswith("small: the first configuration: expected 2 steps, got a process that ended with 1 — Attrib")
    assert "\n" not in said


def test_a_process_that_hangs_is_a_refusal(job, monkeypatch):
    monkeypatch.setattr(dry_run_process, "_LONGEST_SECONDS", 0.06)
    with DryRunProcess() as process:
        assert refusal(process, [job]) == (
            "small: the first configuration: expected 2 steps within 0.001 min, got none — it hangs, or is too large "
            "for this machine; lower train.batch_size, data.num_views or data.image_size."
        )
        child = process._process
    assert child.returncode == -signal.SIGKILL


def test_a_full_disk_is_told(job, monkeypatch, tmp_path):
    def full(*arguments: object) -> Measured:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dry_run_steps, "measure", full)
    assert attempt(job, tmp_path).text == (
        "expected files that can be read and written, got [Errno 28] No space left on device — make room, or make "
        "them writable."
    )


def test_a_gpu_that_is_too_small_is_told(job, monkeypatch, tmp_path):
    def large(*arguments: object) -> Measured:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has less.")

    monkeypatch.setattr(dry_run_steps, "measure", large)
    assert attempt(job, Path(tmp_path)).text == (
        "expected 2 steps to fit the GPU, got CUDA out of memory — lower train.batch_size, data.num_views or "
        "data.image_size, or set model.checkpoint=layers."
    )
