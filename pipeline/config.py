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
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import RecipeError
from pipeline.text.yaml_file import Document, parse_yaml, read_yaml

T = TypeVar("T")
OVERRIDE = "--set"
_FINGERPRINT_LENGTH = 12


@dataclass(frozen=True)
class Layers:
    """Merged plain values, and for each dotted path the file or option it came from.

    documents: what each of these says, by its name.
    """

    values: dict[str, Any]
    sources: dict[str, str]
    documents: dict[str, Document] = field(default_factory=dict)

    def source(self, path: str) -> str:
        """The file that last said something about `path`, or about the mapping that holds it."""
        while path not in self.sources and "." in path:
            path = path.rpartition(".")[0]
        return self.sources.get(path, self.sources[""])

    def origin(self, path: str) -> str:
        """Where a value comes from: the option, or the file with its line, or the default."""
        name = self.sources.get(path)
        if name is None:
            return "its default"
        line = self.documents.get(name, Document()).lines.get(path)
        return name if line is None else f"{name}, line {line}"

    def word(self, path: str) -> str | None:
        """A plain value as it is written there, or None."""
        return self.documents.get(self.sources.get(path, ""), Document()).words.get(path)


def load_layers(path: Path, folder: Path, overrides: Iterable[str] = ()) -> Layers:
    """Read `path` and its bases (looked for beside it, then in `folder`), then apply `key=value` overrides.

    Raises RecipeError: file missing or not YAML, a circle of bases, an override that is not `key=value`.
    """
    chain = [_read_yaml(path, folder)]
    seen = [path.resolve()]
    while "base" in chain[-1][1].values:
        parent = find_yaml(str(chain[-1][1].values.pop("base")), folder, beside=seen[-1].parent)
        if parent.resolve() in seen:
            raise RecipeError(f"{path}: expected a chain of bases, got a circle at {parent.name} — remove one `base`.")
        seen.append(parent.resolve())
        chain.append(_read_yaml(parent, folder))
    layers = Layers({}, {"": chain[0][0]}, dict(chain))
    for name, document in reversed(chain):
        _merge(layers, document.values, name)
    typed = layers.documents[OVERRIDE] = Document()
    for override in overrides:
        document = _parse_override(override)
        _merge(layers, document.values, OVERRIDE)
        for replaced in [word for word in typed.words if _is_within(word, document.values)]:
            del typed.words[replaced]
        typed.words.update(document.words)
    return layers


def text_override(path: str, value: object) -> str:
    """The override that sets a text, whatever YAML would read in it: a folder may be called `2024` or `my #1`."""
    return f"{path}={json.dumps(str(value), ensure_ascii=False)}"


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
    advice = did_you_mean(name, known) or " — name one of them, or a file."
    raise RecipeError(f"{name}: expected a YAML file or one of {', '.join(known)}{advice}")


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
        if meant := _texts_meant(problems, layers):
            _merge(layers, meant, OVERRIDE)
            return decode(layers, kind)
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


def advice_on_key(path: str, known: Iterable[str]) -> str:
    """What to do about an unknown dotted path: the nearest known one, or the keys that its section has."""
    paths = list(known)
    section, _, key = path.rpartition(".")
    above = f"{section}." if any(name.startswith(f"{section}.") for name in paths) else ""
    keys = dict.fromkeys(name.removeprefix(above).partition(".")[0] for name in paths if name.startswith(above))
    near = difflib.get_close_matches(key, keys, n=1) if above else []
    if near:
        return f" — did you mean {above}{near[0]}?"
    elsewhere = [name for name in paths if name.rpartition(".")[2] == key]
    advice = did_you_mean(path, elsewhere if above else paths)
    return advice or f" — {section or 'the file'} has {', '.join(keys)}; name one of them, or remove the key."


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
    if not mark or (whole and number.is_integer()):
        return f" YAML reads {value} as text: write {int(number) if number.is_integer() else number!r}."
    spelled = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}"
    return f" YAML reads {value} as text, because a number with an exponent needs a dot and a sign: write {spelled}."


def _read_yaml(path: Path, folder: Path) -> tuple[str, Document]:
    """The file's name as the user knows it, and what it says."""
    if not path.is_file():
        raise RecipeError(f"{path}: expected a YAML file, found none — check the path.")
    document = read_yaml(path, RecipeError)
    if not isinstance(document.values, dict):
        raise RecipeError(
            f"{path}: expected `key: value` lines, got {type(document.values).__name__} — write a mapping."
        )
    return path.name if path.parent == folder else str(path), document


