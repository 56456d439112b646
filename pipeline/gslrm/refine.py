"""GS-LRM's Gaussians of one object, optimised to draw the views that they were made of.

A feed-forward network blurs what it was shown, a small one most. Some steps of the optimisation of 3D Gaussian
Splatting (Kerbl et al. 2023), from the network's Gaussians in place of points, bring back what the views show.
"""

from __future__ import annotations

import torch

from pipeline.data.batch import Batch
from pipeline.errors import DataError, NonFiniteError
from pipeline.gaussians import Gaussians
from pipeline.progress import Tell, silent, told
from pipeline.splatting.rendering import draw

LEAST_VIEWS = 2
# Adam's rates at the first step, of values as 3D Gaussian Splatting optimises them; they fall to 0 by a cosine. Other
# rates, or another loss, give other figures: they raise `metrics.DEFINITIONS` and the VERSION of sequences.
RATES = {"quats": 0.015, "log_scales": 0.03, "logits": 0.06, "sh": 0.03}
MEANS_RATE = 0.2  # of the median size of the Gaussians that can be seen, so that it fits any image size
_SEEN = 0.02  # opacity above which a Gaussian counts for that median
_EPSILON = 1e-15  # of Adam, as 3D Gaussian Splatting's: gradients of a mean over many pixels are below its usual 1e-8
_LEAST_OPACITY = 1e-6  # from where a logit is taken: of 0 it would be infinite


def refined(gaussians: Gaussians, batch: Batch, steps: int, tell: Tell = silent) -> Gaussians:
    """Gaussians [B, N] after `steps` of Adam on the mean absolute difference from the input views of `batch`, of the
    colours and, where there are masks, of the opacity; means in the same world units, none is added or taken away.

    The other views of the batch are not looked at. tell: hears of each step. Raises DataError for fewer than two input
    views, NonFiniteError and OversizedError as `render` does.
    """
    if not steps:
        return gaussians
    if batch.num_input_views < LEAST_VIEWS:
        raise DataError(
            f"{batch.scenes[0]}: --refine: expected two views or more, got one — leave --refine out: what "
            "one view does not show would get worse."
        )
    with torch.inference_mode(mode=False), torch.enable_grad():  # the first alone leaves a caller's no_grad as it is
        values = _values(gaussians)
        rates = _rates(gaussians)
        optimizer = torch.optim.Adam(
            [{"params": [value], "lr": rates[name]} for name, value in values.items()], eps=_EPSILON
        )
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in told(range(1, steps + 1), "refine", steps, tell):
            optimizer.zero_grad()
            difference = _difference(_gaussians(values), batch)
            if not bool(difference.isfinite()):  # whose gradient would be 0, so that the steps did nothing
                raise NonFiniteError(
                    f"{batch.scenes[0]}: expected numbers in refining, got none at step {step} — leave --refine out."
                )
            difference.backward()
            optimizer.step()
            falling.step()
    return _gaussians(values).detach()


def _values(gaussians: Gaussians) -> dict[str, torch.Tensor]:
    """What is optimised: leaves of a graph, without bounds."""
    opacities = gaussians.opacities.clamp(_LEAST_OPACITY, 1 - _LEAST_OPACITY)
    values = {
        "means": gaussians.means,
        "quats": gaussians.quats,
        "log_scales": gaussians.scales.log(),
        "logits": opacities.logit(),
        "sh": gaussians.sh,
    }
    return {name: value.detach().clone().requires_grad_() for name, value in values.items()}


def _gaussians(values: dict[str, torch.Tensor]) -> Gaussians:
    return Gaussians(
        values["means"], values["quats"], values["log_scales"].exp(), values["logits"].sigmoid(), values["sh"]
    )


def _rates(gaussians: Gaussians) -> dict[str, float]:
    seen = gaussians.scales[gaussians.opacities > _SEEN]
    return RATES | {"means": MEANS_RATE * float((seen if len(seen) else gaussians.scales).median())}


def _difference(gaussians: Gaussians, batch: Batch) -> torch.Tensor:
    """Mean absolute difference from the input views: colours, and the soft masks where there are any."""
    drawn = draw(gaussians, batch.input_cameras)
    difference = (drawn.images - batch.input_images).abs().mean()
    if batch.masks is not None:
        difference = difference + (drawn.alphas - batch.masks[:, : batch.num_input_views]).abs().mean()
    return difference
