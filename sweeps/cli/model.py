"""Commands of the registry: promote, pair, list, pull, rollback, history, lineage, diff, evaluate, import."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline import progress
from pipeline.cli import Device, Overrides, device_of, split_overrides
from pipeline.data.cli import AsJson
from pipeline.weights.known import LPIPS
from sweeps.cli import terminal
from sweeps.cli.reconstruct import Refine
from sweeps.errors import RegistryError

model = typer.Typer(no_args_is_help=True, help="Registered models: verify, promote, pull.")

Ref = Annotated[str, typer.Argument(help="NAME@ALIAS, NAME/VERSION, or NAME for its champion.")]


@model.command("promote")
def model_promote(
    context: typer.Context,
    sweep: Annotated[str, typer.Argument(help="A finished sweep.")],
    trial: Annotated[int | None, typer.Option(help="Another trial than the best.")] = None,
    pick: Annotated[
        str | None,
        typer.Option(help="Of several objectives: knee, or the best by this METRIC (default: by the first)."),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a sweep's best checkpoint afresh, register it, and make it champion if it earns that."""
    from sweeps.preflight.stores import require_tracking
    from sweeps.registry.promotion import promote_best
    from sweeps.tracking.mlflow_layout import CONFIRMED_TAG

    if trial is not None and pick is not None:
        raise RegistryError("--pick: expected it or --trial, got both — leave one away.")
    chosen = device_of(device)
    require_tracking(terminal.home())
    with progress.shown() as tell:
        verdict = promote_best(terminal.home(), sweep, chosen, trial, pick, tell, terminal.pages(context))
    confirmed = verdict.version.tags.get(CONFIRMED_TAG)
    if as_json:
        found = {"alias": verdict.alias, "reason": verdict.reason, "displaced": verdict.displaced}
        typer.echo(json.dumps(verdict.version.as_plain() | found | {"confirmed": confirmed}))
        return
    terminal.figures(verdict.version.metrics)
    if verdict.gates:
        rows = [[result.gate.metric, result.gate.target, "✓" if result.passed else "✗"] for result in verdict.gates]
        terminal.table(["gate", "target", "passed"], rows)
    typer.echo(verdict.line)
    if confirmed is not None:
        typer.echo(f"confirmed: {confirmed}")
    if any(result.value is None and result.gate.metric.endswith("/lpips") for result in verdict.gates):
        typer.echo(f"for LPIPS: mouselift weights fetch {LPIPS}, then promote again", err=True)


