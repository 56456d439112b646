"""The anatomy of a procedural mouse: a pose becomes parts, parts become one watertight coloured skin.

Millimetres; x forward from tail to nose, y to the mouse's left, z up from the floor. A part is a tapered
capsule; the skin is the smooth union of all parts, meshed by marching cubes (Lorensen & Cline), coloured
in the coordinates of the resting animal so that fur keeps its place while the mouse moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from skimage.measure import marching_cubes

from pipeline.data.mice.looks import Looks

VOXEL = 1.0  # mm at size 1; fine enough for a tail tip of 1.1 mm radius
FAR = 6.0  # mm, what the field is where no part is near; no part's `blend` is larger
HOLLOW = 0.03  # 1/mm, how deep the ears are
TAIL_PIECES = 16
BULGE = 1.5  # mm that melting parts may stand out beyond the parts' own radii
MIX = 0.35  # mm over which paints of neighbouring parts mix
FAINT = 1e-3  # a paint's weight below which it is left out

Array = np.ndarray
Vector = Float[Array, " 3"]
Points = Float[Array, "n 3"]

SKIN, NOSE, EYE = (0.62, 0.30, 0.26), (0.58, 0.22, 0.21), (0.008, 0.006, 0.006)
GLINT = (0.9, 0.9, 0.9)


@dataclass(frozen=True)
class Pose:
    """One moment of a mouse. Angles in radians; `rear` from 0 (on four feet) to 1 (upright)."""

    position: tuple[float, float] = (0.0, 0.0)  # mm on the floor, below the hips
    heading: float = 0.0  # about z, 0 looks along +x
    gait: float = 0.0  # phase of the step cycle
    stride: float = 0.0  # mm a foot moves fore and aft of its hip
    bend: float = 0.0  # sideways curve of the spine, left positive
    hunch: float = 0.3  # arch of the back
    rear: float = 0.0
    head_turn: float = 0.0
    head_nod: float = 0.0
    tail_curl: float = 1.0  # total sideways turn of the tail
    tail_swing: float = 0.0
    tail_lift: float = 0.1  # rise of the tail's end


class Frame(NamedTuple):
    """A bone: its axes as columns, its origin (mm), and where along the resting spine it lies (mm)."""

    axes: Float[Array, "3 3"]
    origin: Vector
    along: float

    def at(self, x: float, y: float, z: float) -> Vector:
        return self.origin + self.axes @ np.array([x, y, z])

    def moved(self, step: tuple[float, float, float], turn: Float[Array, "3 3"], along: float) -> Frame:
        return Frame(self.axes @ turn, self.at(*step), along)

    def rest(self, points: Points) -> Points:
        """World points in the coordinates of the resting animal."""
        return (points - self.origin) @ self.axes + np.array([self.along, 0.0, 0.0])


@dataclass(frozen=True)
class Part:
    """A capsule from `a` to `b`, radii `ra` to `rb`; or a dish of radius `disc` at `a`, open to `normal`."""

    paint: str
    frame: Frame
    a: Vector
    b: Vector
    ra: float
    rb: float
    blend: float = 2.5  # mm over which it melts into its neighbours
    disc: float = 0.0
    normal: Vector = field(default_factory=lambda: np.array([0.0, 0.0, 1.0]))

    @property
    def box(self) -> Float[Array, "2 3"]:
        """Corners of an axis-aligned box around the part, mm."""
        ends, radius = np.stack([self.a, self.b]), np.array([[self.ra], [self.rb]]) + self.disc
        return np.stack([(ends - radius).min(0), (ends + radius).max(0)])

    @property
    def axis(self) -> Vector:
        """From end to end of a capsule; what a dish opens to."""
        return self.normal if self.disc else self.b - self.a

    def distance(self, points: Points) -> Float[Array, " n"]:
        """Signed distance in mm, negative inside; exact but for the taper and the dish's hollow."""
        q = points - self.a.astype(points.dtype)
        return self._distance(np.einsum("ij,ij->i", q, q), q @ self.axis.astype(q.dtype))

    def distance_on(self, grid: Sequence[Float[Array, " n"]]) -> Float[Array, "x y z"]:
        """`distance` at every point of a grid, given by its places along x, y and z."""
        q = [places - start for places, start in zip(grid, self.a.astype(grid[0].dtype), strict=True)]
        along = (values * share for values, share in zip(q, self.axis.astype(grid[0].dtype), strict=True))
        return self._distance(_sum_of(values**2 for values in q), _sum_of(along))

    def _distance(self, square: Array, along: Array) -> Array:
        """square: of the way from `a` to the points, mm². along: that way times the axis."""
        if self.disc:
            depth, radius = _hollowed(square, along)
            return np.hypot(depth, np.maximum(radius - self.disc, 0)) - self.ra
        length = max(float(self.axis @ self.axis), 1e-9)
        share = np.clip(along / length, 0, 1)
        return np.sqrt(np.maximum(square - share * (2 * along - share * length), 0)) - (
            self.ra + (self.rb - self.ra) * share
        )

    def dish(self, q: Points) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Height above the dish's hollow sheet and distance from its axis of points relative to `a`, mm."""
        return _hollowed(np.einsum("ij,ij->i", q, q), q @ self.normal.astype(q.dtype))


