"""A pair of registered models: registered, judged, pulled; served by plain MLflow where this repository is not."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from typer.testing import CliRunner

import mouselift
from dashboards.pages.pages import MlflowPages
from pipeline import GSLRM, Gaussians, checkpoint, kinds, metrics
from pipeline.data.photo.photo import read_photo
from pipeline.data.pictures import prepare_view, view_on_white
from pipeline.data.rings import covering, ring_order, slots
from pipeline.data.scenes import open_dataset
from pipeline.errors import CheckpointError, DataError
from pipeline.mvdiffusion.stage import MVDiffusionStage
from pipeline.pruning import PRUNINGS
from pipeline.reconstruction.models import load_gaussians, load_views, read_pair
from pipeline.reconstruction.reconstructor import Reconstructor
from pipeline.splatting.rendering import render
from sweeps.errors import RegistryError
from sweeps.home import Home
from sweeps.pyfuncs import pyfunc_pair
from sweeps.registry.cards import example_picture
from sweeps.registry.origins import diff, lineage_of
from sweeps.registry.pair import PAIR_NAME, Registered, register_pair
from sweeps.registry.registry import Registry
from sweeps.registry.verification import unverified
from tests.e2e.conftest import SECONDS, stop
from tests.e2e.squares import home_at
from tests.support.bare import write_bare

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/use-a-model.md").read_text()
(SCRIPT,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class World(NamedTuple):
    """A home with two versions of GS-LRM and one of MVDiffusion, and the first pair of them before and after data."""

    home: Home
    without: Registered
    scored: Registered


@pytest.fixture(scope="module")
def world(tiny_recipe, views_recipe, mice, mice_folder, tmp_path_factory) -> World:
    root = tmp_path_factory.mktemp("pair")
    home = home_at(root / "home")
    recipe = views_recipe()
    stage = MVDiffusionStage(recipe, torch.device("cpu"), mice)
    folders = [checkpoint.save(root / "views", stage.deployed_model(), recipe, 8, attachments=stage.attachments())]
    for seed in (0, 1):
        torch.manual_seed(seed)
        small = tiny_recipe()
        folders.append(checkpoint.save(root / f"gaussians-{seed}", GSLRM(small.model), small, step=seed))
    registry = Registry(home)
    for folder, name in zip(folders, ("mouse-mvdiffusion", "mouse-gslrm", "mouse-gslrm"), strict=True):
        registry.import_checkpoint(name, unverified(folder))
    without = register_pair(home, "mouse-mvdiffusion/1", "mouse-gslrm/1")
    return World(
        home,
        without,
        register_pair(home, "mouse-mvdiffusion/1", "mouse-gslrm/1", mice_folder, pages=MlflowPages()),
    )


@pytest.fixture(scope="module")
def pulled(world, tmp_path_factory) -> Path:
    return Registry(world.home).pull(f"{PAIR_NAME}@champion", tmp_path_factory.mktemp("pulled") / "pair")


@pytest.fixture(scope="module")
def expected(pulled) -> Gaussians:
    """What the two models of the pulled folder make of the example, through the library."""
    picture = pulled.parent / "mouse.png"
    picture.write_bytes(example_picture())
    views = load_views(pulled)
    found = Reconstructor(load_gaussians(pulled), views, "cpu", seed=3).photo(read_photo(picture, views.framing))
    return PRUNINGS["default"](found.gaussians)


# The registry


def test_a_pair_without_figures_is_registered_and_champion_of_nothing(world) -> None:
    version = world.without.version
    assert (version.ref, version.aliases, version.metrics, world.without.verdict) == (f"{PAIR_NAME}/1", (), {}, None)
    assert world.without.notes == (
        "mouse-gslrm/1 takes 4 of the 6 views: not slot 1, 4",
        "licence: neither of the two names one",
    )


def test_the_same_pair_with_data_is_the_same_version_with_figures_and_champion(world) -> None:
    version = world.scored.version
    assert (version.version, version.aliases) == (1, ("champion",))
    assert (
        version.tags["views.version"] == "mouse-mvdiffusion/1" and version.tags["gaussians.version"] == "mouse-gslrm/1"
    )
    assert (version.tags["rig.name"], version.tags["eval.scenes"]) == ("mouse_centred", "1")


def test_its_figures_are_those_of_the_two_models_called_by_hand(world, mice_folder, pulled) -> None:
    """View 0 to six views to Gaussians to the other five cameras of the one scene of `test`."""
    (scene,) = open_dataset(mice_folder).split("test")
    views, gaussians = kinds.load(pulled / "views"), kinds.load(pulled / "gaussians")
    order = list(slots(ring_order(scene.cameras), 0))
    images = torch.stack([view_on_white(scene.image(view), 32) for view in order])
    masks = torch.stack([torch.from_numpy(prepare_view(scene.image(view), 32)[None, ..., 3] / 255) for view in order])
    with torch.no_grad():
        made, rig = views.model(images[:1], [0])[0], views.model.rig.cameras
        taken = list(covering(rig, 4))
        shown = gaussians.model(made[None, taken], rig[taken][None].to(torch.float32))
        drawn = render(shown, scene.cameras.resize(32, 32)[order][None].to(torch.float32)).images[0]
    found = metrics.psnr_fg(drawn[1:], images[1:], masks[1:]).nanmean()
    assert world.scored.version.metrics["test/psnr_fg"] == pytest.approx(float(found), abs=1e-4)


def test_a_pair_is_champion_only_where_it_beats_the_champion(world, mice_folder) -> None:
    first = world.scored.version.metrics["test/psnr_fg"]
    client = MlflowClient(world.home.tracking_uri)
    client.update_registered_model(PAIR_NAME, "of our own laboratory")
    second = register_pair(world.home, "mouse-mvdiffusion/1", "mouse-gslrm/2", mice_folder)
    assert client.get_registered_model(PAIR_NAME).description == "of our own laboratory"
    won = second.version.metrics["test/psnr_fg"] > first
    assert second.version.measured == world.scored.version.measured
    assert second.verdict.alias == ("champion" if won else "challenger")
    if won:
        Registry(world.home).rollback(PAIR_NAME)
    assert Registry(world.home).resolve(PAIR_NAME).version == 1


def test_what_is_pulled_is_both_checkpoints_whole(world, pulled) -> None:
    pair, version = read_pair(pulled), world.scored.version
    assert pair.sha256 == version.sha256
    assert kinds.load(pulled / "views", kind="mvdiffusion").sha256 == version.tags["views.sha256"] == pair.views.sha256
    assert kinds.load(pulled / "gaussians", kind="gslrm").sha256 == version.tags["gaussians.sha256"]
    assert json.loads((pulled / "lineage.json").read_text())["name"] == PAIR_NAME


def test_a_pair_with_a_changed_file_is_not_pulled(world, tmp_path) -> None:
    version = Registry(world.home).resolve(PAIR_NAME)
    stored = Path(version.source.removeprefix("file://")) / "artifacts/checkpoint/gaussians/model.safetensors"
    whole = stored.read_bytes()
    try:
        stored.write_bytes(whole[:-1] + b"\x00")
        with pytest.raises(RegistryError, match=f"{PAIR_NAME}/1: expected its checkpoint at .* it is damaged"):
            Registry(world.home).pull(PAIR_NAME, tmp_path / "out")
    finally:
        stored.write_bytes(whole)
    assert list(tmp_path.iterdir()) == []


def test_the_card_names_models_figures_licence_and_a_picture_that_is_there(world) -> None:
    client = MlflowClient(world.home.tracking_uri, registry_uri=world.home.tracking_uri)
    version = world.scored.version
    text = client.get_model_version(PAIR_NAME, "1").description
    for words in ("mouse-mvdiffusion/1", "mouse-gslrm/1", "n = 1 scenes", "**Licence**", version.measured[0]):
        assert words in text
    assert f"{version.metrics['test/psnr_fg']:.4g}" in text and len(text) < 5000
    place = f"registered/{version.sha256[:12]}"
    assert f"get-artifact?path={place}/card.png&run_uuid={version.run_id}" in text
    files = [item.path for item in client.list_artifacts(version.run_id, place)]
    assert files == [f"{place}/{name}" for name in ("card.png", "card.txt", "splat.html")]
    assert f"/runs/{version.run_id}/artifacts/{place}/splat.html" in text


def test_the_versions_it_was_made_of_have_cards_too(world) -> None:
    client = MlflowClient(world.home.tracking_uri, registry_uri=world.home.tracking_uri)
    text = client.get_model_version("mouse-mvdiffusion", "1").description
    assert text.startswith("MVDiffusion: one picture of a mouse to six views") and "**No figures**" in text
    assert 'load_model("models:/mouse-mvdiffusion/1")' in text


@pytest.fixture(scope="module")
def of_the_photo(world, tiny_recipe, mice_folder, tmp_path_factory) -> Registered:
    """A pair whose GS-LRM, which learned from any number of views, is given the photo alone."""
    torch.manual_seed(0)
    recipe = tiny_recipe("data.min_input_views=1")
    folder = checkpoint.save(tmp_path_factory.mktemp("any") / "gaussians", GSLRM(recipe.model), recipe, step=2)
    version = Registry(world.home).import_checkpoint("mouse-gslrm", unverified(folder))
    found = register_pair(world.home, "mouse-mvdiffusion/1", version.ref, mice_folder, given="photo")
    if found.verdict.alias == "champion":
        Registry(world.home).rollback(PAIR_NAME)
    return found


def test_a_pair_of_the_photo_alone_is_another_version_and_judged_like_others(world, of_the_photo) -> None:
    version = of_the_photo.version
    drawn = register_pair(world.home, "mouse-mvdiffusion/1", version.tags["gaussians.version"])
    assert drawn.version.version != version.version and drawn.version.sha256 != version.sha256
    assert of_the_photo.notes[0] == (
        f"{version.tags['gaussians.version']} is given the photo alone: mouse-mvdiffusion/1 draws nothing, its rig and "
        "its framing are used"
    )
    assert version.measured == world.scored.version.measured  # so that figures of the two ways are compared
    text = MlflowClient(world.home.tracking_uri).get_model_version(PAIR_NAME, str(version.version)).description
    assert "makes them of the photo alone" in text and "one view of each given; the spread" in text
    refs = version.ref, drawn.version.ref
    one, other = (lineage_of(world.home, ref).as_plain() for ref in refs)
    assert (one["facts"]["given"], other["facts"]["given"]) == ("photo", "views")
    apart = [[*row.values()] for row in diff(world.home, *refs)["facts"]]
    assert ["given", ["photo", "views"]] in apart
    head, *rows = _listed(world.home)
    assert head.endswith("given") and {row.split()[0]: row.split()[-1] for row in rows if row.split()[0] in refs} == {
        refs[0]: "photo",
        refs[1]: "views",
    }
    assert "given" not in _listed(world.home, "mouse-gslrm")[0]


def _listed(home, *names) -> list[str]:
    """What `model list` says, line by line."""
    done = CliRunner().invoke(mouselift.app, ["model", "list", *names], env={"MOUSELIFT_HOME": str(home.root)})
    assert done.exit_code == 0, done.output
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def test_a_pair_that_says_another_way_than_it_was_registered_with_is_not_pulled(world, of_the_photo, tmp_path) -> None:
    version = of_the_photo.version
    stored = Path(version.source.removeprefix("file://")) / "artifacts/checkpoint/pair.json"
    whole = stored.read_text()
    try:
        stored.write_text(whole.replace('"given": "photo"', '"given": "views"'))
        with pytest.raises(RegistryError, match=f"{version.ref}: expected weights"):
            Registry(world.home).pull(version.ref, tmp_path / "out")
    finally:
        stored.write_text(whole)


def test_mlflow_makes_the_gaussians_of_the_photo_alone_and_no_views(world, of_the_photo, tmp_path) -> None:
    folder = Registry(world.home).pull(of_the_photo.version.ref, tmp_path / "pair")
    model = pyfunc_pair.PairModel()
    model.load_context(SimpleNamespace(artifacts={pyfunc_pair.CHECKPOINT: str(folder)}))
    row = model.predict(None, pd.DataFrame([example_picture()])).iloc[0]
    picture = tmp_path / "mouse.png"
    picture.write_bytes(example_picture())
    views, gaussians = load_views(folder), load_gaussians(folder)
    given = read_photo(picture, views.framing).image(32)[None, None]
    with torch.no_grad():
        made = gaussians.model(given, views.generator.rig.cameras.resize(32, 32)[:1][None].to(torch.float32))[0]
    assert row["ply"] == PRUNINGS["default"](made).as_ply()
    assert (row["views"], len(row["c2w"]), len(row["fxfycxcy"]), row["left_out"]) == ([], 1, 1, [])


def test_a_pair_of_the_photo_alone_wants_a_gslrm_that_learned_from_one_view(world) -> None:
    with pytest.raises(CheckpointError, match="mouse-gslrm: expected a GS-LRM that learned from one view"):
        register_pair(world.home, "mouse-mvdiffusion/1", "mouse-gslrm/1", given="photo")


# What does not fit


def test_two_models_of_one_kind_are_no_pair(world) -> None:
    with pytest.raises(CheckpointError, match="expected a checkpoint of mvdiffusion, got one of gslrm"):
        register_pair(world.home, "mouse-gslrm/1", "mouse-gslrm/2")


def test_a_gslrm_that_wants_more_views_than_are_drawn_is_refused(world, tiny_recipe, tmp_path) -> None:
    recipe = tiny_recipe("data.num_views=9", "data.num_input_views=7")
    folder = checkpoint.save(tmp_path / "seven", GSLRM(recipe.model), recipe, step=1)
    version = Registry(world.home).import_checkpoint("mouse-gslrm", unverified(folder))
    with pytest.raises(RegistryError) as refusal:
        register_pair(world.home, "mouse-mvdiffusion/1", version.ref)
    assert str(refusal.value) == (
        f"{version.ref}: expected a model of at most 6 input views, which mouse-mvdiffusion/1 makes, got one of 7 — "
        "name another with --gaussians."
    )


def test_scenes_of_another_rig_are_refused(world, tmp_path) -> None:
    from pipeline.data.mice.mice import write_mice

    other = write_mice(tmp_path / "six", scenes=3, size=32, rig="facelift_six")
    with pytest.raises(DataError, match="expected cameras of the rig mouse_centred, for which stage 1 draws its views"):
        register_pair(world.home, "mouse-mvdiffusion/1", "mouse-gslrm/1", other)


# Plain MLflow


@pytest.fixture(scope="module")
def bare(world, tmp_path_factory) -> dict[str, str]:
    """The environment of a user who has MLflow and what the model's requirements install."""
    folder = tmp_path_factory.mktemp("bare")
    version = Registry(world.home).resolve(PAIR_NAME)
    listed = (Path(version.source.removeprefix("file://")) / "requirements.txt").read_text().split()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    hidden = {"PYTHONPATH": str(write_bare(folder / "site", listed, ROOT)), "PATH": path, "HOME": str(folder)}
    return hidden | {"MLFLOW_TRACKING_URI": world.home.tracking_uri, "OMP_NUM_THREADS": "1"}


