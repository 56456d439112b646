"""The registry on a real SQLite store: verified versions, their aliases, the model in its own process."""

import io
import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline import Gaussians, kinds, load_recipe
from pipeline.cameras import facelift_six
from pipeline.data.pictures import prepare_view
from pipeline.data.scenes import open_dataset, read_scene
from pipeline.errors import CheckpointError, DataError
from sweeps.errors import RegistryError
from sweeps.pyfuncs import pyfunc_gslrm
from sweeps.registry.verification import score, unverified, verify
from sweeps.space.gates import parse_gates
from tests.e2e.squares import NAME, OBJECTIVE, OTHER, OVERRIDES, SIZE, aliases, make_checkpoint, make_dataset

# Verification


def test_a_checkpoint_that_reproduces_its_logged_figures_is_verified(ranked, dataset, tmp_path):
    folder = ranked[0].checkpoint.folder
    loaded = kinds.load(folder)
    logged = score(loaded, loaded.recipe.data, open_dataset(dataset), "val", tmp_path).metrics
    again = verify(folder, dataset, logged | {"train/loss": 1.0}, tmp_path)
    assert again.metrics == ranked[0].metrics
    assert all(name.startswith("test/") for name in again.metrics)


def test_a_figure_that_does_not_come_out_again_is_named_with_both_values(ranked, dataset, tmp_path):
    with pytest.raises(RegistryError, match=r"expected val/psnr 99 as logged, found \d+\.\d+ when evaluated again"):
        verify(ranked[0].checkpoint.folder, dataset, {"val/psnr": 99.0}, tmp_path)


def test_a_logged_figure_that_cannot_be_measured_here_is_refused(ranked, dataset, tmp_path):
    with pytest.raises(RegistryError, match=r"expected val/unheard 0.1 as logged, found not available"):
        verify(ranked[0].checkpoint.folder, dataset, {"val/unheard": 0.1}, tmp_path)


def test_the_parent_is_known_by_the_hash_of_its_weights(ranked, tmp_path):
    parent = ranked[0].checkpoint
    child = make_checkpoint(tmp_path / "child", 7, [f"train.init_from={parent.folder}"])
    assert unverified(child).parent == parent.sha256


# Versions


def test_a_version_carries_its_lineage_its_figures_and_leaves_its_run_as_it_was(registry, client, run_id, ranked):
    before = client.get_run(run_id).info
    version = registry.register(OTHER, run_id, ranked[0], {"sweep": "demo", "git.commit": "abc"})
    after = client.get_run(run_id)
    assert (after.info.status, after.info.end_time) == (before.status, before.end_time)
    assert after.data.metrics["test/psnr"] == version.metrics["test/psnr"] == ranked[0].metrics["test/psnr"]
    assert version.tags["checkpoint.sha256"] == ranked[0].checkpoint.sha256
    assert version.tags["recipe.fingerprint"] == ranked[0].checkpoint.recipe.fingerprint
    assert version.measured == (ranked[0].protocol, ranked[0].data_digest)
    assert (version.run_id, version.tags["sweep"], version.tags["git.commit"]) == (run_id, "demo", "abc")


def test_registering_the_same_weights_again_returns_the_version_that_has_them(registry, run_id, ranked):
    first = registry.register(OTHER, run_id, ranked[0])
    assert registry.register(OTHER, run_id, ranked[0]).version == first.version
    assert len(registry.list_versions(OTHER)) == 1


def test_the_training_state_stays_behind(registry, run_id, ranked, tmp_path):
    registry.register(OTHER, run_id, ranked[0])
    pulled = registry.pull(f"{OTHER}/1", tmp_path / "pulled")
    assert sorted(path.name for path in pulled.iterdir()) == [
        "checkpoint.json", "lineage.json", "model.safetensors", "recipe.yaml"
    ]  # fmt: skip


def test_an_import_is_a_version_with_a_finished_run_of_its_own(registry, client, ranked):
    version = registry.import_checkpoint(OTHER, ranked[0])
    again = registry.import_checkpoint(OTHER, ranked[0])
    assert again == version
    assert client.get_run(version.run_id).info.status == "FINISHED"
    assert version.tags["source"] == "imported"


def test_the_same_weights_under_another_licence_or_recipe_are_another_version(registry, ranked):
    """Else the terms, or the size of images, that someone names would be left out in silence."""
    free = replace(ranked[0], facts={"licence": "CC0"})
    recipe = replace(ranked[0].checkpoint.recipe, data=replace(ranked[0].checkpoint.recipe.data, image_size=SIZE * 2))
    larger = replace(ranked[0], checkpoint=replace(ranked[0].checkpoint, recipe=recipe))
    for _ in range(2):
        assert [registry.import_checkpoint(OTHER, one).version for one in (ranked[0], free, larger)] == [1, 2, 3]
    assert registry.resolve(f"{OTHER}/2").tags["licence"] == "CC0"


