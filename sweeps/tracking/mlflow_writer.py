"""The only writer of runs to MLflow. It sends each event of a journal until it has arrived, with the effect of once.

Experiment = recipe, parent run = sweep, child run = trial (`t0003 · <sweep>`); tags and files are
described in `mlflow_layout`. An event sent again changes nothing: a run is searched by its key before it is made,
metrics carry the journal's time, files have their final names.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import yaml
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from sweeps.book import journal as events
from sweeps.book.delivery import Delivery, Send, UnansweredError
from sweeps.book.journal import Event, Journal
from sweeps.book.ledger import Ledger, fold
from sweeps.home import is_served
from sweeps.space.plan import as_asked
from sweeps.tracking import mlflow_layout as layout
from sweeps.tracking.mlflow_client import delivery_errors, environment, prepare_store
from sweeps.tracking.mlflow_pages import PageWriter
from sweeps.tracking.pages import Pages

HEARTBEAT = "heartbeat"
BEAT_SECONDS = 30.0
_PAGES_SECONDS = 60.0  # between two writings of the texts of a sweep that runs
_METRICS_A_CALL = 1000  # MLflow's limits for log_batch
_PARAMS_A_CALL = 100
_DIGEST_LENGTH = 12  # the UI has no room for more; lineage.json has it whole
_ONCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}  # a lost answer may hide a run: the next try searches for it first
_log = logging.getLogger(__name__)
T = TypeVar("T")


class MLflowDelivery(Delivery):
    """Brings a journal to MLflow while it grows.

    Files go below `artifact_root` where `tracking_uri` is a database; a server has a place of its own for them.
    `adopted_run_id` is a run that `mlflow run` has opened for the sweep. It becomes the sweep's own run. `pages` makes
    the texts and pages of the sweep: at its end, and while it runs at most once a minute.
    """

    def __init__(
        self,
        journal: Journal,
        tracking_uri: str,
        artifact_root: Path,
        clock: Callable[[], float] = time.time,
        adopted_run_id: str | None = None,
        pages: Pages | None = None,
    ) -> None:
        local = None if is_served(tracking_uri) else Path(artifact_root)
        self._writer: _Writer | None = None
        self._beaten = self._shown = 0.0

        def connect() -> Send:
            with delivery_errors():
                prepare_store(tracking_uri)
                self._writer = _Writer(journal, MlflowClient(tracking_uri), local, adopted_run_id, pages)
                return self._writer.send

        super().__init__(journal, f"MLflow at {tracking_uri}", connect, clock)

    def idle(self) -> None:
        """Renew the heartbeat on the sweep's run, by which other homes see that its driver lives."""
        now = self._clock()
        if self._writer is None:
            return
        with suppress(UnansweredError):  # the next batch meets the same error, and waits for an answer
            if now - self._beaten >= BEAT_SECONDS:
                self._beaten = now
                self._writer.say({HEARTBEAT: utc(now)})
            if now - self._shown >= _PAGES_SECONDS:
                self._shown = now
                self._writer.show(now)

    def caught_up(self, seconds: float) -> None:
        """Say on the sweep's run that events came late, and renew the heartbeat that could not be written meanwhile."""
        if self._writer is not None:
            with suppress(UnansweredError):
                now = self._clock()
                self._writer.say({"tracking.late": f"{seconds:.0f} s until {utc(now)}", HEARTBEAT: utc(now)})


