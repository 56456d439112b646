"""docs/cli.md, made from the commands' own help, the tables of docs/recipes.md, made from dataclasses, and that of
docs/gpu.md, made from the memory estimate.

    python -m benchmarks.reference --write        a test compares the pages with what this would write

What a field means is the comment beside it, or the comment lines right above it where the line is full.
"""

from __future__ import annotations

import inspect
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from typer.models import ArgumentInfo, OptionInfo, TyperInfo

from benchmarks import cards
from benchmarks.structure import replaced

ROOT = Path(__file__).parents[1]
COMMANDS, RECIPES = ROOT / "docs/cli.md", ROOT / "docs/recipes.md"
# Of a space: values, or mappings by path.
PLAIN = ("recipe", "fixed", "space", "enqueue", "notify", "gates", "warm_start", "fresh")
TYPES = {bool: "true or false", int: "integer", float: "number", str: "text", Any: "any value"}
BOUNDS: dict[type, str] = {Gt: ">", Ge: "≥", Lt: "<", Le: "≤"}


# --- fields of recipes and spaces ---


@dataclass(frozen=True)
class Row:
    """A field as a reader meets it."""

    path: str
    type: str
    default: str
    meaning: str  # empty where the code has no comment

    def __str__(self) -> str:
        """A line of a Markdown table; YAML's word for None is null."""
        return line(f"`{self.path}`", self.type, self.default, re.sub(r"\bNone\b", "null", self.meaning))


