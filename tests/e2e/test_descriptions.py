"""Descriptions and pages in a real SQLite store: they arrive, stay current, and never stop the figures."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from dashboards.pages.notes import sweep_note
from dashboards.pages.pages import MlflowPages
from dashboards.pages.trial_notes import trial_note
from pipeline.recipes import load_recipe
from sweeps.book.journal import Journal, Reported, State, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.ledger import Ledger
from sweeps.book.record import PROTOCOL, SweepRecord, record_of
from sweeps.conclusions.importance import Importance, importance_of
from sweeps.tracking import mlflow_pages
from sweeps.tracking.mlflow_client import prepare_store
from sweeps.tracking.mlflow_pages import NOTE, is_ours, signed
from sweeps.tracking.mlflow_writer import MLflowDelivery
from sweeps.tracking.pages import Links, Pages

RECIPE = load_recipe("gslrm_tiny")
SPACE = {
    "recipe": "gslrm_tiny",
    "space": {"optim.lr": {"float": [1e-5, 1e-3], "log": True}},
    "objective": {"metric": "val/psnr", "mode": "max"},
    "trials": {"count": 3},
}
HOSTILE = "쥐 | <script>alert(1)</script>"


class Broken(MlflowPages):
    """Pages of which every one fails."""

    def saved_view(self, record: SweepRecord) -> str:
        raise ZeroDivisionError(record.ledger.name)

    def sweep_note(self, record: SweepRecord, links: Links) -> str:
        raise KeyError(links.experiment_id)

    def trial_note(self, record: SweepRecord, number: int, links: Links) -> str:
        raise RuntimeError(number)

    def report(self, record: SweepRecord, links: Links) -> str:
        raise ValueError(record.ledger.name)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store for the sweeps of this file: making one takes seconds."""
    root = tmp_path_factory.mktemp("home")
    prepare_store(f"sqlite:///{root / 'mlflow.db'}")
    return root


@pytest.fixture
def journal(store: Path, request: pytest.FixtureRequest) -> Iterator[Journal]:
    """A journal of its own, named after the test."""
    with Journal(store / request.node.name, clock=itertools.count(1.7e9).__next__) as journal:
        yield journal


def open_sweep(journal: Journal, reason: str = "asha: weaker") -> None:
    """Three trials, of which the second is pruned for this reason."""
    tags = {"data.name": "mice", "data.digest": "d" * 64, "fingerprint": "f00"}
    journal.append(SweepOpened(journal.folder.name, "gslrm_tiny", SPACE, tags, RECIPE.params))
    for number in range(3):
        params = {"optim.lr": 1e-4 * (number + 1)}
        journal.append(TrialOpened(number, f"r{number}", 1, params, {**RECIPE.params, **params}, f"p{number}"))
        journal.append(Reported(number, 10, {"val/psnr": 20.0 + number}, {}, {PROTOCOL: "aaa"}))
    journal.append(TrialClosed(0, State.COMPLETE))
    journal.append(TrialClosed(1, State.PRUNED, reason))


def end_sweep(journal: Journal) -> None:
    journal.append(TrialClosed(2, State.COMPLETE))
    journal.append(SweepClosed(State.COMPLETE))


def delivered(journal: Journal, store: Path, pages: Pages | None = None) -> dict[int | None, Run]:
    """Deliver what the journal has. Returns the runs by the number of their trial."""
    uri = f"sqlite:///{store / 'mlflow.db'}"
    assert MLflowDelivery(journal, uri, store / "artifacts", pages=pages or MlflowPages()).start().close(120)
    client, ledger = MlflowClient(uri), record_of(journal, 0.0).ledger
    known = {number: trial.run_id for number, trial in ledger.trials.items()} | {None: ledger.run_id}
    return {number: client.get_run(run_id) for number, run_id in known.items() if run_id is not None}


def test_the_descriptions_of_an_ended_sweep_are_those_of_its_record(journal: Journal, store: Path) -> None:
    open_sweep(journal, reason=HOSTILE)
    end_sweep(journal)
    runs = delivered(journal, store)
    record, links = record_of(journal, 0.0), Links(runs[None].info.experiment_id)
    assert runs[None].data.tags[NOTE] == signed(sweep_note(record, links))
    for number in range(3):
        assert runs[number].data.tags[NOTE] == signed(trial_note(record, number, links))
        assert runs[number].data.tags[PROTOCOL] == "aaa"
    assert "<script>" not in runs[1].data.tags[NOTE]
    assert "t0002" in runs[None].data.tags[NOTE].partition("\n")[0]
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    assert "report.html" in {file.path for file in client.list_artifacts(runs[None].info.run_id)}


def test_a_sweep_whose_driver_died_has_descriptions_of_its_end(journal: Journal, store: Path) -> None:
    open_sweep(journal)
    before = delivered(journal, store)
    assert "KILLED" not in before[2].data.tags.get(NOTE, "")
    journal.append(TrialClosed(2, State.KILLED, "its driver died"))
    journal.append(SweepClosed(State.KILLED, "its driver died"))
    after = delivered(journal, store)
    assert after[None].data.tags[NOTE].startswith("**KILLED** (its driver died)")
    assert f"mouselift sweep resume {journal.folder.name}" in after[None].data.tags[NOTE]
    assert after[2].data.tags[NOTE].startswith("**KILLED**: its driver died.")