class _Writer:
    """Turns events into calls of MLflow. Each call may be repeated and then changes nothing."""

    def __init__(
        self,
        journal: Journal,
        client: MlflowClient,
        artifact_root: Path | None,
        adopted: str | None,
        pages: Pages | None,
    ) -> None:
        self._journal = journal
        self._client = client
        self._artifact_root = artifact_root
        self._adopted = adopted
        self._experiment_id: str | None = None
        opened = (event for _, event in journal.events() if isinstance(event, events.RunOpened))
        self._runs: dict[int | None, str] = {event.trial: event.run_id for event in opened}
        self._pending: dict[int, list[events.Reported]] = defaultdict(list)
        self._pages = None if pages is None else PageWriter(journal, client, pages, self._runs)

    def say(self, tags: Mapping[str, str]) -> None:
        """Set tags of the sweep's own run, once it has one. Raises UnansweredError and RefusedError."""
        if None in self._runs:
            with delivery_errors():
                self._log(self._runs[None], tags=tags)

    def show(self, now: float) -> None:
        """Write the texts of the sweep's pages, as the journal has it. Raises UnansweredError and RefusedError."""
        if self._pages is not None and None in self._runs:
            with delivery_errors():
                self._pages.running(self._client.get_run(self._runs[None]).info.experiment_id, now)

    def send(self, ledger: Ledger, news: Iterable[Event]) -> Ledger:
        """The ledger after these events, which follow `ledger`. Raises UnansweredError and RefusedError."""
        with delivery_errors():
            return self._send(ledger, news)

    def _send(self, ledger: Ledger, news: Iterable[Event]) -> Ledger:
        """Event by event, but reports in a row travel together."""
        self._pending.clear()
        for event in news:
            before, ledger = ledger, fold(ledger, event)
            if isinstance(event, events.Reported):
                self._collect(ledger, event)
                continue
            self._flush()
            match event:
                case events.SweepOpened():
                    self._open_sweep(ledger, event)
                case events.TrialOpened():
                    self._open_trial(ledger, event)
                case events.AttemptFailed():
                    self._note_fault(event)
                case events.TrialClosed():
                    self._close_trial(ledger, event)
                case events.CheckpointReleased():
                    self._upload(self._runs[event.trial], "checkpoint", Path(event.path))
                case events.GaussiansKept():
                    self._show_gaussians(ledger, event)
                case events.SweepClosed():
                    self._close_sweep(before, ledger, event)
        self._flush()
        return ledger

    def _open_sweep(self, ledger: Ledger, event: events.SweepOpened) -> None:
        tags = layout.sweep_tags(ledger, self._journal.folder.parents[1], again=event.time != ledger.opened)
        run_id = self._run(ledger, None, event.time, tags)
        known = self._client.get_run(run_id).data.params  # of `mlflow run`, or of an earlier session or version
        new = layout.sweep_params(ledger) if event.time == ledger.opened else {}
        params = {key: value for key, value in new.items() if key not in known}
        self._open_run(run_id, params, tags)
        self._client.log_dict(run_id, layout.sweep_lineage(ledger), layout.LINEAGE_FILE)
        for path, blob in event.artifacts.items():
            self._upload(run_id, path, self._journal.blob(blob))
        self._client.log_text(run_id, yaml.safe_dump(as_asked(event.space), sort_keys=False), "config/space.yaml")
        self._describe(run_id, ledger.tags, event.params)
        for key, value in layout.experiment_tags(ledger).items():
            self._client.set_experiment_tag(self._experiment(ledger), key, value)
        if self._pages is None:
            view = layout.plain_view(ledger)
            self._client.set_experiment_tag(self._experiment(ledger), layout.view_tag(ledger), view)
        else:
            self._pages.opened(self._experiment(ledger), event.time)

    def _open_trial(self, ledger: Ledger, event: events.TrialOpened) -> None:
        tags = layout.trial_tags(ledger, event)
        run_id = self._run(ledger, event.trial, event.time, tags)
        params = event.recipe_params if event.attempt == 1 else {}
        self._open_run(run_id, params, tags)
        self._client.log_dict(run_id, layout.trial_lineage(ledger, event), layout.LINEAGE_FILE)
        self._describe(run_id, ledger.tags | event.tags, event.recipe_params)

    def _open_run(self, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Tags of a run that starts or goes on, and its params, which MLflow never lets change."""
        self._log(run_id, params=params, tags=tags)
        self._client.update_run(run_id, status="RUNNING")

    def _describe(self, run_id: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> None:
        """The recipe as a file, and the dataset as an input."""
        self._client.log_text(run_id, layout.recipe_yaml(params), "config/recipe.yaml")
        if {"data.name", "data.digest"} <= tags.keys():
            name, digest = tags["data.name"], tags["data.digest"][:_DIGEST_LENGTH]
            source = {"uri": params.get("data.root", name)}
            dataset = Dataset(name, digest, "local", json.dumps(source))
            context = [InputTag("mlflow.data.context", "training")]
            self._client.log_inputs(run_id, datasets=[DatasetInput(dataset, context)])

    def _collect(self, ledger: Ledger, event: events.Reported) -> None:
        """Keep a report for the next flush. Of a step that an earlier attempt reported, only its tags are kept."""
        if event.step <= ledger.trials[event.trial].resumed_at:
            event = replace(event, metrics={}, images={})
        else:
            event = replace(event, metrics=event.metrics | layout.best_metrics(ledger, event))
        self._pending[event.trial].append(event)

    def _flush(self) -> None:
        for trial, reports in self._pending.items():
            self._log_images(self._runs[trial], [report for report in reports if report.images])
            metrics = [
                Metric(name, value, _milliseconds(report.time), report.step)
                for report in reports
                for name, value in report.metrics.items()
            ]
            said = {key: value for report in reports for key, value in report.tags.items()}
            self._log(self._runs[trial], metrics=metrics, tags=said | {HEARTBEAT: utc(reports[-1].time)})
        self._pending.clear()

    def _log_images(self, run_id: str, reports: list[events.Reported]) -> None:
        """Previews for the UI's step slider. `log_image` would give them other names when they are sent again."""
        if not reports:
            return
        with tempfile.TemporaryDirectory() as folder:
            for report in reports:
                for name, blob in report.images.items():
                    source, stamp = self._journal.blob(blob), _milliseconds(report.time)
                    layout.stage_image(source, Path(folder), name, report.step, stamp)
            self._client.log_artifacts(run_id, folder, "images")
        self._log(run_id, tags={"mlflow.loggedImages": "True"})

    def _show_gaussians(self, ledger: Ledger, event: events.GaussiansKept) -> None:
        if self._pages is not None:
            title, best = layout.run_name(ledger.name, event.trial), ledger.trials[event.trial].best_step
            self._pages.gaussians_kept(event.trial, Path(event.path), title, best)

    def _close_trial(self, ledger: Ledger, event: events.TrialClosed) -> None:
        for target, path in event.artifacts.items():
            self._upload(self._runs[event.trial], target, Path(path))
        self._end_trial(ledger, event.trial, event.time)
        if self._pages is not None:
            self._pages.trial_ended(self._experiment(ledger), event.trial, event.time)
        best = ledger.best
        if best is None or best.best_value is None or ledger.objective is None:
            if ledger.is_bounded:
                self._withdraw_best()
            return
        stamp = _milliseconds(event.time)
        metric = Metric(f"best/{ledger.objective.metric}", best.best_value, stamp, ledger.ended)
        tags = {"best.trial": str(best.number), "best.run_id": self._runs[best.number]}
        if (confirmed := ledger.confirmation_of(best.number)) is not None:
            tags[layout.CONFIRMED_TAG] = str(confirmed)
        self._log(self._runs[None], metrics=[metric], tags=tags)

    def _withdraw_best(self) -> None:
        """The best so far may be a trial that broke a constraint later."""
        run_id = self._runs[None]
        tags = self._client.get_run(run_id).data.tags
        for key in ("best.trial", "best.run_id"):
            if key in tags:
                self._client.delete_tag(run_id, key)

    def _note_fault(self, event: events.AttemptFailed) -> None:
        tags = {f"trial.fault.{event.attempt}": f"{event.cause} ({event.action}): {event.reason}"}
        self._log(self._runs[event.trial], tags=tags)
        if event.traceback is not None:
            self._upload(self._runs[event.trial], f"faults/{event.attempt}.txt", self._journal.blob(event.traceback))

    def _end_trial(self, ledger: Ledger, number: int, when: float) -> None:
        trial = ledger.trials[number]
        reason = "trial.fail_reason" if trial.state == "FAIL" else "trial.reason"
        run_id = self._runs[trial.number]
        self._log(run_id, tags={"trial.state": trial.state, **self._reason(run_id, reason, ledger.reason_of(trial))})
        self._client.set_terminated(self._runs[trial.number], layout.STATUS[trial.state], _milliseconds(when))

    def _reason(self, run_id: str, key: str, reason: str) -> dict[str, str]:
        """The tag of a reason; none without one, unless an earlier one is to go: of a sweep that was taken for dead."""
        return {key: reason} if reason or key in self._client.get_run(run_id).data.tags else {}

    def _close_sweep(self, before: Ledger, ledger: Ledger, event: events.SweepClosed) -> None:
        for number in sorted(before.open & self._runs.keys()):  # a trial without a run has not begun
            self._end_trial(ledger, number, event.time)
        stamp = _milliseconds(event.time)
        metrics = [Metric(name, value, stamp, 0) for name, value in event.metrics.items()]
        reason = self._reason(self._runs[None], "sweep.reason", event.reason)
        tags = {**event.tags, "sweep.state": event.state, **reason}
        self._log(self._runs[None], metrics=metrics, tags=tags)
        self._client.set_terminated(self._runs[None], layout.STATUS[event.state], stamp)
        if self._pages is not None:
            self._pages.ended(self._experiment(ledger), event.time)

    def _run(self, ledger: Ledger, trial: int | None, when: float, tags: Mapping[str, str]) -> str:
        """The run of a trial, or of the sweep (None): known, adopted, found by its key, or new, with these tags."""
        if trial not in self._runs:
            adopted = self._adopted if trial is None else None
            run_id = adopted or self._find_run(ledger, trial) or self._create_run(ledger, trial, when, tags)
            self._runs[trial] = self._journal.append(events.RunOpened(trial, run_id)).run_id
        return self._runs[trial]

    def _find_run(self, ledger: Ledger, trial: int | None) -> str | None:
        where = f"tags.`sweep.key` = '{layout.run_key(ledger, trial)}'"
        found = self._client.search_runs([self._experiment(ledger)], filter_string=where, max_results=1)
        return found[0].info.run_id if found else None

    def _create_run(self, ledger: Ledger, trial: int | None, when: float, tags: Mapping[str, str]) -> str:
        """The UI shows tags in the order in which they came: the key, which nobody reads, is the last of the first."""
        tags = {**tags, "sweep.key": layout.run_key(ledger, trial)}
        if trial is not None:
            tags["mlflow.parentRunId"] = self._runs[None]
        name = layout.run_name(ledger.name, trial)
        experiment = self._experiment(ledger)
        with environment(_ONCE):
            return self._client.create_run(experiment, _milliseconds(when), tags, name).info.run_id

    def _experiment(self, ledger: Ledger) -> str:
        """The experiment of the sweep's own run; before there is one, the experiment named as the recipe."""
        if self._experiment_id is None:
            parent = self._runs.get(None, self._adopted)
            known = self._client.get_run(parent).info.experiment_id if parent else None
            self._experiment_id = known or self._named_experiment(ledger.recipe)
        return self._experiment_id

    def _named_experiment(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        if known is None:
            location = (self._artifact_root / name).resolve().as_uri() if self._artifact_root else None
            return self._client.create_experiment(name, artifact_location=location)
        if known.lifecycle_stage == "deleted":
            self._client.restore_experiment(known.experiment_id)
        return known.experiment_id

    def _upload(self, run_id: str, target: str, source: Path) -> None:
        """A folder's content into `target`; a file as `target` if that has its suffix, otherwise into it."""
        if not source.exists():
            _log.warning("%s: expected a file or folder to upload as %s of run %s, found none.", source, target, run_id)
            return
        if source.is_dir():
            self._client.log_artifacts(run_id, str(source), target)
            return
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / target
            named = named if named.suffix == source.suffix else named / source.name
            named.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, named)
            self._client.log_artifacts(run_id, folder)

    def _log(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """`log_batch`, in as many calls as MLflow's limits require."""
        texts = [Param(key, layout.param_text(value)) for key, value in (params or {}).items()]
        for few in _chunks(texts, _PARAMS_A_CALL):
            self._client.log_batch(run_id, params=few)
        for some in _chunks(metrics, _METRICS_A_CALL):
            self._client.log_batch(run_id, metrics=some)
        if tags:
            self._client.log_batch(run_id, tags=[RunTag(key, layout.tag_text(value)) for key, value in tags.items()])


def utc(seconds: float) -> str:
    """Unix seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _chunks(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
