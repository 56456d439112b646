"""The projection of Gaussians as compiled kernels, and its vector-Jacobian product.

They take BLOCK Gaussians of a scene at a time: their fields are gathered into the rows of a table, then each view is a
loop along the rows, which the compiler turns into vector instructions because the table's size is fixed and all of the
loop is inlined; then what came of it is handed out. What does not depend on the view is computed once for all views.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.splatting.compiled import compiled, inlined

MIN_ALPHA = 1 / 255  # fainter pairs are not drawn
DILATION = 0.3  # px², added to the diagonal of every projected covariance
JACOBIAN_MARGIN = 0.15  # of the image size: how far outside it x/z may linearise
SHORTEST_QUATERNION = 1e-12  # shorter ones are divided by this, as in torch's `normalize`

# Columns of `splats`: centre in px, inverse covariance in px⁻², opacity, colours, depth.
X, Y, XX, XY, YY, OPACITY, RED, GREEN, BLUE, DEPTH = range(10)
# Columns of `views`: the upper three rows of w2c, intrinsics in px, the x/z and y/z between which is linearised.
FX, FY, CX, CY, LEFT, TOP, RIGHT, BOTTOM = range(12, 20)
# Rows of the kernels' table of BLOCK Gaussians; the ten of RESULT are columns of `splats`, or their gradients.
BLOCK = 64
MEAN, AXES, RESULT, VARIANCE_X, VARIANCE_Y, REACH, IN_FRONT, ZERO, D_MEAN, D_AXES = 0, 3, 12, 22, 23, 24, 25, 26, 27, 30
TABLE_ROWS = 39


@compiled
def project_scene(first, end, size, near_plane, means, quats, scales, opacities, colours, views, splats, visible):  # type: ignore[no-untyped-def]
    """Write splats [views, N, 10] and visible [views, N] of Gaussians first … end - 1 of a scene."""
    table = np.zeros((TABLE_ROWS, BLOCK))
    for block in range(first, end, BLOCK):
        count = min(BLOCK, end - block)
        for j in range(count):
            _gather(table, j, means, quats, scales, block + j)
            opacity = float(opacities[block + j])
            is_drawn = opacity >= MIN_ALPHA and math.isfinite(opacity)
            table[REACH, j] = math.sqrt(2.0 * math.log(opacity * 255.0)) if is_drawn else -1.0
        for v in range(len(views)):
            view = _view(views, v)
            for j in range(BLOCK):
                z, near, slopes, linear = _slopes(view, _triple(table, MEAN, j), near_plane)
                focal_x, focal_y = view[FX] / near, view[FY] / near
                seen_x, seen_y = _image_axes(view, linear, _axes(table, j))
                cov_xx, cov_xy, cov_yy, unsafe, determinant = _covariance(seen_x, seen_y, focal_x, focal_y)
                table[RESULT + X, j] = slopes[0] * view[FX] + view[CX]
                table[RESULT + Y, j] = slopes[1] * view[FY] + view[CY]
                table[RESULT + XX, j], table[RESULT + YY, j] = cov_yy / determinant, cov_xx / determinant
                table[RESULT + XY, j], table[RESULT + DEPTH, j] = -cov_xy / determinant, z
                table[VARIANCE_X, j], table[VARIANCE_Y, j] = cov_xx, cov_yy
                table[IN_FRONT, j] = 1.0 if z >= near_plane and unsafe > 0.0 else 0.0
            for j in range(count):
                n = block + j
                for column in (X, Y, XX, XY, YY, DEPTH):
                    splats[v, n, column] = table[RESULT + column, j]
                of = min(v, len(colours) - 1)
                colour = (float(colours[of, n, 0]), float(colours[of, n, 1]), float(colours[of, n, 2]))
                splats[v, n, RED], splats[v, n, GREEN], splats[v, n, BLUE] = colour
                splats[v, n, OPACITY] = opacities[n]
                visible[v, n] = (
                    table[REACH, j] >= 0.0
                    and table[IN_FRONT, j] == 1.0
                    and _overlaps(table[RESULT + X, j], table[REACH, j], table[VARIANCE_X, j], size[0])
                    and _overlaps(table[RESULT + Y, j], table[REACH, j], table[VARIANCE_Y, j], size[1])
                    and math.isfinite(splats[v, n, DEPTH] + colour[0] + colour[1] + colour[2])
                    and splats[v, n, XX] > 0.0  # 0 where the Gaussian is so wide that its type has no such number
                    and splats[v, n, YY] > 0.0
                )


@compiled
def project_scene_vjp(  # type: ignore[no-untyped-def]
    first, end, near_plane, means, quats, scales, opacities, colours, views, cotangents,
    d_means, d_quats, d_scales, d_opacities, d_colours,
):  # fmt: skip
    """Write the gradients of Gaussians first … end - 1 of a scene."""
    table = np.zeros((TABLE_ROWS, BLOCK))
    views_are_finite = _are_finite(views)
    for block in range(first, end, BLOCK):
        count = min(BLOCK, end - block)
        table[D_MEAN:] = 0.0
        for j in range(count):
            n = block + j
            _gather(table, j, means, quats, scales, n)
            is_finite = views_are_finite and math.isfinite(opacities[n]) and _is_finite(means, n)
            is_finite = is_finite and _is_finite(quats, n) and _is_finite(scales, n)
            for v in range(len(colours)):
                is_finite = is_finite and math.isfinite(colours[v, n, 0] + colours[v, n, 1] + colours[v, n, 2])
            table[ZERO, j] = 0.0 if is_finite else math.nan
            d_opacities[n], d_colours[:, n] = table[ZERO, j], table[ZERO, j]
        for v in range(len(views)):
            view, of = _view(views, v), min(v, len(colours) - 1)
            for j in range(count):
                n = block + j
                for column in range(10):
                    table[RESULT + column, j] = cotangents[v, n, column]
                d_opacities[n] += cotangents[v, n, OPACITY]
                for c in range(3):
                    d_colours[of, n, c] += cotangents[v, n, RED + c]
            for j in range(BLOCK):
                _, _, _, linear = _slopes(view, _triple(table, MEAN, j), near_plane)
                d_point, d_seen_x, d_seen_y, _, _, _ = _pair_vjp(table, j, view, near_plane)
                for k in range(3):
                    table[D_MEAN + k, j] += view[k] * d_point[0] + view[4 + k] * d_point[1] + view[8 + k] * d_point[2]
                row_x, row_y = _image_rows(view, linear)
                for axis in range(3):
                    for k in range(3):
                        table[D_AXES + 3 * axis + k, j] += d_seen_x[axis] * row_x[k] + d_seen_y[axis] * row_y[k]
        for j in range(count):
            _hand_out(table, j, quats, scales, block + j, d_means, d_quats, d_scales)


@compiled
def views_vjp(first, end, near_plane, means, quats, scales, views, cotangents, d_views):  # type: ignore[no-untyped-def]
    """Add what Gaussians first … end - 1 of a scene give to the gradients of its views [views, 16]."""
    table = np.zeros((TABLE_ROWS, 1))
    for n in range(first, end):
        _gather(table, 0, means, quats, scales, n)
        mean = _triple(table, MEAN, 0)
        for v in range(len(views)):
            view = _view(views, v)
            for column in range(10):
                table[RESULT + column, 0] = cotangents[v, n, column]
            d_point, _, _, d_rows, d_linear, d_focals = _pair_vjp(table, 0, view, near_plane)
            _, near, slopes, linear = _slopes(view, mean, near_plane)
            for k in range(3):
                d_views[v, k] += d_point[0] * mean[k] + d_rows[0][k]
                d_views[v, 4 + k] += d_point[1] * mean[k] + d_rows[1][k]
                d_views[v, 8 + k] += d_point[2] * mean[k] - linear[0] * d_rows[0][k] - linear[1] * d_rows[1][k]
                d_views[v, 4 * k + 3] += d_point[k]
            for i in range(2):
                d_views[v, FX + i] += table[RESULT + X + i, 0] * slopes[i] + d_focals[i] / near
                d_views[v, CX + i] += table[RESULT + X + i, 0]
                if not view[LEFT + i] <= slopes[i] <= view[RIGHT + i]:  # then linear follows the image's edge
                    d_views[v, FX + i] -= d_linear[i] * linear[i] / view[FX + i]
                    d_views[v, CX + i] -= d_linear[i] / view[FX + i]


@inlined
def _pair_vjp(table, j, view, near_plane):  # type: ignore[no-untyped-def]
    """From the gradients in RESULT to those of what is in front of them.

    These are the centre in camera space, the axes as columns and as rows see them, the two vectors that see them, the
    slopes at which is linearised, and the focal lengths over depth.
    """
    axes = _axes(table, j)
    z, near, slopes, linear = _slopes(view, _triple(table, MEAN, j), near_plane)
    focal_x, focal_y = view[FX] / near, view[FY] / near
    seen_x, seen_y = _image_axes(view, linear, axes)
    d_conic = (table[RESULT + XX, j], table[RESULT + XY, j], table[RESULT + YY, j])
    d_seen_x, d_seen_y, d_focal_x, d_focal_y = _covariance_vjp(seen_x, seen_y, focal_x, focal_y, d_conic)
    d_rows = (_combined(axes, d_seen_x), _combined(axes, d_seen_y))
    d_linear = (-_dot(_row(view, 2), d_rows[0]), -_dot(_row(view, 2), d_rows[1]))
    within_x = (view[LEFT] <= slopes[0]) & (slopes[0] <= view[RIGHT])
    within_y = (view[TOP] <= slopes[1]) & (slopes[1] <= view[BOTTOM])
    d_x = (table[RESULT + X, j] * view[FX] + (d_linear[0] if within_x else 0.0)) / near
    d_y = (table[RESULT + Y, j] * view[FY] + (d_linear[1] if within_y else 0.0)) / near
    d_near = -(d_x * slopes[0] + d_y * slopes[1] + (d_focal_x * focal_x + d_focal_y * focal_y) / near)
    d_z = table[RESULT + DEPTH, j] + (d_near if z >= near_plane else 0.0)
    return (d_x, d_y, d_z), d_seen_x, d_seen_y, d_rows, d_linear, (d_focal_x, d_focal_y)


@compiled
def _gather(table, j, means, quats, scales, n):  # type: ignore[no-untyped-def]
    """Centre and axes of Gaussian n: the three standard deviations as world vectors, rotation times scales."""
    turn, scale = _rotation(_quaternion(quats, n)[0]), _vector(scales, n)
    for k in range(3):
        table[MEAN + k, j] = means[n, k]
        for axis in range(3):
            table[AXES + 3 * axis + k, j] = turn[axis][k] * scale[axis]


@compiled
def _hand_out(table, j, quats, scales, n, d_means, d_quats, d_scales):  # type: ignore[no-untyped-def]
    """Write the gradients of Gaussian n; NaN where it is not finite."""
    quat, length = _quaternion(quats, n)
    turn, scale, zero = _rotation(quat), _vector(scales, n), table[ZERO, j]
    d_axes = (_triple(table, D_AXES, j), _triple(table, D_AXES + 3, j), _triple(table, D_AXES + 6, j))
    for k in range(3):
        d_means[n, k] = zero + table[D_MEAN + k, j]
        d_scales[n, k] = zero + _dot(turn[k], d_axes[k])
    d_quat = _quaternion_vjp(quat, length, scale, d_axes)
    for k in range(4):
        d_quats[n, k] = zero + d_quat[k]


@compiled
def _quaternion(quats, n):  # type: ignore[no-untyped-def]
    """A quaternion at length 1, and its length."""
    w, x, y, z = float(quats[n, 0]), float(quats[n, 1]), float(quats[n, 2]), float(quats[n, 3])
    length = max(math.sqrt(w * w + x * x + y * y + z * z), SHORTEST_QUATERNION)
    return (w / length, x / length, y / length, z / length), length


@compiled
def _rotation(quat):  # type: ignore[no-untyped-def]
    """The columns of the rotation of a quaternion of length 1."""
    w, x, y, z = quat
    return (
        (1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y)),
        (2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x)),
        (2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y)),
    )


@compiled
def _quaternion_vjp(quat, length, scale, d_axes):  # type: ignore[no-untyped-def]
    w, x, y, z = quat
    d_0, d_1, d_2 = _times(scale[0], d_axes[0]), _times(scale[1], d_axes[1]), _times(scale[2], d_axes[2])
    turn_x, turn_y, turn_z = d_1[2] - d_2[1], d_2[0] - d_0[2], d_0[1] - d_1[0]
    both_x, both_y, both_z = d_1[2] + d_2[1], d_2[0] + d_0[2], d_0[1] + d_1[0]
    d_w = 2.0 * (x * turn_x + y * turn_y + z * turn_z)
    d_x = 2.0 * (w * turn_x + y * both_z + z * both_y) - 4.0 * x * (d_1[1] + d_2[2])
    d_y = 2.0 * (w * turn_y + x * both_z + z * both_x) - 4.0 * y * (d_0[0] + d_2[2])
    d_z = 2.0 * (w * turn_z + x * both_y + y * both_x) - 4.0 * z * (d_0[0] + d_1[1])
    along = d_w * w + d_x * x + d_y * y + d_z * z if length > SHORTEST_QUATERNION else 0.0
    d_w, d_x, d_y, d_z = d_w - along * w, d_x - along * x, d_y - along * y, d_z - along * z
    return d_w / length, d_x / length, d_y / length, d_z / length


@inlined
def _slopes(view, mean, near_plane):  # type: ignore[no-untyped-def]
    """Depth, depth kept from zero, x/z and y/z, and those at which the projection is linearised."""
    x, y, z = (
        _dot(_row(view, 0), mean) + view[3],
        _dot(_row(view, 1), mean) + view[7],
        _dot(_row(view, 2), mean) + view[11],
    )
    near = max(z, near_plane)
    slope_x, slope_y = x / near, y / near
    linear_x, linear_y = min(max(slope_x, view[LEFT]), view[RIGHT]), min(max(slope_y, view[TOP]), view[BOTTOM])
    return z, near, (slope_x, slope_y), (linear_x, linear_y)


@inlined
def _image_rows(view, linear):  # type: ignore[no-untyped-def]
    """The world vectors along which the image's columns and rows change, per focal length over depth."""
    depth_row = _row(view, 2)
    return _plus(_row(view, 0), -linear[0], depth_row), _plus(_row(view, 1), -linear[1], depth_row)


