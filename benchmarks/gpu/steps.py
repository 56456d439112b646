"""GS-LRM's training step at its released size: as `train` makes it, by its parts, from nothing, drawn in two ways."""

from __future__ import annotations

import itertools
import re
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from benchmarks.gpu.rows import Row, measured, or_out_of_memory
from benchmarks.gpu.settings import GIB, Settings
from pipeline.cameras import Cameras
from pipeline.data.batch import Batch
from pipeline.data.scenes import open_dataset
from pipeline.gaussians import Gaussians
from pipeline.gslrm.evaluate import evaluate
from pipeline.gslrm.model import GSLRM
from pipeline.gslrm.stage import GSLRMStage
from pipeline.precision import autocast
from pipeline.recipe import Recipe, gslrm_parts
from pipeline.splatting.rendering import render
from pipeline.training.loop import train

AFTER_WARM_UP = 1000  # a step at which every term counts
SCENES = 2
SMALL_GAUSSIANS = "model.scale_bias=-5.5"  # as they are in training, not as a new network draws them
# By words in the names of CUDA's kernels, and of PyTorch's operators on a CPU; the first that fits.
PARTS = {
    "attention": r"sdpa|fmha|flash|attention",
    "rasterizer": r"gsplat|rasteriz|radix|_Draw",
    "matrix products": r"gemm|nvjet|cutlass|cublas|xmma|::mm$|::addmm$|::bmm$",
    "norms": r"layer_?norm|GammaBeta",
    "optimizer": r"adam|multi_tensor|foreach",
    "copies": r"memcpy|memset|copy|CatArray|::cat$",
}
SPANS = ("Optimizer.", "ProfilerStep")  # over kernels that are counted by themselves
REFERENCE = {"attention": 76.0, "matrix products": 10.0, "copies": 3.0, "rasterizer": 3.0, "norms": 2.0}  # %


def step(settings: Settings) -> Iterator[Row]:
    """Optimizer steps as `train` makes them, with loader and transfer, on mice at 512 px."""
    settled = [f"data.root={settings.data}", "train.report_every=1", "train.accumulate=1", f"train.batch_size={SCENES}"]
    recipe = settings.recipe("gslrm_mouse", *settled, "optim.warmup_steps=1", SMALL_GAUSSIANS, *_precision(settings))
    count = 3 if settings.small else 8
    with tempfile.TemporaryDirectory() as folder:
        reports = train(recipe, Path(folder), device=settings.device)
        metrics = [report.metrics for report in itertools.islice(reports, count)]
        reports.close()
    times = [1e3 * one["time/step_seconds"] for one in metrics[2:]]
    peak = metrics[-1].get("system/peak_gpu_memory_gb")
    what = f"gslrm_mouse, {SCENES} scenes × 5 inputs at {recipe.data.image_size} px"
    known = {"reference": settings.full(1180.0), "reference_peak_gib": settings.full(12.6)}
    in_gib = None if peak is None else peak * 1e9 / GIB
    yield Row(what, statistics.median(times), "ms", len(times), max(times) - min(times), in_gib, **known)


def parts(settings: Settings) -> Iterator[Row]:
    """Of the device's time in a step: attention, matrix products, copies and so on; then a scene's validation."""
    recipe = settings.recipe("gslrm_mouse", f"data.root={settings.data}", SMALL_GAUSSIANS, *_precision(settings))
    stage, take = _step_of(settings, recipe, SCENES)
    whole = measured(settings, take)
    yield whole.row("a step on one batch, nothing loaded")
    for name, share in shares(settings, take).items():
        known = REFERENCE.get(name)
        yield Row(name, 100 * share, "% of the time", reference=None if known is None else settings.full(known))
    dataset = open_dataset(settings.data)
    with tempfile.TemporaryDirectory() as folder:
        score = partial(evaluate, stage.model, recipe, dataset, "val", Path(folder), settings.device, 1)
        yield measured(settings, score).row("validation, a scene")


def from_nothing(settings: Settings) -> Iterator[Row]:
    """The first steps of gslrm at its released size from random weights, whose Gaussians are as wide as they get."""
    for scenes, reference in ((1, 18.3), (2, 20.6)):
        recipe = settings.recipe("gslrm", *_precision(settings))
        what = f"gslrm from random weights, batch {scenes}, {recipe.data.num_views} views"
        asked = {"reference_peak_gib": settings.full(reference), "at_most_gib": settings.full(24.0)}
        yield or_out_of_memory(what, partial(_first_steps, settings, recipe, scenes, what, asked))


