"""What a training step needs of a GPU's memory, estimated from its recipe alone: bytes, by what holds them.

Counted from what each layer keeps for the backward pass under autocast, and held against peaks that were measured on an
H200 (tests/unit/test_footprint.py). On a CPU the numbers are good for comparing recipes only.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.recipe import GSLRMConfig, LossConfig, MVDiffusionConfig, Recipe

_FP32 = 4
_MOMENTS = 2 * _FP32  # AdamW's, bytes of a trained weight


@dataclass(frozen=True)
class Kept:
    """Bytes of a token's channel in a transformer layer of GS-LRM."""

    layer: int  # all that the backward pass of a layer reads
    tokens: int  # the layer's input alone
    attention: int  # what attention gave
    work: int  # gradients on their way through a layer


# The residual stream is float32; what matrix products and attention read is of the autocast's type.
_KEPT = {True: Kept(layer=38, tokens=4, attention=2, work=20), False: Kept(layer=68, tokens=4, attention=4, work=36)}
_PER_GAUSSIAN = 640  # bytes of a Gaussian in the heads, its activation and its rays
_PER_DRAWN = 100  # bytes of a Gaussian in a view that it is drawn in
_PER_PIXEL, _PER_TERM = 12 * _FP32, 6 * _FP32  # bytes of a rendered pixel, and of it in a loss term
_OF_VGG = 400 * _FP32  # bytes of a pixel that a VGG keeps

# Stable Diffusion 2.1's UNet with FaceLift's input, its VAE, and the CLIP that reads the picture.
_UNET, _FROZEN = 870_184_644, 83_653_863 + 632_076_800
_PER_LATENT = {True: 325e3, False: 540e3}  # bytes of a latent of one view that the UNet keeps, half precision or not
_PER_VIEW_READ = 8e3  # bytes of a latent for each view whose tokens it attends to
_CHECKPOINTED = 0.23  # share of it that is left by gradient checkpointing
_PER_LATENT_SAMPLED = 10e3  # bytes of a latent when nothing is kept
_PER_PIXEL_CODED = 1500  # bytes of a picture's pixel in the VAE at its widest
_SAMPLED_AT_ONCE = 4  # objects in a validation
_SCRATCH_LAYER = 20  # numbers of a latent's channel that a layer of a network from nothing keeps
_ASIDE = 1e-3  # what is not at the peak counts so much when recipes are compared


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step."""

    weights: float  # trained and frozen ones, and their running mean
    optimizer: float  # AdamW's moments
    gradients: float
    activations: float  # where the backward pass begins, with copies of weights in half precision
    rendering: float  # Gaussians as they are drawn, pictures, and loss terms
    aside: float  # encoding of pictures, and sampling in a validation, when no activations are kept
    accumulates: bool  # whether a pass begins with the gradients of another

    @property
    def peak(self) -> float:
        """Bytes at the moment that needs most."""
        held = self.gradients if self.accumulates else 0.0
        changing = max(held + self.activations + self.rendering, self.gradients, self.aside)
        return self.weights + self.optimizer + changing


def footprint(recipe: Recipe) -> float:
    """The peak in bytes, and a little for what is needed at another moment, so that of two recipes the larger is known.

    More views, pixels, scenes a batch, layers, trained weights and loss terms make it larger; activation checkpointing,
    half precision and frozen parts smaller.
    """
    found = memory_of(recipe)
    return found.peak + _ASIDE * (found.gradients + found.activations + found.aside)


def memory_of(recipe: Recipe) -> Memory:
    """The estimate by its parts."""
    model = recipe.model
    return _of_gslrm(recipe, model) if isinstance(model, GSLRMConfig) else _of_mvdiffusion(recipe, model)


def _of_gslrm(recipe: Recipe, model: GSLRMConfig) -> Memory:
    data, loss, frozen, half = recipe.data, recipe.loss, recipe.optim.freeze, recipe.train.precision != "fp32"
    assert isinstance(loss, LossConfig)
    layer, embedder = 12 * model.dim**2, 9 * model.dim * model.patch_size**2
    heads = model.dim * (model.patch_size**2 + 1) * (11 + 3 * (model.sh_degree + 1) ** 2)
    weights = layer * model.num_layers + embedder + heads
    trained = weights - layer * frozen.num_layers - (embedder if frozen.patch_embedder else 0)
    pixels = data.image_size**2
    tokens = data.num_input_views * pixels / model.patch_size**2 + model.num_free_gaussians
    gaussians = data.num_input_views * pixels
    without_graph = frozen.patch_embedder and frozen.free_gaussians
    kept = _kept_by_layers(model, model.num_layers - (frozen.num_layers if without_graph else 0), half)
    copies = 2 * weights if half and model.checkpoint == "none" else 0
    networks = bool(loss.perceptual) + bool(loss.lpips)
    terms = sum(bool(weight) for weight in loss.weights.values())
    drawn = data.num_views * (gaussians * _PER_DRAWN + pixels * (_PER_PIXEL + terms * _PER_TERM + _OF_VGG * networks))
    batch = recipe.train.batch_size
    return Memory(
        weights=_FP32 * weights,
        optimizer=_MOMENTS * trained,
        gradients=_FP32 * trained,
        activations=batch * (tokens * model.dim * kept + gaussians * _PER_GAUSSIAN) + copies,
        rendering=batch * drawn,
        aside=0.0,
        accumulates=recipe.train.accumulate > 1,
    )


def _kept_by_layers(model: GSLRMConfig, layers: int, half: bool) -> int:
    """Bytes of a token's channel where the backward pass begins, with one layer at work."""
    kept = _KEPT[half]
    of_each = {"none": kept.layer, "attention": kept.tokens + kept.attention, "layers": kept.tokens}[model.checkpoint]
    again = kept.layer if model.checkpoint != "none" and layers else 0
    return of_each * layers + again + kept.work


