"""Commands of the memory: train, sweep, and the registry. Results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import Overrides, split_overrides
from pipeline.data.cli import AsJson
from pipeline.data.cli import data as data_commands

if TYPE_CHECKING:
    from sweeps.home import Home
    from sweeps.ledger import Ledger
    from sweeps.space import SearchSpace

sweep = typer.Typer(no_args_is_help=True, help="Search a space of recipes.")
model = typer.Typer(no_args_is_help=True, help="Registered models: verify, promote, pull.")

Name = Annotated[str | None, typer.Option(help="Name of the sweep (default: what it runs, and the time).")]
Data = Annotated[str | None, typer.Option(help="Dataset folder or registered name: data.root.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Ref = Annotated[str, typer.Argument(help="NAME@ALIAS, NAME/VERSION, or NAME for its champion.")]
INTERRUPTED = 130
_FILE_WIDTH = 200  # of a table that goes to a file or another program


def mount(app: typer.Typer) -> None:
    """Add these commands to the front door."""
    from sweeps.check import check

    app.command()(check)
    app.command()(train)
    app.add_typer(sweep, name="sweep")
    app.add_typer(model, name="model")


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or YAML file.")],
    overrides: Overrides = None,
    data: Data = None,
    name: Name = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs (default: one, where there is one).")] = None,
    as_json: AsJson = False,
) -> None:
    """Train one recipe: a sweep of one, logged like any other."""
    from pipeline.recipe import load_recipe
    from sweeps.space import SearchSpace, Trials

    resolved = load_recipe(recipe, split_overrides(overrides) + _root(data))
    standing = load_recipe(recipe).params
    changed = {path: value for path, value in resolved.params.items() if value != standing[path]}
    taken = float(_has_gpu()) if gpus is None else gpus
    space = SearchSpace(name=resolved.name, recipe=recipe, fixed=changed, trials=Trials(gpus=taken))
    _run(space, name or _timed(resolved.name), as_json)


@sweep.command("run")
def sweep_run(
    space: Annotated[str, typer.Argument(help="A search space's name or YAML file.")],
    overrides: Overrides = None,
    data: Data = None,
    name: Name = None,
    as_json: AsJson = False,
) -> None:
    """Run a search space: Optuna chooses, Ray runs, MLflow shows. `--set` reaches the space's own keys."""
    from sweeps.space import load_space

    loaded = load_space(space, split_overrides(overrides) + [f"fixed.{item}" for item in _root(data)])
    _run(loaded, name or _timed(loaded.name), as_json)


@sweep.command("status")
def sweep_status(name: Annotated[str, typer.Argument()], as_json: AsJson = False) -> None:
    """Say how far a sweep is."""
    from sweeps import queries

    found = queries.status(_home(), name)
    if as_json:
        typer.echo(json.dumps(found))
        return
    counts = ", ".join(f"{count} {state}" for state, count in found["trials"].items() if count)
    typer.echo(f"{found['name']}: {found['state']}; {counts or 'no trials'}")
    if found["best"]:
        best = found["best"]
        typer.echo(f"best: t{best['trial']:04d} {best['metric']} {best['value']:.4g} at step {best['step']}")


@sweep.command("list")
def sweep_list(as_json: AsJson = False) -> None:
    """List the sweeps in the store, newest first."""
    from sweeps import queries

    found = queries.sweeps(_home().tracking_uri)
    if as_json:
        typer.echo(json.dumps([{"name": s.name, "recipe": s.recipe, "state": s.state} for s in found]))
        return
    _table(["sweep", "recipe", "state"], [[s.name, s.recipe, s.state] for s in found])


@data_commands.command("register")
def data_register(
    dataset: Annotated[Path, typer.Argument(help="A dataset folder.")],
    name: Annotated[str | None, typer.Option(help="Its name (default: the folder's).")] = None,
    as_json: AsJson = False,
) -> None:
    """Give a dataset a name that `--data` understands; its content is compared whenever it is used."""
    from pipeline import config
    from sweeps import datasets

    entry = datasets.register(_home(), name or dataset.resolve().name, dataset)
    typer.echo(json.dumps(config.as_plain(entry)) if as_json else f"{entry.name} {entry.digest[:12]} {entry.path}")


@data_commands.command("forget")
def data_forget(name: Annotated[str, typer.Argument(help="A registered dataset.")]) -> None:
    """Take a dataset's name away; the data stays."""
    from sweeps import datasets

    datasets.forget(_home(), name)


