"""Which fields of a recipe can go together, and how a step is divided among processes. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import RecipeError
from pipeline.recipe import (
    VIEW_SETS,
    ZOOMED_METHODS,
    DataConfig,
    DenoisingConfig,
    FreezeConfig,
    GSLRMConfig,
    LossConfig,
    MVDiffusionConfig,
    OptimConfig,
    Recipe,
    TrainConfig,
)

Rule = tuple[bool, str, str]  # whether it holds, the path it is about, and what is wrong when it does not


def rules_of(recipe: Recipe) -> list[Rule]:
    """Every rule for recipes of this kind, whether it holds or not."""
    return [*_common_rules(recipe), *_rules_of_kind(recipe)]


def _common_rules(recipe: Recipe) -> list[Rule]:
    data, steps, warmup = recipe.data, recipe.train.max_steps, recipe.optim.warmup_steps
    inputs, views = data.num_input_views, data.num_views
    zoomed = " or ".join(ZOOMED_METHODS)
    rules: list[Rule] = [
        (inputs <= views, "data.num_input_views", f"expected at most data.num_views {views}, got {inputs} — lower it"),
        (
            (data.min_input_views or 1) <= inputs,
            "data.min_input_views",
            f"expected at most data.num_input_views {inputs}, got {data.min_input_views} — lower it",
        ),
        (warmup < steps, "optim.warmup_steps", f"expected less than train.max_steps {steps}, got {warmup} — lower it"),
        (
            data.zoom is None or data.normalise in ZOOMED_METHODS,
            "data.zoom",
            f"expected it only with data.normalise {zoomed}, got {data.normalise} — leave it out",
        ),
        _checkpoint_rule(recipe.train),
    ]
    for name in ("brightness", "contrast"):
        low, high = getattr(data, name)
        rules.append((low <= high, f"data.{name}", f"expected [low, high], got [{low}, {high}] — swap them"))
    return rules


def _checkpoint_rule(train: TrainConfig) -> Rule:
    """Where validations and checkpoints meet nowhere before the last step, no other checkpoint could be the best."""
    figures, saves, steps = train.validate_every, train.checkpoint_every or train.validate_every, train.max_steps
    meet = math.lcm(figures, saves) < steps or max(figures, saves) >= steps
    problem = (
        f"expected a checkpoint at a validation before train.max_steps {steps}, got one every {saves} steps with "
        f"train.validate_every {figures}, which meet at {math.lcm(figures, saves)} — make one a multiple of the other"
    )
    return meet, "train.checkpoint_every", problem


def _rules_of_kind(recipe: Recipe) -> list[Rule]:
    model, loss = recipe.model, recipe.loss
    if isinstance(model, GSLRMConfig) and isinstance(loss, LossConfig):
        return _gslrm_rules(model, loss, recipe.data, recipe.optim)
    if isinstance(model, MVDiffusionConfig) and isinstance(loss, DenoisingConfig):
        return _mvdiffusion_rules(model, recipe.data, recipe.optim)
    losses = "the terms of rendering" if isinstance(model, GSLRMConfig) else "kind: denoising"
    return [(False, "loss", f"expected {losses} with model.kind {model.kind}, got another loss — set it")]


def _gslrm_rules(model: GSLRMConfig, loss: LossConfig, data: DataConfig, optim: OptimConfig) -> list[Rule]:
    size, frozen = data.image_size, optim.freeze.num_layers
    return [
        (
            size % model.patch_size == 0,
            "data.image_size",
            f"expected a multiple of model.patch_size {model.patch_size}, got {size} — change one",
        ),
        (
            model.dim % model.head_dim == 0,
            "model.dim",
            f"expected a multiple of model.head_dim {model.head_dim}, got {model.dim} — change one",
        ),
        (
            frozen <= model.num_layers,
            "optim.freeze.num_layers",
            f"expected at most model.num_layers {model.num_layers}, got {frozen} — lower it",
        ),
        (
            data.view_sampling not in ("ring", "ring_random"),
            "data.view_sampling",
            f"expected random, overlap or fixed with model.kind gslrm, got {data.view_sampling} — set it",
        ),
        (
            data.background == "white",
            "data.background",
            f"expected white, on which GS-LRM renders, got {data.background} — leave it out",
        ),
        (any(loss.weights.values()), "loss", "expected a term with a weight above 0, got none — set loss.mse"),
        (
            not (loss.pixelalign and model.pixel_aligned),
            "loss.pixelalign",
            "expected 0 with model.pixel_aligned, whose means lie on their rays already — set one of them off",
        ),
    ]


def _mvdiffusion_rules(model: MVDiffusionConfig, data: DataConfig, optim: OptimConfig) -> list[Rule]:
    views, scratch = model.num_views, model.scratch
    multiple = scratch.patch_size * 2 ** (len(scratch.channels) - 1)
    counts = (data.num_views, data.num_input_views, data.num_held_out_views)
    wide = [width for width in scratch.channels if width % scratch.head_dim]
    return [
        (
            counts == (views, 1, views - 1),
            "data.num_views",
            f"expected {views} views, 1 of them input and {views - 1} held out, as model.num_views {views} says, got "
            f"{', '.join(map(str, counts))} — change data.num_views, num_input_views and num_held_out_views",
        ),
        (
            data.view_sampling in VIEW_SETS,
            "data.view_sampling",
            f"expected one of {', '.join(VIEW_SETS)}, which give each slot its view, got {data.view_sampling} — set it",
        ),
        (
            data.min_input_views is None,
            "data.min_input_views",
            f"expected null, as a multi-view model is shown one view, got {data.min_input_views} — leave it out",
        ),
        (not data.mirror, "data.mirror", "expected false, or left and right change slots, got true — leave it out"),
        (not data.rotate, "data.rotate", "expected false, which no picture can tell from true — leave it out"),
        (
            not (model.lora_rank and model.trainable),
            "model.lora_rank",
            f"expected 0 with model.trainable, got {model.lora_rank} — choose one",
        ),
        (
            optim.freeze == FreezeConfig(),
            "optim.freeze",
            "expected nothing, it is for GS-LRM — name what is trained in model.trainable",
        ),
        (
            model.base is not None or not wide,
            "model.scratch.channels",
            f"expected multiples of head_dim {scratch.head_dim}, got {wide} — change one",
        ),
        (
            model.base is not None or data.image_size % multiple == 0,
            "data.image_size",
            f"expected a multiple of {multiple}, model.scratch's patches at its coarsest level, got {data.image_size} "
            "— change one",
        ),
    ]


# ---------------------------------------------------------------- a step among processes


@dataclass(frozen=True)
class Division:
    """How the scenes of an optimizer step are divided among processes: the step is the same however many there are.

    Equal shares of `accumulate` passes of `batch_size` scenes: a pass is cut into `pieces` of `size` scenes as far as
    it divides, and the passes are dealt among the groups of processes that make up one pass each: two processes take
    half of each pass, or every other pass.
    """

    pieces: int
    size: int
    groups: int

    def passes(self, rank: int, accumulate: int) -> list[int]:
        """The passes of a step that a process takes part in, from 0."""
        return list(range(rank // self.pieces, accumulate, self.groups))

    def piece(self, rank: int, index: int) -> int:
        """Which of the pieces of `size` scenes, counted from the run's first, a process takes of pass `index`."""
        return index * self.pieces + rank % self.pieces


def divide(batch_size: int, accumulate: int, processes: int) -> Division:
    """Raises RecipeError where there are no equal shares."""
    pieces = math.gcd(batch_size, processes)
    groups = processes // pieces
    if accumulate % groups:
        raise RecipeError(
            f"train.batch_size: expected {batch_size} × accumulate {accumulate} scenes a step to divide among "
            f"{processes} processes, got a rest — take fewer processes, or change one of them."
        )
    return Division(pieces, batch_size // pieces, groups)