@inlined
def _image_axes(view, linear, axes):  # type: ignore[no-untyped-def]
    """The Gaussian's axes as the image's columns and rows see them, per focal length over depth.

    The covariance in the image is never formed from one in the world: it is the dot products of these two vectors.
    """
    row_x, row_y = _image_rows(view, linear)
    seen_x = (_dot(row_x, axes[0]), _dot(row_x, axes[1]), _dot(row_x, axes[2]))
    seen_y = (_dot(row_y, axes[0]), _dot(row_y, axes[1]), _dot(row_y, axes[2]))
    return seen_x, seen_y


@inlined
def _covariance(seen_x, seen_y, focal_x, focal_y):  # type: ignore[no-untyped-def]
    """Covariance in px² as xx, xy, yy, its determinant, and the determinant kept from zero."""
    cov_xx = _dot(seen_x, seen_x) * focal_x * focal_x + DILATION
    cov_yy = _dot(seen_y, seen_y) * focal_y * focal_y + DILATION
    cov_xy = _dot(seen_x, seen_y) * focal_x * focal_y
    unsafe = cov_xx * cov_yy - cov_xy * cov_xy
    return cov_xx, cov_xy, cov_yy, unsafe, max(unsafe, DILATION * DILATION)  # the exact bound: rounding falls below


