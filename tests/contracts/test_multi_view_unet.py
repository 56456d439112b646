"""The multi-view UNet: FaceLift's numbers, FaceLift's files, and which views may see which."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel, attention_backend
from diffusers.training_utils import EMAModel
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.mvdiffusion.attention import MultiViewProcessor, MultiViewUNet, read_config

GOLDEN = Path(__file__).parents[1] / "golden" / "mvdiffusion"
UNET = GOLDEN / "pipeckpts" / "unet"
VIEWS = 6
# SD-2.1-unCLIP as FaceLift stores it; what is not named is the stock default.
FULL_SIZE = {
    "sample_size": 64,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 2048,
    "use_linear_projection": True,
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "unet_io.safetensors")


@pytest.fixture
def unet() -> MultiViewUNet:
    return MultiViewUNet.from_pretrained(UNET).eval()


@torch.no_grad()
def run(
    unet: UNet2DConditionModel, golden: dict[str, Tensor], x: Tensor | None = None, rows: int = 2 * VIEWS
) -> Tensor:
    x = golden["x"] if x is None else x
    return unet(x[:rows], 321, golden["e"][:rows], class_labels=golden["c"][:rows]).sample


def changed_views(unet: MultiViewUNet, golden: dict[str, Tensor], view: int) -> list[int]:
    """The views of the first object whose output changes with the input of one of them, beyond rounding."""
    other = golden["x"].clone()
    other[view] += 1.0
    difference = (run(unet, golden, other) - run(unet, golden)).abs().amax((1, 2, 3))
    return [v for v in range(2 * VIEWS) if difference[v] > 1e-6]


# ---------------------------------------------------------------- golden figures and files


@pytest.mark.parametrize("mode", ["sparse", "dense"])
def test_the_network_computes_what_facelifts_code_computed(unet, golden, mode) -> None:
    unet.set_mode(mode)
    torch.testing.assert_close(run(unet, golden), golden[mode], atol=1e-5, rtol=0)


def test_without_views_it_is_the_stock_network(unet, golden) -> None:
    unet.set_mode("off")
    stock = UNet2DConditionModel.from_config({**unet.config, "down_block_types": unet.config.down_block_types}).eval()
    stock.load_state_dict(unet.state_dict(), strict=True)
    torch.testing.assert_close(run(unet, golden), run(stock, golden), atol=1e-6, rtol=0)


def test_at_full_size_it_has_the_690_tensors_of_the_stock_network() -> None:
    with torch.device("meta"):
        ours, stock = MultiViewUNet(**FULL_SIZE), UNet2DConditionModel(**FULL_SIZE)
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}
    assert list(shapes) == list(stock.state_dict())
    assert (len(shapes), shapes["conv_in.weight"], ours.num_parameters()) == (690, (320, 8, 3, 3), 870_184_644)


def test_facelifts_folder_loads_every_tensor_and_says_nothing(unet, caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="diffusers"):
        again = MultiViewUNet.from_pretrained(UNET)
    stored = load_file(UNET / "diffusion_pytorch_model.safetensors")
    assert caplog.messages == []
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in stored.items())


def test_what_is_written_is_what_facelift_writes(unet, tmp_path) -> None:
    unet.save_pretrained(tmp_path)
    facelift, ours = read_config(UNET), read_config(tmp_path)
    assert {name for name in facelift if ours[name] != facelift[name]} == {"_diffusers_version"}
    at_their_defaults = {"dropout", "attention_type", "reverse_transformer_layers_per_block"}
    assert ours.keys() - facelift.keys() == at_their_defaults
    first, second = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (UNET, tmp_path))
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_stock_diffusers_refuses_our_folder_instead_of_dropping_the_views(unet, tmp_path) -> None:
    unet.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="CrossAttnDownBlockMV2D"):
        UNet2DConditionModel.from_pretrained(tmp_path)


# ---------------------------------------------------------------- who sees whom


def test_view_0_is_independent_of_the_others_and_they_of_each_other(unet, golden) -> None:
    assert changed_views(unet, golden, 3) == [3]


def test_view_0_reaches_every_view_of_its_object_and_no_other_object(unet, golden) -> None:
    assert changed_views(unet, golden, 0) == [0, 1, 2, 3, 4, 5]


def test_densely_every_view_reaches_every_view_of_its_object(unet, golden) -> None:
    unet.set_mode("dense")
    assert changed_views(unet, golden, 3) == [0, 1, 2, 3, 4, 5]


def test_an_object_alone_comes_out_as_it_does_in_a_batch(unet, golden) -> None:
    torch.testing.assert_close(run(unet, golden, rows=VIEWS), run(unet, golden)[:VIEWS], atol=1e-6, rtol=0)


def test_view_0_comes_out_as_if_its_tokens_stood_twice() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, VIEWS, 10, 4, 8).unbind(0)
    processor = MultiViewProcessor(VIEWS)
    doubled = [torch.cat([tokens[:, :1].expand_as(tokens), tokens], dim=2) for tokens in (key, value)]
    found, wanted = processor._sparse(query, key, value), processor._attend(query, *doubled)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_rows_that_are_no_whole_number_of_objects_are_refused(unet, golden) -> None:
    with pytest.raises(ValueError, match="expected rows in multiples of 6 views, got 7"):
        run(unet, golden, rows=7)


# ---------------------------------------------------------------- widening


def test_four_channels_become_eight_with_the_new_ones_at_zero(unet, tmp_path) -> None:
    stock = UNet2DConditionModel.from_config({**unet.config, "in_channels": 4})
    stock.save_pretrained(tmp_path)
    weight = MultiViewUNet.from_stock(tmp_path).conv_in.weight
    assert torch.equal(weight[:, :4], stock.conv_in.weight)
    assert not weight[:, 4:].any()


def test_eight_trained_channels_are_kept(unet) -> None:
    stored = load_file(UNET / "diffusion_pytorch_model.safetensors")["conv_in.weight"]
    assert stored[:, 4:].abs().min() > 0
    assert torch.equal(unet.conv_in.weight, stored)


# ---------------------------------------------------------------- tools of others


def processors(unet: torch.nn.Module) -> dict[str, str]:
    return {name: type(processor).__name__ for name, processor in unet.attn_processors.items()}


def test_only_self_attention_is_ours(unet) -> None:
    kinds = {(name.split(".")[-2], kind) for name, kind in processors(unet).items()}
    assert kinds == {("attn1", "MultiViewProcessor"), ("attn2", "AttnProcessor2_0")}


def test_the_views_survive_saving_and_loading(unet, golden, tmp_path) -> None:
    unet.set_mode("dense")
    unet.save_pretrained(tmp_path)
    again = MultiViewUNet.from_pretrained(tmp_path).eval()
    assert (again.mode, processors(again)) == ("dense", processors(unet))
    assert torch.equal(run(again, golden), run(unet, golden))


def test_the_views_survive_ema_and_its_counters_are_not_mistaken_for_settings(unet, golden, tmp_path, caplog) -> None:
    ema = EMAModel(unet.parameters(), model_cls=MultiViewUNet, model_config=unet.config)
    ema.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="diffusers"):
        again = MultiViewUNet.from_pretrained(tmp_path).eval()
    assert caplog.messages == []
    assert torch.equal(run(again, golden), run(unet, golden))


def test_the_views_survive_lora(unet, golden) -> None:
    before = run(unet, golden)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    torch.testing.assert_close(run(unet.eval(), golden), before, atol=1e-5, rtol=0)
    assert set(processors(unet).values()) == {"MultiViewProcessor", "AttnProcessor2_0"}


def test_it_compiles_as_one_graph(unet, golden) -> None:
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    torch.testing.assert_close(run(compiled, golden), golden["sparse"], atol=1e-5, rtol=0)


def test_gradient_checkpointing_leaves_the_gradients(unet, golden) -> None:
    def gradient() -> Tensor:
        unet.zero_grad()
        unet(golden["x"], 321, golden["e"], class_labels=golden["c"]).sample.square().mean().backward()
        return unet.conv_in.weight.grad.clone()

    unet.train()
    plain = gradient()
    unet.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient(), plain, atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("tool", ["fuse_qkv_projections", "set_attention_slice"])
def test_a_tool_that_takes_the_views_away_is_noticed(unet, golden, tool) -> None:
    getattr(unet, tool)(*([1] if tool == "set_attention_slice" else []))
    with pytest.raises(CheckpointError, match="expected multi-view attention, got another processor"):
        run(unet, golden)


def test_an_attention_backend_of_diffusers_reaches_it(unet, golden) -> None:
    # diffusers sets it for every network of the process: later tests would differ in their last bits.
    with attention_backend("native"):
        unet.set_attention_backend("_native_math")
        torch.testing.assert_close(run(unet, golden), golden["sparse"], atol=1e-5, rtol=0)


# ---------------------------------------------------------------- refusals


def edited(folder: Path, **values: object) -> Path:
    """FaceLift's folder with other words in its configuration."""
    shutil.copytree(UNET, folder / "unet")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | values))
    return folder / "unet"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cd_attention_last": True}, "unet.cd_attention_last: expected False, got True"),
        ({"cd_attention_mid": True}, "unet.cd_attention_mid: expected False, got True"),
        ({"addition_downsample": True}, "unet.addition_downsample: expected False, got True"),
        ({"selfattn_block": "self_rowwise"}, "unet.selfattn_block: expected 'custom', got 'self_rowwise'"),
        ({"_class_name": "UNet2DConditionModel"}, "expected a multi-view UNet"),
    ],
)
def test_a_folder_of_another_network_is_refused(tmp_path, values, message) -> None:
    with pytest.raises(CheckpointError, match=message):
        MultiViewUNet.from_pretrained(edited(tmp_path, **values))


def test_a_folder_that_is_not_there_is_refused_and_nothing_is_fetched(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"absent: expected a folder with config.json, found none"):
        MultiViewUNet.from_pretrained(tmp_path / "absent")
