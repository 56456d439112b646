"""The aliases of one registered model and their history: how they change, and how a change cut by a kill is completed.

An alias moves by one write of MLflow's, which is whole or not at all. A promotion writes, in this order, the entry of
the history, `previous`, `champion`, and removes `challenger`; a rollback the entry, `champion`, `previous`. Wherever a
kill falls, `champion` is the old version or the new one, and the last entry of the history says which of the other
writes are due: the next change makes them before it begins its own.

The history holds every change of `champion`, and every version that became challenger instead. Entries are tags of the
registered model, `mlflow.mouselift.history.000007.<token>`, which MLflow's pages do not show
(those of earlier releases are `history.…`). Each is written once under a key of its own: no writer replaces another's.
An entry is written *before* the alias it tells of. A process that was killed between the two leaves an entry that did
not take place; the next change finds that and says so in an entry of its own. Entries about `champion` therefore form
a chain: each begins where the one before it ended.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.config import did_you_mean
from pipeline.machine.account import user_name
from sweeps.errors import RegistryError
from sweeps.registry.lock import Turn

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
PROMOTE, ROLLBACK, FOUND = "promote", "rollback", "found"
SEE_LIST = " — see `mouselift model list`."
_PREFIX = "mlflow.mouselift.history."  # MLflow's pages show no tag whose name begins with `mlflow.`
_PLAIN_PREFIX = "history."  # of earlier releases
_REASON_LENGTH = 2000  # MLflow keeps 5,000 characters of a registered model's tag
# How MLflow says that there is nothing of a name.
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
T = TypeVar("T")


@dataclass(frozen=True)
class Move:
    """One change of an alias; versions are numbers, None where there was or is none."""

    number: int
    when: str  # ISO 8601, UTC
    who: str  # user@host
    action: str  # promote, rollback, or found: a change made without mouselift, or one that a kill prevented
    alias: str
    before: int | None
    after: int | None
    previous: int | None  # the version with alias `previous` before the change; in a `found`, after the repair
    reason: str

    def as_tag(self) -> tuple[str, str]:
        """The tag's key, which is no other entry's, and the entry as JSON."""
        key = f"{_PREFIX}{self.number:06d}.{secrets.token_hex(4)}"
        return key, json.dumps(asdict(self) | {"reason": self.reason[:_REASON_LENGTH]})


@dataclass(frozen=True)
class Standing:
    """A registered model at one moment: alias -> version, the history, and the versions there are."""

    name: str
    aliases: dict[str, int]
    history: list[Move]
    versions: frozenset[int]

    @property
    def champion(self) -> int | None:
        return self.aliases.get(CHAMPION)

    @property
    def previous(self) -> int | None:
        return self.aliases.get(PREVIOUS)

    @property
    def vacancy(self) -> str:
        """A message where the champion was deleted, else "": MLflow drops an alias with the version it points to."""
        last = next((move.after for move in reversed(championships(self.history)) if move.after is not None), None)
        if self.champion is not None or last is None or last in self.versions:
            return ""
        or_back = f", or `mouselift model rollback {self.name}` makes {self.previous} champion again"
        way_out = f"promote a version{or_back if self.previous is not None else ''}"
        return f"{self.name}@{CHAMPION}: expected version {last}, which was champion, got a deleted one — {way_out}."


class ModelTags:
    """The tags of a registered model, where its lock is."""

    def __init__(self, client: MlflowClient, name: str) -> None:
        self._client, self._name = client, name

    def read(self) -> dict[str, str]:
        return self._ask(lambda: dict(self._client.get_registered_model(self._name).tags))

    def write(self, key: str, value: str) -> None:
        self._ask(lambda: self._client.set_registered_model_tag(self._name, key, value))

    def erase(self, key: str) -> None:
        self._ask(lambda: self._client.delete_registered_model_tag(self._name, key))

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except MlflowException as error:
            raise ConnectionError(f"{self._name}: {error}") from error


class Aliases:
    """Reads and changes the aliases of `name`; a change needs a turn. `clock` gives unix seconds."""

    def __init__(self, client: MlflowClient, name: str, clock: Callable[[], float]) -> None:
        self._client, self._name, self._clock = client, name, clock

    def standing(self) -> Standing:
        """Raises RegistryError for a name that is not registered."""
        try:
            model = self._client.get_registered_model(self._name)
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            raise unknown(self._name, [one.name for one in self._client.search_registered_models()]) from None
        found = self._client.search_model_versions(f"name='{self._name}'")
        aliases = {alias: int(version) for alias, version in model.aliases.items()}
        versions = frozenset(int(one.version) for one in found)
        return Standing(self._name, aliases, read_history(dict(model.tags)), versions)

    def complete(self, turn: Turn) -> Standing:
        """Finish or undo what a killed change left, and enter in the history what was changed without mouselift."""
        now = self.standing()
        last = next(reversed(championships(now.history)), None)
        doubled = now.champion is not None and now.previous == now.champion
        due = _due(last, now) if doubled else now.previous
        changed = (last.after if last else None) != now.champion
        if changed:
            self._write(turn, now, FOUND, CHAMPION, now.champion, _found(last, now), due)
        if doubled:
            self._point(turn, PREVIOUS, due)
        crowned = now.champion is not None and now.aliases.get(CHALLENGER) == now.champion
        if crowned:
            self._point(turn, CHALLENGER, None)
        return self.standing() if changed or doubled or crowned else now

    def require(self, turn: Turn, before: Standing) -> None:
        """Raises RegistryError when the champion is another than before: it may have been changed without a turn."""
        turn.check()
        now = self.standing().champion
        if now != before.champion:
            raise RegistryError(
                f"{self._name}: expected the champion to stay {_number(before.champion)} while it was compared, got "
                f"{_number(now)}, set by no command of mouselift — run the command again."
            )

    def crown(self, turn: Turn, before: Standing, version: int, reason: str) -> None:
        """Make `version` champion, and the champion `previous`."""
        self.require(turn, before)
        self._write(turn, before, PROMOTE, CHAMPION, version, reason, before.previous)
        if before.champion is not None:
            self._point(turn, PREVIOUS, before.champion)
        self._point(turn, CHAMPION, version)
        if before.aliases.get(CHALLENGER) == version:
            self._point(turn, CHALLENGER, None)

    def challenge(self, turn: Turn, before: Standing, version: int, reason: str) -> None:
        """Make `version` challenger."""
        self._write(turn, before, PROMOTE, CHALLENGER, version, reason, before.previous)
        self._point(turn, CHALLENGER, version)

    def restore(self, turn: Turn, before: Standing, version: int, reason: str) -> None:
        """Make `version`, which is `previous`, champion, and the champion `previous`."""
        self.require(turn, before)
        self._write(turn, before, ROLLBACK, CHAMPION, version, reason, before.previous)
        self._point(turn, CHAMPION, version)
        self._point(turn, PREVIOUS, before.champion)

    def _write(
        self, turn: Turn, now: Standing, action: str, alias: str, after: int | None, reason: str, previous: int | None
    ) -> None:
        last = next(reversed(championships(now.history)), None)
        before = now.aliases.get(alias) if action != FOUND else (last.after if last else None)
        number = 1 + max((move.number for move in now.history), default=0)
        when = timestamp(self._clock())
        move = Move(number, when, signature(), action, alias, before, after, previous, reason)
        turn.check()
        self._client.set_registered_model_tag(self._name, *move.as_tag())

    def _point(self, turn: Turn, alias: str, version: int | None) -> None:
        turn.check()
        if version is None:
            self._client.delete_registered_model_alias(self._name, alias)
        else:
            self._client.set_registered_model_alias(self._name, alias, str(version))


def read_history(tags: Mapping[str, str]) -> list[Move]:
    """The entries among the tags of a registered model, oldest first."""
    entries = {
        key.removeprefix(_PREFIX).removeprefix(_PLAIN_PREFIX): text for key, text in tags.items() if _is_entry(key)
    }
    return [Move(**json.loads(entries[key])) for key in sorted(entries)]


def _is_entry(key: str) -> bool:
    return key.startswith((_PREFIX, _PLAIN_PREFIX))


def championships(history: Iterable[Move]) -> list[Move]:
    """The entries about `champion`, oldest first."""
    return [move for move in history if move.alias == CHAMPION]


def timestamp(seconds: float) -> str:
    """Unix seconds as the history spells them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def signature() -> str:
    """The user and the machine of this process: user@host."""
    return f"{user_name()}@{socket.gethostname()}"


def unknown(name: str, known: list[str]) -> RegistryError:
    """The error of a name that no registered model has."""
    named, hint = ", ".join(known) or "none yet", did_you_mean(name, known) or SEE_LIST
    return RegistryError(f"{name}: expected a registered model ({named}), got {name}{hint}")


def _due(last: Move | None, now: Standing) -> int | None:
    """The version that is to be `previous` once the last move is finished, or undone where it did not take place."""
    if last is None:
        return None
    finished = last.after == now.champion and last.action != FOUND
    due = last.before if finished else last.previous
    return due if due in now.versions and due != now.champion else None


def _found(last: Move | None, now: Standing) -> str:
    """How the champion came to be another than the history says."""
    if last is None:
        return "it was champion before the history began"
    if last.before == now.champion and last.after in now.versions:
        return f"the {last.action} of entry {last.number} was ended before it took place"
    if now.champion is None and last.after not in now.versions:
        return f"version {last.after} was deleted by no command of mouselift"
    return "it was changed by no command of mouselift"


def _number(version: int | None) -> str:
    return "none" if version is None else str(version)
