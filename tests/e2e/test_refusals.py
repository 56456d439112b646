"""Bad input: one line that says where, what and what to do; exit code 2; nothing written."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline import GSLRM, checkpoint, load_recipe
from pipeline.data.mice.mice import write_mice
from pipeline.data.mice.recording import write_recording
from pipeline.data.scenes import CAMERAS_FILE, MANIFEST_FILE
from pipeline.files import sha256_of
from tests.e2e.conftest import SMALL, write_space

VIEW = "images/cam_003.png"
SETTINGS = " ".join(f"{path}={value}" for path, value in SMALL.items())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.ler=1.0e-3", "--set: unknown key optim.ler — did you mean optim.lr?"),
        ("optim.lr=fast", "--set: optim.lr: expected a valid number, got 'fast' — write a number."),
        (
            "data.image_size=36",
            "--set: data.image_size: expected a multiple of model.patch_size 8, got 36 — change one "
            "(data.image_size: --set; model.patch_size: its default).",
        ),
        (
            "loss.perceptual=0.5",
            "gslrm_tiny: loss.perceptual_weights: expected the VGG19 weights that loss.perceptual 0.5 needs, "
            "got none — name imagenet-vgg-verydeep-19.mat (`mouselift weights fetch vgg19`) or a FaceLift checkpoint, "
            "or set loss.perceptual=0.0.",
        ),
        (
            "train.init_from=mouse-gslrm@champion",
            "mouse-gslrm: expected a registered model (none yet), got mouse-gslrm — see `mouselift model list`.",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_refused(refused, mice_folder, override, message):
    assert refused("train", "gslrm_tiny", "--data", mice_folder, "--set", override) == message


def test_a_recipe_nobody_wrote_is_refused(refused):
    assert refused("train", "gslrm_tinny") == (
        "gslrm_tinny: expected a YAML file or one of gslrm, gslrm_mouse, gslrm_small, gslrm_tiny, mvdiffusion, "
        "mvdiffusion_mouse, mvdiffusion_small, mvdiffusion_tiny — did you mean gslrm_tiny?"
    )


def test_a_missing_dataset_is_refused(refused, tmp_path):
    assert refused("train", "gslrm_tiny", "--data", tmp_path / "nowhere") == (
        "gslrm_tiny: data.root: expected a file or folder, found none at TMP/nowhere — correct the path."
    )


def test_a_missing_scene_folder_is_refused(refused, mice_copy):
    shutil.rmtree(mice_copy / "scene_000002")
    assert refused("train", "gslrm_tiny", "--data", mice_copy) == (
        "TMP/mice/scene_000002: expected a scene with opencv_cameras.json, found none — check the list or data.root."
    )


def test_a_scene_with_five_of_six_images_is_refused(refused, mice_copy):
    (mice_copy / "scene_000002" / VIEW).unlink()
    assert refused("train", "gslrm_tiny", "--data", mice_copy) == (
        "TMP/mice/scene_000002/images/cam_003.png: expected an image that opencv_cameras.json names, found none — "
        "restore it."
    )


def test_a_dataset_whose_files_were_changed_is_refused(refused, mice_copy):
    (mice_copy / "scene_000002" / VIEW).write_text("no image")
    assert refused("train", "gslrm_tiny", "--data", mice_copy).startswith("TMP/mice: expected the content of digest ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no image", "none of PNG, JPEG, WEBP, TIFF, BMP, GIF, PPM, AVIF"),
        (None, "Truncated File Read"),
    ],
)
def test_an_image_that_is_no_image_is_refused(refused, mice_copy, content, problem):
    (mice_copy / MANIFEST_FILE).unlink()
    view = mice_copy / "scene_000002" / VIEW
    view.write_bytes(content or view.read_bytes()[:300])
    assert refused("train", "gslrm_tiny", "--data", mice_copy, "--set", SETTINGS) == (
        f"TMP/mice/scene_000002/images/cam_003.png: expected an image, got {problem} — restore the file."
    )


def test_a_mirrored_camera_is_refused(refused, mice_copy):
    path = mice_copy / "scene_000002" / CAMERAS_FILE
    cameras = json.loads(path.read_text())
    for row in cameras["frames"][1]["w2c"][:3]:
        row[0] = -row[0]
    path.write_text(json.dumps(cameras))
    assert refused("train", "gslrm_tiny", "--data", mice_copy) == (
        "TMP/mice/scene_000002/opencv_cameras.json: camera 1: expected a rotation with det +1, got det -1 — "
        "the camera is mirrored or scaled; store w2c with x right, y down, z forward."
    )


def test_more_views_than_there_are_is_refused(refused, mice_folder):
    words = ("--set", f"{SETTINGS} data.num_input_views=5 data.num_held_out_views=2")
    assert refused("train", "gslrm_tiny", "--data", mice_folder, *words) == (
        "MICE/scene_000000: expected at least 7 views (data.num_input_views 5 + data.num_held_out_views 2), got 6 — "
        "lower one of them."
    )


@pytest.fixture
def start(tmp_path):
    """A checkpoint folder that a training could start from."""
    recipe = load_recipe("gslrm_tiny", SETTINGS.split())
    torch.manual_seed(0)
    return checkpoint.save(tmp_path / "start", GSLRM(recipe.model), recipe, step=1)


def test_a_checkpoint_with_one_tensor_missing_is_refused(refused, mice_folder, tmp_path, start):
    tensors = load_file(start / checkpoint.WEIGHTS)
    del tensors["input_layer_norm.weight"]
    save_file(tensors, tmp_path / "most.safetensors")
    settings = f"{SETTINGS} train.init_from={tmp_path / 'most.safetensors'}"
    message = refused("train", "gslrm_tiny", "--data", mice_folder, "--set", settings)
    assert message.startswith(f"TMP/most.safetensors: expected the {len(tensors) + 1} tensors of the model; ")
    assert "1 missing: input_layer_norm.weight" in message


def test_a_checkpoint_with_one_bit_turned_is_refused(refused, mice_folder, start):
    weights = start / checkpoint.WEIGHTS
    content, expected = bytearray(weights.read_bytes()), sha256_of(weights)
    content[-1] ^= 1
    weights.write_bytes(content)
    message = refused("train", "gslrm_tiny", "--data", mice_folder, "--set", f"{SETTINGS} train.init_from={start}")
    assert message == (
        f"TMP/start/model.safetensors: expected sha256 {expected[:12]}, got another or no file — it is damaged; "
        "restore it."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"space": {"optim.lr": {"float": [-1.0, 1.0e-3]}}},
            "space.optim.lr: gslrm_tiny with optim.lr=-1.0: optim.lr: expected greater than 0, got -1.0 — raise it.",
        ),
        (
            {"space": {"data.num_input_views": {"choice": [2, 9]}}},
            "space.data.num_input_views: gslrm_tiny with data.num_input_views=9: data.num_input_views: "
            "expected at most data.num_views 5, got 9 — lower it.",
        ),
        (
            {"space": {"optim.ler": {"float": [1.0e-4, 1.0e-3]}}},
            "space.optim.ler: expected a path of recipe gslrm_tiny, got an unknown one — did you mean optim.lr?",
        ),
        (
            {"scheduler": {"kind": "asha", "grace_steps": 12}},
            "scheduler.grace_steps: expected less than train.max_steps 12, got 12 — lower it.",
        ),
        (
            {"gates": {"test/psnr": "at least 20"}},
            "gates: test/psnr: expected a comparison with a number, got 'at least 20' — write it like \">= 25\".",
        ),
    ],
)
def test_a_space_that_does_not_fit_its_recipe_is_refused(refused, mice_folder, tmp_path, changes, message):
    space = write_space(tmp_path / "bad.yaml", **changes)
    assert refused("sweep", "run", space, "--data", mice_folder) == f"TMP/bad.yaml: {message}"


@pytest.mark.parametrize("name", ["../up", "two words", "-x", "n" * 81])
def test_a_name_that_cannot_be_a_folder_is_refused(refused, mice_folder, tmp_path, name):
    space = write_space(tmp_path / "small.yaml")
    assert refused("sweep", "run", space, "--data", mice_folder, f"--name={name}") == (
        f"{name}: expected a name of letters, digits, . _ - (at most 80) — choose another with --name."
    )


def test_gpus_that_are_not_there_are_refused(refused, mice_folder):
    assert refused("train", "gslrm_tiny", "--data", mice_folder, "--gpus", "64") == (
        "gslrm_tiny: expected 64 processes with 1 CPU and 1 GPU for a trial, got none among 1 — "
        "change trials.cpus or trials.gpus, or set RAY_ADDRESS to a cluster that has it."
    )


@pytest.mark.parametrize(
    "command",
    [
        ("fit", "gslrm_tiny", "--out", "out"),
        ("reconstruct", "MICE", "--split", "test", "--model", "model"),
        ("data", "generate", "MICE", "out", "--model", "model"),
        ("model", "promote", "sweep"),
        ("model", "evaluate", "model", "--data", "scenes"),
    ],
)
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "--device: expected cpu, cuda or cuda:N, got gpu — write cuda."),
        ("cuda:99", "--device: expected "),
    ],
)
def test_a_device_that_is_not_there_is_refused_by_every_command(refused, mice_folder, command, device, message):
    words = [str(mice_folder) if word == "MICE" else word for word in command]
    assert refused(*words, "--device", device).startswith(message)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("sweep", "status", "none"), "none: expected a sweep of TMP/home, got none — it has no sweep."),
        (("model", "promote", "none"), "none: expected a sweep of TMP/home, got none — it has no sweep."),
        (
            ("model", "pull", "mouse-gslrm@champion", "--out", "model"),
            "mouse-gslrm: expected a registered model (none yet), got mouse-gslrm — see `mouselift model list`.",
        ),
        (
            ("model", "rollback", "mouse-gslrm"),
            "mouse-gslrm: expected a registered model (none yet), got mouse-gslrm — see `mouselift model list`.",
        ),
        (
            ("model", "import", "none.pt"),
            "none.pt: expected a checkpoint folder, FaceLift's pipeckpts, or a .pt, got nothing there — check "
            "the path.",
        ),
    ],
)
def test_what_is_not_in_the_store_is_refused(refused, command, message):
    assert refused(*command) == message


def test_a_taken_name_is_refused_and_the_sweep_that_has_it_stays_as_it_was(spine, mice_folder):
    def contents():
        return {path: path.stat().st_mtime_ns for path in spine.seat.home.root.rglob("*") if path.is_file()}

    before = contents()
    space = spine.seat.root / "small.yaml"
    done = spine.seat.mouselift("sweep", "run", space, "--data", mice_folder, "--name", "spine")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "mouselift: spine: expected a new name, got that of a sweep (4 of 4 trials ended) — "
        "choose another with --name.\n"
    )
    assert contents() == before


def test_a_taken_name_with_another_space_is_refused_with_the_difference(spine, mice_folder):
    changes = ("--set", "fixed.optim.weight_decay=0.5 trials.count=9")
    space = spine.seat.root / "small.yaml"
    done = spine.seat.mouselift("sweep", "run", space, "--data", mice_folder, "--name", "spine", *changes)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "mouselift: spine: expected a new name, got that of a sweep (4 of 4 trials ended) of another space: "
        "optim.weight_decay: 0.05 -> 0.5; trials.count: 4 -> 9 — choose another with --name.\n"
    )


@pytest.mark.parametrize(
    "words", [("train", "gslrm_tiny", "--set", "optim.ler=1.0e-3"), ("train", "gslrm_tiny", "--data", "nowhere")]
)
def test_the_real_command_says_one_line_and_writes_nothing(seat, words):
    done = seat.mouselift(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert not seat.home.root.exists()
    assert list(seat.folder.iterdir()) == []


# ---------------------------------------------------------------- data


class Trap:
    """What a pickle must not be able to do."""

    def __reduce__(self):
        return os.system, ("touch sprung",)


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("recordings") / "raw", frames=3, scale=0.125, keypoints=False)


@pytest.fixture
def raw(recording, tmp_path):
    """A recording of three frames, to be broken."""
    return Path(shutil.copytree(recording, tmp_path / "raw"))


def cameras_of(raw):
    return pickle.loads((raw / "new_cam.pkl").read_bytes())


def refuse_cameras(raw, cameras):
    (raw / "new_cam.pkl").write_bytes(pickle.dumps(cameras))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda raw: refuse_cameras(raw, [Trap()]), "TMP/raw/new_cam.pkl: expected plain numbers and numpy arrays"),
        (lambda raw: refuse_cameras(raw, dict(enumerate(cameras_of(raw)))), "TMP/raw/new_cam.pkl: expected a list of "),
        (lambda raw: refuse_cameras(raw, cameras_of(raw)[:5]), "TMP/raw/new_cam.pkl: expected 6 cameras "),
        (
            lambda raw: refuse_cameras(raw, [c | {"R": c["R"] @ np.diag([-1, 1, 1])} for c in cameras_of(raw)]),
            "TMP/raw/new_cam.pkl: camera 0: expected a rotation with det +1, got det -1",
        ),
        (
            lambda raw: refuse_cameras(raw, [c | {"T": c["T"] / 1000} for c in cameras_of(raw)]),
            "TMP/raw/new_cam.pkl: ",
        ),
        (lambda raw: (raw / "videos_undist/3.mp4").unlink(), "TMP/raw/videos_undist/3.mp4: expected "),
        (
            lambda raw: (raw / "videos_undist/2.mp4").write_bytes((raw / "videos_undist/2.mp4").read_bytes()[:900]),
            "TMP/raw/videos_undist/2.mp4: expected ",
        ),
    ],
)
def test_a_recording_that_cannot_be_right_is_refused(refused, raw, spoil, message):
    spoil(raw)
    assert refused("data", "convert", raw, "out", "--guard", "0").startswith(message)


def test_millimetres_are_refused_for_training(refused, tmp_path):
    write_mice(tmp_path / "mm", scenes=3, size=64, rig="mouse")
    assert refused("train", "gslrm_tiny", "--data", tmp_path / "mm", "--set", SETTINGS).endswith(
        "millimetres — run `mouselift data normalise`, or set data.normalise=object_centred."
    )


def test_a_swapped_pair_of_views_is_refused_for_training(refused, mice_copy):
    for scene in mice_copy.glob("scene_*"):
        one, other = scene / "images/cam_001.png", scene / "images/cam_004.png"
        one.rename(scene / "aside")
        other.rename(one)
        (scene / "aside").rename(other)
    (mice_copy / MANIFEST_FILE).unlink()
    said = refused("train", "gslrm_tiny", "--data", mice_copy, "--set", SETTINGS)
    assert said.startswith("TMP/mice: expected cameras that fit their images, got ") and "views 1, 4 disagree" in said


def test_a_method_nobody_wrote_is_refused(refused, mice_folder):
    assert refused("data", "normalise", mice_folder, "out", "--method", "object_centered") == (
        "--method object_centered: expected one of object_centred, rig_affine, zoom_exact, facelift_rig, pixel_based, "
        "got an unknown one — did you mean object_centred?"
    )


def test_rgb_off_white_is_refused(refused, mice_copy):
    for scene in mice_copy.glob("scene_*"):
        for path in (scene / "images").iterdir():
            Image.new("RGB", (32, 32), (90, 90, 90)).save(path)
    (mice_copy / MANIFEST_FILE).unlink()
    assert "expected alpha, or a white background to find the object on" in refused("data", "check", mice_copy)
