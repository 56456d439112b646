"""Stage 1 by the real commands: sweep, promote, pull, predict in a fresh process, generate; and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from pipeline import kinds
from pipeline.data.scenes import open_dataset
from tests.e2e.conftest import Seat

GOLDEN = Path(__file__).parents[1] / "golden" / "mvdiffusion" / "pipeckpts"
SMALL = {
    "data.image_size": 32,
    "model.scratch.channels": [16, 32],
    "model.scratch.head_dim": 16,
    "model.scratch.text_dim": 16,
    "model.scratch.patch_size": 8,
    "train.max_steps": 40,
    "train.batch_size": 1,
    "train.validate_every": 40,
    "optim.warmup_steps": 2,
}
PREDICT = """
import json, sys
sys.modules["sweeps"] = None
import mlflow, pandas
rows = pandas.DataFrame({"name": ["a", "b"], "image": [open(path, "rb").read() for path in sys.argv[2:4]]})
model = mlflow.pyfunc.load_model("models:/mouse-mvdiffusion@champion")
found = model.predict(rows, params={"steps": 2})
for name, slot, image in zip(found["name"], found["slot"], found["image"]):
    open(f"{sys.argv[1]}/{name}{slot}.png", "wb").write(image)
print(json.dumps({"slots": found["slot"].tolist(), "c2w": found["c2w"].tolist()}))
"""


@pytest.fixture(scope="module")
def seat(tmp_path_factory, mice_folder) -> Seat:
    """A home with a finished and promoted sweep of two trials."""
    root = tmp_path_factory.mktemp("views")
    space = {
        "recipe": "mvdiffusion_tiny",
        "fixed": SMALL,
        "space": {"optim.lr": {"float": [5.0e-4, 4.0e-3], "log": True}},
        "objective": {"metric": "val/consistent_psnr_fg"},
        "trials": {"count": 2, "concurrent": 1},
    }
    (root / "views.yaml").write_text(yaml.safe_dump(space))
    seat = Seat(root)
    done = seat.mouselift("sweep", "run", root / "views.yaml", "--data", mice_folder, "--name", "views")
    assert done.returncode == 0, done.stderr
    assert seat.answer_here("model", "promote", "views")["alias"] == "champion"
    return seat


@pytest.fixture(scope="module")
def pulled(seat) -> Path:
    folder = seat.root / "pulled"
    seat.answer_here("model", "pull", "mouse-mvdiffusion@champion", "--out", folder)
    return folder


def test_the_champion_tells_its_rig_and_its_prompts(seat) -> None:
    (version,) = seat.answer_here("model", "list", "mouse-mvdiffusion")
    assert version["tags"]["rig.name"] == "mouse_centred"
    assert {"rig.sha256", "rig.spread_px", "prompts.sha256", "prompts.style"} <= version["tags"].keys()
    assert {"test/psnr_fg", "test/hull_iou", "test/consistent_psnr_fg"} <= version["metrics"].keys()


def test_what_is_pulled_is_whole(pulled, seat) -> None:
    (version,) = seat.answer_here("model", "list", "mouse-mvdiffusion")
    assert kinds.load(pulled).sha256 == version["tags"]["checkpoint.sha256"]


def test_a_fresh_process_without_this_repository_gets_six_pngs_an_image(seat, pulled, mice_folder, tmp_path) -> None:
    pictures = [mice_folder / f"scene_00000{number}/images/cam_000.png" for number in (5, 6)]
    inherited = {key: value for key, value in seat.environment.items() if key != "PYTHONPATH"}
    uri = {"MLFLOW_TRACKING_URI": seat.home.tracking_uri}
    done = Seat(tmp_path, inherited | uri).run(sys.executable, "-c", PREDICT, tmp_path, *pictures)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["slots"] == [0, 1, 2, 3, 4, 5] * 2
    assert {Image.open(path).size for path in tmp_path.glob("*.png")} == {(32, 32)}
    assert len(list(tmp_path.glob("*.png"))) == 12
    rig = kinds.load(pulled).model.rig.cameras
    torch.testing.assert_close(torch.tensor(said["c2w"][:6]).double().view(6, 4, 4), rig.c2w, atol=1e-6, rtol=0)


def test_scenes_are_generated_by_alias_and_say_so(seat, mice_folder, tmp_path) -> None:
    done = seat.mouselift("data", "generate", mice_folder, tmp_path / "out", "--model", "mouse-mvdiffusion@champion")
    assert done.returncode == 0, done.stderr
    made, source = open_dataset(tmp_path / "out"), open_dataset(mice_folder)
    assert (made.manifest.rig, made.manifest.transforms[-1]["model"]) == ("mouse_centred", "mouse-mvdiffusion@champion")
    assert (made.manifest.splits, made.manifest.parent) == (source.manifest.splits, source.digest)


def refused(seat: Seat, *words: str | Path) -> str:
    """The one line of the refusal; a slow machine says before it how far the checks are."""
    done = seat.here(*words)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("preflight: ")]
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 1), done.stderr
    return lines[0].removeprefix("mouselift: ")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.prompts=wide.pt", "they are of another text encoder"),
        ("model.prompts=zeros.pt", "got zeros"),
        ("model.prompts=five.pt", "the model has 6 views"),
        ("model.base=absent", "model.base: expected a file or folder, found none"),
        ("model.base=no_vae", "found no vae"),
        ("model.base=stock", "expected a multi-view UNet"),
        ("model.base=other", "expected a multi-view pipeline"),
        ("train.init_from=absent", "train.init_from: expected a file or folder, found none"),
    ],
)
def test_what_would_mislead_the_model_is_refused_before_it_trains(seat, mice_folder, setting, message) -> None:
    _write_bad_inputs(seat.folder)
    small = [word for key in ("data.image_size=32", "model.scratch.patch_size=8") for word in ("--set", key)]
    said = refused(seat, "train", "mvdiffusion_tiny", "--data", mice_folder, *small, "--set", setting)
    assert message in said


def test_a_stage_1_checkpoint_makes_no_gaussians(seat, pulled, mice_folder) -> None:
    message = refused(seat, "reconstruct", mice_folder / "scene_000000", "--gaussians", pulled)
    assert "expected a checkpoint of gslrm, got one of mvdiffusion" in message


def _write_bad_inputs(folder: Path) -> None:
    torch.save(torch.randn(6, 77, 768), folder / "wide.pt")
    torch.save(torch.zeros(6, 77, 64), folder / "zeros.pt")
    torch.save(torch.randn(5, 77, 64), folder / "five.pt")
    for name in ("no_vae", "stock", "other"):
        shutil.copytree(GOLDEN, folder / name, dirs_exist_ok=True)
    shutil.rmtree(folder / "no_vae" / "vae")
    _edit(folder / "stock/unet/config.json", _class_name="UNet2DConditionModel")
    _edit(folder / "other/model_index.json", _class_name="StableDiffusionPipeline")


def _edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
