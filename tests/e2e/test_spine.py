"""The main job by the real commands: sweep, look, promote, pull, reconstruct, predict, train. One sweep serves all."""

import json
import math
import os
import re
import shutil
import statistics
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import optuna
import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline import Gaussians, checkpoint
from pipeline.cameras import Cameras
from pipeline.data.mice.mice import write_mice
from pipeline.data.scenes import open_dataset
from sweeps.book.journal import Journal
from sweeps.book.optuna_copy import open_storage
from sweeps.book.record import record_of
from sweeps.errors import StudyError
from sweeps.tracking.mlflow_layout import STATUS
from sweeps.tracking.queries import trial_of
from tests.e2e.conftest import SMALL, write_space

STATUS_KEYS = [
    "name",
    "state",
    "trials",
    "best",
    "reason",
    "undelivered",
    "seconds_left",
    "confirmed",
    "taken",
    "continued",
]
STATUS_KEYS += ["budget", "eta", "ends_by_budget"]
VERSION_KEYS = {"name", "version", "aliases", "metrics", "gates", "run_id"}
PREDICT = """
import json, sys
sys.modules["sweeps"] = None
import mlflow, pandas
rows = pandas.read_json(sys.argv[1])
rows["image"] = [bytes.fromhex(text) for text in rows["image"]]
model = mlflow.pyfunc.load_model("models:/mouse-gslrm@champion")
found = model.predict(rows, params={"min_opacity": 0.0, "max_scale": 10.0})
open(sys.argv[2], "wb").write(found["ply"][0])
print(json.dumps({"scene": found["scene"][0], "num_gaussians": int(found["num_gaussians"][0])}))
"""


@pytest.fixture(scope="module")
def client(spine):
    return MlflowClient(spine.seat.home.tracking_uri)


@pytest.fixture(scope="module")
def runs(spine, client):
    return {trial: client.get_run(run_id) for trial, run_id in spine.seat.runs("spine").items()}


@pytest.fixture(scope="module")
def trials(spine):
    return spine.seat.ledger("spine").trials


@pytest.fixture(scope="module")
def pulled(spine, promoted):
    folder = spine.seat.root / "pulled"
    assert spine.seat.answer("model", "pull", "mouse-gslrm@champion", "--out", folder) == {"folder": str(folder)}
    return folder


def test_the_sweep_ends_well_with_completed_and_pruned_trials(spine, trials):
    assert spine.done.returncode == 0
    assert Counter(trial.state for trial in trials.values()).keys() == {"COMPLETE", "PRUNED"}
    assert len(trials) == 4


def test_stdout_holds_the_leaderboard_and_nothing_else(spine, trials):
    lines = spine.done.stdout.splitlines()
    columns = ["trial", "state", "step", "best", "val/psnr_fg", "at", "last", "took", "params"]
    assert lines[0].split() == columns
    assert [line.split()[0] for line in lines[1:5]] == [f"t{t.number:04d}" for t in spine.seat.ledger("spine").ranked]
    assert lines[5:] == []


def test_stderr_is_one_short_line_for_each_event(spine):
    strange = [
        line
        for line in spine.done.stderr.splitlines()
        if not re.match(
            r"\[ *\d+\.\d s\] (sweep|t\d{4}) |(preflight|importance|promote the best|best trial|see it|two steps): ",
            line,
        )
    ]
    assert strange == []


def test_no_command_writes_into_the_current_folder(spine, promoted):
    assert list(spine.seat.folder.iterdir()) == []


def test_status_has_the_keys_that_other_programs_read(spine, trials):
    status = spine.seat.answer("sweep", "status", "spine")
    counts = Counter(trial.state for trial in trials.values())
    assert list(status) == STATUS_KEYS
    assert status["trials"] == {
        "complete": counts["COMPLETE"],
        "pruned": counts["PRUNED"],
        "fail": 0,
        "running": 0,
        "waiting": 0,
    }
    assert (status["name"], status["state"]) == ("spine", "COMPLETE")
    best = max(trial.best_value for trial in trials.values() if trial.state == "COMPLETE")
    assert (status["best"]["value"], status["best"]["metric"]) == (best, "val/psnr_fg")


