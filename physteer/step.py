"""What the network gets of a window, and what a rollout gives: plain data between `WalrusModule` and its callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from physteer.data.batch import Batch, Boundaries
from physteer.interventions import Condition
from physteer.walrus import Shifts


class NetworkInputs(NamedTuple):
    """The arguments of `Walrus.forward` and `Walrus.encode`."""

    fields: Tensor
    """[N, T, C, H, W, D], normalised."""
    labels: tuple[int, ...]
    boundaries: Boundaries
    shifts: Shifts | None

    def rows(self, index: Sequence[int]) -> NetworkInputs:
        """Return some of the windows."""
        shifts = None
        if self.shifts is not None:
            shifts = Shifts(self.shifts.pixels[list(index)], self.shifts.tokens[list(index)])
        return self._replace(fields=self.fields[list(index)], shifts=shifts)


@dataclass(frozen=True)
class Rollout:
    """What ``predict`` made of one batch under some conditions."""

    batch: Batch
    conditions: tuple[Condition, ...]
    frames: Tensor
    """[conditions, B, T, C, H, W, D] on the CPU, in the data set's units: the predicted frames."""
