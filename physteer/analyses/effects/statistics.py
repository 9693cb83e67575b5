"""Means and principal directions of nodes' natural activations, streamed over windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from physteer.analyses.effects.patches import NodeStatistics
from physteer.analyses.engine import from_everyone, merged
from physteer.concepts import Covariance
from physteer.errors import PhysteerError
from physteer.interventions import Site


class StatisticsFitter:
    """Streams activations of nodes; every position of every row is a sample.

    Args:
        sites: of the nodes.
        components: k, the number of principal directions; 0 for the mean alone.
        per_position: whether each position (index on axis 1) has a mean and directions of its own.
    """

    def __init__(self, sites: Sequence[Site], components: int, *, per_position: bool = False) -> None:
        self.sites, self.components, self.per_position = tuple(sites), components, per_position
        self._sums: dict[Site, list[Covariance]] = {site: [] for site in self.sites}
        self._ndim: dict[Site, int] = {}

    def update(self, site: Site, h: Tensor) -> None:
        """Add activations [B, T, …, width] of one site."""
        sums, self._ndim[site] = self._sums[site], h.ndim
        parts = h.unbind(1) if self.per_position else [h]
        while len(sums) < len(parts):
            sums.append(Covariance())
        for covariance, part in zip(sums, parts, strict=True):
            covariance.update(part.reshape(-1, part.shape[-1]))

    def fit(self) -> dict[Site, NodeStatistics]:
        """Return the statistics of every node; a collective over processes.

        Raises:
            PhysteerError: A node varies in fewer than k directions, or an activation was not finite.
        """
        for site, counts in zip(
            self.sites, zip(*from_everyone([len(self._sums[s]) for s in self.sites]), strict=True), strict=True
        ):
            self._sums[site] += [Covariance() for _ in range(max(counts) - len(self._sums[site]))]  # saw no window
        return {site: self._fit(site) for site in self.sites}

    def _fit(self, site: Site) -> NodeStatistics:
        each = [self._of(site, merged(sums, Covariance)) for sums in self._sums[site]]
        means, directions = [mean for mean, _ in each], [u for _, u in each if u is not None]
        if not self.per_position:
            return NodeStatistics(means[0], directions[0] if directions else None)
        tokens = [1] * (self._ndim[site] - 3)  # axes between positions and channels
        mean = torch.stack(means)  # [T, width]
        stacked = torch.stack(directions) if directions else None  # [T, width, k]
        return NodeStatistics(
            mean.view(len(mean), *tokens, -1),
            None if stacked is None else stacked.view(len(stacked), *tokens, *stacked.shape[1:]),
        )

    def _of(self, site: Site, covariance: Covariance) -> tuple[Tensor, Tensor | None]:
        width, k = covariance.width, self.components
        if k > width:
            raise PhysteerError(f"components must be at most the width of every node; {site} has {width}, found {k}")
        try:
            mean = covariance.mean.float().cpu()
            if not k:
                return mean, None
            directions = covariance.principal()[1]  # smallest variance first
        except PhysteerError as error:
            raise PhysteerError(f"node {site}: {error}") from error
        if directions.shape[1] < k:
            raise PhysteerError(
                f"node {site} varies in {directions.shape[1]} directions only; components asks for {k} principal ones"
            )
        return mean, directions[:, -k:].flip(1).float().cpu().contiguous()


def on_device(statistics: Mapping[Site, NodeStatistics], device: torch.device) -> dict[Site, NodeStatistics]:
    """Return statistics on a device."""
    return {site: one.to(device) for site, one in statistics.items()}