def test_delivered_again_the_descriptions_are_the_same(journal: Journal, store: Path) -> None:
    open_sweep(journal)
    end_sweep(journal)
    first = delivered(journal, store)
    (journal.folder / "delivered.json").unlink()
    again = delivered(journal, store)
    assert {n: run.data.tags[NOTE] for n, run in again.items()} == {n: run.data.tags[NOTE] for n, run in first.items()}


def test_a_description_that_a_person_changed_stays(journal: Journal, store: Path) -> None:
    open_sweep(journal)
    runs = delivered(journal, store)
    own = "My own conclusion: smaller rates next.\n\n" + runs[1].data.tags[NOTE]
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    client.set_tag(runs[1].info.run_id, NOTE, own)
    end_sweep(journal)
    runs = delivered(journal, store)
    assert runs[1].data.tags[NOTE] == own
    assert runs[0].data.tags[NOTE].startswith("**COMPLETE**")


def test_pages_that_fail_stop_no_figure_and_are_said_once(
    journal: Journal, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_sweep(journal)
    end_sweep(journal)
    with caplog.at_level(logging.WARNING):
        runs = delivered(journal, store, Broken())
    assert [runs[number].data.tags["trial.state"] for number in range(3)] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert [runs[number].data.metrics["val/psnr"] for number in range(3)] == [20.0, 21.0, 22.0]
    assert runs[None].info.status == "FINISHED"
    said = [record.message for record in caplog.records if "it is left out" in record.message]
    assert len(said) == len(set(said)) >= 4


def test_a_page_that_mlflow_refuses_stops_no_figure(
    journal: Journal, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TooLong(MlflowPages):
        def saved_view(self, record: SweepRecord) -> str:
            return record.ledger.name * 5000

    open_sweep(journal)
    end_sweep(journal)
    runs = delivered(journal, store, TooLong())
    assert runs[None].info.status == "FINISHED"
    assert NOTE in runs[None].data.tags
    with pytest.raises(MlflowException):
        MlflowClient(f"sqlite:///{store / 'mlflow.db'}").set_experiment_tag(
            runs[None].info.experiment_id, "mlflow.sharedViewState.x", journal.folder.name * 5000
        )


def test_without_time_for_all_the_sweep_is_described_and_its_end_is_not_delayed(
    journal: Journal, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_pages, "_SECONDS_AT_THE_END", -1.0)
    monkeypatch.setattr(mlflow_pages, "_SECONDS_A_ROUND", -1.0)
    open_sweep(journal)
    end_sweep(journal)
    runs = delivered(journal, store)
    assert runs[None].data.tags[NOTE].startswith("**COMPLETE**")
    assert NOTE not in runs[0].data.tags
    assert runs[None].info.status == "FINISHED"


@pytest.mark.parametrize("text", ["", "short", "x" * 9000, "with\n\n[//]: # (mouselift 0123)\n\nin it"])
def test_a_signed_description_is_ours_until_it_is_changed(text: str) -> None:
    note = signed(text)
    assert len(note) <= 8000
    assert is_ours(note)
    assert is_ours(note + "\n")
    assert not is_ours("mine\n" + note)
    assert not is_ours(note + "\nmine")


def test_an_experiment_tells_of_its_latest_sweep_though_an_older_one_is_closed_after_it(store: Path) -> None:
    """And a reason that no database encodes, of a file whose name is no text, keeps no figure away."""
    with Journal(store / "older", clock=itertools.count(1.71e9).__next__) as older:
        open_sweep(older, reason="asha: mouse\udcff.png")
        delivered(older, store)
        with Journal(store / "newer", clock=itertools.count(1.72e9).__next__) as newer:
            open_sweep(newer)
            experiment = delivered(newer, store)[None].info.experiment_id
        end_sweep(older)
        runs = delivered(older, store)
    assert runs[1].data.tags["trial.reason"] == "asha: mouse?.png"
    assert runs[None].info.status == "FINISHED"
    tags = MlflowClient(f"sqlite:///{store / 'mlflow.db'}").get_experiment(experiment).tags
    assert " in newer, the latest sweep: " in tags[NOTE]


def test_what_takes_seconds_is_computed_once_for_all_pages_of_a_sweep_that_is_delivered_late(
    journal: Journal, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[Ledger] = []

    def counted(ledger: Ledger) -> Importance:
        computed.append(ledger)
        return importance_of(ledger)

    for module in ("dashboards.pages.notes", "dashboards.pages.pages"):
        monkeypatch.setattr(f"{module}.importance_of", counted)
    open_sweep(journal)
    end_sweep(journal)
    runs = delivered(journal, store)
    assert "### What mattered" in runs[None].data.tags[NOTE]
    assert len(computed) == 1
