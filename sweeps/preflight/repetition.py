"""A trial that is to be run again: the space of one that runs it, and what differs from when it ran.

Other data, or other weights or prompts, would be another training: they are refused before any step. Other code,
packages or machines are told.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipeline import bases
from pipeline.config import one_line
from pipeline.errors import RecipeError
from pipeline.machine.cpus import usable_cpus
from pipeline.machine.devices import CPU, seen_gpus
from pipeline.recipe import LOCAL_PATHS, Recipe
from pipeline.recipes import override, recipe_of
from sweeps.book.journal import Journal, blob_of
from sweeps.book.provenance import machine, packages, provenance
from sweeps.book.record import SweepRecord, TrialRecord, record_of
from sweeps.conclusions.two_trials import (
    ARTEFACT,
    DATA,
    IN_PARTS,
    ON_MACHINE,
    Check,
    Conditions,
    checks,
    conditions,
    other_packages,
    recorded,
)
from sweeps.datasets import data_tags, registered
from sweeps.errors import StudyError
from sweeps.home import Home
from sweeps.preflight.artefacts import artefacts_of
from sweeps.space.resources import Resources
from sweeps.space.space import SearchSpace, space_of

_ROOT = "data.root"
_HASH, _NAME = 12, 44  # digits of a hash, and characters of a sweep's name, in a text


@dataclass(frozen=True)
class Original:
    """The trial that is to be run again, as its journal has it."""

    journal: Journal
    sweep: SweepRecord
    one: TrialRecord
    then: Conditions

    @property
    def name(self) -> str:
        """`lr/t0003`."""
        return f"{self.sweep.ledger.name}/t{self.one.trial.number:04d}"

    @property
    def gpus(self) -> float | None:
        """Those that it took, where its journal says it."""
        if self.then.facts.get(f"{ON_MACHINE}device") == CPU:
            return 0.0
        asked: float | None = self.sweep.ledger.space.get("trials", {}).get("gpus")
        return asked

    def number(self, word: str) -> int | None:
        """Threads or processes that it had; None where they are not recorded, or its attempts had several numbers."""
        said = self.then.facts.get(ON_MACHINE + word, "")
        return int(said) if said.isdecimal() else None


def original(journal: Journal, number: int) -> Original:
    """A trial that has ended, with figures. Raises StudyError for one that has not, or has none."""
    record = record_of(journal, time.time())
    one = record.trial(number)
    found = Original(journal, record, one, recorded(journal, number))
    sweep = record.ledger.name
    if one.trial.state.is_open:
        raise StudyError(
            f"{found.name}: expected a run that has ended, got one that is {one.trial.state} — `mouselift sweep status "
            f"{sweep}` says how far it is."
        )
    if one.trial.taken_from:  # its own journal does not say on what it was trained
        raise StudyError(
            f"{found.name}: expected a run that was trained in its sweep, got one taken from {one.trial.taken_from} — "
            "reproduce that one."
        )
    if not one.metrics:
        raise StudyError(
            f"{found.name}: expected a run with figures to compare with, got none ({one.trial.state}) — choose another."
        )
    return found


def space_again(found: Original, paths: Mapping[str, str], on_cluster: bool) -> SearchSpace:
    """A space of one trial, of the recipe and on as many threads as the trial had.

    paths: where files lie now, by their setting. on_cluster: what this machine has does not count. Raises StudyError
    where this version of the project does not know one of its settings.
    """
    ledger, trial = found.sweep.ledger, found.one.trial
    try:
        base = override(recipe_of(ledger.recipe, found.one.recipe_params), paths)
        began = space_of(ledger.space, ledger.name, base)
    except (RecipeError, ValidationError) as error:
        raise StudyError(
            f"{found.name}: expected a run of this version's settings, got {one_line(error)[:200]} — reproduce it with "
            f"the code of its commit, {found.then.facts.get('code', 'which is not recorded')[:_HASH]}."
        ) from None
    return SearchSpace(
        name=f"again-{ledger.name[:_NAME]}-t{trial.number:04d}",
        recipe=began.recipe,
        base=base,
        fixed=began.fixed | trial.params | dict(paths),
        objective=began.objective,
        trials=_resources(found, began, on_cluster),
        retention=began.retention,
        gates=began.gates,
        fresh=True,  # its own result, known already, is no answer
    )


def paths_of(words: list[str], where: str = "--set") -> dict[str, str]:
    """`key=value` as paths by their setting. Raises StudyError for any other setting: a repetition has its own."""
    found = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in LOCAL_PATHS or not value:
            raise StudyError(
                f"{where} {word}: expected where a file lies now, one of {', '.join(LOCAL_PATHS)}, got another setting "
                "— a run is reproduced with the settings that it had."
            )
        found[key] = bases.located(value) if key == "train.init_from" else value
    return found


class Before(NamedTuple):
    """What a trial ran under, then and here: what decides figures, and packages that decide none and differ."""

    checks: list[Check]
    others: list[Check]


def compared(found: Original, space: SearchSpace, home: Home) -> Before:
    """Of a cluster it is not known yet what the trial will run on, and nothing is said of that.

    Raises StudyError where the data, or the weights or prompts that the recipe names, are not there or are others.
    """
    data = _data(found, space.base, home)
    artefacts = _artefacts(found, space.base, home)
    tags, kept = provenance(blob_of)
    on = {} if home.ray_address else _machine(space)
    everything = {**tags, "data.digest": data, **artefacts, **on}
    here = conditions(space.base.fingerprint, str(space.base.train.seed), everything, kept, packages())
    here = replace(here, facts={**here.facts, IN_PARTS: "1"})
    known = checks(found.then, here)
    told = [one for one in known if not (home.ray_address and one.name.startswith(ON_MACHINE))]
    return Before(told, other_packages(found.then, here))


def _resources(found: Original, began: SearchSpace, on_cluster: bool) -> Resources:
    threads, processes, gpus = found.number("threads"), found.number("processes"), found.gpus
    if gpus and not on_cluster and not seen_gpus().names:
        gpus, processes = 0.0, 1
    cpus = None if threads is None else threads * (processes or 1)
    if cpus is not None and not on_cluster:
        cpus = min(cpus, usable_cpus())
    workers = processes if processes is not None and processes > 1 else None
    return Resources(gpus=gpus, cpus=cpus, workers=workers, needs=began.trials.needs)


def _machine(space: SearchSpace) -> dict[str, str]:
    trials, gpus = space.trials, seen_gpus().names
    on_gpu = bool(gpus) and trials.gpus != 0
    threads = max(1, (trials.cpus or usable_cpus()) // trials.processes)
    return machine(gpus[0] if on_gpu else CPU, threads, trials.processes)


def _data(found: Original, recipe: Recipe, home: Home) -> str:
    then, root = found.then.facts.get(DATA), recipe.data.root
    if root is None or not Path(root).is_dir():
        raise StudyError(_other_data(found, home, f"no folder at {root}"))
    now = data_tags(recipe, home.cache)["data.digest"]
    if then is not None and now != then:
        raise StudyError(_other_data(found, home, f"{now[:_HASH]} at {root}"))
    return now


def _other_data(found: Original, home: Home, came: str) -> str:
    digest = found.then.facts.get(DATA, "")
    known = [entry.name for entry in registered(home).values() if digest and entry.digest == digest]
    name = (found.sweep.ledger.tags | found.one.tags).get("data.name", "that it was trained on")
    here = f", which is registered as {known[0]}: --data {known[0]}" if known else ": --data D"
    return (
        f"{found.name}: data: expected the dataset {name} of digest {digest[:_HASH] or 'that is not recorded'}, got "
        f"{came} — name where it lies{here}."
    )


def _artefacts(found: Original, recipe: Recipe, home: Home) -> dict[str, str]:
    """Tags of the files that the recipe names beside its data."""
    for setting in LOCAL_PATHS:
        value = recipe.params.get(setting)
        if value is not None and setting != _ROOT and not Path(value).exists():
            raise StudyError(_other_file(found, setting, f"none at {value}"))
    now = {one.setting: one.sha256 for one in artefacts_of([recipe], home.cache)}
    for setting, sha256 in now.items():
        if found.then.facts.get(ARTEFACT + setting, sha256) != sha256:
            raise StudyError(_other_file(found, setting, f"{sha256[:_HASH]} at {recipe.params[setting]}"))
    return {f"artefact.{setting}": sha256 for setting, sha256 in now.items()}


def _other_file(found: Original, setting: str, came: Any) -> str:
    then = found.then.facts.get(ARTEFACT + setting, "that are not recorded")
    return (
        f"{found.name}: {setting}: expected the contents {then[:_HASH]}, with which it began, got {came} — name where "
        f"they lie: --set {setting}=PATH."
    )
