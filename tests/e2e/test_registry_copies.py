"""What it costs to bring a checkpoint to the registry and back: each file hashed once, its bytes copied once."""

import hashlib
import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from pipeline import checkpoint
from sweeps.errors import RegistryError
from sweeps.registry.promotion import promote_best
from sweeps.registry.registry import Registry
from tests.e2e.squares import NAME, home_at, make_checkpoint, write_sweep

WATCHING = []  # a hook stays until the process ends, so it looks here whether it is wanted


class Traffic(NamedTuple):
    """Of the files of checkpoints: hashes by (name, content), openings by name."""

    hashed: Counter[tuple[str, str]]
    read: Counter[str]
    written: Counter[str]


def _hook(event, arguments):
    """Every file that Python opens, MLflow's copies included; safetensors opens those that it loads by itself."""
    if WATCHING and event == "open" and isinstance(arguments[0], str | os.PathLike):
        name = Path(os.fsdecode(arguments[0])).name
        writing = (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        (WATCHING[0].written if writing else WATCHING[0].read)[name] += 1


@pytest.fixture(scope="module")
def hook():
    sys.addaudithook(_hook)


@pytest.fixture
def watched(hook, monkeypatch):
    """A context in which traffic is counted."""
    digest = hashlib.file_digest

    def counted(file, *arguments):
        found = digest(file, *arguments)
        if WATCHING:
            WATCHING[0].hashed[Path(file.name).name, found.hexdigest()] += 1
        return found

    monkeypatch.setattr(hashlib, "file_digest", counted)

    @contextmanager
    def watching():
        WATCHING.append(Traffic(Counter(), Counter(), Counter()))
        try:
            yield WATCHING[0]
        finally:
            WATCHING.clear()

    return watching


class Sweeps(NamedTuple):
    """A home with the finished sweeps `worse` and `better`, and `other`, whose protocol differs, of one trial each."""

    home: object
    released: dict[str, checkpoint.CheckpointInfo]


@pytest.fixture
def sweeps(world, tmp_path):
    home = home_at(tmp_path / "home")
    settings = {"worse": [], "better": [], "other": ["data.num_input_views=2", "data.num_views=3"]}
    seeds = {"worse": world.ranked[0], "better": world.ranked[2], "other": world.ranked[1]}
    released = {}
    for name, overrides in settings.items():
        root = f"data.root={world.dataset}"
        saved = make_checkpoint(tmp_path / name, seeds[name].checkpoint.step - 40, [root, *overrides])
        folder = checkpoint.strip_training(saved, tmp_path / "released" / name)
        write_sweep(home, name, [folder])
        released[name] = checkpoint.inspect(folder)
    return Sweeps(home, released)


def hashes_of(traffic, *infos):
    """How often each file of these checkpoints was hashed, under whatever path."""
    return {
        (name, digest): traffic.hashed[name, digest]
        for info in infos
        for name, digest in info.hashes.items()
        if name != checkpoint.TRAINING
    }


def test_on_its_way_to_champion_a_checkpoint_is_hashed_once_and_copied_once(sweeps, watched):
    for name in ("worse", "better"):
        with watched() as traffic:
            assert promote_best(sweeps.home, name).alias == "champion"
        assert set(hashes_of(traffic, sweeps.released[name]).values()) == {1}
        assert traffic.written[checkpoint.WEIGHTS] == 1
        assert traffic.read[checkpoint.WEIGHTS] == 2  # to hash it and to copy it
        assert max(traffic.written[file] for file in sweeps.released[name].hashes) == 1


def test_where_the_champion_is_scored_again_it_alone_is_downloaded(sweeps, watched):
    promote_best(sweeps.home, "worse")
    with watched() as traffic:
        promote_best(sweeps.home, "other")
    both = hashes_of(traffic, sweeps.released["worse"], sweeps.released["other"])
    assert set(both.values()) == {1}
    assert traffic.written[checkpoint.WEIGHTS] == 2  # one of them up, the other down


def test_a_pull_and_a_rollback_download_and_hash_once(sweeps, watched, tmp_path):
    for name in ("worse", "better"):
        promote_best(sweeps.home, name)
    with watched() as traffic:
        Registry(sweeps.home).pull(NAME, tmp_path / "pulled")
    assert set(hashes_of(traffic, sweeps.released["better"]).values()) == {1}
    assert (traffic.written[checkpoint.WEIGHTS], traffic.read[checkpoint.WEIGHTS]) == (1, 2)
    with watched() as traffic:
        Registry(sweeps.home).rollback(NAME)
    assert set(hashes_of(traffic, sweeps.released["worse"]).values()) == {1}
    assert (traffic.written[checkpoint.WEIGHTS], traffic.read[checkpoint.WEIGHTS]) == (1, 2)


def test_mlflow_is_told_where_the_files_are_and_how_large_the_model_is(sweeps):
    version = promote_best(sweeps.home, "worse").version
    place = Path(version.source.removeprefix("file://"))
    about = yaml.safe_load((place / "MLmodel").read_text())
    assert about["flavors"]["python_function"]["artifacts"]["checkpoint"]["path"] == "artifacts/checkpoint"
    sizes = [path.stat().st_size for path in (place / "artifacts" / "checkpoint").iterdir()]
    code = (place / about["flavors"]["python_function"]["model_code_path"]).stat().st_size
    assert sum(sizes) <= about["model_size_bytes"] <= sum(sizes) + code


def test_a_release_is_linked_not_copied(sweeps, tmp_path):
    weights = [tmp_path / folder / "worse" / checkpoint.WEIGHTS for folder in (".", "released")]
    assert weights[0].samefile(weights[1])


def test_of_several_objectives_any_of_the_front_is_promoted_and_none_that_breaks_a_constraint(sweeps, world):
    """t0000 is best in the first objective and breaks the bound; t0001 and t0002 are the front."""
    seconds = "time/step_seconds"
    aims = {
        "objectives": [{"metric": "val/psnr", "mode": "max"}, {"metric": seconds, "mode": "min"}],
        "constraints": {"val/mask_iou": ">= 0.5"},
    }
    figures = [
        {"val/psnr": psnr, seconds: time, "val/mask_iou": iou}
        for psnr, time, iou in ((3.0, 0.1, 0.4), (2.0, 0.3, 0.5), (1.0, 0.2, 0.9))
    ]
    folders = [sweeps.released[name].folder for name in ("worse", "better", "worse")]
    write_sweep(sweeps.home, "several", folders, aims=aims, figures=figures)
    assert promote_best(sweeps.home, "several").version.tags["trial.number"] == "1"
    picked = promote_best(sweeps.home, "several", pick=seconds)
    assert picked.version.tags["trial.number"] == "2"
    assert picked.alias == "challenger" and picked.reason.startswith("test/psnr ")  # it is fast, and not better
    with pytest.raises(RegistryError, match=r"got t0000 with val/mask_iou 0.4, wanted >= 0.5 — name another"):
        promote_best(sweeps.home, "several", trial=0)
    with pytest.raises(RegistryError, match=r"expected a finished trial to register, got none — name one with --trial"):
        promote_best(sweeps.home, "several", trial=9)
    assert {version.tags["trial.number"] for version in Registry(sweeps.home).list_versions(NAME)} == {"1", "2"}


def test_where_every_trial_breaks_a_constraint_none_is_promoted(sweeps):
    aims, figures = {"constraints": {"val/mask_iou": ">= 0.5"}}, [{"val/psnr": 3.0, "val/mask_iou": 0.4}]
    write_sweep(sweeps.home, "broken", [sweeps.released["worse"].folder], aims=aims, figures=figures)
    told = r"got none within the constraints \(t0000: val/mask_iou 0.4, wanted >= 0.5\) — name one"
    with pytest.raises(RegistryError, match=told):
        promote_best(sweeps.home, "broken")
