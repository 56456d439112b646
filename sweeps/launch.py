"""Launching a sweep: checked, started, and run to its end, for the command line and for scripts alike.

It stands on top of the rooms and below `cli`. What takes seconds overlaps: the dry run's process starts first and
imports while this one reads and imports; Ray starts while the two steps run. So this module imports late, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.progress import silent
from sweeps.errors import StudyError
from sweeps.home import Home, timed_name
from sweeps.own_process import OF_OTHERS, handled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from pipeline.progress import Tell
    from sweeps.book.ledger import Ledger
    from sweeps.preflight.checks import Readiness
    from sweeps.run.driver import Listener
    from sweeps.run.nodes import Node
    from sweeps.run.ray_session import Ray
    from sweeps.space.budget import Raised
    from sweeps.space.space import SearchSpace
    from sweeps.tracking.pages import Pages


def run_sweep(
    space: SearchSpace,
    name: str | None = None,
    data: str | Path | None = None,
    home: Home | None = None,
    listen: Listener | None = None,
    pages: Pages | None = None,
) -> Ledger:
    """Check a space as `mouselift sweep run` does, run its trials, and return what the journal then says.

    name: of the sweep; its space and the time, if None. data: a dataset's folder or registered name, for data.root.
    home: that of the environment, if None. listen: called with each event once it is safe in the journal, from threads
    of the sweep too; what it raises ends the sweep. pages: makes the descriptions and the report that MLflow shows, as
    `dashboards.MlflowPages()` does; without it MLflow has the figures and files alone.

    Raises PipelineError or SweepError, of one line, for what the commands refuse. A sweep that is ended before its time
    is returned, too: its `state` is KILLED or FAIL, its `reason` says why, and `resume_sweep` goes on with it. Ctrl-C
    and the other signals of `own_process.ENDING` end it so, in good order; during the checks Ctrl-C is a
    KeyboardInterrupt, and another signal a SystemExit. That holds in the main thread:
    called in another, the sweep hears no signal, and `mouselift sweep stop` ends it.
    """
    with Launch(home, Audience(listen, pages)) as launch:
        return launch.new(launch.on_data(space, data), name)


def resume_sweep(
    name: str,
    trials: int | None = None,
    home: Home | None = None,
    listen: Listener | None = None,
    pages: Pages | None = None,
    raised: Raised | None = None,
) -> Ledger:
    """Go on with an interrupted sweep: the same trials, from their last checkpoints, in the same runs.

    trials: how many in all, if more than at first. raised: what it may spend in all, if more. Otherwise as `run_sweep`;
    raises StudyError, too, where there is no such sweep, where it runs, where nothing is left to do, and where its
    budget holds no further trial.
    """
    with Launch(home, Audience(listen, pages)) as launch:
        return launch.resume(name, trials, raised)


def sweep_status(name: str, home: Home | None = None) -> dict[str, Any]:
    """How far a sweep is, as `mouselift sweep status --json` prints it. A sweep whose driver died is closed first.

    Raises StudyError when the home has no such sweep.
    """
    from sweeps.run.orphans import reap
    from sweeps.tracking import queries

    home = home or home_of_environment()
    Audience().closed(reap(home))
    return queries.status(home, name)


def home_of_environment() -> Home:
    """Where the environment says that state is kept."""
    return Home.from_environment(os.environ)


def with_registered_start(space: SearchSpace, home: Home) -> SearchSpace:
    """The space with `train.init_from: NAME@ALIAS`, or NAME/VERSION, as the folder that this version is pulled to.

    Raises RegistryError for a model, version or alias that is not there.
    """
    from sweeps.registry.named import names_version

    source = space.base.train.init_from
    if source is None or "train.init_from" in space.space or not names_version(source):
        return space
    from sweeps.registry.registry import Registry

    registry = Registry(home)
    version = registry.resolve(source)
    folder = registry.pull(version.ref, home.root / "models" / version.ref)
    return space.with_fixed({"train.init_from": str(folder)})


def looked_up(space: SearchSpace, home: Home) -> SearchSpace:
    """The space with what it names of a home in its place: registered weights to start from, and for a plan that
    replicates another sweep that sweep's best settings.

    Raises RegistryError and SpaceError for what is not there, StudyError for a sweep that is not there.
    """
    space = with_registered_start(space, home)
    if space.plan.kind != "replicate" or space.plan.of is None or space.enqueue:
        return space
    from sweeps.book.ledger import ledger_of
    from sweeps.conclusions.replicates import with_the_best_of

    return with_the_best_of(space, ledger_of(home, space.plan.of))


def asks_cluster(space: SearchSpace, home: Home) -> bool:
    """Whether a cluster is to be asked how many GPUs it has, because the space leaves that open.

    Raises StudyError for a cluster that does not answer.
    """
    if space.trials.gpus is not None or home.ray_address is None:
        return False
    from sweeps.run.nodes import require_cluster

    require_cluster(home.ray_address)
    return True


def nodes_of(ray: Ray) -> list[Node]:
    """The machines of a cluster, once this process is connected to it. Raises StudyError for one that refuses us."""
    from sweeps.run.ray_session import nodes_of_cluster

    ray.ready()
    return nodes_of_cluster()


@dataclass(frozen=True)
class Audience:
    """Who hears how a launch goes, in this order, and what makes the pages that others read of it.

    This one hears the events, and logs which sweeps were closed.
    """

    listen: Listener | None = None
    pages: Pages | None = None

    def said(self, line: str) -> None:
        """Something begins that takes a minute."""
        logging.getLogger(__name__).warning("%s", line)

    def checking(self) -> AbstractContextManager[Tell]:
        """What hears how many of the checks are made, for as long as they are."""
        return contextlib.nullcontext(silent)

    def checked(self, ready: Readiness) -> None:
        """Every check was passed; its notes may be a surprise."""
        for line in ready.notes:
            logging.getLogger(__name__).warning("%s", line)

    def closed(self, lines: list[str]) -> None:
        """Sweeps of this home were found without a driver, and closed: a line each."""
        for line in lines:
            logging.getLogger(__name__).warning("%s", line)

    def running(self, ready: Readiness, earlier: Ledger) -> AbstractContextManager[Listener]:  # noqa: ARG002
        """The listener, for as long as the trials run. earlier: what sessions before this one knew of the sweep."""
        return contextlib.nullcontext(self.listen or (lambda _: None))


class Launch(contextlib.AbstractContextManager["Launch"]):
    """One launch; the dry run's process starts on entering, so that what is read and imported next costs no time."""

    def __init__(self, home: Home | None, audience: Audience) -> None:
        from sweeps.preflight.dry_run_process import DryRunProcess

        self._home, self._audience = home or home_of_environment(), audience
        self._process = DryRunProcess()

    def __enter__(self) -> Launch:
        self._process.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.__exit__(*error)

    def on_data(self, space: SearchSpace, data: str | Path | None) -> SearchSpace:
        """The space on another dataset. Raises RegistryError for a name that is not registered."""
        if data is None:
            return space
        from sweeps.datasets import resolve

        return space.with_fixed({"data.root": str(resolve(self._home, data))})

    def new(self, space: SearchSpace, name: str | None, tags: Mapping[str, str] | None = None) -> Ledger:
        """A new sweep, run to its end. tags: beside those of data and artefacts, which the checks find.

        Raises StudyError for a name that a sweep has.
        """
        from sweeps.reuse.warm_start import require_alike
        from sweeps.run.resume import check_is_new

        name = name or timed_name(space.name, datetime.now())
        located = looked_up(space, self._home).located()
        check_is_new(self._home, name, located)
        require_alike(self._home, located)
        return self._run(located, name, tags or {})

    def new_or_resumed(self, space: SearchSpace, name: str | None) -> Ledger:
        """The sweep of this name and space: begun, gone on with, or as it ended. The same call serves a job each time
        that it is queued. Raises StudyError without a name, and for one that a sweep of another space has.
        """
        from sweeps.run.resume import begun, resumable

        if name is None:
            raise StudyError("--resume: expected the sweep's --name, got none — name what is to be gone on with.")
        ledger = begun(self._home, name, self._as_begun(name, space).located())
        if ledger is None:
            return self.new(space, name)
        if ledger.state == "COMPLETE":
            return ledger
        return self._run(replace(resumable(self._home, name), notify=space.notify), name, {})

    def _as_begun(self, name: str, space: SearchSpace) -> SearchSpace:
        """The space as a sweep of this name would have it: what it replicates is looked up once, when it begins."""
        from sweeps.book.journal import Journal
        from sweeps.book.ledger import read
        from sweeps.space.plan import settings_asked

        begun = read(Journal(self._home.journal(name))).space
        if space.plan.kind == "replicate" and begun.get("plan", {}).get("kind") == "replicate":
            space = space.running(settings_asked(begun))
        return looked_up(space, self._home)

    def resume(self, name: str, trials: int | None, raised: Raised | None = None) -> Ledger:
        """A sweep that was interrupted, run to its end."""
        from sweeps.run.resume import resumable

        return self._run(resumable(self._home, name, trials, raised), name, {})

    def _run(self, space: SearchSpace, name: str, tags: Mapping[str, str]) -> Ledger:
        from pipeline.metrics import DEFINITIONS
        from sweeps.book.journal import Journal
        from sweeps.book.ledger import read
        from sweeps.preflight.checks import preflight
        from sweeps.reuse.warm_start import FIGURES, past_of
        from sweeps.run.resume import check_same_files, steps_so_far

        home, audience = self._home, self._audience
        earlier = read(Journal(home.journal(name)))
        with handled(numbers=OF_OTHERS), contextlib.ExitStack() as stack:
            started: list[Ray] = []

            def start_ray() -> None:
                """Ray, and what runs trials, while the two steps run: each of the three takes seconds."""
                from sweeps.run.ray_session import Ray

                started.append(stack.enter_context(Ray(home)))
                import sweeps.run.tune  # noqa: F401

            nodes = None
            if asks_cluster(space, home):
                start_ray()
                nodes = nodes_of(started[0])
            resumed = steps_so_far(earlier) if earlier.name else None
            meanwhile = (lambda: None) if started else start_ray
            with audience.checking() as tell:
                ready = preflight(space, home, resumed, meanwhile, self._process, nodes, audience.said, tell)
            ready = replace(ready, tags=ready.tags | {FIGURES: str(DEFINITIONS)})
            past, said = ((), []) if earlier.name else past_of(home, ready.space, ready.tags)
            audience.checked(replace(ready, notes=(*ready.notes, *said)))
            started[0].ready()
            from sweeps.run.orphans import reap  # imports MLflow and Ray
            from sweeps.run.tune import conduct
            from sweeps.tracking.notices import announced

            if earlier.name:
                check_same_files(earlier, ready.tags)
            audience.closed(reap(home, audience.pages))
            names, stall = (
                ready.space.notify,
                ready.space.faults.hang_minutes * 60 / 2,
            )  # before a silent trial is killed
            settled = name, ready.space, ready.recipe, {**ready.tags, **tags}, home
            with (
                audience.running(ready, earlier) as shown,
                announced(shown, names, os.environ, earlier, stall) as listen,
            ):
                return conduct(*settled, listen, started[0], audience.pages, past)
