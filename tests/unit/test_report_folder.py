"""The folder of reports: its files and its index, and that nothing which somebody wrote is ever overwritten."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

from dashboards.cli import report
from dashboards.research.folder import stem_of, write_report
from dashboards.research.registered import Registered, registered_tables
from dashboards.research.texts import Language, Texts
from pipeline.errors import OutputError
from sweeps.book.journal import AttemptFailed, State, SweepClosed, TrialClosed, TrialOpened, TrialProposed
from sweeps.errors import StudyError
from sweeps.home import Home
from tests.support import grid

NOW = grid.OPENED + 86_400.0


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    """A home with a grid of a few trials."""
    monkeypatch.setenv("MOUSELIFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = Home.from_environment({"MOUSELIFT_HOME": str(tmp_path / "home")})
    grid.write(found, "grid", grid.events(most=4))
    return found


def written(home: Home, folder: Path, sweep: str = "grid", language: Language = Language.EN) -> dict[str, str]:
    write_report(home, sweep, folder, language, NOW)
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_report_its_charts_and_the_index_are_written_and_the_same_again(home, tmp_path):
    files = written(home, tmp_path / "reports")
    stem = stem_of("grid", grid.OPENED)
    assert re.fullmatch(r"\d{6}_grid", stem)
    assert files.keys() == {f"{stem}.md", f"{stem}.html", "README.md"}
    assert f"]({stem}.html)" in files[f"{stem}.md"]
    assert f"]({stem}.md)" in files["README.md"]
    assert written(home, tmp_path / "reports") == files


def test_a_report_that_somebody_changed_is_refused_and_nothing_is_written(home, tmp_path):
    folder = tmp_path / "reports"
    files = written(home, folder)
    path = folder / f"{stem_of('grid', grid.OPENED)}.md"
    path.write_text(files[path.name].replace("Conclusions", "My conclusions"))
    with pytest.raises(OutputError, match=r"\.md: expected none or one that this command wrote, got a file written or"):
        write_report(home, "grid", folder, Language.KO, NOW)
    assert {one.name: one.read_text() for one in folder.iterdir()} == files | {path.name: path.read_text()}


def test_an_index_written_by_hand_stays_and_ours_is_beside_it(home, tmp_path):
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "README.md").write_text("# My reports\n")
    files = written(home, folder)
    assert files["README.md"] == "# My reports\n"
    assert files["index.md"].startswith("# Reports\n")
    (folder / "index.md").write_text("mine, too")
    with pytest.raises(OutputError, match=r"index\.md: expected none or one"):
        write_report(home, "grid", folder, Language.EN, NOW)


def test_the_index_has_every_sweep_of_the_home_and_reports_written_by_hand(home, tmp_path):
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "260101_lenses.md").write_text("# Lenses | bend <b>light</b>\n")
    grid.write(home, "other", grid.events("other", most=2))
    (grid.write(home, "broken", grid.events("broken", most=1)) / "journal.jsonl").write_text('{"kind": "No"}\n')
    index = written(home, folder)["README.md"]
    rows = [line for line in index.partition("## Map of contents")[2].partition("## ")[0].splitlines() if "|" in line]
    assert len(rows) == 2 + 4
    assert all(row.count("|") == 4 for row in rows)
    said = "\n".join(rows)
    assert "other (no report yet)" in said
    assert "2026-01-01" in said and "(written by hand)" in said and "<b>" not in said
    assert "its journal cannot be read" in said


def test_the_index_tells_issues_and_what_was_done_about_them(home, tmp_path):
    events = grid.events("broken", most=1)[:-1]
    opened = next(event for event in events if isinstance(event, TrialOpened))
    events += [
        TrialOpened(1, "ray1", 1, opened.params, opened.recipe_params, "print1"),
        AttemptFailed(1, 1, "worker_lost", "retry", "the worker | died"),
        TrialOpened(1, "ray1", 2, opened.params, opened.recipe_params, "print1"),
        TrialClosed(1, State.PRUNED, "asha: val/psnr 1 is among the weaker, at step 30 of 90"),
        TrialOpened(2, "ray2", 1, opened.params, opened.recipe_params, "print2"),
        TrialClosed(2, State.PRUNED, "skip_rate: 50 % of updates skipped in steps 1-30, limit 30 %"),
        TrialProposed(3, opened.params, refused="model.dim: expected a multiple"),
        SweepClosed(State.COMPLETE),
    ]
    grid.write(home, "broken", events)
    said = written(home, tmp_path / "reports")["README.md"].partition("## Issues and their solutions")[2]
    rows = [row.split(" | ") for row in said.partition("## ")[0].splitlines() if row.startswith("| broken")]
    assert [row[3] for row in rows] == [
        "tried again from its last checkpoint",
        "pruned: too many updates were skipped; a lower optim.lr makes fewer",
        "left out: the recipe refuses these values, and the search goes on",
    ]
    assert [row[4].strip(" |") for row in rows] == ["1 PRUNED", "1 PRUNED", "–"]
    assert "asha" not in said.partition("## ")[0]


def test_the_index_holds_targets_against_the_best_of_all_sweeps(home, tmp_path):
    grid.write(home, "better", grid.events("better"))
    targets = written(home, tmp_path / "reports")["README.md"].partition("## Targets against what was reached")[2]
    best = max(max(row["curve"].values()) for row in grid.GRID["trials"])
    assert re.search(rf"`val/psnr` > 25 \| {best:.4g} \| 90 \| .* \(n = 36\) \| not reached \| better t0025 ", targets)
    assert "`val/lpips` < 0.15 | – |  |  | not measured |" in targets


def test_registered_versions_are_held_against_the_targets_and_apart_by_protocol():
    better = Registered(
        "mouse/2 @champion", "p1", "d" * 64, {"test/psnr": 25.3, "test/lpips": 0.2}, {"psnr": 1.25}, "24"
    )
    tested = [
        better,
        Registered("mouse/1", "p1", "d" * 64, {"test/psnr": 24.0}),
        Registered("m|x/1", "p2", "", {"test/ssim": 1.0}),
    ]
    first, table, second, other = registered_tables(tested, Texts(Language.EN))
    assert (first, second) == (
        "### Registered versions, on test scenes: protocol `p1`, data `dddddddddddd`",
        "### Registered versions, on test scenes: protocol `p2`, data `unknown`",
    )
    assert "| `test/psnr` > 25 | 25.3 | ± 1.25 (n = 24) | reached | mouse/2 @champion |" in table
    assert "| `test/lpips` < 0.15 | 0.2 | unknown | not reached | mouse/2 @champion |" in table
    assert "| `test/ssim` > 0.9 | 1 | unknown | reached | m&#124;x/1 |" in other


def test_a_report_does_not_need_mlflow(home, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = replace(home, tracking_uri="http://127.0.0.1:9")
    index = written(away, tmp_path / "reports")["README.md"]
    assert "Registered versions are missing here: http://127.0.0.1:9: expected an answer of MLflow's store" in index


def test_the_index_is_korean_where_that_is_asked_for(home, tmp_path):
    index = written(home, tmp_path / "reports", language=Language.KO)["README.md"]
    assert re.findall(r"^#+ (.+)$", index, re.M)[:4] == ["보고서 목록", "목차", "문제와 해결", "목표 대비 결과"]


def test_the_command_takes_the_latest_sweep_and_names_what_it_wrote(home, capsys):
    report(as_json=True)
    paths = json.loads(capsys.readouterr().out)
    assert {Path(path).parent for path in paths.values()} == {home.root / "reports"}
    assert all(Path(path).is_file() for path in paths.values())


def test_a_sweep_that_is_not_there_is_refused_before_a_folder_is_made(home, tmp_path):
    with pytest.raises(StudyError, match="nothing: expected a sweep of"):
        write_report(home, "nothing", tmp_path / "reports", Language.EN, NOW)
    assert not (tmp_path / "reports").exists()


def test_names_of_files_are_fit_for_a_file_system():
    assert re.fullmatch(r"\d{6}_한국어_a_b_", stem_of("한국어/a b\n<", grid.OPENED))


def test_the_link_to_a_file_of_any_name_leads_to_it_and_nowhere_else(home, tmp_path):
    folder = tmp_path / "reports"
    folder.mkdir()
    name = "260101_a b) [x](javascript:alert(1)).md"
    (folder / name).write_text("# By hand")
    found = re.search(r"\| 2026-01-01 \| (.*?) \|", written(home, folder)["README.md"])
    assert found is not None
    (link,) = [token for token in MarkdownIt().parseInline(found[1])[0].children or [] if token.type == "link_open"]
    assert unquote(str(link.attrs["href"])) == name
