"""What a plan tells: planted effects are found with their size, planted nulls are not, and gaps are named."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from dashboards.pages.notes import sweep_note
from dashboards.pages.report import report_page
from sweeps.conclusions.comparisons import comparisons_of, sentence
from sweeps.errors import SpaceError
from sweeps.tracking.pages import Links
from tests.support.planned import METRIC, planned_space, planned_sweep
from tests.support.recorded import recorded

FACTORS = {"loss.ssim": {"choice": [0.0, 0.1]}, "loss.masked": {"choice": [False, True]}}
FACTORS |= {"loss.alpha": {"choice": [1.0, 2.0]}}


def masked_is_worth(decibels):
    return lambda params: decibels * params["loss.masked"]


def test_a_planted_effect_is_found_with_its_size_and_a_planted_null_is_not(tmp_path):
    """Twenty sweeps: masked is worth 1 dB, ssim nothing, with 0.1 dB of noise by seed and by scene."""
    space, found, nulls = planned_space(tmp_path), 0, 0
    for seed in range(20):
        record = planned_sweep(tmp_path / str(seed), space, masked_is_worth(1.0), seed=seed)
        ssim, masked = comparisons_of(record).comparisons
        found += masked.verdict == "better" and masked.difference.low <= 1.0 <= masked.difference.high
        nulls += ssim.verdict == "not told apart"
    assert found >= 19
    assert nulls >= 18


def test_the_sentence_has_the_difference_its_interval_and_its_n(tmp_path):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(-1.0))
    masked = comparisons_of(record).comparisons[1]
    low, high = masked.difference.low, masked.difference.high
    assert sentence(masked, METRIC) == (
        f"loss.masked true against loss.masked false: worse, {METRIC} {masked.difference.mean:+.3g} "
        f"({low:+.3g} to {high:+.3g}; 3 seeds, 12 scenes)."
    )
    assert masked.difference.mean == pytest.approx(-1.0, abs=0.3)


def test_more_of_a_metric_that_should_be_low_is_worse(tmp_path):
    space = planned_space(tmp_path, objective={"metric": "val/lpips", "mode": "min"})
    assert comparisons_of(planned_sweep(tmp_path, space, masked_is_worth(1.0))).comparisons[1].verdict == "worse"


def test_a_metric_that_was_not_reported_is_refused(tmp_path):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(1.0))
    with pytest.raises(SpaceError, match=r"question: expected one of val/psnr_fg, got val/lpips — name one that was"):
        comparisons_of(record, "val/lpips")


def test_before_any_report_nothing_is_measured(tmp_path):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(1.0), fails=tuple(range(9)))
    assert {one.verdict for one in comparisons_of(record).comparisons} == {"not measured"}


def test_a_factor_is_judged_over_the_values_of_all_others(tmp_path):
    """Of a full factorial each effect is a mean of four differences, so it is told more finely than one alone."""
    space = planned_space(tmp_path, space=FACTORS, plan={"kind": "factorial", "seeds": [0, 1, 2]})
    record = planned_sweep(tmp_path, space, lambda p: 0.3 * p["loss.masked"] - 0.5 * (p["loss.alpha"] == 2.0))
    found = comparisons_of(record)
    assert [one.verdict for one in found.comparisons] == ["not told apart", "better", "worse"]
    assert found.comparisons[1].difference.mean == pytest.approx(0.3, abs=0.15)
    assert found.notes == ("Each difference is a mean over the values of all other settings of the plan.",)


def test_a_fraction_that_mixes_effects_with_pairs_says_so(tmp_path):
    space = planned_space(tmp_path, space=FACTORS, plan={"kind": "factorial", "seeds": [0, 1], "fraction": 2})
    notes = comparisons_of(planned_sweep(tmp_path, space, masked_is_worth(1.0))).notes
    assert notes[1] == "In this fraction the effect of one setting cannot be told from that of two others together."


def test_a_run_that_broke_takes_its_seed_out_of_its_own_comparison_alone(tmp_path):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(1.0), fails=(2,))
    ssim, masked = comparisons_of(record).comparisons
    assert (ssim.seeds, masked.seeds) == ((0, 1, 2), (1, 2))


def test_what_has_no_pair_left_is_not_measured_and_says_why(tmp_path):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(1.0), fails=(2, 5, 8))
    masked = comparisons_of(record).comparisons[1]
    assert (masked.verdict, masked.difference) == ("not measured", None)
    assert masked.why.startswith("t0002 is FAIL: out of memory; t0005")


def test_one_seed_that_is_left_tells_nothing_apart_however_large_the_difference(tmp_path):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(50.0), fails=(5, 8))
    masked = comparisons_of(record).comparisons[1]
    assert masked.verdict == "not told apart"
    assert masked.why.endswith("of 1 seed, 12 scenes has no spread to be held against")


def test_figures_of_other_views_are_not_compared(tmp_path):
    record = planned_sweep(
        tmp_path, planned_space(tmp_path), masked_is_worth(1.0), targets=lambda params: params["loss.masked"]
    )
    ssim, masked = comparisons_of(record).comparisons
    assert ssim.verdict == "not told apart"
    assert (masked.verdict, masked.why) == ("not measured", "their figures are measured on other scenes or views")


def test_frames_of_a_recording_are_drawn_in_blocks_and_that_is_said(tmp_path):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(1.0), frames=True)
    assert "in blocks of neighbouring frames" in comparisons_of(record).rule


def test_figures_that_are_gone_are_named(tmp_path):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(1.0))
    for blob in (tmp_path / "question" / "blobs").iterdir():
        blob.unlink()
    assert comparisons_of(record).comparisons[0].why.startswith("t0000 has no figures of its scenes")


def test_a_search_has_no_comparisons():
    assert comparisons_of(recorded(trials=4, reports=2)) is None


def test_json_has_every_figure(tmp_path):
    found = comparisons_of(planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(1.0)))
    plain = json.loads(json.dumps(asdict(found), allow_nan=False))
    assert plain["comparisons"][1]["difference"]["mean"] == found.comparisons[1].difference.mean
    assert plain["comparisons"][1]["seeds"] == [0, 1, 2]


def test_report_and_description_say_what_the_plan_tells_and_no_importance(tmp_path):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(1.0))
    found = comparisons_of(record)
    page, note = report_page(record), sweep_note(record, Links("1"))
    for text in (page, note):
        assert "What the plan tells" in text
        assert "What mattered" not in text
    assert f"<strong>{found.comparisons[1].verdict}</strong>" in page
    assert "loss.masked true against loss.masked false: better" in note
