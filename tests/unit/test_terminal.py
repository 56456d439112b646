"""What the commands share: a start that the registry knows by name, and how figures are shown."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sweeps.cli import terminal
from tests.support.spaces import space_with


class FakeRegistry:
    def resolve(self, source):
        return SimpleNamespace(ref=source.replace("@champion", "/3"))

    def pull(self, ref, folder):
        return folder


@pytest.fixture(autouse=True)
def registry(monkeypatch, tmp_path):
    monkeypatch.setenv("MOUSELIFT_HOME", str(tmp_path))
    monkeypatch.setattr(terminal, "registry", FakeRegistry)


def test_a_registered_start_is_the_folder_that_it_is_pulled_to(tmp_path):
    space = space_with(name="mine", recipe="gslrm_tiny", fixed={"train.init_from": "mice@champion"})
    started = terminal.with_registered_start(space)
    assert started.fixed["train.init_from"] == started.base.train.init_from == str(tmp_path / "models" / "mice/3")


@pytest.mark.parametrize("fixed", [{}, {"train.init_from": "folder"}])
def test_any_other_start_stays(fixed):
    space = space_with(name="mine", recipe="gslrm_tiny", fixed=fixed)
    assert terminal.with_registered_start(space) is space


def test_figures_are_shown_in_the_order_in_which_they_are_looked_for(capsys):
    names = ["input/mask_iou", "input/psnr", "foreground_mean", "lpips", "mask_iou", "psnr", "psnr_fg", "ssim"]
    terminal.figures({f"test/{name}": 0.5 for name in names})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "test/psnr", "test/psnr_fg", "test/ssim", "test/lpips", "test/mask_iou", "test/foreground_mean",
        "test/input/psnr", "test/input/mask_iou",
    ]  # fmt: skip
