"""Recipes: how files layer, what is refused and in which words, what a fingerprint counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import config
from pipeline.errors import RecipeError
from pipeline.recipe import LOCAL_PATHS, Recipe
from pipeline.recipes import FOLDER, check_artefacts, load_recipe, override, recipe_of

RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SMALL = """
model: {dim: 64, head_dim: 32, num_layers: 4}
data: {image_size: 64, num_views: 6, num_input_views: 4}
optim: {lr: 0.001, warmup_steps: 20}
train: {max_steps: 300, batch_size: 1}
"""
BASE = "base: small\n"


def load(folder: Path, text: str, *overrides: str) -> Recipe:
    """The recipe `my.yaml` with that text; beside it lies `small.yaml`, whose values no tuning changes."""
    (folder / "small.yaml").write_text(SMALL)
    (folder / "my.yaml").write_text(text)
    return load_recipe(folder / "my.yaml", overrides)


def refusal(folder: Path, text: str, *overrides: str) -> str:
    """The message, with the folder left out."""
    with pytest.raises(RecipeError) as caught:
        load(folder, text, *overrides)
    return str(caught.value).replace(f"{folder}/", "")


def with_value(part: Any, path: str, value: object) -> Any:
    """A dataclass with the field at a dotted path replaced, unchecked."""
    name, _, rest = path.partition(".")
    return replace(part, **{name: with_value(getattr(part, name), rest, value) if rest else value})


# ---------------------------------------------------------------- layering


def test_an_overlay_changes_only_what_it_says(tmp_path: Path) -> None:
    base, overlay = load(tmp_path, BASE).params, load(tmp_path, BASE + "optim: {lr: 0.5}\n").params
    assert {key for key in base if base[key] != overlay[key]} == {"optim.lr"}


def test_a_list_replaces_the_list_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(BASE + "data: {brightness: [0.5, 1.5]}\n")
    assert load(tmp_path, "base: parent\ndata: {brightness: [0.9, 1.1]}\n").data.brightness == (0.9, 1.1)


def test_a_base_is_looked_for_beside_the_file_before_the_packages_recipes(tmp_path: Path) -> None:
    (tmp_path / "gslrm.yaml").write_text(BASE + "optim: {lr: 0.125}\n")
    assert load(tmp_path, "base: gslrm\n").optim.lr == 0.125


def test_overrides_win_over_the_file_and_the_last_one_over_the_others(tmp_path: Path) -> None:
    assert load(tmp_path, BASE + "optim: {lr: 0.5}\n", "optim.lr=0.25", "optim.lr=0.125").optim.lr == 0.125


def test_a_dotted_key_is_the_nested_one(tmp_path: Path) -> None:
    assert load(tmp_path, BASE + "optim.freeze.num_layers: 2\n").optim.freeze.num_layers == 2


def test_dotted_and_nested_keys_of_one_file_are_merged_at_every_depth(tmp_path: Path) -> None:
    text = BASE + "optim.freeze.num_layers: 2\noptim: {freeze: {patch_embedder: true}}\n"
    freeze = load(tmp_path, text).optim.freeze
    assert (freeze.num_layers, freeze.patch_embedder) == (2, True)


def test_a_recipe_is_named_by_its_file(tmp_path: Path) -> None:
    assert load(tmp_path, BASE).name == "my"


@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        ("optim.lr=2.0e-4", "optim.lr", 2e-4),
        (" optim.lr =0.5", "optim.lr", 0.5),
        ("optim.betas=[0.5, 0.6]", "optim.betas", [0.5, 0.6]),
        ("loss.masked=true", "loss.masked", True),
        ("loss={ssim: 0.5}", "loss.ssim", 0.5),
        ("data.root=a=b", "data.root", "a=b"),
        ("data.root=null", "data.root", None),
        ("optim.lr=1e-5", "optim.lr", 1e-5),
        ("train.max_steps=1e3", "train.max_steps", 1000),
        ("optim.betas=[5e-1, 9e-1]", "optim.betas", [0.5, 0.9]),
        ("data.root=2024-01-01", "data.root", "2024-01-01"),
        ("data.root=2024", "data.root", "2024"),
        ("data.root=1e3", "data.root", "1e3"),
        ("data.root=on", "data.root", "on"),
        ("data.root=my #1 mouse", "data.root", "my #1 mouse"),
    ],
)
def test_an_option_is_a_dotted_path_and_a_yaml_value(option: str, path: str, value: object) -> None:
    assert load_recipe("gslrm_tiny", [option]).params[path] == value


def test_a_word_of_an_option_is_the_text_that_the_recipe_takes() -> None:
    assert load_recipe("mvdiffusion_tiny", ["model.attention=off"]).params["model.attention"] == "off"
    assert load_recipe("mvdiffusion_tiny", ["model={attention: off}"]).params["model.attention"] == "off"


@pytest.mark.parametrize("text", ["2024", "0100", "1:30", "my #1", "a: b", "null", "[x", "'x'", "생쥐", "a\\b"])
def test_a_text_override_is_that_text_whatever_yaml_reads_in_it(text: str) -> None:
    assert load_recipe("gslrm_tiny", [config.text_override("data.root", text)]).data.root == text


@pytest.mark.parametrize("name", RECIPES)
def test_every_committed_recipe_loads(name: str) -> None:
    assert load_recipe(name).name == name


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_made_again_of_its_params_kept_as_json(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe_of(name, json.loads(json.dumps(recipe.params))) == recipe


def test_params_that_make_no_recipe_are_refused() -> None:
    params = load_recipe("gslrm_tiny").params
    with pytest.raises(RecipeError, match=r"^old: unknown key optim\.rate"):
        recipe_of("old", params | {"optim.rate": 1.0})
    with pytest.raises(RecipeError, match=r"^old: optim.warmup_steps: expected less than train.max_steps"):
        recipe_of("old", params | {"optim.warmup_steps": params["train.max_steps"]})


def test_flat_values_are_nested_again() -> None:
    nested = {"a": {"b": {"c": 1}, "d": [2]}, "e": None}
    assert config.flatten(nested) == {"a.b.c": 1, "a.d": [2], "e": None}
    assert config.unflatten(config.flatten(nested), "here") == nested


def test_a_key_that_is_a_value_and_a_mapping_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^here: a\.b: expected one meaning"):
        config.unflatten({"a": 1, "a.b": 2}, "here")


@pytest.mark.parametrize("name", RECIPES)
def test_no_overlay_restates_what_its_base_says(name: str) -> None:
    own = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    base = load_recipe(own.pop("base")).params if "base" in own else {}
    assert [key for key, value in config.flatten(own).items() if key in base and base[key] == value] == []


def test_the_released_recipe_is_facelifts_optimizer_and_schedule() -> None:
    optim, train = load_recipe("gslrm").optim, load_recipe("gslrm").train
    assert (optim.betas, optim.weight_decay, optim.warmup_steps, optim.skip_factor, train.precision) == (
        (0.9, 0.95),
        0.05,
        500,
        20.0,
        "bf16",
    )


# ---------------------------------------------------------------- refusals, word for word

REFUSALS = {
    "optim.foo: 1": "my.yaml: unknown key optim.foo — optim has lr, betas, weight_decay, decay, warmup_steps, "
    "schedule, grad_clip_norm, skip_factor, max_nonfinite_updates, freeze; name one of them, or remove the key.",
    "train.lr: 1": "my.yaml: unknown key train.lr — did you mean optim.lr?",
    "optim: {lr: 1.0, lr: 2.0}": "my.yaml:2: optim.lr: expected one value, got another in line 2 — keep one of the "
    "two.",
    "optim: {lr: 1.0}\noptim: {lr: 2.0}": "my.yaml:3: optim: expected one value, got another in line 2 — keep one of "
    "the two.",
    "optim: {lr: 1.0}\noptim.lr: 2.0": "my.yaml:3: optim.lr: expected one value, got another in line 2 — keep one of "
    "the two.",
    "data: {normalise: off}": "my.yaml: data.normalise: expected 'object_centred', 'rig_affine', 'zoom_exact', "
    "'facelift_rig' or 'pixel_based', got False — write one of these.",
    "data: {root: 2024}": "my.yaml: data.root: expected a valid string, got 2024 — write '2024', with the quotes.",
    "data: {root: no}": "my.yaml: data.root: expected a valid string, got False — YAML reads no as false: write 'no', "
    "with the quotes.",
    "train: {max_steps: 08}": "my.yaml: train.max_steps: expected a valid integer, got '08' — YAML reads 08 as text: "
    "write 8.",
    "train: {seed: -1}": "my.yaml: train.seed: expected greater than or equal to 0, got -1 — raise it.",
    "train: {seed: 4294967296}": "my.yaml: train.seed: expected less than 4294967296, got 4294967296 — lower it.",
    "model: {depth_bias: .nan}": "my.yaml: model.depth_bias: expected a finite number, got nan — write a finite one.",
    "optim: {betas: [0.9, 0.9, 0.9]}": "my.yaml: optim.betas: expected at most 2 items after validation, not 3, got "
    "[0.9, 0.9, 0.9] — shorten the list.",
    "loss: 3": "my.yaml: loss: expected a mapping of keys, got 3 — indent its keys below it.",
    "optim: {lrr: 1.0}": "my.yaml: unknown key optim.lrr — did you mean optim.lr?",
    "optimm: {lr: 1.0}": "my.yaml: unknown key optimm — did you mean optim?",
    "zzz: 1": "my.yaml: unknown key zzz — the file has model, data, loss, optim, train; name one of them, or "
    "remove the key.",
    "name: x": "my.yaml: unknown key name — a recipe is named by its file; remove it.",
    "optim: {lr: 1e-4}": "my.yaml: optim.lr: expected a valid number, got '1e-4' — YAML reads 1e-4 as text, "
    "because a number with an exponent needs a dot and a sign: write 1.0e-4.",
    "train: {max_steps: 1e3}": "my.yaml: train.max_steps: expected a valid integer, got '1e3' — "
    "YAML reads 1e3 as text: write 1000.",
    "optim: {lr: fast}": "my.yaml: optim.lr: expected a valid number, got 'fast' — write a number.",
    "optim: {lr: true}": "my.yaml: optim.lr: expected a valid number, got True — write a number.",
    "optim: {lr: -1.0}": "my.yaml: optim.lr: expected greater than 0, got -1.0 — raise it.",
    "optim: {lr: .nan}": "my.yaml: optim.lr: expected a finite number, got nan — write a finite one.",
    "optim: {lr: 2020-01-01}": "my.yaml:2: expected a number or text, got 2020-01-01, which YAML reads as a "
    "date — quote it: '2020-01-01'.",
    "train: {max_steps: true}": "my.yaml: train.max_steps: expected a valid integer, got True — write a whole number.",
    "train: {max_steps: 2.5}": "my.yaml: train.max_steps: expected a valid integer, got 2.5 — write a whole number.",
    "train: {max_steps: 0}": "my.yaml: train.max_steps: expected greater than 0, got 0 — raise it.",
    "loss: {masked: 1}": "my.yaml: loss.masked: expected a valid boolean, got 1 — write true or false.",
    "optim: {betas: [0.9, 1.5]}": "my.yaml: optim.betas.1: expected less than or equal to 1, got 1.5 — lower it.",
    "optim: {betas: [0.9]}": "my.yaml: optim.betas.1: expected a value, got none — add it.",
    "optim: {betas: 0.9}": "my.yaml: optim.betas: expected a valid array, got 0.9 — write a list, such as [1, 2].",
    "train: {precision: fp8}": "my.yaml: train.precision: expected 'fp32', 'bf16' or 'fp16', got 'fp8' — "
    "write one of these.",
    "optim: 5": "my.yaml: optim: expected a mapping of keys, got 5 — indent its keys below it.",
    "optim:": "my.yaml: optim: expected a mapping of keys, got None — indent its keys below it.",
    "optim: 5\noptim.lr: 0.5": "my.yaml:3: optim.lr: expected one value, got another by optim in line 2 — keep one of "
    "the two.",
    "data: {image_size: 60}": "my.yaml: data.image_size: expected a multiple of model.patch_size 8, got 60 — "
    "change one (data.image_size: my.yaml, line 2; model.patch_size: its default).",
    "model: {dim: 100}": "my.yaml: model.dim: expected a multiple of model.head_dim 32, got 100 — change one "
    "(model.dim: my.yaml, line 2; model.head_dim: small.yaml, line 2).",
    "data: {num_input_views: 7}": "my.yaml: data.num_input_views: expected at most data.num_views 6, got 7 — lower it "
    "(data.num_input_views: my.yaml, line 2; data.num_views: small.yaml, line 3).",
    "data: {num_input_views: 3, min_input_views: 4}": "my.yaml: data.min_input_views: expected at most "
    "data.num_input_views 3, got 4 — lower it.",
    "optim: {warmup_steps: 300}": "my.yaml: optim.warmup_steps: expected less than train.max_steps 300, got 300 — "
    "lower it (optim.warmup_steps: my.yaml, line 2; train.max_steps: small.yaml, line 5).",
    "train: {validate_every: 50, checkpoint_every: 70}": "my.yaml: train.checkpoint_every: expected a checkpoint at a "
    "validation before train.max_steps 300, got one every 70 steps with train.validate_every 50, which meet at 350 — "
    "make one a multiple of the other (train.checkpoint_every: my.yaml, line 2; train.max_steps: small.yaml, line 5; "
    "train.validate_every: my.yaml, line 2).",
    "optim: {freeze: {num_layers: 5}}": "my.yaml: optim.freeze.num_layers: expected at most model.num_layers 4, "
    "got 5 — lower it (optim.freeze.num_layers: my.yaml, line 2; model.num_layers: small.yaml, line 2).",
    "data: {contrast: [1.1, 0.9]}": "my.yaml: data.contrast: expected [low, high], got [1.1, 0.9] — swap them.",
    "loss: {mse: 0.0}": "my.yaml: loss: expected a term with a weight above 0, got none — set loss.mse.",
    "loss: {pixelalign: 0.1}": "my.yaml: loss.pixelalign: expected 0 with model.pixel_aligned, whose means lie on "
    "their rays already — set one of them off (loss.pixelalign: my.yaml, line 2; model.pixel_aligned: its default).",
}


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_names_file_key_expectation_and_remedy(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, f"{BASE}{text}\n") == REFUSALS[text]


OPTION_REFUSALS = {
    "optim.lr": "--set optim.lr: expected key=value, such as optim.lr=1.0e-4 — add the value.",
    "=3": "--set =3: expected key=value, such as optim.lr=1.0e-4 — add the value.",
    "optim.lr=": "--set: optim.lr: expected a valid number, got '' — write a number.",
    "optim.lrr=1.0": "--set: unknown key optim.lrr — did you mean optim.lr?",
    "optim.lr={": "--set optim.lr={: expected YAML, got a fault while parsing a flow node: expected the node content, "
    "but found '<stream end>' — correct it, or quote the text.",
    "train={seed: 1, seed: 2}": "--set train={seed: 1, seed: 2}: seed: expected one value, got another before — keep "
    "one of the two.",
}


@pytest.mark.parametrize("option", OPTION_REFUSALS)
def test_a_refused_option_says_that_it_was_an_option(option: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("gslrm_tiny", [option])
    assert str(caught.value) == OPTION_REFUSALS[option]


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path, SMALL.replace(", num_layers: 4", ""))
        == "my.yaml: model.num_layers: expected a value, got none — add it."
    )


def test_a_value_of_the_base_is_blamed_on_the_base(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(BASE + "optim: {lr: fast}\n")
    assert refusal(tmp_path, "base: parent\nloss: {ssim: 0.5}\n").startswith("parent.yaml: optim.lr:")


def test_a_word_that_yaml_reads_as_something_else_is_to_be_quoted(tmp_path: Path) -> None:
    message = refusal(tmp_path, "base: mvdiffusion_tiny\nmodel: {attention: off}\n")
    assert message == (
        "my.yaml: model.attention: expected 'sparse', 'dense' or 'off', got False — YAML reads off as false: write "
        "'off', with the quotes."
    )


def test_settings_that_do_not_go_together_are_named_with_who_sets_each(tmp_path: Path) -> None:
    assert refusal(tmp_path, BASE + "\noptim.warmup_steps: 30\n", "train.max_steps=4") == (
        "my.yaml: optim.warmup_steps: expected less than train.max_steps 4, got 30 — lower it "
        "(optim.warmup_steps: my.yaml, line 3; train.max_steps: --set)."
    )


def test_a_missing_base_suggests_a_near_name(tmp_path: Path) -> None:
    message = refusal(tmp_path, "base: gslrm_tinny\n")
    assert message == f"gslrm_tinny: expected a YAML file or one of {', '.join(RECIPES)} — did you mean gslrm_tiny?"


def test_a_circle_of_bases_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("base: my\n")
    expected = "my.yaml: expected a chain of bases, got a circle at my.yaml — remove one `base`."
    assert refusal(tmp_path, "base: other\n") == expected


def test_bad_yaml_is_one_line_with_its_place(tmp_path: Path) -> None:
    assert refusal(tmp_path, BASE + "optim: {lr: 1.0\n") == (
        "my.yaml:3: expected YAML, got a fault while parsing a flow mapping of line 2: expected ',' or '}', but got "
        "'<stream end>' — correct it, or quote the text."
    )


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    expected = "my.yaml: expected `key: value` lines, got list — write a mapping."
    assert refusal(tmp_path, "- gslrm\n") == expected


def test_a_recipe_without_data_says_how_to_give_it() -> None:
    with pytest.raises(RecipeError) as caught:
        check_artefacts(load_recipe("gslrm_tiny"))
    expected = "gslrm_tiny: data.root: expected a dataset folder, got none — add --set data.root=PATH."
    assert str(caught.value) == expected


def test_a_perceptual_loss_without_its_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        check_artefacts(load_recipe("gslrm", [f"data.root={tmp_path}"]))
    assert str(caught.value) == (
        "gslrm: loss.perceptual_weights: expected the VGG19 weights that loss.perceptual 0.5 needs, got none — name "
        "imagenet-vgg-verydeep-19.mat (`mouselift weights fetch vgg19`) or a FaceLift checkpoint, or set "
        "loss.perceptual=0.0."
    )


# ---------------------------------------------------------------- override and fingerprint


def test_override_decodes_as_the_yaml_would() -> None:
    recipe = load_recipe("gslrm_tiny")
    assert override(recipe, {"optim.betas": (0.5, 0.6), "loss.masked": True}) == load_recipe(
        "gslrm_tiny", ["optim.betas=[0.5, 0.6]", "loss.masked=true"]
    )


def test_override_refuses_an_unknown_path_with_a_suggestion() -> None:
    with pytest.raises(RecipeError, match=r"unknown key optim\.lrr — did you mean optim\.lr\?"):
        override(load_recipe("gslrm_tiny"), {"optim.lrr": 1.0})


def test_override_checks_across_fields() -> None:
    with pytest.raises(RecipeError, match=r"expected a multiple of model\.patch_size 8, got 60"):
        override(load_recipe("gslrm_tiny"), {"data.image_size": 60})


def test_recipes_of_equal_values_have_one_fingerprint(tmp_path: Path) -> None:
    same = load(tmp_path, BASE + "optim: {lr: 1.0e-3}\nloss: {mse: 1}\n")
    assert same.fingerprint == load(tmp_path, BASE).fingerprint


@pytest.mark.parametrize("path", sorted(set(load_recipe("gslrm_tiny").params) - {*LOCAL_PATHS, "model.kind"}))
def test_every_counted_field_changes_the_fingerprint(path: str) -> None:
    recipe = load_recipe("gslrm_tiny")
    assert with_value(recipe, path, "another").fingerprint != recipe.fingerprint


def test_the_fingerprint_ignores_name_and_folders(tmp_path: Path) -> None:
    elsewhere = load(
        tmp_path, BASE, f"data.root={tmp_path}", "train.init_from=there.pt", "loss.perceptual_weights=vgg.mat"
    )
    assert elsewhere.fingerprint == load_recipe(tmp_path / "small.yaml").fingerprint


def test_only_what_makes_rays_of_cameras_asks_for_true_ones() -> None:
    assert not load_recipe("gslrm_tiny").allows_inconsistent_geometry
    assert load_recipe("gslrm_tiny", ["data.allow_inconsistent_geometry=true"]).allows_inconsistent_geometry
    assert load_recipe("mvdiffusion_tiny").allows_inconsistent_geometry
