"""What an interchange should achieve: losses of an edited pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from physteer.data.pairs import PairBatch
from physteer.data.readouts import READOUTS, readouts
from physteer.errors import PhysteerError, did_you_mean
from physteer.interventions import Site
from physteer.rollout import SampleScale

# A loss of your own is a module called with an Outcome and its PairBatch; name its class path as DAS.loss. It gets the
# activations of the sites that its attribute `sites`, if it has one, lists.


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an edited pass gave, with gradients to the edits."""

    prediction: Tensor
    """The edited next frame ŷ', [B, 1, C, H, W, D] in the data set's units."""
    scale: SampleScale
    """Of the base windows."""
    activations: Mapping[Site, Tensor]
    """Of the sites that the loss lists, after the edits: [B, T, …, d]; T = 1 where only the last frame was run."""


class FieldLoss(nn.Module):
    """Mean absolute error to the true counterfactual frame, in units of the base window's r_Δ."""

    def forward(self, outcome: Outcome, pairs: PairBatch) -> Tensor:
        """Return the loss.

        Args:
            outcome: of the edited pass.
            pairs: with the true frames.

        Raises:
            PhysteerError: the answer is a readout, not a frame.
        """
        if pairs.truth.ndim != 6:
            raise PhysteerError("FieldLoss needs frames as the answer; with ReadoutTruth use ReadoutLoss")
        error = (outcome.prediction - pairs.truth[:, :1]) / outcome.scale.differences
        return error[:, :, pairs.base.channels.predicted].abs().mean()


class ReadoutLoss(nn.Module):
    """Squared error of a diagnostic of the edited prediction, relative to the answer's.

    The answer is the source's readout (``ReadoutTruth``), or the readout of the true frame.

    Args:
        readout: ``enstrophy``, ``kinetic_energy`` or ``tracer_variance``; ``vortex_area``, a share, has no gradient.
    """

    def __init__(self, readout: str) -> None:
        super().__init__()
        if readout not in READOUTS:
            raise PhysteerError(f"no readout {readout!r}, only {', '.join(READOUTS)}{did_you_mean(readout, READOUTS)}")
        self.readout = readout

    def forward(self, outcome: Outcome, pairs: PairBatch) -> Tensor:
        """Return the loss; arguments as for `FieldLoss`."""
        wanted = pairs.truth if pairs.truth.ndim == 1 else self._read(pairs, pairs.truth[:, :1])
        found = self._read(pairs, outcome.prediction)
        return ((found - wanted) / wanted.abs().clamp_min(1e-12)).square().mean()

    def _read(self, pairs: PairBatch, frame: Tensor) -> Tensor:
        """Return the readout [B] of a frame [B, 1, C, H, W, D]."""
        return readouts(dataclasses.replace(pairs.base, fields=frame, n_input=1), [self.readout])[self.readout]
