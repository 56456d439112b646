"""Models made elsewhere, registered by the command: nothing is asked for, and what they are is on their tags."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import mouselift
from pipeline.files import sha256_of
from pipeline.licence import FACELIFT_LICENCE
from pipeline.reconstruction.models import load_gaussians, load_views
from sweeps.errors import RegistryError
from sweeps.home import Home
from sweeps.registry.registry import Registry
from sweeps.registry.versions import Version
from tests.support.released import released_gaussians, released_views


@pytest.fixture
def imported(home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Runs `model import` on the home; the version and what was said beside its name."""
    monkeypatch.setenv("MOUSELIFT_HOME", str(home.root))

    def run(*words: str | Path) -> tuple[Version, str]:
        monkeypatch.setattr(sys, "argv", ["mouselift", "model", "import", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            mouselift.main()
        assert left.value.code == 0
        said = capsys.readouterr()
        return Registry(home).resolve(said.out.strip()), said.err

    return run


def test_the_release_is_imported_without_a_question(imported, home: Home, tmp_path: Path) -> None:
    pipeckpts, file = released_views(tmp_path), released_gaussians(tmp_path)
    (views, _), (gaussians, said) = imported(pipeckpts), imported(file)
    assert (views.name, gaussians.name) == ("mouse-mvdiffusion", "mouse-gslrm")
    assert views.tags["licence"] == gaussians.tags["licence"] == FACELIFT_LICENCE
    assert (gaussians.tags["source.name"], gaussians.tags["source.sha256"]) == (file.name, sha256_of(file))
    assert (views.tags["rig.name"], views.tags["framing.least"]) == ("facelift_six", "0.3")
    assert views.aliases == gaussians.aliases == () and "registered without figures, so that it is no champion" in said
    pulled = Registry(home).pull(views.ref, tmp_path / "views"), Registry(home).pull(gaussians.ref, tmp_path / "gslrm")
    assert load_views(pulled[0]).sha256 == load_views(pipeckpts).sha256
    assert load_gaussians(pulled[1]).recipe.model == load_gaussians(file).recipe.model


def test_another_licence_is_told_and_its_files_are_not_taken_for_those_of_before(
    imported, home: Home, tmp_path: Path
) -> None:
    file = released_gaussians(tmp_path)
    (first, _), (other, _) = imported(file), imported(file, "--licence", "CC BY 4.0")
    assert other.tags["licence"] == "CC BY 4.0" and other.sha256 == first.sha256
    out = Registry(home).pull(first.ref, tmp_path / "out")
    assert Registry(home).pull(first.ref, out) == out
    with pytest.raises(RegistryError, match=f"expected no folder, or one with {other.ref}, got something else"):
        Registry(home).pull(other.ref, out)
