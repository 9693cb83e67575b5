"""Sums of scores kept apart by initial condition, so that intervals can resample initial conditions.

`PairSums` are torchmetrics: all initial conditions are named in advance, and sums lie on the device. `ConditionSums`
take initial conditions as they come, and lie on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torchmetrics import Metric

from physteer.errors import PhysteerError, did_you_mean
from physteer.metrics.statistics import DEFAULT, Floats, Interval, Resampling, bootstrap


class PairSums(Metric):
    """Sums of the terms of (base, source) pairs; a pair belongs to its base's initial condition."""

    full_state_update = False
    sums: Tensor

    def __init__(self, initial_conditions: Sequence[str], shape: tuple[int, ...], **kwargs: Any) -> None:
        """Start with no pairs.

        Args:
            initial_conditions: names of all there are, over all processes.
            shape: of the terms of one pair.
            **kwargs: torchmetrics' own.
        """
        super().__init__(**kwargs)
        self.initial_conditions = tuple(initial_conditions)
        zeros = torch.zeros(len(self.initial_conditions), *shape, dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum")

    def add(self, terms: Tensor, initial_conditions: Sequence[str]) -> None:
        """Add the terms of pairs.

        Args:
            terms: [B, *shape].
            initial_conditions: of each pair's base.

        Raises:
            PhysteerError: There are not as many initial conditions as pairs, or one is unknown.
        """
        if len(initial_conditions) != len(terms):
            raise PhysteerError(f"{len(terms)} pairs come with {len(initial_conditions)} initial conditions")
        known = {name: row for row, name in enumerate(self.initial_conditions)}
        for name in initial_conditions:
            if name not in known:
                raise PhysteerError(f"initial condition {name!r} is not one that is scored{did_you_mean(name, known)}")
        rows = torch.tensor([known[name] for name in initial_conditions], dtype=torch.long, device=terms.device)
        self.sums.index_add_(0, rows, terms.double())

    def compute(self) -> Tensor:
        """Return the sums of all processes, [initial conditions, *shape], float64."""
        return self.sums


def interval_of(sums: Tensor, statistic: Callable[[Floats], Floats], resampling: Resampling = DEFAULT) -> Interval:
    """Bootstrap a statistic over initial conditions; those without pairs are left out.

    Args:
        sums: of each initial condition, [initial conditions, k].
        statistic: sums [..., k] → [...].
        resampling: level, number and seed.
    """
    seen = sums[(sums != 0).any(1)].cpu().double().numpy()
    return bootstrap(seen, [f"{i:09d}" for i in range(len(seen))], statistic, resampling)


def interval_of_difference(
    first: Tensor, second: Tensor, statistic: Callable[[Floats], Floats], resampling: Resampling = DEFAULT
) -> Interval:
    """Bootstrap a statistic of one score minus that of another; every resample takes both from the same conditions.

    Args:
        first: sums of each initial condition, [initial conditions, k].
        second: the same of the score that is subtracted.
        statistic: sums [..., k] → [...].
        resampling: level, number and seed.
    """
    k = first.shape[1]

    def difference(sums: Floats) -> Floats:
        return statistic(sums[..., :k]) - statistic(sums[..., k:])

    return interval_of(torch.cat([first, second], 1), difference, resampling)


class ConditionSums:
    """Sums of terms by the name of their initial condition; mergeable over processes."""

    def __init__(self) -> None:
        """Start with no samples."""
        self._terms: dict[str, Tensor] = {}  # of one shape, float64

    def add(self, initial_conditions: Sequence[str], terms: Tensor) -> None:
        """Add terms.

        Args:
            initial_conditions: of each window, by name.
            terms: [B, …], on the CPU.

        Raises:
            PhysteerError: Their shape differs from that of earlier ones.
        """
        for name, added in zip(initial_conditions, terms, strict=True):
            self._add(name, added)

    def merge(self, other: Self) -> None:
        """Add the sums of another process, of the same shape."""
        for name, added in other._terms.items():
            self._add(name, added)

    def terms(self) -> dict[str, Tensor]:
        """Return the sums by initial condition, in the order of their names; any of them add up.

        Raises:
            PhysteerError: There are none.
        """
        if not self._terms:
            raise PhysteerError("no sample was seen: there are no scores of probes")
        return {name: self._terms[name] for name in sorted(self._terms)}

    def total(self) -> Tensor:
        """Return the sum over all initial conditions.

        Raises:
            PhysteerError: There are none.
        """
        return torch.stack(list(self.terms().values())).sum(0)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums by initial condition, to be sent to another process or saved."""
        return dict(self._terms)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace the sums by those of `state_dict`."""
        self._terms = {name: terms.clone() for name, terms in state.items()}

    def _add(self, name: str, terms: Tensor) -> None:
        if terms.shape != next(iter(self._terms.values()), terms).shape:
            raise PhysteerError("scores of other numbers of probes or targets cannot be added")
        self._terms[name] = self._terms[name] + terms if name in self._terms else terms.clone()
