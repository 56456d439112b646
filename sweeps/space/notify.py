"""Who is told of a sweep, as its space names them: environment variables, never the addresses that these hold."""

from __future__ import annotations

import re
from typing import Any

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def notify_problem(value: Any) -> str | None:
    """What is wrong with `notify`. Nothing of the value is repeated: it may be an address, which holds a secret."""
    if isinstance(value, list | tuple) and all(isinstance(one, str) and _NAME.fullmatch(one) for one in value):
        return None
    return (
        "expected a list of environment variables that hold addresses, got something else — an address is a secret, "
        "and a space is stored: export it as MICE_CHAT, say, and write notify: [MICE_CHAT]."
    )
