"""`mouselift check`: a recipe's values, or a table of what was looked into before a sweep; or the first refusal."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import mouselift
from pipeline import GSLRM, checkpoint, load_recipe
from pipeline.files import sha256_of
from sweeps.preflight import checks, disk_and_memory, dry_run_process
from tests.e2e.conftest import SMALL, Seat, write_space

PIPECKPTS = Path(__file__).parents[1] / "golden/mvdiffusion/pipeckpts"
SETTINGS = [f"{path}={value}" for path, value in SMALL.items()]
CHECKS = [
    "space",
    "GPUs",
    "home",
    "artefacts",
    "LPIPS",
    "dataset",
    "geometry",
    "images",
    "masks",
    "steps",
    "checkpoint store",
    "tracking store",
    "study storage",
    "two steps",
    "memory",
    "disk",
]


@pytest.fixture
def say(monkeypatch, capsys, tmp_path):
    """Runs a command in this process, on a home that does not exist; its exit code and what it says."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_TRACKING", "MOUSELIFT", "RAY_A"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MOUSELIFT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["mouselift", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            mouselift.main()
        said = capsys.readouterr()
        return left.value.code, said.out, said.err

    return run


@pytest.fixture
def refused(say, tmp_path):
    """The one line that a command says of a fault, with the test's folder called TMP; nothing is left of it."""

    def run(*words):
        before = set(tmp_path.rglob("*"))
        code, out, err = say(*words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert set(tmp_path.rglob("*")) == before, "something was written"
        return err.removeprefix("mouselift: ").rstrip("\n").replace(str(tmp_path), "TMP")

    return run


@pytest.fixture
def space(tmp_path):
    return write_space(tmp_path / "small.yaml")


@pytest.fixture(scope="module")
def checked(tmp_path_factory, mice_folder):
    """A space checked twice, first by the real command in a fresh process; all it says is JSON."""
    root = tmp_path_factory.mktemp("checked")
    seat = Seat(root, {"TORCH_HOME": str(root / "torch")})
    space = write_space(root / "small.yaml", gates={"test/lpips": "<= 0.2"})
    words = ("check", space, "--data", mice_folder)
    return seat, seat.answer(*words), seat.here(*words)


def test_a_space_is_checked_in_this_order(checked):
    _, answer, _ = checked
    assert [row["check"] for row in answer["checks"]] == CHECKS
    assert (answer["space"], answer["passed"]) == ("small", True)


def test_the_first_and_the_largest_configuration_are_told(checked):
    _, answer, _ = checked
    assert answer["first"] == {"optim.lr": 5.0e-4, "data.num_input_views": 2}
    assert answer["largest"] == {"optim.lr": 4.0e-3, "data.num_input_views": 4}


def test_the_table_has_a_tick_for_each_check(checked):
    _, _, done = checked
    assert done.returncode == 0
    assert [line[3:].split("  ")[0] for line in done.stdout.splitlines() if line.startswith("✓")] == CHECKS
    assert f"small can be swept: {len(CHECKS)} checks" in done.stdout


def test_a_verdict_is_remembered(checked):
    _, answer, done = checked
    assert "as measured before" not in str(answer["checks"])
    assert "as measured before" in done.stdout


def test_a_check_makes_no_store(checked):
    seat, _, _ = checked
    assert {path.name for path in seat.home.root.iterdir()} == {"cache"}


def test_a_name_that_both_have_is_the_recipe_and_says_so(say):
    code, out, err = say("check", "gslrm_tiny", "--json")
    assert (code, json.loads(out)["fingerprint"]) == (0, load_recipe("gslrm_tiny").fingerprint)
    assert err == "gslrm_tiny is a space, too: mouselift check --space gslrm_tiny\n"


def test_the_space_of_a_name_that_both_have_is_asked_for(refused):
    assert refused("check", "--space", "gslrm_tiny") == (
        "gslrm_tiny: data.root: expected a dataset folder, got none — add --set data.root=PATH."
    )


def test_a_name_that_only_a_space_has_is_that_space(refused):
    assert refused("check", "gslrm_losses", "--set", "trials.count=none").startswith("--set: trials.count: expected ")


def test_a_file_with_a_recipe_in_it_is_a_space_and_another_is_a_recipe(say, tmp_path):
    (tmp_path / "mine.yaml").write_text("base: gslrm_tiny\noptim: {lr: 1.0e-4}\n")
    code, out, _ = say("check", tmp_path / "mine.yaml")
    assert code == 0 and out.startswith("# mine, fingerprint ")


def test_a_recipe_is_refused_what_its_training_is_refused(refused, mice_copy):
    alike = "expected another text for each view, got the same for slots 0 and 1"
    assert alike in refused("check", "mvdiffusion_mouse", "--recipe", "--set", f"model.base={PIPECKPTS}")
    (mice_copy / "scene_000002/images/cam_003.png").unlink()
    gone = "TMP/mice/scene_000002/images/cam_003.png: expected an image that opencv_cameras.json names, found none"
    assert refused("check", "gslrm_tiny", "--recipe", "--data", mice_copy).startswith(gone)


def test_a_recipe_is_shown_with_the_data_that_it_can_train_on(say, mice_folder):
    code, out, _ = say(
        "check", "gslrm_tiny", "--recipe", "--data", mice_folder, "--set", "data.image_size=32", "--json"
    )
    assert (code, json.loads(out)["data"]["root"]) == (0, str(mice_folder))


def test_a_name_that_nobody_has_is_refused(refused):
    assert refused("check", "gslrm_loses").endswith("— did you mean gslrm_losses?")


def test_a_home_that_is_a_file_is_refused(refused, space, mice_folder, tmp_path):
    (tmp_path / "home").write_text("mine")
    assert refused("check", space, "--data", mice_folder).startswith("MOUSELIFT_HOME: expected a folder ")


def test_a_tracking_server_that_is_not_there_is_refused(refused, space, mice_folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert refused("check", space, "--data", mice_folder).startswith(
        "MLFLOW_TRACKING_URI: expected an MLflow at http://127.0.0.1:9 that takes writes, got "
    )


def test_a_cluster_that_is_not_there_is_refused(refused, space, mice_folder, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert refused("check", space, "--data", mice_folder) == (
        "RAY_ADDRESS: expected a Ray cluster at 127.0.0.1:9, got [Errno 111] Connection refused — start it, or name "
        "another."
    )


def test_checkpoints_in_a_store_that_does_not_answer_are_refused(refused, space, mice_folder, monkeypatch):
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "key", "AWS_REGION": "us-east-1"}
    for name, value in (
        keys | {"MOUSELIFT_CHECKPOINTS": "s3://sweeps", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    ).items():
        monkeypatch.setenv(name, value)
    assert refused("check", space, "--data", mice_folder).startswith(
        "MOUSELIFT_CHECKPOINTS: expected a store that takes writes at s3://sweeps, got NETWORK_CONNECTION "
    )


def test_a_study_storage_that_is_not_there_is_refused(refused, space, mice_folder, monkeypatch):
    monkeypatch.setenv("MOUSELIFT_STORAGE", "postgresql+psycopg://me:secret@127.0.0.1:9/optuna")
    said = refused("check", space, "--data", mice_folder)
    assert said.startswith("MOUSELIFT_STORAGE: expected a database that takes writes at ") and "secret" not in said


def test_weights_of_another_size_are_refused(refused, mice_folder, tmp_path):
    recipe = load_recipe("gslrm_tiny", [*SETTINGS, "model.num_layers=3"])
    start = checkpoint.save(tmp_path / "start", GSLRM(recipe.model), recipe, step=7)
    space = write_space(tmp_path / "small.yaml", fixed={"train.init_from": str(start)})
    assert refused("check", space, "--data", mice_folder).startswith("TMP/start: expected the ")


def test_weights_that_overflow_are_refused_by_the_steps(refused, mice_folder, tmp_path):
    recipe = load_recipe("gslrm_tiny", SETTINGS)
    start = checkpoint.save(tmp_path / "start", GSLRM(recipe.model), recipe, step=7)
    tensors = {name: torch.full_like(tensor, 1e38) for name, tensor in load_file(start / checkpoint.WEIGHTS).items()}
    save_file(tensors, tmp_path / "huge.safetensors")
    space = write_space(tmp_path / "small.yaml", fixed={"train.init_from": str(tmp_path / "huge.safetensors")})
    assert refused("check", space, "--data", mice_folder).startswith(
        "small: the first configuration (optim.lr 0.0005, data.num_input_views 2): step 1: "
    )


def test_where_weights_came_from_is_told_by_hash_and_step(say, mice_folder, tmp_path):
    recipe = load_recipe("gslrm_tiny", SETTINGS)
    start = checkpoint.save(tmp_path / "start", GSLRM(recipe.model), recipe, step=7)
    space = write_space(tmp_path / "small.yaml", fixed={"train.init_from": str(start)})
    code, out, _ = say("check", space, "--data", mice_folder, "--json")
    found = {row["check"]: row["found"] for row in json.loads(out)["checks"]}
    sha256 = sha256_of(start / checkpoint.WEIGHTS)
    assert code == 0
    assert found["artefacts"] == f"train.init_from {sha256[:12]} of step 7"
    assert found["checkpoint keys"] == "19 of 19 in start"
    assert [*found].index("checkpoint keys") < [*found].index("dataset")  # the data take longer to look at
    assert found["steps"] == "0 of 12, from weights of step 7"
    assert json.loads(out)["tags"]["artefact.train.init_from"] == sha256


@pytest.fixture
def measured(monkeypatch):
    """No process: the steps take what this says."""
    found = dry_run_process.Measured(0.1, 10_000_000_000, None, 2_000_000_000, 1_000_000_000, ("val/psnr_fg",))
    monkeypatch.setattr(dry_run_process.DryRunProcess, "start", lambda self: None)
    monkeypatch.setattr(dry_run_process.DryRunProcess, "send", lambda self, jobs: None)

    def answer(**changes):
        monkeypatch.setattr(dry_run_process.DryRunProcess, "receive", lambda self, where: replace(found, **changes))

    answer()
    return answer


def test_a_disk_that_is_too_small_is_refused(refused, space, mice_folder, measured, monkeypatch):
    measured(memory=1)
    monkeypatch.setattr(disk_and_memory, "free_bytes", lambda folder: 5_000_000_000)
    assert refused("check", space, "--data", mice_folder) == (
        "small: expected 28 GB for 4 trials × (2 checkpoints of 2 GB + 2 releases of 1 GB) free at TMP/home, got 5 GB "
        "— lower trials.count, make room, or set MOUSELIFT_HOME to a larger disk."
    )


def test_a_memory_that_is_too_small_is_refused(refused, space, mice_folder, measured, monkeypatch):
    monkeypatch.setattr(checks, "available_bytes", lambda: 16_000_000_000)
    assert refused("check", space, "--data", mice_folder) == (
        "small: expected memory for 2 trials at a time of 10 GB each, got 16 GB — lower trials.concurrent, "
        "train.batch_size or data.image_size."
    )


def test_an_objective_that_is_never_reported_is_refused(refused, space, mice_folder, measured):
    measured(figures=("val/psnr",))
    assert refused("check", space, "--data", mice_folder) == (
        "small: the first configuration (optim.lr 0.0005, data.num_input_views 2): expected val/psnr_fg among the "
        "figures of a validation, got val/psnr — set objective.metric to one of them."
    )


@pytest.mark.parametrize("command", [("sweep", "run"), ("check",)])
def test_a_sweep_is_refused_what_its_check_is_refused(refused, space, mice_folder, measured, monkeypatch, command):
    monkeypatch.setattr(checks, "available_bytes", lambda: 1)
    assert refused(*command, space, "--data", mice_folder).startswith("small: expected memory for 2 trials at a time ")


def test_a_training_is_checked_like_a_sweep_of_one(refused, mice_folder, measured, monkeypatch):
    monkeypatch.setattr(checks, "available_bytes", lambda: 1)
    said = refused("train", "gslrm_tiny", "--data", mice_folder, "--set", " ".join(SETTINGS))
    assert said.startswith("gslrm_tiny: expected memory for 1 trial at a time ")


def test_data_without_masks_is_refused_where_a_choice_needs_them(refused, mice_copy, tmp_path):
    from PIL import Image

    from pipeline.data.scenes import MANIFEST_FILE

    for path in mice_copy.glob("scene_*/images/*.png"):
        picture = Image.open(path)
        white = Image.new("RGBA", picture.size, "white")
        Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB").save(path)
    (mice_copy / MANIFEST_FILE).unlink()
    values = yaml.safe_load(write_space(tmp_path / "small.yaml").read_text())
    values["fixed"]["loss.alpha"] = 0.0
    values["space"] = {"loss.masked": {"choice": [False, True]}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(values))
    said = refused("check", tmp_path / "small.yaml", "--data", mice_copy)
    assert said.endswith(
        "expected images with alpha, which loss.masked needs, got RGB — add masks, or switch loss.masked off."
    )


def test_a_gate_on_lpips_is_told_to_need_weights_that_are_not_here(checked):
    seat, answer, done = checked
    file = seat.root / "torch/hub/checkpoints/vgg16-397923af.pth"
    note = (
        "small: gates.test/lpips: expected LPIPS's weights, without which no trial becomes champion, got none at "
        f"{file} — `mouselift weights fetch lpips` here before `model promote`, or take the gate away."
    )
    assert note in done.stderr.splitlines()
    assert answer["notes"] == [note]
    assert {row["check"]: row["found"] for row in answer["checks"]}["LPIPS"] == "no weights yet for gates.test/lpips"


def test_an_objective_that_no_trial_could_report_is_refused(refused, space, monkeypatch, tmp_path, mice_folder):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    words = ("--set", "objective.metric=val/lpips", "--set", "objective.mode=min")
    assert refused("check", space, "--data", mice_folder, *words) == (
        "small: objective.metric val/lpips: expected LPIPS's weights, without which no trial reports it, got none at "
        "TMP/torch/hub/checkpoints/vgg16-397923af.pth — `mouselift weights fetch lpips`, or copy "
        "https://download.pytorch.org/models/vgg16-397923af.pth to TMP/torch/hub/checkpoints/vgg16-397923af.pth; "
        "or take another objective."
    )
