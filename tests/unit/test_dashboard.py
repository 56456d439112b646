"""The pages of the dashboard and their JSON: what they show, what they refuse, and what happens without their store."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from dashboards.app.app import make_app
from dashboards.app.progress import progress
from dashboards.app.scenes import first_row
from dashboards.app.shield import is_loopback
from dashboards.cli import dashboard
from pipeline.data.pictures import sheet
from sweeps.book.journal import Journal, Reported
from sweeps.book.record import record_of
from sweeps.errors import SweepError
from sweeps.home import Home
from sweeps.tracking.mlflow_layout import PLANNED_TAG
from sweeps.tracking.queries import Reader, sweeps
from tests.support import dashboards, recorded

HERE = "http://127.0.0.1:8710"
HOSTILE_TAG = "<script>document"
PAGES = [
    ("/", "/index.json"),
    ("/sweep?name=alpha", "/sweep.json?name=alpha"),
    ("/run?run=live/1", "/run.json?run=live/1"),
    ("/compare?run=live/0&run=live/1&run=alpha/2", "/compare.json?run=live/0&run=live/1&run=alpha/2"),
    ("/compare", "/compare.json"),
    ("/elsewhere", "/elsewhere.json"),
    ("/models", "/models.json"),
    ("/model?name=mouse-gslrm", "/model.json?name=mouse-gslrm"),
    ("/diff?a=mouse-gslrm/1&b=mouse-gslrm/2", "/diff.json?a=mouse-gslrm/1&b=mouse-gslrm/2"),
    ("/3d?run=live/0&version=mouse-gslrm/2", "/3d.json?run=live/0&version=mouse-gslrm/2"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = dashboards.whole_home(tmp_path_factory.mktemp("dashboard"))
    dashboards.register(home)
    return home


@pytest.fixture(scope="module")
def client(whole: Home) -> TestClient:
    return TestClient(make_app(whole), base_url=HERE)


@pytest.fixture
def home(whole: Home, tmp_path: Path) -> Home:
    """A copy of the sweeps, which a test may hurt."""
    shutil.copytree(whole.journals, tmp_path / "journal")
    return dashboards.home_at(tmp_path)


def opened(home: Home, **options: object) -> TestClient:
    return TestClient(make_app(home, **options), base_url=HERE)  # type: ignore[arg-type]


@pytest.mark.parametrize(("page", "twin"), PAGES)
def test_every_page_and_its_twin_answer(client: TestClient, page: str, twin: str) -> None:
    shown, told = client.get(page), client.get(twin)
    assert (shown.status_code, told.status_code) == (200, 200)
    assert 'id="main"' in shown.text
    assert isinstance(told.json(), dict)
    named = re.search(r'<a href="([^"]+)">this page as JSON', shown.text)
    assert named is not None
    assert client.get("/" + named[1].replace("&amp;", "&")).json().keys() == told.json().keys()


def test_the_overview_counts_trials_and_names_the_best(client: TestClient) -> None:
    rows = {row["name"]: row for row in client.get("/index.json").json()["sweeps"]}
    assert rows.keys() == {"alpha", "live", "odd"}
    assert rows["live"]["best"] == {"trial": 1, "value": 23.0, "step": 20, "state": "RUNNING"}
    assert (rows["live"]["counts"]["RUNNING"], rows["live"]["counts"]["WAITING"]) == (2, 2)
    assert rows["alpha"]["done"] == 1.0
    assert rows["alpha"]["judged"] == 6  # those of the best one's protocol


def test_trials_of_two_protocols_are_never_in_one_table(client: TestClient) -> None:
    tables = client.get("/sweep.json?name=alpha").json()["tables"]
    assert [len(table["rows"]) for table in tables] == [6, 6]
    assert len({table["protocol"] for table in tables}) == 2
    groups = client.get("/compare.json?run=alpha/0&run=alpha/1&run=alpha/2").json()["groups"]
    assert sorted(group["refs"] for group in groups) == [["alpha/0", "alpha/2"], ["alpha/1"]]
    assert client.get("/compare?run=alpha/0&run=alpha/1").text.count('aria-label="Figures"') == 2


def test_the_place_of_a_trial_is_among_those_that_were_measured_alike(client: TestClient) -> None:
    for table in client.get("/sweep.json?name=alpha").json()["tables"]:
        runs = [client.get("/run.json", params={"run": row["ref"]}).json()["run"] for row in table["rows"]]
        best = [run["best"] for run in runs if run["best"] is not None]
        assert [run["place"] for run in runs] == [*range(1, len(best) + 1), *[None] * (len(runs) - len(best))]
        assert {run["judged"] for run in runs} == {len(best)}


def test_a_trial_of_another_home_is_compared_by_what_mlflow_has_of_it(client: TestClient, whole: Home) -> None:
    run = f"mlflow:{dashboards.trial_elsewhere(whole)}"
    listed = client.get("/elsewhere.json").json()["trials"]
    assert [(one["ref"], one["sweep"], one["best"]) for one in listed] == [(run, "far", {"val/psnr": 22.5})]
    assert HOSTILE_TAG not in client.get("/elsewhere").text
    told = client.get("/compare.json", params={"run": [run, "live/0"]}).json()
    far = told["runs"][0]
    assert (far["name"], far["best"], far["best_step"], far["state"]) == ("t0007 · far", 22.5, 20, "PRUNED")
    assert [point[:2] for point in far["metrics"]["val/psnr"]] == [[10, 21.0], [20, 22.5]]
    assert {"path": "optim.lr", "values": [3e-4, 1e-4]} in told["differing"]
    assert len(told["groups"]) == 2  # on other data
    assert client.get("/run", params={"run": run}).status_code == 200
    assert HOSTILE_TAG not in client.get("/run", params={"run": run}).text
    assert client.get("/run?run=mlflow:" + "0" * 32).status_code == 404


def test_charts_are_those_of_the_report(client: TestClient) -> None:
    charts = client.get("/charts?name=alpha&group=1").json()["charts"]
    assert {"Best so far", "Parallel coordinates"} <= {chart["title"] for chart in charts}
    assert client.get("/charts?name=alpha&group=2").status_code == 404


def test_a_run_has_its_figures_settings_and_pictures(client: TestClient) -> None:
    told = client.get("/run.json?run=live/1").json()
    assert [point[:2] for point in told["metrics"]["val/psnr"]] == [[10, 22.0], [20, 23.0]]
    assert told["settings"][0] == {"path": "optim.lr", "value": 2e-4, "why": "searched"}
    assert [picture["step"] for picture in told["previews"]] == [10, 20]
    for picture in told["previews"]:
        assert client.get("/" + picture["url"]).content.startswith(b"\x89PNG")


def test_settings_that_differ_are_told_from_those_that_do_not(client: TestClient) -> None:
    told = client.get("/compare.json?run=live/0&run=live/1").json()
    assert told["differing"] == [{"path": "optim.lr", "values": [1e-4, 2e-4]}]
    assert {row["path"] for row in told["same"]} == {"train.max_steps", *dashboards.VIEWS}


def test_runs_are_put_beside_each_other_at_the_last_step_that_all_have(home: Home) -> None:
    with Journal(home.journal("live")) as journal:
        dashboards.report(journal, 0, 30, 30.0)  # the other one is still at step 20
    (group,) = opened(home).get("/compare.json?run=live/0&run=live/1").json()["groups"]
    assert group["alike"] == [{"name": "val/psnr", "step": 20, "values": [22.0, 23.0]}]


def test_a_model_has_gates_lineage_and_differences(client: TestClient) -> None:
    (table,) = client.get("/model.json?name=mouse-gslrm").json()["tables"]
    assert [(one["version"], one["aliases"], one["run"]) for one in table["versions"]] == [
        (2, ["champion"], "live/1"),
        (1, [], "live/0"),
    ]
    assert [one["gates"][0]["passed"] for one in table["versions"]] == [True, False]
    told = client.get("/diff.json?a=mouse-gslrm/1&b=mouse-gslrm/2").json()
    assert told["figures"] == [{"name": "test/psnr", "values": [21.0, 22.0]}]
    assert told["settings"] == [{"path": "optim.lr", "values": [1e-4, 2e-4]}]


def test_gaussians_stand_apart_from_the_pages(client: TestClient) -> None:
    page = client.get("/gaussians?run=live/1")
    assert page.status_code == 200
    assert page.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")
    missing = client.get("/gaussians?run=alpha/1")
    assert (missing.status_code, "expected Gaussians on this machine" in missing.text) == (404, True)


def test_the_views_of_a_run_are_the_first_row_of_its_preview(client: TestClient) -> None:
    from io import BytesIO

    with Image.open(BytesIO(client.get("/inputs?run=live/0").content)) as picture:
        assert picture.size == (3 * dashboards.SIDE, dashboards.SIDE)


@pytest.mark.parametrize("size", [32, 64, 200])
def test_the_first_row_of_a_preview_keeps_its_titles_and_whole_views(size: int) -> None:
    rows = torch.rand(5, 6, 3, size, size)
    preview = sheet(rows, names=["given", "rendered", "error x3", "mask", "opacity"], titles=["input\n21.3 dB"] * 6)
    row = np.asarray(first_row(Image.fromarray(preview), 6, size))
    bare = sheet(rows[:1])
    titles = np.array(preview.shape[:2]) - np.array(sheet(rows).shape[:2])
    assert row.shape == (titles[0] + bare.shape[0], preview.shape[1], 3)
    np.testing.assert_array_equal(row[titles[0] :, titles[1] :], bare)


@pytest.mark.parametrize("page", ["/", "/sweep?name=odd", "/run?run=odd/0", "/compare?run=odd/0&run=live/0", "/models"])
def test_hostile_texts_are_text(client: TestClient, page: str) -> None:
    shown = client.get(page).text
    assert HOSTILE_TAG not in shown
    assert "</script><script>" not in shown
    assert "<b>쥐" not in shown


def test_what_the_scripts_of_a_page_read_is_what_its_json_says(client: TestClient) -> None:
    shown = client.get("/run?run=odd/0").text
    (inside,) = re.findall(r'<script type="application/json" id="metrics" data-live>(.*?)</script>', shown)
    assert json.loads(inside)["runs"][0]["metrics"] == client.get("/run.json?run=odd/0").json()["metrics"]
    assert client.get("/run.json?run=odd/0").json()["metrics"]["train/loss"][0][1] == "nan"


@pytest.mark.parametrize(
    "address",
    [
        "/preview?run=odd/0&name=%3C%2Fscript%3E&step=1",
        "/preview?run=live/0&name=../../journal.jsonl&step=10",
        "/preview?run=..%2F..%2Fetc/0&name=x",
        "/inputs?run=alpha/0",
        "/static/..%2Fsplat.html",
        "/static/base.html",
        "/sweep?name=..%2Flive",
        "/sweep?name=none",
        "/sweep",
        "/run?run=live/99",
        "/run?run=live/%D9%A3",
        "/run?run=live",
        "/model?name=none",
        "/diff?a=mouse-gslrm/1&b=mouse-gslrm/9",
        "/compare?" + "&".join(f"run=alpha/{number}" for number in range(7)),
        "/docs",
    ],
)
def test_what_is_not_there_is_not_found(client: TestClient, address: str) -> None:
    assert client.get(address).status_code == 404


def test_a_picture_outside_the_folder_of_its_sweep_is_not_read(client: TestClient, whole: Home) -> None:
    (whole.journals.parent / "secret.png").write_bytes(dashboards.png(1))
    asked = {"run": "odd/0", "name": dashboards.HOSTILE, "step": "1"}
    assert client.get("/preview", params=asked).status_code == 404
    assert client.get("/run.json?run=odd/0").json()["previews"] == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_is_taken_but_questions(client: TestClient, method: str) -> None:
    assert client.request(method, "/").status_code == 405


@pytest.mark.parametrize(
    ("name", "status"),
    [("127.0.0.1:8710", 200), ("localhost:8710", 200), ("[::1]:8710", 200), ("evil.example", 421), ("", 421)],
)
def test_a_loopback_server_answers_to_its_own_names_alone(client: TestClient, name: str, status: int) -> None:
    assert client.get("/static/app.css", headers={"Host": name}).status_code == status


def test_a_server_for_others_answers_to_any_name(whole: Home) -> None:
    client = TestClient(make_app(whole, "0.0.0.0"), base_url="http://lab.example:8710")
    assert client.get("/static/app.css").status_code == 200
    assert not is_loopback("0.0.0.0")


def test_pages_let_the_browser_run_their_own_scripts_alone(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    assert client.get("/").headers["x-content-type-options"] == "nosniff"


def test_a_damaged_journal_is_told_beside_the_others_and_comes_back(home: Home) -> None:
    client, path = opened(home), Journal(home.journal("live")).path
    content = path.read_bytes()
    path.write_bytes(b"{}\n" + content)
    rows = {row["name"]: row["problem"] for row in client.get("/index.json").json()["sweeps"]}
    assert "expected an event of a sweep" in rows["live"]
    assert rows["alpha"] == ""
    page = client.get("/sweep?name=live")
    assert (page.status_code, "Not readable now" in page.text) == (503, True)
    path.write_bytes(content)
    assert client.get("/sweep?name=live").status_code == 200


def test_only_the_news_of_a_sweep_is_read(home: Home) -> None:
    client, journal = opened(home), Journal(home.journal("live"))
    assert client.get("/index.json").status_code == 200
    content = journal.path.read_bytes()
    with journal.path.open("r+b") as file:  # what was read once cannot be read again
        file.write(b"x" * content.index(b"\n"))
    with journal:
        dashboards.report(journal, 0, 30, 30.0)
    row = client.get("/sweep.json?name=live").json()
    assert (row["sweep"]["best"]["value"], row["sweep"]["best"]["step"]) == (30.0, 30)


def test_a_journal_that_another_one_replaced_is_read_anew(home: Home) -> None:
    client, folder = opened(home), home.journal("live")
    assert client.get("/sweep.json?name=live").json()["sweep"]["planned"] == 4
    shutil.rmtree(folder)
    recorded.write(folder, 3, 2, "live")
    assert client.get("/sweep.json?name=live").json()["sweep"]["planned"] == 3


def test_a_sweep_whose_driver_is_gone_is_interrupted(home: Home) -> None:
    last = record_of(Journal(home.journal("live")), 0.0).ledger.last_event_time
    client = opened(home, reader=Reader(home, lambda: last + 60))
    assert client.get("/sweep.json?name=live").json()["sweep"]["state"] == "INTERRUPTED"
    with Journal(home.journal("live")).claim():
        again = opened(home, reader=Reader(home, lambda: last + 60))
        assert again.get("/sweep.json?name=live").json()["sweep"]["state"] == "RUNNING"


def test_a_store_that_is_away_takes_its_pages_alone(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    client = opened(dashboards.home_at(tmp_path, f"http://127.0.0.1:{port}"))
    page = client.get("/models")
    assert (page.status_code, "expected an answer of MLflow" in page.text) == (503, True)
    assert client.get("/models.json").json()["away"] is True
    assert client.get("/").status_code == 200


def test_a_home_without_anything_says_how_to_begin(tmp_path: Path) -> None:
    client = opened(dashboards.home_at(tmp_path / "new"))
    assert "mouselift sweep run" in client.get("/").text
    assert "mouselift model promote" in client.get("/models").text
    assert not (tmp_path / "new").exists()


def test_time_that_is_left_goes_with_the_trials_that_it_rests_on(tmp_path: Path) -> None:
    """Two of four trials made 20 of their 100 steps in 10 s each: 160 + 200 steps at 0.5 s, two at a time."""
    now = [0.0]
    with Journal(tmp_path / "live", clock=lambda: now[0]) as journal:
        dashboards.live(journal, tmp_path / "kept", concurrent=2)
        now[0] = 10.0
        for number in (0, 1):
            dashboards.report(journal, number, 20, 1.0)
        told = progress(record_of(journal, 10.0), interrupted=False)
    assert (told["seconds_left"], told["rests_on"]) == (pytest.approx(90.0), "the pace of 2 trials")
    assert (told["done"], told["counts"]["WAITING"]) == (pytest.approx(0.1), 2)
    assert progress(record_of(journal, 10.0), interrupted=True)["seconds_left"] is None


def test_a_port_that_is_taken_is_refused_before_anything_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOUSELIFT_HOME", str(tmp_path / "home"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SweepError, match=f"expected 127.0.0.1:{port} to be free for this user"):
            dashboard(port, "127.0.0.1")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("page", ["/run", "/preview", "/gaussians", "/3d", "/charts?name=alpha"])
def test_a_number_of_thousands_of_digits_is_no_trial(client: TestClient, page: str) -> None:
    """Python refuses to read it as an int."""
    assert (
        client.get(page, params={"run": "live/" + "9" * 5000, "name": "alpha", "group": "9" * 5000}).status_code == 404
    )


def test_what_anybody_wrote_in_a_registry_is_told_and_no_mistake_of_the_page(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    home = dashboards.home_at(tmp_path)
    dashboards.register(home)
    client, store = opened(home), MlflowClient(home.tracking_uri, registry_uri=home.tracking_uri)
    for tag, text in (("gates", "[1]"), ("gates", "{"), ("test/psnr", "abc")):
        store.set_model_version_tag("mouse-gslrm", "1", tag, text)
        told = client.get("/model.json?name=mouse-gslrm")
        assert (told.status_code, f"in the tag {tag}, got" in told.json()["problem"]) == (404, True)
    store.set_model_version_tag("mouse-gslrm", "1", "test/psnr", "21.0")
    store.set_model_version_tag("mouse-gslrm", "1", "gates", "[]")
    store.set_model_version_tag("mouse-gslrm", "1", "checkpoint.step", "²")  # str.isdigit takes it for a number
    assert client.get("/3d?version=mouse-gslrm/1").status_code == 200
    run = dashboards.trial_elsewhere(home)
    store.set_tag(run, "trial.number", "²")
    tags = {"sweep.name": "far", "sweep.state": "COMPLETE", PLANNED_TAG: "many"}
    store.create_run("0", tags=tags)
    assert [found.planned for found in sweeps(home.tracking_uri)] == [None]
    assert client.get("/elsewhere.json").json() == {"trials": []}
    assert client.get(f"/run?run=mlflow:{run}").status_code == 404


def test_a_damaged_picture_is_not_found(home: Home) -> None:
    with Journal(home.journal("live")) as journal:
        journal.keep("x.png", b"")
        journal.append(Reported(0, 30, {}, {"val/preview": "blobs/\0.png"}))
        journal.append(Reported(1, 30, {}, {"val/preview": journal.keep("y.png", dashboards.png(1)[:60])}))
    client = opened(home)
    for address in ("/inputs?run=live/0", "/inputs?run=live/1", "/preview?run=live/0&name=val/preview&step=30"):
        assert client.get(address).status_code == 404


def test_a_journal_that_was_written_over_in_its_place_is_read_anew(home: Home, tmp_path: Path) -> None:
    """A file system gives the inode of a deleted journal to the next one, which may have grown longer."""
    client, path = opened(home), Journal(home.journal("live")).path
    assert client.get("/sweep.json?name=live").json()["sweep"]["planned"] == 4
    path.write_bytes((recorded.write(tmp_path / "other", 30, 5, "live") / path.name).read_bytes())
    assert client.get("/sweep.json?name=live").json()["sweep"]["planned"] == 30


def test_a_mistake_of_a_page_is_told_in_the_page(home: Home) -> None:
    class Broken(Reader):
        def names(self) -> list[str]:
            raise RuntimeError("a secret")

    client = TestClient(make_app(home, reader=Broken(home)), base_url=HERE, raise_server_exceptions=False)
    page, twin = client.get("/"), client.get("/index.json")
    assert (page.status_code, twin.status_code) == (500, 500)
    assert 'id="problem"' in page.text  # by which the page that polls knows it
    assert "RuntimeError" in twin.json()["problem"]
    assert "secret" not in page.text + twin.text
    assert page.headers["content-security-policy"]
