"""Pickles of arrays, read without running anything in them."""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy._core import multiarray, numeric

from pipeline import config
from pipeline.errors import DataError


def read_pickle(path: Path) -> Any:
    """Plain containers, numbers and numpy arrays from a pickle; nothing in it is run.

    Raises DataError for a pickle that asks for anything else, and for a file that is none.
    """
    try:
        with path.open("rb") as file:
            _check_memo(file, path.stat().st_size)
            return _ArraysOnly(file, encoding="latin1").load()
    except _Refused as error:
        raise DataError(
            f"{path}: expected plain numbers and numpy arrays, got a pickle that asks for {error} — "
            "it was not run; store the arrays alone, or as .npz."
        ) from None
    except FileNotFoundError:
        raise DataError(f"{path}: expected a pickle, found none — restore it.") from None
    except _PICKLE_FAULTS as error:
        raise DataError(
            f"{path}: expected a whole pickle, got {config.one_line(error) or type(error).__name__} — restore the file."
        ) from None


class _Refused(Exception):  # noqa: N818  an answer, and never leaves this file
    """A pickle names something that is neither a container nor part of a numpy array."""


def _check_memo(file: BinaryIO, size: int) -> None:
    """Raise for a place in the memo that no pickle of this size needs: a flipped bit asks for gigabytes there."""
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > size:
            raise pickle.UnpicklingError(f"place {argument} of its memo")
    file.seek(0)


def _latin1(text: str, encoding: str) -> bytes:
    """`codecs.encode` as old pickles of bytes use it, and for nothing else."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """Knows only what numpy arrays are made of, under their names in numpy 1 and 2."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _Refused(f"{module}.{name}")
        return _KNOWN[module, name]


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): multiarray._reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): multiarray.scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): numeric._frombuffer for core in ("core", "_core")},  # type: ignore[attr-defined]
}

_PICKLE_FAULTS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    OSError,
)
