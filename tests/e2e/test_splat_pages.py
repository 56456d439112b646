"""Gaussians in MLflow's pages: of a trial, in a real SQLite store."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mlflow.artifacts

from dashboards.pages.pages import MlflowPages
from pipeline.cameras import facelift_ring
from pipeline.previews import Preview
from sweeps.book.journal import GaussiansKept, Journal, SweepClosed
from sweeps.book.ledger import read
from sweeps.tracking.mlflow_writer import MLflowDelivery
from tests.e2e.test_tracking import empty_store, open_sweep, open_trial, runs, uri
from tests.unit.test_gaussians import random_gaussians

__all__ = ["empty_store", "uri"]  # fixtures


def test_a_trial_has_the_page_of_the_gaussians_that_its_checkpoints_kept(uri: str, tmp_path: Path) -> None:
    """With a slider over the steps, the input cameras, and without the step whose file is damaged."""
    kept = tmp_path / "kept"
    for step in (5, 40, 700):
        (kept / f"step-{step:06d}").mkdir(parents=True)
        shown = Preview(random_gaussians(step), facelift_ring(32, 3), "scene_000020")
        for name, write in shown.writers.items():
            write(kept / f"step-{step:06d}" / name)
    (kept / "step-000700" / "preview.ply").write_bytes(b"ply\n")
    with Journal(tmp_path / "journal") as journal:
        open_sweep(journal, "a & <b>")
        open_trial(journal, 0)
        journal.append(GaussiansKept(0, str(kept)))
        journal.append(GaussiansKept(0, str(tmp_path / "gone")))
        journal.append(SweepClosed("COMPLETE"))
        assert MLflowDelivery(journal, uri, tmp_path / "artifacts", pages=MlflowPages()).start().close(60)
        assert read(journal).trials[0].gaussians == str(tmp_path / "gone")
    _, [trial] = runs(uri, "a & <b>")
    page = Path(mlflow.artifacts.download_artifacts(f"{trial.info.artifact_uri}/splat.html")).read_text()
    facts = json.loads(re.findall(r'id="facts">(.*?)</script>', page)[0])
    assert [(step["label"], step["count"]) for step in facts["steps"]] == [("5", 5), ("40", 40)]
    assert len(facts["cameras"]) == 3 and "scene_000020 of val, made of 3 views" in page
    assert "t0000 · a &amp; &lt;b&gt;" in page and "a & <b>" not in page
