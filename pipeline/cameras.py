"""Cameras: OpenCV axes (x right, y down, z forward), world Z-up, pixel centres at +0.5.

An image operation changes K and leaves c2w; a similarity of the world changes c2w and leaves K.
Nothing here moves one camera relative to another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DataError

FACELIFT_DISTANCE = 2.7
FACELIFT_FOV_DEGREES = 50.0
FACELIFT_SIX_AZIMUTHS = (-90.0, -135.0, 180.0, 90.0, 0.0, -45.0)  # front, front-right, right, back, left, front-left
RING_ELEVATION = 20.0
WORLD_UP = (0.0, 0.0, 1.0)


class Rays(NamedTuple):
    """One ray per pixel, in world coordinates; directions have length 1."""

    origins: Float[Tensor, "*batch height width 3"]
    directions: Float[Tensor, "*batch height width 3"]


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras of one image size.

    c2w: [..., 4, 4] camera-to-world, world units; fxfycxcy: [..., 4] pixels, image corner at (0, 0);
    width, height: pixels. Raises DataError when the shapes do not fit.
    """

    c2w: Float[Tensor, "*batch 4 4"]
    fxfycxcy: Float[Tensor, "*batch 4"]
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.c2w.shape[-2:] != (4, 4) or self.fxfycxcy.shape != (*self.c2w.shape[:-2], 4):
            came = f"{tuple(self.c2w.shape)} and {tuple(self.fxfycxcy.shape)}"
            raise DataError(f"cameras: expected c2w [..., 4, 4] and fxfycxcy [..., 4], got {came} — align them.")

    @property
    def batch_shape(self) -> torch.Size:
        return self.c2w.shape[:-2]

    @property
    def w2c(self) -> Float[Tensor, "*batch 4 4"]:
        """World-to-camera."""
        return rigid_inverse(self.c2w)

    @property
    def K(self) -> Float[Tensor, "*batch 3 3"]:
        """Intrinsic matrices in pixels."""
        fx, fy, cx, cy = self.fxfycxcy.unbind(-1)
        zero, one = torch.zeros_like(fx), torch.ones_like(fx)
        return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], -1).unflatten(-1, (3, 3))

    @property
    def centres(self) -> Float[Tensor, "*batch 3"]:
        return self.c2w[..., :3, 3]

    @property
    def forward(self) -> Float[Tensor, "*batch 3"]:
        """Unit viewing directions in the world."""
        return self.c2w[..., :3, 2]

    def __getitem__(self, index: object) -> Cameras:
        return replace(self, c2w=self.c2w[index], fxfycxcy=self.fxfycxcy[index])  # type: ignore[index]

    def to(self, *args: object) -> Cameras:
        """The same cameras on another device or in another dtype."""
        return replace(self, c2w=self.c2w.to(*args), fxfycxcy=self.fxfycxcy.to(*args))  # type: ignore[call-overload]

    def rays(self) -> Rays:
        """World rays through every pixel centre (FaceLift)."""
        like = {"dtype": self.c2w.dtype, "device": self.c2w.device}
        rows = torch.arange(self.height, **like) + 0.5  # type: ignore[call-overload]
        columns = torch.arange(self.width, **like) + 0.5  # type: ignore[call-overload]
        v, u = torch.meshgrid(rows, columns, indexing="ij")
        fx, fy, cx, cy = self.fxfycxcy[..., None, None, :].unbind(-1)
        in_camera = torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u).expand_as((u - cx) / fx)], -1)
        with torch.autocast(self.c2w.device.type, enabled=False):  # in bfloat16 a ray is off by more than a pixel
            rotated = F.normalize(in_camera, dim=-1) @ self.c2w[..., None, :3, :3].mT
        directions = F.normalize(rotated, dim=-1)
        return Rays(self.centres[..., None, None, :].expand_as(directions), directions)

    def project(self, points: Float[Tensor, "*batch n 3"]) -> tuple[Tensor, Tensor]:
        """World points to pixels [..., n, 2] and depths [..., n] along the optical axis."""
        w2c = self.w2c
        in_camera = points @ w2c[..., :3, :3].mT + w2c[..., None, :3, 3]
        depth = in_camera[..., 2]
        pixels = in_camera[..., :2] / depth[..., None] * self.fxfycxcy[..., None, :2] + self.fxfycxcy[..., None, 2:]
        return pixels, depth

    def affine(self, scale_x: float, scale_y: float, shift_x: float, shift_y: float, size: tuple[int, int]) -> Cameras:
        """Cameras of the image u' = (scale_x·u + shift_x, scale_y·v + shift_y) of `size` (width, height)."""
        scale = self.fxfycxcy.new_tensor([scale_x, scale_y, scale_x, scale_y])
        shift = self.fxfycxcy.new_tensor([0.0, 0.0, shift_x, shift_y])
        return replace(self, fxfycxcy=self.fxfycxcy * scale + shift, width=size[0], height=size[1])

    def resize(self, width: int, height: int) -> Cameras:
        """Cameras of the image resampled to width×height."""
        return self.affine(width / self.width, height / self.height, 0.0, 0.0, (width, height))

    def crop(self, left: float, top: float, width: int, height: int) -> Cameras:
        """Cameras of the window of width×height whose corner was at (left, top)."""
        return self.affine(1.0, 1.0, -left, -top, (width, height))

    def transform(
        self,
        scale: float | Tensor,
        rotation: Float[Tensor, "3 3"] | None = None,
        centre: Float[Tensor, 3] | Sequence[float] = (0.0, 0.0, 0.0),
    ) -> Cameras:
        """Cameras in the world X' = scale · rotation · (X − centre); images and K are untouched."""
        eye = torch.eye(3, dtype=self.c2w.dtype, device=self.c2w.device)
        turn = eye if rotation is None else rotation.to(self.c2w)
        origin = torch.as_tensor(centre, dtype=self.c2w.dtype, device=self.c2w.device)
        c2w = self.c2w.clone()
        c2w[..., :3, :3] = turn @ self.c2w[..., :3, :3]
        c2w[..., :3, 3] = scale * (self.centres - origin) @ turn.mT
        return replace(self, c2w=c2w)

    def mirror(self) -> Cameras:
        """Cameras of the world with x reversed, whose images are the old ones flipped left to right."""
        flip = self.c2w.new_tensor([-1.0, 1.0, 1.0, 1.0])
        fx, fy, cx, cy = self.fxfycxcy.unbind(-1)
        return replace(
            self, c2w=flip[:, None] * self.c2w * flip, fxfycxcy=torch.stack([fx, fy, self.width - cx, cy], -1)
        )

    def check(self, where: str, tolerance: float = 1e-4) -> None:
        """Raise DataError, naming the camera, unless every rotation is proper and every number usable."""
        rotation = self.c2w[..., :3, :3].double().reshape(-1, 3, 3)
        numbers = torch.cat([self.c2w.reshape(-1, 16), self.fxfycxcy.reshape(-1, 4)], -1)
        focal = self.fxfycxcy.reshape(-1, 4)[:, :2]
        last_row = self.c2w[..., 3, :].double().reshape(-1, 4)
        for i in range(len(rotation)):
            if not bool(torch.isfinite(numbers[i]).all()):
                raise DataError(
                    f"{where}: camera {i}: expected finite numbers, got one that is not — calibrate it again."
                )
            determinant = float(torch.linalg.det(rotation[i]))
            skewed = float((rotation[i] @ rotation[i].mT - torch.eye(3, dtype=torch.float64)).abs().max())
            if abs(determinant - 1) > tolerance:
                raise DataError(
                    f"{where}: camera {i}: expected a rotation with det +1, got det {determinant:.4g} — "
                    "the camera is mirrored or scaled; store w2c with x right, y down, z forward."
                )
            if skewed > tolerance:
                raise DataError(
                    f"{where}: camera {i}: expected an orthonormal rotation, got one off by {skewed:.2g} — "
                    "store a rigid w2c."
                )
            if bool((focal[i] <= 0).any()):
                raise DataError(f"{where}: camera {i}: expected fx, fy > 0, got {focal[i].tolist()} — mend fx, fy.")
            if last_row[i].tolist() != [0.0, 0.0, 0.0, 1.0]:
                raise DataError(
                    f"{where}: camera {i}: expected last row 0 0 0 1, got {last_row[i].tolist()} — mend w2c."
                )


