"""What MLflow's pages say of a registered model and of its versions, Markdown: what it is, figures with how they were
taken, gates, where it comes from, licence, and how it is loaded. A `Describer` writes them, and what they link to.
"""

from __future__ import annotations

import html
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from PIL import Image

from pipeline.checkpoint import PREVIEW, CheckpointInfo
from pipeline.previews import read_preview
from sweeps.registry.aliases import Move
from sweeps.registry.verification import LICENCE, SCENES, SHOWN, Verification
from sweeps.registry.versions import (
    DIGEST,
    FINGERPRINT,
    PARENT,
    PROTOCOL,
    REASON,
    RECIPE,
    SHA256,
    STEP,
    VERDICT,
    Version,
    stored_as,
)
from sweeps.tracking.mlflow_layout import CONFIRMED_TAG, view_key
from sweeps.tracking.mlflow_pages import is_ours, signed
from sweeps.tracking.pages import Links, Pages
from sweeps.tracking.pages import Shown as Moment
from sweeps.tracking.splats import SPLAT, note_of

PICTURE, ABOUT = "card.png", "card.txt"  # what a version shows, and what that is

_PURPOSES = {
    "gslrm": "GS-LRM: posed views of a mouse to 3D Gaussians.",
    "mvdiffusion": "MVDiffusion: one picture of a mouse to six views, with the cameras of its rig.",
    "pair": "One photo of a mouse to 3D Gaussians: MVDiffusion draws six views of it, GS-LRM makes Gaussians of these.",
    "": "A model that mouselift did not register.",
}
_SCORED = {
    "gslrm": "of views that were not given",
    "mvdiffusion": "of views that were not given, drawn of one that was",
    "pair": "one view of each given, the five others drawn",
    "": "",
}
_CALLS = {
    "gslrm": 'ply = model.predict(views)["ply"][0]  # views: a DataFrame of scene, image (PNG bytes), c2w, fxfycxcy',
    "mvdiffusion": 'views = model.predict([{"name": "mouse", "image": open("mouse.png", "rb").read()}])["image"]',
    "pair": 'open("mouse.ply", "wb").write(model.predict(open("mouse.png", "rb").read())["ply"][0])',
    "": "",
}
_OF_THE_PHOTO = "One photo of a mouse to 3D Gaussians: GS-LRM makes them of the photo alone."
_OLD_PAIR = "One photo of a mouse to 3D Gaussians: `"
_LONGEST = 4800  # characters; MLflow keeps 5,000 of a description
_MOVES = 10  # of the history in a description; `mouselift model history` has all
_GAP = "&emsp;"  # MLflow's tables have no space between their columns