@model.command("pair")
def model_pair(
    context: typer.Context,
    views: Annotated[str, typer.Option(help="MVDiffusion: NAME@ALIAS, NAME/VERSION, or NAME for its champion.")] = (
        "mouse-mvdiffusion"
    ),
    gaussians: Annotated[str, typer.Option(help="GS-LRM, named the same way.")] = "mouse-gslrm",
    data: Annotated[str | None, typer.Option(help="Dataset folder or registered name, to score and judge it on.")] = (
        None
    ),
    given: Annotated[
        Literal["views", "photo"],
        typer.Option(help="What GS-LRM is given of a photo: the views drawn of it, or the photo alone."),
    ] = "views",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Register two models as one, mouse-facelift: a photo in, Gaussians out; scored end to end where data are named."""
    from sweeps.preflight.stores import require_tracking
    from sweeps.registry.pair import register_pair

    chosen = device_of(device)
    require_tracking(terminal.home())
    root = None if data is None else terminal.dataset(data)
    with progress.shown() as tell:
        pages = terminal.pages(context)
        found = register_pair(terminal.home(), views, gaussians, root, chosen, tell, pages, given)
    for note in found.notes:
        typer.echo(note, err=True)
    verdict = found.verdict
    if as_json:
        said = {"alias": verdict and verdict.alias, "reason": verdict and verdict.reason, "notes": found.notes}
        typer.echo(json.dumps(found.version.as_plain() | said))
        return
    if found.version.metrics:
        terminal.figures(found.version.metrics)
    has = "it was not judged now" if found.version.metrics else "it has no figures"
    without = f"{found.version.ref} is registered; {has} — name --data to have it judged."
    typer.echo(without if verdict is None else verdict.line)


@model.command("list")
def model_list(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="One registered model.")] = None,
    as_json: AsJson = False,
) -> None:
    """List registered versions with their aliases and verified figures."""
    registry = terminal.registry(context)
    versions = registry.list_versions(name)
    for vacancy in registry.vacancies(name):
        typer.echo(vacancy, err=True)
    if as_json:
        typer.echo(json.dumps([version.as_plain() for version in versions]))
        return
    keys = ("test/psnr", "test/psnr_fg", "test/mask_iou")
    columns = ["version", "aliases", *keys, "given"]
    rows = [
        [v.ref, " ".join(v.aliases), *(f"{v.metrics[k]:.3f}" if k in v.metrics else "" for k in keys), v.given]
        for v in versions
    ]
    if not any(version.given for version in versions):  # there is no pair
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    terminal.table(columns, rows)


@model.command("pull")
def model_pull(
    context: typer.Context,
    ref: Ref,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the checkpoint.")],
    as_json: AsJson = False,
) -> None:
    """Download a registered checkpoint; every file's hash is compared."""
    with progress.shown() as tell:
        folder = terminal.registry(context, tell).pull(ref, out)
    typer.echo(json.dumps({"folder": str(folder)}) if as_json else folder)


@model.command("rollback")
def model_rollback(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A registered model.")],
    reason: Annotated[str, typer.Option(help="For the history.")] = "",
) -> None:
    """Make the previous champion champion again."""
    version = terminal.registry(context).rollback(name, reason)
    typer.echo(f"{version.ref} is champion")


@model.command("history")
def model_history(
    context: typer.Context, name: Annotated[str, typer.Argument(help="A registered model.")], as_json: AsJson = False
) -> None:
    """Show every change of a registered model's aliases: when, who, from, to, why."""
    moves = terminal.registry(context).history(name)
    if as_json:
        typer.echo(json.dumps([asdict(move) for move in moves]))
        return
    rows = [
        [m.when, m.who, m.action, m.alias, *("" if v is None else str(v) for v in (m.before, m.after)), m.reason]
        for m in moves
    ]
    terminal.table(["when", "who", "action", "alias", "from", "to", "why"], rows)


@model.command("lineage")
def model_lineage(ref: Ref, as_json: AsJson = False) -> None:
    """Follow a version back: its run and sweep, the dataset and what that was made of, the weights it began with."""
    from sweeps.registry.origins import lineage_of

    found = lineage_of(terminal.home(), ref)
    if as_json:
        typer.echo(json.dumps(found.as_plain()))
        return
    for line in found.lines():
        typer.echo(terminal.printable(line))


@model.command("diff")
def model_diff(
    first: Ref,
    second: Annotated[str, typer.Argument(metavar="OTHER", help="Another version, named the same way.")],
    as_json: AsJson = False,
) -> None:
    """Say in what two versions differ: settings, data, protocol, parent, and figures, where these may be compared."""
    from sweeps.conclusions.two_trials import shown
    from sweeps.registry import origins
    from sweeps.space.words import value as in_words

    found = origins.diff(terminal.home(), first, second)
    if as_json:
        typer.echo(json.dumps(found))
        return
    refs = [one["ref"] for one in found["versions"]]
    settings = [[row["path"], *map(in_words, row["values"])] for row in found["settings"]]
    facts = [[row["path"], *map(shown, row["values"])] for row in found["facts"]]
    for heading, rows in (("setting", settings), ("fact", facts)):
        if rows:
            terminal.table([heading, *refs], rows)
        else:
            typer.echo(f"no {heading} differs", err=True)
    if not found["alike"]:
        typer.echo("they were measured by other protocols or on other data: a table for each, not to compare", err=True)
    for columns, rows in origins.tables(found):
        terminal.table(columns, rows)


@model.command("evaluate")
def model_evaluate(
    source: Annotated[str, typer.Argument(help="A registered model (NAME@ALIAS), a folder, or FaceLift's file.")],
    data: Annotated[str, typer.Option(help="Dataset folder or registered name.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    refine: Refine = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on a split: held-out and input views, with the protocol's id."""
    from sweeps.registry.named import checkpoint_of
    from sweeps.registry.verification import evaluate_at

    chosen = device_of(device)
    with checkpoint_of(source, terminal.home()) as named:
        registered = None if named.version is None else named.version.sha256
        root, cache = terminal.dataset(data), terminal.home().cache
        with progress.shown() as tell:
            found = evaluate_at(named.path, root, split, cache, chosen, registered, tell, refine)
    if as_json:
        said = {"protocol": found.protocol.id, "precision": found.protocol.precision, "refine_steps": refine}
        typer.echo(json.dumps(said | {"metrics": found.metrics, "scenes": found.scenes}))
        return
    terminal.figures(found.metrics)
    how = f", Gaussians refined in {refine} steps" if refine else ""
    typer.echo(f"protocol {found.protocol.id}, in {found.protocol.precision}{how}", err=True)


@model.command("import")
def model_import(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A checkpoint folder, FaceLift's pipeckpts, or its .pt.")],
    recipe: Annotated[str | None, typer.Option(help="Recipe for what FaceLift's files do not say.")] = None,
    overrides: Overrides = None,
    licence: Annotated[str | None, typer.Option(help="Its licence, if another than the files have.")] = None,
) -> None:
    """Register a model made elsewhere: what it is, is read off its files; every tensor must fit."""
    from pipeline.reconstruction.models import as_checkpoint, digest_of
    from sweeps.preflight.stores import require_tracking
    from sweeps.registry.promotion import registered_name
    from sweeps.registry.verification import unverified

    require_tracking(terminal.home())
    with tempfile.TemporaryDirectory(prefix="mouselift-") as folder, progress.shown() as tell:
        called = Path(os.path.abspath(source))  # whatever `..` is called
        tell("read", 0, 0)
        made = as_checkpoint(source, Path(folder) / called.stem, split_overrides(overrides), recipe, licence)
        tell("compare", 0, 0)
        verification = unverified(made)
        name = registered_name(verification.checkpoint.recipe)
        tags = {"source.name": called.name, "source.sha256": digest_of(source)}
        version = terminal.registry(context, tell).import_checkpoint(name, verification, tags)
    typer.echo(version.ref)
    if not version.metrics:
        typer.echo(
            f"{version.ref}: registered without figures, so that it is no champion — score it with `mouselift model "
            f"evaluate {version.ref} --data DATASET`.",
            err=True,
        )
