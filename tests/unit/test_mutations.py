"""The mutated files that readers are tried with: as many as asked for, the same for a seed, and nearly all changed."""

from __future__ import annotations

import random

import pytest

from tests.support.mutations import MUTATIONS, mutations

CONTENT = random.Random(0).randbytes(10_000)


def test_a_seed_gives_the_same_files_again() -> None:
    assert list(mutations(CONTENT, 3, 20)) == list(mutations(CONTENT, 3, 20)) != list(mutations(CONTENT, 4, 20))


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_mutation_changes_nearly_every_file(mutation) -> None:
    source = random.Random(1)
    assert sum(mutation(CONTENT, source) != CONTENT for _ in range(100)) >= 95


@pytest.mark.parametrize("content", [b"a", b"ab", CONTENT])
def test_files_of_any_length_are_mutated(content: bytes) -> None:
    assert len(list(mutations(content, 0, 50))) == 50
