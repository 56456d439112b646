"""The routes: each page is a value, which a template shows, or JSON at the same address with `.json` behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.datastructures import QueryParams

from dashboards.app import figures
from dashboards.app.compare import compare_values
from dashboards.app.overview import overview
from dashboards.app.shield import Shield
from dashboards.app.sweep import Ref, preview_file, run_values, sweep_values
from pipeline.config import one_line
from pipeline.errors import PipelineError
from sweeps.errors import DamagedError, OutageError, StudyError, SweepError
from sweeps.home import Home
from sweeps.tracking.queries import Reader

Values = Callable[[QueryParams], dict[str, Any]]
TEMPLATES = Path(__file__).parents[1] / "templates" / "app"
STATIC = {"app.css": "text/css", "app.js": "text/javascript", "chart.js": "text/javascript"}
FOUND, NOT_FOUND, AWAY = 200, 404, 503


def make_app(home: Home, host: str = "127.0.0.1", clock: Callable[[], float] = time.time) -> Shield:
    """The pages of a home. host: the address on which they are served."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    reader, environment = Reader(home, clock), _environment()

    def page(path: str, name: str, values: Values) -> None:
        """Serve what `values` makes of an address's parameters: by the template of this name, and as JSON."""

        def html(request: Request) -> Response:
            status, found = answer(values, request.query_params)
            template = name if status == FOUND else "problem"
            text = environment.get_template(f"{template}.html").render(
                found, page=name, home=str(home.root), now=clock(), asked=request.query_params
            )
            return HTMLResponse(text, status)

        def twin(request: Request) -> Response:
            status, found = answer(values, request.query_params)
            return JSONResponse(figures.plain(found), status)

        app.add_api_route(path, html, methods=["GET", "HEAD"])
        app.add_api_route("/index.json" if path == "/" else f"{path}.json", twin, methods=["GET", "HEAD"])

    page("/", "overview", lambda _: overview(home, reader))
    page("/sweep", "sweep", lambda asked: sweep_values(reader, named(asked, "name")))
    page("/run", "run", lambda asked: run_values(reader, Ref.parse(named(asked, "run"))))
    page("/compare", "compare", lambda asked: compare_values(reader, [one for one in asked.getlist("run") if one]))

    @app.get("/preview")
    def preview(request: Request) -> Response:
        """A picture that a run reported."""
        asked = request.query_params
        return _file(
            lambda: preview_file(reader, Ref.parse(named(asked, "run")), named(asked, "name"), asked.get("step"))
        )

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in STATIC:
            return Response(status_code=NOT_FOUND)
        return FileResponse(TEMPLATES / name, media_type=STATIC[name])

    return Shield(app, host)


def answer(values: Values, asked: QueryParams) -> tuple[int, dict[str, Any]]:
    """A page's status and values; where they cannot be had now, what there is to say of it."""
    try:
        return FOUND, values(asked)
    except (DamagedError, OutageError, OSError) as error:
        return AWAY, {"problem": one_line(error), "away": True}
    except (SweepError, PipelineError) as error:
        return NOT_FOUND, {"problem": one_line(error), "away": False}


def named(asked: QueryParams, name: str) -> str:
    """A parameter that the address must have. Raises StudyError."""
    if name not in asked:
        raise StudyError(f"the address: expected ?{name}=…, got none — choose a link of the overview.")
    return asked[name]


def _file(find: Callable[[], Path]) -> Response:
    try:
        return FileResponse(find(), media_type="image/png", headers={"Cache-Control": "max-age=3600"})
    except (SweepError, OSError):
        return Response(status_code=NOT_FOUND)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": figures.figure,
        "setting": figures.setting,
        "duration": figures.duration,
        "day": figures.day,
        "data": figures.data,
        "query": figures.query,
    }
    return environment