def _hollowed(square: Array, height: Array) -> tuple[Array, Array]:
    """A dish's sheet bends away from its plane: the height above it and the distance from its axis, mm."""
    across = np.maximum(square - height**2, 0)
    return height - HOLLOW * across, np.sqrt(across)


def _sum_of(values: Iterable[Float[Array, " n"]]) -> Float[Array, "x y z"]:
    """The sum, at every point of a grid, of what each of its three places gives."""
    x, y, z = values
    return (x[:, None] + y)[:, :, None] + z


# ---------------------------------------------------------------- skeleton


def anatomy(pose: Pose, looks: Looks) -> list[Part]:
    """Every part of the posed mouse, in mm of the world, before the mouse's size is applied."""
    pelvis, waist, chest, head = _spine(pose)
    parts = [*_trunk(pelvis, waist, chest, head, looks), *_head(head, looks)]
    for side in (1.0, -1.0):
        parts += [*_hind_leg(pelvis, pose, side), *_fore_leg(chest, pose, side)]
    return [*parts, *_tail(pelvis, pose, looks)]


def _turn(yaw: float, pitch: float) -> Float[Array, "3 3"]:
    """Rotation that yaws to the left about z, then pitches the nose up."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    return np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ np.array([[cp, 0, -sp], [0, 1, 0], [sp, 0, cp]])


def _spine(pose: Pose) -> tuple[Frame, Frame, Frame, Frame]:
    """Pelvis, waist, chest and head; rearing lifts them while the head stays nearly level."""
    up, arch = 0.85 * pose.rear, pose.hunch
    step = 0.5 * np.sin(2 * pose.gait) * min(1.0, pose.stride / 4)
    pelvis = Frame(_turn(0.0, arch + 0.6 * up), np.array([0.0, 0.0, 17.0 + step]), 0.0)
    waist = pelvis.moved((13, 0, 0), _turn(pose.bend / 2, 0.4 * up - 0.8 * arch), 13.0)
    chest = waist.moved((15, 0, 0), _turn(pose.bend / 2, 0.2 * up - 1.1 * arch), 28.0)
    nod = pose.head_nod + 0.55 * arch - 0.85 * up
    head = chest.moved((19, 0, 4.5), _turn(pose.head_turn, nod), 47.0)
    return pelvis, waist, chest, head


def _trunk(pelvis: Frame, waist: Frame, chest: Frame, head: Frame, looks: Looks) -> Iterator[Part]:
    rump, belly, ribs = (looks.plump * radius for radius in (15.2, 16.6, 13.2))
    yield Part("fur", pelvis, pelvis.at(-2, 0, -1), waist.at(0, 0, -1), rump, belly, 5.0)
    yield Part("fur", waist, waist.at(0, 0, -1), chest.at(0, 0, -0.5), belly, ribs, 5.0)
    yield Part("fur", chest, chest.at(0, 0, -0.5), head.at(-4, 0, -1), ribs, 9.6, 5.0)


def _head(head: Frame, looks: Looks) -> Iterator[Part]:
    """A cone of a head with cheeks, pink nose, round ears that face forward and out, and dark eyes."""
    yield Part("fur", head, head.at(-1, 0, 0), head.at(15, 0, -3.0), 10.8, 3.8, 4.0)
    yield Part("nose", head, head.at(18.4, 0, -2.3), head.at(18.4, 0, -2.3), 1.9, 1.9, 0.8)
    for side in (1.0, -1.0):
        cheek = head.at(7, 3.6 * side, -3.2)
        yield Part("fur", head, cheek, head.at(13.5, 1.6 * side, -3.8), 5.4, 2.9, 2.5)
        eye = head.at(8.2, 6.7 * side, 2.9)
        yield Part("eye", head, eye, eye, 2.3, 2.3, 0.0)
        ear, normal = head.at(-3.5, 9.6 * side, 10.5), head.axes @ np.array([0.80, 0.56 * side, 0.22])
        normal /= np.linalg.norm(normal)
        yield Part("ear", head, ear, ear, 1.15, 1.15, 1.8, 6.3 * looks.ears, normal)


def _hind_leg(pelvis: Frame, pose: Pose, side: float) -> Iterator[Part]:
    """Haunch, shank and a long foot that steps on the floor, in antiphase with the other side."""
    fore, lift = _step(pose, 0.0 if side > 0 else np.pi)
    heel = np.array([1.0 + fore, 12.0 * side, 2.4 + lift])
    knee = pelvis.at(9 + 0.4 * fore, 11.5 * side, -6)
    yield Part("fur", pelvis, pelvis.at(0, 7.5 * side, -1.5), knee, 10.0, 6.2, 4.0)
    yield Part("fur", pelvis, knee, heel, 5.2, 2.4, 3.0)
    toes = heel + np.array([12.0, 1.2 * side, -0.5 * lift])
    yield from _foot(pelvis, heel, toes, 2.3, 2.1)


def _fore_leg(chest: Frame, pose: Pose, side: float) -> Iterator[Part]:
    """Shoulder, arm and paw; diagonal to the hind leg when walking, tucked to the chest when rearing."""
    fore, lift = _step(pose, np.pi if side > 0 else 0.0)
    across = chest.at(3, 8.0 * side, 0)
    floor = np.array([across[0] + fore, across[1], 2.0 + lift])
    wrist = floor + _smooth(pose.rear / 0.5) * (chest.at(12, 5.0 * side, -12) - floor)
    elbow = 0.5 * (chest.at(-3, 9.5 * side, -9) + wrist) + chest.axes @ np.array([-3.0, 1.0 * side, 0.0])
    yield Part("fur", chest, chest.at(1, 6.5 * side, -4), elbow, 7.0, 3.6, 3.5)
    yield Part("fur", chest, elbow, wrist, 3.4, 2.0, 2.0)
    yield from _foot(chest, wrist, wrist + np.array([5.0, 0.6 * side, -0.3 - 2.5 * pose.rear]), 2.0, 1.9)


def _foot(frame: Frame, heel: Vector, ball: Vector, ra: float, rb: float) -> Iterator[Part]:
    yield Part("skin", frame, heel, ball, ra, rb, 1.2)
    for spread in (-1.9, 0.0, 1.9):
        tip = ball + np.array([3.4 - 0.25 * abs(spread), spread, -0.3])
        yield Part("skin", frame, ball + np.array([0, spread / 2, 0]), tip, 1.3, 1.1, 0.7)


def _step(pose: Pose, offset: float) -> tuple[float, float]:
    """How far a foot is fore of its hip and above the floor (mm); on the floor it moves back."""
    phase = pose.gait + offset
    return pose.stride * np.cos(phase), 0.6 * pose.stride * max(0.0, -np.sin(phase)) ** 2


def _tail(pelvis: Frame, pose: Pose, looks: Looks) -> Iterator[Part]:
    """A chain that leaves the rump, sinks to the floor and curls sideways; its length is kept."""
    pieces = TAIL_PIECES
    s = (np.arange(pieces) + 0.5) / pieces
    yaw = np.pi + pose.tail_swing * (0.4 + s) + pose.tail_curl * s**1.3
    slope = -0.95 * np.exp(-((s / 0.24) ** 2)) + pose.tail_lift * s**2
    flat = np.cos(slope)
    steps = np.stack([flat * np.cos(yaw), flat * np.sin(yaw), np.sin(slope)], -1) * looks.tail / pieces
    knots = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, 0)]) + pelvis.at(-13, 0, -2)
    knots[:, 2] = 2.2 + np.logaddexp(0, (knots[:, 2] - 2.2) / 1.5) * 1.5
    radii = np.interp(np.linspace(0, 1, pieces + 1), [0, 0.15, 1], [3.6, 2.5, 1.1])
    for i in range(pieces):
        yield Part("skin", pelvis, knots[i], knots[i + 1], radii[i], radii[i + 1], 1.5 if i else 3.0)


def _smooth(x: Array | float) -> Array:
    """The cubic step from 0 at x ≤ 0 to 1 at x ≥ 1."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


