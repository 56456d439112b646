"""Figures of how steady a sequence is, and its framing over time, against plain NumPy and SciPy."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from pipeline.cameras import facelift_six
from pipeline.errors import DataError
from pipeline.reconstruction.sequence.summary import crop_to_world
from pipeline.reconstruction.sequence.temporal import Seen, flicker, jitter, variation
from pipeline.reconstruction.sequence.track import Found, one_framing, smoothed
from pipeline.reconstruction.sequence.wanted import Wanted

FRAMES, SIDE = 9, 12


def clip(seed: int) -> list[Seen | None]:
    """Noise, with animals that are somewhere, and one frame that failed."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (FRAMES, 2, SIDE, SIDE, 3), dtype=np.uint8)
    animals = rng.random((FRAMES, SIDE, SIDE)) < 0.3
    moments: list[Seen | None] = [
        Seen(source, made, animal) for (source, made), animal in zip(pictures, animals, strict=True)
    ]
    moments[4] = None
    return moments


def test_flicker_is_the_mean_change_of_the_pixels_that_show_the_animal_before_or_after() -> None:
    moments, changes = clip(0), [[], []]
    for before, now in pairwise(moments):
        if before is None or now is None:
            continue
        for row in range(SIDE):
            for column in range(SIDE):
                if before.animal[row, column] or now.animal[row, column]:
                    for kind in (0, 1):
                        difference = now[kind][row, column] / 255 - before[kind][row, column] / 255
                        changes[kind].append(np.abs(difference).mean())
    found = flicker(moments, range(FRAMES))
    assert found.pairs == FRAMES - 1 - 2
    assert found.source == pytest.approx(np.mean(changes[0])) and found.made == pytest.approx(np.mean(changes[1]))
    assert found.ratio == pytest.approx(np.mean(changes[1]) / np.mean(changes[0]))


def test_what_stands_still_has_no_flicker_and_no_ratio() -> None:
    still = [clip(0)[0]] * 3
    assert flicker(still, range(3)) == (0.0, 0.0, 2) and flicker(still, range(3)).ratio is None
    assert flicker(still[:1], [0]) == (None, None, 0)


def test_a_steady_walk_has_no_jitter_and_a_step_aside_has_that_of_its_second_difference() -> None:
    walk = np.arange(8)[:, None] * np.array([[0.3, -0.1, 0.02]])
    assert jitter(walk, range(8)).value == pytest.approx(0, abs=1e-12) and jitter(walk, range(8)).n == 6
    walk[4] += [3.0, 4.0, 0.0]  # seconds of 1, −2 and 1 times 5
    assert jitter(walk, range(8)).value == pytest.approx(math.sqrt((25 + 100 + 25) / 6))


def test_a_frame_that_failed_takes_its_triples_out_of_the_jitter() -> None:
    points = np.random.default_rng(0).normal(size=(8, 2))
    whole = np.diff(points, n=2, axis=0)
    points[3] = np.nan
    left = np.concatenate([whole[:1], whole[4:]])
    assert jitter(points, range(8)) == (pytest.approx(np.sqrt((np.linalg.norm(left, axis=1) ** 2).mean())), 3)


def test_a_gap_between_frames_ends_pairs_and_triples() -> None:
    times = [0, 1, 2, 9, 10, 11]
    walk = np.array(times)[:, None] * np.array([[0.3, -0.1]])
    assert jitter(walk, times) == (pytest.approx(0, abs=1e-12), 2)
    assert flicker([clip(0)[0]] * 6, times).pairs == 4


def test_the_variation_of_counts_is_their_deviation_over_their_mean() -> None:
    counts = [120, 90, 105, 133]
    assert variation(counts) == (pytest.approx(np.std(counts) / np.mean(counts)), 4)
    assert variation([7]) == (None, 1) and variation([0, 0]) == (None, 2)


# ---------------------------------------------------------------- framing


def found_at(x: float, y: float, side: float, half: float = 10.0) -> Found:
    return Found((x - side / 2, y - side / 2, side), (x - half, y - half, x + half, y + half), 200.0)


