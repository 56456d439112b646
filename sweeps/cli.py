"""Commands of the memory: train, sweep, and the registry. Results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli import Overrides, split_overrides
from pipeline.data.cli import AsJson
from pipeline.data.cli import data as data_commands
from sweeps import shell
from sweeps.check import check
from sweeps.sweep_cli import sweep, train

model = typer.Typer(no_args_is_help=True, help="Registered models: verify, promote, pull.")

Ref = Annotated[str, typer.Argument(help="NAME@ALIAS, NAME/VERSION, or NAME for its champion.")]


def mount(app: typer.Typer) -> None:
    """Add these commands to the front door."""
    app.command()(check)
    app.command()(train)
    app.add_typer(sweep, name="sweep")
    app.add_typer(model, name="model")


@data_commands.command("register")
def data_register(
    dataset: Annotated[Path, typer.Argument(help="A dataset folder.")],
    name: Annotated[str | None, typer.Option(help="Its name (default: the folder's).")] = None,
    as_json: AsJson = False,
) -> None:
    """Give a dataset a name that `--data` understands; its content is compared whenever it is used."""
    from pipeline import config
    from sweeps import datasets

    entry = datasets.register(shell.home(), name or dataset.resolve().name, dataset)
    typer.echo(json.dumps(config.as_plain(entry)) if as_json else f"{entry.name} {entry.digest[:12]} {entry.path}")


@data_commands.command("forget")
def data_forget(name: Annotated[str, typer.Argument(help="A registered dataset.")]) -> None:
    """Take a dataset's name away; the data stays."""
    from sweeps import datasets

    datasets.forget(shell.home(), name)


@data_commands.command("list")
def data_list(as_json: AsJson = False) -> None:
    """List the registered datasets."""
    from pipeline import config
    from sweeps import datasets

    known = datasets.registered(shell.home()).values()
    if as_json:
        typer.echo(json.dumps([config.as_plain(entry) for entry in known]))
        return
    shell.table(
        ["name", "digest", "geometry", "path"], [[e.name, e.digest[:12], e.geometry or "", e.path] for e in known]
    )


@data_commands.command("generate")
def data_generate(
    source: Annotated[Path, typer.Argument(help="Pictures: a folder, a file, or a dataset's scenes.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new dataset; an interrupted one is continued.")],
    model: Annotated[str, typer.Option(help="A fine-tuned MVDiffusion: NAME@ALIAS, or a checkpoint folder.")],
    view: Annotated[int, typer.Option(help="Of a dataset: which view of each scene is the picture.")] = 0,
    batch: Annotated[int, typer.Option(help="Objects generated at a time.")] = 4,
    device: shell.Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Turn single pictures into six-view scenes, labelled with the rig that the model was trained on."""
    from pipeline import checkpoint
    from pipeline.data.cli import say_dataset, show_progress
    from pipeline.data.generate import generate, read_pictures

    pictures = read_pictures(source, view)
    with tempfile.TemporaryDirectory(prefix="mouselift-") as folder:
        path = Path(model) if Path(model).is_dir() else shell.registry().pull(model, Path(folder) / "model")
        loaded = checkpoint.load(path, device, kind="mvdiffusion")
        generator: Any = loaded.model
        told = {"model": model, "sha256": loaded.sha256, "step": loaded.step, "view": view, **generator.told()}
        show_progress(generate(pictures, out, generator, told, batch), len(pictures.paths))
    say_dataset(out, as_json)


@model.command("promote")
def model_promote(
    sweep: Annotated[str, typer.Argument(help="A finished sweep.")],
    trial: Annotated[int | None, typer.Option(help="Another trial than the best.")] = None,
    device: shell.Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Evaluate a sweep's best checkpoint afresh, register it, and make it champion if it earns that."""
    from sweeps.promotion import promote_best

    verdict = promote_best(shell.home(), sweep, device, trial)
    if as_json:
        typer.echo(json.dumps(verdict.version.as_plain() | {"alias": verdict.alias, "reason": verdict.reason}))
        return
    metrics = verdict.version.metrics
    shell.table(["metric", "figure"], [[key, f"{metrics[key]:.4f}"] for key in sorted(metrics)])
    if verdict.gates:
        rows = [[result.gate.metric, result.gate.target, "✓" if result.passed else "✗"] for result in verdict.gates]
        shell.table(["gate", "target", "passed"], rows)
    typer.echo(f"{verdict.version.ref} is {verdict.alias}: {verdict.reason}")


@model.command("list")
def model_list(
    name: Annotated[str | None, typer.Argument(help="One registered model.")] = None, as_json: AsJson = False
) -> None:
    """List registered versions with their aliases and verified figures."""
    registry = shell.registry()
    versions = registry.list_versions(name)
    for vacancy in registry.vacancies(name):
        typer.echo(vacancy, err=True)
    if as_json:
        typer.echo(json.dumps([version.as_plain() for version in versions]))
        return
    keys = ("test/psnr", "test/psnr_fg", "test/mask_iou")
    rows = [
        [v.ref, " ".join(v.aliases), *(f"{v.metrics[k]:.3f}" if k in v.metrics else "" for k in keys)] for v in versions
    ]
    shell.table(["version", "aliases", *keys], rows)


@model.command("pull")
def model_pull(
    ref: Ref,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the checkpoint.")],
    as_json: AsJson = False,
) -> None:
    """Download a registered checkpoint; every file's hash is compared."""
    folder = shell.registry().pull(ref, out)
    typer.echo(json.dumps({"folder": str(folder)}) if as_json else folder)


@model.command("rollback")
def model_rollback(
    name: Annotated[str, typer.Argument(help="A registered model.")],
    reason: Annotated[str, typer.Option(help="For the history.")] = "",
) -> None:
    """Make the previous champion champion again."""
    version = shell.registry().rollback(name, reason)
    typer.echo(f"{version.ref} is champion")


@model.command("history")
def model_history(name: Annotated[str, typer.Argument(help="A registered model.")], as_json: AsJson = False) -> None:
    """Tell every change of a registered model's aliases: when, who, from, to, why."""
    moves = shell.registry().history(name)
    if as_json:
        typer.echo(json.dumps([move.as_plain() for move in moves]))
        return
    rows = [
        [m.when, m.who, m.action, m.alias, *("" if v is None else str(v) for v in (m.before, m.after)), m.reason]
        for m in moves
    ]
    shell.table(["when", "who", "action", "alias", "from", "to", "why"], rows)


@model.command("evaluate")
def model_evaluate(
    source: Annotated[str, typer.Argument(help="A checkpoint folder, or a registered model.")],
    data: Annotated[str, typer.Option(help="Dataset folder or registered name.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    device: shell.Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on a split: held-out and input views, with the protocol's id."""
    from pipeline import checkpoint
    from sweeps.verification import score_at

    with tempfile.TemporaryDirectory(prefix="mouselift-") as folder:
        path = Path(source) if Path(source).is_dir() else shell.registry().pull(source, Path(folder) / "model")
        loaded = checkpoint.load(path, device)
        found = score_at(loaded, shell.dataset(data), split, shell.home().cache)
    if as_json:
        typer.echo(json.dumps({"protocol": found.protocol.id, "metrics": found.metrics, "scenes": found.scenes}))
        return
    shell.table(["metric", "figure"], [[key, f"{value:.4f}"] for key, value in sorted(found.metrics.items())])
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
        version = shell.registry().import_checkpoint(name, verification)
    typer.echo(version.ref)