def test_the_study_says_of_each_trial_what_the_journal_says(spine, trials):
    storage = open_storage(spine.seat.home)
    study = optuna.load_study(storage=storage, study_name="spine")
    assert {trial.number: trial.state.name for trial in study.trials} == {n: t.state for n, t in trials.items()}
    for trial in study.trials:
        assert trial.intermediate_values == spine.seat.curve("spine", trial.number)


def test_the_sweep_is_a_parent_run_in_the_experiment_of_its_recipe(runs, client):
    parent = runs[None]
    assert client.get_experiment(parent.info.experiment_id).name == "gslrm_tiny"
    assert (parent.info.run_name, parent.info.status) == ("spine", "FINISHED")
    assert parent.data.tags["sweep.state"] == "COMPLETE"
    children = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {child.info.run_id for child in children} == {run.info.run_id for n, run in runs.items() if n is not None}


def test_the_command_gives_every_run_the_pages_of_the_windows(runs, trials, client):
    assert "Leaderboard" in runs[None].data.tags["mlflow.note.content"]
    assert "report.html" in {file.path for file in client.list_artifacts(runs[None].info.run_id)}
    for number in trials:
        assert "Tried" in runs[number].data.tags["mlflow.note.content"]
        assert "splat.html" in {file.path for file in client.list_artifacts(runs[number].info.run_id)}


def test_a_trial_run_tells_how_the_trial_ended(runs, trials):
    for number, trial in trials.items():
        assert runs[number].info.status == STATUS[trial.state]
        assert runs[number].data.tags["trial.state"] == trial.state
        assert ("trial.reason" in runs[number].data.tags) == (trial.state == "PRUNED")


def test_a_trial_run_names_its_protocol_which_the_number_of_input_views_changes(runs, trials):
    protocols = {
        (trial.params["data.num_input_views"], runs[n].data.tags["eval.protocol"]) for n, trial in trials.items()
    }
    views, ids = zip(*protocols, strict=True)
    assert len(set(views)) == len(set(ids)) == len(protocols)


def test_a_trial_run_has_every_value_of_its_recipe_as_a_param(runs, trials):
    for number, trial in trials.items():
        params = runs[number].data.params
        assert params["train.max_steps"] == "12" and params["model.kind"] == "gslrm"
        assert {path: json.loads(params[path]) for path in trial.params} == trial.params


def test_mlflow_holds_every_figure_of_the_journal_once(spine, client, runs):
    wanted = Counter()
    for report in spine.seat.reports("spine"):
        wanted.update((report.trial, key, report.step, value) for key, value in report.metrics.items())
    found = Counter()
    for number, run in runs.items():
        reported = [key for key in run.data.metrics if not key.startswith(("best/", "test/"))]
        for key in reported:
            history = client.get_metric_history(run.info.run_id, key)
            found.update((number, key, metric.step, metric.value) for metric in history)
    assert found == wanted
    assert set(found.values()) == {1}


def test_steps_are_optimizer_steps(spine, trials):
    for number, trial in trials.items():
        assert list(spine.seat.curve("spine", number)) == list(range(4, trial.last_step + 1, 4))


def test_a_trial_run_shows_the_best_of_each_trial_not_its_last(runs, trials):
    for number, trial in trials.items():
        assert runs[number].data.metrics["best/val/psnr_fg"] == trial.best_value


def test_a_trial_run_holds_a_preview_for_each_validated_step(spine, client, runs, trials):
    names = [file.path for file in client.list_artifacts(runs[0].info.run_id, "images")]
    steps = {int(re.search(r"\+step\+(\d+)\+", name)[1]) for name in names}
    assert steps == set(range(4, trials[0].last_step + 1, 4))
    path = client.download_artifacts(runs[0].info.run_id, next(name for name in names if name.endswith(".png")))
    with Image.open(path) as preview:
        assert min(preview.size) > 32


def test_a_completed_trial_keeps_a_checkpoint_and_a_pruned_one_none(client, runs, trials):
    for number, trial in trials.items():
        names = {Path(file.path).name for file in client.list_artifacts(runs[number].info.run_id, "checkpoint")}
        whole = {"model.safetensors", "recipe.yaml", "checkpoint.json", "preview.ply", "preview.json"}
        assert names == (whole if trial.state == "COMPLETE" else set())


