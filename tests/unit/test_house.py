"""The house rules: who imports whom, one door per library, and sizes a reader can hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipeline", "sweeps", "dashboards")
FILES = [*sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")), ROOT / "mouselift.py"]
NAMES = [str(path.relative_to(ROOT)) for path in FILES]

MAY_IMPORT = {
    "pipeline": {"pipeline"},
    "sweeps": {"pipeline", "sweeps"},
    "dashboards": {"pipeline", "sweeps", "dashboards"},
}
# Library -> the files that may import it; a name ending in / is a folder.
DOORS = {
    "gsplat": ("pipeline/rendering.py",),
    "diffusers": ("pipeline/mvdiffusion/",),
    "transformers": ("pipeline/mvdiffusion/",),
    "peft": ("pipeline/mvdiffusion/",),
    "lpips": ("pipeline/vgg.py",),
    "torchmetrics": ("pipeline/metrics.py",),
    "numba": ("pipeline/rasterize_cpu.py",),
    "embreex": ("pipeline/data/mice/render.py",),
    "safetensors": ("pipeline/checkpoint.py", "pipeline/vgg.py", "pipeline/mvdiffusion/"),
    # distributed.py starts a trial's further processes, which run in Ray's workers like the trial itself.
    "ray": (
        "sweeps/run/ray_session.py",
        "sweeps/run/tune.py",
        "sweeps/run/trial.py",
        "sweeps/book/study.py",
        "sweeps/run/scheduler.py",
        "sweeps/run/processes.py",
    ),
    "pyarrow": ("sweeps/run/checkpoints.py",),
    "optuna": (
        "sweeps/space/distributions.py",
        "sweeps/book/study.py",
        "sweeps/book/storage.py",
        "sweeps/book/queries.py",
    ),
    # The registry is three rooms: what a version is, its logged model's files, its aliases.
    "mlflow": (
        "sweeps/book/mlflow_writer.py",
        "sweeps/run/leases.py",
        "sweeps/preflight/stores.py",
        "sweeps/registry/registry.py",
        "sweeps/registry/release.py",
        "sweeps/registry/aliases.py",
        "sweeps/book/queries.py",
        "sweeps/registry/pyfunc",
    ),
    "fastapi": ("dashboards/",),
    "plotly": ("dashboards/",),
}
MAX_FUNCTION_LINES, MAX_FILE_LINES = 80, 400


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text())


def imported(name: str) -> Iterator[str]:
    """Every module a file imports, at its top or inside a function."""
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


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library: str) -> None:
    assert [name for name in NAMES if library in libraries(name) and not name.startswith(DOORS[library])] == []


@pytest.mark.parametrize("name", ["sweeps/registry/pyfunc_gslrm.py", "sweeps/registry/pyfunc_views.py"])
def test_what_travels_with_a_model_imports_no_sweeps(name: str) -> None:
    assert "sweeps" not in libraries(name)


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


@pytest.mark.parametrize("module", ["pipeline.recipe", "pipeline.cli", "sweeps.space.space"])
def test_reading_recipes_and_spaces_does_not_wait_for_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_importing_the_science_imports_none_of_the_memory() -> None:
    code = "import sys, pipeline.train; sys.exit(bool({'mlflow', 'ray', 'optuna', 'fastapi'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
