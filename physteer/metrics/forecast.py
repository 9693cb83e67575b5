"""Scores of a model's forecasts, beside the baselines that need no model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from physteer.metrics.baselines import linear_extrapolation, persistence
from physteer.metrics.vrmse import RolloutVRMSE

FORECASTS = ("model", "persistence", "linear")


class ForecastScores(nn.Module):
    """VRMSE per step and field of a model, of persistence and of linear extrapolation, on the same samples."""

    def __init__(self, n_steps: int, fields: Sequence[str]) -> None:
        """Start with no samples.

        Args:
            n_steps: steps of the forecasts.
            fields: names of the fields that are scored, in channel order.
        """
        super().__init__()
        self.n_steps, self.fields = n_steps, tuple(fields)
        self.metrics = nn.ModuleDict({name: RolloutVRMSE(n_steps, fields) for name in FORECASTS})

    def update(self, context: Tensor, prediction: Tensor, truth: Tensor) -> None:
        """Add samples.

        Args:
            context: [B, T, C, H, W, D], the frames before the forecast; the scored fields only.
            prediction: [B, n_steps, C, H, W, D], the model's.
            truth: the same shape and units.
        """
        forecasts = (prediction, persistence(context, self.n_steps), linear_extrapolation(context, self.n_steps))
        for name, forecast in zip(FORECASTS, forecasts, strict=True):
            self._metric(name).update(forecast, truth)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean VRMSE by forecast, each [steps, fields], over the samples of all processes."""
        return {name: self._metric(name).compute() for name in FORECASTS}

    def _metric(self, name: str) -> RolloutVRMSE:
        metric = self.metrics[name]
        assert isinstance(metric, RolloutVRMSE)
        return metric