def rigid_inverse(rigid: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """The inverse of a rotation and a shift, exact for orthonormal rotations."""
    rotation = rigid[..., :3, :3].mT
    translation = -rotation @ rigid[..., :3, 3:]
    return torch.cat([torch.cat([rotation, translation], -1), rigid[..., 3:, :]], -2)


def plucker(rays: Rays) -> Float[Tensor, "*batch height width 6"]:
    """Moment (o × d) and direction: six numbers that name a ray, wherever along it the origin is taken."""
    return torch.cat([torch.linalg.cross(rays.origins, rays.directions), rays.directions], -1)


def closest_point(rays: Rays) -> Float[Tensor, "*batch height width 6"]:
    """Direction and the point of the ray nearest to the world origin (FaceLift's `use_custom_plucker`)."""
    nearest = rays.origins + ray_parameter_of_closest_point(rays)[..., None] * rays.directions
    return torch.cat([rays.directions, nearest], -1)


def ray_parameter_of_closest_point(rays: Rays) -> Float[Tensor, "*batch height width"]:
    """T at which o + t·d is nearest to the world origin."""
    return -(rays.origins * rays.directions).sum(-1)


def look_at(position: Float[Tensor, "*batch 3"], target: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4 4"]:
    """c2w of upright cameras at `position` whose optical axis passes through `target` (world Z-up).

    Raises DataError when the axis is vertical: no upright camera exists there.
    """
    forward = F.normalize(target - position, dim=-1)
    up = forward.new_tensor(WORLD_UP).expand_as(forward)
    right = torch.linalg.cross(forward, up)
    if bool((right.norm(dim=-1) < 1e-6).any()):
        raise DataError("look_at: expected an axis that is not vertical — move the camera off the target's vertical.")
    right = F.normalize(right, dim=-1)
    down = torch.linalg.cross(forward, right)
    c2w = torch.eye(4, dtype=forward.dtype, device=forward.device).repeat(*forward.shape[:-1], 1, 1)
    c2w[..., :3, :] = torch.stack([right, down, forward, position], -1)
    facing = ((target - position) * c2w[..., :3, 2]).sum(-1)
    assert bool((torch.linalg.det(c2w[..., :3, :3]) > 0.999).all()) and bool((facing > 0).all())
    return c2w


def orbit(
    azimuths: Sequence[float],
    elevation: float,
    size: int,
    distance: float = FACELIFT_DISTANCE,
    fov: float = FACELIFT_FOV_DEGREES,
) -> Cameras:
    """Cameras on a circle about the origin, looking at it; angles in degrees, azimuth from +x towards +y."""
    azimuth = torch.deg2rad(torch.tensor(azimuths, dtype=torch.float64))
    return circle(azimuth, math.radians(elevation), distance, focal_pixels(size, fov), size).to(torch.float32)


def circle(azimuth: Float[Tensor, " view"], elevation: float, distance: float, focal: float, size: int) -> Cameras:
    """`orbit` in radians, float64 and with a focal length in pixels."""
    ground = distance * math.cos(elevation)
    up = torch.full_like(azimuth, distance * math.sin(elevation))
    position = torch.stack([ground * azimuth.cos(), ground * azimuth.sin(), up], -1)
    intrinsics = torch.tensor([focal, focal, size / 2, size / 2], dtype=torch.float64).repeat(len(azimuth), 1)
    return Cameras(look_at(position, torch.zeros_like(position)), intrinsics, size, size)


def focal_pixels(size: int, fov: float = FACELIFT_FOV_DEGREES) -> float:
    """Focal length in pixels of an image `size` pixels wide that spans `fov` degrees."""
    return size / 2 / math.tan(math.radians(fov) / 2)


def facelift_six(size: int) -> Cameras:
    """FaceLift's released inference rig: six cameras at elevation 0, in the order its models see them."""
    return orbit(FACELIFT_SIX_AZIMUTHS, 0.0, size)


def facelift_ring(size: int, views: int = 32) -> Cameras:
    """FaceLift's training rig: a ring of 32 at elevation 20°, or `views` evenly spaced on it."""
    return orbit([360.0 * i / views for i in range(views)], RING_ELEVATION, size)


def mouse_rig() -> Cameras:
    """The real six-camera mouse rig: millimetres, 1152×1024, files in their order 0…5 (MAMMAL).

    fx fy cx cy, centre (mm) and yaw, pitch, roll (degrees) of each view, as published for the recording.
    """
    numbers = torch.tensor(_MOUSE_RIG, dtype=torch.float64)
    yaw, pitch, roll = torch.deg2rad(numbers[:, 7:]).unbind(-1)
    forward = torch.stack([pitch.cos() * yaw.cos(), pitch.cos() * yaw.sin(), pitch.sin()], -1)
    c2w = look_at(numbers[:, 4:7], numbers[:, 4:7] + forward)
    turn = torch.eye(4, dtype=torch.float64).repeat(len(numbers), 1, 1)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = roll.cos(), roll.sin(), -roll.sin(), roll.cos()
    return Cameras(c2w @ turn, numbers[:, :4], width=1152, height=1024).to(torch.float32)


_MOUSE_RIG = (
    (1632.3, 1639.3, 601.3, 491.2, -199.5, -129.3, 63.4, 35.2, 0.8, -0.8),
    (1556.8, 1580.5, 622.0, 417.5, 321.6, 216.8, 145.9, -150.6, -13.6, 1.7),
    (1630.3, 1633.0, 611.4, 477.6, 24.1, 355.8, 71.2, -86.7, -0.9, -1.2),
    (1606.2, 1617.6, 582.6, 551.9, 327.6, -65.3, 63.3, 156.6, -0.8, 0.5),
    (1618.3, 1628.9, 641.5, 453.2, -230.4, 167.4, 142.2, -24.3, -16.0, 0.4),
    (1636.9, 1642.5, 613.3, 524.3, 114.6, -236.3, 156.5, 101.4, -22.0, -1.0),
)
