"""Procedural mice: a seed is a mouse whose pose is a smooth function of time; any rig photographs it exactly.

Stand-ins for real recordings in demos and tests: masks are exact, cameras are true and views agree.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from pipeline.cameras import FACELIFT_DISTANCE, Cameras, facelift_ring, facelift_six, focal_pixels, look_at, mouse_rig
from pipeline.data.gate.checks import checked
from pipeline.data.mice.body import BULGE, TAIL_PIECES, Array, Points, Pose, albedo, anatomy, skin
from pipeline.data.mice.helpers import helpers, work
from pipeline.data.mice.looks import BODIES, STRAINS, Looks, pale_coat
from pipeline.data.mice.render import MouseMesh, Tracer, irradiance, render_mouse
from pipeline.data.scenes import SPLITS, Manifest, open_dataset, write_manifest, write_scene
from pipeline.data.unfinished import writing
from pipeline.errors import DataError
from pipeline.machine.cpus import usable_cpus
from pipeline.progress import Tell, silent

VERSION = 3  # raise it when the same plan draws other pictures
FPS = 25.0
FILL = 0.94  # of half the frame, what a mouse as large as fits reaches
EXTENT = 0.9  # FaceLift's scenes lie within ±this
WORTH_A_PROCESS = 16  # small scenes; a process starts in the time of about so many
WORK_OF_A_SCENE = 6 * 128**2  # pixels of a scene above which their number decides how long it takes
MOST_PROCESSES = 16
ARENA = (50.0, 50.0)  # mm, where the real mice wander


# ---------------------------------------------------------------- motion


@dataclass(frozen=True)
class MouseSequence:
    """One seed, one animal, one life. World in millimetres, z = 0 is the floor.

    wander: it circles the arena of the real recordings; otherwise it walks on the spot at the origin and
    faces −y, FaceLift's front, give or take 35°. pale: its coat is nearly white; coat: of STRAINS, in place of the one
    it was born with; nothing else changes. body: one of BODIES.
    """

    seed: int
    wander: bool = True
    pale: bool = False
    coat: str | None = None
    body: str = "mouse"

    @cached_property
    def looks(self) -> Looks:
        looks = Looks.sample(np.random.default_rng([self.seed, 0]), BODIES[self.body])
        if self.pale:
            return replace(looks, coat=pale_coat(np.random.default_rng([self.seed, 2])))
        return looks if self.coat is None else replace(looks, coat=STRAINS[self.coat])

    def pose(self, t: float) -> Pose:
        """The pose at `t` seconds, smooth in t; where the mouse slows down it may rear."""
        rng = np.random.default_rng([self.seed, 1])

        def sway(low: float, high: float, hertz: float) -> float:
            """A smooth random signal between `low` and `high`."""
            (p, q), f = rng.uniform(0, 2 * np.pi, 2), hertz * rng.uniform(0.7, 1.3)
            wave = 0.65 * np.sin(2 * np.pi * f * t + p) + 0.35 * np.sin(2 * np.pi * 1.7 * f * t + q)
            return low + (high - low) * (0.5 + 0.5 * wave)

        way, start, slow, radius = rng.choice([-1, 1]), *rng.uniform(0, 2 * np.pi, 2), rng.uniform(28, 42)
        rhythm = 2 * np.pi * rng.uniform(0.10, 0.16)
        angle = 1.1 * t + 0.9 * 1.1 / rhythm * np.sin(rhythm * t + slow)  # never quite stands still
        haste = (1 + 0.9 * np.cos(rhythm * t + slow)) / 1.9
        about = way * (start + angle)
        stride = 7.0 * haste**0.5
        rear = rng.uniform(0, 1) * np.clip((0.35 - haste) / 0.3, 0, 1) ** 2
        facing = sway(-0.6, 0.6, 0.15) - np.pi / 2
        place = (ARENA[0] + radius * np.cos(about), ARENA[1] + radius * np.sin(about))
        return Pose(
            position=place if self.wander else (0.0, 0.0),
            heading=about + way * np.pi / 2 if self.wander else facing,
            gait=radius * angle / 7.0,
            stride=stride,
            rear=rear,
            bend=way * 0.45 * haste + sway(-0.35, 0.35, 0.25),
            hunch=sway(0.22, 0.6, 0.2),
            head_turn=sway(-0.55, 0.55, 0.4),
            head_nod=sway(-0.25, 0.25, 0.35),
            tail_curl=rng.choice([-1, 1]) * sway(1.8, 3.6, 0.15),
            tail_swing=sway(-0.35, 0.35, 0.5),
            tail_lift=sway(-0.1, 0.5, 0.2),
        )

    def mesh(self, frame: float) -> MouseMesh:
        """The lit skin at frame `frame` (25 a second; parts of frames are moments between)."""
        pose = self.pose(frame / FPS)
        parts = anatomy(pose, self.looks)
        vertices, faces, normals = skin(parts)
        colours = albedo(parts, self.looks, vertices)
        vertices, normals = self._placed(pose, vertices), normals @ _about_z(pose.heading).T
        tracer = Tracer.of(vertices, faces)
        return MouseMesh(vertices, faces, colours * irradiance(tracer, vertices, faces, normals)[:, None], tracer)

    def joints(self, frame: float) -> Points:
        """Ten joints at `frame`: nose, left and right ear, neck, ribs, belly, rump, tail's root, middle and end."""
        pose = self.pose(frame / FPS)
        parts = anatomy(pose, self.looks)
        nose, *ears = (part.a for paint in ("nose", "ear") for part in parts if part.paint == paint)
        rump, belly, ribs = parts[:3]
        tail = [part for part in parts if part.paint == "skin"][-TAIL_PIECES:]
        spine = [ribs.b, ribs.a, belly.a, rump.a]
        ends = [tail[0].a, tail[len(tail) // 2].a, tail[-1].b]
        return self._placed(pose, np.stack([nose, *ears, *spine, *ends]))

    def box(self, frame: int) -> Float[Array, "2 3"]:
        """Two corners that bound the skin at `frame`, found from the parts alone."""
        pose = self.pose(frame / FPS)
        parts = anatomy(pose, self.looks)
        ends = self._placed(pose, np.concatenate([np.stack([part.a, part.b]) for part in parts]))
        radii = np.array([[part.ra + part.disc, part.rb + part.disc] for part in parts]).reshape(-1, 1)
        radii = self.looks.size * (radii + BULGE)
        return np.stack([(ends - radii).min(0), (ends + radii).max(0)])

    def _placed(self, pose: Pose, points: Points) -> Points:
        """From the body's own frame to the world."""
        return self.looks.size * points @ _about_z(pose.heading).T + np.array([*pose.position, 0.0])


def _about_z(angle: float) -> Float[Array, "3 3"]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


# ---------------------------------------------------------------- rigs


class Shot(NamedTuple):
    """A mouse and the cameras around it, in one world."""

    mesh: MouseMesh
    cameras: Cameras


RIGS = ("facelift_six", "facelift_ring", "mouse", "mouse_centred")


@dataclass(frozen=True)
class MicePlan:
    """What decides every picture of a set of mice; `scenes` only says how many.

    rig: one of RIGS. size: image width in pixels; the real rig keeps its 1152:1024.
    views: how many of facelift_ring's 32, evenly spaced. zoom: factor on mouse_centred's focal length; None: as
    large as leaves the whole mouse in every view of the scene.
    frames: moments per mouse, `step` video frames (1/25 s) apart, so that step 1 makes each mouse a video.
    pale: every mouse has a coat nearly as white as the background; coat: every mouse is of this one of STRAINS;
    body: what the animals are, one of BODIES.
    Raises DataError for an unknown rig, an option its rig does not have and a number below 1.
    """

    rig: str
    size: int
    seed: int = 0
    views: int | None = None
    zoom: float | None = None
    frames: int = 1
    step: int = 10
    pale: bool = False
    coat: str | None = None
    body: str = "mouse"

    def __post_init__(self) -> None:
        if self.rig not in RIGS:
            raise DataError(f"mice: expected a rig of {', '.join(RIGS)}, got {self.rig!r} — choose one.")
        if min(self.size, self.frames, self.step, 1 if self.views is None else self.views) < 1:
            raise DataError(f"mice: expected size, views, frames and step of 1 or more, got {self} — raise it.")
        if self.views is not None and self.rig != "facelift_ring":
            raise DataError(f"mice: expected views only for facelift_ring, got them for {self.rig} — leave them out.")
        if self.zoom is not None and self.rig != "mouse_centred":
            raise DataError(f"mice: expected zoom only for mouse_centred, got it for {self.rig} — leave it out.")
        if self.coat is not None and self.coat not in STRAINS:
            raise DataError(f"mice: expected a coat of {', '.join(STRAINS)}, got {self.coat!r} — choose one.")
        if self.body not in BODIES:
            raise DataError(f"mice: expected a body of {', '.join(BODIES)}, got {self.body!r} — choose one.")
        if self.coat is not None and self.pale:
            raise DataError(f"mice: expected pale or a coat, got both, coat {self.coat} — leave one out.")

    def shot(self, scene: int) -> Shot:
        """Scene `scene`: which mouse, which moment, which cameras."""
        mouse, moment = divmod(scene, self.frames)
        seed, wander = 100_003 * self.seed + mouse, self.rig == "mouse"
        sequence = MouseSequence(seed, wander=wander, pale=self.pale, coat=self.coat, body=self.body)
        mesh = sequence.mesh(moment * self.step)
        match self.rig:
            case "facelift_six":
                return Shot(self._fitted(mesh, sequence), facelift_six(self.size))
            case "facelift_ring":
                return Shot(self._fitted(mesh, sequence), facelift_ring(self.size, self.views or 32))
            case "mouse":
                real = mouse_rig()
                return Shot(mesh, real.resize(self.size, round(self.size * real.height / real.width)))
            case _:
                in_arena = mesh.transform(1.0, np.array([-ARENA[0], -ARENA[1], 0.0]))
                return _centred(in_arena, self.size, self.zoom)

    def _fitted(self, mesh: MouseMesh, sequence: MouseSequence) -> MouseMesh:
        """The box of all the mouse's frames goes from −0.9 to 0.9, so that a video keeps its scale."""
        low, high = _span(sequence, self.frames, self.step)
        return mesh.transform(2 * EXTENT / float((high - low).max()), (low + high) / 2)

    def provenance(self) -> dict[str, Any]:
        """What tells these mice from others, as plain values; pale, coat and body only where they were asked for."""
        plain: dict[str, Any] = {"pale": False, "coat": None, "body": "mouse"}
        asked = {name: value for name, value in asdict(self).items() if name not in plain or value != plain[name]}
        return {"kind": "mice", "version": VERSION, **asked}

    def splits(self, scenes: int) -> dict[str, tuple[str, ...]]:
        """Contiguous blocks of whole mice: a tenth each, at least one mouse, for val and test.

        Raises DataError for fewer than three mice.
        """
        mice = -(-scenes // self.frames)
        if mice < len(SPLITS):
            raise DataError(f"mice: expected at least {len(SPLITS)} mice, got {mice} — ask for more scenes.")
        names, tenth = tuple(map(scene_name, range(scenes))), max(1, mice // 10) * self.frames
        val = mice * self.frames - 2 * tenth
        return {"train": names[:val], "val": names[val : val + tenth], "test": names[val + tenth :]}


@lru_cache(maxsize=4)
def _span(sequence: MouseSequence, frames: int, step: int) -> Float[Array, "2 3"]:
    boxes = np.stack([sequence.box(frame * step) for frame in range(frames)])
    return np.stack([boxes[:, 0].min(0), boxes[:, 1].max(0)])


def _centred(mesh: MouseMesh, size: int, zoom: float | None) -> Shot:
    """The real rig turned to the mouse's centre, 2.7 away on average, with FaceLift's K times `zoom`.

    It walks on the spot in the middle of the arena, facing −y give or take 35°.
    """
    centre = torch.from_numpy(mesh.centre)
    positions = mouse_rig().centres.to(torch.float64)
    scale = FACELIFT_DISTANCE / float((positions - centre).norm(dim=-1).mean())
    c2w = look_at(positions, centre.expand_as(positions))

    def cameras_of(focal: float) -> Cameras:
        fxfycxcy = torch.tensor([focal, focal, size / 2, size / 2], dtype=torch.float64)
        return Cameras(c2w, fxfycxcy.repeat(len(positions), 1), size, size)

    widest = float((cameras_of(1.0).project(torch.from_numpy(mesh.vertices))[0] - size / 2).abs().max())
    cameras = cameras_of(FILL * size / 2 / widest if zoom is None else zoom * focal_pixels(size))
    return Shot(mesh.transform(scale, mesh.centre), cameras.transform(scale, centre=centre))


# ---------------------------------------------------------------- dataset


def write_mice(
    out: Path,
    *,
    scenes: int,
    size: int,
    rig: str = "facelift_six",
    seed: int = 0,
    views: int | None = None,
    zoom: float | None = None,
    frames: int = 1,
    step: int = 10,
    pale: bool = False,
    coat: str | None = None,
    body: str = "mouse",
    tell: Tell = silent,
) -> Path:
    """Write a dataset of procedural mice (options: `MicePlan`) and return its folder. tell: hears of each scene.

    Every scene is written whole, so a second call continues an interrupted one and repeats nothing.
    Raises DataError when the folder holds mice of another plan or anything else, for fewer than three mice
    and for options that do not fit the rig.
    """
    plan, out = MicePlan(rig, size, seed, views, zoom, frames, step, pale, coat, body), Path(out)
    splits = plan.splits(scenes)
    provenance = plan.provenance()
    unit: Literal["scene", "mm"] = "mm" if rig == "mouse" else "scene"
    with writing(out, provenance, "mice") as finished:
        if finished and open_dataset(out).manifest.splits == splits:
            return out
        _draw_missing(plan, out, scenes, tell)
        written = Manifest(name=out.name, unit=unit, rig=rig, transforms=(provenance,), splits=splits)
        return checked(write_manifest(out, written), tell).root


def _draw_missing(plan: MicePlan, out: Path, scenes: int, tell: Tell) -> None:
    """Draw the scenes that are not there yet; a helper for each further processor where that is worth its start."""
    missing = [scene for scene in range(scenes) if not (out / scene_name(scene)).is_dir()]
    before, parts = scenes - len(missing), _processes(plan, len(missing))
    own, *shares = (missing[part::parts] for part in range(parts))
    tell("scenes", before, scenes)
    # One thread for each process: more would slow down arrays as small as these.
    with threadpool_limits(1), helpers(out, asdict(plan), shares) as helping:
        for done, scene in enumerate(own, 1):
            draw(plan, out, scene)
            tell("scenes", before + done + helping.drawn, scenes)
        for drawn in helping.looks():
            tell("scenes", before + len(own) + drawn, scenes)
        left = [scene for scene in missing if not (out / scene_name(scene)).is_dir()]
        for done, scene in enumerate(left, 1):  # those of a helper that failed
            draw(plan, out, scene)
            tell("scenes", scenes - len(left) + done, scenes)


def _processes(plan: MicePlan, scenes: int) -> int:
    """How many draw: one for each processor, where each has enough to do; a third of a GB of memory each."""
    views = plan.views or (32 if plan.rig == "facelift_ring" else 6)
    work = scenes * max(1.0, views * plan.size**2 / WORK_OF_A_SCENE)
    return max(1, min(usable_cpus(), scenes, MOST_PROCESSES, int(work / WORTH_A_PROCESS)))


def help_to_draw(out: str, fields: dict[str, Any]) -> None:
    """Be a helper of another process that writes the mice of a plan."""
    plan = MicePlan(**fields)
    work(lambda scene: draw(plan, Path(out), scene))


def draw(plan: MicePlan, out: Path, scene: int) -> None:
    """Write one scene of a plan into its folder; one that is there stays as it is."""
    if not (out / scene_name(scene)).is_dir():
        shot = plan.shot(scene)
        write_scene(out / scene_name(scene), render_mouse(*shot), shot.cameras)


def scene_name(scene: int) -> str:
    """The folder of a scene."""
    return f"scene_{scene:06d}"
