"""The history of a registered model's aliases: every change of `champion`, and every version that was refused it.

Entries are tags of the registered model, `history.000007.<token>`, each written once under a key of its own, so no
writer can replace another's. An entry is written *before* the alias it tells of. A process that was killed between
the two leaves an entry that did not take place; the next change finds that and says so in an entry of its own. Entries
about `champion` therefore form a chain: each begins where the one before it ended. Pure; knows no MLflow.
"""

from __future__ import annotations

import getpass
import json
import secrets
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
PROMOTE, ROLLBACK, FOUND = "promote", "rollback", "found"
_PREFIX = "history."
_REASON_LENGTH = 2000  # MLflow keeps 5,000 characters of a registered model's tag


@dataclass(frozen=True)
class Move:
    """One change of an alias; versions are numbers, None where there was or is none."""

    number: int
    when: str  # ISO 8601, UTC
    who: str  # user@host
    action: str  # promote, rollback, or found: somebody else's change, or one that a kill prevented
    alias: str
    before: int | None
    after: int | None
    previous: int | None  # with alias `previous` before it; of a `found`, once what it found is mended
    reason: str

    def as_tag(self) -> tuple[str, str]:
        """A key that nobody else writes, and the entry as JSON."""
        key = f"{_PREFIX}{self.number:06d}.{secrets.token_hex(4)}"
        return key, json.dumps(asdict(self) | {"reason": self.reason[:_REASON_LENGTH]})

    def as_plain(self) -> dict[str, Any]:
        """The form of `mouselift model history --json`."""
        return asdict(self)


def read_history(tags: Mapping[str, str]) -> list[Move]:
    """The entries among the tags of a registered model, oldest first."""
    return [Move(**json.loads(tags[key])) for key in sorted(tags) if key.startswith(_PREFIX)]


def championships(history: Iterable[Move]) -> list[Move]:
    """The entries about `champion`, oldest first."""
    return [move for move in history if move.alias == CHAMPION]


def timestamp(seconds: float) -> str:
    """Unix seconds as the history spells them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def signature() -> str:
    """Who is at work here: user@host."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
