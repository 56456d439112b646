"""Every error the science raises on purpose.

    PipelineError
    ├── RecipeError        a recipe, an override or two fields that cannot go together
    ├── DataError          a scene, a camera, an image or a manifest
    │   └── DegenerateViewsError    rays that meet nowhere in particular
    ├── CheckpointError    a file of weights: absent, damaged, of another shape
    │   └── DiskFullError           there is no room to write one
    ├── OutputError        a place where nothing can be written
    ├── MachineError       a GPU, a driver or a compiler that the machine does not have
    └── DivergedError      training has left what can be computed
        ├── NonFiniteError     a loss or gradient that is not a number, with its step and term
        └── OversizedError     Gaussians too large to be drawn

Each message reads `where: what was expected, what came — what to do.` and is one line.
"""


class PipelineError(Exception):
    """A mistake that the user can correct; the commands show it as one line and leave with exit code 2."""


class RecipeError(PipelineError):
    """A recipe cannot be read, or asks for something impossible."""


class DataError(PipelineError):
    """A scene or dataset is not what the recipe needs."""


class DegenerateViewsError(DataError):
    """Cameras stand so that what they see determines no place."""


class CheckpointError(PipelineError):
    """Weights are missing, damaged or do not fit the model."""


class DiskFullError(CheckpointError):
    """There is no room for a checkpoint; nothing of it is left, and an older one of its name stands."""


class OutputError(PipelineError):
    """What is to be written cannot be where it was asked for: no leave, a file in the place of a folder."""


class MachineError(PipelineError):
    """The machine lacks what was asked of it: a GPU, a driver, what builds code for one."""


class DivergedError(PipelineError):
    """Training went where nothing more can be computed; a sweep prunes the trial and learns from it."""


class NonFiniteError(DivergedError):
    """Training met a number that is not finite; the update was not applied."""


class OversizedError(DivergedError):
    """Gaussians are so large that no memory or index holds what one view of them needs; nothing was drawn."""


def counted(number: int, word: str) -> str:
    """A number in a message: `1 trial`, `2 trials`."""
    return f"{number} {word}{'' if number == 1 else 's'}"
