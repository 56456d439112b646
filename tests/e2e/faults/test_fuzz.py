"""Over 2,000 damaged files, each read within 10 s and 2 GiB: the whole file, another good one, or one line."""

from __future__ import annotations

import pytest

from tests.support.fuzz import COUNT, COUNTS, formats, run_apart

pytestmark = pytest.mark.faults
NAMES = list(formats())


def test_the_ring_is_large() -> None:
    assert sum(COUNTS.get(name, COUNT) for name in NAMES) >= 2000


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_or_refused(name: str) -> None:
    count = COUNTS.get(name, COUNT)
    row = run_apart(name, count)
    assert (row.inputs, row.faults) == (count, ())
    assert row.equal + row.accepted + row.refused == count
