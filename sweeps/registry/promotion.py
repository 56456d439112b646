"""From a finished sweep to a registered model: the best trial is loaded afresh, checked, scored, registered, judged."""

from __future__ import annotations

from pipeline import checkpoint
from pipeline.data.variants import prepared
from pipeline.progress import Tell, silent
from pipeline.recipe import Recipe
from sweeps.book.journal import Journal, Reported, State
from sweeps.book.ledger import Ledger, ledger_of
from sweeps.book.trial import Trial
from sweeps.conclusions.pareto import picked
from sweeps.errors import RegistryError
from sweeps.home import Home
from sweeps.registry.registry import Registry, Verdict
from sweeps.registry.verification import SPREAD, verify
from sweeps.space.gates import parse_gates
from sweeps.space.objective import COSTS
from sweeps.tracking.mlflow_layout import CONFIRMED_TAG
from sweeps.tracking.pages import Pages

_LINEAGE_TAGS = ("mlflow.source.git.commit", "mlflow.user")


def registered_name(recipe: Recipe) -> str:
    """The registered model that checkpoints of this kind are versions of."""
    return f"mouse-{recipe.model.kind}"


def promote_best(
    home: Home,
    sweep: str,
    device: str = "cpu",
    trial: int | None = None,
    pick: str | None = None,
    tell: Tell = silent,
    pages: Pages | None = None,
) -> Verdict:
    """Verify, register and promote a sweep's best trial, or the one given. tell: hears how far this is.

    pick: of several objectives, the knee of the front or the best by one of them; that one decides about the champion,
    else the first. Raises StudyError for an unknown sweep, RegistryError when nothing finished, for a checkpoint that
    breaks a constraint, or when the figures do not come out again.
    """
    ledger = ledger_of(home, sweep)
    found, objective = (None, ledger.objective) if pick is None else picked(ledger, pick)
    chosen = _finished(ledger, trial if found is None else found.number)
    info = checkpoint.inspect(str(chosen.released))
    logged = _logged(home, sweep, chosen.number, info.step)
    _require_bounds(ledger, chosen, logged)
    root = str(prepared(info.recipe.data, home.cache, verify=True).root)
    verification = verify(info, root, logged, home.cache, device, tell)
    registry = Registry(home, tell=tell, pages=pages)
    tags = {key: ledger.tags[key] for key in _LINEAGE_TAGS if key in ledger.tags}
    tags |= {"sweep.name": sweep, "trial.number": str(chosen.number)}
    if (confirmed := ledger.confirmation_of(chosen.number)) is not None:
        tags[CONFIRMED_TAG] = str(confirmed)
    version = registry.register(registered_name(info.recipe), str(chosen.run_id), verification, tags)
    # LPIPS's weights came after its registration, or it was registered before the spread was kept
    if verification.metrics.keys() > version.metrics.keys() or SPREAD not in version.tags:
        version = registry.refresh(version, verification)
    assert objective is not None
    return registry.promote(version, parse_gates(ledger.space["gates"]), objective, root, device)


def _finished(ledger: Ledger, number: int | None) -> Trial:
    """The best finished trial of a sweep, or trial `number`, which has a released checkpoint and a run."""
    trial = ledger.best if number is None else ledger.trials.get(number)
    if trial is None or trial.state != "COMPLETE":
        state = _none_within(ledger, number) if trial is None else f"t{trial.number:04d} {trial.state}"
        raise RegistryError(
            f"{ledger.name}: expected a finished trial to register, got {state} — name one with --trial."
        )
    if trial.released is None or trial.run_id is None:
        raise RegistryError(
            f"{ledger.name}: expected a checkpoint and a run of t{trial.number:04d}, got none yet — "
            f"`mouselift sweep resume {ledger.name}`, or run the sweep again."
        )
    return trial


def _require_bounds(ledger: Ledger, trial: Trial, logged: dict[str, float]) -> None:
    """Raises RegistryError for a checkpoint whose figures, or whose costs, break a constraint."""
    if ledger.aims is None:
        return
    validated = {name: value for name, value in logged.items() if name not in COSTS}
    if unmet := ledger.aims.unmet(trial.figures | validated):
        raise RegistryError(
            f"{ledger.name}: expected a trial within its constraints to register, got t{trial.number:04d} with "
            f"{'; '.join(result.reason for result in unmet)} — name another with --trial."
        )


def _none_within(ledger: Ledger, number: int | None) -> str:
    """Why there is no best: the constraints may have left out all that finished. No trial has another number."""
    broken = [one for one in ledger.ranked if one.state == State.COMPLETE and ledger.unmet(one)]
    if number is not None or not broken:
        return "none"
    unmet = "; ".join(result.reason for result in ledger.unmet(broken[0]))
    return f"none within the constraints (t{broken[0].number:04d}: {unmet})"


def _logged(home: Home, sweep: str, trial: int, step: int) -> dict[str, float]:
    """What was logged of a trial at a step."""
    reports = [event for _, event in Journal(home.journal(sweep)).events() if isinstance(event, Reported)]
    found = [report.metrics for report in reports if (report.trial, report.step) == (trial, step)]
    return found[-1] if found else {}
