"""Whether a sweep fits the disk and the memory: what is counted, and what is said when it does not."""

import errno
import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import OutputError
from sweeps.errors import StudyError
from sweeps.home import Home
from sweeps.preflight import disk_and_memory
from sweeps.preflight.disk_and_memory import disk_needs, require_checkpoints, require_disk, require_home, require_memory
from sweeps.preflight.dry_run_messages import Measured
from sweeps.space.resources import Resources
from sweeps.space.space import Retention
from tests.support.spaces import space_with

MEASURED = Measured(
    step_seconds=0.5,
    memory=4_000_000_000,
    memory_total=None,
    checkpoint=3_000_000_000,
    release=1_000_000_000,
    figures=("val/psnr_fg",),
)
SPACE = space_with(name="forty", recipe="gslrm_tiny", trials=Resources(count=40, concurrent=2))


@pytest.fixture
def home(tmp_path):
    return Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home")})


def refusal(check, *arguments):
    with pytest.raises((StudyError, OutputError)) as error:
        check(*arguments)
    return str(error.value)


@pytest.fixture
def elsewhere(home):
    """Checkpoints on another disk than the home's: memory, which every Linux has as one."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == home.root.parent.stat().st_dev:
        pytest.skip("needs a second disk")
    return replace(home, checkpoints=str(memory / "checkpoints"))


def totals(space, home):
    return {need.folder: need.total for need in disk_needs(space, home, MEASURED)}


def test_a_sweep_needs_its_kept_checkpoints_its_releases_and_those_in_the_making(home):
    assert totals(SPACE, home) == {home.root: 40 * (2 * 3e9 + 2 * 1e9) + 2 * 3e9}


def test_a_server_keeps_its_own_copies_of_releases(home):
    served = replace(home, tracking_uri="http://somewhere:5000")
    assert totals(SPACE, served) == {home.root: 40 * (2 * 3e9 + 1e9) + 2 * 3e9}


def test_how_many_checkpoints_are_kept_is_the_space_s_word(home):
    more = replace(SPACE, retention=Retention(best=3, last=1))
    assert totals(more, home) == {home.root: 40 * (4 * 3e9 + 2e9) + 2 * 3e9}


def test_checkpoints_on_a_disk_of_their_own_are_counted_there(elsewhere):
    disk = Path(elsewhere.checkpoints)
    assert totals(SPACE, elsewhere) == {disk: 40 * 2 * 3e9 + 2 * 3e9, elsewhere.root: 40 * 2 * 1e9}


def test_checkpoints_in_s3_need_no_disk(home):
    assert totals(SPACE, replace(home, checkpoints="s3://bucket/prefix")) == {home.root: 40 * 2 * 1e9}


def test_a_disk_that_is_too_small_is_refused_with_both_figures(home, monkeypatch):
    monkeypatch.setattr(disk_and_memory, "free_bytes", lambda folder: 12_100_000_000)
    assert refusal(require_disk, SPACE, *disk_needs(SPACE, home, MEASURED)) == (
        "forty: expected 326 GB for 40 trials × (2 checkpoints of 3 GB + 2 releases of 1 GB) free at "
        f"{home.root}, got 12.1 GB — lower trials.count, make room, or set MOUSELIFT_HOME to a larger disk."
    )


def test_the_disk_that_is_too_small_is_named_with_what_comes_to_it(elsewhere, monkeypatch):
    monkeypatch.setattr(disk_and_memory, "free_bytes", lambda folder: 200_000_000_000)
    checkpoints, releases = disk_needs(SPACE, elsewhere, MEASURED)
    assert refusal(require_disk, SPACE, checkpoints) == (
        "forty: expected 246 GB for 40 trials × (2 checkpoints of 3 GB) free at /dev/shm/checkpoints, got 200 GB — "
        "lower trials.count, make room, or set MOUSELIFT_CHECKPOINTS to a larger disk."
    )
    assert require_disk(SPACE, releases) == "80 GB for 40 trials × (2 releases of 1 GB) at most; 200 GB free"


def test_a_disk_that_is_large_enough_is_told(home, monkeypatch):
    monkeypatch.setattr(disk_and_memory, "free_bytes", lambda folder: 400_000_000_000)
    assert require_disk(SPACE, *disk_needs(SPACE, home, MEASURED)).endswith("at most; 400 GB free")


def test_free_space_is_asked_of_the_nearest_folder_that_exists(tmp_path):
    assert disk_and_memory.free_bytes(tmp_path / "not" / "there" / "yet") > 0
    assert list(tmp_path.iterdir()) == []


def test_trials_that_do_not_fit_the_memory_together_are_refused():
    assert refusal(require_memory, SPACE, MEASURED, 7_500_000_000) == (
        "forty: expected memory for 2 trials at a time of 4 GB each, got 7.5 GB — lower trials.concurrent, "
        "train.batch_size or data.image_size."
    )


def test_one_trial_at_a_time_needs_the_memory_once():
    alone = replace(SPACE, trials=Resources(count=40, concurrent=1))
    assert require_memory(alone, MEASURED, 7_500_000_000) == "1 trial × 4 GB; 7.5 GB free"


def test_a_trial_that_does_not_fit_its_share_of_the_gpu_is_refused():
    half = replace(SPACE, trials=Resources(count=40, concurrent=2, gpus=0.5))
    found = replace(MEASURED, memory=30_000_000_000, memory_total=48_000_000_000)
    assert refusal(require_memory, half, found, 0) == (
        "forty: expected the largest trial to fit 24 GB, its share of the GPU at trials.gpus 0.5, got 30 GB — raise "
        "trials.gpus, or lower train.batch_size, data.num_views or data.image_size."
    )
    whole = replace(SPACE, trials=Resources(count=40, gpus=1.0))
    assert require_memory(whole, found, 0) == "30 GB of a trial's 48 GB on the GPU"


@pytest.mark.parametrize(("limit", "available"), [("max", None), ("5000000000", 3_000_000_000)])
def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch, limit, available):
    machine = disk_and_memory.available_bytes()
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("2500000000\n")
    (tmp_path / "memory.stat").write_text("anon 2000000000\ninactive_file 500000000\n")
    monkeypatch.setattr(disk_and_memory, "_CGROUP", tmp_path)
    expected = machine if available is None else min(machine, available)
    assert disk_and_memory.available_bytes() == pytest.approx(expected, rel=0.2)


def test_a_home_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "home").write_text("mine")
    said = refusal(require_home, Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home" / "runs")}))
    assert said.startswith("MOUSELIFT_HOME: expected a folder that can be written to, got ")
    assert said.endswith(" — make it writable, or name another folder.")
    assert Path(tmp_path / "home").read_text() == "mine"


def test_checkpoints_that_a_file_stands_in_the_way_of_are_refused(tmp_path, home):
    (tmp_path / "disk").write_text("mine")
    said = refusal(require_checkpoints, replace(home, checkpoints=str(tmp_path / "disk" / "checkpoints")))
    assert said.startswith("MOUSELIFT_CHECKPOINTS: expected a folder that can be written to, got ")
    assert said.endswith(" — make it writable, or name another folder.")


def test_asking_a_home_leaves_nothing_in_it(home):
    assert (require_home(home), require_checkpoints(home)) == (str(home.root), home.checkpoints)
    assert not home.root.exists()


@pytest.mark.parametrize("name", ["journal", "artifacts", "ray", "cache"])
def test_a_file_in_the_place_of_a_folder_of_the_home_is_refused(home, name):
    home.root.mkdir()
    (home.root / name).write_text("mine")
    assert f"got a file for {home.root / name}" in refusal(require_home, home)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_home_on_a_file_system_without_locks_is_refused(home, monkeypatch, code):
    def without_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", without_locks)
    assert refusal(require_home, home) == (
        f"MOUSELIFT_HOME: expected a file system that knows locks, got {os.strerror(code)} for {home.root} — mount it "
        "with locks, or name a folder on another disk."
    )
    assert not home.root.exists()
