"""YAML files of people, read strictly: what YAML would take in silence in another sense than its writer's is refused.

Refused, with the line: a key that stands twice, nested or dotted; a word that YAML 1.1 reads as something that nobody
means by it (`0100` is 64, `1:30` is 90, `2024-01-01` is a date); tags of programs; aliases that hold themselves or
multiply. YAML's own reading of plain words, numbers and merge keys stands.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pipeline.text.encoding import read_text

LIMIT_BYTES = 4 * 2**20  # takes 20 s to read
_MOST_LEVELS, _MOST_VALUES = 64, 1_000_000
_TAG = "tag:yaml.org,2002:"
_INT, _FLOAT, _MERGE, _DATE, _EQUALS = (f"{_TAG}{name}" for name in ("int", "float", "merge", "timestamp", "value"))
_PLAIN = {_MERGE, _INT, _FLOAT, *(f"{_TAG}{name}" for name in ("str", "bool", "null", "seq", "map"))}
_KINDS = {_DATE: "a date", _EQUALS: "a default"}
_NAMES = {_INT, _MERGE, f"{_TAG}str"}  # what a key may be
_SIXTIES = re.compile(r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?")
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")  # which an escape can name, and no file name or JSON can hold


@dataclass(frozen=True)
class Document:
    """What a YAML file says, and where: by dotted path, the line of its key, and a plain scalar as it is written."""

    values: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)


def read_yaml(path: Path, error: type[Exception], name: str = "") -> Document:
    """Read a file that messages call `name`, or by its path. Raises `error` as `read_text` and `parse_yaml` do."""
    return parse_yaml(read_text(path, error, LIMIT_BYTES), name or str(path), error)


def parse_yaml(text: str, where: str, error: type[Exception], option: bool = False) -> Document:
    """What one YAML document says; `values` is None where it says nothing.

    option: it was typed on a command line. Then 1e-5 is the number that it looks like, where YAML 1.1 reads text, a
    date is text, and messages name no line.
    Raises `error`, which begins with `where`, for what is no YAML or is refused as said above.
    """
    try:
        loader = _OptionLoader(text) if option else yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return Document()
        reading = _Reading(loader, where, error)
        reading.see(node, "")
        return Document(loader.construct_document(node), reading.lines, reading.words)
    except yaml.MarkedYAMLError as problem:
        raise error(f"{where}{'' if option else _line(problem)}: {_fault(problem)}") from None
    except yaml.reader.ReaderError as problem:
        code = f"U+{ord(text[problem.position]):04X}"
        line = text.count("\n", 0, problem.position) + 1
        raise error(f"{where}:{line}: expected text, got the character {code} — remove it.") from None
    except RecursionError:
        raise error(_too_deep(where)) from None
    except ValueError as problem:  # `!!int word`, or a number of more digits than Python reads
        raise error(f"{where}: expected numbers that can be read, got {problem} — correct the number.") from None


class _OptionLoader(yaml.SafeLoader):
    """Reads 1e-5 and 1.0e5 as numbers, a whole one as an integer, and a date as text."""

    def construct_number(self, node: yaml.ScalarNode) -> float | int:
        """Of a float's node."""
        value = self.construct_yaml_float(node)
        return int(value) if _EXPONENT.fullmatch(node.value) and value.is_integer() else value

    def construct_word(self, node: yaml.ScalarNode) -> str:
        """Of a date's node."""
        return str(node.value)


_OptionLoader.add_implicit_resolver(_FLOAT, re.compile(f"^(?:{_EXPONENT.pattern})$"), list("-+.0123456789"))
_OptionLoader.add_constructor(_FLOAT, _OptionLoader.construct_number)
_OptionLoader.add_constructor(_DATE, _OptionLoader.construct_word)


