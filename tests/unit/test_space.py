"""Search spaces: what loads, what each part means, and every refusal word for word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline import config
from sweeps.errors import SpaceError
from sweeps.space.distributions import Choice, FloatRange, IntRange
from sweeps.space.space import FOLDER, load_space, space_of
from tests.support.spaces import space_with

PLAIN = """
recipe: gslrm_tiny
fixed: {train.max_steps: 100}
space:
  optim.lr: {float: [1.0e-4, 1.0e-3], log: true}
  loss.masked: {choice: [true, false]}
  loss.background: {float: [0.0, 0.5], when: {loss.masked: true}}
objective: {metric: val/psnr_fg, mode: max}
scheduler: {kind: asha, grace_steps: 20}
trials: {count: 4, concurrent: 2}
gates: {test/mask_iou: ">= 0.8"}
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str = PLAIN, **parts: object) -> Path:
        values = yaml.safe_load(text) | parts
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return path

    return write


def refusal(path: Path | str, *overrides: str) -> str:
    with pytest.raises(SpaceError) as error:
        load_space(path, overrides)
    message = str(error.value)
    assert "\n" not in message
    return message.replace(f"{Path(path).parent}/", "")


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_committed_space_loads(name):
    space = load_space(name)
    assert space.name == name
    assert space.space


def test_the_demo_has_at_least_eight_trials_over_the_settings_it_promises():
    space = load_space("gslrm_tiny")
    assert space.trials.count >= 8
    assert {"optim.lr", "data.num_input_views", "loss.masked", "loss.background"} <= space.space.keys()


def test_a_space_reads_as_its_yaml_says(write):
    space = load_space(write())
    assert space.space == {
        "optim.lr": FloatRange(ends=(1e-4, 1e-3), log=True),
        "loss.masked": Choice(ends=(True, False)),
        "loss.background": FloatRange(ends=(0.0, 0.5), when={"loss.masked": (True,)}),
    }
    assert space.base.train.max_steps == 100


def test_what_a_space_leaves_out_makes_a_sweep_of_one():
    space = space_with(name="one", recipe="gslrm_tiny")
    assert (space.trials.count, space.scheduler.kind, space.trials.cpus) == (1, "none", None)


def test_overrides_reach_into_ranges_and_fixed_values(write):
    overrides = ["space.optim.lr.float=[1.0e-5, 1.0e-4]", "fixed.train.max_steps=50", "trials.count=7"]
    space = load_space(write(), overrides)
    assert space.space["optim.lr"] == FloatRange(ends=(1e-5, 1e-4), log=True)
    assert (space.fixed, space.trials.count) == ({"train.max_steps": 50}, 7)


def test_nested_and_dotted_keys_are_the_same_space(write):
    nested = {"optim": {"lr": {"float": [1e-4, 1e-3]}}, "loss": {"alpha": {"choice": [0.0, 0.5]}}}
    dotted = {"optim.lr": {"float": [1e-4, 1e-3]}, "loss.alpha": {"choice": [0.0, 0.5]}}
    assert load_space(write(space=nested)) == load_space(write(space=dotted))


def test_the_plain_form_written_as_yaml_loads_as_the_same_space(write):
    space = load_space(write())
    assert load_space(write(yaml.safe_dump(space.as_plain()))) == space


def test_conditions_are_asked_after_what_they_ask_about(write):
    space = {
        "loss.alpha": {"float": [0.0, 0.5], "when": {"loss.background": 0.1}},
        "loss.background": {"float": [0.0, 0.5], "step": 0.1, "when": {"loss.masked": [True]}},
        "loss.masked": {"choice": [True, False]},
    }
    assert load_space(write(space=space)).order == ("loss.masked", "loss.background", "loss.alpha")


def test_the_ends_of_a_conditional_parameter_come_with_its_conditions(write):
    extremes = list(load_space(write()).extremes())
    assert {"loss.masked": True, "loss.background": 0.5} in extremes
    assert len(extremes) == 2 + 2 + 2


def test_where_the_normalisation_is_searched_no_check_is_made_on_the_data_as_it_lies(write):
    """The source may be in millimetres: no trial trains on it, so no end of the space is tried on it."""
    ranges = {"data.normalise": {"choice": ["zoom_exact", "pixel_based"]}, "optim.lr": {"float": [1.0e-4, 1.0e-3]}}
    space = load_space(write(space=ranges))
    assert space.base.data.normalise is None
    assert space.standing_recipe().data.normalise == "zoom_exact"
    assert [params["data.normalise"] for params in space.extremes()] == ["zoom_exact", "pixel_based"] + [
        "zoom_exact"
    ] * 2


