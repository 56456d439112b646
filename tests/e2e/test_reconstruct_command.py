"""`mouselift reconstruct` on what a user may hand over: what is refused, several inputs, results, registered models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from typer.testing import CliRunner

import mouselift
from pipeline import checkpoint
from pipeline.data.mice.mice import write_mice
from pipeline.data.photo.photo import read_photo
from pipeline.data.scenes import read_scene
from pipeline.gaussians import Gaussians
from pipeline.gslrm.model import GSLRM
from pipeline.mvdiffusion.prompts import read_own
from pipeline.pruning import PRUNINGS
from pipeline.reconstruction.models import load_gaussians, load_views, read_pair, write_pair
from pipeline.reconstruction.reconstructor import Reconstructor
from pipeline.training.loop import train
from sweeps.cli.reconstruct import _of_refining
from sweeps.errors import RegistryError
from sweeps.home import Home
from sweeps.registry.registry import Registry
from sweeps.registry.verification import evaluate_at, unverified

Make = Callable[[Path, Path], tuple[object, ...]]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.fixture(scope="module")
def gaussians(tmp_path_factory, tiny_recipe) -> Path:
    """GS-LRM of five inputs, untrained."""
    recipe = tiny_recipe("data.num_input_views=5", "data.num_held_out_views=1")
    torch.manual_seed(0)
    return checkpoint.save(tmp_path_factory.mktemp("gaussians") / "step-000001", GSLRM(recipe.model), recipe, 1)


@pytest.fixture(scope="module")
def views(tmp_path_factory, views_recipe, frames_cache) -> Path:
    """Stage 1 after one step, which draws in one step."""
    settings = (
        "train.max_steps=1",
        "optim.warmup_steps=0",
        "train.validate_every=1",
        "model.sampling.steps=1",
        "model.sampling.guidance=1.0",
    )
    folder = tmp_path_factory.mktemp("views")
    *_, last = train(views_recipe(*settings), folder, cache=frames_cache)
    return checkpoint.strip_training(last.checkpoint, folder / "released")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command here, with a home that does not exist; its exit code, standard output and standard error."""
    monkeypatch.setenv("MOUSELIFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mouselift", "reconstruct", *map(str, words)])
        code: object = 0
        try:
            mouselift.main()
        except SystemExit as left:
            code = left.code
        said = capsys.readouterr()
        assert isinstance(code, int | None)
        return code or 0, said.out, said.err

    return run


def photo(mice: Path, folder: Path, name: str = "a") -> Path:
    """A mouse cut out, as a file of its own."""
    path = folder / f"{name}.png"
    Image.open(mice / "scene_000006/images/cam_000.png").save(path)
    return path


# ---------------------------------------------------------------- refusals


def written(name: str, content: str | bytes) -> Make:
    def make(mice: Path, folder: Path) -> tuple[object, ...]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return (path,)

    return make


def linked(mice: Path, folder: Path) -> tuple[object, ...]:
    (folder / "link.png").symlink_to(folder / "gone.png")
    return (folder / "link.png",)


def empty(mice: Path, folder: Path) -> tuple[object, ...]:
    (folder / "empty").mkdir()
    return (folder / "empty",)


def of_videos(mice: Path, folder: Path) -> tuple[object, ...]:
    written("clips/a.mp4", b"\0\0\0\x18ftypisom" + bytes(16))(mice, folder)
    return (folder / "clips",)


def recording(mice: Path, folder: Path) -> tuple[object, ...]:
    (folder / "rec/videos_undist").mkdir(parents=True)
    return (folder / "rec",)


def a_model(mice: Path, folder: Path) -> tuple[object, ...]:
    written("model/checkpoint.json", "{}")(mice, folder)
    return (folder / "model",)


def bare_scenes(mice: Path, folder: Path) -> tuple[object, ...]:
    (mice / "dataset.yaml").unlink()
    return (mice,)