def _parse_override(text: str) -> Document:
    """`key=value` as a document of one key, which has all words that the value has."""
    path, equals, value = (part.strip() for part in text.partition("="))
    where = f"{OVERRIDE} {' '.join(text.split())}"
    if not equals or not path:
        raise RecipeError(f"{where}: expected key=value, such as optim.lr=1.0e-4 — add the value.")
    document = parse_yaml(value, where, RecipeError, option=True)
    is_word = isinstance(document.values, str) and "" in document.words
    parsed = value if is_word or not value else document.values  # a comment is no comment on a command line
    words = {f"{path}.{below}" if below else path: word for below, word in document.words.items()}
    return Document({path: parsed}, words=words)


def _is_within(path: str, values: Mapping[str, Any]) -> bool:
    return any(f"{path}.".startswith(f"{key}.") for key in values)


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


def _texts_meant(problems: Iterable[Any], layers: Layers) -> dict[str, str]:
    """Words of the command line that YAML reads as something else, where the recipe takes text, by dotted path."""
    paths = [_path_of(problem) for problem in problems if problem["type"] in _TEXT and not _is_text(problem["input"])]
    words = {path: layers.word(path) for path in paths if layers.sources.get(path) == OVERRIDE}
    return {path: word for path, word in words.items() if word is not None}


def _describe(problem: Any, layers: Layers, kind: type) -> str:
    """One line for a pydantic problem: source, dotted path, what was expected, what came, what to do."""
    path = _path_of(problem)
    where = layers.source(path)
    value = problem["input"]
    match problem["type"]:
        case "unexpected_keyword_argument":
            known = [name for name in _paths(kind) if name != "name" or name in layers.sources]
            of_another = " — it belongs to another kind; remove it"
            of_any_item = re.sub(r"\.\d+(?=\.)", "", path)  # the items of a list have the same keys
            return f"{where}: unknown key {path}{of_another if path in known else advice_on_key(of_any_item, known)}"
        case "missing":
            return f"{where}: {path}: expected a value, got none — add it."
        case "dataclass_type":
            return f"{where}: {path}: expected a mapping of keys, got {value!r} — indent its keys below it."
        case "union_tag_not_found" | "union_tag_invalid":
            expected = problem["ctx"].get("expected_tags", "a known kind")
            return f"{where}: {path}.kind: expected {expected}, got {value.get('kind')!r} — set it."
    expectation = re.sub("^(Input should be|Value error,|Tuple should have) ", "", problem["msg"])
    remedy = _remedy(problem, layers.word(path))
    return f"{where}: {path}: expected {expectation}, got {_short(value)} —{remedy}"


_TEXT = ("string_type", "literal_error")
_KINDS_OF = {("model", "gslrm"), ("model", "mvdiffusion"), ("loss", "rendering"), ("loss", "denoising")}
_LONGEST_VALUE = 120  # characters of a value in a message
_REMEDIES = {
    "bool_type": "write true or false.",
    "int_type": "write a whole number.",
    "float_type": "write a number.",
    "finite_number": "write a finite one.",
    "string_type": "write text.",
    "literal_error": "write one of these.",
    "value_error": "write one of these.",
    "tuple_type": "write a list, such as [1, 2].",
    "list_type": "write a list, such as [1, 2].",
    "dict_type": "indent its keys below it.",
    "too_long": "shorten the list.",
    "greater_than": "raise it.",
    "greater_than_equal": "raise it.",
    "less_than": "lower it.",
    "less_than_equal": "lower it.",
}


def _remedy(problem: Any, word: str | None) -> str:
    """What to do about a value. word: as it is written, where it is a plain one."""
    kind, value = problem["type"], problem["input"]
    if kind in ("int_type", "float_type") and (trap := explain_text_number(value, whole=kind == "int_type")):
        return trap
    if kind in _TEXT and not _is_text(value):
        # One of the expected words may be one that YAML reads as this value, as it reads `off`.
        words = re.findall("'([^']*)'", problem.get("ctx", {}).get("expected", ""))
        if kind == "string_type":  # any text will do
            words = [word or str(value)]
        traps = [text for text in words if parse_yaml(text, "", RecipeError).values == value]
        if traps:
            read = "" if traps[0] == json.dumps(value) else f"YAML reads {traps[0]} as {json.dumps(value)}: "
            return f" {read}write '{traps[0]}', with the quotes."
    return f" {_REMEDIES.get(kind, 'write it so.')}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _path_of(problem: Any) -> str:
    """The dotted path of a problem, without the word by which pydantic tells kinds apart."""
    first, *rest = problem["loc"]
    if rest and (first, rest[0]) in _KINDS_OF:
        del rest[0]
    return ".".join(map(str, (first, *rest)))


def _paths(kind: Any, prefix: str = "") -> list[str]:
    """Every dotted path that `kind` has."""
    if not is_dataclass(kind):
        return [path for option in get_args(kind) for path in _paths(option, prefix)]
    found: list[str] = []
    hints = get_type_hints(kind)
    for item in fields(kind):
        found.append(f"{prefix}{item.name}")
        found += _paths(hints[item.name], f"{prefix}{item.name}.")
    return found


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split())
