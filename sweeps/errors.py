"""Every error the memory raises on purpose.

Each message reads `where: what was expected, what came — what to do.` and is one line.
"""

from pipeline.config import one_line
from pipeline.errors import counted as counted  # messages of both packages count alike

_CAUSE_SHOWN = 200  # characters


class SweepError(Exception):
    """A mistake the user can mend; the commands show it as one line and leave with exit code 2."""


class SpaceError(SweepError):
    """A search space cannot be read, or one of its values does not decode as its recipe field."""


class StudyError(SweepError):
    """A sweep cannot start: its name, its settings, a store that it needs, or what was stored of it."""


class DamagedError(StudyError):
    """What a sweep wrote itself cannot be read any more; not the user's mistake: exit code 1."""


class RegistryError(SweepError):
    """A model, version, alias or dataset is absent, a gate cannot be read, or a promotion was refused."""


class NoRoomError(SweepError):
    """The disk under a sweep takes nothing more; what it has of the sweep is whole. No mistake: exit code 1."""


class OutageError(SweepError):
    """A server that was there when a sweep began stayed away for too long; not the user's mistake: exit code 1."""


def cause(error: Exception) -> str:
    """The first sentence of an error, without SQLAlchemy's copy of the statement or MLflow's of the address."""
    return one_line(error).partition(" [SQL")[0].partition(" (Background")[0][:_CAUSE_SHOWN]
