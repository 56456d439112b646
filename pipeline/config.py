"""YAML files and dotted overrides to frozen dataclasses: strict, with the file and the key in every refusal.

One parent per file, named by `base:`; mappings merge, everything else replaces; overrides come last.
pydantic checks the values; this module finds the files, merges them and words the errors.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import RecipeError

T = TypeVar("T")
OVERRIDE = "--set"
_FINGERPRINT_LENGTH = 12


@dataclass(frozen=True)
class Layers:
    """Merged plain values, and for each dotted path the file or option it came from."""

    values: dict[str, Any]
    sources: dict[str, str]

    def source(self, path: str) -> str:
        """The file that last said something about `path`, or about the mapping that holds it."""
        while path not in self.sources and "." in path:
            path = path.rpartition(".")[0]
        return self.sources.get(path, self.sources[""])


def load_layers(path: Path, folder: Path, overrides: Iterable[str] = ()) -> Layers:
    """Read `path` and its bases (looked for beside it, then in `folder`), then apply `key=value` overrides.

    Raises RecipeError: file missing or not YAML, a circle of bases, an override that is not `key=value`.
    """
    chain = [_read_yaml(path, folder)]
    seen = [path.resolve()]
    while "base" in chain[-1][1]:
        parent = find_yaml(str(chain[-1][1].pop("base")), folder, beside=seen[-1].parent)
        if parent.resolve() in seen:
            raise RecipeError(f"{path}: expected a chain of bases, got a circle at {parent.name} — remove one `base`.")
        seen.append(parent.resolve())
        chain.append(_read_yaml(parent, folder))
    layers = Layers({}, {"": chain[0][0]})
    for name, values in reversed(chain):
        _merge(layers, values, name)
    for override in overrides:
        _merge(layers, _parse_override(override), OVERRIDE)
    return layers


def find_yaml(name: str, folder: Path, beside: Path | None = None) -> Path:
    """A YAML file by path, or by bare name in `beside` or `folder`; RecipeError suggests near names."""
    candidates = [Path(name)] if name.endswith((".yaml", ".yml")) else []
    if beside is not None:
        candidates += [beside / name, beside / f"{name}.yaml"]
    candidates.append(folder / f"{name}.yaml")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    raise RecipeError(f"{name}: expected a YAML file or one of {', '.join(known)}{did_you_mean(name, known)}")


def decode(layers: Layers, kind: type[T]) -> T:
    """Turn merged values into the dataclass `kind`.

    Raises RecipeError for the first unknown key, missing key, wrong type or value out of range.
    """
    try:
        # JSON mode: the strict reading in which a list may become a tuple.
        adapter: TypeAdapter[T] = _adapter(kind)  # type: ignore[arg-type]  # a class is hashable
        return adapter.validate_json(json.dumps(layers.values), strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        unknown = [p for p in problems if p["type"] == "unexpected_keyword_argument"]
        raise RecipeError(_describe((unknown or problems)[0], layers, kind)) from None
    except TypeError as error:
        raise RecipeError(
            f"{layers.source('')}: expected plain values, got {error} — write a number or text."
        ) from None


@lru_cache(maxsize=64)
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    """Building an adapter takes longer than decoding with it, so that each is kept."""
    return TypeAdapter(kind)


def as_plain(value: Any) -> Any:
    """A frozen dataclass as nested dicts and lists, ready for YAML or JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [as_plain(item) for item in value]
    return value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted paths; `unflatten` gives them back. An empty mapping has no path."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def unflatten(values: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Dotted keys written out: `optim.lr: 1.0e-4` is `optim: {lr: 1.0e-4}`; keys may be nested mappings already.

    Raises RecipeError, which begins with `where`, for a key that is a value and a mapping.
    """
    nested: dict[str, Any] = {}
    for dotted, value in values.items():
        *parents, leaf = str(dotted).split(".")
        target = nested
        for parent in parents:
            target = _mapping(target.setdefault(parent, {}), f"{where}: {dotted}")
        if isinstance(value, Mapping):
            held = _mapping(target.setdefault(leaf, {}), f"{where}: {dotted}")
            _merge_into(held, unflatten(value, where), where, "", {})
        else:
            target[leaf] = value
    return nested


def fingerprint(value: Any, skip: Iterable[str] = ()) -> str:
    """Twelve hex digits of the resolved values, without the dotted paths in `skip`."""
    skipped = set(skip)
    kept = {key: item for key, item in flatten(as_plain(value)).items() if key not in skipped}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:_FINGERPRINT_LENGTH]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` — did you mean X?` for the nearest known word, or nothing."""
    words = list(known)
    by_tail = {name.rpartition(".")[2]: name for name in words}
    near = difflib.get_close_matches(word, words, n=1) or [
        by_tail[tail] for tail in difflib.get_close_matches(word.rpartition(".")[2], list(by_tail), n=1)
    ]
    return f" — did you mean {near[0]}?" if near else ""


