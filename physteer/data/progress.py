"""A bar of progress for work on many things, on the first process only."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

from lightning.fabric.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

T = TypeVar("T")


def with_progress(things: Collection[T], what: str) -> Iterator[T]:
    """Yield things with a bar of progress, on a terminal and on the first process.

    Args:
        things: what is worked on.
        what: shown before the bar, such as ``Sorting windows``.
    """
    hidden = True if getattr(rank_zero_only, "rank", 0) else None  # None: tqdm looks whether it is a terminal
    yield from tqdm(things, desc=what, leave=False, disable=hidden)
