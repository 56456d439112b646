"""Checkpoints: whole or not there, damage noticed, FaceLift's files in and out."""

from __future__ import annotations

import json
import pickle
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import checkpoint, kinds
from pipeline.checkpoint import INDEX, PREVIEW, RECIPE, TRAINING, WEIGHTS
from pipeline.errors import CheckpointError
from pipeline.files import sha256_of
from pipeline.gaussians import Gaussians
from pipeline.gslrm import facelift
from pipeline.gslrm.model import GSLRM
from pipeline.recipe import Recipe
from tests.support.mutations import mutations

FC = "transformer_layers.0.attn.fc.weight"
ADVICE = " — name weights of this network, or set the recipe's model as theirs."


@pytest.fixture(scope="module")
def recipe(tiny_recipe) -> Recipe:
    return tiny_recipe()


@pytest.fixture(scope="module")
def model(recipe: Recipe) -> GSLRM:
    return GSLRM(recipe.model)


@pytest.fixture
def saved(tmp_path: Path, model: GSLRM, recipe: Recipe) -> Path:
    training = {"optimizer": {"state": {0: torch.ones(3)}}, "step": 7}
    return checkpoint.save(tmp_path / "step-000007", model, recipe, 7, {"val/psnr": 21.5}, training)


def same_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def refusal(action, *args: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        action(*args)
    return str(caught.value)


def said_of(action, *args: object) -> str:
    """The refusal, or nothing for what was accepted."""
    try:
        action(*args)
    except CheckpointError as error:
        return str(error)
    return ""


def facelift_file(path: Path, model: GSLRM, prefix: str = "", **others: Tensor) -> Path:
    tensors = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"model": {**tensors, **others}, "fwdbwd_pass_step": 21125, "param_update_step": 21125}, path)
    return path


# ---------------------------------------------------------------- save and load


def test_a_checkpoint_gives_back_its_weights(saved: Path, model: GSLRM) -> None:
    assert same_weights(dict(kinds.load(saved).model.state_dict()), dict(model.state_dict()))


def test_a_checkpoint_gives_back_its_recipe_with_its_name(saved: Path, recipe: Recipe) -> None:
    assert kinds.load(saved).recipe == recipe


def test_a_checkpoint_gives_back_its_step_and_metrics(saved: Path) -> None:
    info = checkpoint.inspect(saved)
    assert (info.step, info.metrics) == (7, {"val/psnr": 21.5})


def test_a_loaded_model_is_in_evaluation_mode(saved: Path) -> None:
    assert not kinds.load(saved).model.training


