"""Calibration files: what they mean, and what is refused."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cameras import Cameras, mouse_rig
from pipeline.data.calibration.calibration import read_calibration
from pipeline.data.calibration.pickles import read_pickle
from pipeline.errors import DataError

Entries = list[dict[str, Any]]


@pytest.fixture
def entries() -> Entries:
    """The real rig as its file has it: pixel centres at whole numbers, T (3,)."""
    rig = mouse_rig().to(torch.float64)
    K, w2c = rig.K.numpy(), rig.w2c.numpy()
    K[:, :2, 2] -= 0.5
    return [{"K": K[i], "R": w2c[i, :3, :3], "T": w2c[i, :3, 3]} for i in range(6)]


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], Cameras]:
    """Pickle a calibration and read it."""

    def pickled_and_read(calibration: Any) -> Cameras:
        path = tmp_path / "new_cam.pkl"
        path.write_bytes(pickle.dumps(calibration))
        return read_calibration(path, 1152, 1024).cameras

    return pickled_and_read


# ---------------------------------------------------------------- meaning


def test_a_calibrated_pixel_is_ours_half_a_pixel_further(entries: Entries, read) -> None:
    points = np.random.default_rng(0).uniform(0, 90, (20, 3))
    ours, _ = read(entries).project(torch.from_numpy(points).expand(6, 20, 3))
    for entry, pixels in zip(entries, ours.numpy(), strict=True):
        seen = (points @ entry["R"].T + entry["T"]) @ entry["K"].T
        np.testing.assert_allclose(pixels, seen[:, :2] / seen[:, 2:] + 0.5, atol=1e-3)


def test_the_real_rig_stands_where_it_was_published(entries: Entries, read) -> None:
    cameras = read(entries)
    assert cameras.c2w.dtype == torch.float64 and (cameras.width, cameras.height) == (1152, 1024)
    torch.testing.assert_close(cameras.centres[0].tolist(), [-199.5, -129.3, 63.4], atol=1e-4, rtol=0)
    torch.testing.assert_close(cameras.centres[5].tolist(), [114.6, -236.3, 156.5], atol=1e-4, rtol=0)


def test_a_column_t_is_the_same_as_a_row(entries: Entries, read) -> None:
    columns = [entry | {"T": entry["T"].reshape(3, 1)} for entry in entries]
    assert torch.equal(read(columns).c2w, read(entries).c2w)


def test_pickle_json_and_npz_say_the_same(entries: Entries, read, tmp_path: Path) -> None:
    plain = [{key: value.tolist() for key, value in entry.items()} for entry in entries]
    (tmp_path / "new_cam.json").write_text(json.dumps(plain))
    np.savez(tmp_path / "new_cam.npz", **{key: np.stack([entry[key] for entry in entries]) for key in "KRT"})
    for name in ("new_cam.json", "new_cam.npz"):
        other = read_calibration(tmp_path / name, 1152, 1024).cameras
        assert torch.equal(other.c2w, read(entries).c2w) and torch.equal(other.fxfycxcy, read(entries).fxfycxcy)


@pytest.mark.parametrize(
    ("lens", "so"),
    [
        ({}, ": without D the videos are taken for undistorted"),
        ({"D": np.array([-0.1, 0, 0, 0, 0])}, "; --distorted uses D alone"),
    ],
)
def test_undistortion_maps_are_left_alone_and_that_is_said_once(entries: Entries, read, caplog, lens, so: str) -> None:
    caplog.set_level(logging.WARNING)
    read([entry | lens | {"mapx": np.zeros((4, 4), np.float32), "mapy": np.zeros((4, 4))} for entry in entries])
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [f"mapx, mapy ignored{so}"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_arrays_of_every_pickle_protocol_are_read(tmp_path: Path, protocol: int, dtype: type) -> None:
    arrays = {"row": np.arange(3, dtype=dtype), "square": np.eye(3, dtype=dtype).T, "one": dtype(2.5)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(arrays, protocol=protocol))
    came = read_pickle(tmp_path / "a.pkl")
    assert all(np.array_equal(came[key], arrays[key]) for key in arrays)


def test_arrays_pickled_by_numpy_1_are_read(tmp_path: Path) -> None:
    old = pickle.dumps(np.arange(5.0), protocol=0).replace(b"cnumpy._core.", b"cnumpy.core.")
    assert b"numpy.core.multiarray" in old
    (tmp_path / "a.pkl").write_bytes(old)
    assert read_pickle(tmp_path / "a.pkl").tolist() == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------- refusals


class Code:
    """What it does when a careless reader loads it."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("function", [os.system, eval, exec])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path: Path, entries: Entries, read, function) -> None:
    bait = tmp_path / "it ran"
    word = f"touch '{bait}'" if function is os.system else f"open({str(bait)!r}, 'w')"
    entries[3]["mapx"] = Code(function, word)
    with pytest.raises(DataError, match=r"new_cam.pkl: expected plain numbers .* asks for .*it was not run"):
        read(entries)
    assert not bait.exists()