def test_the_page_leads_from_mlflow_alone_to_a_ply(bare, tmp_path) -> None:
    (tmp_path / "mouse.png").write_bytes(example_picture())
    told = """
import importlib.util, pipeline
assert "artifacts" in pipeline.__file__, pipeline.__file__
assert not [name for name in ("sweeps", "ray", "optuna", "av", "gsplat", "numba") if importlib.util.find_spec(name)]
"""
    (tmp_path / "script.py").write_text(SCRIPT + told)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=bare,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Gaussians, the mouse told from its background by alpha\n")
    assert Gaussians.load_ply(tmp_path / "mouse.ply").count == int(done.stdout.split()[0])
    assert {Image.open(path).size for path in tmp_path.glob("view_*.png")} == {(32, 32)}


def test_curl_gets_six_views_and_gaussians_from_mlflow_models_serve(bare, expected, tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = ("-m", f"models:/{PAIR_NAME}@champion", "--env-manager", "local")
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", *model, "-h", "127.0.0.1", "-p", str(port)],
        cwd=tmp_path,
        env=bare,
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "log").open("w"),
        start_new_session=True,
    )
    try:
        _wait_until_it_answers(f"http://127.0.0.1:{port}/ping", process)
        asked = {"inputs": [base64.b64encode(example_picture()).decode()], "params": {"seed": 3}}
        answers = [_curl(tmp_path, port, body) for body in (asked, {"inputs": ["bm8gcGljdHVyZQ=="]})]
    finally:
        stop(process)
    assert [code for code, _ in answers] == [200, 400]
    assert "picture 0: expected an image, got none of PNG, JPEG" in answers[1][1]["stack_trace"]
    (row,) = answers[0][1]["predictions"]
    (tmp_path / "served.ply").write_bytes(base64.b64decode(row["ply"]))
    served = Gaussians.load_ply(tmp_path / "served.ply")
    assert (row["num_gaussians"], row["cut_by"]) == (expected.count, "alpha")
    torch.testing.assert_close(served.means, expected.means, atol=1e-4, rtol=0)
    assert [base64.b64decode(view)[:4] for view in row["views"]] == [b"\x89PNG"] * 6
    assert [len(c2w) for c2w in row["c2w"]] == [16] * 6


