"""The house rules: who imports whom, one door per library, and sizes a reader can hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from benchmarks import structure

ROOT = Path(__file__).parents[2]
PACKAGES = structure.PACKAGES
CHECKOUT = structure.read(ROOT)
NAMES = sorted(path.as_posix() for path in CHECKOUT.paths.values())
ROOMS = structure.rooms(CHECKOUT)

MAY_IMPORT = {
    "pipeline": {"pipeline"},
    "sweeps": {"pipeline", "sweeps"},
    "dashboards": {"pipeline", "sweeps", "dashboards"},
}
# Rooms of `sweeps`, upwards: what each may import beside itself. The folder itself holds errors, home, datasets and
# own_process. On top of the rooms stand the launch of a sweep, then the face, which is `__init__`, and the commands.
GROUND, LAUNCH, FACE = "sweeps", "sweeps/launch.py", "sweeps (the face)"
UPWARDS = ("space", "book", "conclusions", "reuse", "tracking", "run", "preflight", "pyfuncs", "registry")
WITHIN = {GROUND, *(f"sweeps/{room}" for room in UPWARDS)}
BELOW = {
    GROUND: set[str](),
    "sweeps/space": {GROUND},
    "sweeps/book": {GROUND, "sweeps/space"},
    "sweeps/conclusions": {GROUND, "sweeps/space", "sweeps/book"},
    "sweeps/reuse": {GROUND, "sweeps/space", "sweeps/book"},
    "sweeps/tracking": {GROUND, "sweeps/space", "sweeps/book", "sweeps/conclusions", "sweeps/reuse"},
    "sweeps/run": {GROUND, "sweeps/space", "sweeps/book", "sweeps/reuse", "sweeps/tracking"},
    "sweeps/pyfuncs": {"sweeps/tracking"},
    "sweeps/registry": {
        GROUND,
        "sweeps/space",
        "sweeps/book",
        "sweeps/conclusions",
        "sweeps/tracking",
        "sweeps/pyfuncs",
    },
    "sweeps/preflight": {GROUND, "sweeps/space", "sweeps/book", "sweeps/conclusions", "sweeps/tracking", "sweeps/run"},
    LAUNCH: WITHIN,
    FACE: WITHIN | {LAUNCH},
    "sweeps/cli": WITHIN | {LAUNCH, FACE},
}
# Library -> the files that may import it; a name ending in / is a folder.
DOORS = {
    "gsplat": ("pipeline/splatting/",),
    "gsply": ("pipeline/splatting/",),
    "diffusers": ("pipeline/mvdiffusion/",),
    "transformers": ("pipeline/mvdiffusion/",),
    "peft": ("pipeline/mvdiffusion/",),
    "lpips": ("pipeline/vgg.py",),
    "torchmetrics": ("pipeline/metrics.py",),
    "numba": ("pipeline/splatting/",),
    "av": ("pipeline/data/recording/video.py", "pipeline/data/recording/container.py"),
    "rembg": ("pipeline/data/photo/segment.py",),
    "embreex": ("pipeline/data/mice/render.py",),
    "safetensors": ("pipeline/checkpoint.py", "pipeline/mvdiffusion/"),
    "ray": ("sweeps/run/",),
    "pyarrow": ("sweeps/run/checkpoints.py",),
    "optuna": ("sweeps/space/", "sweeps/book/", "sweeps/conclusions/"),
    "apprise": ("sweeps/tracking/notices.py",),
    "mlflow": ("sweeps/tracking/", "sweeps/pyfuncs/", "sweeps/registry/"),
    "fastapi": ("dashboards/",),
    "jinja2": ("dashboards/",),
    "plotly": ("dashboards/",),
}
# Parts of libraries that their documentation does not promise: file and part -> the test that holds it.
CALIBRATION = "pipeline/data/calibration/pickles.py"
PICKLES = "tests/unit/test_calibration.py::test_arrays_of_every_pickle_protocol_are_read"
PRIVATE_PARTS = {
    (CALIBRATION, "numpy._core"): PICKLES,
    (CALIBRATION, "multiarray._reconstruct"): PICKLES,
    (CALIBRATION, "numeric._frombuffer"): PICKLES,
    ("sweeps/tracking/mlflow_client.py", "mlflow.store.tracking.sqlalchemy_store"): (
        "tests/contracts/test_library_parts.py::test_mlflow_makes_the_tables_of_a_new_database_file"
    ),
    ("sweeps/run/tune.py", "trial.temporary_state"): (
        "tests/contracts/test_library_parts.py::test_ray_tune_keeps_a_trials_actor_in_its_temporary_state"
    ),
}
# Underscored names that a documentation does promise.
PROMISED = {"os._exit", "_replace", "_asdict", "_fields"}
# Undocumented parts whose names do not begin with an underscore: modules, and attributes of what a library hands out.
UNDOCUMENTED = {"mlflow.store", "temporary_state"}
TOLERANT = "sweeps/tracking/mlflow_pages.py"  # whatever is wrong with a page, the figures are to arrive
MAX_FUNCTION_LINES, MAX_FILE_LINES = 80, 400
MAX_FILES = {"pipeline": 20}  # the others of `pipeline` and `sweeps`:
MAX_FILES_OF_A_ROOM = 12


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text())


def imported(name: str) -> Iterator[str]:
    """Every module a file imports, at its top or inside a function; for types alone, too."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{name}: relative import"
            yield node.module


