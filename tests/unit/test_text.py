"""Text files of people: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.text.encoding import LIMIT_BYTES, read_text
from pipeline.text.json_file import read_json
from pipeline.text.yaml_file import parse_yaml, read_yaml


def values(text: str) -> object:
    return parse_yaml(text, "f.yaml", DataError).values


def refusal(text: str) -> str:
    with pytest.raises(DataError) as caught:
        values(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- YAML: what stands

STANDS = {
    "a: {b: 1}\r\nc: [x, 2]\r\n": {"a": {"b": 1}, "c": ["x", 2]},
    "b: &b {x: 1, y: 2}\nc: {<<: *b, x: 3}": {"b": {"x": 1, "y": 2}, "c": {"x": 3, "y": 2}},
    "a: &a [1, 2]\nb: *a": {"a": [1, 2], "b": [1, 2]},
    "a.x: 1\na.y: 2\na: {z: 3}": {"a.x": 1, "a.y": 2, "a": {"z": 3}},
    "- {a: 1}\n- {a: 2}": [{"a": 1}, {"a": 2}],
    "a: yes\nb: off\nc: ~\nd:": {"a": True, "b": False, "c": None, "d": None},
    "a: '2024-01-01'\nb: '0100'\nc: '1:30'": {"a": "2024-01-01", "b": "0100", "c": "1:30"},
    "a: 1_000\nb: 0x1F\nc: 1e-4\nd: 0\ne: .inf": {"a": 1000, "b": 31, "c": "1e-4", "d": 0, "e": float("inf")},
    "ключ: 생쥐": {"ключ": "생쥐"},
    "%YAML 1.1\n---\na: 1": {"a": 1},
    "": None,
    "# nothing": None,
}


@pytest.mark.parametrize("text", STANDS)
def test_yaml_means_what_it_says(text: str) -> None:
    assert values(text) == STANDS[text]


# ---------------------------------------------------------------- YAML: what is refused

TWICE = {
    "a: 1\nb: 2\na: 3": ("3", "a", "another in line 1"),
    "x:\n  a: 1\n  a: 1": ("3", "x.a", "another in line 2"),
    "- {a: 1,\n   a: 2}": ("2", "a", "another in line 1"),
    "a: {x: 1}\na.x: 2": ("2", "a.x", "another in line 1"),
    "a.x: 1\na: {x: 2}": ("2", "a.x", "another in line 1"),
    "a: 5\na.x: 1": ("2", "a.x", "another by a in line 1"),
    "a.x: 1\na: 5": ("2", "a", "another in line 1"),
    "b: &b {x: 1,\n  x: 2}\nc: {<<: *b}": ("2", "b.x", "another in line 1"),
    "c:\n  <<: {x: 1}\n  <<: {y: 1}": ("3", "c.<<", "another in line 2"),
    "1: a\n'1': b": ("2", "1", "another in line 1"),
    "\u00e9: 1\ne\u0301: 2": ("2", "\u00e9", "another in line 1"),  # one word in two spellings of Unicode
}


@pytest.mark.parametrize("text", TWICE)
def test_a_key_that_stands_twice_is_refused_with_both_lines(text: str) -> None:
    line, path, came = TWICE[text]
    assert refusal(text) == f"f.yaml:{line}: {path}: expected one value, got {came} — keep one of the two."


MEANINGS = {
    "b: 1\na: 2024-01-01": "f.yaml:2: expected a number or text, got 2024-01-01, which YAML reads as a date — "
    "quote it: '2024-01-01'.",
    "a: 0100": "f.yaml:1: expected a number as it is meant, got 0100, which YAML reads as 64 — write the number "
    "out, or quote it: '0100'.",
    "a: 1:30": "f.yaml:1: expected a number as it is meant, got 1:30, which YAML reads as 90 — write the number "
    "out, or quote it: '1:30'.",
    "a: =": "f.yaml:1: expected a number or text, got =, which YAML reads as a default — quote it: '='.",
    "on: 1": "f.yaml:1: expected a name as a key, got on, which YAML reads as true — quote it: 'on'.",
    "~: 1": "f.yaml:1: expected a name as a key, got ~, which YAML reads as null — quote it: '~'.",
    "? [a]\n: 1": "f.yaml:1: expected a name as a key, got a list or mapping — write a name.",
    "a: !!python/object:os.system x": "f.yaml:1: expected plain values, got one with the tag !!python/object:os.system "
    "— write it without the tag.",
    "a: !!set {x}": "f.yaml:1: expected plain values, got one with the tag !!set — write it without the tag.",
    'a: "\\ud800"': "f.yaml:1: expected text, got '\\ud800' — remove what is no character.",
    "a: \x01": "f.yaml:1: expected text, got the character U+0001 — remove it.",
    "a:\n\t- 1": "f.yaml:2: expected YAML, got a tab — indent with spaces.",
    "a: 1\n---\nb: 2": "f.yaml:2: expected one document, got a second — keep one; another goes into a file of its own.",
    "a: b: c": "f.yaml:1: expected YAML, got a fault: mapping values are not allowed here — correct it, or quote the "
    "text.",
    "a: *x": "f.yaml:1: expected YAML, got a fault: found undefined alias 'x' — correct it, or quote the text.",
}


@pytest.mark.parametrize("text", MEANINGS)
def test_what_yaml_reads_in_a_sense_that_nobody_means_is_refused(text: str) -> None:
    assert refusal(text) == MEANINGS[text]


@pytest.mark.parametrize(
    "text", ["&a [*a]", "a: &a {b: *a}", f"a: {'[' * 80}{']' * 80}", f"a: {'[' * 1000}{']' * 1000}"]
)
def test_what_has_no_end_of_levels_is_refused(text: str) -> None:
    assert refusal(text) == (
        "f.yaml: expected at most 64 levels of lists and mappings, got more, or an alias that holds itself — "
        "flatten it."
    )


def test_aliases_that_multiply_are_refused() -> None:
    lines = [f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]" for n in range(9)]
    assert refusal("\n".join(["a0: &a0 [x]", *lines])).startswith("f.yaml: expected at most 1,000,000 values, got more")


@pytest.mark.parametrize("text", ["a: !!int word", f"a: {'9' * 5000}"])
def test_a_number_that_is_none_is_refused(text: str) -> None:
    assert refusal(text).startswith("f.yaml: expected numbers that can be read, got ")


def test_lines_and_words_of_a_document_are_known() -> None:
    document = parse_yaml("a:\n  b: off\nc.d: 'off'\n", "f.yaml", DataError)
    assert (document.lines, document.words) == ({"a.b": 2, "c.d": 3}, {"a.b": "off"})


# ---------------------------------------------------------------- encodings and sizes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read_by_its_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes("name: Mäuse 생쥐\n".encode(encoding))
    assert read_yaml(path, DataError).values == {"name": "Mäuse 생쥐"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nMäuse".encode("latin-1"), ":2: expected text in UTF-8, got the byte 0xe4, as in Latin-1 or Windows-1252"),
        ("Mäuse".encode("utf-16-le"), ":1: expected text in UTF-8, got the byte 0xe4, as in UTF-16 without its mark"),
        ("mice".encode("utf-16-be"), ": expected text, got a zero byte, as in UTF-16 without its mark"),
        (b"PNG and more\0", ": expected text, got a zero byte, as in a file of bytes"),
    ],
)
def test_text_in_another_encoding_is_refused_with_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_text(path, DataError)
    assert str(caught.value) == f"{path}{message} — save the file as UTF-8."


def test_a_file_too_large_for_text_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    with path.open("wb") as file:
        file.truncate(LIMIT_BYTES + (100 << 20))
    with pytest.raises(DataError, match="expected a text file of at most 4 MiB, got 164 MiB — name another file"):
        read_yaml(path, DataError)


def test_a_folder_where_a_file_was_meant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a file that can be read, got Is a directory"):
        read_text(tmp_path, DataError)


# ---------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"fx": 1, "fx": 2}}', ": expected each key of an object once, got fx twice — keep one of the two."),
        (
            '{"a": 1,\n}',
            ":2: expected JSON, got a fault at column 1 (Expecting property name enclosed in double quotes)",
        ),
        ("", ":1: expected JSON, got a fault at column 1 (Expecting value)"),
        ("[" * 100_000, ": expected JSON of a few levels, got one nested too deep to read"),
        (f"[{'9' * 5000}]", ": expected JSON, got a number too long to read"),
    ],
)
def test_json_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_json(path, DataError)
    assert str(caught.value).startswith(f"{path}{message}") and "\n" not in str(caught.value)


def test_json_with_a_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(json.dumps({"a": [1, {"b": None}]}).encode("utf-8-sig"))
    assert read_json(path, DataError) == {"a": [1, {"b": None}]}
