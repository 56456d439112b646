"""What must hold of every sweep, whatever befell it."""

from __future__ import annotations

from dataclasses import dataclass, field

import optuna
from mlflow import MlflowClient

from sweeps.book.journal import Journal, Reported, TrialOpened
from sweeps.book.optuna_copy import open_storage
from sweeps.book.study import RAY_TRIAL
from sweeps.tracking.mlflow_layout import STATUS


@dataclass
class Books:
    """What the journal of a sweep and what is derived from it say; nothing is wrong where every list is empty."""

    lost: list[str] = field(default_factory=list)  # trials that began and have no end, or were never run
    doubled: list[str] = field(default_factory=list)  # trials with two runs, or more trials than asked for
    running: list[str] = field(default_factory=list)  # left RUNNING anywhere
    missing: list[str] = field(default_factory=list)  # figures that the journal has and MLflow has not, or twice
    differing: list[str] = field(default_factory=list)  # states in which the books differ
    states: dict[int, str] = field(default_factory=dict)
    best: int | None = None

    @property
    def wrong(self) -> list[str]:
        return self.lost + self.doubled + self.running + self.missing + self.differing


def check(seat, name: str, ended: bool = True) -> Books:
    """Compare journal, Optuna's copy and MLflow of a sweep. ended: all its trials should have come to their own end."""
    journal, ledger, books = Journal(seat.home.journal(name)), seat.ledger(name), Books()
    client = MlflowClient(seat.home.tracking_uri)
    books.states = {number: trial.state for number, trial in sorted(ledger.trials.items())}
    books.best = ledger.best.number if ledger.best else None
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`sweep.name` = '{name}'", max_results=5000)
    children = {}
    for run in runs:
        number = run.data.tags.get("trial.number")
        if number is not None:
            children.setdefault(int(number), []).append(run)
    _compare_trials(books, ledger, children, ended)
    parents = [run for run in runs if "trial.number" not in run.data.tags]
    if len(parents) != 1:
        books.doubled.append(f"{len(parents)} runs of the sweep")
    books.running += [f"run {run.info.run_name}" for run in runs if run.info.status == "RUNNING"]
    _compare_study(books, seat, name, ledger, ended)
    _compare_metrics(books, client, journal, ledger)
    return books


def _compare_trials(books, ledger, children, ended) -> None:
    for number, trial in ledger.trials.items():
        runs = children.get(number, [])
        if len(runs) != trial.begun:
            (books.doubled if runs else books.lost).append(f"t{number:04d} has {len(runs)} runs")
        elif runs and runs[0].info.status != STATUS.get(trial.state, trial.state):
            books.differing.append(f"t{number:04d} {trial.state} and {runs[0].info.status} in MLflow")
    books.lost += [f"t{number:04d}" for number in children.keys() - ledger.trials.keys()]
    books.running += [f"t{number:04d} in the journal" for number in ledger.open if ledger.trials[number].begun]
    if ledger.state == "RUNNING":
        books.running.append("the sweep in the journal")
    if ended:
        over = [n for n, trial in ledger.trials.items() if trial.state in ("COMPLETE", "PRUNED", "FAIL")]
        if len(over) < ledger.planned:
            books.lost.append(f"{len(over)} of {ledger.planned} trials came to their end")
    if len(ledger.trials) > ledger.planned:
        books.doubled.append(f"{len(ledger.trials)} trials of {ledger.planned}")


def _compare_study(books, seat, name, ledger, ended) -> None:
    storage = open_storage(seat.home)
    trials = optuna.load_study(storage=storage, study_name=name).get_trials(deepcopy=False)
    numbers = ledger.trials.keys() | ledger.not_run.keys()
    if [trial.number for trial in trials] != sorted(numbers):
        books.lost.append(f"{len(trials)} of {len(numbers)} proposals are in the study")
    # No process of Ray's trained these, or began them.
    taken = {number for number, trial in ledger.trials.items() if trial.taken_from or trial.continued_from}
    ran = {trial.number: trial for trial in trials if RAY_TRIAL in trial.user_attrs or trial.number in taken}
    books.running += [f"t{trial.number:04d} in the study" for trial in trials if trial.state.name == "RUNNING"]
    for number, trial in ledger.trials.items():
        if number not in ran:
            if trial.begun:
                books.lost.append(f"t{number:04d} is not in the study")
            continue
        if ran[number].intermediate_values != dict(trial.curve):
            books.differing.append(f"t{number:04d} has another curve in the study")
        expected = "WAITING" if trial.state == "KILLED" else trial.state
        if ran[number].state.name != expected:
            books.differing.append(f"t{number:04d} {trial.state} and {ran[number].state.name} in the study")
    if ended and any(trial.state.name == "WAITING" for trial in trials):
        books.lost.append("the study has trials that wait")


def _compare_metrics(books, client, journal, ledger) -> None:
    """Each step's first report stands in MLflow, once; and each validated step of an unbroken trial is there."""
    first: dict[int, dict[tuple[str, int], float]] = {}
    last_step: dict[int, int] = {}
    resumed: dict[int, int] = {}
    for _, event in journal.events():
        if isinstance(event, TrialOpened):
            resumed[event.trial] = last_step.get(event.trial, -1)
        if isinstance(event, Reported) and event.step > resumed[event.trial]:
            last_step[event.trial] = max(event.step, last_step.get(event.trial, -1))
            for metric, value in event.metrics.items():
                first.setdefault(event.trial, {}).setdefault((metric, event.step), value)
    for number, trial in ledger.trials.items():
        expected = first.get(number, {})
        if not trial.begun:
            continue
        metrics = {metric for metric, _ in expected if metric.startswith(("train/loss", "val/psnr", "time/"))}
        for metric in metrics:
            history = client.get_metric_history(trial.run_id, metric)
            steps = [item.step for item in history]
            if len(steps) != len(set(steps)):
                books.missing.append(f"t{number:04d} {metric} has steps twice")
            wanted = {step: value for (name, step), value in expected.items() if name == metric}
            if {item.step: item.value for item in history} != wanted:
                books.missing.append(f"t{number:04d} {metric}: {sorted(wanted.keys() ^ set(steps))[:5]}")
