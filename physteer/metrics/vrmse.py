"""VRMSE: a field's RMS error in units of its own spread, per field and rollout step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from physteer.errors import PhysteerError

EPS = 1e-7


def vrmse(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return √(⟨(û − u)²⟩ / (var(u) + 1e-7)), as The Well's benchmark: 1 is a prediction of the spatial mean.

    All cells weigh the same, as The Well defines it, on stretched and curved grids too.

    Args:
        prediction: û [..., H, W, D].
        truth: u, the same shape; its variance over space is the unbiased one.

    Returns:
        [...], float32 or wider.
    """
    space = (-3, -2, -1)
    wide = torch.promote_types(torch.promote_types(prediction.dtype, truth.dtype), torch.float32)
    error = (prediction.to(wide) - truth.to(wide)).square().mean(space)
    return (error / (truth.to(wide).var(space) + EPS)).sqrt()


class RolloutVRMSE(Metric):
    """Mean over samples of the VRMSE at every rollout step and field.

    Sums and counts are kept, so that the result does not depend on batches or processes.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, n_steps: int, fields: Sequence[str], **kwargs: Any) -> None:
        """Start with no samples.

        Args:
            n_steps: steps of a rollout.
            fields: names of the fields that are scored, in channel order.
            **kwargs: torchmetrics' own.
        """
        super().__init__(**kwargs)
        self.n_steps = n_steps
        self.fields = tuple(fields)
        self.add_state("total", torch.zeros(n_steps, len(self.fields)), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(n_steps, 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor, first_step: int = 0) -> None:
        """Add samples.

        Args:
            prediction: [B, S, C, H, W, D]: S consecutive steps, the scored fields only.
            truth: the same shape and units.
            first_step: the first of these steps, counted from 0.

        Raises:
            PhysteerError: Fields or steps do not fit.
        """
        n = prediction.shape[1]
        if prediction.shape[2] != len(self.fields) or prediction.shape != truth.shape:
            raise PhysteerError(
                f"a score of {len(self.fields)} fields got a prediction of shape {list(prediction.shape)} "
                f"and a truth of {list(truth.shape)}"
            )
        if first_step + n > self.n_steps:
            raise PhysteerError(f"step {first_step + n} is beyond the {self.n_steps} steps that are scored")
        steps = slice(first_step, first_step + n)
        self.total[steps] += vrmse(prediction, truth).sum(0).to(self.total.dtype)
        self.count[steps] += len(prediction)

    def compute(self) -> Tensor:
        """Return the means, [steps, fields]; NaN at steps without samples."""
        return self.total / self.count

    def named(self) -> dict[str, Tensor]:
        """Return the means by name: `velocity_x/step_1`, …, and `mean_over_fields/step_1`, …; steps from 1."""
        means: Tensor = self.compute()
        columns = dict(zip(self.fields, means.T, strict=True)) | {"mean_over_fields": means.mean(1)}
        return {f"{name}/step_{i}": value for name, column in columns.items() for i, value in enumerate(column, 1)}
