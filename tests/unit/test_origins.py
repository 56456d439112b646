"""Where a version comes from, back to the recording, and how two versions differ: a registry without files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

import mouselift
from pipeline import bases, checkpoint
from pipeline.recipes import load_recipe
from sweeps.book.journal import Journal, Reported, RunOpened, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.home import Home
from sweeps.registry.origins import Node, diff, lineage_of, tables
from sweeps.registry.versions import to_store
from sweeps.tracking.mlflow_client import prepare_store
from tests.support.spaces import space_with

BASE = checkpoint.inspect(bases.FOLDER / "gslrm_small").sha256
HASHES = (8 * f"{n}{n}abcde{n}" for n in range(1, 9))
FIRST, SECOND, GONE, RECORDING, CONVERTED, NORMALISED, ELSEWHERE, LONELY = HASHES


def dataset(folder: Path, digest: str, parent: str | None, *transforms: dict) -> Path:
    """A manifest alone: nothing else of a dataset is read."""
    folder.mkdir(parents=True)
    values = {"name": folder.name, "parent": parent, "transforms": list(transforms), "digest": digest, "splits": {}}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder


CONVERT = {"kind": "convert", "version": 3, "count": 8, "recording_frames": 2400, "fps": 25.0}
NORMALISE = {"kind": "normalise", "method": "object_centred", "size": 256}


class Store:
    """A home with a store; its runs are those of sweeps of one."""

    def __init__(self, root: Path) -> None:
        self.home = Home.from_environment({"MOUSELIFT_HOME": str(root / "home")})
        self.home.root.mkdir()
        prepare_store(self.home.tracking_uri)
        self.client = MlflowClient(self.home.tracking_uri, registry_uri=self.home.tracking_uri)
        self.experiment = self.client.create_experiment("gslrm_tiny")
        self.client.create_registered_model("mouse-gslrm")
        self.client.create_registered_model("mouse-facelift")

    def trained(self, name: str, root: Path, digest: str, start: str | None, sha256: str | None, **params) -> str:
        """A finished sweep of one, and its run. start, sha256: where the weights lay that it began with, and these."""
        run: str = self.client.create_run(self.experiment).info.run_id
        space = space_with(name=name, recipe="gslrm_tiny")
        recipe = load_recipe("gslrm_tiny").params | {"data.root": str(root), "train.init_from": start} | params
        tags = {"data.name": root.name, "data.digest": digest, "mlflow.source.git.commit": "c" * 40}
        tags |= {} if sha256 is None else {"artefact.train.init_from": sha256}
        journal = Journal(self.home.journal(name))
        journal.append(SweepOpened(name, "gslrm_tiny", space.as_plain(), tags, recipe))
        journal.append(TrialOpened(0, "r", 1, {}, recipe, "f" * 12, {}))
        journal.append(RunOpened(0, run))
        journal.append(Reported(0, 20, {"val/psnr_fg": 20.0}))
        journal.append(TrialClosed(0, "COMPLETE"))
        journal.append(SweepClosed("COMPLETE"))
        return run

    def version(self, run: str | None, model: str = "mouse-gslrm", **tags: str) -> None:
        self.client.create_model_version(model, "file:///nowhere", run, to_store(tags))


def facts(sha256: str, psnr: float, parent: str | None, digest: str = NORMALISED, **more: str) -> dict[str, str]:
    said = {"checkpoint.sha256": sha256, "checkpoint.step": "20", "recipe.name": "gslrm_tiny", "eval.scenes": "24"}
    said |= {"data.digest": digest, "data.name": "scenes", "eval.protocol": "p" * 12, "test/psnr_fg": str(psnr)}
    said |= {"eval.spread": json.dumps({"psnr_fg": 1.5}), "sweep.name": "first", "trial.number": "0"}
    return said | ({} if parent is None else {"checkpoint.parent": parent}) | more


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    root = tmp_path_factory.mktemp("origins")
    made = Store(root)
    scenes = dataset(root / "scenes", NORMALISED, CONVERTED, CONVERT, NORMALISE)
    arena = dataset(root / "arena", CONVERTED, RECORDING, CONVERT)
    entry = {"name": "arena", "path": str(arena), "digest": CONVERTED, "geometry": None}
    (made.home.root / "datasets.yaml").write_text(yaml.safe_dump([entry]))
    first = made.trained("first", scenes, NORMALISED, str(bases.FOLDER / "gslrm_small"), BASE)
    made.version(first, **facts(FIRST, 20.0, BASE))
    second = made.trained("second", scenes, NORMALISED, "/pulled/mouse-gslrm/1", FIRST, **{"optim.lr": 0.5})
    made.version(second, **facts(SECOND, 21.0, FIRST, **{"sweep.name": "second", "eval.precision": "bf16"}))
    made.client.set_registered_model_alias("mouse-gslrm", "champion", "2")
    far = made.client.create_run(made.experiment).info.run_id
    made.version(far, **facts("9" * 64, 22.0, GONE, "8" * 64, **{"eval.protocol": "q" * 12, "sweep.name": "far"}))
    lonely = dataset(root / "lonely", LONELY, ELSEWHERE, CONVERT, {"kind": "edited", "was": "x"}, NORMALISE)
    fourth = made.trained("fourth", lonely, LONELY, None, None)
    made.version(fourth, **facts("6" * 64, 23.0, None, LONELY, **{"eval.protocol": "q" * 12}))
    fifth = made.trained("fifth", root / "gone", "0" * 64, "/pulled/mouse-gslrm/5", "5" * 64)
    made.version(fifth, **facts("5" * 64, 24.0, "5" * 64))
    pair = {"views.version": "mouse-mvdiffusion/1", "gaussians.version": "mouse-gslrm/2", "checkpoint.sha256": "7" * 64}
    made.version(None, "mouse-facelift", **pair)
    return made


def kinds(node: Node) -> list[tuple[str, str]]:
    return [(node.kind, node.name), *(pair for parent in node.parents for pair in kinds(parent))]


def test_a_version_is_followed_to_the_recording_and_to_the_base_of_its_parent(store):
    found = lineage_of(store.home, "mouse-gslrm@champion")
    data = [("data", "scenes"), ("data", "arena"), ("recording", "")]
    assert kinds(found) == [
        ("version", "mouse-gslrm/2"),
        ("run", "t0000 · second"),
        ("sweep", "second"),
        *data,
        ("version", "mouse-gslrm/1"),
        ("run", "t0000 · first"),
        ("sweep", "first"),
        *data,
        ("base", "base:gslrm_small"),
    ]


def test_each_dataset_says_the_steps_that_made_it_of_its_parent(store):
    run = lineage_of(store.home, "mouse-gslrm/1").parents[0]
    scenes = run.parents[1]
    (arena,) = scenes.parents
    (recording,) = arena.parents
    assert scenes.facts["made by"] == "normalise method=object_centred size=256"
    assert arena.facts["made by"].startswith("convert version=3 count=8")
    assert recording.facts == {"digest": RECORDING, "recording_frames": "2400", "fps": "25.0"}


def test_a_parent_that_is_not_here_is_told_by_the_chain_of_its_child(store):
    (parent,) = lineage_of(store.home, "mouse-gslrm/4").parents[0].parents[1].parents
    assert (parent.kind, parent.facts["digest"]) == ("data", ELSEWHERE)
    assert parent.facts["note"] == "no dataset of this digest is known here"
    assert parent.facts["made by"].startswith("edited was=x; convert version=3 count=8")
    assert [one.kind for one in parent.parents] == ["recording"]


def test_what_another_home_trained_is_told_as_far_as_its_tags_go(store):
    (run,) = lineage_of(store.home, "mouse-gslrm/3").parents
    sweep, data, weights = run.parents
    assert (run.name, run.facts["note"]) == ("t0000 · far", "no run of this home")
    assert (sweep.name, data.facts["digest"], weights.facts["weights"]) == ("far", "8" * 64, GONE)
    assert weights.facts["note"] == "no version of this store has them"


def test_a_pair_comes_from_its_members_also_where_one_is_gone(store):
    views, gaussians = lineage_of(store.home, "mouse-facelift/1").parents
    assert (views.name, views.facts) == ("mouse-mvdiffusion/1", {"note": "it is not registered any more"})
    assert gaussians.parents[0].name == "t0000 · second"


def test_weights_that_are_their_own_ancestor_end_the_tree(store):
    last = lineage_of(store.home, "mouse-gslrm/5").parents[0].parents[-1]
    assert (last.name, last.parents) == ("mouse-gslrm/5", ())


def test_two_versions_differ_in_settings_facts_and_figures(store):
    found = diff(store.home, "mouse-gslrm/1", "mouse-gslrm/2")
    assert [(row["path"], row["values"][1]) for row in found["settings"]] == [("optim.lr", 0.5)]
    differing = {row["path"]: row["values"] for row in found["facts"]}
    assert differing.keys() == {"weights", "precision", "parent", "sweep"}
    assert differing["parent"] == ["base:gslrm_small", "mouse-gslrm/1"]
    ((columns, rows),) = tables(found)
    assert columns == ["figure", "mouse-gslrm/1 (n = 24)", "mouse-gslrm/2 (n = 24)"]
    assert rows == [["test/psnr_fg", "20 ± 1.5", "21 ± 1.5"]]


def test_figures_by_different_protocols_share_no_table(store):
    found = diff(store.home, "mouse-gslrm/2", "mouse-gslrm/4")
    assert not found["alike"]
    assert [columns[1:] for columns, _ in tables(found)] == [["mouse-gslrm/2 (n = 24)"], ["mouse-gslrm/4 (n = 24)"]]


def test_the_commands_print_both_forms(store, monkeypatch):
    monkeypatch.setenv("MOUSELIFT_HOME", str(store.home.root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lines = CliRunner().invoke(mouselift.app, ["model", "lineage", "mouse-gslrm"]).stdout.splitlines()
    depths = [len(line) - len(line.lstrip()) for line in lines]
    assert depths == [0, 2, 4, 4, 6, 8, 4, 6, 8, 8, 10, 12, 8]
    told = json.loads(CliRunner().invoke(mouselift.app, ["model", "lineage", "mouse-gslrm", "--json"]).stdout)
    assert (told["name"], told["parents"][0]["kind"]) == ("mouse-gslrm/2", "run")
    shown = CliRunner().invoke(mouselift.app, ["model", "diff", "mouse-gslrm/1", "mouse-gslrm"]).stdout
    assert "optim.lr" in shown and "21 ± 1.5" in shown
