"""Generated scenes: the model's rig and not the source's, provenance, continuing, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import mouselift
from pipeline import checkpoint, kinds
from pipeline.cameras import facelift_six
from pipeline.data.foreground import cut_out
from pipeline.data.generate import generate
from pipeline.data.incoming.picture import SUFFIXES
from pipeline.data.mice.mice import write_mice
from pipeline.data.photo.folders import read_pictures
from pipeline.data.photo.photo import read_photo
from pipeline.data.pictures import pixels_of
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.errors import DataError, PipelineError
from pipeline.mvdiffusion.views import Rig
from pipeline.progress import Tell
from pipeline.training.loop import train

SIZE = 32


class Photographer:
    """Stands for a model that knows every mouse of a dataset from each side; counts what it is asked for."""

    image_size = SIZE

    def __init__(self, truth: Dataset, blank: int | None = None) -> None:
        self.rig = Rig("facelift_six", facelift_six(SIZE), 0.0)
        self.truth, self.blank, self.asked = truth, blank, []

    def __call__(self, images: Tensor, numbers: list[int], tell: Tell) -> Tensor:
        tell("views", 1, 1)
        self.asked += list(numbers)
        names = sorted(self.truth.scenes)
        views = [torch.stack([read_photo(p).image(SIZE) for p in self.truth.scenes[names[n]].paths]) for n in numbers]
        return torch.stack([v if n != self.blank else torch.ones_like(v) for v, n in zip(views, numbers, strict=True)])


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Dataset:
    return open_dataset(write_mice(tmp_path_factory.mktemp("truth") / "mice", scenes=4, size=SIZE, rig="facelift_six"))


def run(source: Path, out: Path, model: Photographer, /, **told: object) -> Dataset:
    assert list(generate(read_pictures(source), out, model, told, batch_size=2))[-1] >= 1
    return open_dataset(out)


def refusal(error: type[PipelineError], call, *args: object) -> str:
    with pytest.raises(error) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_generated_scenes_are_labelled_with_the_models_rig_never_the_sources(truth, mice_folder, tmp_path) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    for number in range(4):
        Image.open(mice_folder / f"scene_{number:06d}/images/cam_000.png").save(source / f"{number}.png")
    made = run(source, tmp_path / "out", Photographer(truth), model="a")
    for scene in made.scenes.values():
        torch.testing.assert_close(scene.cameras.c2w, facelift_six(SIZE).c2w.double(), atol=1e-6, rtol=0)
    assert (made.manifest.rig, made.manifest.view_order) == ("facelift_six", (0, 5, 4, 3, 2, 1))


def test_views_of_one_animal_pass_the_gate_with_their_rig(truth, tmp_path) -> None:
    made = run(truth.root, tmp_path / "out", Photographer(truth))
    assert made.manifest.geometry is not None
    assert made.manifest.geometry.verdict != "inconsistent"


def test_the_gate_tells_on_a_rig_that_the_views_do_not_have(truth, tmp_path) -> None:
    model = Photographer(truth)
    model.rig = Rig("turned", model.rig.cameras[[0, 2, 4, 1, 3, 5]], 0.0)
    assert run(truth.root, tmp_path / "out", model).manifest.geometry.verdict == "inconsistent"


def test_splits_are_those_of_the_source(truth, tmp_path) -> None:
    assert run(truth.root, tmp_path / "out", Photographer(truth)).manifest.splits == truth.manifest.splits


def test_the_manifest_says_how_it_was_made(truth, tmp_path) -> None:
    made = run(truth.root, tmp_path / "out", Photographer(truth), model="mouse-mvdiffusion@champion", seed=42)
    step = made.manifest.transforms[-1]
    assert (step["kind"], step["model"], step["seed"], step["left_out"]) == (
        "generated",
        "mouse-mvdiffusion@champion",
        42,
        [],
    )
    assert made.manifest.parent == truth.digest


def test_an_interrupted_run_goes_on_where_it_stopped(truth, tmp_path) -> None:
    first, second = Photographer(truth), Photographer(truth)
    going = generate(read_pictures(truth.root), tmp_path / "out", first, {}, batch_size=2)
    assert [next(going), next(going)] == [0, 2]
    going.close()
    run(truth.root, tmp_path / "out", second)
    assert (first.asked, second.asked) == ([0, 1], [2, 3])


def test_another_model_does_not_continue_it(truth, tmp_path) -> None:
    run(truth.root, tmp_path / "out", Photographer(truth), sha256="a")
    message = refusal(DataError, lambda: run(truth.root, tmp_path / "out", Photographer(truth), sha256="b"))
    assert "got another sha256" in message


def test_a_scene_with_an_empty_view_is_left_out_and_named(truth, tmp_path) -> None:
    made = run(truth.root, tmp_path / "out", Photographer(truth, blank=0))
    assert made.manifest.transforms[-1]["left_out"] == ["scene_000000"]
    assert "scene_000000" not in made.scenes


def test_alpha_is_where_a_picture_is_not_white_with_its_holes_filled() -> None:
    views = torch.ones(6, 3, 8, 8)
    views[:, :, 2:6, 2:6] = 0.5
    views[:, :, 3:5, 3:5] = 1.0
    alpha = cut_out(pixels_of(views))[..., 3]
    assert np.array_equal(alpha[0] > 0, np.pad(np.ones((4, 4), bool), 2))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, f"expected pictures ({', '.join(SUFFIXES)}) or a dataset, found none"),
        (lambda path: Image.new("RGB", (8, 4)).save(path / "a.png"), "got nothing but background"),
        (lambda path: (path / "a.png").write_text("no"), "expected an image"),
    ],
)
def test_what_is_no_picture_is_refused(truth, tmp_path, write, message) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in")
    assert message in refusal(DataError, lambda: run(tmp_path / "in", tmp_path / "out", Photographer(truth)))


# ---------------------------------------------------------------- with a model


@pytest.fixture(scope="module")
def model(tmp_path_factory, views_recipe, frames_cache) -> Path:
    """Asked for the image and drawn in one step, it knows the outline of a mouse after a hundred steps."""
    folder = tmp_path_factory.mktemp("model")
    words = ["loss.prediction=sample", "model.scratch.noise_shift=40.0", "model.scratch.patch_size=8"]
    words += ["model.sampling.steps=1", "model.sampling.guidance=1.0", "loss.drop_rate=0.0", "optim.lr=3.0e-3"]
    recipe = views_recipe(*words, "train.max_steps=100", "train.validate_every=100")
    reports = list(train(recipe, folder, cache=frames_cache))
    return checkpoint.strip_training(reports[-1].checkpoint, folder / "released")


def test_a_picture_gives_the_same_views_alone_as_among_others(model, mice_folder) -> None:
    generator = kinds.load(model).model
    images = torch.stack([read_photo(mice_folder / f"scene_{n:06d}/images/cam_000.png").image(SIZE) for n in range(3)])
    torch.testing.assert_close(generator(images[1:2], [1])[0], generator(images, [0, 1, 2])[1], atol=1e-5, rtol=0)


def test_the_command_generates_with_a_checkpoint(model, mice_folder, tmp_path) -> None:
    words = ["data", "generate", str(mice_folder), str(tmp_path / "out"), "--model", str(model), "--json"]
    result = CliRunner().invoke(mouselift.app, words)
    assert result.exception is None, result.output
    assert json.loads(result.stdout)["scenes"] == 7
    made, source = open_dataset(tmp_path / "out"), open_dataset(mice_folder)
    alphas = [np.asarray(Image.open(path))[..., 3] > 127 for path in made.scenes["scene_000000"].paths]
    assert all(0.02 < alpha.mean() < 0.6 for alpha in alphas)
    assert made.manifest.splits == source.manifest.splits and made.manifest.geometry is not None


def test_a_pipeline_whose_texts_are_all_alike_generates_nothing(tmp_path, mice_folder) -> None:
    golden = Path(__file__).parents[1] / "golden" / "mvdiffusion" / "pipeckpts"
    words = ["data", "generate", str(mice_folder), str(tmp_path / "out"), "--model", str(golden)]
    result = CliRunner().invoke(mouselift.app, words)
    assert isinstance(result.exception, DataError)
    assert "expected another text for each view" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_stand_in_has_what_a_model_has(model) -> None:
    generator = kinds.load(model).model
    assert isinstance(generator.rig, Rig) and generator.image_size == SIZE
    assert SimpleNamespace(**generator.provenance()).steps == 1