def test_versions_are_listed_as_plain_values(registry, three):
    registry.promote(three[0], parse_gates({"test/psnr": ">= 1"}), OBJECTIVE)
    listed = [version.as_plain() for version in registry.list_versions()]
    assert [(one["name"], one["version"]) for one in listed] == [(NAME, 3), (NAME, 2), (NAME, 1)]
    assert listed[-1]["aliases"] == ["champion"]
    assert listed[-1]["gates"][0]["passed"] is True
    assert json.loads(json.dumps(listed)) == listed
    assert {"metrics", "gates", "run_id"} <= listed[0].keys()


def test_a_name_alone_means_the_champion(registry, three):
    registry.promote(three[1], (), OBJECTIVE)
    assert registry.resolve(NAME) == registry.resolve(f"{NAME}@champion") == registry.resolve(f"{NAME}/2")


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (
            "mouse-gslm@champion",
            "expected a registered model (mouse-gslrm), got mouse-gslm — did you mean mouse-gslrm?",
        ),
        (
            f"{NAME}@champoin",
            f"expected an alias of {NAME} (champion), got champoin — did you mean champion?",
        ),
        (f"{NAME}/9", f"expected a version of {NAME} (3, 2, 1), got 9 — see `mouselift model list`."),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(registry, three, ref, message):
    registry.promote(three[0], (), OBJECTIVE)
    with pytest.raises(RegistryError) as refusal:
        registry.resolve(ref)
    assert str(refusal.value) == f"{ref.partition('@')[0] if 'gslm' in ref else ref}: {message}"


def test_a_version_gets_the_figures_that_can_be_taken_since(registry, run_id, ranked):
    """LPIPS's weights were fetched after the first registration: the gate can be met when it is promoted again."""
    version = registry.register(OTHER, run_id, ranked[0])
    since = replace(ranked[0], metrics=ranked[0].metrics | {"test/lpips": 0.125})
    version = registry.refresh(registry.register(OTHER, run_id, since), since)
    assert version.metrics == since.metrics
    assert registry.promote(version, parse_gates({"test/lpips": "<= 0.15"}), OBJECTIVE).alias == "champion"


