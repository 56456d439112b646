"""Everything where a team would have it, on one machine: two Ray nodes, an MLflow server on PostgreSQL whose files lie
in S3, Optuna in a database beside it. The space is the one that a laptop runs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
from mlflow import MlflowClient
from ray import tune

from pipeline import checkpoint
from sweeps.book.journal import Journal, Reported, TrialClosed, TrialOpened
from sweeps.book.optuna_copy import open_storage
from sweeps.run.nodes import Node, seats_of
from sweeps.run.processes import resources
from sweeps.space.resources import Resources
from tests.e2e.conftest import Seat, stop, write_space
from tests.e2e.test_postgres import databases  # noqa: F401 — a fixture
from tests.support.spaces import space_with

boto3 = pytest.importorskip("boto3", reason="needs boto3, of the extra `dev`")
moto_server = pytest.importorskip("moto.server", reason="needs moto, of the extra `dev`")
pytestmark = pytest.mark.faults

BUCKET = "models"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
SECONDS_TO_START = 120


@dataclass(frozen=True)
class Servers:
    """Their addresses."""

    mlflow: str
    s3: str
    ray: str


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """A server that speaks S3, with an empty bucket."""
    server = moto_server.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    try:
        client(address).create_bucket(Bucket=BUCKET)
        yield address
    finally:
        server.stop()


def client(address: str):
    return boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name=KEYS["AWS_DEFAULT_REGION"],
    )


@contextlib.contextmanager
def mlflow_server(store: str, s3: str) -> Iterator[str]:
    """MLflow's server as docs/cluster.md starts it: clients need no key of S3."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | KEYS | {"MLFLOW_S3_ENDPOINT_URL": s3, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    words = ["--backend-store-uri", store, "--artifacts-destination", f"s3://{BUCKET}/mlflow", "--workers", "1"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=said,
            stderr=said,
            text=True,
            start_new_session=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(process)


def wait_for(url: str, process: subprocess.Popen) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.3)
    raise AssertionError(f"{url} does not answer")


@contextlib.contextmanager
def two_nodes() -> Iterator[str]:
    """A Ray cluster of two nodes with one CPU each, of which one says that it has a large GPU."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1, labels={"gpu_memory_gb": "80"})
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def servers(databases) -> Iterator[Servers]:  # noqa: F811
    with s3_server() as s3, mlflow_server(databases.mlflow, s3) as mlflow, two_nodes() as nodes:
        yield Servers(mlflow, s3, nodes)


@pytest.fixture(scope="module")
def swept(servers, databases, tmp_path_factory, mice_folder) -> Seat:  # noqa: F811
    environment = {
        "MLFLOW_TRACKING_URI": servers.mlflow,
        "MOUSELIFT_STORAGE": databases.optuna,
        "RAY_ADDRESS": servers.ray,
        # Whatever a Ray that an earlier test has run in this process has settled on: the nodes inherit it.
        "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"),
    }
    seat = Seat(tmp_path_factory.mktemp("team"), environment)
    trials = {"count": 2, "concurrent": 2, "cpus": 1}
    fixed = {"train.max_steps": 480}  # for one to meet the other, whose process has come up seconds later
    space = write_space(seat.root / "small.yaml", fixed=fixed, trials=trials, scheduler={"kind": "none"})
    done = seat.mouselift("sweep", "run", space, "--data", mice_folder, "--name", "team")
    assert done.returncode == 0, done.stderr
    return seat


def test_two_trials_run_at_a_time_for_which_it_takes_both_nodes(swept) -> None:
    events = [event for _, event in Journal(swept.home.journal("team")).events()]
    lives = [e for e in events if isinstance(e, TrialOpened | Reported | TrialClosed)]
    first_end = next(i for i, event in enumerate(lives) if isinstance(event, TrialClosed))
    assert {event.trial for event in lives[:first_end] if isinstance(event, Reported)} == {0, 1}


def where(config: dict[str, Any]) -> None:
    tune.report({"node": ray.get_runtime_context().get_node_id()})


@pytest.fixture
def nodes(servers) -> Iterator[list[dict[str, Any]]]:
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))))
    ray.init(address=servers.ray, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    try:
        yield [node for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def test_a_trial_that_needs_a_large_gpu_runs_where_one_is(nodes, tmp_path) -> None:
    trials = Resources(count=3, cpus=1, needs={"gpu_memory_gb": 40})
    seats = seats_of(space_with(name="large", recipe="gslrm_tiny", trials=trials), [Node.of(node) for node in nodes])
    ran = tune.Tuner(
        tune.with_resources(where, resources(seats)),
        tune_config=tune.TuneConfig(num_samples=3, metric="node", mode="max", reuse_actors=False),
        run_config=tune.RunConfig(name="large", storage_path=str(tmp_path), verbose=0),
    ).fit()
    large = next(node["NodeID"] for node in nodes if node["Labels"].get("gpu_memory_gb") == "80")
    assert [result.metrics["node"] for result in ran] == [large] * 3


def test_the_server_has_every_run_finished(swept, servers) -> None:
    runs = {trial: MlflowClient(servers.mlflow).get_run(run_id) for trial, run_id in swept.runs("team").items()}
    assert {trial: run.info.status for trial, run in runs.items()} == dict.fromkeys([None, 0, 1], "FINISHED")


def test_optuna_has_every_trial_complete(swept, databases) -> None:  # noqa: F811
    study = optuna.load_study(storage=open_storage(swept.home), study_name="team")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]


def test_files_lie_in_s3_and_none_on_the_drivers_disk(swept, servers) -> None:
    listed = client(servers.s3).list_objects_v2(Bucket=BUCKET, Prefix="mlflow/")
    names = {Path(found["Key"]).name for found in listed["Contents"]}
    assert {"model.safetensors", "checkpoint.json"} <= names
    assert not swept.home.artifacts.exists() and not (swept.home.root / "mlflow.db").exists()


def test_a_model_goes_to_the_registry_and_back_through_s3(swept, tmp_path) -> None:
    version = swept.answer("model", "promote", "team")
    assert version["alias"] == "champion"
    folder = Path(swept.answer("model", "pull", "mouse-gslrm@champion", "--out", tmp_path / "model")["folder"])
    best = swept.ledger("team").best
    assert checkpoint.inspect(folder).recipe.fingerprint == best.fingerprint