def libraries(name: str) -> set[str]:
    return {module.partition(".")[0] for module in imported(name)}


def functions(name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(name)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("name", [name for name in NAMES if "/" in name])
def test_packages_import_only_downwards(name: str) -> None:
    assert libraries(name) & {*PACKAGES, "mouselift"} <= MAY_IMPORT[name.partition("/")[0]]


def room_of(module: str) -> str:
    return FACE if module == "sweeps" else ROOMS[module]


@pytest.mark.parametrize("room", BELOW)
def test_rooms_import_only_downwards(room: str) -> None:
    arrows = [
        f"{name} -> {target}"
        for name, targets in structure.within(CHECKOUT.graph, "sweeps").items()
        for target in sorted(targets)
        if room_of(name) == room and room_of(target) not in BELOW[room] | {room}
    ]
    assert arrows == []


def test_the_plan_of_the_rooms_knows_every_room() -> None:
    assert {room for room in ROOMS.values() if room.startswith("sweeps")} | {FACE} == set(BELOW)


@pytest.mark.parametrize(("for_types", "expected"), [(False, [("b", "")]), (True, [("a", ""), ("b", "")])])
def test_imports_for_types_are_counted_when_asked_for(for_types: bool, expected: list[tuple[str, str]]) -> None:
    source = ast.parse("if TYPE_CHECKING:\n    import a\nelse:\n    import b\n")
    assert list(structure.imports(source, for_types)) == expected


def test_no_modules_import_each_other() -> None:
    """Not for types alone either."""
    graph = {name: frozenset(CHECKOUT.imports(name, for_types=True)) for name in CHECKOUT.paths}
    ways = [structure.shortest_circle(graph, group) for group in structure.circles(graph)]
    assert [" -> ".join(way) for way in ways] == []


@pytest.mark.parametrize("room", sorted({room for room in ROOMS.values() if room.startswith(("pipeline", "sweeps"))}))
def test_a_room_holds_no_more_than_a_reader_can_hold(room: str) -> None:
    files = structure.files_of(CHECKOUT, room)
    assert files <= MAX_FILES.get(room, MAX_FILES_OF_A_ROOM)


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library: str) -> None:
    assert [name for name in NAMES if library in libraries(name) and not name.startswith(DOORS[library])] == []


@pytest.mark.parametrize("name", [name for name in NAMES if "/pyfunc_" in name])
def test_what_travels_with_a_model_imports_no_sweeps(name: str) -> None:
    assert "sweeps" not in libraries(name)


@pytest.mark.parametrize("name", NAMES)
def test_no_private_part_of_another_file_or_library_is_used(name: str) -> None:
    assert [part for part in private_parts(name) if (name, part) not in PRIVATE_PARTS] == []


@pytest.mark.parametrize(("used", "test"), PRIVATE_PARTS.items())
def test_a_private_part_that_is_used_is_held_by_a_test(used: tuple[str, str], test: str) -> None:
    name, part = used
    path, _, function = test.partition("::")
    assert part in set(private_parts(name))
    assert f"def {function}(" in (ROOT / path).read_text()


def private_parts(name: str) -> Iterator[str]:
    """Underscored modules, names and attributes that a file takes from others, and the undocumented ones.

    An attribute belongs to the file that defines it: as a method, a field, or by an assignment to it. What `self` has
    may come from a base class.
    """
    defined = set(definitions(name))
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [node.module] if is_private(node.module) else filter(is_private, names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            whole = ast.unparse(node)
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not of_self and not {whole, node.attr} & (defined | PROMISED):
                yield whole


def is_private(path: str) -> bool:
    parts = path.split(".")
    underscored = any(part.startswith("_") and not part.startswith("__") for part in parts)
    return underscored or any(path == one or path.startswith(f"{one}.") for one in UNDOCUMENTED)


def definitions(name: str) -> Iterator[str]:
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def test_nothing_prints_but_the_command_line() -> None:
    calls = [
        f"{name}:{node.lineno}"
        for name in NAMES
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if Path(name).name != "cli.py"
    ]
    assert calls == []


def test_nothing_catches_everything() -> None:
    handlers = [
        f"{name}:{node.lineno}"
        for name in NAMES
        if name != TOLERANT
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ExceptHandler)
        if node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
    ]
    assert handlers == []


def test_no_function_is_longer_than_80_lines() -> None:
    long = [
        f"{name}:{function.name}"
        for name in NAMES
        for function in functions(name)
        if function.end_lineno is not None and function.end_lineno - function.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_no_file_is_longer_than_400_lines() -> None:
    assert [name for name in NAMES if len((ROOT / name).read_text().splitlines()) > MAX_FILE_LINES] == []


@pytest.mark.parametrize("module", ["pipeline.recipe", "pipeline.recipes", "pipeline.cli", "sweeps.space.space"])
def test_reading_recipes_and_spaces_does_not_wait_for_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_importing_the_science_imports_none_of_the_memory() -> None:
    code = (
        "import sys, pipeline.training.loop; sys.exit(bool({'mlflow', 'ray', 'optuna', 'fastapi'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
