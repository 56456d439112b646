"""Where sweeps are seen: a list of those of this home and of its MLflow, and their addresses in MLflow's UI."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sweeps.book.journal import Journal
from sweeps.book.ledger import Ledger, read
from sweeps.errors import DamagedError, OutageError
from sweeps.home import Home, is_served
from sweeps.tracking.mlflow_client import environment, mlflow_client
from sweeps.tracking.mlflow_layout import home_text, view_key
from sweeps.tracking.pages import Links
from sweeps.tracking.queries import IMPATIENT, Sweep, answers, state_of, sweeps

UI_ADDRESS = "http://127.0.0.1:5000"  # of `mouselift ui`, unless it is told another


@dataclass(frozen=True)
class Place:
    """Where MLflow's UI shows a sweep: on its server, or where `mouselift ui` serves it once it is called."""

    address: str
    links: Links
    view_key: str
    is_up: bool  # a server keeps the store

    def run(self, run_id: str) -> str:
        """The address of a run's page."""
        return f"{self.address}/{self.links.run(run_id)}"

    @property
    def sweep(self) -> str:
        """The address of the sweep's saved view."""
        return f"{self.address}/{self.links.sweep(self.view_key)}"


def known_sweeps(home: Home) -> tuple[list[Sweep], list[str]]:
    """The sweeps of this home, by their journals, and those of others that its MLflow has; newest first.

    Beside them a line for each reason why some are not among them: a journal that is damaged, an MLflow that does not
    answer at once.
    """
    own, troubles = [], []
    in_store: dict[str, Sweep] = {}
    try:
        with environment(IMPATIENT), answers(home.tracking_uri):
            in_store = {found.run_id: found for found in sweeps(home.tracking_uri)}
    except OutageError as error:
        troubles.append(f"the sweeps of other homes are not listed: {error}")
    for folder in sorted(home.journals.glob("*")):
        journal = Journal(folder)
        try:
            book = read(journal)
        except (DamagedError, OSError) as error:  # which concerns no other sweep
            troubles.append(f"{folder.name} is not listed: {error}")
            continue
        if book.name:
            known = in_store.pop(book.run_id or "", None)
            own.append(_of_journal(home, journal, book, known))
    try:
        with environment(IMPATIENT), answers(home.tracking_uri):
            others = [_with_done(home, found) for found in in_store.values()]
    except OutageError:  # it went away between the two questions
        others = list(in_store.values())
    return sorted(own + others, key=lambda found: -found.began), troubles


def place_of(home: Home, book: Ledger) -> Place | None:
    """Where a sweep is seen; None where MLflow has no run of it, or does not answer at once."""
    if book.run_id is None or not home.has_store:
        return None
    try:
        with environment(IMPATIENT), answers(home.tracking_uri):
            experiment = mlflow_client(home.tracking_uri).get_run(book.run_id).info.experiment_id
    except OutageError:
        return None
    served = is_served(home.tracking_uri)
    address = home.tracking_uri.rstrip("/") if served else UI_ADDRESS
    return Place(address, Links(experiment), view_key(book.name), served)


def _with_done(home: Home, found: Sweep) -> Sweep:
    """The sweep of another home with how many of its trials ended: its best has been written at each one's end."""
    if found.best is None:
        return found
    history = mlflow_client(home.tracking_uri).get_metric_history(found.run_id, f"best/{found.metric}")
    return replace(found, done=max((point.step for point in history), default=None))


def _of_journal(home: Home, journal: Journal, book: Ledger, known: Sweep | None) -> Sweep:
    """A sweep of this home. known: as MLflow has it."""
    best = book.best
    return Sweep(
        name=book.name,
        recipe=book.recipe,
        state=state_of(journal, book),
        ui_path="" if known is None else known.ui_path,
        charts_path="" if known is None else known.charts_path,
        home=home_text(home.root),
        began=book.opened,
        done=book.ended,
        planned=book.planned,
        metric="" if book.objective is None else book.objective.metric,
        best=None if best is None else best.best_value,
        data=book.tags.get("data.name", ""),
        run_id=book.run_id or "",
    )
