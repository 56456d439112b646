"""The journal in MLflow: a real SQLite store, and a real server that is killed while the journal drains."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow.artifacts
import numpy as np
import pytest
from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient
from PIL import Image

from pipeline.recipes import load_recipe
from sweeps.book.delivery import delivered
from sweeps.book.journal import Journal, Reported, RunOpened, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.ledger import read
from sweeps.book.provenance import provenance
from sweeps.home import Home
from sweeps.tracking import listing, mlflow_layout, queries
from sweeps.tracking.mlflow_client import prepare_store
from sweeps.tracking.mlflow_writer import MLflowDelivery
from sweeps.tracking.pages import Links

RECIPE = load_recipe("gslrm_tiny")
SPACE = {
    "recipe": "gslrm_tiny",
    "space": {"optim.lr": {"float": [1e-5, 1e-3], "log": True}, "loss.ssim": {"float": [0.0, 1.0]}},
    "objective": {"metric": "val/psnr_fg", "mode": "max"},
    "trials": {"count": 4},
}
DATA_TAGS = {"data.name": "mice", "data.digest": "d" * 64}
ENDS = [
    ("COMPLETE", ""),
    ("PRUNED", "asha: rung 2"),
    ("FAIL", "NonFiniteError: mse at step 3"),
    ("KILLED", "SIGINT"),
]
STEPS = 3


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((64, 320, 3), 60 * value + 40, np.uint8)).save(file, "PNG")
    return file.getvalue()


def open_sweep(journal: Journal, name: str = "mice") -> None:
    tags, artifacts = provenance(journal.keep)
    journal.append(SweepOpened(name, "gslrm_tiny", SPACE, {**tags, **DATA_TAGS}, RECIPE.params, artifacts))


def open_trial(journal: Journal, number: int, attempt: int = 1) -> None:
    params = {"optim.lr": 1e-4 * (number + 1), "loss.ssim": 0.5}
    everything = {**RECIPE.params, **params}
    journal.append(TrialOpened(number, f"ray_{number}", attempt, params, everything, f"print{number}"))


def report(journal: Journal, number: int, step: int, psnr: float) -> None:
    metrics = {"val/psnr_fg": psnr, "train/mse": 1.0 / (step + 1), "system/cpu_utilization_percentage": 50.0}
    journal.append(Reported(number, step, metrics, {"preview/scene_0": journal.keep("preview.png", png(step))}))


def whole_sweep(journal: Journal, checkpoint: Path, name: str = "mice") -> None:
    """Four trials that end in the four ways; trial n peaks at step 1 with 20 + n dB."""
    (checkpoint / "deep").mkdir(parents=True)
    (checkpoint / "deep" / "model.safetensors").write_bytes(b"weights")
    (checkpoint.parent / "mouse.ply").write_bytes(b"ply")
    open_sweep(journal, name)
    for number in range(4):
        open_trial(journal, number)
    for step, number in itertools.product(range(STEPS), range(4)):
        report(journal, number, step, 20.0 + number - abs(step - 1))
    artifacts = {"checkpoint": str(checkpoint), "gaussians": str(checkpoint.parent / "mouse.ply")}
    for number, (state, reason) in enumerate(ENDS):
        journal.append(TrialClosed(number, state, reason, artifacts if state == "COMPLETE" else {}))  # type: ignore[arg-type]
    journal.append(SweepClosed("COMPLETE", "", {"time/hours": 0.1}))


def drained(journal: Journal, uri: str, artifacts: Path, **options: str) -> None:
    assert MLflowDelivery(journal, uri, artifacts, **options).start().close(120)


def runs(uri: str, name: str = "mice") -> tuple[Run, list[Run]]:
    """The parent and its children by number; there are no other runs."""
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = list(client.search_runs(experiments, f"tags.`sweep.name` = '{name}'", ViewType.ALL))
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert all(run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id for run in children)
    return parents[0], sorted(children, key=lambda run: int(run.data.tags["trial.number"]))


def files(client: MlflowClient, run_id: str, folder: str = "") -> set[str]:
    found: set[str] = set()
    for entry in client.list_artifacts(run_id, folder or None):
        found |= files(client, run_id, entry.path) if entry.is_dir else {entry.path}
    return found


def everything(uri: str, name: str = "mice") -> dict[str, object]:
    """All that MLflow knows about a sweep, less ids, and what the tracker says of itself."""
    client, (parent, children) = MlflowClient(uri), runs(uri, name)
    known: dict[str, object] = {}
    for run in (parent, *children):
        history = {
            key: sorted((m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
        }
        ids = ("mlflow.parentRunId", "best.run_id")
        if run is parent:
            ids += ("heartbeat", "tracking.late")
        tags = {key: value for key, value in run.data.tags.items() if key not in ids}
        inputs = [one.dataset.digest for one in run.inputs.dataset_inputs]
        known[run.info.run_name] = (
            (run.info.status, run.info.start_time, run.info.end_time),
            (run.data.params, tags, history, files(client, run.info.run_id), inputs),
        )
    return known


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's schema, to be copied: making one takes seconds."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    prepare_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """One whole sweep in SQLite: (tracking URI, folder of the journal)."""
    root = tmp_path_factory.mktemp("home")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    with Journal(root / "journal", clock=itertools.count(1.7e9, 0.5).__next__) as journal:
        whole_sweep(journal, root / "checkpoint")
        drained(journal, uri, root / "artifacts")
    return uri, root


def test_runs_end_as_the_trials_did(store: tuple[str, Path]) -> None:
    parent, children = runs(store[0])
    assert [parent.info.status, *(child.info.status for child in children)] == [
        "FINISHED",
        *("FINISHED", "FINISHED", "FAILED", "KILLED"),
    ]
    assert [child.data.tags["trial.state"] for child in children] == [state for state, _ in ENDS]
    assert children[1].data.tags["trial.reason"] == "asha: rung 2"
    assert children[2].data.tags["trial.fail_reason"] == "NonFiniteError: mse at step 3"
    assert parent.info.end_time == int(children[3].info.end_time) + 500


def test_the_experiment_is_the_recipe_and_children_are_named_after_sweep_and_trial(
    store: tuple[str, Path],
) -> None:
    client, (parent, children) = MlflowClient(store[0]), runs(store[0])
    experiment = client.get_experiment(parent.info.experiment_id)
    assert (experiment.name, parent.info.run_name) == ("gslrm_tiny", "mice")
    assert [child.info.run_name for child in children] == [f"t{n:04d} · mice" for n in range(4)]
    assert experiment.artifact_location == (store[1] / "artifacts" / "gslrm_tiny").as_uri()


def test_params_of_a_trial_are_its_whole_recipe(store: tuple[str, Path]) -> None:
    _, children = runs(store[0])
    params = children[2].data.params
    assert params.keys() == RECIPE.params.keys()
    assert (params["optim.lr"], params["model.kind"]) == (json.dumps(1e-4 * 3), "gslrm")


def test_params_of_a_sweep_are_what_it_searches_and_how(store: tuple[str, Path]) -> None:
    parent, _ = runs(store[0])
    assert parent.data.params == {
        "recipe": "gslrm_tiny",
        "objective": "max val/psnr_fg",
        "trials": "4",
        "optim.lr": "log 1e-05 … 0.001",
        "loss.ssim": "0 … 1",
    }


def test_hashes_are_a_file_of_each_run_and_one_short_tag(store: tuple[str, Path]) -> None:
    client, (parent, children) = MlflowClient(store[0]), runs(store[0])
    code = parent.data.tags["mlflow.source.git.commit"]
    assert children[2].data.tags["lineage"] == f"recipe print2, data {'d' * 12}, code {code[:12]}"
    assert not {"data.digest", "fingerprint", "trial.params", "ray.trial_id"} & children[2].data.tags.keys()
    lineage = mlflow.artifacts.load_dict(f"{children[2].info.artifact_uri}/lineage.json")
    assert lineage["chosen"] == {"optim.lr": 1e-4 * 3, "loss.ssim": 0.5}
    assert (lineage["ray_trial_id"], lineage["tags"]["data.digest"]) == ("ray_2", "d" * 64)
    assert "lineage.json" in files(client, parent.info.run_id)


def test_metrics_have_the_steps_and_times_of_the_journal(store: tuple[str, Path]) -> None:
    client, (_, children) = MlflowClient(store[0]), runs(store[0])
    with Journal(store[1] / "journal") as journal:
        told = [event for _, event in journal.events() if isinstance(event, Reported) and event.trial == 2]
    history = client.get_metric_history(children[2].info.run_id, "val/psnr_fg")
    assert [(m.step, m.timestamp, m.value) for m in history] == [
        (event.step, int(event.time * 1000), event.metrics["val/psnr_fg"]) for event in told
    ]
    assert children[2].data.metrics["system/cpu_utilization_percentage"] == 50.0


def test_the_last_value_of_best_is_the_best(store: tuple[str, Path]) -> None:
    parent, children = runs(store[0])
    metrics = children[1].data.metrics
    assert (metrics["best/val/psnr_fg"], metrics["best/step"], metrics["val/psnr_fg"]) == (21.0, 1.0, 20.0)
    assert parent.data.metrics["best/val/psnr_fg"] == 20.0
    assert (parent.data.tags["best.trial"], parent.data.tags["best.run_id"]) == ("0", children[0].info.run_id)


def test_files_lie_where_their_names_say(store: tuple[str, Path]) -> None:
    client, (parent, children) = MlflowClient(store[0]), runs(store[0])
    kept = {name for name in files(client, children[0].info.run_id) if not name.startswith("images/")}
    assert kept == {"checkpoint/deep/model.safetensors", "config/recipe.yaml", "gaussians/mouse.ply", "lineage.json"}
    assert {"config/recipe.yaml", "config/space.yaml", "code/packages.txt"} <= files(client, parent.info.run_id)


def test_previews_have_the_names_that_mlflow_gives_to_images_of_a_step(store: tuple[str, Path]) -> None:
    client, (_, children) = MlflowClient(store[0]), runs(store[0])
    scratch = client.create_run(children[0].info.experiment_id)
    client.log_image(scratch.info.run_id, np.zeros((4, 4, 3), np.uint8), key="preview/scene_0", step=1, timestamp=7)

    def shapes(run_id: str) -> set[str]:
        names = (name for name in files(client, run_id) if "+step+1+" in name)
        return {re.sub(r"timestamp\+\d+", "timestamp", re.sub(r"[0-9a-f-]{36}", "uuid", name)) for name in names}

    assert shapes(children[0].info.run_id) == shapes(scratch.info.run_id) != set()
    assert (
        children[0].data.tags["mlflow.loggedImages"]
        == client.get_run(scratch.info.run_id).data.tags["mlflow.loggedImages"]
    )
    assert len([name for name in files(client, children[0].info.run_id) if name.endswith(".png")]) == STEPS
    client.delete_run(scratch.info.run_id)


def test_the_dataset_is_an_input_of_every_run(store: tuple[str, Path]) -> None:
    parent, children = runs(store[0])
    for run in (parent, *children):
        (one,) = run.inputs.dataset_inputs
        assert (one.dataset.name, one.dataset.digest, one.tags[0].value) == ("mice", "d" * 12, "training")


def test_the_experiment_has_a_view_of_the_sweep_with_its_searched_params_as_columns(
    store: tuple[str, Path],
) -> None:
    client, (parent, _) = MlflowClient(store[0]), runs(store[0])
    tags = client.get_experiment(parent.info.experiment_id).tags
    state = json.loads(json.loads(tags["mlflow.sharedViewState.mice"])["state"])
    assert {"params.`optim.lr`", "params.`loss.ssim`", "metrics.`best/val/psnr_fg`"} <= set(state["selectedColumns"])
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_draining_again_from_the_start_changes_nothing(store: tuple[str, Path]) -> None:
    uri, root = store
    before = everything(uri)
    (root / "journal" / "delivered.json").unlink()
    with Journal(root / "journal") as journal:
        drained(journal, uri, root / "artifacts")
    assert everything(uri) == before


def test_a_run_made_just_before_a_kill_is_found_and_not_made_again(store: tuple[str, Path]) -> None:
    uri, root = store
    path = root / "journal" / "journal.jsonl"
    with Journal(root / "journal") as journal:
        forgotten = [event for _, event in journal.events() if isinstance(event, RunOpened)]
    lines = [line for line in path.read_bytes().splitlines(True) if b'"RunOpened"' not in line]
    path.write_bytes(b"".join(lines))
    (root / "journal" / "delivered.json").unlink()
    before = everything(uri)
    with Journal(root / "journal") as journal:
        drained(journal, uri, root / "artifacts")
        found = [event for _, event in journal.events() if isinstance(event, RunOpened)]
    assert {(e.trial, e.run_id) for e in found} == {(e.trial, e.run_id) for e in forgotten}
    assert everything(uri) == before


def test_queries_tell_the_sweeps_of_a_store(store: tuple[str, Path]) -> None:
    (sweep,) = queries.sweeps(store[0])
    assert (sweep.name, sweep.recipe, sweep.state) == ("mice", "gslrm_tiny", "COMPLETE")
    experiment = MlflowClient(store[0]).get_experiment_by_name("gslrm_tiny")
    assert sweep.ui_path == Links(experiment.experiment_id).sweep("mice")
    assert sweep.charts_path == f"{sweep.ui_path}&compareRunsMode=CHART"


def test_a_sweep_of_another_home_is_listed_with_what_mlflow_knows(store: tuple[str, Path], tmp_path: Path) -> None:
    home = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": store[0]})
    (sweep,), troubles = listing.known_sweeps(home)
    book = read(Journal(store[1] / "journal"))
    assert troubles == [] and sweep.home == mlflow_layout.home_text((store[1] / "journal").parents[1])
    assert (sweep.name, sweep.done, sweep.planned) == ("mice", book.ended, book.planned)
    assert sweep.best == book.best.best_value


def test_a_retried_trial_keeps_its_run_and_repeats_no_step(uri: str, tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        open_sweep(journal)
        open_trial(journal, 0)
        for step in (0, 1, 2):
            report(journal, 0, step, 20.0 + step)
        open_trial(journal, 0, attempt=2)
        for step in (1, 2, 3):
            report(journal, 0, step, 20.0 + step)
        journal.append(TrialClosed(0, "COMPLETE"))
        journal.append(SweepClosed("KILLED", "SIGINT"))
        drained(journal, uri, tmp_path / "artifacts")
    _, (child,) = runs(uri)
    history = MlflowClient(uri).get_metric_history(child.info.run_id, "val/psnr_fg")
    assert [(m.step, m.value) for m in history] == [(step, 20.0 + step) for step in range(4)]
    assert child.data.tags["trial.attempt"] == "2"


def test_an_interrupted_sweep_leaves_nothing_running_and_goes_on_in_the_same_runs(uri: str, tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        open_sweep(journal)
        open_trial(journal, 0)
        journal.append(SweepClosed("KILLED", "SIGINT"))
        drained(journal, uri, tmp_path / "artifacts")
    parent, (child,) = runs(uri)
    assert (parent.info.status, child.info.status) == ("KILLED", "KILLED")
    with Journal(tmp_path / "journal") as journal:
        open_sweep(journal)
        open_trial(journal, 0, attempt=2)
        drained(journal, uri, tmp_path / "artifacts")
    again, (child_again,) = runs(uri)
    assert (again.info.status, child_again.info.status) == ("RUNNING", "RUNNING")
    assert (again.info.run_id, child_again.info.run_id) == (parent.info.run_id, child.info.run_id)


def test_the_run_that_mlflow_run_opened_becomes_the_parent(uri: str, tmp_path: Path) -> None:
    client = MlflowClient(uri)
    given = client.create_run(client.create_experiment("theirs", (tmp_path / "theirs").as_uri()))
    with Journal(tmp_path / "journal") as journal:
        whole_sweep(journal, tmp_path / "checkpoint")
        drained(journal, uri, tmp_path / "artifacts", adopted_run_id=given.info.run_id)
    parent, children = runs(uri)
    assert parent.info.run_id == given.info.run_id
    assert {child.info.experiment_id for child in children} == {given.info.experiment_id}


def test_an_artifact_that_is_gone_does_not_keep_its_trial_open(uri: str, tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        open_sweep(journal)
        open_trial(journal, 0)
        journal.append(TrialClosed(0, "COMPLETE", "", {"checkpoint": str(tmp_path / "gone")}))
        drained(journal, uri, tmp_path / "artifacts")
    assert runs(uri)[1][0].info.status == "FINISHED"


def test_a_fresh_store_prepared_by_three_processes_at_once_is_sound(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    program = "import sys; from sweeps.tracking.mlflow_client import prepare_store; prepare_store(sys.argv[1])"
    several = [subprocess.Popen([sys.executable, "-c", program, uri]) for _ in range(3)]
    assert [process.wait(120) for process in several] == [0, 0, 0]
    assert MlflowClient(uri).create_experiment("works")


def test_a_store_whose_making_is_killed_is_made_anew(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    program = "import sys; from sweeps.tracking.mlflow_client import prepare_store; prepare_store(sys.argv[1])"
    begun = tmp_path / ".mlflow.db"
    with subprocess.Popen([sys.executable, "-c", program, uri]) as process:
        while not (begun.exists() and begun.stat().st_size):
            assert process.poll() is None  # it ends if it never begins
            time.sleep(0.005)
        process.kill()
    assert not (tmp_path / "mlflow.db").exists()
    prepare_store(uri)
    assert MlflowClient(uri).create_experiment("works")
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_a_store_behind_a_link_and_a_question_mark_is_made_where_the_link_points(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "mlflow.db").symlink_to(tmp_path / "shared" / "all.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}?timeout=5"
    prepare_store(uri)
    assert (tmp_path / "mlflow.db").is_symlink() and (tmp_path / "shared" / "all.db").stat().st_size
    assert MlflowClient(uri).get_experiment("0").artifact_location == f"file://{tmp_path}/artifacts/0"


def test_tracking_says_nothing_on_stdout_and_stderr(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from sweeps.book.journal import *; from sweeps.tracking.mlflow_writer import MLflowDelivery\n"
        "root = Path(sys.argv[1]); journal = Journal(root / 'journal')\n"
        "journal.append(SweepOpened('s', 'r', {}, {}, {})); journal.append(SweepClosed('COMPLETE'))\n"
        "assert MLflowDelivery(journal, f'sqlite:///{root}/mlflow.db', root / 'artifacts').start().close(100)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert (answer.stdout, answer.stderr) == ("", "")


@contextmanager
def server(root: Path, port: int) -> Iterator[Callable[[], None]]:
    """`mlflow server` on its own SQLite and files; yields a function that kills it with SIGKILL."""
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{root / 'server.db'}",
        "--artifacts-destination",
        str(root / "files"),
    ]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (root / "server.log").open("a") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def kill() -> None:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()

    try:
        wait_until_healthy(port, process, root / "server.log")
        yield kill
    finally:
        kill()


def wait_until_healthy(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(480):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.25)
    pytest.fail(log.read_text())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_server_killed_in_mid_drain_and_restarted_has_every_event_once(
    store: tuple[str, Path], tmp_path: Path
) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    journal = Journal(tmp_path / "journal", clock=itertools.count(1.7e9, 0.5).__next__)
    whole_sweep(journal, tmp_path / "checkpoint")
    tracker = MLflowDelivery(journal, uri, tmp_path / "artifacts")
    with server(tmp_path, port) as kill:
        tracker.start()
        while sum(isinstance(event, RunOpened) for _, event in journal.events()) < 3:
            time.sleep(0.02)
        kill()
    assert delivered(journal) == 0, "the kill came too late to interrupt anything"
    with server(tmp_path, port):
        assert tracker.close(120)
        found = everything(uri)
    journal.close()
    opened = [event.trial for _, event in journal.events() if isinstance(event, RunOpened)]
    assert sorted(opened, key=str) == [0, 1, 2, 3, None]
    assert found == everything(store[0])


def test_a_best_that_breaks_a_constraint_later_is_the_best_no_more(tmp_path):
    """The first trial is the best so far while its memory holds the bound, and the run of the sweep says so."""
    home, memory = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home")}), "system/process_memory_gb"
    space = SPACE | {"constraints": {memory: "<= 20"}}
    with Journal(home.journal("bounded")) as journal:
        journal.append(SweepOpened("bounded", "gslrm_tiny", space, {}, RECIPE.params))
        for number in range(2):
            journal.append(TrialOpened(number, f"ray-{number}", 1, {}, RECIPE.params, f"print-{number}"))
        journal.append(Reported(0, 1, {"val/psnr_fg": 20.0, memory: 19.0}))
        journal.append(TrialClosed(1, "FAIL", "out of luck", cause="exception"))
        assert MLflowDelivery(journal, home.tracking_uri, home.artifacts).start().close(240)
        client, runs = MlflowClient(home.tracking_uri), read(journal)
        assert client.get_run(runs.run_id).data.tags["best.trial"] == "0"
        journal.append(Reported(0, 2, {"val/psnr_fg": 21.0, memory: 21.0}))
        journal.append(TrialClosed(0, "COMPLETE"))
        assert MLflowDelivery(journal, home.tracking_uri, home.artifacts).start().close(240)
        runs = read(journal)
    assert not {"best.trial", "best.run_id"} & client.get_run(runs.run_id).data.tags.keys()
    said = client.get_run(runs.trials[0].run_id).data.tags["trial.reason"]
    assert said == f"breaks a constraint: {memory} 21, wanted <= 20"
