"""A version's files, as the store hands them out."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from sweeps.errors import RegistryError
from sweeps.registry import release
from sweeps.registry.versions import Version

VERSION = Version("mouse-gslrm", 1, "run", (), {}, "file:///store/model", 0.0)


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (MlflowException("1 file: [Errno 13] Permission denied: '/store/w'"), "its owner must let this user read"),
        (PermissionError(13, "Permission denied", "/store/w"), "its owner must let this user read the file."),
        (MlflowException("no such file"), "register it again."),
    ],
)
def test_a_file_that_a_colleague_may_not_read_needs_its_owner_and_no_new_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, mend: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", refused)
    with pytest.raises(RegistryError, match=f"mouse-gslrm/1: expected its checkpoint at .* — {mend}"):
        release.download(VERSION, tmp_path, "sqlite:///store.db")