def test_the_sweep_run_says_which_code_data_and_space_it_was(spine, client, runs, mice):
    parent = runs[None]
    files = {file.path for folder in ("code", "config") for file in client.list_artifacts(parent.info.run_id, folder)}
    assert {"code/packages.txt", "config/space.yaml", "config/recipe.yaml"} <= files
    assert re.fullmatch(r"[0-9a-f]{40}", parent.data.tags["mlflow.source.git.commit"])
    inputs = parent.inputs.dataset_inputs
    assert [(one.dataset.name, one.dataset.digest) for one in inputs] == [("mice", mice.digest[:12])]
    assert mice.digest.startswith(re.search(r"data ([0-9a-f]{12})", parent.data.tags["lineage"])[1])


def test_promote_shows_figures_gates_and_verdict(promoted):
    assert (promoted.first.returncode, promoted.first.stderr) == (0, "")
    assert re.search(r"^test/white_psnr +\d+\.\d{4} *$", promoted.first.stdout, re.MULTILINE)
    assert re.search(r"^gate +target +passed *\ntest/mask_iou +>= 0 +✓ *$", promoted.first.stdout, re.MULTILINE)
    assert promoted.first.stdout.splitlines()[-1] == "mouse-gslrm/1 is champion: it passed its gates"


def test_the_better_of_two_on_the_test_split_is_champion(promoted):
    first, second = (promoted.versions[number]["metrics"]["test/psnr_fg"] for number in (1, 2))
    aliases = [promoted.versions[number]["aliases"] for number in (1, 2)]
    assert aliases == ([["previous"], ["champion"]] if second > first else [["champion"], ["challenger"]])
    assert promoted.second["alias"] == aliases[1][0]


def test_registered_figures_are_finite_and_stand_beside_the_white_baseline(promoted):
    for version in promoted.versions.values():
        assert {"test/psnr", "test/white_psnr", "test/mask_iou", "test/input/psnr"} <= version["metrics"].keys()
        assert all(math.isfinite(value) for value in version["metrics"].values())


def test_the_model_list_has_the_keys_that_other_programs_read(promoted, runs, trials):
    for version in promoted.versions.values():
        assert version.keys() >= VERSION_KEYS
        number = int(version["tags"]["trial.number"])
        assert (version["tags"]["sweep.name"], version["run_id"]) == ("spine", trials[number].run_id)
        assert [gate["passed"] for gate in version["gates"]] == [True]


def test_a_pulled_checkpoint_is_the_registered_one(pulled, promoted):
    assert checkpoint.inspect(pulled).sha256 == promoted.champion["tags"]["checkpoint.sha256"]
    assert json.loads((pulled / "lineage.json").read_text()) == promoted.champion


def test_a_pulled_checkpoint_reproduces_the_registered_figures(spine, pulled, promoted, mice_folder):
    again = spine.seat.answer("model", "evaluate", pulled, "--data", mice_folder)
    assert again["metrics"] == pytest.approx(promoted.champion["metrics"], rel=1e-4)
    assert again["protocol"] == promoted.champion["tags"]["eval.protocol"]
    refined = spine.seat.answer("model", "evaluate", pulled, "--data", mice_folder, "--refine", "2")
    assert refined["refine_steps"] == 2 and refined["protocol"] != again["protocol"]
    assert refined["metrics"]["test/input/psnr"] > again["metrics"]["test/input/psnr"]


def test_a_pulled_checkpoint_reconstructs_a_mouse(spine, pulled, mice_folder):
    out = spine.seat.root / "reconstructed"
    words = ("--model", pulled, "--out", out, "--size", "64")
    done = spine.seat.mouselift("reconstruct", mice_folder / "scene_000006", *words)
    names = ["comparison.png", "gaussians.ply", "turntable.gif", "turntable.mp4", "view.html", "reconstruction.json"]
    assert done.stdout.splitlines() == [str(out / name) for name in names]
    assert Gaussians.load_ply(out / "gaussians.ply").means.isfinite().all()
    with av.open(str(out / "turntable.mp4")) as video:
        assert video.streams.video[0].frames == 120
    for name in ("comparison.png", "turntable.gif"):
        with Image.open(out / name) as picture:
            picture.verify()