def explain_text_number(value: Any, whole: bool = False) -> str:
    """Advice on a number that YAML 1.1 reads as text, such as `1e-4`, or nothing. whole: an integer is wanted."""
    if not isinstance(value, str):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    mantissa, mark, exponent = value.lower().partition("e")
    if whole and number.is_integer():
        return f" YAML reads {value} as text: write {int(number)}."
    spelled = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}" if mark else repr(number)
    return f" YAML reads {value} as text, because a number with an exponent needs a dot and a sign: write {spelled}."


def _read_yaml(path: Path, folder: Path) -> tuple[str, dict[str, Any]]:
    """The file's name as the user knows it, and its values."""
    if not path.is_file():
        raise RecipeError(f"{path}: expected a YAML file, found none — check the path.")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: expected YAML, got {one_line(error)} — mend the syntax.") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected `key: value` lines, got {type(values).__name__} — write a mapping.")
    return path.name if path.parent == folder else str(path), values


def _parse_override(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise RecipeError(f"{OVERRIDE} {text}: expected key=value, such as optim.lr=1.0e-4 — add the value.")
    try:
        parsed = yaml.safe_load(value) if value.strip() else ""
    except yaml.YAMLError as error:
        raise RecipeError(f"{OVERRIDE} {text}: expected a YAML value, got {one_line(error)} — quote it.") from None
    return {path.strip(): parsed}


def _merge(layers: Layers, values: Mapping[Any, Any], source: str) -> None:
    _merge_into(layers.values, unflatten(values, source), source, "", layers.sources)


def _merge_into(
    target: dict[str, Any], values: Mapping[str, Any], source: str, prefix: str, sources: dict[str, str]
) -> None:
    for key, value in values.items():
        path = f"{prefix}{key}"
        sources[path] = source
        if isinstance(value, Mapping):
            held = target.get(key)
            target[key] = held if isinstance(held, dict) else {}
            _merge_into(target[key], value, source, f"{path}.", sources)
        else:
            target[key] = value


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: expected one meaning, got {value!r} for it above — remove one of the two.")
    return value


def _describe(problem: Any, layers: Layers, kind: type) -> str:
    """One line for a pydantic problem: source, dotted path, what was expected, what came, what to do."""
    tags = {"gslrm", "mvdiffusion", "rendering", "denoising"}
    path = ".".join(str(part) for part in problem["loc"] if not (part in tags and len(problem["loc"]) > 2))
    where = layers.source(path)
    value = problem["input"]
    match problem["type"]:
        case "unexpected_keyword_argument":
            known = _paths(kind)
            advice = " — it belongs to another kind; remove it" if path in known else did_you_mean(path, known)
            return f"{where}: unknown key {path}{advice or ' — remove it'}"
        case "missing":
            return f"{where}: {path}: expected a value, got none — add it."
        case "dataclass_type":
            return f"{where}: {path}: expected a mapping of keys, got {value!r} — indent its keys below it."
        case "union_tag_not_found" | "union_tag_invalid":
            expected = problem["ctx"].get("expected_tags", "a known kind")
            return f"{where}: {path}.kind: expected {expected}, got {value.get('kind')!r} — set it."
    expectation = re.sub("^(Input should be|Value error,|Tuple should have) ", "", problem["msg"])
    trap = explain_text_number(value, whole=problem["type"] == "int_type")
    return f"{where}: {path}: expected {expectation}, got {value!r}{' —' + trap if trap else ' — mend the value.'}"


def _paths(kind: Any, prefix: str = "") -> list[str]:
    """Every dotted path that `kind` has."""
    if not is_dataclass(kind):
        return [path for option in get_args(kind) for path in _paths(option, prefix)]
    found: list[str] = []
    hints = get_type_hints(kind)
    for field in fields(kind):
        found.append(f"{prefix}{field.name}")
        found += _paths(hints[field.name], f"{prefix}{field.name}.")
    return found


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split())
