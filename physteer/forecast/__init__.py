"""Forecasters: windows of fields in the data's units → the next frame; their rollouts, as they are and under edits.

`Forecaster` is the protocol (no Lightning), `WalrusForecaster` the one for Walrus; `ForecastModule` and `WalrusModule`
put one under Lightning, which are imported from `physteer`.
"""

from physteer.forecast.forecaster import Forecaster, NetworkInputs, keeps_past, staged
from physteer.forecast.objectives import NextStepMAE, Objective
from physteer.forecast.rollout import SampleScale, sample_scale
from physteer.forecast.steered_rollout import Rollout, RolloutObserver, observe_pass, steered_rollout
from physteer.forecast.walrus_forecaster import WalrusForecaster

__all__ = [
    "Forecaster",
    "NetworkInputs",
    "NextStepMAE",
    "Objective",
    "Rollout",
    "RolloutObserver",
    "SampleScale",
    "WalrusForecaster",
    "keeps_past",
    "observe_pass",
    "sample_scale",
    "staged",
    "steered_rollout",
]