def test_points_count_both_ends():
    assert FloatRange(ends=(0.0, 0.3), step=0.1).points == (0.0, 0.1, 0.2, 0.3)
    assert IntRange(ends=(2, 8), step=3).points == (2, 5, 8)
    assert FloatRange(ends=(0.0, 0.3)).points is None


def test_the_fingerprint_changes_with_ranges_and_recipe_but_not_with_the_number_of_trials(write):
    prints = [
        load_space(write(), overrides).fingerprint
        for overrides in ([], ["trials.count=9"], ["fixed.train.max_steps=99"], ["space.optim.lr.log=false"])
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_the_fingerprint_of_a_committed_space_is_what_it_was():
    assert load_space("gslrm_losses").fingerprint == "fa32ab8803e2"
    assert load_space("gslrm_normalise").fingerprint == "cb6dd9a19971"


def counted(monkeypatch, module, name):
    """The first argument of each call of a function of a module from now on."""
    calls, function = [], getattr(module, name)

    def count(first, *others):
        calls.append(first)
        return function(first, *others)

    monkeypatch.setattr(module, name, count)
    return calls


def test_a_space_is_read_once_and_its_recipe_once(monkeypatch):
    read, decoded = counted(monkeypatch, config, "_read_yaml"), counted(monkeypatch, config, "decode")
    space = load_space("gslrm_losses")
    assert [path.stem for path in read] == ["gslrm_losses", "gslrm_mouse", "gslrm"]  # a recipe's base is a file, too
    extremes = len(list(space.extremes()))
    assert len(decoded) <= extremes + len(space.space) + 3  # each range, the space, its recipe, its fixed values
    read.clear()
    _ = space.located().standing_recipe(), space.fingerprint, space.as_plain()
    assert read == []


def test_what_is_fixed_later_is_fixed_in_the_recipe_too(write):
    space = load_space(write()).with_fixed({"optim.grad_clip_norm": 3.0})
    assert space.fixed["optim.grad_clip_norm"] == space.base.optim.grad_clip_norm == 3.0
    assert space.fixed["train.max_steps"] == space.base.train.max_steps == 100


def test_the_recipes_own_file_is_the_choice_that_names_it(write):
    """A choice is as it was written, and the recipe's value is the folder that it stands for."""
    starts = {"train.init_from": {"choice": [None, "base:gslrm_small"]}}
    space = load_space(write(recipe="gslrm_small", space=starts, enqueue=[{}], trials={"count": 2}))
    assert space.enqueued == [{"train.init_from": "base:gslrm_small"}]


def test_what_is_searched_cannot_be_fixed_later(write):
    space = load_space(write())
    with pytest.raises(SpaceError, match=r"mine: optim\.lr: expected it once, got it fixed and in the space"):
        space.with_fixed({"optim.lr": 2e-4})


def test_local_paths_are_made_absolute_in_what_is_fixed_and_in_the_recipe(write):
    space = load_space(write(), ["fixed.data.root=mice"]).located()
    assert space.fixed["data.root"] == space.base.data.root == str(Path("mice").resolve())


def test_a_space_comes_back_from_its_plain_form_and_its_recipe_and_reads_no_file(write, monkeypatch):
    space = load_space(write()).located()
    plain = json.loads(json.dumps(space.as_plain()))
    assert {"name", "base"}.isdisjoint(plain)
    read = counted(monkeypatch, config, "_read_yaml")
    assert space_of(plain, "mine", space.base) == space
    assert read == []


LR = "mine.yaml: space.optim.lr"
MASKED = {"loss.masked": {"choice": [True, False]}, "loss.ssim": {"float": [0.0, 0.5], "when": {"loss.masked": True}}}
REFUSALS = {
    "a setting to try first of an unknown path": (
        {"enqueue": [{}, {"optim.lrr": 1e-4}]},
        "mine.yaml: enqueue.1.optim.lrr: expected a path of this space, got another — did you mean optim.lr?",
    ),
    "a setting to try first outside its range": (
        {"enqueue": [{"optim.lr": 1.0}]},
        "mine.yaml: enqueue.0.optim.lr: expected a number from 0.0001 to 0.001, got 1.0 — change it, or the range.",
    ),
    "a setting to try first where the recipe's own value is outside the range": (
        {"enqueue": [{}], "fixed": {"optim.weight_decay": 0.1}, "space": {"optim.lr": {"float": [1e-5, 1e-4]}}},
        "mine.yaml: enqueue.0.optim.lr: expected a number from 1e-05 to 0.0001, got 0.0005, the recipe's own — "
        "name one here, or widen the range.",
    ),
    "a setting to try first that YAML reads as text": (
        {"enqueue": [{"optim.lr": "2e-4"}]},
        "mine.yaml: enqueue.0.optim.lr: expected a number from 0.0001 to 0.001, got 2e-4 — YAML reads 2e-4 as text, "
        "because a number with an exponent needs a dot and a sign: write 2.0e-4.",
    ),
    "a setting to try first of what is fixed": (
        {"enqueue": [{"train.max_steps": 9}], "fixed": {"train.max_steps": 300}},
        "mine.yaml: enqueue.0.train.max_steps: expected it once, got it in fixed too (300) — drop one.",
    ),
    "a setting to try first whose condition does not hold": (
        {"enqueue": [{"loss.masked": False, "loss.ssim": 0.1}], "space": MASKED},
        "mine.yaml: enqueue.0.loss.ssim: expected it only where loss.masked is true — name that too, or leave this "
        "out.",
    ),
    "more settings to try first than trials": (
        {"enqueue": [{}, {}, {}], "trials": {"count": 2}},
        "mine.yaml: enqueue: expected at most trials.count 2 settings, got 3 — raise it, or leave some out.",
    ),
    "a setting to try first that names a part and no value": (
        {"enqueue": [{"optim": {}}]},
        "mine.yaml: enqueue.0.optim: expected a number, text, true, false or null, got {} — write one of these.",
    ),
    "a setting to try first that is none": (
        {"enqueue": [5]},
        "mine.yaml: enqueue.0: expected an object, got 5 — indent its keys below it.",
    ),
    "a path that the recipe lacks": (
        {"space": {"optim.lrr": {"float": [1e-4, 1e-3]}}},
        "mine.yaml: space.optim.lrr: expected a path of recipe gslrm_tiny, got an unknown one — did you mean optim.lr?",
    ),
    "a fixed path that the recipe lacks": (
        {"fixed": {"train.max_step": 4}},
        "mine.yaml: fixed: gslrm_tiny with train.max_step=4: unknown key train.max_step "
        "— did you mean train.max_steps?",
    ),
    "a recipe that is not there": (
        {"recipe": "gslrm_tinny"},
        "mine.yaml: recipe: gslrm_tinny: expected a YAML file or one of gslrm, gslrm_mouse, gslrm_small, gslrm_tiny, "
        "mvdiffusion, mvdiffusion_mouse, mvdiffusion_small, mvdiffusion_tiny — did you mean gslrm_tiny?",
    ),
    "1e-4 as the end of a range": (
        {"space": {"optim.lr": {"float": ["1e-4", 1e-3]}}},
        f"{LR}.float.0: expected a valid number, got '1e-4' — YAML reads 1e-4 as text, because a number with "
        "an exponent needs a dot and a sign: write 1.0e-4.",
    ),
    "1e-4 as a choice": (
        {"space": {"optim.lr": {"choice": ["1e-4", 1e-3]}}},
        f"{LR}: gslrm_tiny with optim.lr=1e-4: optim.lr: expected a valid number, got '1e-4' — YAML reads "
        "1e-4 as text, because a number with an exponent needs a dot and a sign: write 1.0e-4.",
    ),
    "an end that does not decode": (
        {"space": {"optim.lr": {"float": [-1.0, 1e-3]}}},
        f"{LR}: gslrm_tiny with optim.lr=-1.0: optim.lr: expected greater than 0, got -1.0 — raise it.",
    ),
    "a choice that does not decode": (
        {"space": {"loss.masked": {"choice": [True, "yes please"]}}},
        "mine.yaml: space.loss.masked: gslrm_tiny with loss.masked=yes please: loss.masked: expected a valid "
        "boolean, got 'yes please' — write true or false.",
    ),
    "a real range for a whole number": (
        {"space": {"data.num_input_views": {"float": [1.0, 2.0]}}},
        "mine.yaml: space.data.num_input_views: gslrm_tiny with data.num_input_views=1.0: "
        "data.num_input_views: expected a valid integer, got 1.0 — write a whole number.",
    ),
    "an end that the recipe's cross checks refuse": (
        {"space": {"data.num_input_views": {"int": [1, 7]}}},
        "mine.yaml: space.data.num_input_views: gslrm_tiny with data.num_input_views=7: "
        "data.num_input_views: expected at most data.num_views 6, got 7 — lower it.",
    ),
    "a list as a choice": (
        {"space": {"data.brightness": {"choice": [[0.9, 1.1], [1.0, 1.0]]}}},
        "mine.yaml: space.data.brightness.choice.0: expected a number, text, true, false or null, "
        "got [0.9, 1.1] — write one of these.",
    ),
    "a range without its kind": (
        {"space": {"optim.lr": [1e-4, 1e-3]}},
        f"{LR}: expected a range like {{float: [1.0e-6, 1.0e-4]}}, got [0.0001, 0.001] — write it so.",
    ),
    "a misspelled kind": (
        {"space": {"optim.lr": {"flaot": [1e-4, 1e-3], "log": True}}},
        f"{LR}: expected one of float, int and choice, got flaot, log — did you mean float?",
    ),
    "two kinds": (
        {"space": {"optim.lr": {"float": [1e-4, 1e-3], "choice": [1e-4]}}},
        f"{LR}: expected one of float, int and choice, got float, choice — name one.",
    ),
    "a misspelled key of a range": (
        {"space": {"optim.lr": {"float": [1e-4, 1e-3], "lgo": True}}},
        "mine.yaml: unknown key space.optim.lr.lgo — did you mean log?",
    ),
    "ends the wrong way round": (
        {"space": {"optim.lr": {"float": [1e-3, 1e-4]}}},
        f"{LR}.float: expected [low, high], got [0.001, 0.0001] — swap them.",
    ),
    "a range of one value": (
        {"space": {"optim.lr": {"float": [1e-4, 1e-4]}}},
        f"{LR}.float: expected two different ends, got [0.0001, 0.0001] — write the one value under `fixed`.",
    ),
    "a choice of one value in two spellings": (
        {"space": {"optim.lr": {"choice": [1, 1.0]}}},
        f"{LR}.choice: expected two or more different values, got [1, 1.0] — change the list.",
    ),
    "a logarithm of zero": (
        {"space": {"loss.alpha": {"float": [0.0, 1.0], "log": True}}},
        "mine.yaml: space.loss.alpha.float: expected a lower end above 0 with log, got 0.0 — raise it or drop log.",
    ),
    "step with log": (
        {"space": {"optim.lr": {"float": [1e-4, 1e-3], "log": True, "step": 1e-4}}},
        f"{LR}.float: expected log or step, got both — drop one.",
    ),
    "a step that misses the upper end": (
        {"space": {"data.num_input_views": {"int": [1, 4], "step": 2}}},
        "mine.yaml: space.data.num_input_views.int: expected ends a multiple of step 2 apart, got [1, 4] — change one.",
    ),
    "one choice twice": (
        {"space": {"loss.ssim": {"choice": [0.5, 0.5]}}},
        "mine.yaml: space.loss.ssim.choice: expected two or more different values, got [0.5, 0.5] — change the list.",
    ),
    "a path both searched and fixed": (
        {"fixed": {"optim.lr": 1e-3}},
        f"{LR}: expected it once, got it in fixed too (0.001) — drop one.",
    ),
    "a path that trials are compared by": (
        {"space": {"data.image_size": {"choice": [64, 128]}}},
        "mine.yaml: space.data.image_size: expected one value, or trials cannot be compared — move it to fixed.",
    ),
    "a condition on what is not searched": (
        {"space": {"loss.background": {"float": [0.0, 1.0], "when": {"loss.masked": True}}}},
        "mine.yaml: space.loss.background.when.loss.masked: expected another path of this space, "
        "got none of that name — add it to the space.",
    ),
    "a misspelled condition": (
        {
            "space": {
                "loss.masked": {"choice": [True, False]},
                "loss.background": {"float": [0.0, 1.0], "when": {"loss.maskd": True}},
            }
        },
        "mine.yaml: space.loss.background.when.loss.maskd: expected another path of this space, "
        "got none of that name — did you mean loss.masked?",
    ),
    "a condition that can never hold": (
        {
            "space": {
                "loss.ssim": {"choice": [0.0, 0.5]},
                "loss.alpha": {"float": [0.0, 1.0], "when": {"loss.ssim": 0.7}},
            }
        },
        "mine.yaml: space.loss.alpha.when.loss.ssim: expected values that loss.ssim can take, got [0.7] — list only "
        "values that it takes.",
    ),
    "conditions in a circle": (
        {
            "space": {
                "loss.ssim": {"choice": [0.0, 0.5], "when": {"loss.alpha": 0.5}},
                "loss.alpha": {"choice": [0.0, 0.5], "when": {"loss.ssim": 0.5}},
            }
        },
        "mine.yaml: space: expected conditions without a circle, got loss.ssim <- loss.alpha <- loss.ssim — drop one.",
    ),
    "an unknown objective": (
        {"objective": {"metric": "val/psnr_gf", "mode": "max"}},
        "mine.yaml: objective.metric: expected one of val/psnr, val/psnr_fg, val/ssim, val/lpips, "
        "val/mask_iou, got val/psnr_gf — did you mean val/psnr_fg?",
    ),
    "the wrong way of a metric": (
        {"objective": {"metric": "val/lpips", "mode": "max"}},
        "mine.yaml: objective.mode: expected min, the better way of val/lpips, got max — write min.",
    ),
    "an unknown sampler": (
        {"sampler": {"kind": "cmaes"}},
        "mine.yaml: sampler.kind: expected 'tpe', 'random', 'grid', 'gp' or 'nsga2', got 'cmaes' — write one of these.",
    ),
    "a grid over a range without end": (
        {"sampler": {"kind": "grid"}},
        f"{LR}: expected a step, which the grid sampler needs, got none — add one.",
    ),
    "a grace period as long as the training": (
        {"scheduler": {"kind": "asha", "grace_steps": 100}},
        "mine.yaml: scheduler.grace_steps: expected less than train.max_steps 100, got 100 — lower it.",
    ),
    "no trial": (
        {"trials": {"count": 0}},
        "mine.yaml: trials.count: expected greater than 0, got 0 — raise it.",
    ),
    "one GPU and a half": (
        {"trials": {"gpus": 1.5}},
        "mine.yaml: trials.gpus: expected a fraction below 1 or a whole number, got 1.5 — round it.",
    ),
    "a gate without an operator": (
        {"gates": {"test/psnr": "25"}},
        "mine.yaml: gates: test/psnr: expected a comparison with a number, got '25' — write it like \">= 25\".",
    ),
    "a gate on an unknown metric": (
        {"gates": {"test/masked_iou": ">= 0.9"}},
        "mine.yaml: gates.test/masked_iou: expected one of test/psnr, test/psnr_fg, test/ssim, test/lpips, "
        "test/mask_iou, test/input/psnr, test/input/psnr_fg, test/input/ssim, test/input/lpips, "
        "test/input/mask_iou, got test/masked_iou — did you mean test/mask_iou?",
    ),
    "an unknown key": (
        {"schedular": {"kind": "asha"}},
        "mine.yaml: unknown key schedular — did you mean scheduler?",
    ),
    "a name": ({"name": "x"}, "mine.yaml: name: unknown key — a space is named by its file; remove it."),
    "nothing to search": (
        {"space": None},
        "mine.yaml: space: expected paths of the recipe with their ranges, got None — add one.",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_space_is_refused_in_one_line_that_says_where_and_what_to_do(case, write):
    parts, message = REFUSALS[case]
    assert refusal(write(**parts)) == message


def test_a_key_of_an_item_is_looked_for_among_the_keys_of_such_items(write):
    text = PLAIN.replace("objective: {metric: val/psnr_fg, mode: max}", "")
    path = write(text, objectives=[{"metric": "val/psnr"}, {"metric": "val/ssim", "mod": "max"}])
    assert refusal(path) == "mine.yaml: unknown key objectives.1.mod — did you mean objectives.mode?"
    path = write(text, objectives=[{"metric": "val/psnr"}, {"metric": "val/ssim", "zzz": "max"}])
    assert refusal(path).endswith(
        "objectives.1.zzz — objectives has metric, mode; name one of them, or remove the key."
    )


def test_an_override_is_named_as_the_place_of_its_mistake(write):
    message = refusal(write(), "space.optim.lr.float=[low, 1.0e-3]")
    assert message.startswith("--set: space.optim.lr.float.0: expected a valid number, got 'low'")


def test_an_unknown_space_is_refused_with_the_nearest_known():
    assert refusal("gslrm_tinny") == (
        "gslrm_tinny: expected a YAML file or one of gslrm_losses, gslrm_lr, gslrm_normalise, gslrm_remedies, "
        "gslrm_small, gslrm_tiny, mvdiffusion_mouse, mvdiffusion_prompts, mvdiffusion_small, mvdiffusion_tiny — did "
        "you mean gslrm_tiny?"
    )
