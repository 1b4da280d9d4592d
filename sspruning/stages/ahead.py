"""The next item is made in a thread while this one is used: reading beside counting, making tables beside writing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items in the same order; one more is held than without this. None ends them.

    Where the items are no longer wanted, the one that is being made is waited for, and no other is begun.
    """

    def following() -> T | None:
        return next(items, None)

    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = thread.submit(following)
        while (item := coming.result()) is not None:
            coming = thread.submit(following)
            yield item
