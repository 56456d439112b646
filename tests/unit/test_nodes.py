"""Which nodes a trial may run on, how many seats it takes, and the refusals word for word."""

from __future__ import annotations

import pytest
import torch

from sweeps.errors import SpaceError, StudyError
from sweeps.run.nodes import Node, Seat, seats_of, share_of, this_machine
from sweeps.space.resources import Resources
from sweeps.space.space import SearchSpace, load_space
from tests.support.spaces import space_with

SMALL = Node("small", {"CPU": 8.0, "GPU": 2.0}, {"gpu_memory_gb": "24", "ray.io/accelerator-type": "A10G"})
LARGE = Node("large", {"CPU": 16.0, "GPU": 4.0}, {"gpu_memory_gb": "80", "ray.io/accelerator-type": "H100"})
PLAIN = Node("plain", {"CPU": 4.0})


def space(**trials: object) -> SearchSpace:
    return space_with(name="mine", recipe="gslrm_tiny", trials=Resources(**trials))


def refusal(nodes: list[Node], **trials: object) -> str:
    with pytest.raises(StudyError) as error:
        seats_of(space(**trials), nodes)
    return str(error.value)


def test_a_trial_without_needs_may_run_anywhere_and_shares_the_cpus() -> None:
    assert seats_of(space(gpus=0.5, concurrent=4), [SMALL, LARGE]) == [Seat(6, 0.5)]


def test_a_number_is_a_least_one_and_is_asked_for_by_the_labels_that_have_it() -> None:
    assert seats_of(space(gpus=1, cpus=2, needs={"gpu_memory_gb": 40}), [SMALL, LARGE, PLAIN]) == [
        Seat(2, 1.0, {"gpu_memory_gb": "in(80)"})
    ]
    both = seats_of(space(gpus=1, cpus=2, needs={"gpu_memory_gb": 20}), [SMALL, LARGE, PLAIN])
    assert both == [Seat(2, 1.0, {"gpu_memory_gb": "in(24,80)"})]


def test_a_text_is_to_be_the_same() -> None:
    seats = seats_of(space(gpus=1, cpus=2, needs={"ray.io/accelerator-type": "A10G"}), [SMALL, LARGE])
    assert seats == [Seat(2, 1.0, {"ray.io/accelerator-type": "in(A10G)"})]


def test_where_every_node_will_do_nothing_is_asked_for() -> None:
    assert seats_of(space(cpus=1, needs={"gpu_memory_gb": 20}), [SMALL, LARGE]) == [Seat(1)]


def test_several_gpus_are_as_many_seats_which_may_stand_on_several_nodes() -> None:
    assert seats_of(space(gpus=2, cpus=4), [SMALL]) == [Seat(2, 1.0)] * 2
    assert (
        len(seats_of(space_with(name="six", recipe="mvdiffusion_mouse", trials=Resources(gpus=4, cpus=4)), [SMALL] * 2))
        == 4
    )


def test_needs_that_no_node_meets_are_refused_with_what_the_nodes_have() -> None:
    assert refusal([SMALL, PLAIN], gpus=1, needs={"gpu_memory_gb": 40}) == (
        "mine: expected a machine with gpu_memory_gb 40 (trials.needs), got small gpu_memory_gb 24; plain "
        "gpu_memory_gb unknown — lower it, or start nodes with `ray start --labels`; docs/cluster.md says how."
    )


def test_a_trial_that_no_qualifying_node_could_hold_is_refused() -> None:
    assert refusal([SMALL, LARGE], gpus=8, cpus=8) == (
        "mine: expected 8 processes with 1 CPU and 1 GPU for a trial, got none among 2 — change trials.cpus or "
        "trials.gpus, or set RAY_ADDRESS to a cluster that has it."
    )
    assert "expected a machine with 9 CPUs and 1 GPU" in refusal([SMALL], gpus=1, cpus=9)


def test_this_machine_says_what_it_has() -> None:
    assert this_machine().resources["CPU"] >= 1


@pytest.mark.parametrize(
    ("trials", "nodes", "gpus", "said"),
    [
        ({}, [SMALL, PLAIN], 1.0, "1 for each trial, as trials.gpus is not set: the cluster has 2"),
        (
            {"concurrent": 4, "count": 9},
            [SMALL],
            1.0,
            "1 for each trial, as trials.gpus is not set: the cluster has 2, so 2 of 4 trials can run at a time",
        ),
        ({"workers": 2}, [SMALL], 2.0, "2 for each trial, as trials.gpus is not set: the cluster has 2"),
        (
            {"workers": 4},
            [SMALL],
            0.0,
            "none for a trial: trials.workers 4 would take as many, and the cluster has 2",
        ),
        (
            {"needs": {"gpu_memory_gb": 40}},
            [SMALL, LARGE],
            1.0,
            "1 for each trial, as trials.gpus is not set: the cluster has 4",
        ),
        ({"gpus": 0}, [SMALL], 0.0, "none for a trial: trials.gpus is 0, though the cluster has 2 GPUs"),
    ],
)
def test_gpus_that_are_there_are_taken_unless_the_space_says_otherwise_and_both_are_said(
    trials, nodes, gpus, said
) -> None:
    share = share_of(space(**trials), nodes)
    assert (share.space.trials.gpus, share.said, share.surprising) == (gpus, said, True)


@pytest.mark.parametrize(
    ("trials", "gpus", "said"),
    [
        ({}, 0.0, "none for a trial: the cluster has none"),
        ({"gpus": 0}, 0.0, "none for a trial: trials.gpus is 0"),
        ({"gpus": 0.5}, 0.5, "0.5 for each trial"),
    ],
)
def test_what_a_space_asks_for_and_a_cluster_without_gpus_surprise_nobody(trials, gpus, said) -> None:
    share = share_of(space(**trials), [PLAIN])
    assert (share.space.trials.gpus, share.said, share.surprising) == (gpus, said, False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_gives_none_to_a_trial_whose_space_leaves_it_open() -> None:
    share = share_of(space(), None)
    assert (share.space.trials.gpus, share.said) == (0.0, "none for a trial: this machine has none")


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        (
            {"gpus": 2, "workers": 4},
            "trials.workers: expected one for each of 2 trials.gpus, got 4 — drop one of the two.",
        ),
        ({"gpus": 1.5}, "trials.gpus: expected a fraction below 1 or a whole number, got 1.5 — round it."),
        ({"workers": 2}, "trials.workers: train.batch_size: expected 1 × accumulate 1 scenes a step to divide among 2"),
    ],
)
def test_processes_that_cannot_be_are_refused_with_the_space(tmp_path, trials, message) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"recipe: gslrm_tiny\nspace: {{optim.lr: {{float: [1.0e-4, 1.0e-3]}}}}\ntrials: {trials}\n")
    with pytest.raises(SpaceError) as error:
        load_space(path)
    assert message in str(error.value)


def test_the_yaml_of_a_team_loads(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "recipe: gslrm_mouse\nspace: {optim.lr: {float: [1.0e-6, 1.0e-4]}}\n"
        "trials: {count: 40, concurrent: 4, gpus: 2, needs: {gpu_memory_gb: 40, ray.io/accelerator-type: H100}}\n"
    )
    trials = load_space(path).trials
    assert (trials.processes, trials.needs) == (2, {"gpu_memory_gb": 40.0, "ray.io/accelerator-type": "H100"})