def test_numpy_functions_beyond_arrays_are_refused(entries: Entries, read) -> None:
    with pytest.raises(DataError, match="asks for numpy"):
        read([entries[0], Code(np.load, "x.npy")])


@pytest.mark.parametrize("size", [0, 1, 200, 700])
def test_a_truncated_pickle_is_refused(tmp_path: Path, entries: Entries, size: int) -> None:
    (tmp_path / "new_cam.pkl").write_bytes(pickle.dumps(entries)[:size])
    with pytest.raises(DataError, match=r"new_cam.pkl: expected a whole pickle, got .+ — restore the file"):
        read_calibration(tmp_path / "new_cam.pkl", 1152, 1024)


def test_a_flipped_bit_in_the_memo_does_not_ask_for_gigabytes(tmp_path: Path) -> None:
    (tmp_path / "new_cam.pkl").write_bytes(b"\x80\x04]r" + (2**28).to_bytes(4, "little") + b".")
    with pytest.raises(DataError, match="expected a whole pickle, got place 268435456 of its memo — restore"):
        read_pickle(tmp_path / "new_cam.pkl")


@pytest.mark.parametrize(
    ("name", "content"), [("a.pkl", b"\xff\xd8\xff\xe0 no pickle"), ("a.json", b"{"), ("a.npz", b"PK\x03\x04")]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}(:1)?: expected "):
        read_calibration(tmp_path / name, 1152, 1024)


def without(key: str) -> Callable[[Entries], Any]:
    return lambda entries: [*entries[:2], {k: v for k, v in entries[2].items() if k != key}, *entries[3:]]


def with_changed(key: str, change: Callable[[np.ndarray], Any]) -> Callable[[Entries], Any]:
    return lambda entries: [*entries[:2], entries[2] | {key: change(entries[2][key])}, *entries[3:]]


def shear(K: np.ndarray) -> np.ndarray:
    return K + np.array([[0, 3.0, 0], [0, 0, 0], [0, 0, 0]])


REFUSED: dict[str, tuple[Callable[[Entries], Any], str]] = {
    "keyed by id": (lambda e: dict(enumerate(e)), "expected a list of 2 or more cameras, got a dict of 0, 1, 2, 3"),
    "levels": (lambda e: {"intrinsics": 1, "extrinsics": 2}, "got a dict of intrinsics, extrinsics — store a list"),
    "none": (lambda e: [], "got a list of 0"),
    "no K": (without("K"), "camera 2: expected K, R and T, got R, T — add K"),
    "no T": (without("T"), "camera 2: expected K, R and T, got K, R — add T"),
    "T of 4": (with_changed("T", lambda T: np.append(T, 1)), r"camera 2: expected T of shape .* got \(4,\)"),
    "K of 3×4": (with_changed("K", lambda K: np.eye(3, 4)), r"camera 2: expected K of shape \(3, 3\), got \(3, 4\)"),
    "words": (with_changed("K", lambda K: [["a"] * 3] * 3), "camera 2: expected numbers in K"),
    "not a number": (with_changed("R", lambda R: R * np.nan), "camera 2: expected finite numbers in R"),
    "skewed": (with_changed("K", shear), "camera 2: expected K = fx 0 cx, 0 fy cy, 0 0 1"),
    "transposed K": (with_changed("K", np.transpose), "store it untransposed"),
    "negative focal": (with_changed("K", lambda K: K * [[-1, 1, 1], [1, 1, 1], [1, 1, 1]]), "expected fx, fy > 0"),
    "mirrored": (with_changed("R", lambda R: R * [[-1], [1], [1]]), r"camera 2: expected a rotation with det \+1"),
    "scaled": (with_changed("R", lambda R: 1.01 * R), r"camera 2: expected a rotation with det \+1"),
    "bent": (with_changed("R", lambda R: R @ np.diag([1.1, 1 / 1.1, 1])), "camera 2: expected an orthonormal rotation"),
    "metres": (
        lambda e: [entry | {"T": entry["T"] / 1000} for entry in e],
        r"expected cameras 50 to 5000 mm from where their axes meet, got 0\.303 to 0\.333 — store T in millimetres",
    ),
    "of other videos": (
        lambda e: [entry | {"K": entry["K"] * [[2], [2], [1]]} for entry in e],
        "camera 0: expected a principal point inside 1152×1024, got ",
    ),
    "parallel": (
        lambda e: [entry | {"R": e[0]["R"]} for entry in e],
        "expected cameras that look from several sides, got parallel axes",
    ),
    "looking away": (
        lambda e: [e[0] | {"R": e[0]["R"] * [[-1], [1], [-1]], "T": e[0]["T"] * [-1, 1, -1]}, *e[1:]],
        "camera 0: expected to see where the axes meet, got it out of view",
    ),
    "centre for T": (lambda e: [entry | {"T": -entry["R"].T @ entry["T"]} for entry in e], "got it out of view"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_calibration_that_cannot_be_is_refused_in_one_line(entries: Entries, read, case: str) -> None:
    broken, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as refusal:
        read(broken(entries))
    assert str(refusal.value).count("\n") == 0 and "new_cam.pkl: " in str(refusal.value)
