"""Processes that draw a share of a set's scenes beside this one: Python's threads would wait for each other.

A helper ends with its parent, whatever ends that one and however far its scene is: the pipe on which it was told its
share then closes. Those of joblib stay for half a minute after a kill, and then warn of leaks. The scenes of a helper
that fails are drawn by its parent, which then meets the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

_BEGIN = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from pipeline.data.mice.mice import help_to_draw
help_to_draw(*json.loads(sys.argv[2]))
"""
_LOOK_SECONDS = 0.1  # between two looks at helpers that still draw


class Helpers:
    """Helpers at work. Each says a line for every scene that it has drawn."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self._processes = processes
        self._drawn = [0] * len(processes)
        self._readers = [threading.Thread(target=self._read, args=(i,), daemon=True) for i in range(len(processes))]
        for reader in self._readers:
            reader.start()

    @property
    def drawn(self) -> int:
        """Scenes that all helpers have drawn so far."""
        return sum(self._drawn)

    def looks(self) -> Iterator[int]:
        """`drawn`, now and then, until every helper has ended."""
        for reader in self._readers:
            while reader.is_alive():
                reader.join(_LOOK_SECONDS)
                yield self.drawn

    def _read(self, helper: int) -> None:
        lines = self._processes[helper].stdout
        assert lines is not None
        with lines:
            for _ in lines:
                self._drawn[helper] += 1


@contextlib.contextmanager
def helpers(out: Path, plan: dict[str, Any], shares: Sequence[Sequence[int]]) -> Iterator[Helpers]:
    """Start a helper for each share of the scenes of a plan (fields of `MicePlan`); they are gone after the block.

    One that is killed leaves an unfinished scene, which `writing` removes.
    Not by multiprocessing, which would run a script without `if __name__ == "__main__"` once more.
    """
    processes: list[subprocess.Popen[bytes]] = []
    paths = json.dumps([str(path) for path in sys.path])
    try:
        with contextlib.suppress(OSError):  # a machine that takes no more processes; their parent draws their share
            for share in shares:
                processes.append(_started(paths, json.dumps([str(out), plan])))
                _send(processes[-1], share)
        yield Helpers(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()


def _started(paths: str, job: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _BEGIN, paths, job],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def work(draw: Callable[[int], None]) -> None:
    """What runs in a helper: draw the scenes whose numbers come in as a line, and say a line for each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's, which then ends its helpers
    share = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with threadpool_limits(1):
        for scene in share:
            draw(scene)
            os.write(sys.stdout.fileno(), b"\n")


def _end_with_parent() -> None:
    """Wait for the end of the standard input, which only the parent's end brings, and be gone in the middle of it all:
    what is unfinished is whoever's that takes the folder up.
    """
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _send(process: subprocess.Popen[bytes], share: Sequence[int]) -> None:
    """Tell a helper its share. The pipe stays open as long as this process lives."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(list(share)).encode() + b"\n")
        process.stdin.flush()
