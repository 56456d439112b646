"""The routes: each page is a value, which a template shows, or JSON at the same address with `.json` behind it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import jinja2
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from PIL import Image
from starlette.datastructures import QueryParams

from dashboards import words
from dashboards.app import figures
from dashboards.app.compare import compare_values
from dashboards.app.machine import watch_processor
from dashboards.app.models import diff_values, model_values, models_values
from dashboards.app.overview import overview
from dashboards.app.scenes import gaussians_page, input_views, scenes_values
from dashboards.app.shield import APART, CHARTS, POLICY, Shield
from dashboards.app.sweep import Ref, charted, elsewhere_values, preview_file, run_values, sweep_values
from pipeline.config import one_line
from pipeline.errors import PipelineError
from sweeps.errors import DamagedError, OutageError, StudyError, SweepError
from sweeps.home import Home
from sweeps.tracking.queries import Reader

Values = Callable[[QueryParams], dict[str, Any]]
TEMPLATES = Path(__file__).parents[1] / "templates" / "app"
STATIC = {  # name -> the folder where it lies
    "style.css": TEMPLATES.parent,
    "charts.js": TEMPLATES.parent,
    **dict.fromkeys(("app.css", "app.js", "lines.js"), TEMPLATES),
}
TYPES = {".css": "text/css", ".js": "text/javascript"}
KEEP = {"Cache-Control": "max-age=600"}
FOUND, NOT_FOUND, BROKEN, AWAY = 200, 404, 500, 503
_BROKE = "This page could not be made: {}. That is a mistake of the dashboard; its terminal has the whole of it."


def make_app(home: Home, host: str = "127.0.0.1", reader: Reader | None = None) -> Shield:
    """The pages of a home. host: the address on which they are served; reader: of that home, a new one if None."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    reader, environment = reader or Reader(home), _environment()
    watch_processor()
    _tell_mistakes(app, environment, home)

    def page(path: str, name: str, values: Values, policy: str = POLICY) -> None:
        """Serve what `values` makes of an address's parameters: by the template of this name, and as JSON."""

        def html(request: Request) -> Response:
            status, found = answer(values, request.query_params)
            template = name if status == FOUND else "problem"
            text = environment.get_template(f"{template}.html").render(
                found, page=name, home=str(home.root), asked=request.query_params
            )
            return HTMLResponse(text, status, {"Content-Security-Policy": policy})

        def twin(request: Request) -> Response:
            status, found = answer(values, request.query_params)
            return JSONResponse(figures.plain(found), status)

        app.add_api_route(path, html, methods=["GET", "HEAD"])
        app.add_api_route("/index.json" if path == "/" else f"{path}.json", twin, methods=["GET", "HEAD"])

    def runs(asked: QueryParams, name: str = "run") -> list[str]:
        return [one for one in asked.getlist(name) if one]

    page("/", "overview", lambda _: overview(home, reader))
    page("/sweep", "sweep", lambda asked: sweep_values(reader, named(asked, "name")), CHARTS)
    page("/run", "run", lambda asked: run_values(reader, Ref.parse(named(asked, "run"))))
    page("/compare", "compare", lambda asked: compare_values(reader, runs(asked)))
    page("/elsewhere", "elsewhere", lambda _: elsewhere_values(reader))
    page("/models", "models", lambda _: models_values(home))
    page("/model", "model", lambda asked: model_values(home, reader, named(asked, "name")))
    page("/diff", "diff", lambda asked: diff_values(home, reader, named(asked, "a"), named(asked, "b")))
    page("/3d", "scenes", lambda asked: scenes_values(home, reader, runs(asked), runs(asked, "version")))

    @app.get("/gaussians")
    def gaussians(request: Request) -> Response:
        """A page of its own, with its own script in it, that stands apart from these."""
        asked = request.query_params
        status, found = answer(
            lambda _: {"page": gaussians_page(home, reader, asked.get("run"), asked.get("version"))}, asked
        )
        text = found["page"] if status == FOUND else f"<!doctype html><p>{escape(found['problem'])}"
        return HTMLResponse(text, status, {"Content-Security-Policy": APART})

    @app.get("/preview")
    def preview(request: Request) -> Response:
        """A picture that a run reported."""
        asked = request.query_params
        wanted = (asked.get("name", ""), asked.get("step"))
        return _picture(lambda: preview_file(reader, Ref.parse(named(asked, "run")), *wanted).read_bytes())

    @app.get("/inputs")
    def inputs(request: Request) -> Response:
        """The views that a run's last preview was made of."""
        return _picture(lambda: input_views(reader, Ref.parse(named(request.query_params, "run"))))

    @app.get("/charts")
    def charts(request: Request) -> Response:
        """The charts of a sweep's page, which asks for them when there is news."""
        asked = request.query_params
        status, found = answer(lambda _: charted(reader, named(asked, "name"), asked.get("group", "0")), asked)
        return JSONResponse(found, status)

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name == "plotly.js":
            return Response(plotly_script(), media_type=TYPES[".js"], headers=KEEP)
        if name not in STATIC:
            return Response(status_code=NOT_FOUND)
        return FileResponse(
            STATIC[name] / name, media_type=TYPES[Path(name).suffix], headers={"Cache-Control": "no-cache"}
        )

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


@cache
def plotly_script() -> str:
    """Plotly's script as its Python package brings it."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _tell_mistakes(app: FastAPI, environment: jinja2.Environment, home: Home) -> None:
    """Say what no page expects in the form in which each of them says what it cannot show; the server logs it whole."""

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        found = {"problem": _BROKE.format(type(error).__name__), "away": True}
        if request.url.path.endswith((".json", "/charts")):
            return JSONResponse(found, BROKEN)
        text = environment.get_template("problem.html").render(found, page="problem", home=str(home.root), asked="")
        return HTMLResponse(text, BROKEN)


def _picture(read: Callable[[], bytes]) -> Response:
    try:
        return Response(read(), media_type="image/png", headers=KEEP)
    except (SweepError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's, of damaged files
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
        "figure": words.figure,
        "setting": words.setting,
        "duration": words.duration,
        "day": figures.day,
        "data": figures.data,
        "query": figures.query,
    }
    return environment
