"""Light and pictures of a mouse: soft light baked once per pose, then exact coverage from any camera.

Since the light lies on the skin and the skin is Lambertian, all views of one moment agree. Embree traces
every ray; nothing needs a display or a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Float, Int, UInt8

from pipeline.cameras import Cameras
from pipeline.data.mice.body import Array, Points

SAMPLES = 4  # per pixel and axis
RAYS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class MouseMesh:
    """One watertight skin: vertices in world units, triangles counter-clockwise, lit linear RGB."""

    vertices: Points
    faces: Int[Array, "m 3"]
    colours: Points

    @property
    def centre(self) -> Float[Array, " 3"]:
        """Middle of the bounding box."""
        return (self.vertices.min(0) + self.vertices.max(0)) / 2

    def transform(self, scale: float, centre: Float[Array, " 3"]) -> MouseMesh:
        """The same mouse in the world X' = scale · (X − centre)."""
        return replace(self, vertices=scale * (self.vertices - centre))


# ---------------------------------------------------------------- camera


def render_mouse(mesh: MouseMesh, cameras: Cameras) -> UInt8[Array, "views height width 4"]:
    """Photograph the mesh: sRGB, straight alpha (the share of 4×4 samples that hit), RGB 0 at alpha 0.

    cameras: one batch axis of views, in the mesh's world; every view is exact for its own K and c2w.
    """
    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32))
    cameras = cameras.to(torch.float64)
    return np.stack([_photograph(scene, mesh, cameras[i]) for i in range(len(cameras.c2w))])


def _photograph(scene: EmbreeScene, mesh: MouseMesh, camera: Cameras) -> UInt8[Array, "height width 4"]:
    """One view; only the mesh's window is traced, in bands that bound the memory."""
    image = np.zeros((camera.height, camera.width, 4), np.uint8)
    left, top, right, bottom = _window(mesh, camera)
    band = max(1, RAYS_AT_ONCE // (SAMPLES**2 * max(1, right - left)))
    for row in range(top, bottom, band):
        end = min(row + band, bottom)
        image[row:end, left:right] = _developed(_trace(scene, mesh, camera, (left, row, right, end)))
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


def _trace(
    scene: EmbreeScene, mesh: MouseMesh, camera: Cameras, window: tuple[int, int, int, int]
) -> Float[Array, "rows columns 4"]:
    """Premultiplied linear RGBA of the window: means over samples at (i + 0.5) / 4 inside each pixel."""
    left, top, right, bottom = window
    fx, fy, cx, cy = camera.fxfycxcy.tolist()
    right_axis, down_axis, forward, centre = camera.c2w[:3].numpy().T
    x = (np.arange((right - left) * SAMPLES) + 0.5) / SAMPLES + left
    y = (np.arange((bottom - top) * SAMPLES) + 0.5) / SAMPLES + top
    across = forward + np.outer((x - cx) / fx, right_axis)
    rays = (np.outer((y - cy) / fy, down_axis)[:, None] + across).astype(np.float32).reshape(-1, 3)
    origins = np.broadcast_to(centre.astype(np.float32), rays.shape).copy()
    hits = scene.run(origins, rays, output=True)
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


def irradiance(vertices: Points, faces: Int[Array, "m 3"], normals: Points) -> Float[Array, " n"]:
    """Light on each vertex relative to a surface open to the zenith: soft sky, floor bounce, one broad lamp.

    Occlusion is traced from every vertex to the same fixed directions, so it is free of noise and moves
    smoothly with the mouse.
    """
    scene = EmbreeScene()
    TriangleMesh(scene, vertices.astype(np.float32), faces.astype(np.int32))
    origins = (vertices + 0.5 * normals).astype(np.float32)
    light = np.zeros(len(vertices), np.float32)
    for direction, power in zip(*_lamps(), strict=True):
        facing = np.flatnonzero(normals @ direction > 0.02)
        rays = np.broadcast_to(direction.astype(np.float32), (len(facing), 3)).copy()
        blocked = scene.run(origins[facing], rays, query="OCCLUDED") == 0
        light[facing] += power * (normals[facing] @ direction) * ~blocked
    return light


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
