"""Reconstruction: what a checkpoint makes of a scene, and the files it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import checkpoint, kinds, metrics
from pipeline.cameras import facelift_ring
from pipeline.data.pictures import pixels_of
from pipeline.data.recording.video import write_video
from pipeline.data.scenes import read_scene
from pipeline.errors import DataError
from pipeline.gaussians import Gaussians
from pipeline.gslrm.model import GSLRM
from pipeline.pruning import PRUNINGS
from pipeline.reconstruction.models import load_gaussians
from pipeline.reconstruction.outputs import Wanted, write_outputs
from pipeline.reconstruction.reconstructor import Reconstruction, Reconstructor
from pipeline.reconstruction.turntable import TURNTABLE_VIEWS, render_frames, turntable_around, write_gif

SIZE = 33  # odd, as a camera's image may be


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_recipe) -> Path:
    """A checkpoint of an untrained model."""
    recipe = tiny_recipe()
    torch.manual_seed(0)
    return checkpoint.save(tmp_path_factory.mktemp("model") / "step-000001", GSLRM(recipe.model), recipe, 1)


@pytest.fixture(scope="module")
def result(folder: Path, mice_folder: Path) -> Reconstruction:
    return Reconstructor(load_gaussians(folder)).scene(read_scene(mice_folder / "scene_000006"))


@pytest.fixture(scope="module")
def written(result: Reconstruction, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("out")
    return [out / name for name in write_outputs(result, out, Wanted(size=SIZE), {})["files"]]


def frames(count: int = 5, height: int = 21, width: int = 31) -> np.ndarray:
    """Grey frames, each brighter than the one before."""
    return np.stack([np.full((height, width, 3), 40 * i, dtype=np.uint8) for i in range(count)])


def decoded(path: Path) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        yield from (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))


# ---------------------------------------------------------------- the Reconstructor


def test_a_scene_becomes_one_gaussian_per_input_pixel_and_the_free_ones(result: Reconstruction) -> None:
    assert result.gaussians.count == 2 + 4 * 32 * 32


@pytest.mark.parametrize("guidance", [float("inf"), float("nan"), -1.0])
def test_a_guidance_that_is_no_number_is_refused_before_any_work(folder: Path, guidance: float) -> None:
    with pytest.raises(DataError, match="guidance: expected a number of at least 0"):
        Reconstructor(load_gaussians(folder), guidance=guidance)


def test_views_are_rendered_in_the_order_of_the_batch(result: Reconstruction) -> None:
    assert result.rendering.images.shape == result.batch.images.shape == (1, 6, 3, 32, 32)


def test_a_reconstruction_is_what_the_model_makes_of_the_input_views(folder: Path, result: Reconstruction) -> None:
    gaussians = kinds.load(folder).model(result.batch.input_images, result.batch.input_cameras)
    assert torch.equal(gaussians[0].means, result.gaussians.means)


def test_the_held_out_psnr_counts_no_input_view(result: Reconstruction) -> None:
    rendered, target = result.rendering.images[0, 4:], result.batch.images[0, 4:]
    assert result.held_out_psnr == pytest.approx(float(metrics.psnr(rendered, target).mean()))


def test_a_reconstruction_carries_no_graph(result: Reconstruction) -> None:
    assert not result.gaussians.means.requires_grad and not result.rendering.images.requires_grad


# ---------------------------------------------------------------- files


def test_five_files_are_written_and_nothing_beside_them(written: list[Path]) -> None:
    names = ["comparison.png", "gaussians.ply", "turntable.gif", "turntable.mp4", "reconstruction.json"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in written[0].parent.iterdir()) == sorted(names)


def test_the_ply_holds_the_gaussians_worth_keeping(written: list[Path], result: Reconstruction) -> None:
    assert torch.equal(Gaussians.load_ply(written[1]).means, PRUNINGS["default"](result.gaussians).means)


def test_the_turntable_has_the_given_picture_beside_every_frame(written: list[Path], result: Reconstruction) -> None:
    pictures = list(decoded(written[3]))
    assert len(pictures) == TURNTABLE_VIEWS and {picture.shape for picture in pictures} == {(32, 66, 3)}
    given = np.asarray(Image.fromarray(pixels_of(result.batch.images[0, 0])).resize((33, 33)))[:32]
    assert max(np.abs(picture[:, :33].astype(float) - given).mean() for picture in pictures) < 12  # H.264 blurs


def test_the_gif_goes_round_as_fast_as_the_video_and_loops_for_ever(written: list[Path]) -> None:
    with Image.open(written[2]) as gif:
        assert (gif.n_frames, gif.info["duration"], gif.info["loop"]) == (TURNTABLE_VIEWS // 3, 100, 0)


def test_the_comparison_has_a_column_per_view(written: list[Path]) -> None:
    with Image.open(written[0]) as picture:
        labels = np.array(picture.size) - (6 * 128, 5 * 128)  # views of 32 pixels, four times as large
        assert (labels > 20).all() and (labels < 120).all()


def test_a_reconstruction_of_nothing_is_written_too(result: Reconstruction, tmp_path: Path) -> None:
    clear = replace(result.gaussians, opacities=torch.zeros_like(result.gaussians.opacities))
    assert write_outputs(replace(result, gaussians=clear), tmp_path, Wanted(size=16), {})["gaussians"]["kept"] == 0
    assert Gaussians.load_ply(tmp_path / "gaussians.ply").count == 0
    assert int(next(decoded(tmp_path / "turntable.mp4"))[:, 16:].min()) > 250


def test_a_video_plays_frames_in_their_order(tmp_path: Path) -> None:
    write_video(frames(), tmp_path / "a.mp4")
    brightness = [float(picture.mean()) for picture in decoded(tmp_path / "a.mp4")]
    np.testing.assert_allclose(brightness, [0, 40, 80, 120, 160], atol=3)


def test_a_video_drops_the_last_row_and_column_of_odd_frames(tmp_path: Path) -> None:
    write_video(frames(), tmp_path / "a.mp4")
    assert next(decoded(tmp_path / "a.mp4")).shape == (20, 30, 3)


def test_a_video_can_be_watched_in_browsers(tmp_path: Path) -> None:
    write_video(frames(), tmp_path / "a.mp4", fps=25)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)


def test_a_gif_keeps_its_frames(tmp_path: Path) -> None:
    write_gif(frames(), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size) == (5, (31, 21))


# ---------------------------------------------------------------- the turntable


def test_the_turntable_keeps_the_distance_and_height_of_the_views_it_shows() -> None:
    cameras = turntable_around(facelift_ring(32, 8), 64, views=12)
    torch.testing.assert_close(cameras.centres[:, 2], facelift_ring(32, 12).centres[:, 2])
    torch.testing.assert_close(cameras.centres.norm(dim=-1), torch.full((12,), 2.7))


def test_the_turntable_starts_in_front_and_faces_the_origin() -> None:
    cameras = turntable_around(facelift_ring(32, 8), 64, views=12)
    assert abs(float(cameras.centres[0, 0])) < 1e-5 and float(cameras.centres[0, 1]) < 0
    torch.testing.assert_close(cameras.centres, -2.7 * cameras.forward)


def test_the_turntable_has_the_field_of_view_of_the_views_it_shows() -> None:
    expected = facelift_ring(64, 12).fxfycxcy
    torch.testing.assert_close(turntable_around(facelift_ring(32, 8), 64, views=12).fxfycxcy, expected)


def test_frames_rendered_a_few_at_a_time_are_all_there(result: Reconstruction) -> None:
    cameras = turntable_around(facelift_ring(32, 8), 16, views=11)
    whole = render_frames(result.gaussians, cameras)
    np.testing.assert_array_equal(whole[9:], render_frames(result.gaussians, cameras[9:]))
    assert whole.shape == (11, 16, 16, 3)
