"""Damaged files of every format that the product reads, each in a process with a limit of memory and of time.

`python -m tests.support.fuzz` prints the table of docs/wild.md, `python -m tests.support.fuzz FORMAT` one row as JSON.
A damaged file is right when it is read as the whole one, or refused in one line that names it, and when nothing beside
it is written. Where a format has no checksums, a change may make another good file of it: that is accepted, too.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline import checkpoint, config
from pipeline.data.calibration.calibration import Wanted, read_calibration
from pipeline.data.incoming.picture import read_picture
from pipeline.data.mice.mice import write_mice
from pipeline.data.recording.video import open_video, write_video
from pipeline.data.scenes import CAMERAS_FILE, MANIFEST_FILE, open_dataset, read_scene
from pipeline.errors import PipelineError
from pipeline.gaussians import Gaussians
from pipeline.gslrm.model import GSLRM
from pipeline.recipes import FOLDER, load_recipe
from sweeps.book.journal import Journal, Reported, State, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.ledger import read as read_ledger
from sweeps.errors import SweepError
from sweeps.space.space import FOLDER as SPACES
from sweeps.space.space import load_space
from tests.support.calibrations import HEIGHT, WIDTH, WRITERS, filmed
from tests.support.mutations import mutations

SECONDS, BYTES = 10, 2 * 2**30  # that one damaged file may take, beside what is there before it
ONE_FILE = (
    "list, pickle",
    "list, JSON",
    "list, NPZ",
    "OpenCV YAML",
    "OpenCV JSON",
    "anipose",
    "DANNCE, Label3D",
    "nerfstudio",
)
SIZES = ["model.dim=32", "model.head_dim=16", "model.num_layers=1", "data.image_size=32"]

Make = Callable[[Path], Path]
Read = Callable[[Path], Any]


@dataclass
class Row:
    """What became of the damaged files of one format."""

    format: str
    inputs: int = 0
    equal: int = 0  # read as the whole file
    accepted: int = 0  # read as another good file
    refused: int = 0
    faults: tuple[str, ...] = ()
    slowest_seconds: float = 0.0
    peak_mib: int = 0  # of the process, over what it held before


@dataclass(frozen=True)
class Format:
    """make: writes a whole file, and what belongs to it, into a folder. read: as the product does, to plain values.

    checked: the file carries checksums, so that it is never read as another one.
    """

    make: Make
    read: Read
    checked: bool = False


# ---------------------------------------------------------------- formats


def _animal() -> np.ndarray:
    rows, columns = np.mgrid[:48, :48]
    inside = (rows - 24) ** 2 + (columns - 20) ** 2 < 200
    return np.dstack([rows * 5, columns * 5, rows + columns, inside * 255]).astype(np.uint8)


def _picture(name: str, mode: str) -> Make:
    def make(folder: Path) -> Path:
        Image.fromarray(_animal()).convert(mode).save(folder / name)
        return folder / name

    return make


def _pixels(path: Path) -> Any:
    return np.asarray(read_picture(path)).tolist()


def _film(folder: Path) -> Path:
    write_video((np.roll(_animal()[..., :3], step, axis=1) for step in range(12)), folder / "0.mp4")
    return folder / "0.mp4"


def _frames(path: Path) -> Any:
    video = open_video(path)
    frames = list(video.read(range(video.num_frames), "rgba"))
    assert [frame.shape for frame in frames] == [(video.height, video.width, 4)] * video.num_frames
    return [frame.tolist() for frame in frames]


def _ply(folder: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    lengths = {"means": 3, "quats": 4, "scales": 3}
    numbers = {name: torch.rand(40, length, generator=draw) + 0.1 for name, length in lengths.items()}
    Gaussians(**numbers, opacities=torch.rand(40, generator=draw), sh=torch.rand(40, 4, 3)).save_ply(folder / "g.ply")
    return folder / "g.ply"


def _gaussians(path: Path) -> Any:
    found = Gaussians.load_ply(path)
    assert all(bool(getattr(found, name).isfinite().all()) for name in ("means", "quats", "scales", "sh"))
    return [getattr(found, name).tolist() for name in ("means", "quats", "scales", "opacities", "sh")]


def _safetensors(folder: Path) -> Path:
    save_file(
        {"a": torch.arange(64.0).reshape(8, 8), "b": torch.ones(3, dtype=torch.float16)}, folder / "w.safetensors"
    )
    return folder / "w.safetensors"


def _torch(folder: Path) -> Path:
    torch.save({"model": {"a": torch.arange(64.0).reshape(8, 8), "b": torch.ones(3)}}, folder / "w.pt")
    return folder / "w.pt"


def _tensors(path: Path) -> Any:
    return {name: tensor.tolist() for name, tensor in checkpoint.read_tensors(path).items()}


def _in_checkpoint(file: str) -> Make:
    def make(folder: Path) -> Path:
        recipe = load_recipe("gslrm_tiny", SIZES)
        return checkpoint.save(folder / "checkpoint", GSLRM(recipe.model), recipe, step=7) / file

    return make


def _inspected(path: Path) -> Any:
    info = checkpoint.inspect(path.parent)
    return [config.as_plain(info.recipe), info.step, info.sha256]


def _copy(source: Path) -> Make:
    return lambda folder: Path(shutil.copy(source, folder / "mine.yaml"))


def _in_dataset(file: str) -> Make:
    return lambda folder: write_mice(folder / "mice", scenes=3, size=32, rig="mouse_centred") / file


def _scene(path: Path) -> Any:
    cameras = read_scene(path.parent).cameras
    cameras.check(str(path.parent))
    return [cameras.c2w.tolist(), cameras.fxfycxcy.tolist(), cameras.width, cameras.height]


def _journal(folder: Path) -> Path:
    objective = {"metric": "val/psnr", "mode": "max"}
    with Journal(folder / "s", clock=lambda: 5.0) as journal:
        journal.append(SweepOpened("s", "gslrm_tiny", {"space": {"optim.lr": {}}, "objective": objective}, {}, {}))
        for number in range(4):
            journal.append(TrialOpened(number, f"r{number}", 1, {"optim.lr": 1e-4}, {"optim.lr": 1e-4}, "abc"))
            journal.append(Reported(number, 4, {"val/psnr": 12.5 + number}))
            journal.append(TrialClosed(number, State.COMPLETE))
        journal.append(SweepClosed(State.COMPLETE))
    return journal.path


def _ledger(path: Path) -> Any:
    return [(trial.number, trial.state, trial.params) for trial in read_ledger(Journal(path.parent)).trials.values()]


def _calibrations() -> Iterator[tuple[str, Format]]:
    """Those of one file: where there are several, their own tests damage one beside whole others."""

    def cameras(path: Path) -> Any:
        found = read_calibration(path, WIDTH, HEIGHT, Wanted(mm=1.0)).cameras
        assert bool(torch.isfinite(found.c2w).all())
        return [found.c2w.tolist(), found.fxfycxcy.tolist()]

    for name in ONE_FILE:
        yield f"calibration: {name}", Format(lambda folder, name=name: WRITERS[name](folder, filmed()), cameras)


def formats() -> dict[str, Format]:
    """Every format by the name that stands in the table."""
    return {
        "PNG": Format(_picture("a.png", "RGBA"), _pixels, checked=True),
        "JPEG": Format(_picture("a.jpg", "RGB"), _pixels),
        "MP4": Format(_film, _frames),
        "PLY": Format(_ply, _gaussians),
        "safetensors": Format(_safetensors, _tensors),
        "torch file": Format(_torch, _tensors),
        "weights of a checkpoint": Format(_in_checkpoint(checkpoint.WEIGHTS), _inspected, checked=True),
        "index of a checkpoint": Format(_in_checkpoint(checkpoint.INDEX), _inspected),
        "recipe": Format(_copy(FOLDER / "gslrm.yaml"), lambda path: config.as_plain(load_recipe(path))),
        "space": Format(_copy(SPACES / "gslrm_losses.yaml"), lambda path: load_space(path).as_plain()),
        "manifest": Format(_in_dataset(MANIFEST_FILE), lambda path: open_dataset(path.parent).content_digest),
        "cameras of a scene": Format(_in_dataset(f"scene_000001/{CAMERAS_FILE}"), _scene),
        "journal": Format(_journal, _ledger),
        **dict(_calibrations()),
    }


# ---------------------------------------------------------------- one format, in this process


class _TooLongError(BaseException):
    """Passes every `except Exception`."""


@contextmanager
def _limited() -> Iterator[None]:
    """No more than so many bytes beyond what the process has, and so many seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, limits[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def run(name: str, count: int, seed: int = 0) -> Row:
    """Read so many damaged files of a format and say what came of them."""
    form, row = formats()[name], Row(name)
    with tempfile.TemporaryDirectory() as folder:
        path = form.make(Path(folder))
        whole = form.read(path)
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        there = set(Path(folder).rglob("*"))
        for content in mutations(path.read_bytes(), seed, count):
            path.write_bytes(content)
            began = time.perf_counter()
            fault = _outcome(form, path, whole, row)
            row.inputs += 1
            row.slowest_seconds = round(max(row.slowest_seconds, time.perf_counter() - began), 2)
            if fault is None and set(Path(folder).rglob("*")) != there:
                fault = "something was written"
            if fault is not None:
                row.faults += (f"input {row.inputs}: {fault}",)
        row.peak_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) // 1024
    return row