@inlined
def _covariance_vjp(seen_x, seen_y, focal_x, focal_y, d_conic):  # type: ignore[no-untyped-def]
    """From the gradient of the inverse covariance to those of seen_x, seen_y, focal_x and focal_y."""
    cov_xx, cov_xy, cov_yy, unsafe, determinant = _covariance(seen_x, seen_y, focal_x, focal_y)
    d_xx, d_xy, d_yy = d_conic[2] / determinant, -d_conic[1] / determinant, d_conic[0] / determinant
    d_determinant = -(d_xx * cov_xx + d_xy * cov_xy + d_yy * cov_yy) / determinant
    d_determinant = d_determinant if unsafe >= DILATION * DILATION else 0.0
    d_xx += d_determinant * cov_yy
    d_yy += d_determinant * cov_xx
    d_xy -= 2.0 * d_determinant * cov_xy
    twice_xx, once_xy, twice_yy = 2.0 * d_xx * focal_x, d_xy, 2.0 * d_yy * focal_y
    # each of seen_x · focal_x and seen_y · focal_y, whose dot products are the covariance
    scaled_x = _plus(_times(twice_xx, seen_x), once_xy * focal_y, seen_y)
    scaled_y = _plus(_times(twice_yy, seen_y), once_xy * focal_x, seen_x)
    return _times(focal_x, scaled_x), _times(focal_y, scaled_y), _dot(scaled_x, seen_x), _dot(scaled_y, seen_y)