@data_commands.command("list")
def data_list(as_json: AsJson = False) -> None:
    """List the registered datasets."""
    from pipeline import config
    from sweeps import datasets

    known = datasets.registered(_home()).values()
    if as_json:
        typer.echo(json.dumps([config.as_plain(entry) for entry in known]))
        return
    _table(["name", "digest", "geometry", "path"], [[e.name, e.digest[:12], e.geometry or "", e.path] for e in known])


@data_commands.command("generate")
def data_generate(
    source: Annotated[Path, typer.Argument(help="Pictures: a folder, a file, or a dataset's scenes.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new dataset; an interrupted one is continued.")],
    model: Annotated[str, typer.Option(help="A fine-tuned MVDiffusion: NAME@ALIAS, or a checkpoint folder.")],
    view: Annotated[int, typer.Option(help="Of a dataset: which view of each scene is the picture.")] = 0,
    batch: Annotated[int, typer.Option(help="Objects generated at a time.")] = 4,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Turn single pictures into six-view scenes, labelled with the rig that the model was trained on."""
    from pipeline import checkpoint
    from pipeline.data.cli import say_dataset, show_progress
    from pipeline.data.generate import generate, read_pictures

    pictures = read_pictures(source, view)
    with tempfile.TemporaryDirectory(prefix="mouselift-") as folder:
        path = Path(model) if Path(model).is_dir() else _registry().pull(model, Path(folder) / "model")
        loaded = checkpoint.load(path, device, kind="mvdiffusion")
        generator: Any = loaded.model
        told = {"model": model, "sha256": loaded.sha256, "step": loaded.step, "view": view, **generator.told()}
        show_progress(generate(pictures, out, generator, told, batch), len(pictures.paths))
    say_dataset(out, as_json)


@model.command("promote")
def model_promote(
    sweep: Annotated[str, typer.Argument(help="A finished sweep.")],
    trial: Annotated[int | None, typer.Option(help="Another trial than the best.")] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Evaluate a sweep's best checkpoint afresh, register it, and make it champion if it earns that."""
    from sweeps.promotion import promote_best

    verdict = promote_best(_home(), sweep, device, trial)
    if as_json:
        typer.echo(json.dumps(verdict.version.as_plain() | {"alias": verdict.alias, "reason": verdict.reason}))
        return
    metrics = verdict.version.metrics
    _table(["metric", "figure"], [[key, f"{metrics[key]:.4f}"] for key in sorted(metrics)])
    if verdict.gates:
        rows = [[result.gate.metric, result.gate.target, "✓" if result.passed else "✗"] for result in verdict.gates]
        _table(["gate", "target", "passed"], rows)
    typer.echo(f"{verdict.version.ref} is {verdict.alias}: {verdict.reason}")


@model.command("list")
def model_list(
    name: Annotated[str | None, typer.Argument(help="One registered model.")] = None, as_json: AsJson = False
) -> None:
    """List registered versions with their aliases and verified figures."""
    versions = _registry().list_versions(name)
    if as_json:
        typer.echo(json.dumps([version.as_plain() for version in versions]))
        return
    keys = ("test/psnr", "test/psnr_fg", "test/mask_iou")
    rows = [
        [v.ref, " ".join(v.aliases), *(f"{v.metrics[k]:.3f}" if k in v.metrics else "" for k in keys)] for v in versions
    ]
    _table(["version", "aliases", *keys], rows)


@model.command("pull")
def model_pull(
    ref: Ref,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the checkpoint.")],
    as_json: AsJson = False,
) -> None:
    """Download a registered checkpoint; every file's hash is compared."""
    folder = _registry().pull(ref, out)
    typer.echo(json.dumps({"folder": str(folder)}) if as_json else folder)


@model.command("rollback")
def model_rollback(name: Annotated[str, typer.Argument(help="A registered model.")]) -> None:
    """Make the previous champion champion again."""
    version = _registry().rollback(name)
    typer.echo(f"{version.ref} is champion")


@model.command("evaluate")
def model_evaluate(
    source: Annotated[str, typer.Argument(help="A checkpoint folder, or a registered model.")],
    data: Annotated[str, typer.Option(help="Dataset folder or registered name.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on a split: held-out and input views, with the protocol's id."""
    from pipeline import checkpoint
    from sweeps.verification import score_at

    with tempfile.TemporaryDirectory(prefix="mouselift-") as folder:
        path = Path(source) if Path(source).is_dir() else _registry().pull(source, Path(folder) / "model")
        loaded = checkpoint.load(path, device)
        found = score_at(loaded, _data(data), split, _home().cache)
    if as_json:
        typer.echo(json.dumps({"protocol": found.protocol.id, "metrics": found.metrics, "scenes": found.scenes}))
        return
    _table(["metric", "figure"], [[key, f"{value:.4f}"] for key, value in sorted(found.metrics.items())])
    typer.echo(f"protocol {found.protocol.id}", err=True)


@model.command("import")
def model_import(
    source: Annotated[Path, typer.Argument(help="A checkpoint folder, or a FaceLift .pt.")],
    recipe: Annotated[str, typer.Option(help="Recipe of the network that a .pt holds.")] = "gslrm",
    overrides: Overrides = None,
) -> None:
    """Register a checkpoint made elsewhere; every tensor must fit."""
    from pipeline import checkpoint
    from pipeline.recipe import load_recipe
    from sweeps.promotion import registered_name
    from sweeps.verification import unverified

    with tempfile.TemporaryDirectory(prefix="mouselift-") as folder:
        if not source.is_dir():
            wanted = load_recipe(recipe, split_overrides(overrides))
            source = checkpoint.import_facelift(source, Path(folder) / source.stem, wanted)
        verification = unverified(source)
        name = registered_name(verification.checkpoint.recipe)
        version = _registry().import_checkpoint(name, verification)
    typer.echo(version.ref)


def _run(space: SearchSpace, name: str, as_json: bool) -> None:
    """Check, run and report a sweep; leaves with 130 when it was interrupted and 1 when no trial finished."""
    from rich.console import Console

    from sweeps.artefacts import with_registered_start
    from sweeps.preflight import check_name_is_free, cpus_per_trial, preflight, this_machine
    from sweeps.progress import Progress

    home = _home()
    check_name_is_free(home, name)
    if home.ray_address is None:
        cpus_per_trial(space, [this_machine()])
    space = with_registered_start(space, home).located()
    ready = preflight(space, home)
    typer.echo(f"preflight: {len(ready.rows)} checks passed in {ready.seconds:.1f} s", err=True)
    from sweeps.tune import run_sweep  # imports Ray, which a refusal need not wait for

    progress = Progress(Console(stderr=True), ready.recipe.train.max_steps)
    with progress.shown():
        ledger = run_sweep(name, space, ready, home, progress)
    _report(ledger, home, as_json)
    if ledger.state == "KILLED":
        raise typer.Exit(INTERRUPTED)
    if not ledger.count("COMPLETE"):
        raise typer.Exit(1)


def _report(ledger: Ledger, home: Home, as_json: bool) -> None:
    from sweeps import queries
    from sweeps.progress import describe

    importance = queries.importance_of(home, ledger.name) if len(ledger.trials) > 1 else {}
    ranked = ledger.ranked
    if as_json:
        status = queries.status(home, ledger.name)
        typer.echo(json.dumps(status | {"importance": importance}))
        return
    metric = ledger.objective.metric if ledger.objective else "objective"
    rows = [
        [f"t{t.number:04d}", t.state, str(max(0, t.last_step)), _figure(t.best_value), describe(t.params) or t.reason]
        for t in ranked
    ]
    _table(["trial", "state", "step", f"best {metric}", "params"], rows)
    if importance:
        _table(["setting", "importance"], [[path, f"{value:.2f}"] for path, value in importance.items()])
    if ledger.best is not None and ledger.best.state == "COMPLETE":
        typer.echo(f"promote the best: mouselift model promote {ledger.name}", err=True)
    typer.echo("see it: mouselift ui", err=True)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _table(columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != "params", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH)
    console.print(table, highlight=False)


def _root(data: str | None) -> list[str]:
    return [] if data is None else [f"data.root={_data(data)}"]


def _data(name_or_path: str) -> Path:
    from sweeps.datasets import resolve

    return resolve(_home(), name_or_path)


def _home() -> Home:
    from sweeps.home import Home

    return Home.from_environment(os.environ)


def _registry() -> Any:
    from sweeps.registry import Registry

    return Registry(_home())


def _timed(stem: str) -> str:
    from sweeps.home import timed_name

    return timed_name(stem, datetime.now())


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
