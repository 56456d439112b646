"""Files as disks, networks and strangers leave them: the same bytes with one thing wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

LARGEST_CHUNK = 4096  # bytes that are swapped, doubled or filled at a time, at most


def mutations(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """`count` files that came of one, by bit flips, truncation, swapped chunks, inserted zeros and doubled chunks in
    turn. The same seed gives the same files. A mutation may by chance leave the content as it is.

    content: not empty.
    """
    source = random.Random(seed)
    for number in range(count):
        yield MUTATIONS[number % len(MUTATIONS)](content, source)


def flip_bits(content: bytes, source: random.Random) -> bytes:
    """One to eight bits turned over."""
    changed = bytearray(content)
    for _ in range(source.randint(1, 8)):
        changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


def truncate(content: bytes, source: random.Random) -> bytes:
    """The end is missing; all of it, at the worst."""
    return content[: source.randrange(len(content))]


def swap_chunks(content: bytes, source: random.Random) -> bytes:
    """Two neighbouring chunks change places."""
    first, middle, last = sorted((_place(content, source), _place(content, source), _place(content, source)))
    first, last = max(first, middle - LARGEST_CHUNK), min(last, middle + LARGEST_CHUNK)
    return content[:first] + content[middle:last] + content[first:middle] + content[last:]


def insert_zeros(content: bytes, source: random.Random) -> bytes:
    """Zeros where a block was not written: between the bytes, or in their place."""
    place, length = _place(content, source), source.randint(1, LARGEST_CHUNK)
    return content[:place] + bytes(length) + content[place + source.choice((0, length)) :]


def double_chunk(content: bytes, source: random.Random) -> bytes:
    """A chunk that came twice."""
    place, length = _place(content, source), source.randint(1, LARGEST_CHUNK)
    return content[: place + length] + content[place:]


def _place(content: bytes, source: random.Random) -> int:
    """Anywhere; one time in three within the first 256 bytes, where headers are."""
    return source.randrange(min(len(content), 256) if source.randrange(3) == 0 else len(content))


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bits,
    truncate,
    swap_chunks,
    insert_zeros,
    double_chunk,
)
