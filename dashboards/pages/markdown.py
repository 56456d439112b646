"""Markdown of texts that come from outside: whatever they hold, they are shown as text, in one line and one cell.

What Markdown or HTML could read as markup becomes an HTML entity, which every renderer of Markdown shows as its sign.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_PLAIN_CODE = re.compile(r"[\w./:=@+,;()…·%<> -]+")  # holds nothing that ends a span of code or a cell
_MARKUP = re.compile(r"[^\w\s.,;:/=@+%…·–()'\"?-]|_")
_GAP = "&emsp;"
_CUT = 120  # characters of a text from outside


def plain(words: str, longest: int = _CUT) -> str:
    """A text as text, at most so many characters of it."""
    return _MARKUP.sub(lambda sign: f"&#{ord(sign[0])};", _one_line(words, longest))


def code(words: str, longest: int = _CUT) -> str:
    """A text as code where that is safe, and otherwise as text."""
    line = _one_line(words, longest)
    return f"`{line}`" if _PLAIN_CODE.fullmatch(line) and "<" not in line else plain(words, longest)


def link(words: str, address: str) -> str:
    """A link whose words come from outside; the address does not."""
    return f"[{plain(words)}]({address})"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = (), gap: str = _GAP) -> str:
    """A table of Markdown cells. numbers: the columns that are aligned to the right.

    gap: MLflow takes every style away, so that cells touch: it is part of each.
    """
    ruler = ["--:" if place in numbers else ":--" for place in range(len(columns))]
    apart = [f"{gap} | ".join(cells) for cells in (columns, *rows)]
    return "\n".join(f"| {cells} |" for cells in (apart[0], " | ".join(ruler), *apart[1:]))


def fence(lines: Sequence[str]) -> str:
    """Commands as a block of code."""
    inside = [line.replace("\n", " ").replace("`", "'") for line in lines]
    return "\n".join(["```", *inside, "```"])


def _one_line(words: str, longest: int) -> str:
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in words).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
