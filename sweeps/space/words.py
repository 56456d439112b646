"""A search space in words, by its plain values as the journal keeps them: what is searched, and how.

Values that an older version did not write are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def searched(space: Mapping[str, Any]) -> dict[str, str]:
    """Each searched path with what the sampler may choose: `log 0.0001 … 0.01`, `3, 4 or 5`."""
    return {path: _range(plain) for path, plain in space.get("space", {}).items()}


def fixed(space: Mapping[str, Any]) -> dict[str, str]:
    """Each fixed path with its value."""
    return {path: value(plain) for path, plain in space.get("fixed", {}).items()}


def plan(space: Mapping[str, Any]) -> dict[str, str]:
    """Objectives, constraints, sampler, what is tried first, from what it learns, scheduler, pruning, trials and gates.

    Of a sweep that follows a plan: the plan, in place of the sampler and of what is tried first.
    """
    unsaid = {"sampler", "enqueue"} if follows_plan(space) else {"plan"}
    unsaid |= {"objective"} if space.get("objectives") else set()
    ways = {
        "objective": _objective,
        "objectives": lambda plain: "; ".join(map(_objective, plain)),
        "constraints": lambda plain: ", ".join(f"{metric} {bound}" for metric, bound in plain.items()),
        "plan": lambda plain: _planned(plain, len(space["enqueue"])),
        "sampler": _sampler,
        "enqueue": lambda plain: "; ".join(map(_setting, plain)),
        "warm_start": ", ".join,
        "confirm": _confirm,
        "scheduler": _scheduler,
        "pruning": lambda plain: ", ".join(name for name, rule in plain.items() if rule is not None) or "none",
        "trials": _trials,
        "gates": lambda plain: ", ".join(f"{metric} {gate}" for metric, gate in plain.items()) or "none",
    }
    said = {key: say(space[key]) for key, say in ways.items() if key in space and key not in unsaid}
    return {key: words for key, words in said.items() if words}


def follows_plan(space: Mapping[str, Any]) -> bool:
    """Whether the runs are those of a plan; no sampler chooses then."""
    return bool(space.get("plan", {}).get("kind", "none") != "none")


def value(plain: Any) -> str:
    """A value as a person writes it: text as it is, anything else as JSON has it."""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _objective(plain: Mapping[str, Any]) -> str:
    return f"{plain['mode']} {plain['metric']}"


def _setting(plain: Mapping[str, Any]) -> str:
    return " with ".join(f"{path} {value(one)}" for path, one in plain.items()) or "the recipe as it is"


def _planned(plain: Mapping[str, Any], runs: int) -> str:
    seeds = len(plain["seeds"])
    part = f", one in {plain['fraction']} combinations" if plain["fraction"] > 1 else ""
    return f"{plain['kind']}{part}: {runs // seeds} settings × {seeds} seeds"


def _confirm(plain: Mapping[str, Any]) -> str:
    """Empty where nothing is confirmed."""
    return f"the best {plain['top']} again, each with {plain['seeds']} other seeds" if plain["seeds"] else ""


def _range(plain: Mapping[str, Any]) -> str:
    if "choice" in plain:
        *others, last = map(value, plain["choice"])
        words = f"{', '.join(others)} or {last}" if others else last
    else:
        low, high = plain["float"] if "float" in plain else plain["int"]
        words = f"{'log ' if plain.get('log') else ''}{low:g} … {high:g}"
        words += f" in steps of {plain['step']:g}" if plain.get("step") else ""
    conditions = [f"{path} is {' or '.join(map(value, values))}" for path, values in plain.get("when", {}).items()]
    return f"{words}, where {' and '.join(conditions)}" if conditions else words


def _sampler(plain: Mapping[str, Any]) -> str:
    said = [plain["kind"], *([f"seed {plain['seed']}"] if "seed" in plain else [])]
    if plain["kind"] in ("tpe", "gp", "nsga2") and "startup_trials" in plain:
        said.append(f"its first {plain['startup_trials']} draws at random")
    return ", ".join(said)


def _scheduler(plain: Mapping[str, Any]) -> str:
    if plain["kind"] == "none":
        return "none"
    said = [plain["kind"], *([f"from step {plain['grace_steps']} on"] if "grace_steps" in plain else [])]
    return ", ".join(said + ([f"one in {plain['reduction_factor']} goes on"] if "reduction_factor" in plain else []))


def _trials(plain: Mapping[str, Any]) -> str:
    at_once = plain.get("concurrent")
    return str(plain["count"]) if at_once is None else f"{plain['count']}, {at_once} at once"
