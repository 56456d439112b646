"""What the commands share: how figures are shown."""

from __future__ import annotations

import pytest

from pipeline.recipes import load_recipe
from sweeps.cli import terminal


def test_figures_are_shown_in_the_order_in_which_they_are_looked_for(capsys):
    names = ["input/mask_iou", "input/psnr", "foreground_mean", "lpips", "mask_iou", "psnr", "psnr_fg", "ssim"]
    terminal.figures({f"test/{name}": 0.5 for name in names})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "test/psnr", "test/psnr_fg", "test/ssim", "test/lpips", "test/mask_iou", "test/foreground_mean",
        "test/input/psnr", "test/input/mask_iou",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a #1 mouse", "a: b", "[1]", "생쥐 100%25 ?q=1", "'quoted' \"twice\"", "{x}", "no"])
def test_a_folder_of_any_name_is_the_data_of_a_recipe(tmp_path, name):
    (tmp_path / name).mkdir()
    recipe = load_recipe("gslrm_tiny", terminal.root(str(tmp_path / name)))
    assert str(recipe.data.root) == str(tmp_path / name)


def test_a_text_from_a_shared_store_commands_no_terminal(capsys, monkeypatch):
    hostile = "\x1b]0;owned\x07 쥐\nline"
    terminal.table(["sweep", "home"], [[hostile, hostile]])
    monkeypatch.setattr(terminal, "_FILE_WIDTH", 30)
    terminal.table_or_blocks(["sweep", "home"], [[hostile, hostile]])
    said = capsys.readouterr().out
    assert said.count("?]0;owned? 쥐 line") == 4
    assert {sign for sign in said if not sign.isprintable()} == {"\n"}