def test_a_checkpoint_says_what_it_holds(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == sorted([WEIGHTS, RECIPE, TRAINING, INDEX])


def test_a_checkpoint_carries_a_preview_that_opens(tmp_path: Path, model: GSLRM, recipe: Recipe) -> None:
    one = torch.ones(1)
    gaussians = Gaussians(one.expand(1, 3), one.expand(1, 4), one.expand(1, 3), one / 2, one.expand(1, 1, 3))
    folder = checkpoint.save(tmp_path / "c", model, recipe, 1, attachments={checkpoint.PREVIEW: gaussians.save_ply})
    assert Gaussians.load_ply(folder / PREVIEW).count == 1


def test_training_state_comes_back_without_running_code(saved: Path) -> None:
    assert torch.equal(checkpoint.load_training(saved)["optimizer"]["state"][0], torch.ones(3))


def test_saving_again_replaces_the_checkpoint_whole(saved: Path, model: GSLRM, recipe: Recipe) -> None:
    checkpoint.save(saved, model, recipe, 8)
    assert checkpoint.inspect(saved).step == 8 and not (saved / TRAINING).exists()


def test_saving_leaves_nothing_beside_the_checkpoint(saved: Path) -> None:
    assert list(saved.parent.iterdir()) == [saved]


def test_a_save_that_dies_before_its_rename_leaves_no_checkpoint(
    tmp_path: Path, model: GSLRM, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Path, target: Path) -> None:
        raise OSError("killed")

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(OSError, match="killed"):
        checkpoint.save(tmp_path / "step-000001", model, recipe, 1)
    assert not (tmp_path / "step-000001").exists()


def test_a_save_that_dies_while_writing_leaves_the_older_checkpoint(
    saved: Path, model: GSLRM, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", die)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(saved, model, recipe, 8)
    assert checkpoint.inspect(saved).step == 7


def test_a_release_has_no_training_state(saved: Path, tmp_path: Path) -> None:
    released = checkpoint.strip_training(saved, tmp_path / "released")
    assert sorted(path.name for path in released.iterdir()) == sorted([WEIGHTS, RECIPE, INDEX])


def test_a_release_loads_like_its_checkpoint(saved: Path, tmp_path: Path) -> None:
    released = kinds.load(checkpoint.strip_training(saved, tmp_path / "released"))
    assert released.sha256 == kinds.load(saved).sha256


def test_a_release_cannot_be_resumed(saved: Path, tmp_path: Path) -> None:
    released = checkpoint.strip_training(saved, tmp_path / "released")
    expected = f"{released}: expected {TRAINING} to resume from, found none — it was saved for release only."
    assert refusal(checkpoint.load_training, released) == expected


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("file", [WEIGHTS, RECIPE, TRAINING])
def test_one_flipped_bit_is_noticed(saved: Path, file: str) -> None:
    content = bytearray((saved / file).read_bytes())
    expected = json.loads((saved / INDEX).read_text())["sha256"][file][:12]
    content[len(content) // 2] ^= 1
    (saved / file).write_bytes(content)
    assert refusal(checkpoint.inspect, saved) == (
        f"{saved / file}: expected sha256 {expected}, got another or no file — it is damaged; restore it."
    )


@pytest.mark.parametrize("file", [WEIGHTS, RECIPE])
def test_a_missing_file_is_noticed(saved: Path, file: str) -> None:
    (saved / file).unlink()
    assert f"{saved / file}: expected sha256" in refusal(checkpoint.inspect, saved)


def test_weights_cut_short_are_noticed(saved: Path) -> None:
    (saved / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:-100])
    assert "model.safetensors: expected sha256" in refusal(kinds.load, saved)


def test_safetensors_cut_short_are_refused_without_an_index_too(saved: Path, tmp_path: Path, model: GSLRM) -> None:
    (tmp_path / "w.safetensors").write_bytes((saved / WEIGHTS).read_bytes()[:-100])
    message = refusal(checkpoint.load_weights, model, tmp_path / "w.safetensors")
    assert message.startswith(f"{tmp_path}/w.safetensors: expected safetensors, got ")


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    expected = f"{tmp_path}: expected a checkpoint folder with {INDEX}, found none — check the path."
    assert refusal(kinds.load, tmp_path) == expected


def test_weights_without_one_tensor_are_refused_by_its_name(saved: Path, tmp_path: Path, model: GSLRM) -> None:
    tensors = load_file(saved / WEIGHTS)
    del tensors[FC]
    save_file(tensors, tmp_path / "w.safetensors")
    expected = f"{tmp_path}/w.safetensors: expected the 19 tensors of the model; 1 missing: {FC}{ADVICE}"
    assert refusal(checkpoint.load_weights, model, tmp_path / "w.safetensors") == expected


def test_every_kind_of_misfit_is_listed(saved: Path, tmp_path: Path, model: GSLRM) -> None:
    tensors = load_file(saved / WEIGHTS)
    del tensors[FC]
    tensors["extra"] = torch.zeros(1)
    tensors["input_layer_norm.weight"] = torch.zeros(16)
    save_file(tensors, tmp_path / "w.safetensors")
    assert refusal(checkpoint.load_weights, model, tmp_path / "w.safetensors") == (
        f"{tmp_path}/w.safetensors: expected the 19 tensors of the model; 1 missing: {FC}; 1 unexpected: extra; "
        f"1 of another shape: input_layer_norm.weight (16,) for (32,){ADVICE}"
    )


def test_a_long_list_of_missing_names_is_shortened(tmp_path: Path, model: GSLRM) -> None:
    save_file({"extra": torch.zeros(1)}, tmp_path / "w.safetensors")
    assert "19 missing: " in (message := refusal(checkpoint.load_weights, model, tmp_path / "w.safetensors"))
    assert " and 15 more;" in message


def test_weights_are_checked_without_building_the_network(saved: Path, tiny_recipe) -> None:
    message = refusal(facelift.check_weights, tiny_recipe("model.num_layers=4").model, saved, 0)
    assert message.startswith(f"{saved}: expected the 31 tensors of the model; 12 missing: transformer_layers.2.norm1")


# ---------------------------------------------------------------- hashed once


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed from now on, one for each time."""
    names: list[str] = []

    def count(path: Path) -> str:
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(checkpoint, "sha256_of", count)
    return names


def test_loading_a_folder_hashes_each_file_once(saved: Path, hashed: list[str]) -> None:
    kinds.load(saved)
    assert sorted(hashed) == [WEIGHTS, RECIPE, TRAINING]


def test_a_folder_that_was_inspected_is_not_hashed_again(saved: Path, hashed: list[str]) -> None:
    info = checkpoint.inspect(saved)
    hashed.clear()
    assert kinds.load(info).info is info and checkpoint.load_training(info)["step"] == 7
    assert hashed == []


# ---------------------------------------------------------------- FaceLift's files


def imported(path: Path, folder: Path) -> Path:
    return facelift.write_checkpoint(facelift.read_file(path, ["model.head_dim=16"]), folder)


def test_a_facelift_file_is_imported_without_the_networks_of_its_losses(tmp_path: Path, model: GSLRM) -> None:
    vgg = {"loss_calculator.perceptual_loss_module.net.conv1.weight": torch.zeros(64, 3, 3, 3)}
    path = facelift_file(tmp_path / "ckpt_0000000000021125.pt", model, **vgg)
    folder = imported(path, tmp_path / "imported")
    assert same_weights(dict(kinds.load(folder).model.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_the_prefixes_of_parallel_and_compiled_training_are_dropped(tmp_path: Path, model: GSLRM, prefix: str) -> None:
    loss = {f"{prefix}loss_calculator.x": torch.zeros(1)}
    read = checkpoint.read_facelift(facelift_file(tmp_path / "a.pt", model, prefix, **loss))
    assert list(read) == list(model.state_dict())


def test_two_tensors_of_one_name_behind_its_prefix_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"a.weight": torch.ones(1), "module.a.weight": torch.zeros(1)}}, tmp_path / "a.pt")
    assert "expected each tensor once, got a.weight with and" in refusal(checkpoint.read_facelift, tmp_path / "a.pt")


def test_tensors_without_names_are_no_facelift_checkpoint(tmp_path: Path) -> None:
    torch.save({"model": {0: torch.ones(1)}}, tmp_path / "a.pt")
    assert "expected a FaceLift checkpoint with `model`" in refusal(checkpoint.read_facelift, tmp_path / "a.pt")


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, model: GSLRM) -> None:
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    broken = list(tensors)[2]
    tensors[broken].view(-1)[-1] = float("nan")
    torch.save({"model": tensors}, tmp_path / "a.pt")
    assert f"; 1 not finite: {broken} — " in refusal(checkpoint.load_weights, model, tmp_path / "a.pt")


def test_a_bare_state_dict_is_read_too(tmp_path: Path, model: GSLRM) -> None:
    torch.save(model.state_dict(), tmp_path / "a.pt")
    assert list(checkpoint.read_facelift(tmp_path / "a.pt")) == list(model.state_dict())


def test_what_is_exported_is_imported_to_the_bit(saved: Path, tmp_path: Path) -> None:
    exported = facelift.export_facelift(saved, tmp_path / "out.pt")
    assert (imported(exported, tmp_path / "again") / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()


def test_an_export_has_facelifts_keys(saved: Path, tmp_path: Path) -> None:
    content = torch.load(facelift.export_facelift(saved, tmp_path / "out.pt"), weights_only=True)
    assert set(content) == {"model", "fwdbwd_pass_step", "param_update_step"} and content["param_update_step"] == 7


class Malice:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit",))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Malice()}, tmp_path / "evil.pt")
    message = refusal(checkpoint.read_facelift, tmp_path / "evil.pt")
    assert message.startswith(f"{tmp_path}/evil.pt: expected a torch file of tensors, got one that names exec, which")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 580064\n"


def zipped() -> bytes:
    with zipfile.ZipFile(buffer := BytesIO(), "w") as archive:
        archive.writestr("readme.txt", "weights are elsewhere")
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize(
    ("content", "came"),
    [
        (b"not a checkpoint", "other bytes"),
        (b"", "an empty file; copy it again"),
        (pickle.dumps({"model": 1}), "a Python pickle that torch did not write"),
        (LFS, "a pointer of Git LFS in its place; `git lfs pull` fetches the file"),
        (b"<!DOCTYPE html><html>404", "a web page; what was downloaded was not the file, see what its address answers"),
        (b'{"error": "denied"}', "a JSON document"),
        (bytes(4096), "zeros; it was not written to its end, copy it again"),
        (zipped(), "a zip archive; unpack it"),
    ],
)
def test_a_file_that_holds_no_weights_is_called_what_it_is(
    tmp_path: Path, content: bytes, came: str, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    expected = f"{path}: expected weights (safetensors, or a torch file), got {came} — name a file of weights."
    assert refusal(checkpoint.read_tensors, path) == expected


@pytest.mark.parametrize("suffix", ["pt", "ckpt", "bin", "safetensors"])
@pytest.mark.parametrize("zipped", [True, False], ids=["today's", "before torch 1.6"])
def test_a_torch_file_is_read_whatever_it_is_called_and_however_old(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"a.{suffix}"
    torch.save({"model": {"w": torch.arange(3.0)}}, path, _use_new_zipfile_serialization=zipped)
    assert checkpoint.read_tensors(path)["w"].tolist() == [0, 1, 2]


def test_safetensors_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    save_file({"w": torch.arange(3.0)}, tmp_path / "a.pt")
    assert checkpoint.read_tensors(tmp_path / "a.pt")["w"].tolist() == [0, 1, 2]


def test_a_pointer_in_the_place_of_a_checkpoints_weights_is_called_one(saved: Path) -> None:
    (saved / WEIGHTS).write_bytes(LFS)
    assert refusal(checkpoint.inspect, saved).endswith(
        "got a pointer of Git LFS in its place — copy the checkpoint again, whole."
    )


@pytest.mark.parametrize(
    ("content", "came"),
    [
        (LFS, "a pointer of Git LFS in its place"),
        (b"", "an empty file"),
        (b"{}", "a fault at recipe (Field required)"),
        (b'{"recipe": "a", "step": 1, "fingerprint": "b", "metrics": {}, "sha256": []}', "a fault at sha256"),
        (b'{"recipe": ', "a fault at its JSON"),
    ],
)
def test_an_index_that_is_none_is_called_what_it_is(saved: Path, content: bytes, came: str) -> None:
    (saved / INDEX).write_bytes(content)
    assert refusal(checkpoint.inspect, saved).startswith(
        f"{saved / INDEX}: expected the index of a checkpoint, got {came}"
    )


@pytest.mark.parametrize("kind", ["safetensors", "torch", "old torch"])
def test_damaged_weights_are_read_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    good, path = tmp_path / "good", tmp_path / "damaged"
    tensors = {"first.weight": torch.arange(64.0).reshape(8, 8), "second.bias": torch.ones(3, dtype=torch.float16)}
    if kind == "safetensors":
        save_file(tensors, good)
    else:
        torch.save({"model": tensors}, good, _use_new_zipfile_serialization=kind == "torch")
    for content in mutations(good.read_bytes(), seed=0, count=200):
        path.write_bytes(content)
        assert "\n" not in said_of(checkpoint.read_tensors, path)


def test_a_damaged_index_is_read_or_refused_in_one_line(saved: Path) -> None:
    good = (saved / INDEX).read_bytes()
    for content in mutations(good, seed=0, count=200):
        (saved / INDEX).write_bytes(content)
        assert "\n" not in said_of(checkpoint.inspect, saved)


def test_a_torch_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"step": 3}}, tmp_path / "a.pt")
    expected = f"{tmp_path}/a.pt: expected a FaceLift checkpoint with `model`, got something else — check the file."
    assert refusal(checkpoint.read_facelift, tmp_path / "a.pt") == expected


def test_weights_that_are_not_there_are_refused(tmp_path: Path, model: GSLRM) -> None:
    expected = f"{tmp_path}/none.pt: expected weights, found no file — check the path."
    assert refusal(checkpoint.load_weights, model, tmp_path / "none.pt") == expected
