"""What MLflow's pages are given, as functions of a record. The windows implement `Pages`; `mlflow_writer` writes them.

`sweeps` may not import the windows: who starts a sweep hands an implementation in. Without one, MLflow has the figures
and files of a sweep, and none of these texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import quote

from sweeps.book.record import SweepRecord

if TYPE_CHECKING:
    from pipeline.cameras import Cameras
    from pipeline.gaussians import Gaussians

LONGEST_NOTE = 7900  # characters of a description: MLflow keeps 8,000 of a tag, and cuts the others off unsaid
_MODE = "workflowType=machine_learning"  # MLflow's UI takes its mode from the address alone
EXPERIMENTS_PATH = f"#/experiments?{_MODE}"  # the list of experiments, behind the address of MLflow's UI


@dataclass(frozen=True)
class Links:
    """Addresses behind that of MLflow's UI, which work from within its pages."""

    experiment_id: str

    def run(self, run_id: str) -> str:
        """A run's page."""
        return f"#/experiments/{self.experiment_id}/runs/{run_id}?{_MODE}"

    def artifact(self, run_id: str, path: str) -> str:
        """A file of a run, in the run's page."""
        return f"#/experiments/{self.experiment_id}/runs/{run_id}/artifacts/{quote(path)}?{_MODE}"

    def sweep(self, view_key: str) -> str:
        """The saved view of a sweep. view_key: of `mlflow_layout.view_key`."""
        return f"#/experiments/{self.experiment_id}/runs?{_MODE}&viewStateShareKey={view_key}"

    def charts(self, view_key: str) -> str:
        """The charts of a saved view."""
        return f"{self.sweep(view_key)}&compareRunsMode=CHART"

    def model(self, name: str, version: str | None = None) -> str:
        """A registered model, or one version of it."""
        place = f"#/models/{quote(name, safe='')}"
        return place if version is None else f"{place}/versions/{quote(version, safe='')}"


class Shown(NamedTuple):
    """Gaussians of one scene at one moment, such as `step 750`."""

    label: str
    gaussians: Gaussians


class Pages(Protocol):
    """Texts and pages of a sweep; each is a function of what is given and nothing else."""

    def saved_view(self, record: SweepRecord) -> str:
        """The JSON of a saved view of the runs table: columns, order and charts."""

    def experiment_note(self, record: SweepRecord, links: Links) -> str:
        """The description of the sweep's experiment, of which MLflow's list shows the beginning, as plain text."""

    def trial_tags(self, record: SweepRecord) -> Mapping[int, Mapping[str, str]]:
        """Tags of each trial's run, by its number, that the saved view shows as columns."""

    def sweep_note(self, record: SweepRecord, links: Links) -> str:
        """The description of the sweep's own run, Markdown of at most LONGEST_NOTE characters."""

    def trial_note(self, record: SweepRecord, number: int, links: Links) -> str:
        """The description of a trial's run, Markdown of at most LONGEST_NOTE characters."""

    def report(self, record: SweepRecord, links: Links) -> str:
        """The report on the sweep, one HTML file."""

    def splat(self, title: str, shown: Sequence[Shown], inputs: Cameras | None, note: str = "") -> str:
        """One scene to orbit, at one or more steps, one HTML file of at most some megabytes. inputs: its input cameras,
        where they are known.
        """
