"""The multi-view UNet: diffusers' own, its self-attention reaching across the views of one object.

Rows are `(b v)`, views fastest. FaceLift's trained behaviour is `sparse`: view v attends to its own tokens and to
those of view 0, the reference. It adds no weights, so its files hold the 690 tensors of the stock network, and
only the processor on `attn1` tells the two apart.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from jaxtyping import Float
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.text.json_file import read_json

Mode = Literal["sparse", "dense", "off"]
FACELIFT_CLASS = "UNetMV2DConditionModel"
CONFIG_FILE = "config.json"
# What FaceLift's configuration says beside the stock one. `true`, or another value, there is another network.
_FIXED = {
    "cd_attention_last": False,
    "cd_attention_mid": False,
    "addition_downsample": False,
    "selfattn_block": "custom",
}
_EMA_KEYS = ("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup")


class MultiViewProcessor:
    """Self-attention of `views` views. It has no parameters, and so adds no names to the network."""

    _attention_backend = None  # `set_attention_backend` writes here
    _parallel_config = None

    def __init__(self, num_views: int, mode: Mode = "sparse") -> None:
        self.num_views, self.mode = num_views, mode

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "rows tokens channels"],
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **_: Any,
    ) -> Float[Tensor, "rows tokens channels"]:
        if encoder_hidden_states is not None or attention_mask is not None or temb is not None:
            raise ValueError(
                "multi-view attention: expected plain self-attention, got text, a mask or a time — omit it."
            )
        query, key, value = (
            project(hidden_states).unflatten(-1, (attn.heads, -1)).unflatten(0, (-1, self.num_views))
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        mixed = getattr(self, f"_{self.mode}")(query, key, value)
        rows = mixed.flatten(0, 1).flatten(-2).to(hidden_states.dtype)
        return attn.to_out[1](attn.to_out[0](rows))

    def _off(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self._attend(query, key, value)

    def _dense(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Every view attends to all: the views' tokens are one sequence."""
        together = [tokens.flatten(1, 2)[:, None] for tokens in (query, key, value)]
        return self._attend(*together)[:, 0].unflatten(1, (self.num_views, -1))

    def _sparse(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """View 0 attends to itself: its tokens twice over give the same as once. The others see view 0 first."""
        reference = self._attend(query[:, :1], key[:, :1], value[:, :1])
        keys, values = (torch.cat([t[:, :1].expand_as(t[:, 1:]), t[:, 1:]], dim=2) for t in (key, value))
        return torch.cat([reference, self._attend(query[:, 1:], keys, values)], dim=1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention over tokens of [objects, views, tokens, heads, channels], each view by itself."""
        batched = [tokens.flatten(0, 1) for tokens in (query, key, value)]
        mixed = dispatch_attention_fn(*batched, backend=self._attention_backend, parallel_config=self._parallel_config)
        return mixed.unflatten(0, query.shape[:2])


def _with_stock_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """Give `init` the stock arguments beside its own, by name: diffusers drops what a signature does not list."""
    own = inspect.signature(init).parameters
    stock = inspect.signature(UNet2DConditionModel.__init__).parameters
    listed = {name: each.replace(kind=each.KEYWORD_ONLY) for name, each in stock.items() if name != "self"}
    listed |= {name: each for name, each in own.items() if each.kind is each.KEYWORD_ONLY}
    init.__signature__ = inspect.Signature([own["self"], *listed.values()])  # type: ignore[attr-defined]
    return init


class MultiViewUNet(UNet2DConditionModel):
    """`UNet2DConditionModel` whose self-attention spans the views; reads and writes FaceLift's `unet/` folder.

    The mode is kept as FaceLift keeps it: `multiview_attention` and `sparse_mv_attention`. Raises CheckpointError
    for a configuration that FaceLift's code would build another network from.
    """

    @register_to_config
    @_with_stock_arguments
    def __init__(
        self,
        *,
        num_views: int = 6,
        multiview_attention: bool = True,
        sparse_mv_attention: bool = True,
        cd_attention_last: bool = False,
        cd_attention_mid: bool = False,
        selfattn_block: str = "custom",
        addition_downsample: bool = False,
        addition_channels: tuple[int, ...] = (1280, 1280, 1280),
        **stock: Any,
    ) -> None:
        came = (cd_attention_last, cd_attention_mid, addition_downsample, selfattn_block)
        _require_fixed(dict(zip(_FIXED, came, strict=True)))
        for name in ("down_block_types", "up_block_types", "mid_block_type"):
            if name in stock:
                stock[name] = _renamed(stock[name], "MV2D", "2D")
        super().__init__(**stock)
        self._crossing = [
            module
            for name, module in self.named_modules()
            if isinstance(module, Attention) and name.rpartition(".")[2] == "attn1"
        ]
        self.install_processors()

    @property
    def mode(self) -> Mode:
        if not self.config.multiview_attention:
            return "off"
        return "sparse" if self.config.sparse_mv_attention else "dense"

    def set_mode(self, mode: Mode) -> None:
        """Change how views see each other; the weights stay."""
        self.register_to_config(multiview_attention=mode != "off", sparse_mv_attention=mode != "dense")
        self.install_processors()

    def install_processors(self) -> None:
        """Multi-view attention on every `attn1`, torch's own on every `attn2`."""
        processors = {
            name: MultiViewProcessor(self.config.num_views, self.mode) if ".attn1." in name else AttnProcessor2_0()
            for name in self.attn_processors
        }
        self.set_attn_processor(processors)

    def forward(self, sample: Float[Tensor, "rows channels height width"], *args: Any, **kwargs: Any) -> Any:
        """The stock forward pass of `(b v)` rows.

        Raises CheckpointError when another tool has replaced the processors, which would change the network without
        a word, and ValueError for rows that are no whole number of objects.
        """
        if not all(isinstance(module.processor, MultiViewProcessor) for module in self._crossing):
            raise CheckpointError(
                "unet: expected multi-view attention, got another processor in its place — call install_processors()."
            )
        if sample.shape[0] % self.config.num_views:
            raise ValueError(
                f"unet: expected rows in multiples of {self.config.num_views} views, got {sample.shape[0]} — add some."
            )
        return super().forward(sample, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, folder: str | Path, subfolder: str = "", **kwargs: Any) -> MultiViewUNet:
        """Read FaceLift's `unet/` folder, or one of ours. Nothing is ever fetched. Raises CheckpointError."""
        path = Path(folder) / subfolder
        _require_multi_view(path, read_config(path))
        return super().from_pretrained(str(path), local_files_only=True, **kwargs)

    @classmethod
    def from_stock(cls, folder: str | Path, num_views: int = 6, **kwargs: Any) -> MultiViewUNet:
        """Start from a stock `unet/` folder. Four input channels become eight: those of the reference start at 0."""
        path = Path(folder)
        values = read_config(path)
        stock = UNet2DConditionModel.from_pretrained(str(path), local_files_only=True, **kwargs)
        channels = 2 * values["out_channels"]
        unet = cls.from_config(dict(stock.config) | {"num_views": num_views, "in_channels": channels})
        unet.load_state_dict(widened(stock.state_dict(), channels), strict=True)
        return unet.to(stock.dtype)

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """What diffusers makes a model from, without the counters that EMA leaves in the file."""
        kept = {name: value for name, value in config_dict.items() if name not in _EMA_KEYS}
        return super().extract_init_dict(kept, **kwargs)

    def to_json_string(self) -> str:
        """FaceLift's configuration: under stock names its code would build a network without views, and so would
        diffusers from ours.
        """
        values = json.loads(super().to_json_string()) | {"_class_name": FACELIFT_CLASS}
        values.pop("_name_or_path", None)  # a path of this machine, which a saved model must not carry
        for name in ("down_block_types", "up_block_types"):
            values[name] = [
                _renamed(block, "Block2D", "BlockMV2D") if "Attn" in block else block for block in values[name]
            ]
        values["mid_block_type"] = _renamed(values["mid_block_type"], "Block2D", "BlockMV2D")
        return json.dumps(values, indent=2, sort_keys=True) + "\n"


def widened(tensors: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Tensors for a network of so many input channels; the new ones are 0. Trained channels are never touched."""
    weight = tensors["conv_in.weight"]
    wide = weight.new_zeros(weight.shape[0], channels, *weight.shape[2:])
    wide[:, : weight.shape[1]] = weight
    return {**tensors, "conv_in.weight": wide}


def read_config(folder: Path) -> dict[str, Any]:
    """A component's `config.json`. Raises CheckpointError."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder}: expected a folder with {CONFIG_FILE}, found none — check the path.")
    return read_json(path, CheckpointError)


def _require_multi_view(path: Path, values: Mapping[str, Any]) -> None:
    found = values.get("_class_name")
    if found not in (FACELIFT_CLASS, MultiViewUNet.__name__):
        raise CheckpointError(
            f"{path}: expected a multi-view UNet ({FACELIFT_CLASS}), got {found} — name the unet/ of a FaceLift "
            "pipeline, or widen a stock one with MultiViewUNet.from_stock."
        )
    _require_fixed({name: values[name] for name in _FIXED if name in values}, f"{path / CONFIG_FILE}: ")


def _require_fixed(values: Mapping[str, Any], where: str = "") -> None:
    for name, value in values.items():
        if value != _FIXED[name]:
            raise CheckpointError(
                f"{where}unet.{name}: expected {_FIXED[name]!r}, got {value!r} — that is another network."
            )


def _renamed(names: Any, old: str, new: str) -> Any:
    return names.replace(old, new) if isinstance(names, str) else tuple(name.replace(old, new) for name in names)
