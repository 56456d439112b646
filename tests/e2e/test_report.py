"""The report that a sweep's run in MLflow gets says the numbers that MLflow has."""

from __future__ import annotations

import re

import pytest
from mlflow import MlflowClient

from dashboards.pages.pages import MlflowPages
from sweeps.book.journal import Journal
from sweeps.book.ledger import read
from sweeps.tracking.mlflow_writer import MLflowDelivery
from tests.e2e.squares import home_at
from tests.support.recorded import METRIC, events

TRIALS = 4


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """The runs of a recorded sweep's trials in MLflow, and its report as MLflow has it."""
    home = home_at(tmp_path_factory.mktemp("report") / "home")
    with Journal(home.journal("recorded")) as journal:
        for event in events(TRIALS, 3, "recorded"):
            if type(event).__name__ != "RunOpened":
                journal.append(event)
        assert MLflowDelivery(journal, home.tracking_uri, home.artifacts, pages=MlflowPages()).start().close(240)
        ledger = read(journal)
    client = MlflowClient(home.tracking_uri)
    html = client.download_artifacts(ledger.run_id, "report.html", str(home.root))
    with open(html, encoding="utf-8") as file:
        return {n: client.get_run(trial.run_id) for n, trial in ledger.trials.items()}, file.read()


def test_each_figure_of_the_reports_table_is_mlflows(delivered):
    runs, html = delivered
    table = html.partition('data-table="p0"')[2].partition("</table>")[0]
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]]
    assert len(rows) == TRIALS
    for name, run_id, state, best, _, last, *_ in rows:
        run = runs[int(name[1:])]
        assert run_id == run.info.run_id
        assert state == run.data.tags["trial.state"]
        assert float(best) == run.data.metrics[f"best/{METRIC}"]
        assert float(last) == run.data.metrics[METRIC]
