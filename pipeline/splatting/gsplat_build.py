"""gsplat's CUDA kernels: built once for a machine, its cards and its torch, and proven by drawing with them.

gsplat compiles them when it first draws. It says why that fails only later, by an AttributeError of None, and two
processes that compile at a time remove each other's files. So nothing here draws before `require_kernels` has: it looks
for the compiler first, lets one process at a time compile, and tries what came of it. The kernels lie in a folder of
their own below torch's for extensions; its name says for what they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import re
import secrets
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from pipeline.errors import MachineError
from pipeline.files import write_whole
from pipeline.machine.cpus import usable_cpus
from pipeline.machine.devices import CUDA, require_device
from pipeline.machine.toolkit import find_toolkit, require_toolkit

WHAT = "gsplat's CUDA kernels"
BUILDING = f"building {WHAT}, about a minute, once per machine and torch version"
WAITING = f"waiting for another process that builds {WHAT}"
PROVEN, LOCK, LOG = "proven", "lock", "build.log"  # files in the folder of the kernels
_SIZE = 16  # pixels of the picture that proves them
_LONGEST_LINE = 300
_log = logging.getLogger(__name__)


@cache
def require_kernels() -> None:
    """Make sure that gsplat can draw in this process, on its current GPU; builds its kernels where nobody has yet.

    Raises MachineError for what the machine lacks, and for a build that fails.
    """
    require_device(CUDA, WHAT)
    if are_installed():
        _draw_or_tell("install gsplat anew, for this torch and this GPU")
        return
    folder = kernels_folder(os.environ, _cards())
    changed = _environment(cards_of(folder))
    try:
        build_once(folder, lambda place: draw_in(place, changed, folder / LOG), _log.warning)
    except OSError as error:
        mend = "make room, or set TORCH_EXTENSIONS_DIR to a folder that takes files and locks"
        raise _failed(f"{error.strerror} for {error.filename or folder}", mend) from None


def built_folder() -> Path | None:
    """Where the kernels for this machine's cards lie, if they were built and proven; None where they are to be built.

    Takes no GPU into use. Raises MachineError where torch can use none.
    """
    require_device(CUDA, WHAT)
    folder = kernels_folder(os.environ, _cards())
    return folder if (folder / PROVEN).is_file() else None


def are_installed() -> bool:
    """Whether gsplat came with its kernels, as wheels of its own index do: nothing is built then."""
    return find_spec("gsplat.csrc") is not None


def kernels_folder(environment: Mapping[str, str], cards: str) -> Path:
    """Where the kernels for these cards, and this torch, Python and gsplat lie.

    cards: their compute capabilities, as TORCH_CUDA_ARCH_LIST names them; that variable is taken where it is set. A
    process that sees some of a machine's cards, as a trial does, takes what was built for all of them.
    """
    import gsplat

    cache = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = environment.get("TORCH_EXTENSIONS_DIR") or Path(cache) / "torch_extensions"
    wanted = re.split(r"[;,\s]+", environment.get("TORCH_CUDA_ARCH_LIST") or cards)
    python = sysconfig.get_config_var("py_version_nodot")
    begin = f"gsplat-{gsplat.__version__}-torch-{torch.__version__}-py{python}-sm-"
    exact = Path(root) / f"{begin}{'-'.join(wanted)}"
    built = sorted(proof.parent for proof in Path(root).glob(f"{begin}*/{PROVEN}"))
    serving = (folder for folder in built if {*wanted} <= {*folder.name.removeprefix(begin).split("-")})
    return exact if exact in built else next(serving, exact)


def cards_of(folder: Path) -> str:
    """The cards that a folder of kernels is for, as TORCH_CUDA_ARCH_LIST names them."""
    return folder.name.rpartition("-sm-")[2].replace("-", ";")


def build_once(folder: Path, build: Callable[[Path], None], say: Callable[[str], None]) -> bool:
    """Call `build` with a place in the folder while no other process does; remember the place once it came to its end.

    Where one is remembered, `build` gets it again and only has to load what is there. Where none is, it gets an empty
    one with a new name, so that neither a process that was killed half way nor the compilers that it has left behind
    matter. Returns whether it was made now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    proof = folder / PROVEN
    with _alone(folder / LOCK, say):
        made = not proof.is_file()
        if made:
            _empty(folder)
            say(BUILDING)
        place = folder / (f"build-{secrets.token_hex(4)}" if made else proof.read_text("ascii"))
        place.mkdir(exist_ok=True)
        try:
            build(place)
        except MachineError:
            proof.unlink(missing_ok=True)  # what does not work is made anew
            raise
        if made:
            write_whole(proof, place.name)
    return made