# ---------------------------------------------------------------- skin


def skin(parts: list[Part], voxel: float = VOXEL) -> tuple[Points, Int[Array, "m 3"], Points]:
    """Vertices (mm), triangles (counter-clockwise outside) and outward normals of the smooth union."""
    boxes = np.stack([part.box for part in parts])
    origin, top = boxes[:, 0].min(0) - 2 * voxel, boxes[:, 1].max(0) + 2 * voxel
    volume = np.full(np.ceil((top - origin) / voxel).astype(int) + 1, FAR, np.float32)
    # What melts over the longest way comes first, so that a later part need not reach farther than its own.
    for i in sorted(range(len(parts)), key=lambda i: -parts[i].blend):
        _melt(volume, parts[i], boxes[i] - origin, origin, voxel)
    vertices, faces, normals, _ = marching_cubes(
        volume, 0.0, spacing=(voxel,) * 3, gradient_direction="descent", allow_degenerate=False
    )
    return vertices + origin, faces, -normals  # skimage points them down the field, into the body


def _melt(volume: Float[Array, "x y z"], part: Part, box: Float[Array, "2 3"], origin: Vector, voxel: float) -> None:
    """Join one part into the field, only where it can matter (polynomial smooth minimum, Quilez).

    box: the part's, in mm from the field's origin.
    """
    reach = part.blend + voxel
    low = np.maximum(np.floor((box[0] - reach) / voxel).astype(int), 0)
    high = np.minimum(np.ceil((box[1] + reach) / voxel).astype(int) + 1, volume.shape)
    region = volume[tuple(slice(i, j) for i, j in zip(low, high, strict=True))]
    places = [np.arange(i, j, dtype=np.float32) * voxel + o for i, j, o in zip(low, high, origin, strict=True)]
    distance = part.distance_on(places)
    overlap = np.maximum(part.blend - np.abs(region - distance), 0)
    np.minimum(region, distance, out=region)
    region -= overlap**2 / (4 * part.blend + 1e-6)