def of_one_name(mice: Path, folder: Path) -> tuple[object, ...]:
    first = photo(mice, folder)
    (folder / "b").mkdir()
    return (first, photo(mice, folder / "b"))


def textured(mice: Path, folder: Path) -> tuple[object, ...]:
    Image.effect_noise((64, 64), 60).convert("RGB").save(folder / "a.png")
    return (folder / "a.png",)


def blank(mice: Path, folder: Path) -> tuple[object, ...]:
    Image.new("RGBA", (64, 64)).save(folder / "a.png")
    return (folder / "a.png",)


def without_an_image(mice: Path, folder: Path) -> tuple[object, ...]:
    (mice / "scene_000006/images/cam_003.png").unlink()
    return (mice / "scene_000006",)


def damaged_cameras(mice: Path, folder: Path) -> tuple[object, ...]:
    (mice / "scene_000006/opencv_cameras.json").write_text('{"frames": [')
    return (mice / "scene_000006",)


def with_options(*options: object) -> Make:
    """A good photo with these; a callable one is called with the folder."""
    return lambda mice, folder: (
        photo(mice, folder),
        *(option(mice, folder)[0] if callable(option) else option for option in options),
    )


def of_scene(*options: object) -> Make:
    return lambda mice, folder: (
        mice / "scene_000006",
        *(option(mice, folder)[0] if callable(option) else option for option in options),
    )


def two_with_one_mask(mice: Path, folder: Path) -> tuple[object, ...]:
    return (photo(mice, folder), photo(mice, folder, "b"), "--mask", photo(mice, folder, "mask"))


def onto_a_file(mice: Path, folder: Path) -> tuple[object, ...]:
    return (photo(mice, folder), "--out", written("taken", "mine")(mice, folder)[0])


def onto_others(mice: Path, folder: Path) -> tuple[object, ...]:
    written("taken/gaussians.ply", "mine")(mice, folder)
    return (photo(mice, folder), "--out", folder / "taken")


def onto_itself(mice: Path, folder: Path) -> tuple[object, ...]:
    """The scene that an earlier call has written, into the folder of that call."""
    (folder / "earlier").mkdir()
    (folder / "earlier/reconstruction.json").write_text("{}")
    (mice / "scene_000006").rename(folder / "earlier/views")
    return (folder / "earlier/views", "--out", folder / "earlier")


