"""Which two configurations of a space are tried before it is swept."""

import pytest
import yaml

from pipeline.recipes import load_recipe, override
from sweeps.preflight.dry_run import first_of, largest_of
from sweeps.preflight.footprint import footprint
from sweeps.space.space import load_space


@pytest.fixture
def make(tmp_path):
    def make(space, **changes):
        path = tmp_path / "some.yaml"
        path.write_text(yaml.safe_dump({"recipe": "gslrm_tiny", "space": space, **changes}, sort_keys=False))
        return load_space(path)

    return make


def test_the_first_configuration_is_the_first_value_of_each_parameter(make):
    space = make({"optim.lr": {"float": [1.0e-5, 1.0e-3]}, "data.num_input_views": {"choice": [3, 5]}})
    assert first_of(space) == {"optim.lr": 1.0e-5, "data.num_input_views": 3}


@pytest.mark.parametrize(
    ("path", "values", "largest"),
    [
        ("data.num_input_views", [5, 3], 5),
        ("data.num_views", [6, 5], 6),
        ("train.batch_size", [2, 1], 2),
        ("model.num_layers", [4, 2], 4),
        ("model.checkpoint", ["none", "attention", "layers"], "none"),
        ("model.checkpoint", ["layers", "attention"], "attention"),
        ("model.dim", [192, 64], 192),
        ("loss.lpips", [0.5, 0.0], 0.5),
        ("optim.freeze.num_layers", [0, 2], 0),
        ("train.precision", ["fp32", "bf16"], "fp32"),
    ],
)
def test_the_largest_configuration_takes_the_value_that_needs_most_memory(make, path, values, largest):
    assert largest_of(make({path: {"choice": values}})) == {path: largest}


def test_where_values_cost_the_same_the_largest_configuration_takes_the_other_end(make):
    space = make({"optim.lr": {"float": [1.0e-5, 1.0e-3]}, "train.seed": {"choice": [0, 1, 2]}})
    assert largest_of(space) == {"optim.lr": 1.0e-3, "train.seed": 2}


def test_a_value_that_only_fits_beside_another_large_one_is_found(make):
    space = make({"data.num_input_views": {"choice": [2, 6]}, "data.num_views": {"choice": [5, 6]}})
    assert first_of(space) == {"data.num_input_views": 2, "data.num_views": 5}
    assert largest_of(space) == {"data.num_input_views": 6, "data.num_views": 6}


def test_a_parameter_whose_condition_does_not_hold_has_no_value(make):
    space = make(
        {
            "loss.masked": {"choice": [True, False]},
            "loss.background": {"float": [0.1, 1.0], "when": {"loss.masked": True}},
        }
    )
    assert first_of(space) == {"loss.masked": True, "loss.background": 0.1}
    assert largest_of(space) == {"loss.masked": False}


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ({"model.attention": "off"}, {"model.attention": "sparse"}),
        ({"model.attention": "sparse"}, {"model.attention": "dense"}),
        ({"model.lora_rank": 16}, {"model.lora_rank": 64}),
        ({"model.lora_rank": 64}, {"model.lora_rank": 0}),
        ({"model.trainable": ("attn1",)}, {"model.trainable": ()}),
        ({"model.gradient_checkpointing": True}, {"model.gradient_checkpointing": False}),
        ({"model.ema_on_cpu": True}, {"model.ema_on_cpu": False}),
        ({"data.image_size": 64}, {"data.image_size": 128}),
        ({"model.sampling.guidance": 1.0}, {"model.sampling.guidance": 3.0}),
    ],
)
def test_what_a_multi_view_model_needs_grows_with_what_it_trains_and_attends_to(smaller, larger):
    recipe = load_recipe("mvdiffusion_tiny")
    assert footprint(override(recipe, smaller)) < footprint(override(recipe, larger))
