"""The names that scripts outside this repository rely on: functions and classes, whatever was imported before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMISED = {
    "pipeline": ("load_recipe", "Cameras", "Gaussians", "GSLRM", "render", "Recipe"),
    "sweeps": ("load_space", "run_sweep", "resume_sweep", "sweep_status", "Registry", "promote_best", "Home"),
    "pipeline.losses": ("mse", "ssim", "background", "perceptual", "pointsdist"),
    "pipeline.mvdiffusion": ("MVDiffusionPipeline", "MultiViewUNet"),
}
# Each statement comes first once: the others follow in their order.
BEFORE = {
    "pipeline": (
        "import pipeline.splatting.rendering",
        "import pipeline.gslrm.model",
        "from pipeline import render, GSLRM",
    ),
    "sweeps": (
        "import sweeps.registry.registry",
        "import sweeps.run.tune",
        "import sweeps.launch",
        "from sweeps import load_space, Registry",
        "from pipeline import Gaussians",
    ),
    "pipeline.losses": ("import pipeline.gslrm.stage",),
    "pipeline.mvdiffusion": ("import pipeline.mvdiffusion.stage", "from pipeline.mvdiffusion import MultiViewUNet"),
}
ORDERS = [(door, (*some[i:], *some[:i])) for door, some in BEFORE.items() for i in range(len(some))]

IDS = [f"{door}: {', '.join(order)}" for door, order in ORDERS]
FORKS = """
import json, multiprocessing, sys, traceback
import diffusers, mlflow, optuna, ray, torch

def said(code):
    names = {}
    try:
        exec(code, names)
    except BaseException:
        return traceback.format_exc()
    return names["said"]

if __name__ == "__main__":
    assert not [name for name in sys.modules if name.partition(".")[0] in ("pipeline", "sweeps", "dashboards")]
    orders = json.load(sys.stdin)
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as forks:
        print(json.dumps(forks.map(said, orders, chunksize=1)))
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


@pytest.fixture(scope="module")
def imported() -> dict[str, str]:
    """What each order of imports says, each in a process that has imported others' libraries and nothing of ours."""
    done = subprocess.run([sys.executable, "-c", FORKS], cwd=ROOT, check=True, capture_output=True, text=True,
                          input=json.dumps([_after(*order) for order in ORDERS]))  # fmt: skip
    return dict(zip(IDS, json.loads(done.stdout), strict=True))


def _after(door: str, order: tuple[str, ...]) -> str:
    names = PROMISED[door]
    return "\n".join(
        [*order, f"from {door} import {', '.join(names)}", f"said = str(all(map(callable, ({', '.join(names)}))))"]
    )


@pytest.mark.parametrize("order", IDS, ids=IDS)
def test_the_promised_names_are_there_after_any_imports(order: str, imported: dict[str, str]) -> None:
    assert imported[order] == "True"


@pytest.mark.parametrize("door", ["pipeline", "pipeline.mvdiffusion", "sweeps"])
def test_no_module_has_the_name_of_what_is_promised(door: str) -> None:
    folder = ROOT / door.replace(".", "/")
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert modules & set(PROMISED[door]) == set()


def test_the_face_of_the_memory_promises_what_it_says() -> None:
    assert run("import sweeps; print(*sorted(sweeps.__all__))") == " ".join(sorted(PROMISED["sweeps"]))


@pytest.mark.parametrize(
    "line", ["import sweeps", "from sweeps import load_space, run_sweep, resume_sweep, sweep_status"]
)
def test_the_face_of_the_memory_imports_nothing_heavy(line: str) -> None:
    heavy = {"torch", "mlflow", "ray", "fastapi"} | ({"optuna"} if line == "import sweeps" else set())
    assert run(f"{line}; import sys; print({heavy} & set(sys.modules) or 'none')") == "none"


@pytest.mark.parametrize(
    "line", ["import sweeps", "from sweeps import load_space, run_sweep, resume_sweep, sweep_status"]
)
def test_the_face_of_the_memory_changes_nothing_in_the_process(line: str) -> None:
    state = "(gc.get_threshold(), dict(os.environ))"
    assert run(f"import gc, os; before = {state}; {line}; print(before == {state})") == "True"


@pytest.mark.parametrize(
    "module", ["sweeps.registry.release", "sweeps.tracking.queries", "sweeps.pyfuncs.pyfunc_gslrm"]
)
def test_mlflow_is_quiet_whichever_module_imports_it_first(module: str) -> None:
    level = "logging.getLogger('mlflow').getEffectiveLevel() == logging.ERROR"
    assert run(f"import logging, {module}; print({level})") == "True"


@pytest.mark.parametrize(
    "module", ["sweeps.run.scheduler", "sweeps.run.processes", "sweeps.run.trial", "sweeps.run.tune"]
)
def test_ray_leaves_sigterm_alone_whichever_module_imports_it_first(module: str) -> None:
    constant = "ray._private.ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER"
    assert run(f"import {module}, ray._private.ray_constants; print({constant})") == "True"
