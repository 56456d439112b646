"""Which frames of a recording are taken, and that splits lie apart in time."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest

from pipeline.data.recording.frame_plan import JOINS, FramePlan, parse_frames
from pipeline.data.scenes import SPLITS
from pipeline.errors import DataError

LONG = 18_000


def choose(plan: FramePlan, num_frames: int = LONG, fps: float = 100.0) -> dict[str, tuple[int, ...]]:
    return plan.choose(num_frames, fps, "recording")


def taken(plan: FramePlan, num_frames: int = LONG) -> list[int]:
    return [frame for frames in choose(plan, num_frames).values() for frame in frames]


PLANS = {
    "default": FramePlan(),
    "count": FramePlan(count=777),
    "step": FramePlan(step=5),
    "window": FramePlan(step=3, start=4000, end=9000, guard=2.0),
    "listed": FramePlan(frames=tuple(range(100, 9000, 70)), guard=0.5),
    "joins": FramePlan(joins=(14_400, 16_200), guard=3.0),
    "random": FramePlan(split="random", seed=3),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_no_frame_is_in_two_splits_and_none_is_a_join(plan: FramePlan) -> None:
    frames = taken(plan)
    assert len(set(frames)) == len(frames) and not set(frames) & set(plan.joins)
    assert plan.start <= min(frames) and max(frames) < (plan.end or LONG)


@pytest.mark.parametrize("plan", [plan for name, plan in PLANS.items() if name != "random"])
def test_blocks_follow_one_another_and_keep_the_guard_within_a_take(plan: FramePlan) -> None:
    splits = choose(plan)
    for earlier, later in combinations(SPLITS, 2):
        last, first = splits[earlier][-1], splits[later][0]
        joined = any(last < join <= first for join in plan.joins)
        assert last < first and (joined or first - last >= 100 * plan.guard)
    share = {name: len(frames) / sum(map(len, splits.values())) for name, frames in splits.items()}
    assert share["train"] == pytest.approx(0.8, abs=0.05) and share["val"] == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("plan", [FramePlan(), FramePlan(step=9), FramePlan(split="random"), PLANS["joins"]])
def test_leakage_is_the_nearest_training_frame_of_the_same_take(plan: FramePlan) -> None:
    splits = choose(plan)

    def take(frame: int) -> int:
        return sum(join <= frame for join in plan.joins)

    by_hand = {
        name: min((abs(a - b) for a in splits["train"] for b in splits[name] if take(a) == take(b)), default=None)
        for name in ("val", "test")
    }
    assert plan.leakage(splits) == by_hand


def test_a_random_split_leaks_and_blocks_do_not() -> None:
    blocks, shuffled = FramePlan(step=8), FramePlan(step=8, split="random")
    assert shuffled.leakage(choose(shuffled)) == {"val": 8, "test": 8}
    assert blocks.leakage(choose(blocks))["val"] >= 100


def test_a_join_needs_no_guard() -> None:
    splits = choose(FramePlan(joins=(800,), guard=1.0), num_frames=1001)
    assert splits["train"][-1] == 799 and splits["val"][0] == 801


def test_the_default_takes_two_thousand_evenly_or_all_there_are() -> None:
    frames = taken(FramePlan())
    gaps = [b - a for a, b in pairwise(frames)]
    assert len(frames) == 2000 and sorted(gaps)[1990] <= 10
    assert len(taken(FramePlan(guard=0), num_frames=900)) == 900


@pytest.mark.parametrize("count", [3, 4, 11, 100, 1999, 17_797])
def test_as_many_frames_are_taken_as_were_asked_for(count: int) -> None:
    frames = choose(FramePlan(count=count))
    assert sum(map(len, frames.values())) == count and all(frames.values())


def test_a_step_counts_recording_frames() -> None:
    assert taken(FramePlan(step=100, start=50, guard=0))[:3] == [50, 150, 250]


def test_the_same_seed_shuffles_alike_and_another_does_not() -> None:
    one, same, other = (choose(FramePlan(split="random", seed=seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_joins_beyond_the_recording_do_not_matter() -> None:
    assert choose(FramePlan(), num_frames=5000) == choose(FramePlan(joins=()), num_frames=5000)


def test_a_recording_too_short_for_the_guard_says_which_guard_works() -> None:
    with pytest.raises(DataError, match=r"8, 0\.08 s\) — pass --guard 0, or at most --guard 0\.01\."):
        choose(FramePlan(), num_frames=8)
    for guard in (0, 0.01):
        assert [len(frames) for frames in choose(FramePlan(guard=guard), num_frames=8).values()] == [6, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 5, "step": 2}, "expected one of --count, --step, --frames, got --count and --step"),
        ({"step": 0}, "expected 1 or more, got --step 0"),
        ({"count": -1}, "expected 1 or more, got --count -1"),
        ({"count": 2}, "--count of at least 3, got 2"),
        ({"count": 18_000}, r"--count of at most 17\d\d\d usable frames, got 18000"),
        ({"guard": -1.0}, "--guard of 0 seconds or more"),
        ({"guard": float("nan")}, "--guard of 0 seconds or more"),
        ({"split": "time"}, "--split blocks or random, got 'time'"),
        ({"start": 9, "end": 9}, "expected 0 ≤ --start < --end ≤ 18000, got 9 and 9"),
        ({"end": 18_001}, "got 0 and 18001"),
        ({"frames": (1, 2, 2)}, "each frame once"),
        ({"frames": (1, 2, 18_000)}, "expected frames 0 to 17999, got 18000"),
        ({"frames": (1, 2, JOINS[0])}, "expected frames that are no joins, got 5900"),
        ({"frames": (1, 2)}, "at least 3 frames, got 2"),
    ],
)
def test_plans_that_cannot_be_are_refused(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose(FramePlan(**options))


def test_frames_of_the_command_line_are_numbers() -> None:
    assert parse_frames("4, 2,9") == (4, 2, 9)
    with pytest.raises(DataError, match="as in --frames 1,2,3, got 'x'"):
        parse_frames("1,x")
