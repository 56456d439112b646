"""From a finished sweep to a registered model: the best trial is loaded afresh, checked, scored, registered, judged."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import checkpoint
from pipeline.checkpoint import CheckpointInfo
from pipeline.data.variants import prepared
from pipeline.recipe import Recipe
from sweeps.book.journal import Journal, Reported
from sweeps.book.ledger import Ledger, Trial, ledger_of
from sweeps.errors import RegistryError
from sweeps.home import Home
from sweeps.registry.registry import Registry, Verdict
from sweeps.registry.verification import verify
from sweeps.space.gates import parse_gates

_LINEAGE_TAGS = ("mlflow.source.git.commit", "mlflow.user")


@dataclass(frozen=True)
class Candidate:
    """The trial of a sweep that is put forward, with its released checkpoint."""

    ledger: Ledger
    trial: Trial
    checkpoint: CheckpointInfo
    logged: dict[str, float]  # what was logged at the checkpoint's step


def registered_name(recipe: Recipe) -> str:
    """The registered model that checkpoints of this kind are versions of."""
    return f"mouse-{recipe.model.kind}"


def promote_best(home: Home, sweep: str, device: str = "cpu", trial: int | None = None) -> Verdict:
    """Verify, register and promote a sweep's best trial, or the one given.

    Raises StudyError for an unknown sweep, RegistryError when nothing finished or the figures do not come out again.
    """
    found = candidate(home, sweep, trial)
    root = str(prepared(found.checkpoint.recipe.data, home.cache, verify=True).root)
    verification = verify(found.checkpoint, root, found.logged, home.cache, device)
    registry = Registry(home)
    tags = {key: found.ledger.tags[key] for key in _LINEAGE_TAGS if key in found.ledger.tags}
    tags |= {"sweep.name": sweep, "trial.number": str(found.trial.number)}
    version = registry.register(registered_name(found.checkpoint.recipe), str(found.trial.run_id), verification, tags)
    assert found.ledger.objective is not None
    return registry.promote(version, parse_gates(found.ledger.space["gates"]), found.ledger.objective, root, device)


def candidate(home: Home, sweep: str, number: int | None = None) -> Candidate:
    """The best finished trial of a sweep, or trial `number`, with what the journal knows of it."""
    ledger = ledger_of(home, sweep)
    trial = ledger.best if number is None else ledger.trials.get(number)
    if trial is None or trial.state != "COMPLETE":
        state = "none" if trial is None else f"t{trial.number:04d} {trial.state}"
        raise RegistryError(f"{sweep}: expected a finished trial to register, got {state} — name one with --trial.")
    if trial.released is None or trial.run_id is None:
        raise RegistryError(
            f"{sweep}: expected a checkpoint and a run of t{trial.number:04d}, got none — run the sweep again."
        )
    info = checkpoint.inspect(trial.released)
    reports = [e for _, e in Journal(home.journal(sweep)).events() if isinstance(e, Reported)]
    logged = [report.metrics for report in reports if (report.trial, report.step) == (trial.number, info.step)]
    return Candidate(ledger, trial, info, logged[-1] if logged else {})
