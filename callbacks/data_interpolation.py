"""Rollouts from data that are interpolated between two values of a parameter: what steering should beat."""

from __future__ import annotations

import math
from functools import lru_cache, partial

import lightning as L
import torch
from torch import Tensor

from physteer.callbacks.base import ConditionCallback, forecast_module
from physteer.data.batch import Batch
from physteer.data.counterfactual import next_values, solver_truth
from physteer.errors import PhysteerError
from physteer.interventions import Condition


class DataInterpolation(ConditionCallback):
    """Change the input instead of activations: start ``predict``'s rollouts from (1 − |α|) x(θ) + |α| x(θ').

    x(θ) is the window's context, x(θ') the one that the built-in solver makes from its first frame at the parameter's
    next value. At |α| = 1 the model sees a flow at θ', so this is what it can know of the parameter; in between it is
    what mixing fields does without any concept. Windows that have no θ' get no rollout: their frames are NaN.

    Args:
        parameter: what the concept beside it is about, such as ``Reynolds``.
        values: the parameter's values in the concept's direction: θ' for α > 0 is the value after the window's own, for
            α < 0 the one before.
        strengths: values of α, −1 ≤ α ≤ 1 and not 0.
    """

    def __init__(self, parameter: str, values: list[float], strengths: list[float]) -> None:
        super().__init__()
        if len(values) < 2 or len(set(values)) < len(values):
            raise PhysteerError(f"DataInterpolation.values must be two or more, all different; found {values}")
        if not strengths or len(set(strengths)) < len(strengths) or not all(0 < abs(a) <= 1 for a in strengths):
            raise PhysteerError(
                "DataInterpolation.strengths must be one or more, all different, from −1 to 1 and not 0, which is the "
                f"unsteered rollout; found {strengths}"
            )
        self.parameter, self.values, self.strengths = parameter, values, strengths

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the module one condition per strength."""
        # Strengths of one sign share the solver's work; the cache is gone when the conditions are.
        solved = lru_cache(maxsize=2)(self._next_context)

        def mixed(batch: Batch, strength: float) -> Tensor:
            # lerp is exact at both ends
            return torch.lerp(batch.context, solved(batch, math.copysign(1, strength)), abs(strength))

        named = "data interpolation"
        conditions = [
            Condition(f"{named} {a:+.12g}", (), named, a, role="data", context=partial(mixed, strength=a))
            for a in self.strengths
        ]
        self.add(forecast_module(pl_module, "DataInterpolation"), conditions)

    def _next_context(self, batch: Batch, sign: float) -> Tensor:
        """Return x(θ') [B, T, C, H, W, D]; NaN in the rows of windows that have no θ'."""
        if self.parameter not in batch.parameters:
            known = ", ".join(batch.parameters)
            raise PhysteerError(f"DataInterpolation: the data have no parameter {self.parameter!r}; they have {known}")
        values = next_values(batch.parameters[self.parameter], self.values, sign)
        follows = solver_truth(batch, batch.n_input - 1, {self.parameter: values}, start=0)
        context = torch.cat([batch.context[:, :1], follows], dim=1)
        context[values.isnan()] = math.nan
        return context
