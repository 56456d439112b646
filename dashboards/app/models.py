"""The values of the pages of registered models: their versions, where these come from, and how two of them differ."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dashboards.app.figures import in_order
from dashboards.app.sweep import Ref, found
from sweeps.conclusions.two_trials import differences
from sweeps.errors import SweepError
from sweeps.home import Home
from sweeps.tracking.queries import Reader, answers

if TYPE_CHECKING:
    from sweeps.registry.registry import Registry
    from sweeps.registry.versions import Version

# Tags that the page shows in places of their own.
_SHOWN = ("eval.", "data.", "gate", "sweep.name", "trial.number", "logged_model")


def registry_of(home: Home) -> Registry:
    """The registry; MLflow is imported when it is first asked for."""
    from sweeps.registry.registry import Registry

    return Registry(home)


def models_values(home: Home) -> dict[str, Any]:
    """Every registered model with its champion. Raises OutageError where the store does not answer."""
    with answers(home.tracking_uri):
        registry = registry_of(home)
        versions = registry.list_versions()
        vacancies = registry.vacancies() if versions else []
    names = dict.fromkeys(version.name for version in versions)
    models = [[_plain(one) for one in versions if one.name == name] for name in names]
    return {
        "models": [{"name": rows[0]["name"], "champion": _champion(rows), "versions": rows} for rows in models],
        "vacancies": vacancies,
    }


def model_values(home: Home, reader: Reader, name: str) -> dict[str, Any]:
    """One registered model: its versions by how they were measured, and what became of its aliases.

    Raises RegistryError for an unknown one, OutageError.
    """
    with answers(home.tracking_uri):
        registry = registry_of(home)
        versions, moves = registry.list_versions(name), registry.history(name)
        vacancies = registry.vacancies(name)
    ways = dict.fromkeys(one.measured for one in versions)
    return {
        "name": name,
        "vacancies": vacancies,
        "tables": [_table([one for one in versions if one.measured == way], reader) for way in ways],
        "history": [asdict(move) for move in reversed(moves)],
        "refs": [one.ref for one in versions],
    }


def _table(versions: list[Version], reader: Reader) -> dict[str, Any]:
    """Versions that were measured alike, and the figures that any of them has."""
    names = {name for one in versions for name in one.metrics if "/slot_" not in name}
    return {
        "protocol": versions[0].measured[0],
        "digest": versions[0].measured[1] or "",
        "data": versions[0].tags.get("data.name", ""),
        "metrics": in_order(names),
        "versions": [_plain(one) | {"run": _run(one, reader)} for one in versions],
    }


def diff_values(home: Home, reader: Reader, first: str, second: str) -> dict[str, Any]:
    """Two versions. Figures are put beside each other only where both were measured alike.

    Raises RegistryError for one that is not there, OutageError.
    """
    with answers(home.tracking_uri):
        registry = registry_of(home)
        both = [registry.resolve(ref) for ref in (first, second)]
        refs = [one.ref for name in dict.fromkeys(one.name for one in both) for one in registry.list_versions(name)]
    names = in_order({name for one in both for name in one.metrics})
    tags = [
        {key: value for key, value in one.tags.items() if key not in one.metrics and key != "gates"} for one in both
    ]
    differing, same = differences(tags)
    recipes, equal = differences([_recipe(one, reader) for one in both])
    return {
        "versions": [_plain(one) | {"run": _run(one, reader)} for one in both],
        "refs": refs,
        "alike": both[0].measured == both[1].measured,
        "figures": [{"name": name, "values": [one.metrics.get(name) for one in both]} for name in names],
        "facts": differing,
        "same_facts": len(same),
        "settings": recipes,
        "same_settings": len(equal),
    }


def _champion(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((row for row in rows if "champion" in row["aliases"]), None)


def _plain(version: Version) -> dict[str, Any]:
    plain = version.as_plain()
    protocol, digest = version.measured
    return plain | {
        "ref": version.ref,
        "step": version.tags.get("checkpoint.step", ""),
        "recipe": version.tags.get("recipe.name", ""),
        "data": version.tags.get("data.name", ""),
        "digest": digest or "",
        "protocol": protocol,
        "scenes": version.tags.get("eval.scenes", ""),
        "verdict": version.tags.get("gate.reason", ""),
        "sweep": version.tags.get("sweep.name", ""),
        "trial": version.tags.get("trial.number", ""),
        "parent": version.tags.get("checkpoint.parent", ""),
        "others": {key: value for key, value in sorted(plain["tags"].items()) if not key.startswith(_SHOWN)},
    }


def _run(version: Version, reader: Reader) -> str:
    """The run that made a version, as `<sweep>/<number>`, where it is one of this home; else nothing."""
    ref = f"{version.tags.get('sweep.name', '')}/{version.tags.get('trial.number', '')}"
    try:
        found(reader, Ref.parse(ref))
    except (SweepError, OSError):
        return ""
    return ref


def _recipe(version: Version, reader: Reader) -> dict[str, Any]:
    """The settings of the run that made a version; none where it is not of this home."""
    ref = _run(version, reader)
    return found(reader, Ref.parse(ref))[1].recipe_params if ref else {}
