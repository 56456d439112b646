"""Text of ours is UTF-8, whatever the machine's language is: no file is opened in the locale's own encoding."""

from __future__ import annotations

import ast

import pytest

from tests.unit.test_house import NAMES, tree

_AT = {"read_text": 0, "write_text": 1}  # which argument is the encoding


def opens_in_the_locales_encoding(call: ast.Call) -> bool:
    """`path.read_text()`, `path.write_text(text)` and `path.open()` or `open(path)` for text, without an encoding."""
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if isinstance(call.func, ast.Attribute) and call.func.attr in _AT:
        return len(call.args) <= _AT[call.func.attr]
    is_method = isinstance(call.func, ast.Attribute) and call.func.attr == "open"
    if not is_method and not (isinstance(call.func, ast.Name) and call.func.id == "open"):
        return False
    place = 0 if is_method else 1
    if is_method and isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in ("Image", "av", "os"):
        return False  # of libraries, which open files as bytes
    mode = call.args[place] if len(call.args) > place else ast.Constant("r")
    return isinstance(mode, ast.Constant) and "b" not in str(mode.value)


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_read_or_written_in_the_locales_encoding(name: str) -> None:
    calls = (node for node in ast.walk(tree(name)) if isinstance(node, ast.Call))
    assert [f"{name}:{call.lineno}" for call in calls if opens_in_the_locales_encoding(call)] == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("path.open()", True),
        ("path.open('a')", True),
        ("open(path)", True),
        ("path.read_text('utf-8')", False),
        ("path.read_text(encoding='utf-8', errors='replace')", False),
        ("path.write_text(text, encoding='utf-8')", False),
        ("path.open('rb')", False),
        ("open(path, 'wb')", False),
    ],
)
def test_text_without_an_encoding_is_told_from_bytes_and_from_text_with_one(code: str, expected: bool) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert opens_in_the_locales_encoding(call) is expected
