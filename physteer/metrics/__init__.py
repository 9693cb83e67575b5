"""Scores of rollouts and diagnostics of flows: functions of tensors, and torchmetrics that add up over processes."""

from physteer.metrics.baselines import linear_extrapolation, persistence
from physteer.metrics.flow import (
    Periodic,
    Spacing,
    derivative,
    divergence_rms,
    energy_spectrum,
    enstrophy,
    kinetic_energy,
    momentum_thickness,
    tracer_variance,
    vortex_area,
    vorticity,
)
from physteer.metrics.forecast import FORECASTS, ForecastScores
from physteer.metrics.vrmse import RolloutVRMSE, vrmse

__all__ = [
    "FORECASTS",
    "ForecastScores",
    "Periodic",
    "RolloutVRMSE",
    "Spacing",
    "derivative",
    "divergence_rms",
    "energy_spectrum",
    "enstrophy",
    "kinetic_energy",
    "linear_extrapolation",
    "momentum_thickness",
    "persistence",
    "tracer_variance",
    "vortex_area",
    "vorticity",
    "vrmse",
]
