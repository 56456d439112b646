"""What the commands share: how figures are shown."""

from __future__ import annotations

from sweeps.cli import terminal


def test_figures_are_shown_in_the_order_in_which_they_are_looked_for(capsys):
    names = ["input/mask_iou", "input/psnr", "foreground_mean", "lpips", "mask_iou", "psnr", "psnr_fg", "ssim"]
    terminal.figures({f"test/{name}": 0.5 for name in names})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "test/psnr", "test/psnr_fg", "test/ssim", "test/lpips", "test/mask_iou", "test/foreground_mean",
        "test/input/psnr", "test/input/mask_iou",
    ]  # fmt: skip
