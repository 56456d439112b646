"""The one setting of recipes that had another name before: what was written then is read under today's.

`model.checkpoint_layers: N` was the number of layers in a group whose activations were computed again, and 0 kept all
of them. What the project itself has stored (checkpoints, journals) is read as today's `model.checkpoint`; a user's own
file or option is refused with the line to write instead. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_SECTION, _OLD, _NEW = "model", "checkpoint_layers", "checkpoint"
OLD, NEW = f"{_SECTION}.{_OLD}", f"{_SECTION}.{_NEW}"
SINCE = "train.checkpoint_every"  # a setting as old as the new name: stored values without it had the old name


def stored_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored recipe's nested values under today's names."""
    section = values.get(_SECTION)
    if not isinstance(section, Mapping) or _OLD not in section:
        return dict(values)
    todays = {_NEW if key == _OLD else key: _today(value) if key == _OLD else value for key, value in section.items()}
    return {**values, _SECTION: todays}


def stored_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Stored values by dotted path under today's names."""
    return {NEW if path == OLD else path: _today(value) if path == OLD else value for path, value in params.items()}


def stored_space(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A stored search space, as its `as_plain` gave it, under today's names: ranges of the old setting are choices."""
    fixed, ranges = plain.get("fixed"), plain.get("space")
    if not isinstance(fixed, Mapping) or not isinstance(ranges, Mapping):
        return dict(plain)
    todays = {NEW if path == OLD else path: _distribution(path, found) for path, found in ranges.items()}
    return {**plain, "fixed": stored_params(fixed), "space": todays}


def advice(value: Any = None) -> str:
    """What to do about the old name. value: what it was given, where that is one value."""
    if isinstance(value, int):
        return f" — it is {NEW} now: write {NEW}={_today(value)}."
    return f" — it is {NEW} now, which is none, attention or layers."


def old_value(values: Mapping[str, Any]) -> tuple[bool, Any]:
    """Whether nested values have the old name, and what it was given."""
    section = values.get(_SECTION)
    if not isinstance(section, Mapping) or _OLD not in section:
        return False, None
    return True, section[_OLD]


def _today(layers: Any) -> str:
    return "layers" if layers else "none"


def _distribution(path: str, found: Any) -> Any:
    if not isinstance(found, Mapping):
        return found
    when = {
        NEW if parent == OLD else parent: _choices(allowed) if parent == OLD else allowed
        for parent, allowed in found.get("when", {}).items()
    }
    if path == OLD:
        return {"choice": _choices(_values(found)), "when": when}
    return {**found, "when": when} if "when" in found else found


def _values(found: Mapping[str, Any]) -> Iterable[int]:
    if "choice" in found:
        values: list[int] = found["choice"]
        return values
    low, high = found["int"]
    return range(low, high + 1, found.get("step") or 1)


def _choices(values: Iterable[int]) -> list[str]:
    return list(dict.fromkeys(map(_today, values)))
