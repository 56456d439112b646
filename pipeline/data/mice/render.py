"""Light and pictures of a mouse: soft light baked once per pose, then exact coverage from any camera.

Since the light lies on the skin and the skin is Lambertian, all views of one moment agree. Embree traces
every ray; nothing needs a display or a GPU.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import torch
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Float32, Int, UInt8

from pipeline.cameras import Cameras
from pipeline.data.mice.body import Array, Points

SAMPLES = 4  # per pixel and axis
RAYS_AT_ONCE = 2_000_000
TRACED = 4  # of so many vertices one sees how much light is kept from it
SMOOTHED = 4  # times; the rings between two traced vertices, and as many again
GRAZING = 0.02  # cosine at which light does not reach a surface any more


@dataclass(frozen=True)
class Tracer:
    """A mesh as Embree holds it, which takes a while to build: once for a pose.

    The mesh may lie in another world than the one it was built in: X' = scale · (X − centre).
    """

    scene: EmbreeScene
    scale: float = 1.0
    centre: Float[Array, " 3"] = field(default_factory=lambda: np.zeros(3))

    @classmethod
    def of(cls, vertices: Points, faces: Int[Array, "m 3"]) -> Tracer:
        _have_embree_work_alone()
        scene = EmbreeScene()
        TriangleMesh(scene, vertices.astype(np.float32), faces.astype(np.int32))
        return cls(scene)

    def transform(self, scale: float, centre: Float[Array, " 3"]) -> Tracer:
        """The same mesh in the world X'' = scale · (X' − centre)."""
        return Tracer(self.scene, scale * self.scale, self.centre + centre / self.scale)

    def hits(self, origin: Float[Array, " 3"], directions: Float32[Array, "n 3"]) -> dict[str, Array]:
        """What each ray from a point meets first: its triangle, `primID`, or −1, and there `u` and `v`."""
        start = (origin / self.scale + self.centre).astype(np.float32)
        return self.scene.run(np.broadcast_to(start, directions.shape).copy(), directions, output=True)

    def blocked(self, origins: Float32[Array, "n 3"], directions: Float32[Array, "n 3"]) -> Bool[Array, " n"]:
        """Which rays meet anything. They are of the world that the mesh was built in."""
        return self.scene.run(origins, directions, query="OCCLUDED") == 0


@cache
def _have_embree_work_alone() -> None:
    """Keep Embree from starting a thread for each processor, in each of the processes that draw side by side.

    It has no such setting here, but counts the processors that its caller may use, once, when it first builds a scene.
    """
    if sys.platform != "linux":
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        corners, triangle = np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32)[None]
        scene = EmbreeScene()
        TriangleMesh(scene, corners, triangle)
        scene.run(corners, corners)
    finally:
        os.sched_setaffinity(0, allowed)


@dataclass(frozen=True)
class MouseMesh:
    """One watertight skin: vertices in world units, triangles counter-clockwise, lit linear RGB, and what traces it."""

    vertices: Points
    faces: Int[Array, "m 3"]
    colours: Points
    tracer: Tracer

    @property
    def centre(self) -> Float[Array, " 3"]:
        """Middle of the bounding box."""
        return (self.vertices.min(0) + self.vertices.max(0)) / 2

    def transform(self, scale: float, centre: Float[Array, " 3"]) -> MouseMesh:
        """The same mouse in the world X' = scale · (X − centre)."""
        return replace(self, vertices=scale * (self.vertices - centre), tracer=self.tracer.transform(scale, centre))


# ---------------------------------------------------------------- camera


def render_mouse(mesh: MouseMesh, cameras: Cameras) -> UInt8[Array, "views height width 4"]:
    """Photograph the mesh: sRGB, straight alpha (the share of 4×4 samples that hit), RGB 0 at alpha 0.

    cameras: one batch axis of views, in the mesh's world; every view is exact for its own K and c2w.
    """
    cameras = cameras.to(torch.float64)
    return np.stack([_photograph(mesh, cameras[i]) for i in range(len(cameras.c2w))])


