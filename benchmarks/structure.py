"""The shape of the house: files per room, floors, arrows between rooms, sizes. Reads source only, imports none of it.

    python -m benchmarks.structure [CHECKOUT]     the whole report, as Markdown
    python -m benchmarks.structure --beside PATH  sizes of another checkout and of this one, side by side
    python -m benchmarks.structure --write        the part of docs/architecture.md that a test compares

A *room* is a folder. A module *imports* another one wherever in its text the import stands, inside functions too, but
not under `if TYPE_CHECKING`. Importing a module of a folder does not count as importing the folder's `__init__`.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "sweeps", "dashboards")
# Modules that stand on top of the rooms of their folder; each counts as a room of its own.
ABOVE = {"sweeps.launch": "sweeps/launch.py"}
DOOR = "mouselift"  # the module beside the packages that mounts their commands
PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- structure: begin -->", "<!-- structure: end -->"

Graph = Mapping[str, frozenset[str]]  # module -> the modules it imports


@dataclass(frozen=True)
class Checkout:
    """The modules of the three packages in one folder, by dotted name."""

    root: Path
    paths: Mapping[str, Path]  # relative to root
    trees: Mapping[str, ast.Module]

    @property
    def graph(self) -> Graph:
        """Who imports whom."""
        return {name: frozenset(self.imports(name)) for name in self.paths}

    def imports(self, name: str, for_types: bool = False) -> set[str]:
        """The modules of this checkout that one of them imports, itself left out."""
        candidates = {self._module(*found) for found in imports(self.trees[name], for_types)}
        return (candidates & self.paths.keys()) - {name}

    def _module(self, module: str, name: str) -> str:
        """`from module import name` means the module of that name, where there is one."""
        return inner if (inner := f"{module}.{name}") in self.paths else module


def read(root: Path) -> Checkout:
    """The packages of a checkout, and the door beside them."""
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    files += [path for path in (root / f"{DOOR}.py",) if path.is_file()]
    paths = {_dotted(path.relative_to(root)): path.relative_to(root) for path in files}
    return Checkout(root, paths, {name: ast.parse((root / path).read_text()) for name, path in paths.items()})


def imports(tree: ast.AST, for_types: bool = False) -> Iterator[tuple[str, str]]:
    """Module and name of each import that can happen, or with `for_types` of every one; `import module` has no name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            statements = [*node.body, *node.orelse] if for_types else node.orelse
            yield from imports(ast.Module(statements, []), for_types)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.module, alias.name) for alias in node.names)
        else:
            yield from imports(node, for_types)


def rooms(checkout: Checkout) -> dict[str, str]:
    """The folder of each module, as `sweeps/run`; the door is in none."""
    return {name: ABOVE.get(name, path.parent.as_posix()) for name, path in checkout.paths.items() if name != DOOR}


def circles(graph: Graph) -> list[list[str]]:
    """Modules that import each other, directly or through others: a list of names each."""
    return sorted(sorted(group) for group in _groups(graph) if len(group) > 1)


def shortest_circle(graph: Graph, group: Iterable[str]) -> list[str]:
    """The shortest way round inside a group of `circles`, its first module repeated at the end."""
    inside = set(group)
    ways = [way for start in sorted(inside) if (way := _way_back(graph, inside, start))]
    return min(ways, key=len)


def floors(graph: Graph) -> int:
    """Modules in the longest chain of imports, a circle counted as one."""
    groups = _groups(graph)
    of = {name: number for number, group in enumerate(groups) for name in group}
    height: dict[int, int] = {}
    for number, group in enumerate(groups):  # each after those it imports
        below = {of[target] for name in group for target in graph[name]} - {number}
        height[number] = 1 + max((height[other] for other in below), default=0)
    return max(height.values(), default=0)


def within(graph: Graph, prefix: str) -> Graph:
    """The part of a graph that lies in one package."""
    inside = {name for name in graph if name == prefix or name.startswith(f"{prefix}.")}
    return {name: graph[name] & inside for name in graph if name in inside}


def arrows(checkout: Checkout) -> Counter[tuple[str, str]]:
    """From which room to which other one, and how many pairs of modules it is."""
    room = rooms(checkout)
    pairs = [(name, target) for name, targets in checkout.graph.items() for target in targets]
    known = [(room[name], room[target]) for name, target in pairs if name in room and target in room]
    return Counter((start, end) for start, end in known if start != end)


