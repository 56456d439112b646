"""One trial, as the journal adds it up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sweeps.book import journal as events
from sweeps.book.journal import State
from sweeps.space.objective import over_a_trial


@dataclass(frozen=True)
class Trial:
    """One trial, over all its attempts."""

    number: int
    attempt: int = 0  # 0: proposed, and never begun
    state: State = State.WAITING
    reason: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    run_id: str | None = None
    ray_trial_id: str = ""
    last_step: int = -1
    resumed_at: int = -1  # the last step an earlier attempt had reported
    best_value: float | None = None
    best_step: int | None = None
    last_value: float | None = None  # the objective when it was last reported
    curve: tuple[tuple[int, float], ...] = ()  # step and objective, as first reported, where finite
    at_best: dict[str, float] = field(default_factory=dict)  # validated figures of several aims, at `best_step`
    costs: dict[str, tuple[float, ...]] = field(default_factory=dict)  # those of the aims, of each report
    faults: tuple[str, ...] = ()  # the action taken after each, of faults.Action
    fault: events.AttemptFailed | None = None  # of the last attempt, until another one starts
    released: str | None = None  # the folder of its best checkpoint, once it is COMPLETE
    gaussians: str | None = None  # the folder of its Gaussians to be looked at, once it is COMPLETE or PRUNED
    last_event_time: float = 0.0  # unix seconds of its last opening or report
    taken_from: str = ""  # `SWEEP t0003`, where it was trained; empty where this sweep trains it
    continued_from: str = ""  # `SWEEP t0003`, where its first steps were made
    steps_elsewhere: int = 0  # how many these were
    confirms: int | None = None  # the trial of the search whose settings it has, with another seed

    @property
    def begun(self) -> bool:
        return self.attempt > 0

    @property
    def steps_made(self) -> int:
        """Optimizer steps that this sweep made."""
        return 0 if self.taken_from else max(0, self.last_step - self.steps_elsewhere)

    @property
    def ran_until_the_end(self) -> bool:
        """Whether an end of its sweep is its end, too."""
        return self.begun and self.state.is_open

    @property
    def lacks_release(self) -> bool:
        """Whether its best checkpoint is still to be released, which a resumed sweep does."""
        return self.state == State.COMPLETE and self.released is None

    @property
    def lacks_gaussians(self) -> bool:
        """Whether its Gaussians are still to be kept, as far as it left some, which a resumed sweep does."""
        return self.state in (State.COMPLETE, State.PRUNED) and self.gaussians is None

    @property
    def figures(self) -> dict[str, float]:
        """What objectives and constraints name: of its best checkpoint, and over the trial what it cost; empty where
        its sweep has one objective alone.
        """
        costs = {metric: over_a_trial(metric, values) for metric, values in self.costs.items()}
        return self.at_best | {metric: value for metric, value in costs.items() if value is not None}

    @property
    def splits(self) -> int:
        """Parts in which each batch goes through the network, after running out of memory so often."""
        return 2 ** self.faults.count("halve")
