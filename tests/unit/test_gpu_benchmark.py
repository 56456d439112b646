"""`benchmarks.gpu` on a CPU: every part runs at toy sizes, and whatever befalls a process is told."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch

from benchmarks.gpu import pack, parts, processes
from benchmarks.gpu.networks import flops
from benchmarks.gpu.parts import Part
from benchmarks.gpu.processes import ROOT, Result, Running, results, start, write_rows
from benchmarks.gpu.report import Report
from benchmarks.gpu.rows import Row
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import part_of
from benchmarks.gpu.waits import WARNING, Waits
from pipeline.recipes import load_recipe

HERE = [part for part in parts.ALL if part.name != "sweep"]  # which tests/gpu and tests/e2e have in another form


@pytest.mark.parametrize("part", HERE, ids=lambda part: part.name)
def test_a_part_runs_at_toy_sizes(part: Part, mice_folder, tmp_path) -> None:
    write_rows(part, Settings("cpu", True, mice_folder), tmp_path / "rows.jsonl")
    rows = [Row(**json.loads(line)) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows and all(row.note or math.isfinite(row.median or math.nan) or row.median == 0 for row in rows)
    assert all(row.reference is None and row.holds is None for row in rows), "of the released sizes"


@pytest.mark.parametrize(("milliseconds", "rate"), [(797, 280), (648, 344), (623, 358)])
def test_flops_of_the_released_network_give_the_rates_that_were_measured(milliseconds, rate) -> None:
    count = sum(flops(load_recipe("gslrm", ["loss.perceptual=0.0"]).model, 512, 1))  # type: ignore[arg-type]
    assert count / (milliseconds / 1e3) / 1e12 == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize(
    ("kernel", "part"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_7_64x128x64_4x1x1_kernel0_0", "attention"),
        ("nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_cutlass", "matrix products"),
        ("void gsplat::rasterize_to_pixels_3dgs_bwd_kernel<4u, float>(unsigned int)", "rasterizer"),
        ("void cub::DeviceRadixSortOnesweepKernel<cub::DeviceRadixSortPolicy<long, int>>", "rasterizer"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float>", "norms"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "other"),
    ],
)
def test_a_kernel_is_told_by_its_name(kernel, part) -> None:
    assert part_of(kernel) == part


def test_a_wait_in_a_step_is_told_by_the_line_of_ours_that_asks() -> None:
    def asks(file: str, name: str, inner: str) -> None:
        names = {"inner": lambda: warnings.warn(WARNING, stacklevel=1)}
        exec(compile(f"def {name}(): {inner}()\n", str(ROOT / file), "exec"), names)
        exec(compile("def step(): called()\n", str(ROOT / "pipeline/training/trainer.py"), "exec"), steps := {})
        steps["called"] = names[name]
        steps["step"]()

    with Waits(torch.device("cpu")) as waits:
        warnings.warn(WARNING, stacklevel=1)  # between two steps
        asks("pipeline/training/update.py", "make", "inner")
        asks("pipeline/splatting/chunks.py", "count", "inner")
        warnings.warn("another", stacklevel=1)
    assert (dict(waits.places), waits.drawn) == ({"pipeline/training/update.py:1": 1}, 1)


# ---------------------------------------------------------------- processes


def running(code: str, folder, seconds: float = 60.0) -> Running:
    return start(["-c", code], folder / "log", seconds, {})


def test_a_process_that_is_killed_says_so(tmp_path) -> None:
    ended = running(f"import os; os.kill(os.getpid(), {signal.SIGKILL})", tmp_path).end()
    assert ended == "was killed by signal SIGKILL"


def test_the_error_of_a_process_is_told_and_not_the_advice_after_it(tmp_path) -> None:
    code = "raise RuntimeError('CUDA error: an illegal address\\nCompile with TORCH_USE_CUDA_DSA.')"
    assert running(code, tmp_path).end() == "exit code 1: RuntimeError: CUDA error: an illegal address"


@pytest.mark.parametrize("apart", [False, True], ids=["in its session", "in a session of its own"])
def test_a_process_that_takes_too_long_is_ended_with_what_it_started(tmp_path, apart) -> None:
    child = "import time; time.sleep(0.8); open('{}', 'w')".format(tmp_path / "alive")
    code = f"""import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {child!r}], start_new_session={apart})
time.sleep(60)"""
    assert running(code, tmp_path, 0.4).end() == "took too long and was ended"
    time.sleep(0.8)
    assert not (tmp_path / "alive").exists()


def test_rows_that_were_written_before_the_end_are_kept(tmp_path) -> None:
    class Dying(Part):
        def rows(self, settings):
            yield Row("first", 1.0, "s")
            raise RuntimeError("the context is lost")

    with pytest.raises(RuntimeError):
        write_rows(Dying("dying", "", 1.0, ""), Settings("cpu", True), tmp_path / "rows.jsonl")
    assert [json.loads(line)["what"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == ["first"]


def test_a_figure_that_is_no_number_is_json_and_said(tmp_path) -> None:
    class Odd(Part):
        def rows(self, settings):
            yield Row("odd", math.nan, "ms", 3, math.inf, note="seen")

    write_rows(Odd("odd", "", 1.0, ""), Settings("cpu", True), tmp_path / "rows.jsonl")
    found = json.loads((tmp_path / "rows.jsonl").read_text())
    assert (found["median"], found["spread"], found["n"]) == (None, None, 3)
    assert found["note"] == "seen; median is nan; spread is inf"


def test_what_starts_the_parts_needs_python_alone() -> None:
    """So that a package that is missing costs the parts that import it, and not the report."""
    code = "import sys; import benchmarks.gpu.__main__; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    before = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True)
    imported = {name.partition(".")[0] for name in {*said.split()} - {*before.stdout.split()}}
    assert imported - sys.stdlib_module_names == {"benchmarks", "pipeline"}


def test_a_test_that_wants_a_missing_package_was_left_out_and_did_not_fail() -> None:
    said = """
