"""Commands of the windows."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dashboards.research.texts import Language
from pipeline.data.cli import AsJson, DataRoot, data
from pipeline.machine.outputs import require_file

if TYPE_CHECKING:
    from pipeline.cameras import Cameras
    from pipeline.data.gate.checks import Check
    from pipeline.data.gate.quality import Quality
    from pipeline.gaussians import Gaussians
    from sweeps.tracking.pages import Pages

_QUIET = "--log-level warning --no-access-log --lifespan off"  # uvicorn's; `lifespan` makes a fuss at Ctrl-C

_LAST_PORT = 65535


def mount(app: typer.Typer) -> None:
    """Add these commands to the front door."""
    app.command()(ui)
    app.command()(dashboard)
    app.command()(report)
    data.command("check")(check)  # not at import: the order of the commands is that of the mounts


def ui(
    port: Annotated[int, typer.Option(help="Port of the page.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    browser: Annotated[
        bool | None,
        typer.Option(help="Open the page in a browser (default: from a terminal on a desktop).", show_default=False),
    ] = None,
) -> None:
    """Open MLflow's UI on the store of this home, and say where each sweep is found in it, the newest first."""
    from dashboards.browser import has_browser, open_later
    from dashboards.ui_links import sweep_lines, without_user
    from sweeps.home import Home, is_served
    from sweeps.tracking import queries
    from sweeps.tracking.mlflow_client import prepare_store
    from sweeps.tracking.pages import EXPERIMENTS_PATH

    home = Home.from_environment(os.environ)
    served = is_served(home.tracking_uri)
    if not served:
        _require_port(host, port)
    prepare_store(home.tracking_uri)
    address = without_user(home.tracking_uri) if served else f"http://{f'[{host}]' if ':' in host else host}:{port}"
    page = f"{address}/{EXPERIMENTS_PATH}"
    typer.echo(page)
    for line in sweep_lines(queries.sweeps(home.tracking_uri), address):
        typer.echo(f"  {line}", err=True)
    if browser or (browser is None and not served and has_browser(os.environ, sys.platform, sys.stderr.isatty())):
        open_later(f"{address}/health", page)
    if served:
        return
    # One worker and no job runner: a store for one person needs neither, and starts in seconds.
    os.environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    store = ["--backend-store-uri", home.tracking_uri, "--registry-store-uri", home.tracking_uri]
    store += ["--artifacts-destination", str(home.artifacts)]
    place = ["--host", host, "--port", str(port), "--workers", "1", "--uvicorn-opts", _QUIET]
    os.dup2(2, 1)  # what the server says is no result
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *store, *place])


