"""The gate on many sets: those with a fault in them, and those without."""

from __future__ import annotations

import pytest

from benchmarks.planted_faults import rows

pytestmark = pytest.mark.faults


def test_no_planted_fault_is_exact_and_every_good_set_is() -> None:
    """Ten sorts of faults in two rigs; five rigs whose animals are many, few, small, large, or drawn in few pixels."""
    verdicts: dict[bool, list[object]] = {True: [], False: []}
    for row in rows():
        verdicts[str(row["what"]).startswith("good")].append(row["verdict"])
    assert (len(verdicts[True]), len(verdicts[False])) == (25, 20)
    assert set(verdicts[True]) == {"exact"}
    assert "exact" not in verdicts[False] and "approximate" not in verdicts[False]
