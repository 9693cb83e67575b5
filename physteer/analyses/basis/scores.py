"""The scores of one site's causal basis and of the subspaces beside it, as sums by initial condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from physteer.analyses.basis.comparison import ComparedSubspace
from physteer.analyses.basis.fitting import BasisFit
from physteer.analyses.basis.table import FULL, MODEL, BasisComparisonRow, BasisCurveRow
from physteer.metrics import ChangeRecovery, Interval, Nearness, PairSums, pooled_ratio
from physteer.metrics.sums import interval_of


class AblationSums(PairSums):
    """Divergences under several ablations, and the number of rows: [initial conditions, n + 1]."""

    def __init__(self, n: int, initial_conditions: Sequence[str]) -> None:
        """Start with no rows, of n ablations."""
        super().__init__(initial_conditions, (n + 1,))

    def update(self, divergences: Tensor, initial_conditions: Sequence[str]) -> None:
        """Add the divergences [rows, n] of rows, whose initial conditions are named."""
        self.add(torch.cat([divergences, torch.ones_like(divergences[:, :1])], 1), initial_conditions)

    def mean(self, i: int) -> Interval:
        """Return the mean divergence under an ablation, with its interval."""
        return interval_of(self.compute()[:, [i, -1]], pooled_ratio)

    def ratio(self, i: int, j: int) -> Interval:
        """Return the mean divergence under an ablation over that under another, with its interval."""
        sums: Tensor = self.compute()
        return interval_of(sums[:, [i, j]], pooled_ratio)


class SiteScores(nn.Module):
    """The sums of one site."""

    def __init__(self, k: int, n_compared: int, fields: Sequence[str], initial_conditions: Sequence[str]) -> None:
        """Start with no pairs.

        Args:
            k: directions of the basis.
            n_compared: subspaces that are compared, the whole activation last.
            fields: names of the predicted fields.
            initial_conditions: names of the initial conditions of all bases.
        """
        super().__init__()
        self.k, self.n_compared = k, n_compared
        self.energies = AblationSums(2 * k + n_compared, initial_conditions)
        """Marginal k, cumulative k, compared subspaces; the last of these is the whole activation."""
        self.recovery = nn.ModuleList(ChangeRecovery(fields, initial_conditions) for _ in range(n_compared))
        self.nearness = nn.ModuleList(Nearness(fields, initial_conditions) for _ in range(n_compared))

    def add_interchange(
        self,
        number: int,
        edited: Tensor,
        unedited: Tensor,
        truth: Tensor,
        own_future: Tensor,
        names: Sequence[str],
    ) -> None:
        """Add the predictions [B, fields, H, W, D] under the interchange of a subspace, by its number."""
        cast(ChangeRecovery, self.recovery[number]).update(edited, unedited, truth, own_future, names)
        cast(Nearness, self.nearness[number]).update(edited, unedited, truth, own_future, names)

    def curves(self, fit: BasisFit) -> list[BasisCurveRow]:
        """Return a row for every direction; a collective over processes."""
        basis, everything = fit.basis, self.energies.mean(-2)
        mean = [self.energies.mean(i) for i in range(2 * self.k)]
        angles = basis.half_angles.tolist() or [math.nan] * self.k
        return [
            BasisCurveRow(
                basis.site,
                j + 1,
                float(basis.energies[j]),
                *_numbers(mean[j]),
                *_numbers(mean[self.k + j]),
                everything.value,
                angles[j],
                basis.restarts[j],
                basis.rises[j],
                basis.evaluations[j],
                basis.mode,
                basis.metric,
                basis.divergence,
                basis.units,
                everything.initial_conditions,
            )
            for j in range(self.k)
        ]

    def comparison(self, site: str, compared: Sequence[ComparedSubspace], variables: str) -> list[BasisComparisonRow]:
        """Return a row for every subspace, and one for the model's ceiling; a collective over processes."""
        rows, undefined = [], (math.nan,) * 3
        for number, one in enumerate(compared):
            share = self.energies.ratio(2 * self.k + number, -2)
            recovery = cast(ChangeRecovery, self.recovery[number]).recovery()[0]
            nearness = cast(Nearness, self.nearness[number]).nearness()
            parts = _numbers(share) + _numbers(recovery) + _numbers(nearness.mean)
            n = recovery.initial_conditions
            rows.append(BasisComparisonRow(site, one.method, one.name, one.rank, *parts, one.angle, variables, n))
            if one.method == FULL:
                parts = undefined + undefined + _numbers(nearness.ceiling)
                rows.append(BasisComparisonRow(site, MODEL, "", 0, *parts, math.nan, variables, n))
        return rows


def _numbers(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high