def test_the_champion_predicts_in_a_process_that_has_no_sweeps(spine, promoted, mice, tmp_path):
    scene = mice.split("test")[0]
    rows, ply = tmp_path / "rows.json", tmp_path / "mouse.ply"
    rows.write_text(json.dumps(_rows(scene.paths[:4], scene.cameras, scene.name)))
    seat = replace(spine.seat, extra={"MLFLOW_TRACKING_URI": spine.seat.home.tracking_uri})
    done = seat.run(sys.executable, "-c", PREDICT, rows, ply)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"scene": scene.name, "num_gaussians": Gaussians.load_ply(ply).count}
    assert said["num_gaussians"] > 1000


def test_a_training_on_one_scene_folder_is_a_sweep_of_one_in_the_same_store(spine, runs, client, tmp_path):
    write_mice(tmp_path / "ring", scenes=3, size=32, rig="facelift_ring", views=9, seed=1)
    scene = os.path.relpath(open_dataset(tmp_path / "ring").split("train")[0].folder, spine.seat.folder)
    settings = " ".join(f"{path}={value}" for path, value in {**SMALL, "data.num_input_views": 4}.items())
    status = spine.seat.answer("train", "gslrm_tiny", "--set", f"{settings} data.root={scene}", "--name", "one")
    assert (status["state"], status["trials"]["complete"]) == ("COMPLETE", 1)
    one = {trial: client.get_run(run_id) for trial, run_id in spine.seat.runs("one").items()}
    assert {run.info.experiment_id for run in one.values()} == {runs[None].info.experiment_id}
    assert one[0].data.tags["mlflow.parentRunId"] == one[None].info.run_id
    assert [run.info.status for run in one.values()] == ["FINISHED", "FINISHED"]


def test_a_trial_that_is_run_again_comes_to_the_same_figures_to_the_last_bit(spine, trials, client):
    number = spine.seat.ledger("spine").best.number
    told = spine.seat.answer("run", "reproduce", trials[number].run_id)
    apart = {check["name"]: check["now"] for check in told["checks"] if not check["same"]}
    assert apart.keys() <= {"code", "uncommitted changes"}  # somebody may edit while tests run
    assert {"data", "seed", "machine cpu", "machine threads", "package torch"} <= {c["name"] for c in told["checks"]}
    assert told["agrees"] and all(figure["same"] for figure in told["figures"])
    steps = {figure["metric"]: figure["steps"] for figure in told["figures"]}
    assert (steps["val/psnr_fg"], steps["train/loss"]) == (3, 4)
    again = client.get_run(spine.seat.runs(told["again"]["sweep"])[None])
    assert again.data.tags["reproduces"] == trials[number].run_id