def middles(crops: list) -> np.ndarray:
    return np.array([(left + side / 2, top + side / 2, math.log(side)) for left, top, side in crops])


def test_amid_even_frames_smoothing_is_a_gaussian_filter_of_centre_and_logarithmic_side() -> None:
    rng = np.random.default_rng(1)
    values = np.cumsum(rng.normal(size=(81, 3)), axis=0) * [4, 4, 0.02] + [300, 200, 5]
    found = [found_at(x, y, math.exp(log_side)) for x, y, log_side in values]
    times, seconds = np.arange(81) / 25, 0.08
    reference = gaussian_filter1d(values, seconds * 25, axis=0, truncate=8)
    assert np.abs(middles(smoothed(found, times, seconds)) - reference)[20:-20].max() < 1e-6


def test_smoothing_leaves_a_steady_walk_alone_to_its_ends_and_over_a_gap() -> None:
    found: list[Found | None] = [found_at(10 + 3 * t, 50 - t, 40 * 1.01**t) for t in range(30)]
    expected = middles([one.crop for one in found if one is not None])
    found[11] = found[12] = None
    steady = smoothed(found, [t / 30 for t in range(30)], 0.1)
    assert steady[11] is None and steady[12] is None
    kept = [t for t in range(30) if t not in (11, 12)]
    assert np.abs(middles([steady[t] for t in kept]) - expected[kept]).max() < 1e-6


def test_one_framing_holds_the_animal_of_every_frame() -> None:
    found = [found_at(x, 40, 30) for x in (20, 90, 55)]
    left, top, side = one_framing([*found, None], None)
    assert left < 10 and top < 30 and left + side > 100 and top + side > 50
    assert one_framing(found, 0.01)[2] == pytest.approx(math.sqrt(200 / 0.01))  # larger, where the share asks for it
    assert one_framing([None], 0.2) is None


def test_a_frames_world_is_placed_where_the_sources_camera_sees_it() -> None:
    """Points in the plane that faces the camera are exactly where the frame's own crop shows them."""
    camera = facelift_six(64)[0].to(torch.float64)
    crop, mean = (130.0, 40.0, 90.0), (100.0, 60.0, 120.0)
    matrix = crop_to_world(crop, mean, camera)
    across = torch.tensor([[0.0, 0, 0], [0.3, 0, 0.2], [-0.5, 0, 0.4]], dtype=torch.float64)  # it looks along y
    placed = across @ torch.from_numpy(matrix[:3, :3].T) + torch.from_numpy(matrix[:3, 3])
    own, seen = camera.project(across)[0].numpy() / 64, camera.project(placed)[0].numpy() / 64
    assert np.allclose(np.array(crop[:2]) + crop[2] * own, np.array(mean[:2]) + mean[2] * seen)


# ---------------------------------------------------------------- what is wanted


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (Wanted(), (0, 1, 2, 3, 4, 5)),
        (Wanted(every=2), (0, 2, 4)),
        (Wanted(start="11", end="40"), (2, 3)),
        (Wanted(start="0.5s"), (1, 2, 3, 4, 5)),
        (Wanted(start="0:01", end="0:03.5"), (2,)),
    ],
)
def test_frames_are_chosen_by_number_or_by_time(wanted: Wanted, chosen: tuple[int, ...]) -> None:
    numbers = (0, 5, 20, 35, 42, 50)
    assert wanted.chosen(numbers, tuple(0.1 * number for number in numbers), "clip") == chosen


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"every": 0}, "--every 0: expected 1 or more"),
        ({"world": "moon"}, "--world moon: expected one of object, fixed"),
        ({"smooth": -1.0}, "--smooth -1: expected 0 seconds or more"),
        ({"smooth": 1.0, "world": "fixed"}, "--smooth 1: expected --world object"),
        ({"start": "soon"}, "--from soon: expected a frame's number, seconds such as 1.5s"),
        ({"fps": 0.0}, "--fps 0: expected frames a second above 0"),
    ],
)
def test_what_cannot_be_wanted_is_refused(asked: dict, said: str) -> None:
    with pytest.raises(DataError) as caught:
        Wanted(**asked)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
