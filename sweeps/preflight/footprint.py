"""Which of two recipes needs more memory to train. Imports no torch."""

from __future__ import annotations

from pipeline.recipe import GSLRMConfig, LossConfig, MVDiffusionConfig, Recipe

_OPTIMIZER = 3  # numbers kept for a trained weight beside it: its gradient and AdamW's two moments
_PER_LAYER = 20  # numbers of a token's width that a transformer layer keeps for the backward pass
_PER_GAUSSIAN = 60  # numbers of a Gaussian before and after activation, and as it is drawn
_PER_PIXEL = 12  # numbers of a rendered pixel: colour, opacity, target, mask
_OF_VGG = 400  # numbers of a pixel that a VGG keeps
_UNET = 866e6  # weights of Stable Diffusion 2.1's
_UNET_WIDTH, _UNET_DEPTH = 640, 32  # of such a UNet, about


def footprint(recipe: Recipe) -> float:
    """Roughly the bytes of one training step: weights, what the optimizer keeps of them, activations.

    Good for nothing but an order: more views, pixels, scenes a batch, layers, trained weights and loss terms make it
    larger; activation checkpointing, half precision and frozen parts smaller.
    """
    model = recipe.model
    numbers = _of_gslrm(recipe, model) if isinstance(model, GSLRMConfig) else _of_mvdiffusion(recipe, model)
    weights, activations = numbers
    return 4 * weights + (4 if recipe.train.precision == "fp32" else 2) * recipe.train.batch_size * activations


def _of_gslrm(recipe: Recipe, model: GSLRMConfig) -> tuple[float, float]:
    """Numbers kept of weights, and of each scene."""
    data, loss, frozen = recipe.data, recipe.loss, recipe.optim.freeze
    assert isinstance(loss, LossConfig)
    layer, patches = 12 * model.dim**2, model.dim * model.patch_size**2 * 20
    trained = layer * (model.num_layers - frozen.num_layers) + patches * (1 if frozen.patch_embedder else 2)
    weights = layer * model.num_layers + 2 * patches + _OPTIMIZER * trained
    pixels = data.image_size**2
    tokens = data.num_input_views * pixels / model.patch_size**2 + model.num_free_gaussians
    graph = model.num_layers - (frozen.num_layers if frozen.patch_embedder else 0)
    group = model.checkpoint_layers
    kept = _PER_LAYER * graph if not group else graph / group + _PER_LAYER * min(group, graph)
    networks = bool(loss.perceptual) + bool(loss.lpips)
    terms = sum(bool(weight) for weight in loss.weights.values())
    drawn = data.num_views * pixels * (_PER_PIXEL + terms + _OF_VGG * networks)
    return weights, tokens * model.dim * kept + data.num_input_views * pixels * _PER_GAUSSIAN + drawn


def _of_mvdiffusion(recipe: Recipe, model: MVDiffusionConfig) -> tuple[float, float]:
    """Numbers kept of weights, and of each object."""
    scratch, views = model.scratch, model.num_views
    all_of_them = _UNET if model.base is not None else sum(40 * width**2 for width in scratch.channels) * scratch.layers
    if model.lora_rank:
        trained = all_of_them * min(1.0, 4e-4 * model.lora_rank)
    else:
        trained = all_of_them * (0.2 * len(model.trainable) if 0 < len(model.trainable) < 5 else 1.0)
    mean = 1 if model.ema_decay and not model.ema_on_cpu else 0
    side = recipe.data.image_size / (8 if model.base is not None else scratch.patch_size)
    width = _UNET_WIDTH if model.base is not None else max(scratch.channels)
    depth = _UNET_DEPTH if model.base is not None else 4 * len(scratch.channels) * scratch.layers
    kept = depth * (2 if model.gradient_checkpointing else _PER_LAYER)
    read = {"off": 1, "sparse": 2, "dense": views}[model.attention]  # views whose tokens each token attends to
    sampled = (
        views * side**2 * width * (4 if any(g != 1 for g in (model.sampling.guidance, *model.sampling.compared)) else 2)
    )
    return all_of_them + (_OPTIMIZER + mean) * trained, views * side**2 * width * (kept + 2 * read) + sampled
