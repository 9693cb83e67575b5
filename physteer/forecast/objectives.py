"""Objectives: the losses of ``fit``."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from physteer.data.batch import Batch, check_windows
from physteer.forecast.forecaster import Forecaster


class Objective(Protocol):
    """A module that returns the loss of a batch."""

    def __call__(self, forecaster: Forecaster, batch: Any, step: int) -> Tensor | None:
        """Return the loss; None for an objective that only accumulates sums.

        Args:
            forecaster: the model.
            batch: from the data module.
            step: number of the optimiser step, from 0.
        """
        ...


class NextStepMAE(nn.Module):
    """Mean absolute error of the normalised differences, the training loss of Walrus.

    Every frame of the window except the first is predicted from the frames before it; only the frame after the context
    by networks that predict no others. |y − (u(t+1) − u(t)) / r_Δ| is averaged over frames, space and the channels that
    evolve; r_Δ is that of the context.
    """

    def forward(self, forecaster: Forecaster, batch: Batch, step: int) -> Tensor:
        """Return the loss of a batch whose windows have one frame after the context."""
        check_windows(batch, "NextStepMAE")
        inputs, scale = forecaster.inputs(batch.context, batch, step)
        y = forecaster.run(inputs)
        target = batch.fields.diff(dim=1)[:, -y.shape[1] :] / scale.differences
        return (y - target)[:, :, batch.channels.predicted].abs().mean()
