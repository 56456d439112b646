"""From a finished sweep to a registered model: the best trial is loaded afresh, checked, scored, registered, judged."""

from __future__ import annotations

from pipeline import checkpoint
from pipeline.data.variants import prepared
from pipeline.progress import Tell, silent
from pipeline.recipe import Recipe
from sweeps.book.journal import Journal, Reported
from sweeps.book.ledger import Ledger, Trial, ledger_of
from sweeps.errors import RegistryError
from sweeps.home import Home
from sweeps.registry.registry import Registry, Verdict
from sweeps.registry.verification import SPREAD, verify
from sweeps.space.gates import parse_gates
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
    tell: Tell = silent,
    pages: Pages | None = None,
) -> Verdict:
    """Verify, register and promote a sweep's best trial, or the one given. tell: hears how far this is.

    Raises StudyError for an unknown sweep, RegistryError when nothing finished or the figures do not come out again.
    """
    ledger = ledger_of(home, sweep)
    chosen = _finished(ledger, trial)
    info = checkpoint.inspect(str(chosen.released))
    root = str(prepared(info.recipe.data, home.cache, verify=True).root)
    verification = verify(info, root, _logged(home, sweep, chosen.number, info.step), home.cache, device, tell)
    registry = Registry(home, tell=tell, pages=pages)
    tags = {key: ledger.tags[key] for key in _LINEAGE_TAGS if key in ledger.tags}
    tags |= {"sweep.name": sweep, "trial.number": str(chosen.number)}
    if (confirmed := ledger.confirmation_of(chosen.number)) is not None:
        tags[CONFIRMED_TAG] = str(confirmed)
    version = registry.register(registered_name(info.recipe), str(chosen.run_id), verification, tags)
    # LPIPS's weights came after its registration, or it was registered before the spread was kept
    if verification.metrics.keys() > version.metrics.keys() or SPREAD not in version.tags:
        version = registry.refresh(version, verification)
    assert ledger.objective is not None
    return registry.promote(version, parse_gates(ledger.space["gates"]), ledger.objective, root, device)


def _finished(ledger: Ledger, number: int | None) -> Trial:
    """The best finished trial of a sweep, or trial `number`, which has a released checkpoint and a run."""
    trial = ledger.best if number is None else ledger.trials.get(number)
    if trial is None or trial.state != "COMPLETE":
        state = "none" if trial is None else f"t{trial.number:04d} {trial.state}"
        raise RegistryError(
            f"{ledger.name}: expected a finished trial to register, got {state} — name one with --trial."
        )
    if trial.released is None or trial.run_id is None:
        raise RegistryError(
            f"{ledger.name}: expected a checkpoint and a run of t{trial.number:04d}, got none yet — "
            f"`mouselift sweep resume {ledger.name}`, or run the sweep again."
        )
    return trial


def _logged(home: Home, sweep: str, trial: int, step: int) -> dict[str, float]:
    """What was logged of a trial at a step."""
    reports = [event for _, event in Journal(home.journal(sweep)).events() if isinstance(event, Reported)]
    found = [report.metrics for report in reports if (report.trial, report.step) == (trial, step)]
    return found[-1] if found else {}
