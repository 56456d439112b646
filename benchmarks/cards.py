"""The table of docs/gpu.md: what fits which card, by the memory estimate of preflight.

python -m benchmarks.reference --write        a test compares the page with what this would write
"""

from __future__ import annotations

from pathlib import Path

from pipeline.recipe import Recipe
from pipeline.recipes import load_recipe, override
from sweeps.preflight.footprint import memory_of

PAGE = Path(__file__).parents[1] / "docs/gpu.md"
BEGIN, END = "<!-- table: cards -->", "<!-- end -->"
GIB = 2**30
CARDS = {"24 GB": 23.5, "48 GB": 47.5, "80 GB": 79.0, "141 GB": 139.0}  # GiB that a process can use, about
CONTEXT, SLACK = 1.0, 1.1  # GiB that CUDA takes for itself; what fragments of memory and the estimate's error cost
LARGEST = 64  # scenes or objects of a batch that are tried
_BASE = {"model.base": "pipeckpts"}
_CASES: dict[str, list[dict[str, object]]] = {
    "gslrm": [{"model.checkpoint": mode} for mode in ("none", "attention", "layers")],
    "gslrm_mouse": [{"model.checkpoint": mode} for mode in ("none", "attention", "layers")],
    "mvdiffusion_mouse": [
        {"model.gradient_checkpointing": False},
        {"model.gradient_checkpointing": True},
        {"model.gradient_checkpointing": True, "model.ema_on_cpu": True},
        {"model.gradient_checkpointing": True, "model.lora_rank": 16},
    ],
}


def table() -> str:
    """As Markdown: a recipe and its setting, GiB with a batch of one, and the largest batch of each card."""
    lines = [["recipe", "setting", "GiB at batch 1", *CARDS], ["---"] * (3 + len(CARDS))]
    for name, settings in _CASES.items():
        for setting in settings:
            base = _BASE if name.startswith("mvdiffusion") else {}
            recipe = override(load_recipe(name), base | setting)
            words = ", ".join(f"`{path.removeprefix('model.')}: {_word(value)}`" for path, value in setting.items())
            fits = [_largest_batch(recipe, room) or "—" for room in CARDS.values()]
            lines.append([f"`{name}`", words, f"{_peak(recipe, 1):.1f}", *map(str, fits)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _largest_batch(recipe: Recipe, room: float) -> int:
    """Scenes or objects of a batch with which a step fits so many GiB; 0 if one does not."""
    fitting = [size for size in range(1, LARGEST + 1) if _peak(recipe, size) * SLACK + CONTEXT <= room]
    return max(fitting, default=0)


def _peak(recipe: Recipe, batch_size: int) -> float:
    return memory_of(override(recipe, {"train.batch_size": batch_size})).peak / GIB


def _word(value: object) -> str:
    return str(value).lower()