def dashboard(
    port: Annotated[int, typer.Option(help="Port of the pages.")] = 8710,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Show the sweeps and models of this home as they are now, in pages that change nothing; Ctrl-C ends it."""
    from sweeps.home import Home

    home = Home.from_environment(os.environ)
    _require_port(host, port)
    from dashboards.app.server import serve

    typer.echo(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    serve(home, host, port)


def report(
    sweep: Annotated[
        str | None, typer.Argument(metavar="SWEEP", help="A sweep of this home (default: the latest).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of reports (default: in the home).")
    ] = None,
    lang: Annotated[Language, typer.Option(help="Language of the report: English or Korean.")] = Language.EN,
    as_json: AsJson = False,
) -> None:
    """Write what came of a sweep: a dated report, its charts, and the index of all reports in the folder."""
    from dashboards.research.folder import write_report
    from sweeps.home import Home
    from sweeps.tracking import queries

    home = Home.from_environment(os.environ)
    written = write_report(home, sweep or queries.latest(home), out or home.root / "reports", lang, time.time())
    if as_json:
        typer.echo(json.dumps({name: str(path) for name, path in asdict(written).items()}))
        return
    for path in (written.report, written.charts, written.index):
        typer.echo(path)


class Windows:
    """What the commands of the other packages are handed: nothing is imported before it is asked for."""

    def view_page(self, gaussians: Gaussians, cameras: Cameras, title: str, inputs: Cameras) -> str:
        """The page that orbits Gaussians, as `splat_page`."""
        from dashboards.pages.splat import splat_page

        return splat_page(gaussians, cameras, title, inputs)

    def pages(self) -> Pages:
        """What makes the pages that MLflow shows."""
        from dashboards.pages.pages import MlflowPages

        return MlflowPages()


def _require_port(host: str, port: int) -> None:
    """Raises SweepError where nothing can listen: the links would lead to another server, or to none."""
    from sweeps.errors import SweepError

    if not 1 <= port <= _LAST_PORT:
        raise SweepError(f"--port: expected one of 1 to {_LAST_PORT}, got {port} — name another.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has ended is in nobody's way
            trial.bind(address)
            trial.listen()
    except socket.gaierror as error:
        raise SweepError(
            f"--host: expected an address of this machine, got {host} ({error.strerror}) — name another, such as "
            "127.0.0.1."
        ) from None
    except OSError as error:
        raise SweepError(
            f"--port: expected {host}:{port} to be free for this user, got {error.strerror} — name another with --port."
        ) from None


def check(
    dataset: Annotated[Path, typer.Argument(help="A dataset folder, FaceLift folder or one scene.")],
    page: Annotated[Path | None, typer.Option(help="HTML page (default: beside dataset.yaml, or here).")] = None,
    scenes: Annotated[
        int, typer.Option(min=1, help="How many scenes to look at, evenly spread; fewer than 60 are not stored.")
    ] = 60,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Judge whether cameras fit their images, and report the masks, the rig and the leakage between splits."""
    from dashboards.check_page import write_page
    from pipeline import config, progress
    from pipeline.data.gate import checks
    from pipeline.data.gate.quality import quality
    from pipeline.data.scenes import MANIFEST_FILE, open_dataset

    opened = open_dataset(dataset, verify=False, data_root=data_root)
    if page is not None or not os.access(dataset, os.W_OK):
        require_file(page or _page_beside(dataset, stored=False))
    with progress.shown() as tell:
        checked = checks.check(opened, scenes, tell)
    measured = quality(checked)
    stored = checks.store(checked)
    written = write_page(checked, measured, page or _page_beside(dataset, stored))
    if as_json:
        plain = checks.as_plain(checked)
        typer.echo(json.dumps(plain | {"quality": config.as_plain(measured), "page": str(written), "stored": stored}))
        return
    _print_check(checked, measured)
    typer.echo(f"page: {written}", err=True)
    if not stored:
        typer.echo(
            f"{dataset}: the verdict is not stored there (no {MANIFEST_FILE}, read only, or too few scenes)", err=True
        )


def _page_beside(dataset: Path, stored: bool) -> Path:
    return dataset / "check.html" if stored else Path(f"check-{dataset.resolve().name}.html")


def _print_check(found: Check, measured: Quality) -> None:
    """Verdict and problems, a row per view, and the seed's figures."""
    from dashboards.check_page import number
    from pipeline.data.gate.checks import figures
    from pipeline.data.gate.evidence import rests
    from pipeline.data.gate.quality import human_rigs
    from sweeps.cli.terminal import table

    geometry = found.geometry
    unmeasured = {one.view: one.why for one in geometry.unmeasured}
    typer.echo(f"{found.dataset.name}: {geometry.verdict}, {figures(geometry)}; {rests(geometry)}")
    for problem in found.problems:
        typer.echo(f"  {problem}")
    views = zip(found.scores.tolist(), found.iou.tolist(), measured.views, strict=True)
    table(
        ["view", "px", "IoU", "distance", "azimuth", "elevation", "FOV", ""],
        [
            [str(i), number(px, 2), number(iou, 3), f"{v.distance:.2f} ± {v.distance_std:.2f}"]
            + [f"{angle:.1f}°" for angle in (v.azimuth, v.elevation, v.fov)]
            + ["disagrees" if i in geometry.views else unmeasured.get(i, "")]
            for i, (px, iou, v) in enumerate(views)
        ],
        justify="right",
    )
    typer.echo(f"about {measured.origin}; ring {', '.join(map(str, measured.ring))}; {human_rigs()}")
    graded = f"grade {measured.grade} (blind to geometry)"
    grade = graded if measured.ungraded is None else f"no grade ({measured.ungraded})"
    typer.echo(
        f"{grade}: size {measured.size_ratio_percent:.1f} % ± "
        f"{number(measured.size_cv_percent, 2)} %, off the middle {measured.com_offset_px:.1f} px, foreground "
        f"{measured.foreground_share:.1%}, clipped views {measured.clipped_views_share:.0%}, "
        f"extent ±{geometry.extent:.2f}"
    )
    near = measured.leakage
    if near.nearest is not None:
        typer.echo(
            f"leakage: nearest neighbour of val and test in train {near.nearest:g} (by {near.measured_by}), "
            f"{near.near_duplicates} near-duplicates"
        )