@compiled
def _overlaps(centre, reach, variance, size):  # type: ignore[no-untyped-def]
    """Whether an interval about `centre`, as wide as the Gaussian can be seen, meets the image."""
    if 0.0 < centre < size:
        return True
    radius = np.ceil(reach * math.sqrt(variance))
    return centre + radius > 0.0 and centre - radius < size


# These read arrays element by element: a slice of an array costs numba more than the arithmetic on it.
@compiled
def _vector(vectors, n):  # type: ignore[no-untyped-def]
    return float(vectors[n, 0]), float(vectors[n, 1]), float(vectors[n, 2])


@inlined
def _view(views, v):  # type: ignore[no-untyped-def]
    return (
        views[v, 0], views[v, 1], views[v, 2], views[v, 3], views[v, 4], views[v, 5], views[v, 6], views[v, 7],
        views[v, 8], views[v, 9], views[v, 10], views[v, 11], views[v, FX], views[v, FY], views[v, CX], views[v, CY],
        views[v, LEFT], views[v, TOP], views[v, RIGHT], views[v, BOTTOM],
    )  # fmt: skip


@inlined
def _triple(table, row, j):  # type: ignore[no-untyped-def]
    return table[row, j], table[row + 1, j], table[row + 2, j]


@inlined
def _axes(table, j):  # type: ignore[no-untyped-def]
    return _triple(table, AXES, j), _triple(table, AXES + 3, j), _triple(table, AXES + 6, j)


@compiled
def _are_finite(rows):  # type: ignore[no-untyped-def]
    for n in range(len(rows)):  # noqa: SIM110 — numba compiles no generators
        if not _is_finite(rows, n):
            return False
    return True


@compiled
def _is_finite(array, n):  # type: ignore[no-untyped-def]
    for column in range(array.shape[1]):  # noqa: SIM110
        if not math.isfinite(array[n, column]):
            return False
    return True


@inlined
def _row(view, i):  # type: ignore[no-untyped-def]
    """Row i of the rotation from world to camera."""
    return view[4 * i], view[4 * i + 1], view[4 * i + 2]


@inlined
def _dot(a, b):  # type: ignore[no-untyped-def]
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inlined
def _times(factor, a):  # type: ignore[no-untyped-def]
    return factor * a[0], factor * a[1], factor * a[2]


@inlined
def _plus(a, factor, b):  # type: ignore[no-untyped-def]
    return a[0] + factor * b[0], a[1] + factor * b[1], a[2] + factor * b[2]


@inlined
def _combined(vectors, factors):  # type: ignore[no-untyped-def]
    return _plus(_plus(_times(factors[0], vectors[0]), factors[1], vectors[1]), factors[2], vectors[2])
