"""Losses of an edited pass.

A loss of your own is a module that is called with an `Outcome` and its batch of pairs; give its class path as
``DAS.loss``. If it has an attribute `sites`, the outcome holds the activations of these sites.
"""

from __future__ import annotations

from torch import Tensor, nn

from physteer.analyses.engine import Outcome
from physteer.data.pair import PairBatch
from physteer.data.readouts import READOUTS, readouts
from physteer.errors import PhysteerError, did_you_mean


class FieldLoss(nn.Module):
    """Mean absolute error to the true counterfactual frame, in units of the base window's r_Δ."""

    def forward(self, outcome: Outcome, pairs: PairBatch) -> Tensor:
        """Return the loss.

        Args:
            outcome: of the edited pass.
            pairs: with the true frames.

        Raises:
            PhysteerError: The answer is a readout, not a frame; or the outcome has no scale.
        """
        if pairs.truth.ndim != 6:
            raise PhysteerError("FieldLoss needs frames as the answer; with ReadoutTruth use ReadoutLoss")
        if outcome.scale is None:
            raise PhysteerError("FieldLoss needs the scale of the base windows; the outcome has none")
        error = (outcome.prediction - pairs.truth[:, :1]) / outcome.scale.differences
        return error[:, :, pairs.metadata.channels.predicted].abs().mean()


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
        edited = self._read(pairs, outcome.prediction)
        return ((edited - wanted) / wanted.abs().clamp_min(1e-12)).square().mean()

    def _read(self, pairs: PairBatch, frame: Tensor) -> Tensor:
        """Return the readout [B] of a frame [B, 1, C, H, W, D]."""
        return readouts(pairs.frames(frame), [self.readout])[self.readout]