def test_what_a_sweep_finished_is_taken_by_the_next_one_and_what_it_began_is_gone_on_with(seat, spine, mice_folder):
    shutil.copytree(spine.seat.home.journal("spine"), seat.home.journal("spine"))
    shutil.copytree(Path(spine.seat.home.checkpoints) / "spine", Path(seat.home.checkpoints) / "spine")
    done = [trial for trial in spine.seat.ledger("spine").ranked if trial.state == "COMPLETE"]
    (stopped, *_) = (trial for trial in spine.seat.ledger("spine").ranked if trial.state == "PRUNED")
    space = write_space(
        seat.root / "again.yaml",
        enqueue=[trial.params for trial in (*done, stopped)],
        trials={"count": len(done) + 1, "concurrent": 2},
        scheduler={"kind": "none"},
        confirm={"seeds": 2, "top": 1},
    )
    ended = seat.mouselift("sweep", "run", space, "--data", mice_folder, "--name", "again", "--like", "spine")
    assert ended.returncode == 0, ended.stderr
    said = f"{len(done)} of {len(done) + 3} trials taken from spine, 1 continued from spine, 2 begun here"
    assert said in ended.stderr
    again = seat.ledger("again")
    known = [trial for trial in spine.seat.ledger("spine").trials.values() if trial.state in ("COMPLETE", "PRUNED")]
    assert [(one.trial, one.params) for one in again.past] == [(trial.number, trial.params) for trial in known]
    assert f"spine: {len(known)} of {len(known)} finished trials known to the sampler" in ended.stderr
    search = [trial for trial in again.ranked if trial.taken_from]
    assert [(trial.params, trial.curve) for trial in search] == [(trial.params, trial.curve) for trial in done]
    _goes_on(seat, again.trials[len(done)], stopped, ended.stderr)
    taken = [report.metrics for report in seat.reports("again") if report.trial < len(done)]
    assert not any(name.startswith(("time/", "system/")) for metrics in taken for name in metrics)
    status = seat.answer_here("sweep", "status", "again")
    assert (status["taken"], status["continued"], status["undelivered"]) == (len(done), 1, 0)
    run = MlflowClient(seat.home.tracking_uri).get_run(again.trials[0].run_id)
    source = f"spine t{done[0].number:04d}"
    assert run.data.tags["trial.taken_from"] == source and run.data.tags["trial.reason"] == f"taken from {source}"
    assert run.data.tags["trial.taken_from.run_id"] == spine.seat.runs("spine")[done[0].number]
    assert run.data.metrics["best/val/psnr_fg"] == done[0].best_value and run.info.status == "FINISHED"
    assert checkpoint.inspect(again.trials[0].released).sha256 == checkpoint.inspect(done[0].released).sha256
    _its_best_is_confirmed(seat, again, ended.stderr, status)


def _goes_on(seat, trial, stopped, said):
    """A trial that ASHA stopped in the other sweep comes to its end here."""
    origin, step = f"spine t{stopped.number:04d}", stopped.last_step
    assert f"t{trial.number:04d} goes on from step {step} of {origin}: " in said
    assert (trial.state, trial.attempt, trial.steps_elsewhere) == ("COMPLETE", 2, step)
    assert trial.curve[: len(stopped.curve)] == stopped.curve and trial.last_step == SMALL["train.max_steps"]
    client = MlflowClient(seat.home.tracking_uri)
    tags = client.get_run(trial.run_id).data.tags
    assert (tags["trial.continued_from"], tags["trial.resumed_from"]) == (origin, f"step-{step:06d}")
    points = client.get_metric_history(trial.run_id, "val/psnr_fg")
    assert [(point.step, point.value) for point in points] == list(trial.curve)


def _its_best_is_confirmed(seat, again, said, status):
    confirming = [trial for trial in again.trials.values() if trial.confirms is not None]
    base = again.params["train.seed"]
    assert [(one.confirms, one.params["train.seed"]) for one in confirming] == [
        (again.best.number, base + n) for n in (1, 2)
    ]
    values = [one.best_value for one in confirming]
    (told,) = status["confirmed"]
    assert (told["trial"], told["mean"], told["n"]) == (again.best.number, statistics.fmean(values), 2)
    assert f"t{again.best.number:04d} was ahead in the search" in said and " over 2 seeds (" in said
    client, runs = MlflowClient(seat.home.tracking_uri), seat.runs("again")
    tags = client.get_run(runs[None]).data.tags
    assert tags["best.confirmed"].startswith(f"mean {told['mean']:.4g} over 2 seeds (")
    assert client.get_run(runs[confirming[0].number]).data.tags["trial.confirms"] == f"t{again.best.number:04d}"
    record = record_of(Journal(seat.home.journal("again")), 0.0)
    assert {record.trial(one.number).protocol for one in confirming} == {record.trial(again.best.number).protocol}


def test_the_run_of_another_home_is_told_with_that_home(spine, trials, tmp_path):
    home = replace(spine.seat.home, root=tmp_path)
    with pytest.raises(StudyError, match=rf"got one of another home, \S+:{spine.seat.home.root} — set MOUSELIFT_HOME"):
        trial_of(home, trials[0].run_id)


def _rows(paths: list[Path], cameras: Cameras, scene: str) -> dict[str, list]:
    return {
        "scene": [scene] * len(paths),
        "image": [path.read_bytes().hex() for path in paths],
        "c2w": cameras.c2w[: len(paths)].flatten(1).tolist(),
        "fxfycxcy": cameras.fxfycxcy[: len(paths)].tolist(),
    }
