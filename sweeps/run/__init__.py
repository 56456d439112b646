"""The trials at work: Ray, the driver, the scheduler, checkpoints, and how a sweep is taken up again."""

import os
import sys

from pipeline.machine import account
from sweeps.own_process import set_up

account.settle()  # Ray asks for the user's name, and for the home, when it is imported
# Ray reads this when it is imported. It stands here because Python runs this before any module of the room.
os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # at SIGTERM it prints a stack and aborts


def _is_worker() -> bool:
    """Whether this process is one of Ray's, which imports Ray before anything of ours; a driver may not need it yet."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE


if _is_worker():
    set_up()