@dataclass(frozen=True)
class Shown:
    """What is to be looked at of a version, beside its run: artifact paths, and what the picture shows."""

    picture: str | None = None
    about: str = ""
    splat: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where a version comes from, with what its links need. parent: a version that has the weights it began with."""

    links: Links | None = None
    run_name: str = ""
    sweep_path: str = ""
    parent: str = ""


@lru_cache(maxsize=1)
def example_picture() -> bytes:
    """A procedural mouse as the content of a small PNG: what a registered model is called with to be tried."""
    from pipeline.data.mice.mice import MicePlan
    from pipeline.data.mice.render import render_mouse

    shot = MicePlan("mouse_centred", 128, 0).shot(0)
    buffer = io.BytesIO()
    Image.fromarray(render_mouse(shot.mesh, shot.cameras[:1])[0]).save(buffer, "PNG")
    return buffer.getvalue()


class Describer:
    """Writes descriptions, and the picture and the page of Gaussians that they show, which lie with the version's run.

    pages: makes the page of Gaussians; there is none without. A description that a person changed by hand stays.
    """

    def __init__(self, client: MlflowClient, pages: Pages | None) -> None:
        self._client, self._pages = client, pages

    def illustrate(self, run_id: str, name: str, verification: Verification) -> None:
        """Put what is to be looked at of a version beside its run, where there is something."""
        scene, held = verification.scene, verification.checkpoint
        preview, split = (scene.preview, "test") if scene is not None else (None, "val")
        if preview is None and isinstance(held, CheckpointInfo) and PREVIEW in held.hashes:
            preview, split = read_preview(held.folder), "val"
        with tempfile.TemporaryDirectory(prefix="mouselift-") as temporary:
            folder = Path(temporary)
            if scene is not None:
                (folder / PICTURE).write_bytes(scene.picture)
                (folder / ABOUT).write_text(scene.about, encoding="utf-8")
            if preview is not None and self._pages is not None:
                seen = [Moment(f"{held.step:,}", preview.gaussians)]
                page = self._pages.splat(name, seen, preview.inputs, note_of(preview.scene, preview.inputs, split))
                (folder / SPLAT).write_text(page, encoding="utf-8")
            if any(folder.iterdir()):
                self._client.log_artifacts(run_id, temporary, _place(held.sha256))

    def version(self, version: Version) -> None:
        """Describe a version."""
        known = self._client.get_model_version(version.name, str(version.version)).description or ""
        if _is_ours(known):
            text = version_card(version, self._shown(version), self._origin(version))
            if signed(text) != known:
                self._client.update_model_version(version.name, str(version.version), signed(text))

    def model(self, name: str, versions: Sequence[Version], history: Sequence[Move]) -> None:
        """Describe a registered model."""
        known = self._client.get_registered_model(name).description or ""
        if _is_ours(known):
            text = signed(model_card(name, versions, history))
            if text != known:
                self._client.update_registered_model(name, text)

    def with_weights(self, sha256: str, name: str | None = None) -> list[ModelVersion]:
        """The versions that have these weights; of one registered model, if it is named."""
        of = "" if name is None else f"name='{name}' and "
        keys = (stored_as(SHA256), SHA256)  # the latter: of earlier releases
        found = [one for key in keys for one in self._client.search_model_versions(f"{of}tags.`{key}` = '{sha256}'")]
        return list({(one.name, one.version): one for one in found}.values())

    def _shown(self, version: Version) -> Shown:
        if not version.run_id or SHA256 not in version.tags:
            return Shown()
        place = _place(version.sha256)
        there = {Path(item.path).name for item in self._client.list_artifacts(version.run_id, place)}
        if PICTURE not in there and PICTURE in {item.path for item in self._client.list_artifacts(version.run_id)}:
            return Shown(picture=PICTURE)  # of earlier releases
        return Shown(
            picture=f"{place}/{PICTURE}" if PICTURE in there else None,
            about=self._text(version.run_id, f"{place}/{ABOUT}") if ABOUT in there else "",
            splat=f"{place}/{SPLAT}" if SPLAT in there else None,
        )

    def _text(self, run_id: str, path: str) -> str:
        with tempfile.TemporaryDirectory(prefix="mouselift-") as temporary:
            return Path(self._client.download_artifacts(run_id, path, temporary)).read_text(encoding="utf-8")

    def _origin(self, version: Version) -> Origin:
        if not version.run_id:
            return Origin()
        run = self._client.get_run(version.run_id)
        experiment, sweep = run.info.experiment_id, version.tags.get("sweep.name")
        began = self.with_weights(version.tags[PARENT]) if PARENT in version.tags else []
        return Origin(
            Links(experiment),
            run.info.run_name or "",
            Links(experiment).sweep(view_key(sweep)) if sweep else "",
            next((f"{one.name}/{one.version}" for one in began), ""),
        )


def _place(sha256: str) -> str:
    """Below a run's artifacts: what is to be looked at of the version that has these weights."""
    return f"registered/{sha256[:12]}"


def _is_ours(known: str) -> bool:
    """Whether no person wrote a description: those of earlier releases are not signed, and known by how they read."""
    old = known.startswith((*_PURPOSES.values(), _OF_THE_PHOTO, _OLD_PAIR)) and known.rstrip().endswith(("```", "`"))
    return is_ours(known) or (old and "mouselift " not in known)


def version_card(version: Version, shown: Shown, origin: Origin) -> str:
    """The description of a version."""
    parts = [
        _what(version),
        _looked_at(version, shown, origin),
        _figures(version),
        _gates(version),
        _lineage(version, origin),
        _licence(version),
        _called(version.ref, version.kind),
    ]
    return _fitting(parts)