class _Reading:
    """Looks at every node of a document before it becomes values, and notes where what is said."""

    def __init__(self, loader: yaml.SafeLoader, where: str, error: type[Exception]) -> None:
        self.lines: dict[str, int] = {}
        self.words: dict[str, str] = {}
        self._loader, self._where, self._error = loader, where, error
        self._is_option = isinstance(loader, _OptionLoader)
        self._parents: dict[str, int] = {}  # dotted path that has others below it -> line
        self._count = 0

    def see(self, node: yaml.Node, path: str | None, line: int = 1, level: int = 0) -> None:
        """Look at what is said at a dotted path; None: in a list, or merged, where nothing is noted.

        line: of its key. Raises the error.
        """
        self._count += 1
        if level > _MOST_LEVELS:
            raise self._error(_too_deep(self._where))
        if self._count > _MOST_VALUES:
            raise self._error(
                f"{self._where}: expected at most {_MOST_VALUES:,} values, got more, with each alias written out — "
                "write less, or without aliases."
            )
        self._refuse_meaning(node)
        if isinstance(node, yaml.MappingNode):
            self._see_mapping(node, path, level)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self.see(item, None, level=level + 1)
        elif path is not None and isinstance(node, yaml.ScalarNode) and node.style is None:
            self.words[path] = node.value
        if path and not isinstance(node, yaml.MappingNode):
            self._note(path, line)

    def _see_mapping(self, node: yaml.MappingNode, path: str | None, level: int) -> None:
        held: dict[str, int] = {}
        for key, value in node.value:
            name, line = self._name(key), key.start_mark.line + 1
            whole = f"{path}.{name}" if path else name
            if name in held:
                self._refuse_twice(line, whole, whole, held[name])
            held[name] = line
            self.see(value, None if path is None or key.tag == _MERGE else whole, line, level + 1)

    def _name(self, key: yaml.Node) -> str:
        """A key as text, in which characters that look the same are the same."""
        self._refuse_meaning(key)
        if not isinstance(key, yaml.ScalarNode):
            self._refuse(key, "expected a name as a key, got a list or mapping — write a name.")
        if key.tag not in _NAMES:
            self._refuse_word(key, "a name as a key", f"quote it: '{key.value}'")
        return unicodedata.normalize("NFC", key.value)

    def _note(self, path: str, line: int) -> None:
        """Refuse a path that has a value already, one below it, or one above it."""
        parts = path.split(".")
        above = [".".join(parts[:end]) for end in range(1, len(parts))]
        for other in (path, *above):
            if other in self.lines:
                self._refuse_twice(line, path, other, self.lines[other])
        if path in self._parents:
            self._refuse_twice(line, path, path, self._parents[path])
        self.lines[path] = line
        for parent in above:
            self._parents.setdefault(parent, line)

    def _refuse_meaning(self, node: yaml.Node) -> None:
        """Refuse a word that YAML reads in a sense that nobody means, and a tag of programs."""
        if node.tag not in _PLAIN and not (self._is_option and node.tag == _DATE):
            if node.tag in (_DATE, _EQUALS):
                self._refuse_word(node, "a number or text", f"quote it: '{node.value}'")
            tag = node.tag.replace(_TAG, "!!")
            self._refuse(node, f"expected plain values, got one with the tag {tag} — write it without the tag.")
        if not isinstance(node, yaml.ScalarNode):
            return
        if _NO_CHARACTER.search(node.value):
            self._refuse(node, f"expected text, got {node.value!r} — remove what is no character.")
        if node.tag in (_INT, _FLOAT) and (_SIXTIES.fullmatch(node.value) or _OCTAL.fullmatch(node.value)):
            self._refuse_word(node, "a number as it is meant", f"write the number out, or quote it: '{node.value}'")

    def _refuse_word(self, node: yaml.Node, expected: str, remedy: str) -> NoReturn:
        read = _KINDS.get(node.tag) or json.dumps(self._loader.construct_object(node))
        came = f"{node.value}, which YAML reads as {read}" if node.value else "none"
        self._refuse(node, f"expected {expected}, got {came} — {remedy}.")

    def _refuse_twice(self, line: int, path: str, other: str, other_line: int) -> NoReturn:
        came = "another" if other == path else f"another by {other}"
        where, again = (
            (self._where, "before") if self._is_option else (f"{self._where}:{line}", f"in line {other_line}")
        )
        raise self._error(f"{where}: {path}: expected one value, got {came} {again} — keep one of the two.")

    def _refuse(self, node: yaml.Node, problem: str) -> NoReturn:
        line = "" if self._is_option else f":{node.start_mark.line + 1}"
        raise self._error(f"{self._where}{line}: {problem}")


def _too_deep(where: str) -> str:
    return (
        f"{where}: expected at most {_MOST_LEVELS} levels of lists and mappings, got more, or an alias that holds "
        "itself — flatten it."
    )


def _line(problem: yaml.MarkedYAMLError) -> str:
    mark = problem.problem_mark or problem.context_mark
    return "" if mark is None else f":{mark.line + 1}"


def _fault(problem: yaml.MarkedYAMLError) -> str:
    """What is wrong with the syntax, and what to do, without the line, which is said before."""
    words = f"{problem.context or ''} {problem.problem or ''}"
    if "another document" in words:
        return "expected one document, got a second — keep one; another goes into a file of its own."
    if "'\\t'" in words:
        return "expected YAML, got a tab — indent with spaces."
    begun = problem.context_mark
    since = (
        f" {problem.context}" + (f" of line {begun.line + 1}" if begun and begun.line else "")
        if problem.context
        else ""
    )
    return f"expected YAML, got a fault{since}: {problem.problem} — correct it, or quote the text."
