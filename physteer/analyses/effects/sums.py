"""Sums of a sweep: numerators and denominators of every effect, kept apart by initial condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from physteer.analyses.engine import summed
from physteer.metrics import Interval, Resampling
from physteer.metrics.statistics import Floats, bootstrap_columns

RESAMPLING = Resampling(resamples=2000)
"""A sweep has ten thousands of intervals."""
_TOGETHER = 512  # columns that are resampled at once: their resamples take 16 MB per sum


class EffectSums:
    """Sums over pairs, [keys, initial conditions, columns, 2] in float64.

    Args:
        keys: number of patches, over all nodes.
        initial_conditions: names of all there are, over all processes.
        columns: number of columns of the measure.
    """

    def __init__(self, keys: int, initial_conditions: Sequence[str], columns: int) -> None:
        self.initial_conditions = tuple(initial_conditions)
        self._rows = {name: row for row, name in enumerate(self.initial_conditions)}
        self.sums = torch.zeros(keys, len(self.initial_conditions), columns, 2, dtype=torch.float64)

    def add(self, key: int, terms: Tensor, initial_conditions: Sequence[str]) -> None:
        """Add the terms [B, columns, 2] of pairs under one patch."""
        rows = torch.tensor([self._rows[name] for name in initial_conditions])
        self.sums[key].index_add_(0, rows, terms.double().cpu())

    def merge(self, device: torch.device) -> None:
        """Add the sums of all processes, so that every process has the total; a collective."""
        self.sums = summed(self.sums, device)


def intervals_of(
    sums: Tensor, initial_conditions: Sequence[str], statistic: Callable[[Floats], Floats]
) -> Iterator[Interval]:
    """Bootstrap many statistics over initial conditions; one whose denominators are 0 is undefined (NaN).

    Args:
        sums: [columns, initial conditions, k].
        initial_conditions: their names; those without any pair in a column are left out there.
        statistic: sums [..., k] → [...].
    """
    table = sums.permute(1, 0, 2).numpy().copy()  # [initial conditions, columns, k]
    table[(table[..., 1::2] == 0).all(-1)] = np.nan  # nothing was measured there
    for first in range(0, table.shape[1], _TOGETHER):
        yield from bootstrap_columns(table[:, first : first + _TOGETHER], initial_conditions, statistic, RESAMPLING)