def test_a_logged_lpips_asks_for_its_weights(ranked, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(CheckpointError, match=r"vgg16-397923af.pth: expected the weights lpips, found no file"):
        verify(ranked[0].checkpoint.folder, dataset, {"val/lpips": 0.1}, tmp_path)


# Promotion


def test_a_better_version_becomes_champion_and_the_old_one_previous(registry, three):
    for version in three:
        assert registry.promote(version, (), OBJECTIVE).alias == "champion"
    assert aliases(registry) == {"champion": 3, "previous": 2}


def test_a_worse_version_becomes_challenger_and_is_told_why(registry, three):
    registry.promote(three[1], (), OBJECTIVE)
    verdict = registry.promote(three[0], (), OBJECTIVE)
    assert verdict.reason.startswith("test/psnr ")
    assert verdict.reason.endswith(f"of the champion {NAME}/2")
    assert aliases(registry) == {"champion": 2, "challenger": 1}


def test_a_failed_gate_is_named_and_recorded_with_its_figure(registry, three):
    gates = parse_gates({"test/psnr": ">= 99", "test/lpips": "<= 0.15"})
    verdict = registry.promote(three[0], gates, OBJECTIVE)
    assert verdict.alias == "challenger"
    assert "test/psnr" in verdict.reason and "test/lpips not available, wanted <= 0.15" in verdict.reason
    assert [gate["passed"] for gate in registry.resolve(f"{NAME}/1").gates] == [False, False]
    assert registry.resolve(f"{NAME}/1").tags["gate.verdict"] == "challenger"


def test_a_challenger_that_wins_later_is_challenger_no_more(registry, three):
    registry.promote(three[0], parse_gates({"test/psnr": ">= 99"}), OBJECTIVE)
    registry.promote(three[0], (), OBJECTIVE)
    assert aliases(registry) == {"champion": 1}


def test_promoting_the_champion_again_changes_nothing(registry, three):
    for _ in range(2):
        registry.promote(three[0], (), OBJECTIVE)
    assert aliases(registry) == {"champion": 1}


def test_a_version_without_the_objective_cannot_be_champion(registry, ranked):
    version = registry.import_checkpoint(OTHER, unverified(ranked[0].checkpoint.folder))
    assert registry.promote(version, (), OBJECTIVE).reason == "test/psnr not available"


def test_figures_of_another_protocol_are_not_compared(registry, run_id, ranked, world, tmp_path):
    registry.promote(registry.register(OTHER, run_id, ranked[0]), (), OBJECTIVE)
    folder = make_checkpoint(tmp_path / "fewer", 5, ["data.num_input_views=2", "data.num_views=3"])
    other = registry.register(OTHER, run_id, verify(folder, world.dataset, {}, tmp_path))
    with pytest.raises(RegistryError, match=f"expected a champion scored by protocol {other.measured[0]}"):
        registry.promote(other, (), OBJECTIVE)
    assert aliases(registry, OTHER) == {"champion": 1}


def test_a_champion_of_another_protocol_is_scored_again_by_the_new_one(registry, run_id, ranked, world, tmp_path):
    registry.promote(registry.register(OTHER, run_id, ranked[2]), (), OBJECTIVE)
    overrides = ["data.num_input_views=2", "data.num_views=3"]
    other = registry.register(
        OTHER, run_id, verify(make_checkpoint(tmp_path / "fewer", 5, overrides), world.dataset, {}, tmp_path)
    )
    recipe = load_recipe("gslrm_tiny", [*OVERRIDES, *overrides])
    rival = score(
        kinds.load(ranked[2].checkpoint.folder),
        recipe.data,
        open_dataset(world.dataset),
        "test",
        tmp_path,
    )
    verdict = registry.promote(other, (), OBJECTIVE, world.dataset)
    wins = other.metrics["test/psnr"] > rival.metrics["test/psnr"]
    assert verdict.alias == ("champion" if wins else "challenger")
    assert wins or f"{rival.metrics['test/psnr']:.4g}" in verdict.reason


def test_a_champion_is_scored_again_in_the_precision_of_its_rival(registry, run_id, ranked, world, tmp_path):
    registry.promote(registry.register(OTHER, run_id, ranked[2]), (), OBJECTIVE)
    half = make_checkpoint(tmp_path / "half", 5, ["train.precision=bf16"])
    other = registry.register(OTHER, run_id, verify(half, world.dataset, {}, tmp_path))
    assert other.precision == other.tags["eval.precision"] == "bf16" and other.measured[0] != ranked[2].protocol
    champion = kinds.load(ranked[2].checkpoint.folder)
    rival = score(champion, champion.recipe.data, open_dataset(world.dataset), "test", tmp_path, precision="bf16")
    verdict = registry.promote(other, (), OBJECTIVE, world.dataset)
    wins = other.metrics["test/psnr"] > rival.metrics["test/psnr"]
    assert verdict.alias == ("champion" if wins else "challenger")


def test_figures_of_before_the_precision_was_recorded_are_those_of_float32(registry, run_id, ranked):
    version = registry.register(OTHER, run_id, ranked[0])
    older = {name: value for name, value in version.tags.items() if name != "eval.precision"}
    assert replace(version, tags=older).precision == version.precision == "fp32"
    with pytest.raises(RegistryError, match=r"expected eval\.precision fp32 or bf16 or fp16, got int4"):
        _ = replace(version, tags=older | {"eval.precision": "int4"}).precision


def test_a_champion_is_not_scored_again_on_a_dataset_the_version_never_saw(registry, run_id, ranked, tmp_path):
    registry.promote(registry.register(OTHER, run_id, ranked[0]), (), OBJECTIVE)
    moved = replace(ranked[1], data_digest="0" * 64)
    with pytest.raises(RegistryError, match="expected the dataset that mouse-other/2 was scored on, got another"):
        registry.promote(registry.register(OTHER, run_id, moved), (), OBJECTIVE, make_dataset(tmp_path / "x", 1))


def test_a_rollback_swaps_champion_and_previous(registry, three):
    for version in three[:2]:
        registry.promote(version, (), OBJECTIVE)
    assert registry.rollback(NAME).version == 1
    assert aliases(registry) == {"champion": 1, "previous": 2}


def test_a_rollback_without_a_previous_version_is_refused(registry, three):
    registry.promote(three[0], (), OBJECTIVE)
    with pytest.raises(RegistryError, match="expected a version with alias previous, got none"):
        registry.rollback(NAME)


# Pull


def test_what_is_pulled_is_what_was_registered(registry, three, ranked, tmp_path):
    registry.promote(three[2], (), OBJECTIVE)
    out = registry.pull(f"{NAME}@champion", tmp_path / "deep" / "out")
    assert kinds.load(out).sha256 == ranked[2].checkpoint.sha256
    lineage = json.loads((out / "lineage.json").read_text())
    assert (lineage["version"], lineage["aliases"]) == (3, ["champion"])
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert registry.pull(f"{NAME}/3", out) == out


def test_a_folder_that_holds_something_else_is_not_overwritten(registry, three, tmp_path):
    out = registry.pull(f"{NAME}/1", tmp_path / "out")
    with pytest.raises(RegistryError, match=f"expected no folder, or one with {NAME}/2, got something else"):
        registry.pull(f"{NAME}/2", out)


def test_files_changed_in_the_store_are_refused_and_leave_nothing(registry, run_id, ranked, tmp_path):
    version = registry.register(OTHER, run_id, ranked[0])
    stored = Path(version.source.removeprefix("file://")) / "artifacts" / "checkpoint" / "model.safetensors"
    stored.write_bytes(stored.read_bytes()[:-1] + b"\x00")
    with pytest.raises(RegistryError, match=f"{OTHER}/1: expected its checkpoint at .* it is damaged"):
        registry.pull(f"{OTHER}/1", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out*")) == []


# The model


def views(dataset, scene):
    """A scene of the dataset as rows of the model's input."""
    read = read_scene(dataset / scene)
    return pd.DataFrame(
        {
            "scene": scene,
            "image": [path.read_bytes() for path in read.paths],
            "c2w": [c2w.flatten().tolist() for c2w in read.cameras.c2w],
            "fxfycxcy": read.cameras.fxfycxcy.tolist(),
        }
    )


PREDICT = """
    import sys
    repository, rows, out = sys.argv[1:]
    sys.path = [entry for entry in sys.path if entry != repository]
    sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
    sys.modules["sweeps"] = sys.modules["mouselift"] = sys.modules["dashboards"] = None
    import mlflow, pandas
    model = mlflow.pyfunc.load_model("models:/mouse-gslrm@champion")
    model.predict(pandas.read_pickle(rows), params={"prune": "none", "box": [9.0, 9.0, 9.0]}).to_pickle(out)
    import pipeline
    assert not pipeline.__file__.startswith(repository + "/pipeline"), pipeline.__file__
"""


def test_the_champion_predicts_in_a_process_that_knows_neither_the_repository_nor_sweeps(
    registry, three, home, dataset, tmp_path
):
    registry.promote(three[2], (), OBJECTIVE)
    rows = pd.concat([views(dataset, "c"), views(dataset, "a")[:4]])
    rows.to_pickle(tmp_path / "rows.pkl")
    repository = str(Path(pyfunc_gslrm.__file__).parents[2])
    arguments = [repository, str(tmp_path / "rows.pkl"), str(tmp_path / "out.pkl")]
    subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(PREDICT), *arguments],
        cwd=tmp_path,
        env={"MLFLOW_TRACKING_URI": home.tracking_uri, "HOME": str(tmp_path)},
        check=True,
    )
    predicted = pd.read_pickle(tmp_path / "out.pkl")
    assert predicted["scene"].tolist() == ["c", "a"]
    assert predicted["num_gaussians"].tolist() == [2 + 6 * SIZE**2, 2 + 4 * SIZE**2]
    (tmp_path / "c.ply").write_bytes(predicted["ply"][0])
    expected = here(registry, f"{NAME}@champion", views(dataset, "c"), tmp_path)
    torch.testing.assert_close(Gaussians.load_ply(tmp_path / "c.ply").means, expected, atol=1e-5, rtol=0)


