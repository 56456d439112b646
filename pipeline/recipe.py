"""What a recipe is made of, with every default. Imports no torch.

Defaults are FaceLift's where it has one. A path of a recipe is the same word everywhere:
YAML key, dataclass field, MLflow param, search space.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag

from pipeline import bases, config

# Where artefacts lie on this machine; what they contain is recorded by content hash beside the fingerprint.
LOCAL_PATHS = ("data.root", "loss.perceptual_weights", "train.init_from", "model.base", "model.prompts")

ZOOMED_METHODS = ("object_centred", "zoom_exact")
LOSS_TERMS = ("mse", "ssim", "perceptual", "lpips", "background", "alpha", "pixelalign", "pointsdist")

VIEW_SETS = ("fixed", "ring", "ring_random")  # ways of view_sampling that give each slot a view

Normalisation = Literal["object_centred", "rig_affine", "zoom_exact", "facelift_rig", "pixel_based"]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
LocalPath = Annotated[str, AfterValidator(os.path.expanduser)]  # `~` is the home folder of who runs it
StartingWeights = Annotated[str, AfterValidator(bases.located)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # which torch, numpy and Optuna all take

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

T = TypeVar("T")


def strict(cls: type[T]) -> type[T]:
    """Have pydantic refuse keys the dataclass has not, and values of another type, when it decodes one."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[attr-defined]
    return cls


@strict
@dataclass(frozen=True, kw_only=True)
class GSLRMConfig:
    """The network of GS-LRM (FaceLift's variant); lengths in world units."""

    kind: Literal["gslrm"] = "gslrm"  # the network: Gaussians from posed views
    dim: Positive  # width of a token
    head_dim: Positive  # width of an attention head; dim is a multiple of it
    num_layers: Positive  # transformer layers
    patch_size: Positive = 8  # pixels along a side that become one token; image_size is a multiple of it
    num_free_gaussians: Count = 2  # learned tokens that each decode to one Gaussian free of any pixel
    # of the spherical harmonics of a colour; 0: the same from every side
    sh_degree: Annotated[int, Field(ge=0, le=3)] = 0
    # how a pixel is told its ray: by its point nearest to the origin, by Plücker coordinates, or both
    ray_encoding: Literal["closest_point", "plucker", "both"] = "closest_point"
    reference_marker: bool = False  # an embedding that tells the first view from the others
    pixel_aligned: bool = True  # means lie on their pixel's ray
    depth_range: Rate = 1.8  # means lie within ± this of the ray's point nearest to the origin
    # added to the head's depth before the sigmoid; 0: a new network's means begin where rays pass the origin
    depth_bias: Finite = 0.0
    scale_bias: Finite = -2.3  # added to the head's logarithm of a scale; e^-2.3 is 0.1 world units
    max_log_scale: Finite = -1.2  # no Gaussian is larger than e to this; e^-1.2 is 0.3 world units
    opacity_bias: Finite = -2.0  # added to the head's opacity before the sigmoid; -2 begins at 0.12
    init_std: Rate = 0.02  # of every weight matrix; small networks learn faster from more
    # what each layer keeps for the backward pass, the rest being computed again: its input and what attention gave
    # (attention), its input alone (layers, FaceLift's way), or everything (none); the same numbers in each
    checkpoint: Literal["none", "attention", "layers"] = "attention"
    compile: bool = False  # layers run through torch.compile


@strict
@dataclass(frozen=True, kw_only=True)
class ScratchConfig:
    """A multi-view UNet that starts from nothing, on pixels in patches: sizes a CPU can train."""

    channels: tuple[Positive, ...] = (64, 128)  # of each level; all but the last are followed by a halving
    layers: Positive = 1  # residual blocks a level
    head_dim: Positive = 32  # width of an attention head; every level is a multiple of it
    text_dim: Positive = 64  # width of a prompt's embedding
    patch_size: Positive = 4  # pixels along a side that one latent holds
    noise_shift: Rate = 4.0  # how many times noisier each level is than Stable Diffusion's: pixels tell more
    seed: Seed = 0  # of the weights that the network begins with