def model_card(name: str, versions: Sequence[Version], history: Sequence[Move]) -> str:
    """The description of a registered model: its champion's figures, how it is loaded, and how aliases changed."""
    newest = max(versions, key=lambda version: version.version, default=None)
    champion = next((version for version in versions if "champion" in version.aliases), None)
    kind = "" if newest is None else newest.kind
    alone = champion is not None and champion.given == "photo"
    parts = [_OF_THE_PHOTO if alone else _PURPOSES[kind]]
    if champion is None:
        parts.append("**Champion**: none. Versions are listed below; a pull by `@champion` is refused.")
    else:
        parts += [f"**Champion**: [version {champion.version}]({_to(champion)}).", _figures(champion)]
    ref = f"{name}@champion" if champion is not None or newest is None else newest.ref
    parts += [_called(ref, kind), _moves(history, name)]
    return _fitting(parts)


def _what(version: Version) -> str:
    tags = version.tags
    if version.kind == "pair":
        views, gaussians = (f"[{_text(ref)}]({_to_ref(ref)})" for ref in version.members)
        if version.given == "photo":
            return (
                f"One photo of a mouse to 3D Gaussians: {gaussians} makes them of the photo alone, with the rig "
                f"{_code(tags.get('rig.name'))} and the framing of {views}, which draws nothing."
            )
        return (
            f"{_PURPOSES['pair']} Here {views} draws the views, for the rig {_code(tags.get('rig.name'))}, and "
            f"{gaussians} makes the Gaussians."
        )
    made = [f"recipe {_code(tags[RECIPE])}" if RECIPE in tags else "", f"step {tags[STEP]}" if STEP in tags else ""]
    said = ", ".join(filter(None, made))
    return f"{_PURPOSES[version.kind]} {said[:1].upper()}{said[1:]}." if said else _PURPOSES[version.kind]


def _looked_at(version: Version, shown: Shown, origin: Origin) -> str:
    """The picture and the page of Gaussians. MLflow's page strips data URIs; its own links reach the run's files."""
    parts = []
    if shown.picture is not None:
        about = shown.about[:1].upper() + shown.about[1:]
        parts.append(f"![a test scene](get-artifact?path={shown.picture}&run_uuid={version.run_id})\n\n{about}.")
    if shown.splat is not None and origin.links is not None:
        parts.append(f"**[Turn its Gaussians]({origin.links.artifact(version.run_id, shown.splat)})**")
    return "\n\n".join(parts)


def _scored(version: Version) -> str:
    return "one view of each given" if version.given == "photo" else _SCORED[version.kind]


def _figures(version: Version) -> str:
    tags, metrics, spread = version.tags, version.metrics, version.spread
    rows = []
    for name, unit in SHOWN:
        if (key := f"test/{name}") in metrics:
            over = f"{spread[name]:.2g}" if name in spread else "not kept"
            inputs = f"{metrics[f'test/input/{name}']:.4g}" if f"test/input/{name}" in metrics else ""
            rows.append([f"{name}{f' ({unit})' if unit else ''}", f"{metrics[key]:.4g}", over, inputs])
    if not rows:
        return "**No figures**: it was registered without data."
    n = f"n = {tags[SCENES]} scenes" if SCENES in tags else "the scenes"
    how = (
        f"Means of {n} of {_code(tags.get('data.name'))} (test), {_scored(version)}; the spread is the standard "
        f"deviation over scenes. Protocol {_code(tags.get(PROTOCOL))}, computed in {version.precision}, data "
        f"{_code(tags.get(DIGEST, '')[:12])}."
    )
    return f"{_table(['figure', 'mean', 'spread', 'given views'], rows)}\n\n{how}"


def _gates(version: Version) -> str:
    """What each gate found when promotion was last asked for."""
    tags = version.tags
    rows = []
    for gate in version.gates:
        value = "not measured" if gate["value"] is None else f"{gate['value']:.4g}"
        passed = "passed" if gate["passed"] else "**failed**"
        rows.append([_text(gate["metric"]), _text(gate["target"]), value, passed])
    verdict = ""
    if VERDICT in tags:
        verdict = f"**Verdict**: {_text(tags[VERDICT])} — {_text(tags.get(REASON, ''))}."
    table = _table(["gate", "wanted", "found", ""], rows) if rows else ""
    return "\n\n".join(filter(None, [table, verdict]))