def both_ways(counted: Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of rooms that import each other."""
    return sorted((start, end) for start, end in counted if start < end and (end, start) in counted)


def shape(checkout: Checkout) -> str:
    """What stays the same as long as no module comes, goes, or imports another room: rooms, floors, arrows."""
    counted = arrows(checkout)
    lines = ["| room | files | imports from |", "|---|---|---|"]
    for room in sorted(set(rooms(checkout).values())):
        targets = [f"{end} {count}" for (start, end), count in sorted(counted.items()) if start == room]
        shown = room if room in ABOVE.values() else f"{room}/"
        lines.append(f"| `{shown}` | {files_of(checkout, room)} | {', '.join(targets)} |")
    graph = checkout.graph
    heights = ", ".join(f"{package} {floors(within(graph, package))}" for package in PACKAGES)
    pairs = "; ".join(f"{start} and {end}" for start, end in both_ways(counted)) or "none"
    largest = ", ".join(str(len(group)) for group in circles(graph)) or "none"
    return "\n".join(
        [
            *lines,
            "",
            f"- Floors, the longest chain of imports inside a package: {heights}.",
            f"- Rooms that import each other: {pairs}.",
            f"- Circles of modules: {largest}.",
        ]
    )


def files_of(checkout: Checkout, room: str) -> int:
    """Modules in a room, its `__init__` not counted."""
    inside = [checkout.paths[name] for name, other in rooms(checkout).items() if other == room]
    return sum(path.name != "__init__.py" for path in inside)


def figures(checkout: Checkout) -> dict[str, str]:
    """Sizes that change with every commit, and how tightly the modules hang together: one column of a table."""
    graph, counted = checkout.graph, arrows(checkout)
    sources = [(checkout.root / path).read_text() for name, path in checkout.paths.items() if name != DOOR]
    functions = [node for tree in checkout.trees.values() for node in ast.walk(tree) if isinstance(node, _FUNCTION)]
    lengths = sorted(_length(node) for node in functions)
    p90 = lengths[int(0.9 * len(lengths))]
    busiest = max(set(rooms(checkout).values()), key=lambda room: (files_of(checkout, room), room))
    of_sweeps = [pair for pair in counted if pair[0].startswith("sweeps") and pair[1].startswith("sweeps")]
    return {
        "modules": str(len(sources)),
        "lines, all / code": f"{sum(len(text.splitlines()) for text in sources)} / {sum(map(code_lines, sources))}",
        "functions, lines: median / p90 / max": f"{statistics.median(lengths):.0f} / {p90} / {lengths[-1]}",
        "functions typed": f"{100 * sum(map(_is_typed, functions)) / len(functions):.0f} %",
        "fullest room": f"{busiest}/, {files_of(checkout, busiest)} files",
        "floors of sweeps": str(floors(within(graph, "sweeps"))),
        "imports inside sweeps": str(sum(len(targets) for targets in within(graph, "sweeps").values())),
        "of these between rooms": str(sum(counted[pair] for pair in of_sweeps)),
        "rooms of sweeps that import each other": str(len(both_ways(Counter(of_sweeps)))),
        "modules of sweeps with one importer": str(len(with_one_importer(within(graph, "sweeps"), graph))),
        "circles of modules": ", ".join(f"one of {len(group)}" for group in circles(graph)) or "none",
    }


def with_one_importer(part: Graph, graph: Graph) -> list[str]:
    """Modules of a part of the graph that exactly one module of the whole imports."""
    importers = Counter(target for targets in graph.values() for target in targets)
    return sorted(name for name in part if importers[name] == 1)


def code_lines(source: str) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            held |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            held -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(held)


def report(checkout: Checkout) -> str:
    """Everything, as Markdown."""
    rows = "\n".join(f"| {name} | {figure} |" for name, figure in figures(checkout).items())
    single = ", ".join(with_one_importer(checkout.graph, checkout.graph))
    return f"{shape(checkout)}\n\n| figure | |\n|---|---|\n{rows}\n\nModules with one importer: {single}\n"


def beside(before: Checkout, after: Checkout) -> str:
    """Sizes of two checkouts as one table."""
    old, new = figures(before), figures(after)
    rows = [f"| {name} | {old[name]} | {new[name]} |" for name in old]
    return "\n".join(["| figure | before | after |", "|---|---|---|", *rows])


def between(text: str, begin: str, end: str) -> str:
    """What stands between two marks of a page."""
    return text.partition(begin)[2].partition(end)[0].strip()


def replaced(text: str, begin: str, end: str, new: str) -> str:
    """The page with something else between its two marks."""
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n{new}\n{end}{rest.partition(end)[2]}"


def main(words: list[str]) -> None:
    """Print the report of a checkout, this one if none is named, or write its shape into the page."""
    if words == ["--write"]:
        PAGE.write_text(replaced(PAGE.read_text(), BEGIN, END, shape(read(ROOT))))
        return
    if words[:1] == ["--beside"]:
        print(beside(read(Path(words[1])), read(ROOT)))
        return
    print(report(read(Path(words[0]) if words else ROOT)))


_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _groups(graph: Graph) -> list[list[str]]:
    """Strongly connected components, each after those it imports (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            at = stack.index(name)
            groups.append(stack[at:])
            del stack[at:]

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return groups


def _way_back(graph: Graph, inside: set[str], start: str) -> list[str]:
    """The shortest path from a module back to itself."""
    came_from: dict[str, str] = {}
    front = [start]
    while front:
        reached = [(name, target) for name in front for target in sorted(graph[name] & inside)]
        front = []
        for name, target in reached:
            if target == start:
                path = [start, name] if name != start else [start]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return path[::-1]
            if target not in came_from:
                came_from[target] = name
                front.append(target)
    return []


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _is_typed(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether its result and all its parameters but self and cls have types."""
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return node.returns is not None and all(one.annotation or one.arg in ("self", "cls") for one in every)


if __name__ == "__main__":
    main(sys.argv[1:])