def line(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def tables() -> dict[str, list[Row]]:
    """The rows of each table of docs/recipes.md by its name: a section, and its kind where there are several."""
    from pipeline.recipe import Recipe
    from sweeps.space.distributions import Choice, FloatRange, IntRange
    from sweeps.space.space import SearchSpace

    found = _sections(Recipe, but=("name",))
    of_space = _sections(SearchSpace, but=("name", "base"))  # which its file does not hold
    plain = [row for name in PLAIN for row in of_space.pop(name)]
    ranges = {
        name: list(_rows(kind, "")) for name, kind in (("float", FloatRange), ("int", IntRange), ("choice", Choice))
    }
    return found | of_space | {"a sweep": plain} | ranges


def table(rows: list[Row]) -> str:
    """Rows as Markdown."""
    return "\n".join(["| path | type | default | meaning |", "|---|---|---|---|", *map(str, rows)])


def marks(name: str) -> tuple[str, str]:
    """What stands before and after a table."""
    return f"<!-- table: {name} -->", "<!-- end -->"


def recipes_page(page: str) -> str:
    """The page with every table made anew; the words around them stay."""
    for name, rows in tables().items():
        begin, end = marks(name)
        page = replaced(page, begin, end, table(rows)) if begin in page else page
    return page


def _sections(cls: type, but: tuple[str, ...]) -> dict[str, list[Row]]:
    """The rows of each field of a recipe or space: those inside it, or its own. `but`: fields that no file holds."""
    found: dict[str, list[Row]] = {}
    hints, said = get_type_hints(cls, include_extras=True), meanings(cls)
    for one in (one for one in fields(cls) if one.name not in but):
        variants = _dataclasses(hints[one.name])
        for variant in variants:
            name = f"{one.name}, {_kind(variant)}" if len(variants) > 1 else one.name
            found[name] = list(_rows(variant, f"{one.name}."))
        if not variants:
            found[one.name] = [_row(one, hints[one.name], "", said)]
    return found


def _rows(cls: type, prefix: str) -> Iterator[Row]:
    """Every field below a dataclass, nested ones in their places."""
    hints, said = get_type_hints(cls, include_extras=True), meanings(cls)
    for one in fields(cls):
        inner = _dataclasses(hints[one.name])
        if not inner or one.default is None:
            yield _row(one, hints[one.name], prefix, said)
        for nested in inner:
            yield from _rows(nested, f"{prefix}{one.name}.")


def _row(one: Field[Any], hint: Any, prefix: str, said: dict[str, str]) -> Row:
    name = _alias(hint) or one.name
    return Row(f"{prefix}{name}", type_of(hint), _default(one), said[one.name])


def _dataclasses(hint: Any) -> list[type]:
    """The dataclasses a field may hold directly: one, several kinds, or none."""
    if is_dataclass(hint):
        return [hint]  # type: ignore[list-item]
    if get_origin(hint) in (Annotated, Union, UnionType):
        options = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
        return [one for option in options for one in _dataclasses(option)]
    return []


def _kind(cls: type) -> str:
    """The tag of a variant; the losses of GS-LRM have none of their own."""
    return next((str(one.default) for one in fields(cls) if one.name == "kind"), "rendering")


def _alias(hint: Any) -> str | None:
    extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((extra.alias for extra in extras if isinstance(extra, FieldInfo) and extra.alias), None)


def type_of(hint: Any) -> str:
    """A type hint in a reader's words: `integer > 0`, `number or null`, `pair of numbers`."""
    if is_dataclass(hint):
        return "mapping"
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{type_of(args[0])}{_bounds(args[1:])}"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin in (Union, UnionType):
        words = [type_of(option) for option in args if option is not NoneType]
        return " or ".join(dict.fromkeys([*words, *(["null"] if NoneType in args else [])]))
    if origin is tuple:
        return f"{'list' if args[-1] is Ellipsis else 'pair'}, each {type_of(args[0])}"
    if origin is dict:
        return f"mapping to {type_of(args[1])}"
    return TYPES[hint]


def _bounds(extras: tuple[Any, ...]) -> str:
    limits = [one for extra in extras if isinstance(extra, FieldInfo) for one in extra.metadata]
    said = [f"{BOUNDS[type(one)]} {_limit(one)}" for one in limits if type(one) in BOUNDS]
    return f" {' and '.join(said)}" if said else ""


def _limit(limit: Any) -> str:
    """The one number that a Gt, Ge, Lt or Le holds, in a field of its own name."""
    number = float(getattr(limit, type(limit).__name__.lower()))
    return f"{number:.0f}" if number.is_integer() else f"{number:.3g}"


def _default(one: Field[Any]) -> str:
    if one.default is not MISSING:
        plain = list(one.default) if isinstance(one.default, tuple) else one.default
        return f"`{plain if isinstance(plain, str) else json.dumps(plain)}`"
    if one.default_factory is MISSING:
        return "required"
    made = one.default_factory()
    return "`{}`" if made == {} else ""


@cache
def meanings(cls: type) -> dict[str, str]:
    """The comment of each field of a dataclass and of those it is made from, empty where it has none."""
    inherited = [meanings(one) for one in cls.__bases__ if is_dataclass(one)]
    source = inspect.getsource(cls)
    comments: dict[int, tuple[str, bool]] = {}  # line -> text, and whether it has the line for itself
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = token.line.strip() == token.string
            comments[token.start[0]] = (token.string.lstrip("# "), alone)
    starts = {line.split(":")[0].strip(): number for number, line in enumerate(source.splitlines(), 1) if ":" in line}
    own = {one.name: _comment(comments, starts[one.name]) for one in fields(cls) if one.name in starts}
    return {name: text for found in (*inherited, own) for name, text in found.items()}


def _comment(comments: dict[int, tuple[str, bool]], line: int) -> str:
    if line in comments:
        return comments[line][0]
    above = []
    while line - 1 in comments and comments[line - 1][1]:
        line -= 1
        above.append(comments[line][0])
    return " ".join(reversed(above))


# --- commands ---


def commands_page() -> str:
    """Every command with its usage, arguments and options, in the order of `mouselift --help`."""
    import mouselift

    head = [
        "# Commands",
        "",
        "<!-- made by `python -m benchmarks.reference --write` from the commands' own help; do not edit -->",
        "",
        "Results go to the standard output, everything else to the standard error. A command leaves with 0 when it did "
        "what was asked, 2 for a mistake of the user, 130 when Ctrl-C or `sweep stop` ended it, and 1 when another "
        "signal did or it failed for another reason; `run reproduce` also with 3, where it gives no verdict. `-h` or "
        "`--help` shows the same text. Words used here are in the [glossary](glossary.md).",
        "",
        "| command | |",
        "|---|---|",
    ]
    found = list(_commands(mouselift.app, "mouselift"))
    summary = [f"| [`{path}`](#{path.replace(' ', '-')}) | {_paragraphs(help)[0]} |" for path, _, help in found]
    return "\n".join([*head, *summary, "", *("\n".join(_command(*one)) for one in found)])


def _commands(app: typer.Typer, prefix: str) -> Iterator[tuple[str, Any, str]]:
    """Path, function and help of every command, groups in their places."""
    for info in app.registered_commands:
        assert info.callback is not None
        name = info.name or info.callback.__name__.replace("_", "-")
        yield f"{prefix} {name}", info.callback, inspect.getdoc(info.callback) or ""
    for group in app.registered_groups:
        assert isinstance(group, TyperInfo) and group.typer_instance is not None
        yield from _commands(group.typer_instance, f"{prefix} {group.name}")


def _command(path: str, function: Any, text: str) -> Iterator[str]:
    parameters = list(_parameters(function))
    arguments = [one for one in parameters if isinstance(one.info, ArgumentInfo)]
    options = [one for one in parameters if isinstance(one.info, OptionInfo)]
    required = [f"{one.names[0]} {one.placeholder}" for one in options if one.default is inspect.Parameter.empty]
    words = [*required, "[OPTIONS]", *(one.placeholder for one in arguments)]
    yield f"## {path}"
    yield f"```\n{path} {' '.join(words)}\n```"
    yield "\n\n".join(_paragraphs(text))
    yield ""
    if parameters:
        yield "| | type | default | |\n|---|---|---|---|"
    for one in (*arguments, *options):
        yield line(one.spelled, one.type, one.shown, one.info.help or "")
    yield ""


@dataclass(frozen=True)
class Parameter:
    """An argument or option of a command."""

    name: str
    hint: Any
    info: ArgumentInfo | OptionInfo
    default: Any

    @property
    def names(self) -> list[str]:
        """How an option is spelled, longest form first; for a switch, both ways of it."""
        given = (self.info.default, *(self.info.param_decls or ()))  # where Annotated has them, the first is `default`
        if named := [name for name in given if isinstance(name, str) and name.startswith("-")]:
            return named
        word = self.name.replace("_", "-")
        return [f"--{word}/--no-{word}" if self._type is bool else f"--{word}"]

    @property
    def placeholder(self) -> str:
        """What stands for the value in a usage line."""
        word = self.info.metavar or self.name.upper()
        many = get_origin(self._type) is list and isinstance(self.info, ArgumentInfo)
        return (word if self.default is inspect.Parameter.empty else f"[{word}]") + ("..." if many else "")

    @property
    def spelled(self) -> str:
        """The first cell of its row."""
        if isinstance(self.info, ArgumentInfo):
            return f"`{self.info.metavar or self.name.upper()}`"
        return ", ".join(f"`{name}`" for name in self.names)

    @property
    def type(self) -> str:
        """What may be given, with its limits."""
        kind = self._type
        if get_origin(kind) is list:
            return f"{_word(get_args(kind)[0])}, repeatable"
        low, high = self.info.min, self.info.max
        limits = [f"≥ {low:g}" if low is not None else "", f"≤ {high:g}" if high is not None else ""]
        return " ".join(filter(None, [_word(kind), *limits]))

    @property
    def shown(self) -> str:
        """The default, where there is one to tell."""
        if self.default is inspect.Parameter.empty:
            return "required"
        if self.default is None or self.default is False:
            return ""
        return f"`{self.default.value if isinstance(self.default, Enum) else self.default}`"

    @property
    def _type(self) -> Any:
        options = [one for one in get_args(self.hint) if one is not NoneType]
        return options[0] if get_origin(self.hint) in (Union, UnionType) else self.hint


def _parameters(function: Any) -> Iterator[Parameter]:
    hints = get_type_hints(function, include_extras=True)
    for name, one in inspect.signature(function).parameters.items():
        kind, *extras = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
        infos = [extra for extra in extras if isinstance(extra, ArgumentInfo | OptionInfo)]
        if infos:  # the others, such as the context, are not of the command line
            yield Parameter(name, kind, infos[0], one.default)


def _word(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{one.value}`" for one in kind)
    return {bool: "switch", int: "integer", float: "number", str: "text", Path: "path"}[kind]


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("\n\n")]


def main(words: list[str]) -> None:
    """Write the pages, or print the page of commands."""
    if words == ["--write"]:
        COMMANDS.write_text(commands_page())
        RECIPES.write_text(recipes_page(RECIPES.read_text()))
        cards.PAGE.write_text(replaced(cards.PAGE.read_text(), cards.BEGIN, cards.END, cards.table()))
        return
    print(commands_page())


if __name__ == "__main__":
    main(sys.argv[1:])
