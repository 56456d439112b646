"""`python -m benchmarks.data`: from a recording to batches, each step against the decoding that it cannot avoid."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.data.loader import Loader
from pipeline.data.normalise.normalise import method_of, normalise
from pipeline.data.pictures import prepare_view
from pipeline.data.recording.frame_plan import FramePlan
from pipeline.data.recording.recording import convert, open_recording
from pipeline.data.scenes import Dataset, open_dataset
from pipeline.recipes import load_recipe
from tests.support.mice_recording import write_recording

FRAMES, REPEATS = 32, 3
SIZES = (64, 256, 512)


def rows() -> list[dict[str, object]]:
    """Medians over repeats: rates of a whole recording at 1152×1024, and of the loader on 512 px scenes."""
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
        return table + [row for size in SIZES for row in _loader(open_dataset(folder / "normalised"), folder, size)]


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


def _loader(dataset: Dataset, folder: Path, size: int) -> list[dict[str, object]]:
    """Scenes a second of batches: frames from the cache, and PNGs decoded each time as FaceLift's loader does."""
    recipe = load_recipe("gslrm_tiny", [f"data.image_size={size}"])
    loader = Loader(dataset, "train", recipe.data, folder / "cache")
    scenes = loader.scenes
    loader.training_batch(0, 1)
    cached = _rate(lambda: [loader.training_batch(step, 1) for step in range(40)], 40)

    def decode() -> None:
        for step in range(10):
            views = [prepare_view(Image.open(path), size) for path in scenes[step % len(scenes)].paths]
            rgba = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255
            _ = rgba[:, :3] + (1 - rgba[:, 3:])

    uncached = _rate(decode, 10)
    return [
        {"what": f"loader at {size} px, from the cache", "median": cached, "unit": "scenes/s"},
        {"what": f"loader at {size} px, decoding PNGs", "median": uncached, "unit": "scenes/s"},
        {"what": f"loader at {size} px, cache over PNGs", "median": cached / uncached, "unit": "ratio"},
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
    print(json.dumps(measure(step, *map(Path, folders)) if step else rows(), indent=1))
