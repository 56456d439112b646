"""What a recipe is made of, with every default, and the checks across its fields. Imports no torch.

Defaults are FaceLift's where it has one. A path of a recipe is the same word everywhere:
YAML key, dataclass field, MLflow param, search space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field

from pipeline import config
from pipeline.errors import RecipeError

FOLDER = Path(__file__).parent / "recipes"
# Where artefacts lie on this machine; what they contain is recorded by content hash beside the fingerprint.
LOCAL_PATHS = ("data.root", "loss.perceptual_weights", "train.init_from")

ZOOMED_METHODS = ("object_centred", "zoom_exact")
LOSS_TERMS = ("mse", "ssim", "perceptual", "lpips", "background", "alpha", "pixelalign", "pointsdist")

Normalisation = Literal["object_centred", "rig_affine", "zoom_exact", "facelift_rig", "pixel_based"]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]

T = TypeVar("T")


def strict(cls: type[T]) -> type[T]:
    """Have pydantic refuse keys the dataclass has not, and values of another type, when it decodes one."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[attr-defined]
    return cls


@strict
@dataclass(frozen=True, kw_only=True)
class GSLRMConfig:
    """The network of GS-LRM (FaceLift's variant); lengths in world units."""

    kind: Literal["gslrm"] = "gslrm"
    dim: Positive
    head_dim: Positive
    num_layers: Positive
    patch_size: Positive = 8
    num_free_gaussians: Count = 2  # learned tokens that each decode to one Gaussian free of any pixel
    sh_degree: Annotated[int, Field(ge=0, le=3)] = 0
    ray_encoding: Literal["closest_point", "plucker", "both"] = "closest_point"
    reference_marker: bool = False  # an embedding that tells the first view from the others
    pixel_aligned: bool = True  # means lie on their pixel's ray
    depth_range: Rate = 1.8  # means lie within ± this of the ray's point nearest to the origin
    depth_bias: float = 0.0
    scale_bias: float = -2.3
    max_log_scale: float = -1.2
    opacity_bias: float = -2.0
    init_std: Rate = 0.02  # of every weight matrix; small networks learn faster from more
    checkpoint_layers: Count = 0  # layers per activation-checkpoint group; 0 keeps all activations
    compile: bool = False


@strict
@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which views of which scenes are seen."""

    root: str | None = None  # dataset folder, FaceLift folder or one scene; None: given on the command line
    normalise: Normalisation | None = None  # how root's scenes are made anew before they are trained on
    zoom: Rate | None = None  # of data.normalise, where its method has one
    allow_inconsistent_geometry: bool = False  # train although cameras contradict their images
    image_size: Positive
    num_views: Positive  # views supervised per scene; the first num_input_views of them are inputs
    num_input_views: Positive
    num_held_out_views: Positive = 1  # views per scene that evaluation never shows the model, the same for every recipe
    view_sampling: Literal["random", "overlap", "fixed"] = "random"
    brightness: tuple[Rate, Rate] = (1.0, 1.0)  # factor, drawn per scene, foreground only
    contrast: tuple[Rate, Rate] = (1.0, 1.0)
    mirror: bool = False  # half of the training scenes with x reversed, images and cameras together
    rotate: bool = False  # training scenes turned about the world's Z, each by its own angle


@strict
@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms (0: not computed) and how they are taken."""

    mse: Weight = 1.0
    ssim: Weight = 0.0
    perceptual: Weight = 0.0
    lpips: Weight = 0.0
    background: Weight = 0.0
    alpha: Weight = 0.0
    pixelalign: Weight = 0.0
    pointsdist: Weight = 0.0
    masked: bool = False  # mse, ssim and pixelalign count the foreground only
    clamp: bool = False  # renders are clamped to 0…1 before every term
    warmup_steps: Count = 0  # optimizer steps without perceptual and lpips
    pointsdist_warmup_steps: Count = 0  # optimizer steps of pointsdist (weight 0.1) alone
    perceptual_weights: str | None = None  # VGG19 file, or a FaceLift checkpoint that carries it

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every term by its name."""
        return {name: getattr(self, name) for name in LOSS_TERMS}


@strict
@dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """Parts of the network that are not trained."""

    num_layers: Count = 0  # the first layers
    patch_embedder: bool = False  # with the input layer norm
    free_gaussians: bool = False


@strict
@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a cosine schedule after a linear warm-up, in optimizer steps."""

    lr: Rate
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    weight_decay: Weight = 0.05
    warmup_steps: Count = 500
    grad_clip_norm: Rate = 1.0
    skip_factor: Rate = 20.0  # an update whose gradient norm exceeds grad_clip_norm × this is skipped
    freeze: FreezeConfig = field(default_factory=FreezeConfig)