def here(registry, ref, rows, tmp_path):
    """Means of the pulled checkpoint on the same views, through the library."""
    loaded = kinds.load(registry.pull(ref, tmp_path / "pulled"))
    pictures = [prepare_view(Image.open(io.BytesIO(png)), SIZE) for png in rows["image"]]
    rgba = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    cameras = facelift_six(48).resize(SIZE, SIZE)
    with torch.no_grad():
        return loaded.model((rgba[:, :3] + 1 - rgba[:, 3:])[None], cameras[None])[0].means


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("image", b"no picture", "expected an image, got none of PNG, JPEG"),
        ("c2w", [1.0] * 9, "c2w: expected 16 numbers, got 9"),
        (
            "c2w",
            np.diag([-1.0, 1.0, 1.0, 1.0]).ravel().tolist(),
            "expected a rotation with det +1, got det -1",
        ),
        ("fxfycxcy", [50.0, 50.0], "fxfycxcy: expected 4 numbers, got 2"),
        ("fxfycxcy", [0.0, 50.0, 16.0, 16.0], "expected fx, fy > 0"),
    ],
)
def test_a_view_that_is_none_is_refused_in_one_line_with_its_place(dataset, column, value, message):
    row = views(dataset, "a").iloc[1].to_dict() | {column: value}
    with pytest.raises(DataError) as refusal:
        pyfunc_gslrm.read_view("scene a, view 1", row["image"], row["c2w"], row["fxfycxcy"], SIZE)
    assert str(refusal.value).startswith("scene a, view 1: ") and message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_no_views_at_all_are_refused(dataset):
    with pytest.raises(DataError, match="expected one row per view, got none"):
        pyfunc_gslrm.GSLRMModel().predict(None, views(dataset, "a")[:0])