def _of_mvdiffusion(recipe: Recipe, model: MVDiffusionConfig) -> Memory:
    scratch, views, half, batch = (
        model.scratch,
        model.num_views,
        recipe.train.precision != "fp32",
        recipe.train.batch_size,
    )
    size, based = recipe.data.image_size, model.base is not None
    weights = _UNET if based else sum(40 * width**2 for width in scratch.channels) * scratch.layers
    trained = weights * _trained_share(model)
    mean = trained if model.ema_decay and not model.ema_on_cpu else 0.0
    latents = views * (size / (8 if based else scratch.patch_size)) ** 2
    read = {"off": 1, "sparse": 2, "dense": views}[model.attention]  # views whose tokens each token attends to
    if based:
        kept = (_PER_LATENT[half] + _PER_VIEW_READ * read) * (_CHECKPOINTED if model.gradient_checkpointing else 1.0)
        sampled, coded = _PER_LATENT_SAMPLED, float(_PER_PIXEL_CODED * views * size**2)
    else:
        width, depth = max(scratch.channels), 4 * len(scratch.channels) * scratch.layers
        numbers = depth * (2 if model.gradient_checkpointing else _SCRATCH_LAYER) + 2 * read
        kept, sampled, coded = (2.0 if half else 4.0) * width * numbers, 4.0 * width, 0.0
    guided = any(guidance != 1 for guidance in (model.sampling.guidance, *model.sampling.compared))
    sampling = _SAMPLED_AT_ONCE * latents * sampled * (2 if guided else 1) + (2 * weights if half else 0)
    return Memory(
        weights=_FP32 * (weights + mean + (_FROZEN if based else 0)),
        optimizer=_MOMENTS * trained,
        gradients=_FP32 * trained,
        activations=batch * latents * kept + (2 * weights if half else 0),
        rendering=0.0,
        aside=max(batch * coded, sampling + coded),
        accumulates=recipe.train.accumulate > 1,
    )


def _trained_share(model: MVDiffusionConfig) -> float:
    """The share of the UNet's weights that is trained, about."""
    if model.lora_rank:
        return min(1.0, 4e-4 * model.lora_rank)
    return 0.2 * len(model.trainable) if 0 < len(model.trainable) < 5 else 1.0