@pytest.mark.parametrize(
    "value", [base64.b64encode, base64.encodebytes, lambda png: base64.b64encode(png).decode(), bytes]
)
def test_bytes_and_base64_are_the_same_picture(value) -> None:
    assert pyfunc_pair.picture_bytes("picture 0", value(example_picture())) == example_picture()


def test_what_is_no_picture_is_refused_by_its_place() -> None:
    with pytest.raises(
        DataError, match=r"picture 2: expected the bytes of a picture, got int — read the file in binary"
    ):
        pyfunc_pair.picture_bytes("picture 2", 7)


def test_no_steps_are_refused_and_not_taken_for_the_models_own(pulled) -> None:
    model = pyfunc_pair.PairModel()
    model.load_context(SimpleNamespace(artifacts={pyfunc_pair.CHECKPOINT: str(pulled)}))
    with pytest.raises(DataError, match="steps: expected 1 or more, or -1 for the model's own, got 0"):
        model.predict(None, pd.DataFrame([example_picture()]), {"steps": 0})


def test_a_command_without_registered_models_says_so(refused) -> None:
    assert refused("model", "pair").startswith(
        "mouse-mvdiffusion: expected a registered model (none yet), got mouse-mv"
    )


def _curl(folder: Path, port: int, body: dict[str, object]) -> tuple[int, dict[str, Any]]:
    """The status and the JSON that a server answers with."""
    (folder / "request.json").write_text(json.dumps(body))
    words = (
        "-sS",
        "-H",
        "Content-Type: application/json",
        "-d",
        "@request.json",
        "-o",
        "answer.json",
        "-w",
        "%{http_code}",
    )
    url = f"http://127.0.0.1:{port}/invocations"
    done = subprocess.run(["curl", *words, url], cwd=folder, capture_output=True, text=True, check=True)
    return int(done.stdout), json.loads((folder / "answer.json").read_text())


def _wait_until_it_answers(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"no answer from {url}")
