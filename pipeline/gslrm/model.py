"""GS-LRM: patches of posed images -> one transformer over all views -> one Gaussian per pixel.

    images, rays ─ patch_embedder ─┐
    free Gaussians (learned) ──────┴─ input norm ─ layers ─┬─ gaussian_upsampler ──── free Gaussians
                                                           └─ pixel_gaussian_decoder ─ Gaussians on their rays

Parameter names and shapes are FaceLift's, so its checkpoints load strictly. Formulas: GS-LRM paper, FaceLift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from pipeline.cameras import Cameras, Rays, closest_point, plucker, ray_parameter_of_closest_point
from pipeline.errors import DataError
from pipeline.gaussians import Gaussians
from pipeline.recipe import FreezeConfig, GSLRMConfig

_RAY_CHANNELS = {"closest_point": 6, "plucker": 6, "both": 9}
# What PyTorch may compute attention with, by device and shape; each of them gives the output and its logarithmic sums.
_ATTENTION = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
)


class GSLRM(nn.Module):
    """Feed-forward reconstruction; equivariant to the order of views unless `reference_marker` is on."""

    def __init__(self, config: GSLRMConfig) -> None:
        super().__init__()
        self.config = config
        patch_values = config.patch_size**2 * (3 + _RAY_CHANNELS[config.ray_encoding])
        gaussian_values = 3 + 3 * (config.sh_degree + 1) ** 2 + 3 + 4 + 1
        if config.reference_marker:
            self.view_type_embeddings = nn.Parameter(torch.empty(2, config.dim))
        self.gaussian_position_embeddings = nn.Parameter(torch.empty(config.num_free_gaussians, config.dim))
        self.patch_embedder = nn.Sequential(_Patches(config.patch_size), _linear(patch_values, config.dim))
        self.input_layer_norm = _norm(config.dim)
        self.transformer_layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.gaussian_upsampler = _FreeHead(config.dim, gaussian_values)
        self.pixel_gaussian_decoder = nn.Sequential(
            _norm(config.dim), _linear(config.dim, config.patch_size**2 * gaussian_values)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.init_std)
        for embeddings in self.parameters(recurse=False):
            nn.init.trunc_normal_(embeddings, std=config.init_std)
        if config.compile:
            for layer in self.transformer_layers:
                layer.compile()

    def forward(self, images: Float[Tensor, "batch view 3 height width"], cameras: Cameras) -> Gaussians:
        """Gaussians [B, N] of input images in 0…1 and their cameras [B, V].

        N is num_free_gaussians + V·H·W: the free ones first, then view, patch row, patch column, row in patch,
        column in patch. Activated values, float32 whatever the autocast dtype.
        """
        self._check(images, cameras)
        rays = cameras.rays()
        return self._activate(self.raw_gaussians(images, rays), rays)

    def raw_gaussians(
        self, images: Float[Tensor, "batch view 3 height width"], rays: Rays
    ) -> Float[Tensor, "batch n values"]:
        """The heads' numbers before activation: means 3, SH 3(degree+1)², scales 3, quats 4, opacity 1; float32."""
        posed = torch.cat([images.movedim(2, -1) * 2 - 1, self._encode(rays)], -1)
        tokens = self.patch_embedder(posed)
        if self.config.reference_marker:
            first, other = self.view_type_embeddings.split(1)  # an index made from a list would be waited for
            tokens = tokens + torch.cat([first, other.expand(images.shape[1] - 1, -1)])[:, None]
        tokens = tokens.flatten(1, 2)
        free = self.gaussian_position_embeddings.expand(len(tokens), -1, -1)
        tokens = self.input_layer_norm(torch.cat([free.to(tokens.dtype), tokens], 1))
        for layer in self.transformer_layers:
            tokens = layer(tokens)
        return self._heads(tokens)

    def means_per_pixel(self, gaussians: Gaussians, cameras: Cameras) -> Float[Tensor, "batch view 3 height width"]:
        """Means of the pixel-aligned Gaussians, each in the place of its pixel."""
        size, (views, height, width) = self.config.patch_size, (cameras.batch_shape[1], cameras.height, cameras.width)
        means = gaussians.means[:, self.config.num_free_gaussians :]
        patches = means.reshape(len(means), views, height // size, width // size, size, size, 3)
        return patches.permute(0, 1, 6, 2, 4, 3, 5).reshape(len(means), views, 3, height, width)

    def freeze(self, config: FreezeConfig) -> None:
        """Stop training the named parts; a frozen prefix then runs without a graph."""
        frozen: list[nn.Module | nn.Parameter] = list(self.transformer_layers[: config.num_layers])
        if config.patch_embedder:
            frozen += [self.patch_embedder, self.input_layer_norm]
        for module in frozen:
            module.requires_grad_(False)
        if config.free_gaussians:
            self.gaussian_position_embeddings.requires_grad_(False)

    def _check(self, images: Tensor, cameras: Cameras) -> None:
        batch, size = tuple(images.shape[:2]), tuple(images.shape[-2:])
        if images.ndim != 5 or images.shape[2] != 3 or tuple(cameras.batch_shape) != batch:
            came = f"{tuple(images.shape)} and {tuple(cameras.batch_shape)}"
            raise DataError(f"GSLRM: expected images [B, V, 3, H, W] and cameras [B, V], got {came} — align them.")
        if size != (cameras.height, cameras.width) or any(side % self.config.patch_size for side in size):
            raise DataError(
                f"GSLRM: expected images of the cameras' {cameras.height}×{cameras.width} in whole patches of "
                f"{self.config.patch_size}, got {size[0]}×{size[1]} — resize both."
            )

    def _encode(self, rays: Rays) -> Tensor:
        encodings: dict[str, Callable[[Rays], Tensor]] = {
            "closest_point": closest_point,
            "plucker": plucker,
            "both": lambda rays: torch.cat([plucker(rays)[..., :3], closest_point(rays)], -1),
        }
        return encodings[self.config.ray_encoding](rays)

    def _heads(self, tokens: Float[Tensor, "batch n dim"]) -> Float[Tensor, "batch gaussian values"]:
        """Raw numbers of tokens, in float32 whatever the autocast dtype: bfloat16 would round depths to a third of a
        pixel, for less than a thousandth of the arithmetic.
        """
        count = self.config.num_free_gaussians
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.float()
            pixels = self.pixel_gaussian_decoder(tokens[:, count:])
            free = self.gaussian_upsampler(tokens[:, :count])
        return torch.cat([free, pixels.reshape(len(pixels), -1, free.shape[-1])], 1)

    def _activate(self, raw: Float[Tensor, "batch n values"], rays: Rays) -> Gaussians:
        config = self.config
        coefficients = (config.sh_degree + 1) ** 2
        position, sh, log_scales, quats, opacity = raw.split([3, 3 * coefficients, 3, 4, 1], -1)
        return Gaussians(
            means=self._means(position, rays),
            quats=F.normalize(quats, dim=-1),
            scales=(log_scales + config.scale_bias).clamp(max=config.max_log_scale).exp(),
            opacities=(opacity[..., 0] + config.opacity_bias).sigmoid(),
            sh=sh.unflatten(-1, (coefficients, 3)),
        )

    def _means(self, position: Float[Tensor, "batch n 3"], rays: Rays) -> Float[Tensor, "batch n 3"]:
        if not self.config.pixel_aligned:
            return position
        free, pixels = position.tensor_split([self.config.num_free_gaussians], dim=1)
        offset = ((pixels.mean(-1) + self.config.depth_bias).sigmoid() * 2 - 1) * self.config.depth_range
        origins, directions = (_by_patch(part, self.config.patch_size) for part in rays)
        nearest = _by_patch(ray_parameter_of_closest_point(rays)[..., None], self.config.patch_size)
        return torch.cat([free, origins + (nearest + offset[..., None]) * directions], 1)


class _Patches(nn.Module):
    """Images [B, V, H, W, C] to patches [B, V, P, size·size·C], channel fastest."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        split = images.unflatten(3, (-1, self.size)).unflatten(2, (-1, self.size))
        return split.transpose(3, 4).flatten(4).flatten(2, 3)


class _Layer(nn.Module):
    """Pre-norm transformer layer; without a graph when nothing in it or before it is trained.

    What it keeps for the backward pass is as `checkpoint` says. The choice is made inside the layer, so that a compiled
    layer contains it.
    """

    def __init__(self, config: GSLRMConfig) -> None:
        super().__init__()
        self.checkpoint = config.checkpoint
        self.norm1 = _norm(config.dim)
        self.norm2 = _norm(config.dim)
        self.attn = _Attention(config.dim, config.head_dim)
        self.mlp = _MLP(config.dim)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.checkpoint == "none" or not self._has_graph(tokens):
            return self._layer(tokens)
        # A layer draws nothing, so that no generator has to be put back before it is computed again. There are two
        # calls because torch.compile takes a context_fn by its name only.
        if self.checkpoint == "layers":
            return checkpoint(self._layer, tokens, use_reentrant=False, preserve_rng_state=False)
        return checkpoint(
            self._layer, tokens, use_reentrant=False, preserve_rng_state=False, context_fn=_keeping_attention
        )

    def _layer(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))

    def _has_graph(self, tokens: Tensor) -> bool:
        return torch.is_grad_enabled() and (tokens.requires_grad or any(p.requires_grad for p in self.parameters()))


class _Attention(nn.Module):
    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_qkv = _linear(dim, 3 * dim)
        self.fc = _linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.to_qkv(tokens).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        return self.fc(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(_linear(dim, 4 * dim), nn.GELU(), _linear(4 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mlp(tokens)


class _FreeHead(nn.Module):
    def __init__(self, dim: int, values: int) -> None:
        super().__init__()
        self.layernorm = _norm(dim)
        self.linear = _linear(dim, values)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.layernorm(tokens))


def _keeping_attention() -> Any:
    """Contexts of a checkpoint that keeps what attention gave, and computes the rest again."""
    return create_selective_checkpoint_contexts(_keep_attention)


def _keep_attention(context: Any, operator: Any, *_: Any, **__: Any) -> CheckpointPolicy:  # noqa: ARG001
    return CheckpointPolicy.MUST_SAVE if operator in _ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE


def _by_patch(pixels: Float[Tensor, "batch view height width c"], size: int) -> Float[Tensor, "batch n c"]:
    """Per-pixel values in the order of the pixel-aligned Gaussians."""
    channels = pixels.shape[-1]
    return _Patches(size)(pixels).reshape(len(pixels), -1, channels)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def _norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, bias=False)
