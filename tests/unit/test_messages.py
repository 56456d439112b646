"""Every refusal says where, what was expected, what came, and what to do."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

import pipeline.errors
import sweeps.errors
from benchmarks import structure
from tests.unit.test_house import ROOT

# A number that is not finite is no mistake of a user's input; pruning says what becomes of the trial.
ERRORS = {
    name
    for module in (pipeline.errors, sweeps.errors)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, Exception) and name != "NonFiniteError"
}
FILES = sorted(path.as_posix() for path in structure.read(ROOT).paths.values())
HOLE = "{}"  # where a value stands; a message that ends in one ends in what that value says


def text_of(node: ast.expr) -> str:
    """The message as it is written, with a hole for each value."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(text_of, parts))
        case _:
            return HOLE


def messages(name: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] in ERRORS:
            yield node.lineno, text_of(node.args[0])


def has_the_form(message: str) -> bool:
    if message.endswith(HOLE):
        return True
    said, dash, advice = message.partition(" — ")
    return bool(dash and advice) and ("expected " in said or "unknown key" in said)


@pytest.mark.parametrize("name", FILES)
def test_a_refusal_says_what_was_expected_and_what_to_do(name: str) -> None:
    assert [f"{name}:{line}: {text}" for line, text in messages(name) if not has_the_form(text)] == []


@pytest.mark.parametrize("name", FILES)
def test_no_refusal_only_says_that_something_is_to_be_mended(name: str) -> None:
    endings = ("mend it.", "mend the value.", "mend the syntax.", "fix it.", "— correct it.")
    assert [f"{name}:{line}: {text}" for line, text in messages(name) if text.endswith(endings)] == []


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("{}: expected a number, got {} — write one.", True),
        ("{}: expected a number, got {}.", False),
        ("{}: expected a number, got {}{}", True),
        ("{} is broken — buy another.", False),
    ],
)
def test_the_form_is_told_from_its_lack(message: str, expected: bool) -> None:
    assert has_the_form(message) == expected