def _lineage(version: Version, origin: Origin) -> str:
    tags, links, lines = version.tags, origin.links, []
    if links is not None and version.run_id:
        lines.append(f"run [{_text(origin.run_name or version.run_id)}]({links.run(version.run_id)})")
    if "sweep.name" in tags:
        name = _text(tags["sweep.name"])
        sweep = f"[{name}]({origin.sweep_path})" if origin.sweep_path else name
        confirmed = f"; confirmed: {_text(tags[CONFIRMED_TAG])}" if CONFIRMED_TAG in tags else ""
        lines.append(f"trial {tags.get('trial.number', '')} of the sweep {sweep}{confirmed}")
    if tags.get("source.name"):
        lines.append(f"imported from {_code(tags['source.name'])}")
    if "data.name" in tags:
        lines.append(f"data {_code(tags['data.name'])}, digest {_code(tags.get(DIGEST, '')[:12])}")
    if PARENT in tags:
        known = f" ([{_text(origin.parent)}]({_to_ref(origin.parent)}))" if origin.parent else ""
        lines.append(f"training began with the weights {_code(tags[PARENT][:12])}{known}")
    if "mlflow.source.git.commit" in tags:
        lines.append(f"code of commit {_code(tags['mlflow.source.git.commit'][:12])}")
    own = f"weights {_code(tags[SHA256][:12])}" if SHA256 in tags else ""
    recipe = f"recipe fingerprint {_code(tags[FINGERPRINT])}" if FINGERPRINT in tags else ""
    lines.append(", ".join(filter(None, [own, recipe])))
    return "**Where it comes from**\n\n" + "\n".join(f"- {line}" for line in lines if line)


def _licence(version: Version) -> str:
    licence = version.tags.get(LICENCE)
    return f"**Licence**: {'none is named; ask who trained it' if licence is None else _text(licence)}."


def _called(ref: str, kind: str) -> str:
    return f'```python\nimport mlflow\nmodel = mlflow.pyfunc.load_model("models:/{ref}")\n{_CALLS[kind]}\n```'


def _moves(history: Sequence[Move], name: str) -> str:
    if not history:
        return ""
    rows = [
        [
            move.when[:16].replace("T", " "),
            _text(move.action),
            _text(move.alias),
            _arrow(move),
            _text(move.reason)[:160],
        ]
        for move in reversed(history[-_MOVES:])
    ]
    said = f"The last {len(rows)} of {len(history)} changes" if len(history) > len(rows) else "All changes"
    table = _table(["when (UTC)", "action", "alias", "version", "why"], rows)
    return f"**History**\n\n{table}\n\n{said} of aliases; `mouselift model history {name}` has who made them."


def _arrow(move: Move) -> str:
    before, after = ("none" if number is None else str(number) for number in (move.before, move.after))
    return f"{before} → {after}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell + (_GAP if cell != '---' else '') for cell in line)} |" for line in lines)


def _fitting(parts: list[str]) -> str:
    """The parts that fit, each whole; what is left out is said."""
    said = ""
    for part in filter(None, parts):
        if len(said) + len(part) + 2 > _LONGEST:
            return f"{said}\n\nThe rest is too long for MLflow's descriptions; the tags have it."
        said += ("\n\n" if said else "") + part
    return said


def _to(version: Version) -> str:
    return Links("").model(version.name, str(version.version))


def _to_ref(ref: str) -> str:
    name, _, number = ref.partition("/")
    return Links("").model(name, number)


def _text(value: str) -> str:
    """Text from outside, which Markdown and HTML leave as it is."""
    line = " ".join(str(value).split())
    return "".join(f"\\{sign}" if sign in r"\`*_[]|~#" else html.escape(sign, quote=False) for sign in line)


def _code(value: str | None) -> str:
    """Text from outside in the type of code."""
    line = " ".join(str(value or "unknown").replace("`", "'").replace("|", "¦").split())
    return f"`{line}`"