@strict
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop; every count is in optimizer steps."""

    max_steps: Positive
    batch_size: Positive
    accumulate: Positive = 1  # forward-backward passes per optimizer step
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    seed: int = 777
    report_every: Positive = 20
    validate_every: Positive = 5000
    max_val_scenes: Positive = 64
    init_from: str | None = None  # checkpoint folder, FaceLift .pt, or NAME@ALIAS of the registry: weights only


@strict
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a run computes."""

    name: str
    model: GSLRMConfig
    data: DataConfig
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig
    train: TrainConfig

    @property
    def fingerprint(self) -> str:
        """Hash of the resolved values; equal recipes compute the same thing on the same data."""
        return config.fingerprint(self, skip=("name", *LOCAL_PATHS))

    @property
    def params(self) -> dict[str, Any]:
        """Every value under its dotted path: MLflow's params."""
        values = config.as_plain(self)
        del values["name"]
        return config.flatten(values)


def load_recipe(name: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe by name (pipeline/recipes) or path to YAML, with `key=value` overrides applied.

    Raises RecipeError, naming file and key, for anything unknown, missing, mistyped or impossible.
    """
    path = config.find_yaml(str(name), FOLDER)
    layers = config.load_layers(path, FOLDER, overrides)
    if "name" in layers.values:
        raise RecipeError(f"{layers.source('name')}: unknown key name — a recipe is named by its file; remove it.")
    layers.values["name"] = path.stem
    recipe = config.decode(layers, Recipe)
    _check(recipe, layers)
    return recipe


def override(recipe: Recipe, params: Mapping[str, Any]) -> Recipe:
    """The recipe with values at dotted paths replaced, decoded and checked as if they stood in its YAML."""
    values = config.as_plain(recipe)
    sources = {"": recipe.name}
    for path, value in params.items():
        *parents, leaf = path.split(".")
        target = values
        for parent in parents:
            if not isinstance(target.get(parent), dict):
                raise RecipeError(f"{recipe.name}: unknown key {path}{config.did_you_mean(path, recipe.params)}")
            target = target[parent]
        target[leaf] = list(value) if isinstance(value, tuple) else value
        sources[path] = f"{recipe.name} with {path}={value}"
    layers = config.Layers(values, sources)
    changed = config.decode(layers, Recipe)
    _check(changed, layers)
    return changed


def check_artefacts(recipe: Recipe) -> None:
    """Refuse a recipe whose files are not on this machine. Raises RecipeError."""
    for path in LOCAL_PATHS:
        value = recipe.params[path]
        if value is not None and not Path(value).exists():
            raise RecipeError(f"{recipe.name}: {path}: expected a file or folder, found none at {value} — mend it.")
    if recipe.data.root is None:
        raise RecipeError(f"{recipe.name}: data.root: expected a dataset folder, got none — add --set data.root=PATH.")
    if recipe.loss.perceptual and recipe.loss.perceptual_weights is None:
        raise RecipeError(
            f"{recipe.name}: loss.perceptual_weights: expected the VGG19 weights that loss.perceptual "
            f"{recipe.loss.perceptual} needs, got none — name imagenet-vgg-verydeep-19.mat or a FaceLift checkpoint, "
            "or set loss.perceptual=0.0."
        )


def with_data_root(recipe: Recipe, root: str | Path) -> Recipe:
    """The recipe on the dataset at `root`; the fingerprint stays."""
    return replace(recipe, data=replace(recipe.data, root=str(root)))


def _check(recipe: Recipe, layers: config.Layers) -> None:
    """Refuse pairs of fields that cannot go together."""
    model, data, loss, optim, train = recipe.model, recipe.data, recipe.loss, recipe.optim, recipe.train

    def require(condition: bool, path: str, problem: str) -> None:
        if not condition:
            raise RecipeError(f"{layers.source(path)}: {path}: {problem}.")

    require(
        data.image_size % model.patch_size == 0,
        "data.image_size",
        f"expected a multiple of model.patch_size {model.patch_size}, got {data.image_size} — change one",
    )
    require(
        model.dim % model.head_dim == 0,
        "model.dim",
        f"expected a multiple of model.head_dim {model.head_dim}, got {model.dim} — change one",
    )
    require(
        data.num_input_views <= data.num_views,
        "data.num_input_views",
        f"expected at most data.num_views {data.num_views}, got {data.num_input_views} — lower it",
    )
    require(
        optim.warmup_steps < train.max_steps,
        "optim.warmup_steps",
        f"expected less than train.max_steps {train.max_steps}, got {optim.warmup_steps} — lower it",
    )
    require(
        optim.freeze.num_layers <= model.num_layers,
        "optim.freeze.num_layers",
        f"expected at most model.num_layers {model.num_layers}, got {optim.freeze.num_layers} — lower it",
    )
    require(
        data.zoom is None or data.normalise in ZOOMED_METHODS,
        "data.zoom",
        f"expected it only with data.normalise {' or '.join(ZOOMED_METHODS)}, got {data.normalise} — leave it out",
    )
    for name in ("brightness", "contrast"):
        low, high = getattr(data, name)
        require(low <= high, f"data.{name}", f"expected [low, high], got [{low}, {high}] — swap them")
    require(any(loss.weights.values()), "loss", "expected a term with a weight above 0, got none — set loss.mse")
    require(
        not (loss.pixelalign and model.pixel_aligned),
        "loss.pixelalign",
        "expected 0 with model.pixel_aligned, whose means lie on their rays already — set one of them off",
    )
