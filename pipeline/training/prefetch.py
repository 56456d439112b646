"""The next batch is made by a thread while the one before it is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Index = TypeVar("Index")
Item = TypeVar("Item")


class Prefetch(Iterator[Item], Generic[Index, Item]):
    """`make(index)` for each index in order, one ahead: taking an item has the next one made, and no further one.

    What `make` raises is raised where its item would have been taken. The end of the `with` block waits until the
    thread has ended; it does not begin another item.
    """

    def __init__(self, make: Callable[[Index], Item], indices: Iterable[Index]) -> None:
        self._make, self._indices = make, iter(indices)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._ahead = self._begun()

    def __enter__(self) -> Prefetch[Index, Item]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ahead = None
        self._thread.shutdown(cancel_futures=True)

    def __next__(self) -> Item:
        if self._ahead is None:
            raise StopIteration
        item = self._ahead.result()
        self._ahead = self._begun()
        return item

    def _begun(self) -> Future[Item] | None:
        for index in self._indices:
            return self._thread.submit(self._make, index)
        return None