def _outcome(form: Format, path: Path, whole: Any, row: Row) -> str | None:
    """Counts what came of one file in `row`; what is wrong about it, or None."""
    try:
        with _limited():
            found = form.read(path)
    except (PipelineError, SweepError) as error:
        row.refused += 1
        said = str(error)
        # The folder is named where what is wrong is not in one file of it; a sweep's journal, by the sweep.
        named = str(path.parent.parent) in said or "the journal is damaged" in said
        return None if named and "\n" not in said else f"refused without its name: {said}"
    except _TooLongError:
        return f"took more than {SECONDS} s"
    except Exception as error:  # noqa: BLE001  the finding
        return f"{type(error).__name__}: {error}"
    if found == whole:
        row.equal += 1
    elif form.checked:
        return "read as another file"
    else:
        row.accepted += 1
    return None


def run_apart(name: str, count: int) -> Row:
    """As `run`, in a process of its own; one that dies is a fault."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.fuzz", name, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return Row(name, count, faults=(f"the process ended with {done.returncode}: {done.stderr[-300:]}",))
    values = json.loads(done.stdout.splitlines()[-1])
    return Row(**(values | {"faults": tuple(values["faults"])}))


def table(rows: list[Row]) -> str:
    """The rows in Markdown, with their sum."""
    lines = ["| format | inputs | read as the whole | another good file | refused | faults | slowest, s | MiB |"]
    lines.append("| --- " * 8 + "|")
    for row in rows:
        cells = [row.inputs, row.equal, row.accepted, row.refused, len(row.faults), row.slowest_seconds, row.peak_mib]
        lines.append(f"| {row.format} | {' | '.join(map(str, cells))} |")
    sums = [sum(getattr(row, name) for row in rows) for name in ("inputs", "equal", "accepted", "refused")]
    faults, slowest = sum(len(row.faults) for row in rows), max(row.slowest_seconds for row in rows)
    return "\n".join([*lines, f"| all | {' | '.join(map(str, sums))} | {faults} | {slowest} | |"])


COUNTS = dict.fromkeys(("PNG", "JPEG", "MP4", "PLY", "recipe", "journal"), 200)
COUNT = 80  # of every other format

if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(asdict(run(sys.argv[1], int(sys.argv[2])))))  # noqa: T201
    else:
        found = [run_apart(name, COUNTS.get(name, COUNT)) for name in formats()]
        print(table(found))  # noqa: T201
        for row in found:
            for fault in row.faults:
                print(f"{row.format}: {fault}", file=sys.stderr)  # noqa: T201