@strict
@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How views are drawn from the network, in validation and ever after."""

    steps: Positive = 20  # denoising steps of a picture
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 3.0  # 1: none
    eta: Fraction = 1.0  # share of fresh noise in a step: 0 is DDIM, 1 is DDPM
    seed: Seed = 42  # of the noise that evaluation draws from
    compared: tuple[Weight, ...] = ()  # further guidances that validation reports


@strict
@dataclass(frozen=True, kw_only=True)
class MVDiffusionConfig:
    """The multi-view diffusion model (FaceLift's stage 1), what of it is trained, and how it is sampled."""

    kind: Literal["mvdiffusion"] = "mvdiffusion"  # the network: six views from one picture
    base: LocalPath | None = None  # pipeline folder (pipeckpts) to start from; None: from nothing, of `scratch`'s sizes
    prompts: LocalPath | None = None  # embeddings file; None: prompt_style by the base's own text encoder
    # texts that name the view of each slot
    prompt_style: Literal["facelift", "mouse_elevated", "realistic", "hybrid", "simple", "from_camera"] = "facelift"
    num_views: Positive = 6  # slots, the first of which is the reference
    # a view attends to itself and the reference (sparse), to all views (dense), or to itself (off)
    attention: Literal["sparse", "dense", "off"] = "sparse"
    trainable: tuple[str, ...] = ()  # names of modules, such as attn1; none named: all are trained
    lora_rank: Count = 0  # of adapters on every attention's projections, in place of the weights themselves
    ema_decay: Fraction = 0.9999  # of the running mean that is validated and released; 0: none
    ema_on_cpu: bool = False  # keeps the mean out of the GPU's memory
    gradient_checkpointing: bool = False  # computes activations again in the backward pass, for less memory
    scratch: ScratchConfig = field(default_factory=ScratchConfig)  # sizes of a network that starts from nothing
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # how views are drawn


@strict
@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which views of which scenes are seen.

    view_sampling: `random` views, those that `overlap` first, or the files' own order (`fixed`); a multi-view model
    has a slot for each view, and takes the views by file (`fixed`), or once round from a fixed reference (`ring`) or
    from any (`ring_random`).
    """

    root: LocalPath | None = None  # dataset folder, FaceLift folder or one scene; None: given on the command line
    normalise: Normalisation | None = None  # how root's scenes are made anew before they are trained on
    zoom: Rate | None = None  # of data.normalise, where its method has one
    # train although cameras contradict their images, or nothing shows whether they fit
    allow_inconsistent_geometry: bool = False
    image_size: Positive  # pixels along a side; images are square
    num_views: Positive  # views supervised per scene; the first num_input_views of them are inputs
    num_input_views: Positive  # views that the model is shown
    # the fewest that training shows it: each batch draws its number, up to num_input_views; None: num_input_views
    min_input_views: Positive | None = None
    num_held_out_views: Positive = 1  # views per scene that evaluation never shows the model, the same for every recipe
    # which views, and in which order, as said above
    view_sampling: Literal["random", "overlap", "fixed", "ring", "ring_random"] = "random"
    background: Literal["white", "three_choices", "random"] = "white"  # of training images; white, black or grey 0.5
    brightness: tuple[Rate, Rate] = (1.0, 1.0)  # factor, drawn per scene, foreground only
    contrast: tuple[Rate, Rate] = (1.0, 1.0)  # factor about the mean, drawn per scene, foreground only
    mirror: bool = False  # half of the training scenes with x reversed, images and cameras together
    rotate: bool = False  # training scenes turned about the world's Z, each by its own angle


@strict
@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms (0: not computed) and how they are taken."""

    mse: Weight = 1.0  # squared difference of colours
    ssim: Weight = 0.0  # 1 − structural similarity
    perceptual: Weight = 0.0  # FaceLift's L1 of pixels and VGG19 features; needs perceptual_weights
    lpips: Weight = 0.0  # LPIPS distance
    background: Weight = 0.0  # squared difference from white outside the mask
    alpha: Weight = 0.0  # squared difference of rendered opacity and mask
    pixelalign: Weight = 0.0  # distance of a Gaussian from its pixel's ray; only where means are not pixel_aligned
    pointsdist: Weight = 0.0  # pulls each view's distances from its camera to a common mean and spread
    masked: bool = False  # mse, ssim and pixelalign count the foreground only
    clamp: bool = False  # renders are clamped to 0…1 before every term
    warmup_steps: Count = 0  # the first optimizer steps, without perceptual and lpips
    # the first optimizer steps, with pointsdist (weight 0.1) in place of mse and perceptual
    pointsdist_warmup_steps: Count = 0
    perceptual_weights: LocalPath | None = None  # VGG19 file, or a FaceLift checkpoint that carries it

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every term by its name."""
        return {name: getattr(self, name) for name in LOSS_TERMS}


@strict
@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """What a diffusion model is asked for, and how much each noise level counts."""

    kind: Literal["denoising"] = "denoising"  # the loss of MVDiffusion
    prediction: Literal["v_prediction", "epsilon", "sample"] = "v_prediction"  # sample: the image, for wide patches
    snr_gamma: Rate | None = 5.0  # each level counts min(SNR, γ) / SNR, whatever is predicted (FaceLift); None: 1
    snr_form: Literal["epsilon", "v"] = "epsilon"  # v: over SNR + 1, as the paper has it for v_prediction
    drop_rate: Annotated[float, Field(ge=0, le=1 / 3)] = 0.05  # of objects without CLIP, without latents, without both


@strict
@dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """Parts of the network that are not trained."""

    num_layers: Count = 0  # the first layers
    patch_embedder: bool = False  # with the input layer norm
    free_gaussians: bool = False  # the learned tokens of Gaussians that belong to no pixel


@strict
@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, and a learning rate that stays or falls by a cosine after a linear warm-up, in optimizer steps."""

    lr: Rate  # learning rate after the warm-up
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)  # AdamW's running means of the gradient and of its square
    weight_decay: Weight = 0.05  # AdamW's, of what decays
    # what decays: weight matrices and embeddings (FaceLift's GS-LRM), or every weight (its MVDiffusion)
    decay: Literal["matrices", "all"] = "matrices"
    warmup_steps: Count = 500  # optimizer steps in which the rate rises from 0; less than train.max_steps
    # what follows the warm-up: down to 0 by a cosine, or the same rate throughout
    schedule: Literal["cosine", "constant"] = "cosine"
    grad_clip_norm: Rate = 1.0  # a gradient with a larger norm is scaled down to this
    # an update whose gradient norm exceeds grad_clip_norm × this is skipped; None: none is
    skip_factor: Rate | None = 20.0
    # updates of 100 steps in a row whose loss or gradient may be no number: each is skipped; one more ends the run
    max_nonfinite_updates: Count = 2
    freeze: FreezeConfig = field(default_factory=FreezeConfig)  # parts that are not trained


