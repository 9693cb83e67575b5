"""Forecasters: windows of fields in the data's units → the next frame; and rollouts, with and without edits.

`Forecaster` is the protocol, without Lightning, and `WalrusForecaster` implements it for Walrus. `ForecastModule` and
`WalrusModule` are the Lightning modules; import them from `physteer`.
"""

from physteer.forecast.forecaster import Forecaster, NetworkInputs, keeps_past, staged
from physteer.forecast.frame_forecaster import FrameForecaster
from physteer.forecast.objectives import NextStepMAE, Objective
from physteer.forecast.rollout import SampleScale, sample_scale
from physteer.forecast.steered_rollout import Rollout, RolloutObserver, observe_pass, steered_rollout
from physteer.forecast.walrus_forecaster import WalrusForecaster

__all__ = [
    "Forecaster",
    "FrameForecaster",
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