def drawing(settings: Settings) -> Iterator[Row]:
    """Drawing small Gaussians and its backward pass: as `render` does, and view by view under checkpoints."""
    recipe = settings.recipe("gslrm", SMALL_GAUSSIANS)
    config, _ = gslrm_parts(settings.recipe("gslrm", SMALL_GAUSSIANS, "model.num_layers=1"))
    batch = settings.batch(recipe, SCENES)
    torch.manual_seed(0)
    with torch.device(settings.device):
        model = GSLRM(config)
    with torch.no_grad():
        gaussians = model(batch.input_images, batch.input_cameras)
    leaves = [value.detach().requires_grad_() for value in vars(gaussians).values()]

    def run(draw: Callable[[Gaussians, Cameras], torch.Tensor]) -> None:
        images = draw(Gaussians(*leaves), batch.cameras)
        torch.autograd.grad((images - batch.images).square().mean(), leaves)

    at_once = measured(settings, partial(run, lambda gaussians, cameras: render(gaussians, cameras).images))
    yield at_once.row("as `render` draws them")
    by_view = measured(settings, partial(run, view_by_view))
    yield by_view.row("view by view, under checkpoints")
    ratio = at_once.median / by_view.median
    yield Row("`render` against view by view", ratio, "of its time", at_most=settings.full(1.05))


def view_by_view(gaussians: Gaussians, cameras: Cameras) -> torch.Tensor:
    """The images, each drawn by itself and drawn again in the backward pass."""

    def one(scene: int, view: int, *values: torch.Tensor) -> torch.Tensor:
        return render(Gaussians(*values)[scene], cameras[scene, view : view + 1]).images[0]

    scenes, views = cameras.batch_shape
    values = tuple(vars(gaussians).values())
    drawn = [
        checkpoint(partial(one, scene, view), *values, use_reentrant=False)
        for scene in range(scenes)
        for view in range(views)
    ]
    return torch.stack(drawn).unflatten(0, (scenes, views))


def shares(settings: Settings, work: Callable[[], object]) -> dict[str, float]:
    """Of the device's time, what each part takes, the largest first; `other` is what no name tells."""
    on = DeviceType.CUDA if settings.cuda else DeviceType.CPU
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if settings.cuda else [])]
    with profile(activities=activities) as found:
        work()
        settings.settle()
    taken = dict.fromkeys([*PARTS, "other"], 0.0)
    for event in found.key_averages():
        if event.device_type == on and not event.key.startswith(SPANS):
            spent = event.self_device_time_total if settings.cuda else event.self_cpu_time_total
            taken[part_of(event.key)] += spent
    total = sum(taken.values()) or 1.0
    return dict(sorted(((name, spent / total) for name, spent in taken.items()), key=lambda pair: -pair[1]))


def part_of(kernel: str) -> str:
    """The part that a kernel's name belongs to."""
    return next((name for name, words in PARTS.items() if re.search(words, kernel, re.IGNORECASE)), "other")


def _first_steps(settings: Settings, recipe: Recipe, scenes: int, what: str, asked: dict[str, float | None]) -> Row:
    _, take = _step_of(settings, recipe, scenes)
    return measured(settings, take).row(what, **asked)


def _step_of(settings: Settings, recipe: Recipe, scenes: int) -> tuple[GSLRMStage, Callable[[], None]]:
    """The stage, and a step of it on one batch that is on the device already."""
    torch.manual_seed(0)
    stage = GSLRMStage(recipe, torch.device(settings.device))
    optimizer = torch.optim.AdamW(stage.model.parameters(), lr=1e-6, fused=True)
    batch = settings.batch(recipe, scenes)
    return stage, partial(_take, stage, optimizer, batch)


def _take(stage: GSLRMStage, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    optimizer.zero_grad(set_to_none=True)
    with autocast(batch.images.device, stage.recipe.train.precision):
        terms = stage.losses(batch, AFTER_WARM_UP)
    weights = stage.weights(AFTER_WARM_UP)
    torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
    nn.utils.clip_grad_norm_(stage.model.parameters(), 100.0)
    optimizer.step()


def _precision(settings: Settings) -> tuple[str, ...]:
    return ("train.precision=fp32",) if settings.small else ("train.precision=bf16",)