@strict
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop; every count is in optimizer steps."""

    max_steps: Positive  # where the run ends
    batch_size: Positive  # scenes in a forward pass, over all processes
    accumulate: Positive = 1  # forward-backward passes per optimizer step
    # of the network, in training and in evaluation; weights, losses and rendering are fp32
    precision: Precision = "bf16"
    seed: Seed = 777  # of weights, batches and every draw in training
    report_every: Positive = 20  # steps between reports of train/…
    validate_every: Positive = 5000  # steps between validations; the last step has one, too
    # steps between checkpoints, which have figures only where a validation meets them; None: with each validation
    checkpoint_every: Positive | None = None
    max_val_scenes: Positive = 64  # scenes of val that a validation scores, the first ones
    # weights to start from: a checkpoint folder, FaceLift .pt, NAME@ALIAS of the registry, or base:NAME of the package
    init_from: StartingWeights | None = None


def _kind(default: str) -> Discriminator:
    """`kind:` says which variant a mapping is; without one it is the default."""
    return Discriminator(lambda values: values.get("kind", default) if isinstance(values, dict) else default)


ModelConfig = Annotated[
    Annotated[GSLRMConfig, Tag("gslrm")] | Annotated[MVDiffusionConfig, Tag("mvdiffusion")], _kind("gslrm")
]
LossesConfig = Annotated[
    Annotated[LossConfig, Tag("rendering")] | Annotated[DenoisingConfig, Tag("denoising")], _kind("rendering")
]


@strict
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a run computes."""

    name: str
    model: ModelConfig
    data: DataConfig
    loss: LossesConfig = field(default_factory=LossConfig)
    optim: OptimConfig
    train: TrainConfig

    @property
    def fingerprint(self) -> str:
        """Hash of the resolved values; equal recipes compute the same thing on the same data."""
        return config.fingerprint(self, skip=("name", *LOCAL_PATHS))

    @property
    def allows_inconsistent_geometry(self) -> bool:
        """GS-LRM makes rays of cameras; MVDiffusion is trained on pictures alone, and `pixel_based` may do for it."""
        return self.data.allow_inconsistent_geometry or self.model.kind != "gslrm"

    @property
    def params(self) -> dict[str, Any]:
        """Every value under its dotted path: MLflow's params."""
        values = config.as_plain(self)
        del values["name"]
        return config.flatten(values)


def gslrm_parts(recipe: Recipe) -> tuple[GSLRMConfig, LossConfig]:
    """The network and the losses of a GS-LRM recipe, which its rules have seen to."""
    assert isinstance(recipe.model, GSLRMConfig) and isinstance(recipe.loss, LossConfig)
    return recipe.model, recipe.loss


def mvdiffusion_parts(recipe: Recipe) -> tuple[MVDiffusionConfig, DenoisingConfig]:
    """The network and the loss of an MVDiffusion recipe, which its rules have seen to."""
    assert isinstance(recipe.model, MVDiffusionConfig) and isinstance(recipe.loss, DenoisingConfig)
    return recipe.model, recipe.loss
