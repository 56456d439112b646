"""The researcher's report: what it concludes by which rule, in both languages, whatever a sweep's texts hold."""

from __future__ import annotations

import math
import re
import statistics
import string

import pytest
import yaml
from markdown_it import MarkdownIt

from dashboards.research.conclusions import Conclusions
from dashboards.research.report import research_report
from dashboards.research.texts import TEXTS, Language, Texts
from sweeps.book.journal import Event, Reported, RunOpened, State, SweepClosed, SweepOpened, TrialClosed, TrialOpened
from sweeps.book.record import PROTOCOL, Recorder, SweepRecord
from sweeps.conclusions.importance import Importance, importance_of
from sweeps.space.space import load_space
from tests.support import grid

HOSTILE = '"quotes" | `code` <script>alert(1)</script>\n# heading 한국어 ' + "x" * 300
METRICS = {"val/psnr": 26.0, "val/ssim": 0.85, "val/mask_iou": 0.91}
DOCUMENT = MarkdownIt("commonmark").enable("table")


def record_of(events: list[Event], tmp_path) -> SweepRecord:
    recorder = Recorder(tmp_path)
    recorder.add(events)
    return recorder.record(0.0)


@pytest.fixture
def whole(tmp_path) -> SweepRecord:
    return record_of(grid.events(), tmp_path)


def small(*trials: tuple[dict, str, str, list[dict[str, float]]], reason: str = "", name: str = "small") -> list[Event]:
    """A sweep of optim.lr. trials: params, end, protocol and the metrics of each report, ten steps apart."""
    space = {
        "recipe": "gslrm_tiny",
        "fixed": {"train.max_steps": 30},
        "space": {"optim.lr": {"float": [1e-5, 1e-3], "log": True, "step": None, "when": {}}},
        "objective": {"metric": "val/psnr", "mode": "max"},
        "trials": {"count": len(trials)},
    }
    found: list[Event] = [SweepOpened(name, "gslrm_tiny", space, {"data.name": name}, {})]
    for number, (params, end, protocol, reports) in enumerate(trials):
        tags = {PROTOCOL: protocol} if protocol else {}
        found.append(TrialOpened(number, f"ray{number}", 1, params, params, f"print{number}", tags))
        found.append(RunOpened(number, f"run{number}"))
        found += [Reported(number, 10 * (place + 1), metrics) for place, metrics in enumerate(reports)]
        found.append(TrialClosed(number, State(end), reason if end != "COMPLETE" else ""))
    return [*found, SweepClosed(State.COMPLETE)]


def curve(*values: float) -> list[dict[str, float]]:
    return [METRICS | {"val/psnr": value} for value in values]


def report(record: SweepRecord, language: Language = Language.EN) -> str:
    return research_report(record, importance_of(record.ledger), language, "charts.html")


def section(text: str, key: str, language: Language = Language.EN) -> str:
    return text.partition(f"## {TEXTS[language][key]}\n")[2].partition("\n## ")[0]


def test_conclusions_come_first_and_then_evidence_settings_and_the_next_step(whole):
    headings = re.findall(r"^## (.+)$", report(whole), re.M)
    assert headings == ["Conclusions", "Evidence", "Settings", "Next step"]


def test_the_best_settings_of_a_grid_with_seeds_have_their_mean_spread_and_n(whole):
    best = {"optim.lr": 0.0018, "model.scale_bias": -5.0}
    rows = [row for row in grid.GRID["trials"] if row["params"].items() >= best.items()]
    values = [max(row["curve"].values()) for row in rows]
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    said = section(report(whole), "conclusions")
    assert f"mean {mean:.4g}, standard deviation {sd:.4g} (n = {len(values)})" in said
    assert "one seed" not in said


def test_trials_with_seeds_are_told_apart_by_the_spread_between_seeds(whole):
    found = Conclusions(whole, Importance(0))
    assert found.noise is not None and found.noise.sd is not None
    assert found.noise.n == 27  # 9 settings of 4 seeds
    assert found.noise.limit == pytest.approx(2.0518 * math.sqrt(2) * found.noise.sd, rel=1e-4)  # Student's t
    top = found.values[0]
    assert {one.trial.number for one in found.tied} == {
        one.trial.number for one in found.complete[1:] if top - one.trial.best_value <= found.noise.limit
    }


def test_without_repeats_the_limit_is_how_far_trials_moved_at_their_end_and_the_report_says_so(tmp_path):
    trials = [({"optim.lr": lr}, "COMPLETE", "", curve(*values)) for lr, values in zip(
        (1e-4, 2e-4, 3e-4), ((10, 20.0, 20.1), (10, 19.8, 20.0), (10, 15.0, 15.3)), strict=True
    )]  # fmt: skip
    record = record_of(small(*trials), tmp_path)
    noise = Conclusions(record, Importance(0)).noise
    assert noise is not None and (noise.sd, noise.n) == (None, 3)
    assert noise.limit == pytest.approx(0.2)
    said = section(report(record), "conclusions")
    assert "Not told apart from the best: t0001." in said
    assert "Each setting ran with one seed" in said


def test_importance_below_its_least_number_is_refused_with_the_reason_in_both_languages(tmp_path):
    record = record_of(grid.events(most=6), tmp_path)
    assert "too few, 6 trials at step 90; from 10 on" in report(record)
    assert "시행 6개; 최소 10개" in report(record, Language.KO)


def test_a_setting_without_effect_is_named_as_such(whole):
    said = section(report(whole), "conclusions")
    assert "Not told from chance: `train.seed`." in said
    assert re.search(r"What mattered: `model.scale_bias` 51% \(\d+% – \d+%\), `optim.lr`", said)


