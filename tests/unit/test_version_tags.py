"""Where a version's tags are kept, and what its description and its model's say; no MLflow."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sweeps.registry.aliases import Move, read_history
from sweeps.registry.cards import Origin, Shown, model_card, version_card
from sweeps.registry.versions import Version, from_store, misplaced, to_store, writes_of
from sweeps.tracking.mlflow_layout import CONFIRMED_TAG
from sweeps.tracking.pages import Links

TAGS = {
    "checkpoint.sha256": "ab" * 32,
    "checkpoint.step": "750",
    "recipe.name": "gslrm_tiny",
    "recipe.fingerprint": "f" * 12,
    "checkpoint.parent": "cd" * 32,
    "data.name": "mice",
    "data.digest": "d" * 64,
    "eval.protocol": "p" * 12,
    "eval.scenes": "24",
    "eval.spread": json.dumps({"psnr_fg": 1.234}),
    "test/psnr_fg": "16.061",
    "test/input/psnr_fg": "17.5",
    "test/slot_1/psnr": "19.2",
    "logged_model": "m-1",
    "sweep.name": "demo",
    "trial.number": "5",
    "gates": json.dumps([
        {"metric": "test/mask_iou", "target": ">= 0.75", "value": 0.8, "passed": True},
        {"metric": "test/lpips", "target": "<= 0.15", "value": None, "passed": False},
    ]),
    "gate.verdict": "challenger",
    "gate.reason": "test/lpips not available",
}  # fmt: skip
VERSION = Version("mouse-gslrm", 3, "run1", ("champion",), TAGS, "file:///x", 0.0)
ORIGIN = Origin(Links("7"), "t0005 · demo", Links("7").sweep("demo"), "mouse-gslrm/1")


def test_what_a_reader_looks_for_comes_first_and_hashes_json_and_lesser_figures_are_aside() -> None:
    stored = to_store(TAGS)
    shown = [key for key in stored if not key.startswith("mlflow.")]
    assert list(stored)[: len(shown)] == shown
    assert {"checkpoint.step", "recipe.name", "data.name", "test/psnr_fg", "gate.verdict", "sweep.name"} <= set(shown)
    assert not any(len(value) > 30 for key, value in stored.items() if key in shown)
    assert from_store(stored) == TAGS


def test_tags_of_an_earlier_release_are_read_and_move_by_writes_that_lose_none_wherever_they_end() -> None:
    writes = list(writes_of(misplaced(TAGS), TAGS))
    for done in range(len(writes) + 1):
        stored = dict(TAGS)
        for key, value in writes[:done]:
            if value is None:
                del stored[key]
            else:
                stored[key] = value
        assert from_store(stored) == TAGS
    assert stored == to_store(TAGS)
    assert misplaced(stored) == []


@pytest.mark.parametrize("stored", [TAGS, to_store(TAGS), TAGS | to_store(TAGS)])
def test_a_tag_is_replaced_and_removed_wherever_it_is_kept(stored) -> None:
    for value in ("new", None):
        left = dict(stored)
        for key, new in writes_of([("data.digest", value)], stored):
            if new is None:
                del left[key]
            else:
                left[key] = new
        assert from_store(left).get("data.digest") == value


def test_entries_of_the_history_of_both_releases_are_one_history() -> None:
    moves = [Move(n, "2026-11-27", "a@b", "promote", "champion", None, n, None, "") for n in (1, 2, 3)]
    keys = [move.as_tag() for move in moves]
    assert all(key.startswith("mlflow.mouselift.history.") for key, _ in keys)
    old = (keys[1][0].removeprefix("mlflow.mouselift."), keys[1][1])
    assert read_history(dict([keys[2], old, keys[0], ("lease.x", "{")])) == moves


def test_a_card_says_what_its_trial_reached_with_other_seeds() -> None:
    said = "mean 22.25 over 2 seeds (22 to 22.5), was 23 in the search"
    text = version_card(replace(VERSION, tags=TAGS | {CONFIRMED_TAG: said}), Shown(), ORIGIN)
    assert f"; confirmed: {said}\n" in text
    assert "confirmed" not in version_card(VERSION, Shown(), ORIGIN)


def test_a_card_says_figures_with_spread_n_and_protocol_gates_lineage_and_three_lines() -> None:
    text = version_card(VERSION, Shown("registered/ab/card.png", "what it shows", "registered/ab/splat.html"), ORIGIN)
    for words in (
        "| psnr_fg (dB, foreground)&emsp; | 16.06&emsp; | 1.2&emsp; | 17.5&emsp; |",
        "n = 24 scenes of `mice` (test)",
        "Protocol `pppppppppppp`",
        "| 0.8&emsp; | passed&emsp; |",
        "| not measured&emsp; | **failed**&emsp; |",
        "**Verdict**: challenger",
        "[Turn its Gaussians](" + Links("7").artifact("run1", "registered/ab/splat.html"),
        "get-artifact?path=registered/ab/card.png&run_uuid=run1",
        f"run [t0005 · demo]({Links('7').run('run1')})",
        f"[mouse-gslrm/1]({Links('').model('mouse-gslrm', '1')})",
        'load_model("models:/mouse-gslrm/3")',
    ):
        assert words in text
    code = text.partition("```python\n")[2].partition("```")[0]
    assert len(code.splitlines()) == 3


def test_a_model_says_its_champion_its_last_moves_and_that_it_has_none() -> None:
    moves = [
        Move(n, "2026-11-27T01:02:03", "a@b", "promote", "champion", n - 1, n, None, f"why {n}") for n in range(40)
    ]
    text = model_card("mouse-gslrm", [VERSION], moves)
    assert "version 3" in text and "16.06" in text and "why 39" in text and "why 5" not in text
    assert "The last 10 of 40 changes" in text
    assert "**Champion**: none" in model_card("mouse-gslrm", [replace(VERSION, aliases=())], moves)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a|b\nc", "[x](javascript:1)", "쥐 `x`", "x" * 300])
def test_names_from_outside_stay_text_and_the_card_below_mlflows_limit(name) -> None:
    tags = TAGS | {"data.name": name, "sweep.name": name, "licence": name, "gate.reason": name, "source.name": name}
    origin = replace(ORIGIN, run_name=name)
    text = version_card(replace(VERSION, tags=tags), Shown(), origin)
    plain = "\n".join(part for n, part in enumerate(text.split("`")) if n % 2 == 0)  # without what is code
    assert "<script" not in plain and "[x](javascript" not in plain and len(text) < 4900
    assert all(line.count("|") - line.count("\\|") in (0, 5) for line in text.splitlines())


def test_a_version_that_someone_made_without_mouselift_has_a_card_too() -> None:
    text = version_card(replace(VERSION, tags={}, run_id=""), Shown(), Origin())
    assert "did not register" in text and "**No figures**" in text
