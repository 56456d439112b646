"""The dated report on one sweep, Markdown: conclusions first, then evidence with run ids, settings, the next step."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import yaml

from dashboards.pages.markdown import code, fence, plain, table
from dashboards.research.conclusions import Conclusions, Noise, Target, by_reason, is_seed, measured_by
from dashboards.research.confirmed import confirmed_lines, confirmed_table
from dashboards.research.texts import Language, Texts
from dashboards.words import figure, setting, trial_name
from sweeps.book.journal import State
from sweeps.book.ledger import Ledger
from sweeps.book.record import Measured, SweepRecord, TrialRecord
from sweeps.book.remaining import going_on
from sweeps.conclusions.comparisons import Comparisons, comparisons_of, difference_in_words
from sweeps.conclusions.importance import LEAST_TRIALS, Importance
from sweeps.conclusions.pareto import front_of
from sweeps.space import words
from sweeps.space.plan import as_asked

ROWS, NAMES = 20, 8  # trials of a table; names in a sentence
_REASON = 250  # characters
_SEEDS = [1, 2, 3, 4]  # that the best setting is repeated with


def research_report(record: SweepRecord, importance: Importance, language: Language, charts: str) -> str:
    """The report on a sweep. charts: the name of the file beside it that has the charts."""
    told, found = Texts(language), Conclusions(record, importance)
    parts = [
        f"# {told('title', sweep=plain(record.ledger.name), point=point(found, told))}",
        _facts(record, told),
        f"## {told('conclusions')}",
        "\n".join(f"- {line}" for line in _conclusions(found, told)),
        f"## {told('evidence')}",
        *_evidence(found, told, charts),
        f"## {told('settings')}",
        *_settings(found),
        f"## {told('next')}",
        *(f"{number}. {step}" for number, step in enumerate(_next(found, told, charts), 1)),
    ]
    return "\n\n".join(parts) + "\n"


def point(found: Conclusions, told: Texts) -> str:
    """The main point in a few words: what the best trial reached, of how many."""
    best, objective = found.best, found.record.ledger.objective
    if best is None or objective is None:
        return told("none_within" if found.record.ledger.is_judged else "nothing")
    name, value = trial_name(best.trial.number), figure(best.trial.best_value)
    return told(
        "point", metric=code(objective.metric), value=value, trial=name, n=told.trials(len(found.record.trials))
    )


def day(seconds: float) -> str:
    """A date, as the local calendar has it."""
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d}"


def _facts(record: SweepRecord, told: Texts) -> str:
    ledger, unknown = record.ledger, told("unknown")
    counts = Counter(str(trial.state) for trial in ledger.trials.values())
    commit = ledger.tags.get("mlflow.source.git.commit", unknown)[:12]
    dirty = f" ({told('dirty')})" if ledger.tags.get("mlflow.source.git.dirty") == "true" else ""
    data = " ".join([ledger.tags.get("data.name", unknown), ledger.tags.get("data.digest", "")[:12]])
    return told(
        "facts",
        date=day(ledger.opened),
        state=str(ledger.state),
        counts=", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or told.trials(0),
        recipe=code(ledger.recipe),
        data=plain(data),
        commit=plain(commit) + dirty,
    )


# ---------------------------------------------------------------- conclusions


def _conclusions(found: Conclusions, told: Texts) -> Iterator[str]:
    objective = found.record.ledger.objective
    if found.best is None or objective is None:
        yield told("none_within" if found.record.ledger.is_judged else "nothing")
    else:
        trial = found.best.trial
        yield told(
            "best",
            trial=trial_name(trial.number),
            run=code(trial.run_id or told("unknown")),
            metric=code(objective.metric),
            value=figure(trial.best_value),
            step=trial.best_step,
            last=figure(trial.last_value),
            last_step=trial.last_step,
        )
        if found.stronger is not None:
            first = found.stronger.trial
            reached = {"value": figure(first.best_value), "step": first.best_step}
            yield told("stronger", trial=trial_name(first.number), state=str(first.state), **reached)
        yield from _how_sure(found, told, "chosen" if objective.mode == "max" else "chosen_min")
    yield from _front(found, told)
    yield from _mattered(found, told)
    if early := found.ended_early:
        reasons = ", ".join(f"{plain(rule)} {len(trials)}" for rule, trials in by_reason(early).items())
        yield told("early", n=len(early), all=len(found.record.trials), reasons=reasons)
    if found.targets:
        yield told("targets", targets="; ".join(_target(one, told) for one in found.targets))


def _how_sure(found: Conclusions, told: Texts, chosen: str) -> Iterator[str]:
    values, ledger = found.values, found.record.ledger
    if len(values) > 1:
        if not ledger.confirmed:
            yield told(chosen, n=sum(trial.state == State.COMPLETE for trial in ledger.searching))
        low, middle, high = map(figure, (min(values), statistics.median(values), max(values)))
        yield told("spread", n=len(values), low=low, high=high, median=middle)
    elif values:
        yield told("lone", n=1)
    if others := sum(len(group.trials) for group in found.record.by_protocol if group != found.alike):
        yield told("differently", n=told.trials(others))
    if ledger.confirm.is_made:
        yield from confirmed_lines(found.record, told)
    elif (seeds := found.repeated) is not None:
        params = ", ".join(code(f"{path} {setting(value)}") for path, value in seeds.params.items())
        yield told("seeds", settings=params, mean=figure(seeds.mean), sd=figure(seeds.sd), n=seeds.n)
    else:
        yield told("one_seed")
    if len(values) > 1:
        yield _apart(found, told)


def _apart(found: Conclusions, told: Texts) -> str:
    noise = found.noise
    if noise is None:
        return told("noise_none")
    tied = found.tied
    names = [trial_name(one.trial.number) for one in tied[:NAMES]]
    verdict = told("tied", trials=", ".join(names) + (f" … ({len(tied)})" if len(tied) > NAMES else ""))
    alone = told("told_best" if noise.sd is not None else "none_near")
    return f"{verdict if tied else alone} {_rule(noise, told)}"


def _rule(noise: Noise, told: Texts) -> str:
    if noise.sd is None:
        return told("noise_steps", limit=figure(noise.limit), n=noise.n)
    return told("noise_seeds", limit=figure(noise.limit), sd=figure(noise.sd), n=noise.n)


def _front(found: Conclusions, told: Texts) -> Iterator[str]:
    """Of several objectives: the trials of the front with their figures, and which of them is the knee."""
    front = front_of(found.record.ledger)
    if front is None:
        return
    objectives = ", ".join(code(one.metric) for one in front.objectives)
    if not front.trials:
        yield told("no_front", objectives=objectives)
        return
    named = [f"{trial_name(one.number)} ({', '.join(map(figure, front.values(one)))})" for one in front.trials[:NAMES]]
    more = f" … ({len(front.trials)})" if len(front.trials) > NAMES else ""
    knee = "–" if front.knee is None else trial_name(front.knee)
    n = told.trials(front.judged)
    yield told("front", objectives=objectives, trials=", ".join(named) + more, n=n, knee=knee)


def _mattered(found: Conclusions, told: Texts) -> Iterator[str]:
    objective, importance = found.record.ledger.objective, found.importance
    if (compared := comparisons_of(found.record)) is not None:
        yield from _compared(compared, told)
        return
    if not importance.shares or objective is None:
        yield told("mattered_not", note=_why(importance, told))
        return
    mattered = [path for path in importance.shares if importance.is_told(path)]
    where = {"n": importance.trials, "step": importance.step}
    if mattered:
        shares = ", ".join(f"{code(path)} {_share(importance, path)}" for path in mattered)
        yield told("mattered", settings=shares, metric=code(objective.metric), **where)
    else:
        yield told("mattered_nothing", **where)
    if rest := [path for path in importance.shares if path not in mattered]:
        yield told("not_told", settings=", ".join(map(code, rest)))


def _compared(found: Comparisons, told: Texts) -> Iterator[str]:
    """A line for each comparison of a plan, and the rule."""
    for one in found.comparisons:
        named = {"verdict": told(one.verdict), "effect": code(one.effect), "against": code(one.against)}
        mean, span = difference_in_words(one)
        n = {"seeds": len(one.seeds), "scenes": one.scenes}
        if mean:
            yield told("compared", metric=code(found.metric), mean=mean, span=span, **n, **named)
        else:
            yield told("not_compared", why=plain(one.why, _REASON), **named)
    yield told("compared_rule")


def _why(importance: Importance, told: Texts) -> str:
    if importance.trials < LEAST_TRIALS and importance.step is not None:
        return told("too_few", n=told.trials(importance.trials), step=importance.step, least=LEAST_TRIALS)
    return plain(importance.note, _REASON)


def _share(importance: Importance, path: str) -> str:
    low, high = importance.spread[path]
    return f"{importance.shares[path]:.0%} ({low:.0%} – {high:.0%})"


def _target(one: Target, told: Texts) -> str:
    gate = one.result.gate
    wanted = f"{code(gate.metric)} {gate.target}"
    if not one.is_measured:
        return f"{wanted}: {told('unmeasured')}"
    return f"{wanted}: {one.result.figure}, {told('reached' if one.result.passed else 'missed')}"


# ---------------------------------------------------------------- evidence


def _evidence(found: Conclusions, told: Texts, charts: str) -> Iterator[str]:
    metric = found.record.ledger.objective.metric if found.record.ledger.objective else ""
    for group in found.record.by_protocol:
        protocol = code(group.protocol) if group.protocol else told("untold_protocol")
        yield f"### {told('alike', protocol=protocol, words=code(measured_by(group), _REASON))}"
        yield _trials(group, found.record.ledger, metric, told)
        if len(group.trials) > ROWS:
            yield told("more", n=len(group.trials) - ROWS, file=f"[{plain(charts)}]({charts})")
    if found.record.ledger.confirmed:
        yield f"### {told('confirmed_title')}"
        yield confirmed_table(found.record.ledger, told)
    if found.importance.shares and not words.follows_plan(found.record.ledger.space):
        yield f"### {told('importance')}"
        yield _importance(found.importance, told)
    if early := found.ended_early:
        yield f"### {told('ended_early')}"
        yield _early(early, told)
    if found.targets:
        yield f"### {told('targets_title')}"
        yield targets_table([(one, "") for one in found.targets], told)


def _trials(group: Measured, ledger: Ledger, metric: str, told: Texts) -> str:
    columns = [told("trial"), told("state"), told("best_of", metric=code(metric)), told("at")]
    columns += [told("last_of", metric=code(metric)), told("steps"), told("values"), told("run")]
    rows = []
    for one in group.trials[:ROWS]:
        trial = one.trial
        params = ", ".join(code(f"{path} {setting(value)}") for path, value in trial.params.items())
        if trial.confirms is not None:
            params = f"{told('confirms', trial=trial_name(trial.confirms))}: {params}"
        if trial.best_value is not None and ledger.unmet(trial):
            params = f"{told('breaks')}: {params}"
        best_step = "" if trial.best_step is None else str(trial.best_step)
        row = [trial_name(trial.number), str(trial.state), figure(trial.best_value), best_step]
        row += [figure(trial.last_value), str(max(0, trial.last_step)), params, code(trial.run_id or "")]
        rows.append(row)
    return table(columns, rows, numbers=(2, 3, 4, 5), gap="")


def _importance(found: Importance, told: Texts) -> str:
    columns = [told(key) for key in ("setting", "share", "tree_spread", "chance", "among", "verdict")]
    rows = []
    for path, share in found.shares.items():
        low, high = found.spread[path]
        verdict = told("matters" if found.is_told(path) else "by_chance")
        among = str(found.partial.get(path, found.trials))
        rows.append(
            [code(path), f"{share:.3f}", f"{low:.3f} – {high:.3f}", f"{found.chance[path][1]:.3f}", among, verdict]
        )
    note = f"\n\n{plain(found.note, _REASON)}" if found.note else ""
    return table(columns, rows, numbers=(1, 2, 3, 4), gap="") + note


def _early(early: Sequence[TrialRecord], told: Texts) -> str:
    rows = []
    for rule, trials in by_reason(early).items():
        names = ", ".join(trial_name(one.trial.number) for one in trials[:NAMES]) + (
            " …" if len(trials) > NAMES else ""
        )
        reason = plain(trials[0].trial.reason or told("no_reason"), _REASON)
        rows.append([plain(rule), str(len(trials)), names, reason])
    columns = [told(key) for key in ("reason", "how_often", "trial", "for_example")]
    return table(columns, rows, numbers=(1,), gap="")


def targets_table(targets: Sequence[tuple[Target, str]], told: Texts) -> str:
    """Targets against what was reached. The text beside each says by whom; the column is left out where none has."""
    columns = [told(key) for key in ("target", "value", "at", "span", "verdict")]
    named = any(by for _, by in targets)
    rows = []
    for one, by in targets:
        gate = one.result.gate
        span = f"{figure(one.low)} – {figure(one.high)} (n = {one.n})" if one.n else ""
        verdict = told("unmeasured" if not one.is_measured else "reached" if one.result.passed else "missed")
        value = one.result.figure if one.is_measured else "–"
        row = [f"{code(gate.metric)} {gate.target}", value, str(one.step or ""), span, verdict]
        rows.append([*row, by] if named else row)
    return table([*columns, told("by")] if named else columns, rows, numbers=(1, 2), gap="")


# ---------------------------------------------------------------- settings and next step


def _settings(found: Conclusions) -> Iterator[str]:
    ledger = found.record.ledger
    known = ("data.name", "data.digest", "data.geometry", "fingerprint", "mlflow.source.git.commit")
    tags = {key: ledger.tags[key] for key in known if key in ledger.tags}
    yield fence(["# space.yaml", *_yaml(_said(ledger.space))])
    yield "\n".join(f"- {plain(key)}: {code(value, _REASON)}" for key, value in tags.items())


def _next(found: Conclusions, told: Texts, charts: str) -> Iterator[str]:
    ledger, best = found.record.ledger, found.best
    name = shlex.quote(ledger.name)
    if ledger.state == State.RUNNING:
        yield f"{told('watch')}\n\n{fence([f'mouselift sweep status {name}'])}"
    elif ledger.state != State.COMPLETE:
        yield f"{told('go_on')}\n\n{fence([going_on(ledger)])}"
    if best is not None and found.one_seed and not ledger.confirm.is_made:
        file = f"{ledger.name}-seeds.yaml"
        again = [f"mouselift sweep run {shlex.quote(file)} --name {shlex.quote(ledger.name + '-seeds')}"]
        yield f"{told('repeat', file=code(file))}\n\n{fence(_yaml(_seeds(found)))}\n\n{told('then')}\n\n{fence(again)}"
    for path in found.edges:
        searched = ledger.space["space"][path]
        ends = searched.get("choice") or searched.get("float") or searched.get("int")
        value = setting(best.trial.params[path]) if best is not None else ""
        yield told("edge", setting=code(path), value=value, ends=" – ".join(map(setting, (min(ends), max(ends)))))
    if best is not None and found.still_improving:
        yield told("longer", step=best.trial.last_step)
    is_search = not words.follows_plan(ledger.space)
    if is_search and ledger.searched and found.importance.trials < LEAST_TRIALS and ledger.state == State.COMPLETE:
        count = max(LEAST_TRIALS, 2 * ledger.asked)
        more = fence([f"mouselift sweep resume {name} --trials {count}"])
        yield f"{told('more_trials', least=LEAST_TRIALS)}\n\n{more}"
    idle = [path for path in found.importance.shares if not (found.importance.is_told(path) or is_seed(path))]
    if is_search and idle:
        yield told("drop", settings=", ".join(map(code, idle)))
    if best is not None and best.trial.state == State.COMPLETE:
        yield f"{told('promote')}\n\n{fence([f'mouselift model promote {name}'])}"
    yield told("look", file=f"[{plain(charts)}]({charts})")


def _seeds(found: Conclusions) -> dict[str, Any]:
    """The space that repeats the best setting with other seeds."""
    ledger = found.record.ledger
    fixed = ledger.space.get("fixed", {}) | (found.best.trial.params if found.best is not None else {})
    return {
        "recipe": ledger.recipe,
        "fixed": {path: value for path, value in fixed.items() if path != "train.seed"},
        "space": {"train.seed": {"choice": list(_SEEDS)}},
        "objective": ledger.space.get("objective", {}),
        **({"constraints": bounds} if (bounds := ledger.space.get("constraints")) else {}),
        "sampler": {"kind": "grid"},
        "trials": {"count": len(_SEEDS)},
    }


def _said(space: Mapping[str, Any]) -> dict[str, Any]:
    """A space without what it leaves open, and without the runs that its plan made."""
    space = as_asked(space)
    kept = {
        key: space[key]
        for key in ("recipe", "fixed", "plan", "confirm", "space", "objective", "sampler", "scheduler", "gates")
        if key in space and (key != "plan" or words.follows_plan(space)) and (key != "confirm" or space[key]["seeds"])
    }
    trials = {"trials": {"count": space["trials"]["count"]}} if "count" in space.get("trials", {}) else {}
    searched = {
        path: {key: value for key, value in one.items() if value not in (None, False, {})}
        for path, one in kept.get("space", {}).items()
    }
    return kept | {"space": searched} | trials


def _yaml(values: Mapping[str, Any]) -> list[str]:
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
    return text.splitlines()