REFUSALS: dict[str, tuple[Make, str]] = {
    "nothing there": (lambda mice, folder: (folder / "no.png",), "expected a photo, a video, a scene or a folder"),
    "a link to nothing": (linked, "got a link to nothing"),
    "a text called a picture": (written("a.png", "no picture"), "expected an image, got"),
    "an empty file": (written("a.png", ""), "an empty file"),
    "a pointer of Git LFS": (written("a.png", LFS), "Git LFS"),
    "a web page": (written("a.jpg", "<html>"), "a web page"),
    "an empty folder": (empty, "expected photos, scenes with opencv_cameras.json or a dataset, got none"),
    "a folder of videos": (of_videos, "got videos (a.mp4)"),
    "a recording": (recording, "got a recording"),
    "a model": (a_model, "got a model (checkpoint.json) — name it with --model."),
    "a dataset": (lambda mice, folder: (mice,), "got a dataset of 7 scenes — add --split (train, val, test)"),
    "a folder of scenes": (bare_scenes, "got a dataset of 7 scenes — add --split"),
    "a split that is not there": (lambda mice, folder: (mice, "--split", "tests"), "expected a split tests"),
    "a split of a photo": (with_options("--split", "test"), "--split test: expected a dataset"),
    "two of one name": (of_one_name, "expected scenes of different names"),
    "a photo with its background": (textured, "background"),
    "a picture of nothing": (blank, "background"),
    "a scene without an image": (without_an_image, "cam_003.png: expected an image"),
    "cameras cut off": (damaged_cameras, "opencv_cameras.json:1: expected JSON"),
    "a mask that is not there": (with_options("--mask", "no.png"), "--mask no.png: expected a mask"),
    "one mask for two": (two_with_one_mask, "expected a folder of masks for 2 photos, got a file"),
    "a mask for a scene": (of_scene("--mask", "no.png"), "expected a photo that it belongs to"),
    "an unknown network": (with_options("--segment", "sam"), "--segment: expected rembg, got sam"),
    "an unknown pruning": (with_options("--prune", "hard"), "expected one of default, connected, facelift"),
    "a box of two": (with_options("--box", "1,2"), "--box: expected three numbers X,Y,Z, got 1,2"),
    "a box of less than nothing": (with_options("--box", "1,1,-1"), "box: expected three numbers of at least 0"),
    "an unknown format": (with_options("--format", "ply,gltf"), "got 'gltf'"),
    "an unknown device": (with_options("--device", "gpu"), "--device: expected cpu, cuda or cuda:N"),
    "a file for a folder": (onto_a_file, "expected a folder that can be written to, got a file"),
    "results of another hand": (onto_others, "expected no gaussians.ply, or one beside reconstruction.json"),
    "results of its own": (onto_itself, "expected another folder than that of"),
    "a photo and no models": (with_options(), "home: expected a champion of mouse-facelift or mouse-mvdiffusion"),
    "a scene and no model": (of_scene(), "home: expected a champion of mouse-facelift or mouse-gslrm"),
    "a model that is not there": (of_scene("--model", "./none"), "./none: expected a model's folder or file"),
    "an unknown registered model": (of_scene("--model", "mouse@champion"), "mouse: expected a registered model"),
    "a page for weights": (of_scene("--model", written("m.pt", "<!DOCTYPE html>")), "m.pt: expected"),
    "weights that Git LFS has": (of_scene("--gaussians", written("m.pt", LFS)), "Git LFS"),
    "a folder that is no model": (of_scene("--model", empty), "expected a checkpoint folder"),
    "a folder that makes no views": (
        with_options("--views", empty, "--gaussians", written("m.pt", LFS)), "expected a checkpoint folder"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_one_line_and_leaves_nothing(refused, mice_copy: Path, tmp_path: Path, case: str) -> None:
    make, message = REFUSALS[case]
    assert message in refused("reconstruct", *make(mice_copy, tmp_path))


def test_a_stage_in_the_place_of_the_other_is_refused(refused, mice_copy, tmp_path, views, gaussians) -> None:
    scene, picture = mice_copy / "scene_000006", photo(mice_copy, tmp_path)
    assert "got one of mvdiffusion" in refused("reconstruct", scene, "--gaussians", views)
    assert "got one of gslrm" in refused("reconstruct", picture, "--views", gaussians, "--gaussians", gaussians)


def test_a_scene_in_millimetres_is_refused(refused, tmp_path, gaussians) -> None:
    mice = write_mice(tmp_path / "mm", scenes=3, size=32, rig="mouse")
    message = refused("reconstruct", mice / "scene_000002", "--model", gaussians)
    assert "expected cameras about the world's origin" in message and "mouselift data normalise" in message


# ---------------------------------------------------------------- results


def test_a_photo_is_what_its_models_make_of_it_one_after_the_other(
    run, mice_folder, tmp_path, views, gaussians
) -> None:
    picture = photo(mice_folder, tmp_path)
    code, out, err = run(picture, "--views", views, "--gaussians", gaussians, "-o", "out", "--size", 32, "--json")
    said, folder = json.loads(out), tmp_path / "out"
    assert code == 0 and said == {"out": "out"} | json.loads((folder / "reconstruction.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == sorted(said["files"])
    assert {"input.png", "views", "views.png", "gaussians.ply", "turntable.mp4"} < {*said["files"]}
    first, second = load_views(views), load_gaussians(gaussians)
    with torch.no_grad():
        made = first.generator(read_photo(picture).image(32)[None], [0])
        cameras = first.generator.rig.cameras.to(torch.float32)
        kept = [view for view in range(6) if view not in said["views"]["left_out"]]
        expected = second.model(made[:, kept], cameras[None][:, kept])[0]
    written = Gaussians.load_ply(folder / "gaussians.ply")
    torch.testing.assert_close(written.means, PRUNINGS["default"](expected).means)
    assert said["gaussians"] == {"made": expected.count, "kept": written.count}
    assert said["figures"]["views"] == 1 and "generated too" in said["figures"]["protocol"]
    assert f"the model takes 5 of 6 views: held out for best cover: view {said['views']['left_out'][0]}" in err
    torch.testing.assert_close(read_scene(folder / "views").cameras.c2w, first.generator.rig.cameras.c2w.double())


def test_six_inputs_need_no_seventh(run, mice_folder, tmp_path, tiny_recipe) -> None:
    recipe = tiny_recipe("data.num_input_views=5", "data.num_held_out_views=1")
    whole = tiny_recipe("data.num_views=7", "data.num_input_views=6", "data.num_held_out_views=1")
    model = checkpoint.save(tmp_path / "model", GSLRM(recipe.model), whole, 1)
    _, out, err = run(mice_folder / "scene_000006", "--model", model, "-o", "out", "--size", 32, "--json")
    said = json.loads(out)
    assert (said["views"]["inputs"], said["views"]["left_out"], said["figures"]) == ([0, 1, 2, 3, 4, 5], [], None)
    assert err == ""


def test_a_scene_is_refined_on_its_input_views_and_the_others_judge_it(run, mice_folder, gaussians) -> None:
    scene, words = mice_folder / "scene_000006", ("--model", gaussians, "--size", 32)
    _, out, _ = run(scene, *words, "-o", "before", "--json")
    before = json.loads(out)
    _, out, err = run(scene, *words, "-o", "after", "--refine", 10, "--json")
    after = json.loads(out)
    figures = after["refined"]["figures"]
    given, held_out = figures["inputs"], figures["held_out"]
    assert before["refined"] is None and after["refined"]["steps"] == 10
    assert given["after"]["psnr"] > given["before"]["psnr"]
    assert held_out["before"]["psnr"] == before["figures"]["psnr"] and held_out["after"].keys() == {"psnr", "psnr_fg"}
    assert held_out["after"]["psnr"] == after["figures"]["psnr"]
    assert after["figures"]["protocol"].endswith("Gaussians unpruned, refined in 10 steps")
    _, _, err = run(scene, *words, "-o", "after", "--refine", 10)
    said = (
        f"refined: the views given: PSNR {given['before']['psnr']:.2f} → {given['after']['psnr']:.2f} dB, foreground "
    )
    assert err.splitlines()[-1].startswith(said)


def test_the_foreground_of_held_out_views_says_whether_refining_helped() -> None:
    def figures(psnr: float, psnr_fg: float) -> dict[str, dict[str, float]]:
        return {"before": {"psnr": 20.0, "psnr_fg": 15.0}, "after": {"psnr": psnr, "psnr_fg": psnr_fg}}

    better, worse = figures(21.0, 16.0), figures(21.0, 14.0)  # the whole frame gains in both
    said = "PSNR 20.00 → 21.00 dB, foreground 15.00 → 16.00 dB"
    assert _of_refining({"inputs": better, "held_out": better}, False) == (
        f"refined: the views given: {said}; those held out: {said}"
    )
    told = _of_refining({"inputs": better, "held_out": worse}, False)
    assert told.endswith("15.00 → 14.00 dB — they got worse: leave --refine out")
    assert _of_refining({"inputs": better}, False).endswith("; no view is held out to judge it by")
    of_photo = _of_refining({"inputs": better, "held_out": worse}, True)
    assert of_photo == f"refined: the photo and the views drawn of it: {said}"


def test_a_photo_is_refined_on_itself_and_the_views_drawn_of_it(run, mice_folder, tmp_path, views, gaussians) -> None:
    words = (photo(mice_folder, tmp_path), "--views", views, "--gaussians", gaussians, "--size", 32)
    code, _, err = run(*words, "-o", "out", "--refine", 10)
    figures = json.loads((tmp_path / "out/reconstruction.json").read_text())["refined"]["figures"]["inputs"]
    before, after = (figures[when]["psnr"] for when in ("before", "after"))
    assert code == 0 and after > before
    said = f"refined: the photo and the views drawn of it: PSNR {before:.2f} → {after:.2f} dB"
    assert err.splitlines()[-1] == said
    made = Reconstructor(load_gaussians(gaussians), load_views(views), refine_steps=2).photo(read_photo(words[0]))
    torch.testing.assert_close(made.batch.images[0, 0], read_photo(words[0]).image(32))
    code, _, err = run(*words, "-o", "alone", "--refine", 10, "--given", "photo")
    assert code == 2 and "--refine 10: expected views that were drawn of a photo, got the photo alone" in err
    assert not (tmp_path / "alone").exists()


def test_refining_one_view_is_refused_in_one_line(run, mice_folder, tmp_path, tiny_recipe) -> None:
    recipe = tiny_recipe("data.num_views=2", "data.num_input_views=1", "data.num_held_out_views=1")
    model = checkpoint.save(tmp_path / "one", GSLRM(recipe.model), recipe, 1)
    code, _, err = run(mice_folder / "scene_000006", "--model", model, "--refine", 5, "-o", "out")
    assert code == 2 and "--refine: expected two views or more, got one" in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_what_makes_no_gaussians_of_views_is_not_refined(views, mice_folder, tmp_path) -> None:
    with pytest.raises(RegistryError, match=r"--refine 5: expected a model of Gaussians, got .*, which makes none"):
        evaluate_at(views, mice_folder, "test", tmp_path, "cpu", refine_steps=5)


def test_of_several_inputs_the_failed_one_is_named_and_the_others_are_made(
    run, mice_folder, tmp_path, views, gaussians
) -> None:
    (tmp_path / "photos").mkdir()
    photo(mice_folder, tmp_path / "photos", "good")
    textured(mice_folder, tmp_path / "photos")
    (tmp_path / "photos/notes.txt").write_text("beside them")
    scene = mice_folder / "scene_000005"
    models = ("--views", views, "--gaussians", gaussians, "--size", 32)
    code, out, err = run("photos", scene, *models, "-o", "out", "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 2 and [one.get("out") for one in told] == [None, "out/good", "out/scene_000005"]
    assert "background" in told[0]["error"]
    assert err.splitlines()[-1].startswith("mouselift: 3 inputs: expected Gaussians of each, got none of 1: a ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good", "scene_000005"]


def test_results_replace_those_of_before_and_leave_what_is_beside_them(run, mice_folder, tmp_path, gaussians) -> None:
    words = (mice_folder / "scene_000006", "--model", gaussians, "-o", "out", "--size", 32)
    run(*words, "--format", "splat")
    (tmp_path / "out/notes.txt").write_text("mine")
    code, _, _ = run(*words, "--prune", "none")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert code == 0 and {"notes.txt", "gaussians.ply"} < names and "gaussians.splat" not in names
    assert Gaussians.load_ply(tmp_path / "out/gaussians.ply").count == 2 + 5 * 32 * 32


def test_the_scenes_of_a_split_are_made_one_by_one(run, mice_folder, tmp_path, gaussians) -> None:
    code, out, _ = run(mice_folder, "--split", "test", "--model", gaussians, "-o", "out", "--size", 32, "--json")
    assert code == 0 and json.loads(out)["input"].endswith("scene_000006")


def test_a_pair_makes_what_its_two_models_make(run, mice_folder, tmp_path, views, gaussians) -> None:
    write_pair(tmp_path / "pair", views, gaussians)
    picture = photo(mice_folder, tmp_path)
    run(picture, "--model", "pair", "-o", "one", "--size", 32)
    run(picture, "--views", views, "--gaussians", gaussians, "-o", "two", "--size", 32)
    assert (tmp_path / "one/gaussians.ply").read_bytes() == (tmp_path / "two/gaussians.ply").read_bytes()


@pytest.fixture(scope="module")
def of_one_view(tmp_path_factory, tiny_recipe) -> Path:
    """A GS-LRM that may be given any number of views."""
    torch.manual_seed(0)
    recipe = tiny_recipe("data.min_input_views=1")
    return checkpoint.save(tmp_path_factory.mktemp("any") / "gaussians", GSLRM(recipe.model), recipe, step=0)


def test_gaussians_of_a_photo_alone_are_those_of_gslrm_called_by_hand(
    run, mice_folder, tmp_path, views, of_one_view
) -> None:
    picture, options = photo(mice_folder, tmp_path), ("--size", 32, "--prune", "none")
    code, out, err = run(
        picture, "--views", views, "--gaussians", of_one_view, "--given", "photo", "-o", "one", *options
    )
    assert code == 0 and "and the model was trained on" not in err
    assert "GS-LRM is given the photo alone: no views are drawn of it\n" in err
    assert {Path(line).name for line in out.splitlines()} == {
        "comparison.png", "gaussians.ply", "input.png", "turntable.gif", "turntable.mp4", "view.html",
        "reconstruction.json",
    }  # fmt: skip
    said = json.loads((tmp_path / "one/reconstruction.json").read_text())
    assert (said["given"], said["sampling"], said["figures"]) == ("photo", None, None)
    assert said["views"] == {"generated": False, "inputs": [0], "left_out": []}

    stage, second = load_views(views), load_gaussians(of_one_view)
    given = read_photo(picture, stage.framing).image(32)[None, None]
    camera = stage.generator.rig.cameras.resize(32, 32)[:1][None].to(torch.float32)
    with torch.no_grad():
        expected = second.model(given, camera)[0]
    found = Gaussians.load_ply(tmp_path / "one/gaussians.ply")
    torch.testing.assert_close(found.means, expected.means, atol=1e-6, rtol=0)

    write_pair(tmp_path / "pair", views, of_one_view, given="photo")
    assert run(picture, "--model", "pair", "-o", "two", *options)[0] == 0
    assert (tmp_path / "one/gaussians.ply").read_bytes() == (tmp_path / "two/gaussians.ply").read_bytes()
    assert run(picture, "--model", "pair", "--given", "views", "-o", "three", *options)[0] == 0
    assert (tmp_path / "three/views.png").is_file()
    words = json.loads((tmp_path / "pair/pair.json").read_text())
    assert words.pop("given") == "photo"
    (tmp_path / "pair/pair.json").write_text(json.dumps(words))  # as it was written before there was a choice
    assert read_pair(tmp_path / "pair").given == "views"


def test_a_photo_alone_is_refused_to_a_gslrm_that_learned_from_more(
    run, mice_folder, tmp_path, views, gaussians
) -> None:
    picture = photo(mice_folder, tmp_path)
    code, _, err = run(picture, "--views", views, "--gaussians", gaussians, "--given", "photo", "-o", "one")
    assert code == 2 and not (tmp_path / "one").exists()
    assert err.splitlines()[-1] == (
        f"mouselift: {gaussians.name}: expected a GS-LRM that learned from one view, to be given a photo alone, got "
        "one that learned from 5 at least — train it with data.min_input_views=1, or give it the views."
    )


def test_scenes_have_views_and_what_is_given_of_a_photo_is_refused_there(
    run, mice_folder, tmp_path, views, gaussians
) -> None:
    scene = mice_folder / "scene_000006"
    code, _, err = run(scene, "--gaussians", gaussians, "--given", "photo", "-o", "one")
    assert (code, err.splitlines()[-1]) == (
        2, "mouselift: --given photo: expected a photo or a video, got scenes, which have views — leave it."
    )  # fmt: skip
    picture = photo(mice_folder, tmp_path)
    words = ("--views", views, "--gaussians", gaussians, "--given", "photo", "--seed", 3, "-o", "both", "--size", 32)
    code, _, err = run(picture, scene, *words)  # one of several that fails is told, and the other is made
    assert code == 2 and (tmp_path / "both/scene_000006/gaussians.ply").is_file()
    assert "no views are drawn of it; --seed changes nothing" in err and "got none of 1: a" in err


def test_prompts_take_a_checkpoints_own_text_encoder(tmp_path, views) -> None:
    words = ["prompts", str(tmp_path / "p.safetensors"), "--pipeline", str(views), "--json"]
    result = CliRunner().invoke(mouselift.app, words)
    assert result.exception is None, result.output
    assert json.loads(result.stdout)["sha256"] == read_own(views / "prompts.safetensors").sha256


def test_the_seed_decides_the_views(run, mice_folder, tmp_path, views, gaussians) -> None:
    reconstructor = Reconstructor(load_gaussians(gaussians), load_views(views), seed=7)
    found = reconstructor.photo(read_photo(mice_folder / "scene_000006/images/cam_000.png"))
    again = Reconstructor(load_gaussians(gaussians), load_views(views), seed=7).photo(
        read_photo(mice_folder / "scene_000006/images/cam_000.png")
    )
    other = Reconstructor(load_gaussians(gaussians), load_views(views)).photo(
        read_photo(mice_folder / "scene_000006/images/cam_000.png")
    )
    assert found.views is not None and again.views is not None and other.views is not None
    assert torch.equal(found.views, again.views) and not torch.equal(found.views, other.views)


# ---------------------------------------------------------------- registered models


def test_a_model_in_whose_place_another_is_named_is_refused(run, mice_folder, tmp_path, gaussians) -> None:
    scene = mice_folder / "scene_000006"
    code, _, err = run(scene, "--model", gaussians, "--gaussians", gaussians.parent / "step-000001/../step-000001")
    assert code == 2 and "expected a model that is needed beside --views and --gaussians" in err
    assert not (tmp_path / "out").exists()


def test_without_a_model_the_champions_work_and_are_named(run, mice_folder, tmp_path, views, gaussians) -> None:
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home")})
    registry = Registry(home)
    for name, folder in (("mouse-mvdiffusion", views), ("mouse-gslrm", gaussians)):
        version = registry.import_checkpoint(name, unverified(folder))
        MlflowClient(home.tracking_uri).set_registered_model_alias(name, "champion", str(version.version))
    picture = photo(mice_folder, tmp_path)
    code, out, err = run(picture, "-o", "out", "--size", 32, "--json")
    models = json.loads(out)["models"]
    assert (code, models["views"]["version"], models["gaussians"]["version"]) == (
        0,
        "mouse-mvdiffusion/1",
        "mouse-gslrm/1",
    )
    assert "views by the champion mouse-mvdiffusion/1" in err and "Gaussians by the champion mouse-gslrm/1" in err
    weights = next((tmp_path / "home").rglob("artifacts/checkpoint/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\1\1\1")
    code, _, err = run(picture, "-o", "other", "--size", 32)
    assert code == 2 and "expected sha256" in err and not (tmp_path / "other").exists()


def test_what_is_no_photo_is_refused_without_waiting_for_torch(tmp_path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    script = (
        "import sys, mouselift\n"
        f"sys.argv = ['mouselift', 'reconstruct', {str(tmp_path / 'a.png')!r}, '-o', {str(tmp_path / 'out')!r}]\n"
        "try: mouselift.main()\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (2, "False"), done.stderr