def _photograph(mesh: MouseMesh, camera: Cameras) -> UInt8[Array, "height width 4"]:
    """One view; only the mesh's window is traced, in bands that bound the memory."""
    image = np.zeros((camera.height, camera.width, 4), np.uint8)
    left, top, right, bottom = _window(mesh, camera)
    band = max(1, RAYS_AT_ONCE // (SAMPLES**2 * max(1, right - left)))
    for row in range(top, bottom, band):
        end = min(row + band, bottom)
        image[row:end, left:right] = _developed(_trace(mesh, camera, (left, row, right, end)))
    return image


def _window(mesh: MouseMesh, camera: Cameras) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the mesh's pixels; the whole image when it reaches behind the camera."""
    pixels, depth = camera.project(torch.from_numpy(mesh.vertices).to(torch.float64))
    if not bool((depth > 0).all()):
        return 0, 0, camera.width, camera.height
    limit = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    low = (pixels.amin(0).floor() - 1).clamp(min=torch.zeros(2), max=limit)
    high = (pixels.amax(0).ceil() + 1).clamp(min=torch.zeros(2), max=limit)
    left, top, right, bottom = torch.cat([low, high]).int().tolist()
    return left, top, right, bottom


def _trace(mesh: MouseMesh, camera: Cameras, window: tuple[int, int, int, int]) -> Float[Array, "rows columns 4"]:
    """Premultiplied linear RGBA of the window: means over samples at (i + 0.5) / 4 inside each pixel."""
    left, top, right, bottom = window
    fx, fy, cx, cy = camera.fxfycxcy.tolist()
    right_axis, down_axis, forward, centre = camera.c2w[:3].numpy().T
    x = (np.arange((right - left) * SAMPLES) + 0.5) / SAMPLES + left
    y = (np.arange((bottom - top) * SAMPLES) + 0.5) / SAMPLES + top
    across = (forward + np.outer((x - cx) / fx, right_axis)).astype(np.float32)
    down = np.outer((y - cy) / fy, down_axis).astype(np.float32)
    rays = (down[:, None] + across).reshape(-1, 3)
    hits = mesh.tracer.hits(centre, rays)
    struck = np.flatnonzero(hits["primID"] >= 0)
    samples = np.zeros((len(rays), 4), np.float32)
    a, b = hits["u"][struck, None], hits["v"][struck, None]
    corners = mesh.colours.astype(np.float32)[mesh.faces[hits["primID"][struck]]]
    samples[struck, :3] = (1 - a - b) * corners[:, 0] + a * corners[:, 1] + b * corners[:, 2]
    samples[struck, 3] = 1.0
    return samples.reshape(bottom - top, SAMPLES, right - left, SAMPLES, 4).mean((1, 3))


def _developed(image: Float[Array, "height width 4"]) -> UInt8[Array, "height width 4"]:
    """Premultiplied linear to straight sRGB bytes."""
    alpha = image[..., 3:]
    linear = np.clip(image[..., :3] / np.maximum(alpha, 1e-6), 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * np.concatenate([srgb * (alpha > 0), alpha], -1)).astype(np.uint8)


# ---------------------------------------------------------------- light


def irradiance(tracer: Tracer, vertices: Points, faces: Int[Array, "m 3"], normals: Points) -> Float[Array, " n"]:
    """Light on each vertex relative to a surface open to the zenith: soft sky, floor bounce, one broad lamp.

    tracer: of these vertices and faces. What would fall on a vertex with nothing in the way is exact. How much of it
    arrives is traced from every `TRACED`th vertex to the same fixed directions, so that it is free of noise and moves
    smoothly with the mouse, and spreads over the skin to the vertices between.
    """
    directions, powers = (lamps.astype(np.float32) for lamps in _lamps())
    facing = normals.astype(np.float32) @ directions.T
    facing[facing <= GRAZING] = 0
    falling = facing @ powers
    traced = np.arange(0, len(vertices), TRACED)
    start, lamp = np.nonzero(facing[traced])
    origins = (vertices[traced] + 0.5 * normals[traced]).astype(np.float32)
    arriving = powers[lamp] * facing[traced[start], lamp] * ~tracer.blocked(origins[start], directions[lamp])
    share = np.full(len(vertices), np.nan)
    share[traced] = np.bincount(start, arriving, len(traced)) / falling[traced]
    return falling * _spread(share, faces)


def _spread(values: Float[Array, " n"], faces: Int[Array, "m 3"]) -> Float[Array, " n"]:
    """Fill what is NaN with the mean of its known neighbours on the mesh, ring by ring; what has none becomes 1.

    `SMOOTHED` times every value then becomes the mean of itself and its neighbours, so that shadows have soft edges.
    """
    values, (tail, head) = values.copy(), np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).T
    while (edges := np.isnan(values[head]) & ~np.isnan(values[tail])).any():
        sums = np.bincount(head[edges], values[tail[edges]], len(values))
        counts = np.bincount(head[edges], minlength=len(values))
        values[counts > 0] = sums[counts > 0] / counts[counts > 0]
    values = np.nan_to_num(values, nan=1.0)
    counts = 1 + np.bincount(head, minlength=len(values))
    for _ in range(SMOOTHED):
        values = (values + np.bincount(head, values[tail], len(values))) / counts
    return values


def _lamps(sky: int = 80, lamp: int = 10) -> tuple[Float[Array, "d 3"], Float[Array, " d"]]:
    """Directions towards the light and the power of each."""
    i = np.arange(sky) + 0.5
    dome = _sphere(1 - 2 * i / sky, np.pi * (1 + 5**0.5) * i)
    glow = (0.30 + 0.70 * np.clip(0.5 + 0.75 * dome[:, 2], 0, 1)) * 4 / sky * 0.66
    j = np.arange(lamp) + 0.5
    key = _sphere(1 - 0.06 * j / lamp, np.pi * (1 + 5**0.5) * j) @ _towards(np.array([0.45, -0.55, 0.75]))
    return np.concatenate([dome, key]), np.concatenate([glow, np.full(lamp, 0.72 / lamp)])


def _sphere(z: Float[Array, " d"], azimuth: Float[Array, " d"]) -> Float[Array, "d 3"]:
    ring = np.sqrt(np.maximum(1 - z**2, 0))
    return np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), z], -1)


def _towards(axis: Float[Array, " 3"]) -> Float[Array, "3 3"]:
    """A matrix whose last row is `axis`, so that `v @ it` turns z into it."""
    z = axis / np.linalg.norm(axis)
    x = np.cross([0.0, 0.0, 1.0], z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])
