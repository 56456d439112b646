"""`python -m benchmarks.data`: from a recording to batches, each step against the decoding that it cannot avoid.

`python -m benchmarks.data loader`: the batches alone.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.data.loader import Loader
from pipeline.data.mice.mice import write_mice
from pipeline.data.mice.recording import write_recording
from pipeline.data.normalise.normalise import method_of, normalise
from pipeline.data.pictures import prepare_view
from pipeline.data.recording.frame_plan import FramePlan
from pipeline.data.recording.recording import convert, open_recording
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.recipes import load_recipe
from pipeline.training.prefetch import Prefetch

FRAMES, REPEATS = 32, 3
ROUNDS, TURNS = 7, 5  # of the loader
SIZES = (64, 256, 512)


def rows() -> list[dict[str, object]]:
    """Medians over repeats: rates of a whole recording at 1152×1024, and of batches of its 512 px scenes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_recording(folder / "recording", frames=FRAMES)
        decoding = _rate(lambda: _decode(folder / "recording"), FRAMES)
        converting, judged, peak = _step("convert", folder / "recording", folder / "scenes")
        normalising, judged_normalise, peak_normalise = _step("normalise", folder / "scenes", folder / "normalised")
        table: list[dict[str, object]] = [
            {"what": "decoding the 12 videos alone", "median": decoding, "unit": "frames/s"},
            {"what": "convert", "median": converting, "unit": "frames/s", "of decoding": converting / decoding},
            {"what": "convert, the check at its end", "median": judged, "unit": "scenes/s"},
            {"what": "convert, peak memory", "median": peak, "unit": "MiB"},
            {
                "what": "normalise to 512 px",
                "median": normalising,
                "unit": "scenes/s",
                "of decoding": normalising / decoding,
            },
            {"what": "normalise, the check at its end", "median": judged_normalise, "unit": "scenes/s"},
            {"what": "normalise, peak memory", "median": peak_normalise, "unit": "MiB"},
        ]
        return table + _batches(open_dataset(folder / "normalised"), folder)


def _decode(folder: Path) -> None:
    """Every frame of every video to an array, as many videos at a time as there are cores."""
    recording = open_recording(folder)
    jobs = [(video, "rgba") for video in recording.videos] + [(mask, "gray") for mask in recording.masks]

    def drain(job: tuple[object, str]) -> None:
        video, pixels = job
        for _ in video.read(range(FRAMES), pixels):  # type: ignore[attr-defined]
            pass

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(drain, jobs))


def _step(step: str, source: Path, out: Path) -> tuple[float, float, float]:
    """Scenes a second of a step and of its check, and peak MiB, in processes of their own, imports taken off."""
    said = []
    for _ in range(REPEATS):
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "benchmarks.data", step, str(source), str(out)]
        said.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    seconds, check, peak = (statistics.median(run[key] for run in said) for key in ("seconds", "check", "peak"))
    return FRAMES / seconds, FRAMES / check, peak


def measure(step: str, source: Path, out: Path) -> dict[str, float]:
    """Seconds of one step and of the check that ends it in this process, and its peak memory in MiB."""
    started = time.perf_counter()
    if step == "convert":
        work = convert(open_recording(source), out, FramePlan(guard=0.01))
    else:
        work = normalise(open_dataset(source), out, method_of("object_centred"))
    written = started
    for _ in work:
        written = time.perf_counter()
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent held when it forked
    peak = float(status.split("VmHWM:")[1].split()[0]) / 1024
    return {"seconds": written - started, "check": time.perf_counter() - written, "peak": peak}


def loader() -> list[dict[str, object]]:
    """The rows of batches alone, on procedural mice of 512 px."""
    with tempfile.TemporaryDirectory() as name:
        mice = write_mice(Path(name) / "mice", scenes=12, size=SIZES[-1], rig="mouse_centred")
        return _batches(open_dataset(mice), Path(name))


def _batches(dataset: Dataset, folder: Path) -> list[dict[str, object]]:
    torch.set_num_threads(1)  # as in a worker of torch's DataLoader
    return [*(row for size in SIZES for row in _loader(dataset, folder, size)), *_overlap()]


def _loader(dataset: Dataset, folder: Path, size: int) -> list[dict[str, object]]:
    """Scenes per second of CPU time: bytes from the cache, composited on the CPU too, and PNGs decoded each time as
    FaceLift's loader does; measured in turn.
    """
    recipe = load_recipe("gslrm_tiny", [f"data.image_size={size}"])
    loader = Loader(dataset, "train", recipe.data, folder / "cache")
    scenes = loader.scenes

    def decoded(step: int) -> None:
        views = [prepare_view(Image.open(path), size) for path in scenes[step % len(scenes)].paths]
        rgba = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255
        _ = rgba[:, :3] + (1 - rgba[:, 3:])

    sent, composited, uncached = _cpu_rates(
        lambda step: loader.training_batch(step, 1), lambda step: loader.training_batch(step, 1).to("cpu"), decoded
    )
    what, unit = f"loader at {size} px", "scenes per CPU second"
    return [
        {"what": f"{what}, bytes from the cache", "median": sent, "unit": unit},
        {"what": f"{what}, bytes from the cache, composited on the CPU", "median": composited, "unit": unit},
        {"what": f"{what}, decoding PNGs", "median": uncached, "unit": unit},
        {"what": f"{what}, bytes over PNGs", "median": sent / uncached, "unit": "ratio"},
        {"what": f"{what}, composited over PNGs", "median": composited / uncached, "unit": "ratio"},
    ]


def _cpu_rates(*works: Callable[[int], object]) -> list[float]:
    """How often each can be done in a second of CPU time: medians of rounds in which each has its turn."""
    rounds = []
    for number in range(ROUNDS + 1):
        times = []
        for work in works:
            started = time.process_time()
            for step in range(TURNS):
                work(number * TURNS + step)
            times.append((time.process_time() - started) / TURNS)
        rounds.append(times)
    return [1 / statistics.median(times) for times in zip(*rounds[1:], strict=True)]  # the first fills the cache


def _overlap() -> list[dict[str, object]]:
    """Seconds of 100 steps of 40 ms, alone and with batches that take 30 ms to prepare; measured in turn."""

    def steps(batches: Iterable[object]) -> float:
        started = time.perf_counter()
        for _ in batches:
            time.sleep(0.04)
        return time.perf_counter() - started

    def ahead() -> float:
        with Prefetch(lambda _: time.sleep(0.03), range(100)) as batches:
            return steps(batches)

    alone, overlapped = zip(*[(steps(range(100)), ahead()) for _ in range(REPEATS)], strict=True)
    return [
        {"what": "100 steps of 40 ms", "median": statistics.median(alone), "unit": "s"},
        {
            "what": "100 steps of 40 ms, batches of 30 ms made ahead",
            "median": statistics.median(overlapped),
            "unit": "s",
        },
    ]


def _rate(work: Callable[[], object], count: int) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return count / statistics.median(times)


if __name__ == "__main__":
    step, *folders = sys.argv[1:] or [""]
    table = {"": rows, "loader": loader}
    print(json.dumps(table[step]() if step in table else measure(step, *map(Path, folders)), indent=1))
