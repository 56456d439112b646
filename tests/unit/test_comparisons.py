"""What a plan tells: planted effects are found with their size, planted nulls are not, and gaps are named."""

from __future__ import annotations

import json
from dataclasses import asdict
from html import unescape

import pytest
import yaml

from dashboards.charts.comparisons import forest
from dashboards.pages.notes import sweep_note
from dashboards.pages.report import report_page
from dashboards.research.report import research_report
from sweeps.book.journal import State
from sweeps.conclusions.comparisons import comparisons_of, sentence
from sweeps.conclusions.importance import importance_of
from sweeps.errors import SpaceError
from sweeps.space.plan import as_asked
from sweeps.space.space import load_space
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
        f"worse, {METRIC} {masked.difference.mean:+.3g} ({low:+.3g} to {high:+.3g}; 3 seeds, 12 scenes): "
        "loss.masked true against loss.masked false"
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
    assert "(resolution III)" in notes[1]


def test_a_run_that_broke_takes_its_seed_out_of_its_own_comparison_alone(tmp_path):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(1.0), fails=(2,))
    ssim, masked = comparisons_of(record).comparisons
    assert (ssim.seeds, masked.seeds) == ((0, 1, 2), (1, 2))
    assert (ssim.why, masked.why) == ("", "left out: t0002 is FAIL: out of memory")


def test_a_setting_of_which_a_run_was_pruned_is_not_better_for_those_that_are_left(tmp_path):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(5.0), fails=(2,), end=State.PRUNED)
    masked = comparisons_of(record).comparisons[1]
    assert masked.difference.low > 0.0
    assert (masked.verdict, masked.why) == ("not told apart", "left out: t0002 is PRUNED: out of memory")


def test_a_run_that_broke_elsewhere_leaves_an_interval_nearly_as_it_was(tmp_path):
    """What the other settings tell of chance still counts."""
    space = planned_space(tmp_path, space=FACTORS)
    whole = comparisons_of(planned_sweep(tmp_path / "a", space, masked_is_worth(1.0))).comparisons[0]
    broken = comparisons_of(planned_sweep(tmp_path / "b", space, masked_is_worth(1.0), fails=(3,))).comparisons[0]
    width = [one.difference.high - one.difference.low for one in (whole, broken)]
    assert width[1] < 2.5 * width[0]


def test_settings_that_are_named_by_long_paths_have_rows_of_their_own_and_keep_their_figures(tmp_path):
    paths = [f"/data/experiments/2025/of/a/long/name/checkpoints/{run}/step_00001000" for run in ("a", "b", "c")]
    starts = {"train.init_from": {"choice": [None, *paths[:2]]}}
    record = planned_sweep(tmp_path, planned_space(tmp_path, space=starts), lambda _: 0.0)
    found = comparisons_of(record)
    drawn = forest(found)
    assert len({row["y"][0] for row in drawn["data"]}) == len(set(drawn["layout"]["yaxis"]["ticktext"])) == 2
    assert all(sentence(one, METRIC).startswith("not told apart, val/psnr_fg ") for one in found.comparisons)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_researchers_report_says_what_the_plan_tells_and_proposes_no_more_trials(tmp_path, language):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(1.0))
    text = research_report(record, importance_of(record.ledger), language, "charts.html")
    mean = comparisons_of(record).comparisons[1].difference.mean
    assert f"{mean:+.3g}" in text
    assert "--trials" not in text
    assert not any(words in text for words in ("What mattered", "무엇이 중요했는가", "Not told from chance"))


def test_the_space_that_mlflow_has_can_be_run_again(tmp_path):
    space = planned_space(tmp_path)
    (tmp_path / "again.yaml").write_text(
        yaml.safe_dump(as_asked(json.loads(json.dumps(space.as_plain()))), sort_keys=False)
    )
    assert load_space(tmp_path / "again.yaml").enqueued == space.enqueued


def test_what_has_no_pair_left_is_not_measured_and_says_why(tmp_path):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(1.0), fails=(2, 5, 8))
    masked = comparisons_of(record).comparisons[1]
    assert (masked.verdict, masked.difference) == ("not measured", None)
    assert masked.why.startswith("t0002 is FAIL: out of memory; t0005")


def test_one_seed_that_is_left_tells_nothing_apart_however_large_the_difference(tmp_path):
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(50.0), fails=(5, 8))
    masked = comparisons_of(record).comparisons[1]
    assert masked.verdict == "not told apart"
    assert "1 seed and 12 scenes have no spread; left out: t0005 is FAIL" in masked.why


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
    record = planned_sweep(tmp_path, planned_space(tmp_path), masked_is_worth(3.0))
    found = comparisons_of(record)
    page, note = report_page(record), sweep_note(record, Links("1"))
    for text in (page, note):
        assert "What the plan tells" in text
        assert "What mattered" not in text
    assert f"<strong>{found.comparisons[1].verdict}</strong>" in page
    assert sentence(found.comparisons[1], METRIC) in unescape(note)
    assert "--trials" not in note