def first_error(output: str) -> str:
    """The line of a compiler's output that says what is wrong: the first with an error, else the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    wrong = (line for line in lines if re.search(r"\berror\b\s*:|cannot find -l", line, re.IGNORECASE))
    return next(wrong, lines[-1] if lines else "no word")[:_LONGEST_LINE]


def draw_in(place: Path, changed: Mapping[str, str], log: Path, draw: Callable[[], None] | None = None) -> None:
    """Draw, which has gsplat build or load its kernels in this place, in an environment with changed variables.

    draw: anything that needs the kernels; one Gaussian on the GPU, if None. Raises MachineError with the first error of
    a build that fails, all of whose output goes to the log.
    """
    unseen = contextlib.redirect_stdout(io.StringIO())  # gsplat prints its progress where commands print results
    with _changed({**changed, "TORCH_EXTENSIONS_DIR": str(place)}), unseen:
        from torch.utils import cpp_extension

        cpp_extension.CUDA_HOME = changed["CUDA_HOME"]  # which it looks up once, perhaps before it was changed
        _draw_or_tell(f"{log} has all of it; docs/gpu.md says what a build needs", log, draw)


def _draw_or_tell(mend: str, log: Path | None = None, draw: Callable[[], None] | None = None) -> None:
    """Draw, and turn what goes wrong in gsplat into a line."""
    try:
        (draw or _draw)()
    except torch.OutOfMemoryError:  # a matter of the moment
        raise
    except (RuntimeError, ImportError, ValueError, AttributeError) as error:
        if log is not None:
            write_whole(log, str(error))
        raise _failed(first_error(str(error)), mend) from error


def _draw() -> None:
    """Draw one Gaussian. Raises MachineError for a picture without it."""
    from gsplat import rasterization

    with torch.no_grad():
        focal, middle = float(_SIZE), _SIZE / 2
        _, alphas, _ = rasterization(
            means=torch.tensor([[0.0, 0.0, 2.0]], device=CUDA),
            quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=CUDA),
            scales=torch.full((1, 3), 0.5, device=CUDA),
            opacities=torch.full((1,), 0.9, device=CUDA),
            colors=torch.ones((1, 3), device=CUDA),
            viewmats=torch.eye(4, device=CUDA)[None],
            Ks=torch.tensor([[[focal, 0.0, middle], [0.0, focal, middle], [0.0, 0.0, 1.0]]], device=CUDA),
            width=_SIZE,
            height=_SIZE,
            packed=False,
        )
        opacity = float(alphas[0, _SIZE // 2, _SIZE // 2, 0])
    if not 0.5 < opacity < 1:
        raise _failed(f"an opacity of {opacity:.2f} where 0.9 was drawn", "reinstall torch and gsplat")


def _environment(cards: str) -> dict[str, str]:
    """The variables that gsplat's build is to find changed. Raises MachineError for a compiler that is not there."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])  # ninja, from pip
    home = require_toolkit(find_toolkit({**os.environ, "PATH": path}), str(torch.version.cuda), WHAT)
    return {
        "PATH": path,
        "CUDA_HOME": str(home),
        "TORCH_CUDA_ARCH_LIST": cards,  # the same at each load: ninja compiles again for others
        "MAX_JOBS": os.environ.get("MAX_JOBS") or str(usable_cpus()),
    }


def _cards() -> str:
    """The compute capabilities of this machine's cards, such as `8.6;9.0`.

    A card that is newer than this torch is given code for the newest that torch knows, which its driver translates.
    """
    numbers = (re.search(r"\d+", name) for name in torch.cuda.get_arch_list())
    newest = max(divmod(int(number[0]), 10) for number in numbers if number is not None)
    found = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return ";".join(_named(capability, newest) for capability in sorted(found))


def _named(capability: tuple[int, int], newest: tuple[int, int]) -> str:
    major, minor = min(capability, newest)
    return f"{major}.{minor}{'+PTX' if capability > newest else ''}"


@contextlib.contextmanager
def _alone(lock: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock that ends with the process that holds it, however it ends."""
    with lock.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(WAITING)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _changed(variables: Mapping[str, str]) -> Iterator[None]:
    """Have these variables in the environment for the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _empty(folder: Path) -> None:
    """Remove what builds have left that did not come to their end."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink()


def _failed(got: str, mend: str) -> MachineError:
    return MachineError(f"{WHAT}: expected them to be built and to draw, got {got} — {mend}.")
