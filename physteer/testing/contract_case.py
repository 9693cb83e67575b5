"""What the checks of the contract share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from physteer.data.batch import Batch
from physteer.data.pair import PairBatch
from physteer.data.pairs import PairDataset
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster, staged
from physteer.forecast.steered_rollout import with_forecaster_layout
from physteer.interventions import Site, StagedModel
from physteer.interventions.stages import first_block


class UnmetError(PhysteerError):
    """A part of the contract is not kept."""


class NotOfferedError(PhysteerError):
    """The emulator does not offer what a check is of, and says so."""


@dataclass(frozen=True)
class Case:
    """A forecaster, and the data that it is checked on."""

    forecaster: Forecaster
    sites: tuple[Site, ...]
    batch: Batch
    """Two to four windows of ``train``, with the frame after the context."""
    pairs: PairDataset
    """Pairs of ``train``."""
    generator: torch.Generator
    """Of random directions."""

    @property
    def network(self) -> nn.Module:
        """The forecaster's network."""
        return self.forecaster.network

    @property
    def name(self) -> str:
        """The forecaster's class, for sentences."""
        return type(self.forecaster).__name__

    @property
    def located(self) -> tuple[Site, ...]:
        """The sites with their layouts."""
        return tuple(with_forecaster_layout(self.forecaster, site) for site in self.sites)

    def staged(self, needed_by: str) -> StagedModel:
        """Return the network as a staged model.

        Raises:
            NotOfferedError: It is none.
        """
        try:
            return staged(self.forecaster, needed_by)
        except PhysteerError as error:
            raise NotOfferedError(str(error)) from None

    def stages(self, needed_by: str) -> tuple[Site, ...]:
        """Return the sites, with their layouts, that a pass can be stopped at.

        Raises:
            NotOfferedError: The network is no staged model.
        """
        model = self.staged(needed_by)

        def is_one(site: Site) -> bool:
            try:
                first_block(model, site)
            except PhysteerError:
                return False
            return True

        return tuple(filter(is_one, self.located))

    def pair_batch(self, first: int, size: int = 2) -> PairBatch:
        """Return some pairs."""
        return self.pairs.collate([self.pairs[(first + i) % len(self.pairs)] for i in range(size)])

    def shape(self, site: Site) -> torch.Size:
        """Return a site's shape for one window."""
        return self.forecaster.site_shapes([site], self.batch.metadata, self.batch.n_input)[site]


def unmet(holds: bool | Tensor, sentence: str) -> None:
    """Raise the sentence unless something holds.

    Raises:
        UnmetError: It does not.
    """
    if not bool(holds):
        raise UnmetError(sentence)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Return whether two tensors agree up to round-off: their difference by the largest value, which may be 0."""
    if a.shape != b.shape:
        return False
    a, b = a.detach(), b.detach()
    largest = float(torch.maximum(a.abs().max(), b.abs().max()))
    return float((a - b).abs().max()) <= tolerance * largest