def test_targets_say_what_was_reached_and_what_was_not_measured(tmp_path):
    record = record_of(small(({"optim.lr": 1e-4}, "COMPLETE", "", curve(25.5, 26.0))), tmp_path)
    said = section(report(record), "conclusions")
    for words in ("psnr` > 25: 26, reached", "ssim` > 0.9: 0.85, not reached", "lpips` < 0.15: not measured"):
        assert words in said


def test_figures_that_were_measured_differently_are_never_in_one_table(tmp_path):
    trials = [({"optim.lr": 1e-4 * (n + 1)}, "COMPLETE", f"protocol{n % 2}", curve(20.0 + n)) for n in range(6)]
    text = report(record_of(small(*trials), tmp_path))
    tables = re.findall(r"^### Trials measured alike: protocol `(\w+)`.*?\n\n(.*?)\n\n", text, re.M | re.S)
    found = {protocol: set(re.findall(r"^\| (t\d{4})", table, re.M)) for protocol, table in tables}
    assert found == {"protocol1": {"t0001", "t0003", "t0005"}, "protocol0": {"t0000", "t0002", "t0004"}}
    assert "3 trials measured differently are not compared with it" in text


def test_the_space_that_repeats_the_best_with_other_seeds_loads(tmp_path):
    record = record_of(small(({"optim.lr": 1e-4}, "COMPLETE", "", curve(20.0))), tmp_path)
    blocks = re.findall(r"```\n(.*?)```", section(report(record), "next"), re.S)
    path = tmp_path / "seeds.yaml"
    path.write_text(next(block for block in blocks if block.startswith("recipe:")))
    assert yaml.safe_load(path.read_text())["fixed"] == {"train.max_steps": 30, "optim.lr": 1e-4}
    assert [one.points for one in load_space(path).space.values()] == [(1, 2, 3, 4)]


def test_an_interrupted_sweep_is_to_be_resumed_and_a_best_at_an_end_looked_beyond(tmp_path):
    events = small(({"optim.lr": 9.9e-4}, "COMPLETE", "", curve(19.0, 20.0)))
    text = report(record_of([*events[:-1], SweepClosed(State.KILLED, "Ctrl-C")], tmp_path))
    steps = section(text, "next")
    assert "mouselift sweep resume small" in steps
    assert "The best `optim.lr`, 0.00099, lies at an end of what was searched (1e-05 – 0.001)" in steps
    assert "still improving at its last step 20" in steps


def test_a_sweep_without_an_end_is_to_be_looked_at_and_not_resumed(tmp_path):
    events = small(({"optim.lr": 1e-4}, "COMPLETE", "", curve(20.0)))
    steps = section(report(record_of(events[:-1], tmp_path)), "next")
    assert "mouselift sweep status small" in steps
    assert "resume" not in steps


@pytest.mark.parametrize("language", Language)
def test_hostile_texts_are_shown_as_text(language, tmp_path):
    trials = [({"optim.lr": 1e-4}, "COMPLETE", "", curve(20.0)), ({"optim.lr": 1e-4}, "FAIL", "", curve(1.0))]
    text = report(record_of(small(*trials, reason=HOSTILE, name=HOSTILE), tmp_path), language)
    page = DOCUMENT.render(text)
    assert "<script" not in page
    assert "alert(1)" in page
    assert page.count("<h1>") == 1
    for table in re.findall(r"<table>.*?</table>", page, re.S):
        cells = {row.count("<th") + row.count("<td") for row in re.findall(r"<tr>.*?</tr>", table, re.S)}
        assert len(cells) == 1


def test_a_sweep_that_only_began_has_a_report(tmp_path):
    text = report(record_of(small()[:1], tmp_path))
    assert text.startswith("# small: no figure yet\n")


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_sentence_is_there_in_each_language_with_the_same_things_to_fill_in():
    english, korean = TEXTS[Language.EN], TEXTS[Language.KO]
    assert english.keys() == korean.keys()
    assert {key for key in english if fields(english[key]) != fields(korean[key])} == set()


def test_a_korean_report_has_no_english_sentence(whole):
    text = report(whole, Language.KO)
    english = [line for line in TEXTS[Language.EN].values() if " " in line and not fields(line)]
    assert [line for line in english if line in text] == []
    assert Texts(Language.KO).trials(3) == "시행 3개"


def test_a_pruned_trial_that_reached_more_than_the_best_is_told(tmp_path):
    weaker = ({"optim.lr": 1e-4}, "COMPLETE", "p", curve(20.0, 21.0))
    record = record_of(small(weaker, ({"optim.lr": 2e-4}, "PRUNED", "p", curve(22.5))), tmp_path)
    assert "- t0001 (PRUNED) had reached 22.5 at step 10; the best is chosen among COMPLETE" in report(record)
    assert "t0001(PRUNED)은 스텝 10에서 22.5" in report(record, Language.KO)
    other = record_of(small(weaker, ({"optim.lr": 2e-4}, "PRUNED", "q", curve(22.5))), tmp_path)
    assert "had reached" not in report(other)


def test_the_only_value_of_a_range_is_not_at_an_edge_of_what_was_searched(tmp_path):
    events = small(({"optim.lr": 1e-4}, "COMPLETE", "p", curve(20.0, 21.0)))
    events[0].space["space"]["optim.lr"]["float"] = [1e-4, 1e-4]
    record = record_of(events, tmp_path)
    assert Conclusions(record, importance_of(record.ledger)).edges == []