tests/gpu/test_a.py::test_one FAILED                                     [ 50%]
tests/gpu/test_a.py::test_two FAILED                                     [100%]
FAILED tests/gpu/test_a.py::test_one - ModuleNotFoundError: No module named 'optuna'
FAILED tests/gpu/test_a.py::test_two - AssertionError: ModuleNotFoundError: No module named 'optuna'
"""
    one, two = results(said.splitlines())
    assert (one.outcome, one.bad, one.reason) == (
        "left out",
        False,
        "ModuleNotFoundError: No module named 'optuna'",
    )
    assert two.bad


def test_a_file_whose_tests_were_left_out_has_no_error_of_its_own(tmp_path) -> None:
    lines = [
        "tests/gpu/test_a.py::test_one FAILED",
        "FAILED tests/gpu/test_a.py::test_one - ModuleNotFoundError: No module named 'x'",
    ]
    ended = processes.TestRun(
        "tests/gpu/test_a.py", running(f"import sys; print(*{lines}, sep='\\n'); sys.exit(1)", tmp_path)
    ).finish()
    assert [one.outcome for one in ended] == ["left out"]


def test_tests_are_read_from_pytests_own_words() -> None:
    said = """
tests/gpu/test_a.py::test_one PASSED                                     [ 25%]
tests/gpu/test_a.py::test_two[a b] FAILED                                [ 50%]
tests/gpu/test_a.py::test_three SKIPPED (needs CUDA)                     [ 75%]
tests/gpu/test_a.py::test_four ERROR                                     [100%]
FAILED tests/gpu/test_a.py::test_two[a b] - assert 1 == 2
ERROR tests/gpu/test_a.py::test_four - OSError: no space
"""
    name = "tests/gpu/test_a.py::test_"
    assert results(said.splitlines()) == [
        Result(f"{name}one", "passed"),
        Result(f"{name}two[a b]", "failed", "assert 1 == 2"),
        Result(f"{name}three", "skipped"),
        Result(f"{name}four", "error", "OSError: no space"),
    ]


# ---------------------------------------------------------------- the report, and the folder


def test_the_report_says_what_failed_and_what_does_not_hold() -> None:
    found = Report("--device cuda", "abc")
    found.tests = [Result("tests/gpu/test_a.py::test_one", "passed"), Result("tests/gpu/test_a.py", "error", "killed")]
    found.tables["nothing"] = [Row("batch 2", 1.0, "s", peak_gib=25.0, at_most_gib=24.0), Row("nothing", note="lost")]
    page = found.markdown(parts.ALL)
    assert [result.test for result in found.failed] == ["tests/gpu/test_a.py"]
    assert "| tests/gpu/test_a.py | error | killed |" in page
    assert "| batch 2 | 1 | s | 25 | 24 | NO |  |" in page
    assert found.json()["tables"]["nothing"][0]["holds"] is False


def test_packages_that_the_machine_has_are_left_out_whatever_way_they_are_written(tmp_path) -> None:
    (tmp_path / "has.txt").write_text("# pip freeze\nNumPy==2.5.2\nscikit_image\ntorch @ file:///x\n\n-e .\n")
    assert pack.names_in(tmp_path / "has.txt") == {"numpy", "scikit-image", "torch"}


def test_pytorch_and_what_comes_with_it_are_never_packed() -> None:
    packed = {one.split("==")[0] for one in pack.needed(frozenset({"numpy"}))}
    assert {"gsplat", "ray", "mlflow", "nvidia-ml-py", "tensorboardx", "pytest"} <= packed
    assert not {one for one in packed if one.startswith(("torch-", "cuda-"))} | packed & {"torch", "triton", "numpy"}


def test_ninja_which_builds_gsplat_is_packed_and_found(tmp_path) -> None:
    for name in ("bin/ninja", "ray/rllib/x.py", "ray/tests/x.py", "numpy/tests/x.py", "ray/core/x.py"):
        (tmp_path / "packages" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "packages" / name).write_text("#!/bin/sh\n")
    (tmp_path / "packages/bin/ninja").chmod(0o755)
    pruned = {path.relative_to(tmp_path / "packages").as_posix() for path in pack._pruned(tmp_path / "packages")}
    assert pruned == {"ray/rllib", "ray/tests"}
    (tmp_path / "checkout").mkdir()
    (tmp_path / "run.sh").write_text(pack.RUN)
    (tmp_path / "python").write_text(
        f"#!/bin/sh\n[ $2 = benchmarks.gpu ] && command -v ninja > {tmp_path}/found; exit 0"
    )
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(tmp_path / "python")}
    subprocess.run(["sh", tmp_path / "run.sh"], env=environment, check=True)
    assert (tmp_path / "found").read_text().strip().endswith("ninja")