# ---------------------------------------------------------------- colour


def albedo(parts: list[Part], looks: Looks, vertices: Points) -> Points:
    """Linear RGB reflectance per vertex: the paints of the nearest parts, mixed over half a millimetre."""
    points = vertices.astype(np.float32)
    reach = BULGE - MIX * np.log(FAINT)  # mm from a part to the farthest point of the skin that shows its paint
    axes = np.ascontiguousarray(points.T)
    around = [np.flatnonzero(_inside(axes, part.box, reach)) for part in parts]
    distances = [part.distance(points[near]) for part, near in zip(parts, around, strict=True)]
    nearest = np.full(len(points), np.inf, np.float32)
    for near, distance in zip(around, distances, strict=True):
        nearest[near] = np.minimum(nearest[near], distance)
    colour, total = np.zeros_like(vertices), np.zeros(len(points))
    for part, near, distance in zip(parts, around, distances, strict=True):
        weight = np.exp((nearest[near] - distance) / MIX)
        seen = weight > FAINT
        near, weight = near[seen], weight[seen]
        colour[near] += weight[:, None] * _paint(part, looks, vertices[near])
        total[near] += weight
    return colour / total[:, None]


def _inside(points: Float[Array, "3 n"], box: Float[Array, "2 3"], margin: float) -> Bool[Array, " n"]:
    """Which points lie in a box that is larger by a margin on every side, mm."""
    inside = np.ones(points.shape[1], bool)
    for values, low, high in zip(points, *(box + margin * np.array([[-1.0], [1.0]])), strict=True):
        inside &= (values >= low) & (values <= high)
    return inside


def _paint(part: Part, looks: Looks, points: Points) -> Points:
    fur = _fur(looks, part.frame.rest(points))
    if part.paint == "fur":
        return fur
    if part.paint == "ear":
        height, radius = part.dish(points - part.a)
        inside = _smooth(0.5 + height) * _smooth((part.disc - radius) / 2 + 0.4)
        return fur + inside[:, None] * (np.array(SKIN) - fur)
    if part.paint == "eye":
        side = np.sign(part.frame.rest(part.a[None])[0, 1])
        glint = (points - part.a) @ part.frame.axes @ np.array([0.45, 0.6 * side, 0.66])
        return np.where((glint > 0.91 * part.ra)[:, None], GLINT, EYE)
    return np.broadcast_to(NOSE if part.paint == "nose" else SKIN, points.shape)


def _fur(looks: Looks, rest: Points) -> Points:
    """Countershaded fur with patches and a fine brindle, as a function of the resting animal alone."""
    coat = looks.coat
    colour = np.broadcast_to(coat.back, rest.shape)
    under = _smooth((-3.5 - rest[:, 2]) / 7)[:, None]
    colour = colour + under * (np.array(coat.belly) - colour)
    spots = np.sin(rest @ looks.waves.T + looks.phases).sum(1) / np.sqrt(3.5)
    patch = _smooth((spots + 1.1 * (2 * coat.patched - 1)) * 2 + 0.5)[:, None] if coat.patched else 0.0
    colour = colour + patch * (np.array(coat.patch) - colour)
    brindle = np.sin(rest @ (looks.waves[:4] * 14).T + looks.phases[:4]).sum(1)
    return colour * (1 + 0.025 * brindle[:, None])
