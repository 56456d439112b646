"""Who is champion, whatever happens: kills at every write, deleted versions, files that are gone, other protocols."""

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from mlflow.exceptions import MlflowException

import mouselift
from pipeline import checkpoint, kinds
from pipeline.data.scenes import open_dataset
from sweeps.errors import RegistryError
from sweeps.registry.aliases import championships, signature
from sweeps.registry.registry import Registry
from sweeps.registry.verification import Verification, score, unverified, verify
from sweeps.space.gates import parse_gates
from tests.e2e.squares import NAME, OBJECTIVE, OTHER, aliases, make_checkpoint, make_dataset

WRITES = (
    "create_registered_model", "set_registered_model_tag", "delete_registered_model_tag", "set_registered_model_alias",
    "delete_registered_model_alias", "create_model_version", "set_model_version_tag", "delete_model_version_tag",
    "create_logged_model", "log_model_artifacts", "log_outputs", "log_batch", "finalize_logged_model",
    "set_logged_model_tags", "delete_logged_model_tag", "create_run", "set_terminated", "create_experiment",
)  # fmt: skip


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and nothing is written after it."""


def dies_after(home, writes, names=WRITES):
    """A registry whose process ends after so many writes, of these kinds."""
    registry, left = Registry(home), iter(range(writes))

    def dying(write):
        def call(*arguments, **options):
            if next(left, None) is None:
                raise Killed
            return write(*arguments, **options)

        return call

    for name in names:
        setattr(registry._client, name, dying(getattr(registry._client, name)))
    return registry


def killed(home, writes, act, names=WRITES):
    """Do something that is killed after so many writes; whether it was."""
    try:
        act(dies_after(home, writes, names))
    except Killed:
        return True
    return False


def story(registry, name=NAME):
    """The moves of `champion` as (action, from, to)."""
    return [(move.action, move.before, move.after) for move in championships(registry.history(name))]


def is_a_chain(registry, name=NAME):
    """Whether every entry begins where the one before it ended, and the last one ends at the champion."""
    moves = championships(registry.history(name))
    ends = [None, *(move.after for move in moves)]
    return [move.before for move in moves] == ends[:-1] and ends[-1] == aliases(registry, name).get("champion")


def leases(client, name=NAME):
    return [key for key in client.get_registered_model(name).tags if key.startswith("lease.")]


# Kills


def test_a_promotion_killed_after_any_write_leaves_the_old_or_the_new_champion_and_is_completed_by_another(
    registry, three, home, client, tmp_path
):
    gates = parse_gates({"test/psnr": ">= 99"})
    for version in three[:2]:
        registry.promote(version, (), OBJECTIVE)
    registry.promote(three[2], gates, OBJECTIVE)  # a challenger
    shutil.copy(home.root / "mlflow.db", tmp_path / "before.db")
    champions, writes = [], 0
    while killed(home, writes, lambda dying: dying.promote(three[2], (), OBJECTIVE)):
        champions.append(registry.resolve(NAME).version)
        assert champions[-1] in (2, 3)
        assert Registry(home).promote(three[2], (), OBJECTIVE).alias == "champion"
        assert aliases(registry) == {"champion": 3, "previous": 2}
        assert is_a_chain(registry)
        assert leases(client) == []
        shutil.copy(tmp_path / "before.db", home.root / "mlflow.db")
        writes += 1
    assert champions == sorted(champions) and set(champions) == {2, 3}
    assert len(champions) >= 10


def test_a_rollback_killed_after_any_write_leaves_the_old_or_the_new_champion_and_the_next_change_mends_it(
    registry, three, home, client, tmp_path
):
    for version in three:
        registry.promote(version, (), OBJECTIVE)
    shutil.copy(home.root / "mlflow.db", tmp_path / "before.db")
    champions, writes = [], 0
    while killed(home, writes, lambda dying: dying.rollback(NAME)):
        champions.append(registry.resolve(NAME).version)
        Registry(home).promote(three[0], parse_gates({"test/psnr": ">= 99"}), OBJECTIVE)
        there = {2: {"champion": 2, "previous": 3}, 3: {"champion": 3, "previous": 2}}[champions[-1]]
        assert aliases(registry) == there | {"challenger": 1}
        assert is_a_chain(registry)
        assert leases(client) == []
        shutil.copy(tmp_path / "before.db", home.root / "mlflow.db")
        writes += 1
    assert champions == sorted(champions, reverse=True) and set(champions) == {2, 3}


def test_a_promotion_killed_before_it_took_place_gives_previous_back(registry, three, home):
    """As far as `previous`, which the old champion has then, too."""
    for version in three[:2]:
        registry.promote(version, (), OBJECTIVE)
    assert killed(home, 1, lambda dying: dying.promote(three[2], (), OBJECTIVE), ["set_registered_model_alias"])
    assert aliases(registry) == {"champion": 2, "previous": 2}
    registry.promote(three[0], parse_gates({"test/psnr": ">= 99"}), OBJECTIVE)
    assert aliases(registry) == {"champion": 2, "previous": 1, "challenger": 1}
    last = championships(registry.history(NAME))[-1]
    assert (last.action, last.before, last.after) == ("found", 3, 2)
    assert last.reason == f"the promote of entry {last.number - 1} was ended before it took place"


def test_a_registration_killed_after_any_write_is_completed_and_leaves_nothing_half(
    home, client, run_id, ranked, tmp_path
):
    whole, writes = unverified(ranked[0].checkpoint.folder), 0
    experiment = client.get_run(run_id).info.experiment_id
    shutil.copy(home.root / "mlflow.db", tmp_path / "before.db")
    while killed(home, writes, lambda dying: dying.register(OTHER, run_id, whole)):
        version = Registry(home).register(OTHER, run_id, whole)
        assert [one.version for one in Registry(home).list_versions(OTHER)] == [version.version] == [1]
        models = client.search_logged_models([experiment], f"name = '{OTHER}'")
        assert {str(model.status) for model in models} <= {"FAILED", "READY"}
        (ready,) = [model for model in models if model.status == "READY"]
        assert json.loads(ready.tags["mlflow.modelVersions"]) == [{"name": OTHER, "version": 1}]
        assert all("release.unfinished" not in model.tags for model in models)
        assert leases(client, OTHER) == []
        shutil.copy(tmp_path / "before.db", home.root / "mlflow.db")
        writes += 1
    assert writes >= 10


def test_an_import_killed_with_its_run_open_leaves_none_open(home, client, ranked):
    whole = unverified(ranked[0].checkpoint.folder)
    assert killed(home, 0, lambda dying: dying.import_checkpoint(OTHER, whole), ["set_terminated"])
    experiment = client.get_experiment_by_name("imported").experiment_id
    assert [run.info.status for run in client.search_runs([experiment])] == ["RUNNING"]
    assert Registry(home).import_checkpoint(OTHER, whole).version == 1
    assert sorted(run.info.status for run in client.search_runs([experiment])) == ["FINISHED", "KILLED"]


def test_figures_half_replaced_by_a_kill_are_compared_with_none(home, three, ranked, tmp_path):
    """Beside a protocol stand the figures that were taken by it, the old ones or the new ones."""
    first, metrics = three[0], {"test/psnr": 1.0, "test/mask_iou": 0.5}
    other = replace(ranked[0], metrics=metrics, protocol="another", data_digest="of other data")
    whole = {first.measured: first.metrics, ("another", "of other data"): metrics}
    shutil.copy(home.root / "mlflow.db", tmp_path / "before.db")
    writes, unmeasured = 0, 0
    while killed(home, writes, lambda dying: dying.refresh(first, other), ["set_model_version_tag"]):
        found = Registry(home).resolve(first.ref)
        unmeasured += found.measured[0] is None
        assert found.measured[0] is None or found.metrics == whole[found.measured]
        found = Registry(home).refresh(found, other)
        assert (found.measured, found.metrics) == (("another", "of other data"), metrics)
        shutil.copy(tmp_path / "before.db", home.root / "mlflow.db")
        writes += 1
    assert unmeasured == writes == 4


# The history


def test_the_history_tells_who_changed_what_when_and_why(registry, three):
    registry.promote(three[0], (), OBJECTIVE)
    registry.promote(three[1], parse_gates({"test/psnr": ">= 99"}), OBJECTIVE)
    registry.promote(three[1], (), OBJECTIVE)
    registry.rollback(NAME, "it blurs whiskers")
    history = registry.history(NAME)
    assert [(m.number, m.action, m.alias, m.before, m.after, m.previous) for m in history] == [
        (1, "promote", "champion", None, 1, None),
        (2, "promote", "challenger", None, 2, None),
        (3, "promote", "champion", 1, 2, None),
        (4, "rollback", "champion", 2, 1, 1),
    ]
    assert {(m.who, m.when) for m in history} == {(signature(), "2023-11-14T22:13:20.000+00:00")}
    figures = [f"{version.metrics['test/psnr']:.4g}" for version in three]
    assert [m.reason for m in history] == [
        "it passed its gates",
        f"test/psnr {figures[1]}, wanted >= 99",
        f"it passed its gates and test/psnr {figures[1]} beats {figures[0]} of the champion {NAME}/1",
        "it blurs whiskers",
    ]


def test_what_was_changed_without_us_is_found_and_told(registry, three, client):
    registry.promote(three[1], (), OBJECTIVE)
    client.set_registered_model_alias(NAME, "champion", "1")
    registry.promote(three[2], (), OBJECTIVE)
    assert story(registry) == [("promote", None, 2), ("found", 2, 1), ("promote", 1, 3)]
    assert championships(registry.history(NAME))[1].reason == "it was changed by no command of mouselift"


def test_a_champion_from_before_the_history_begins_it(registry, three, client):
    client.set_registered_model_alias(NAME, "champion", "1")
    registry.promote(three[2], (), OBJECTIVE)
    assert story(registry) == [("found", None, 1), ("promote", 1, 3)]


def test_a_champion_changed_by_others_while_it_was_compared_is_not_overrun(registry, three, client, monkeypatch):
    registry.promote(three[0], (), OBJECTIVE)
    compare = registry._compare

    def slow(*arguments):
        client.set_registered_model_alias(NAME, "champion", "3")
        return compare(*arguments)

    monkeypatch.setattr(registry, "_compare", slow)
    with pytest.raises(RegistryError, match="expected the champion to stay 1 while it was compared, got 3, set by no"):
        registry.promote(three[1], (), OBJECTIVE)
    assert aliases(registry)["champion"] == 3
    assert "gate.verdict" not in registry.resolve(f"{NAME}/2").tags


def test_the_commands_tell_the_history_and_a_deleted_champion(registry, three, client, home, monkeypatch, capsys):
    def says(*words):
        monkeypatch.setattr(sys, "argv", ["mouselift", "model", *words])
        monkeypatch.setenv("MOUSELIFT_HOME", str(home.root))
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(SystemExit) as left:
            mouselift.main()
        assert left.value.code == 0
        return capsys.readouterr()

    deleted_champion(registry, three, client)
    listed = says("list")
    assert f"{NAME}/1" in listed.out and listed.err == f"{registry.vacancies()[0]}\n"
    assert says("rollback", NAME, "--reason", "it was deleted").out == f"{NAME}/1 is champion\n"
    assert says("list").err == ""
    told = json.loads(says("history", NAME, "--json").out)
    assert told == [asdict(move) for move in registry.history(NAME)]
    assert [(move["action"], move["after"]) for move in told[-2:]] == [("found", None), ("rollback", 1)]
    lines = says("history", NAME).out.splitlines()
    assert lines[0].split() == ["when", "who", "action", "alias", "from", "to", "why"]
    assert lines[-1].rstrip().endswith("it was deleted") and len(lines) == 1 + len(told)


# Versions and files that are gone


def deleted_champion(registry, three, client):
    for version in three[:2]:
        registry.promote(version, (), OBJECTIVE)
    client.delete_model_version(NAME, "2")


def test_a_deleted_champion_is_told_with_what_helps(registry, three, client):
    deleted_champion(registry, three, client)
    with pytest.raises(RegistryError) as refusal:
        registry.resolve(NAME)
    assert str(refusal.value) == (
        "mouse-gslrm@champion: expected version 2, which was champion, got a deleted one — promote a version, or "
        "`mouselift model rollback mouse-gslrm` makes 1 champion again."
    )
    assert registry.vacancies() == [str(refusal.value)]


def test_a_rollback_puts_previous_in_the_place_of_a_deleted_champion(registry, three, client):
    deleted_champion(registry, three, client)
    assert registry.rollback(NAME).version == 1
    assert aliases(registry) == {"champion": 1}
    assert story(registry)[-2:] == [("found", 2, None), ("rollback", None, 1)]
    assert championships(registry.history(NAME))[-2].reason == "version 2 was deleted by no command of mouselift"
    assert registry.vacancies() == []
    with pytest.raises(RegistryError, match="expected a version with alias previous, got none"):
        registry.rollback(NAME)


def test_where_the_champion_was_deleted_a_version_must_beat_the_one_that_would_come_back(registry, three, client):
    for version in three[1:]:
        registry.promote(version, (), OBJECTIVE)
    client.delete_model_version(NAME, "3")
    verdict = registry.promote(three[0], (), OBJECTIVE)
    assert (verdict.alias, verdict.reason[-29:]) == ("challenger", f"of the previous {NAME}/2")
    assert registry.promote(three[1], (), OBJECTIVE).alias == "champion"


def files_of(version):
    return Path(version.source.removeprefix("file://")) / "artifacts" / "checkpoint"


@pytest.fixture
def own_files(registry, run_id, ranked):
    """Two versions of OTHER whose files no other test has: the second is champion, the first previous."""
    versions = [registry.register(OTHER, run_id, one) for one in ranked[:2]]
    for version in versions:
        registry.promote(version, (), OBJECTIVE)
    return versions


def test_a_rollback_to_a_version_whose_files_are_gone_is_refused(own_files, home):
    shutil.rmtree(files_of(own_files[0]))
    with pytest.raises(RegistryError, match=f"{OTHER}/1: expected its checkpoint at .*, got .* — register it again"):
        Registry(home).rollback(OTHER)
    assert aliases(Registry(home), OTHER) == {"champion": 2, "previous": 1}


def test_a_version_whose_files_are_gone_cannot_become_champion(own_files, home, run_id, ranked):
    third = Registry(home).register(OTHER, run_id, ranked[2])
    weights = files_of(third) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(RegistryError, match=f"{OTHER}/3: expected its checkpoint at"):
        Registry(home).promote(third, (), OBJECTIVE)
    assert aliases(Registry(home), OTHER) == {"champion": 2, "previous": 1}


def test_weights_whose_files_are_gone_are_registered_again(own_files, home, run_id, ranked):
    shutil.rmtree(files_of(own_files[0]))
    again = Registry(home).register(OTHER, run_id, ranked[0])
    assert (again.version, again.sha256) == (3, own_files[0].sha256)
    Registry(home)._require_files(again)


# Gates as tags


def test_each_gate_is_a_tag_that_is_read_at_a_glance(registry, three, client):
    gates = parse_gates({"test/psnr": ">= 5", "test/psnr_fg": "> 99", "test/lpips": "<= 0.15"})
    registry.promote(three[0], gates, OBJECTIVE)
    tags = client.get_model_version(NAME, "1").tags
    figure = {name: f"{three[0].metrics[name]:.4g}" for name in ("test/psnr", "test/psnr_fg")}
    assert {key: value for key, value in tags.items() if key.startswith("gate.")} == {
        "gate.test/psnr": f"{figure['test/psnr']} >= 5 passed",
        "gate.test/psnr_fg": f"{figure['test/psnr_fg']} > 99 failed",
        "gate.test/lpips": "not available <= 0.15 failed",
        "gate.verdict": "challenger",
        "gate.reason": f"test/psnr_fg {figure['test/psnr_fg']}, wanted > 99; test/lpips not available, wanted <= 0.15",
    }
    assert [gate["passed"] for gate in registry.resolve(f"{NAME}/1").gates] == [True, False, False]


def test_a_gate_that_is_asked_for_no_more_leaves_no_tag(registry, three, client):
    registry.promote(three[0], parse_gates({"test/psnr": ">= 99"}), OBJECTIVE)
    registry.promote(three[0], parse_gates({"test/psnr_fg": ">= 1"}), OBJECTIVE)
    tags = client.get_model_version(NAME, "1").tags
    assert {key for key in tags if key.startswith("gate.")} == {"gate.test/psnr_fg", "gate.verdict", "gate.reason"}


# Champions of another protocol or other data


def test_a_champion_of_other_data_is_scored_again_though_its_own_is_gone(registry, run_id, ranked, tmp_path):
    elsewhere = make_dataset(tmp_path / "elsewhere", seed=4)
    champion = registry.register(OTHER, run_id, verify(ranked[0].checkpoint.folder, elsewhere, {}, tmp_path))
    registry.promote(champion, (), OBJECTIVE)
    shutil.rmtree(elsewhere)
    here = make_dataset(tmp_path / "here", seed=5)
    better = registry.register(OTHER, run_id, verify(ranked[2].checkpoint.folder, here, {}, tmp_path))
    assert champion.measured[1] != better.measured[1]
    verdict = registry.promote(better, (), OBJECTIVE, here)
    again = verify(ranked[0].checkpoint.folder, here, {}, tmp_path).metrics["test/psnr"]
    ours = better.metrics["test/psnr"]
    assert ours > again != champion.metrics["test/psnr"]
    assert verdict.reason == (
        f"it passed its gates and test/psnr {ours:.4g} beats {again:.4g} of the champion {OTHER}/1"
    )


def test_with_another_number_of_input_views_the_champion_is_scored_again_on_the_same_held_out_views(
    registry, run_id, ranked, world, tmp_path
):
    overrides = ["data.num_views=6", "data.num_held_out_views=2", "data.num_input_views="]
    four, two = (
        verify(make_checkpoint(tmp_path / n, int(n), [*overrides[:2], overrides[2] + n]), world.dataset, {}, tmp_path)
        for n in "42"
    )
    assert (four.protocol, four.data_digest) != (two.protocol, two.data_digest) and four.data_digest == two.data_digest
    registry.promote(registry.register(OTHER, run_id, four), (), OBJECTIVE)
    loaded, recipe = kinds.load(four.checkpoint.folder), two.checkpoint.recipe
    found = score(loaded, recipe.data, open_dataset(world.dataset), "test", tmp_path)
    held_out = [score(kinds.load(one.checkpoint.folder), one.checkpoint.recipe.data, open_dataset(world.dataset),
                      "test", tmp_path).protocol.target_views for one in (four, two)]  # fmt: skip
    assert held_out[0] == held_out[1] == found.protocol.target_views
    verdict = registry.promote(registry.register(OTHER, run_id, two), (), OBJECTIVE, world.dataset)
    assert f"{found.metrics['test/psnr']:.4g}" in verdict.reason


def test_a_champion_without_the_figure_is_scored_and_not_taken_for_beaten(registry, run_id, ranked, world, client):
    better = registry.register(OTHER, run_id, ranked[2])
    client.delete_model_version_tag(OTHER, "1", "test/psnr")
    client.set_registered_model_alias(OTHER, "champion", "1")
    worse = registry.register(OTHER, run_id, ranked[0])
    with pytest.raises(RegistryError, match="expected the dataset, got none"):
        registry.promote(worse, (), OBJECTIVE)
    assert registry.promote(worse, (), OBJECTIVE, world.dataset).alias == "challenger"
    assert registry.resolve(OTHER).version == better.version


def test_a_champion_of_another_kind_is_not_compared(registry, run_id, ranked, world, views_recipe, tmp_path):
    folder = checkpoint.save(tmp_path / "views", torch.nn.Linear(1, 1), views_recipe(), step=1)
    views = Verification(checkpoint.inspect(folder), {"test/psnr": 1.0}, "protocol", "squares", "digest")
    registry.promote(registry.register(OTHER, run_id, views), (), OBJECTIVE)
    with pytest.raises(RegistryError, match="expected a gslrm, got a mvdiffusion — register under another name"):
        registry.promote(registry.register(OTHER, run_id, ranked[0]), (), OBJECTIVE, world.dataset)


def test_an_alias_cannot_point_to_a_version_that_was_deleted(registry, three, client):
    """What the above relies on."""
    registry.promote(three[0], (), OBJECTIVE)
    client.delete_model_version(NAME, "1")
    with pytest.raises(MlflowException, match="not found"):
        client.set_registered_model_alias(NAME, "champion", "1")
