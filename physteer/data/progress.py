"""A progress bar on the first process."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

from lightning.fabric.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

T = TypeVar("T")


def with_progress(items: Collection[T], text: str) -> Iterator[T]:
    """Yield items, with a progress bar on a terminal and on the first process.

    Args:
        items: to be yielded.
        text: shown before the bar, such as ``Sorting windows``.
    """
    hidden = True if getattr(rank_zero_only, "rank", 0) else None  # None: hidden unless on a terminal
    yield from tqdm(items, desc=text, leave=False, disable=hidden)
