"""Prompt embeddings: what they say, what their file keeps, and what is refused instead of becoming zeros."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import mouselift
from pipeline.cameras import facelift_six, mouse_rig
from pipeline.data.rings import ring_order, slots
from pipeline.errors import CheckpointError, DataError, PipelineError
from pipeline.mvdiffusion.folder import write_components
from pipeline.mvdiffusion.prompts import (
    STYLES,
    PromptEmbeddings,
    make_prompts,
    read_prompts,
    texts_of,
    write_prompts,
)
from pipeline.mvdiffusion.scratch import pipeline_from_scratch
from pipeline.recipe import ScratchConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "mvdiffusion" / "pipeckpts"
WIDTH = 16


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A pipeline folder whose text encoder knows every letter."""
    config = ScratchConfig(channels=(16,), head_dim=16, text_dim=WIDTH)
    pipe = pipeline_from_scratch(config, 32, 6, "v_prediction")
    return write_components(tmp_path_factory.mktemp("base") / "pipeckpts", pipe.components)


@pytest.fixture(scope="module")
def made(base) -> PromptEmbeddings:
    return make_prompts(base, "facelift")


def refusal(error: type[PipelineError], call, *args: object) -> str:
    with pytest.raises(error) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- texts


def test_facelifts_sentences_are_its_own() -> None:
    assert texts_of("facelift")[:3] == (
        "a rendering image of 3D models, front view, color map.",
        "a rendering image of 3D models, front_right view, color map.",
        "a rendering image of 3D models, right view, color map.",
    )


@pytest.mark.parametrize("style", [style for style in STYLES if style != "from_camera"])
def test_every_style_says_six_different_things(style) -> None:
    assert len(set(texts_of(style))) == 6


def test_from_camera_tells_the_angles_of_the_rig() -> None:
    rig = mouse_rig()
    texts = texts_of("from_camera", rig[list(slots(ring_order(rig), 0))])
    assert texts[0].endswith("front view, elevation 1 degrees, azimuth 0 degrees, color map.")
    assert texts[3].endswith("back view, elevation 15 degrees, azimuth 175 degrees, color map.")


def test_an_unknown_style_is_refused_with_the_nearest() -> None:
    assert refusal(DataError, texts_of, "facelft").endswith("got facelft — did you mean facelift?")


def test_from_camera_without_cameras_is_refused() -> None:
    assert "add --scene SCENE" in refusal(DataError, texts_of, "from_camera")


# ---------------------------------------------------------------- embeddings


def test_each_view_has_another_embedding_of_the_encoders_width(made) -> None:
    rows = made.embeddings.float().flatten(1)
    assert made.embeddings.shape == (6, 77, WIDTH)
    assert float(torch.pdist(rows).min()) > 1.0


def test_two_encoders_are_told_apart(base, made, tmp_path) -> None:
    other = pipeline_from_scratch(ScratchConfig(channels=(16,), head_dim=16, text_dim=WIDTH, seed=1), 32, 6, "epsilon")
    again = make_prompts(write_components(tmp_path / "other", other.components), "facelift")
    assert made.encoder != again.encoder and made.sha256 != again.sha256
    assert made.encoder == make_prompts(base, "simple").encoder


def test_an_encoder_that_cannot_tell_the_texts_apart_is_refused() -> None:
    assert "got the same for slots 0 and 1" in refusal(DataError, make_prompts, GOLDEN, "facelift")


def test_a_pipeline_that_is_not_there_is_refused(tmp_path) -> None:
    assert "found none" in refusal(CheckpointError, make_prompts, tmp_path / "absent", "facelift")


# ---------------------------------------------------------------- files


def test_a_file_keeps_the_numbers_and_what_they_mean(made, tmp_path) -> None:
    again = read_prompts(write_prompts(made, tmp_path / "p.safetensors"), 6, WIDTH)
    assert torch.equal(again.embeddings, made.embeddings)
    assert replace(again, embeddings=made.embeddings) == made


def test_facelifts_bare_tensor_is_read(made, tmp_path) -> None:
    torch.save(made.embeddings, tmp_path / "clr_embeds.pt")
    again = read_prompts(tmp_path / "clr_embeds.pt", 6, WIDTH)
    assert torch.equal(again.embeddings, made.embeddings)
    assert (again.style, again.sha256) == (None, made.sha256)


def saved(folder: Path, embeddings: Tensor) -> Path:
    torch.save(embeddings, folder / "p.pt")
    return folder / "p.pt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: torch.randn(6, 77, 768), "they are of another text encoder; make them with the pipeline's own"),
        (lambda e: e[:5], "the model has 6 views; make one for each"),
        (lambda e: torch.zeros_like(e), "expected embeddings of texts, got zeros"),
        (lambda e: e[[0, 1, 2, 3, 4, 0]], "got the same for slots 0 and 5"),
        (lambda e: e * float("nan"), "expected finite prompt embeddings"),
        (lambda e: {"embeds": e}, "expected a bare tensor, got dict"),
    ],
)
def test_embeddings_that_would_mislead_the_model_are_refused(made, tmp_path, change, message) -> None:
    assert message in refusal(DataError, read_prompts, saved(tmp_path, change(made.embeddings)), 6, WIDTH)


def test_a_missing_file_is_refused(tmp_path) -> None:
    assert "make them with `mouselift prompts`" in refusal(DataError, read_prompts, tmp_path / "no.pt", 6, WIDTH)


def test_numbers_that_were_changed_are_refused(made, tmp_path) -> None:
    path = write_prompts(made, tmp_path / "p.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "expected the numbers that its sha256 names" in refusal(DataError, read_prompts, path, 6, WIDTH)


# ---------------------------------------------------------------- the command


def test_the_command_writes_what_it_says(base, mice_folder, tmp_path) -> None:
    out = tmp_path / "p.safetensors"
    words = ["prompts", str(out), "--pipeline", str(base), "--style", "from_camera"]
    result = CliRunner().invoke(mouselift.app, [*words, "--scene", str(mice_folder / "scene_000000"), "--json"])
    said = json.loads(result.stdout)
    read = read_prompts(out, 6, WIDTH)
    assert said["texts"] == list(read.texts) and said["sha256"] == read.sha256
    assert "azimuth" in said["texts"][0] and len(said["azimuths"]) == 6


# ---------------------------------------------------------------- rings


def test_facelifts_six_stand_in_slot_order_already() -> None:
    assert slots(ring_order(facelift_six(64)), 0) == (0, 1, 2, 3, 4, 5)


def test_the_real_rig_is_once_round_0_5_3_1_2_4_and_its_slots_go_the_other_way() -> None:
    ring = ring_order(mouse_rig())
    assert ring == (0, 5, 3, 1, 2, 4)
    assert slots(ring, 0) == (0, 4, 2, 1, 3, 5)
