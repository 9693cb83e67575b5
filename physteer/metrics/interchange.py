"""Scores of interchange interventions on (base, source) pairs, pooled over pairs and added up over processes.

Sums are kept for every initial condition, since pairs that share one are one draw: intervals resample initial
conditions. A pair belongs to its base's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.metrics.geometry import SPACE
from physteer.metrics.statistics import DEFAULT, Floats, Interval, Resampling, pooled_ratio
from physteer.metrics.steering import recovery_terms
from physteer.metrics.sums import PairSums, interval_of


class InterchangeAccuracy(PairSums):
    """IIA: the share of pairs whose edited output is the class that the counterfactual has (Geiger et al., 2301.04709).

    The counterfactual's class is what the high-level model answers under the same interchange. The sums are numbers of
    hits and pairs, [initial conditions, 2].
    """

    def __init__(self, initial_conditions: Sequence[str], **kwargs: Any) -> None:
        """Start with no pairs.

        Args:
            initial_conditions: names of all there are, over all processes.
            **kwargs: torchmetrics' own.
        """
        super().__init__(initial_conditions, (2,), **kwargs)

    def update(self, edited: Tensor, counterfactual: Tensor, initial_conditions: Sequence[str]) -> None:
        """Add pairs.

        Args:
            edited: class of the edited output, [B] integers.
            counterfactual: the class there should be, [B].
            initial_conditions: of each pair's base.

        Raises:
            PhysteerError: Shapes do not fit, or an initial condition is unknown.
        """
        if edited.shape != counterfactual.shape or edited.ndim != 1:
            raise PhysteerError(
                f"classes of {list(edited.shape)} edited outputs and {list(counterfactual.shape)} counterfactuals: "
                "not one of each for every pair"
            )
        hits = edited == counterfactual
        self.add(torch.stack([hits, torch.ones_like(hits)], dim=1), initial_conditions)

    def accuracy(self, resampling: Resampling = DEFAULT) -> Interval:
        """Return the share of all pairs, with its interval over initial conditions."""
        return interval_of(self.compute(), pooled_ratio, resampling)


@dataclass(frozen=True)
class Recovery:
    """How near edits bring predictions to the truth: 0 as near as unedited ones, 1 exact (nearness).

    It counts the model's own error of the base as distance from the truth; `ChangeRecovery` does not.
    """

    mean: Interval
    """Over fields."""
    per_field: dict[str, Interval]
    ceiling: Interval
    """The mean over fields for the model's own prediction: an upper bound for edits."""


class CounterfactualRecovery(PairSums):
    """Nearness: 1 − Σ‖ŷ' − y*‖² / Σ‖ŷ_b − y*‖² over pairs, per field, and its mean over fields.

    ŷ' is the edited prediction, ŷ_b the unedited one from the base, y* the true counterfactual. The sums are squared
    errors of edited prediction, unedited prediction and ceiling, [initial conditions, 3, fields].
    """

    def __init__(self, fields: Sequence[str], initial_conditions: Sequence[str], **kwargs: Any) -> None:
        """Start with no pairs.

        Args:
            fields: names of the fields that are scored, in channel order. Where the counterfactual of a field equals
                that of the base, its recovery measures only the model's error: use `Movement` for such fields.
            initial_conditions: names of all there are, over all processes.
            **kwargs: torchmetrics' own.
        """
        super().__init__(initial_conditions, (3, len(fields)), **kwargs)
        self.fields = tuple(fields)

    def update(
        self, edited: Tensor, base: Tensor, truth: Tensor, ceiling: Tensor, initial_conditions: Sequence[str]
    ) -> None:
        """Add pairs.

        Args:
            edited: ŷ' [B, C, H, W, D], the scored fields only.
            base: ŷ_b, the same shape and units, like all that follow.
            truth: y*.
            ceiling: the best that the model can predict: its prediction from the counterfactual's stored window where
                there is one, else y* plus the error of its prediction of the base's own future.
            initial_conditions: of each pair's base.
        """
        _check_fields(self.fields, edited, base, truth, ceiling)
        edited_terms, ceiling_terms = recovery_terms(edited, base, truth), recovery_terms(ceiling, base, truth)
        terms = torch.stack(
            [edited_terms.error_steered, edited_terms.error_unsteered, ceiling_terms.error_steered], dim=1
        )  # [B, 3, C]
        self.add(terms, initial_conditions)

    def recovery(self, resampling: Resampling = DEFAULT) -> Recovery:
        """Return the recoveries, with intervals over initial conditions."""
        edited, base, ceiling = self.compute().unbind(1)  # each [initial conditions, C]
        return Recovery(
            mean=interval_of(torch.cat([edited, base], 1), _mean_recovery, resampling),
            per_field={
                field: interval_of(torch.stack([edited[:, i], base[:, i]], 1), _mean_recovery, resampling)
                for i, field in enumerate(self.fields)
            },
            ceiling=interval_of(torch.cat([ceiling, base], 1), _mean_recovery, resampling),
        )


class ChangeRecovery(PairSums):
    """Recovery of the change: 1 − Σ‖(ŷ' − ŷ_b) − (y* − y_b)‖² / Σ‖y* − y_b‖² over pairs, per field, and its mean.

    ŷ' is the edited prediction, ŷ_b the unedited one, y* the true counterfactual and y_b the base's true own future. An
    unedited prediction has 0, an edit that changes it as the truth changes has 1. The model's additive error of the
    base cancels, which it does not in `CounterfactualRecovery`. The sums are squares of the error of the change and of
    the true change, [initial conditions, 2, fields].
    """

    def __init__(self, fields: Sequence[str], initial_conditions: Sequence[str], **kwargs: Any) -> None:
        """Start with no pairs.

        Args:
            fields: names of the fields that are scored, in channel order.
            initial_conditions: names of all there are, over all processes.
            **kwargs: torchmetrics' own.
        """
        super().__init__(initial_conditions, (2, len(fields)), **kwargs)
        self.fields = tuple(fields)

    def update(
        self, edited: Tensor, base: Tensor, truth: Tensor, own_future: Tensor, initial_conditions: Sequence[str]
    ) -> None:
        """Add pairs.

        Args:
            edited: ŷ' [B, C, H, W, D], the scored fields only.
            base: ŷ_b, the same shape and units, like all that follow.
            truth: y*.
            own_future: y_b.
            initial_conditions: of each pair's base.
        """
        _check_fields(self.fields, edited, base, truth, own_future)
        true_change = truth.double() - own_future.double()
        error = edited.double() - base.double() - true_change
        self.add(torch.stack([error.square().mean(SPACE), true_change.square().mean(SPACE)], 1), initial_conditions)

    def recovery(self, resampling: Resampling = DEFAULT) -> tuple[Interval, dict[str, Interval]]:
        """Return the mean over fields, and the recovery of each, with intervals over initial conditions.

        Fields that never change are left out of the mean; their own recovery is NaN.
        """
        error, change = self.compute().unbind(1)  # each [initial conditions, C]
        kept = change.sum(0) > 0
        mean = interval_of(torch.cat([error[:, kept], change[:, kept]], 1), _mean_recovery, resampling)
        each = {
            field: interval_of(torch.stack([error[:, i], change[:, i]], 1), _mean_recovery, resampling)
            for i, field in enumerate(self.fields)
        }
        return mean, each


class Movement(PairSums):
    """√(Σ‖(ŷ' − ŷ_b)/r‖² / pairs) per field: how far edits move it, in units of r. Fields that must not move have 0.

    With the base window's r_Δ for r, 1 is as far as the field goes in one step by itself. The sums are the squares of
    every field and, last, the number of pairs, [initial conditions, fields + 1].
    """

    def __init__(self, fields: Sequence[str], initial_conditions: Sequence[str], **kwargs: Any) -> None:
        """Start with no pairs.

        Args:
            fields: names of the fields, in channel order.
            initial_conditions: names of all there are, over all processes.
            **kwargs: torchmetrics' own.
        """
        super().__init__(initial_conditions, (len(fields) + 1,), **kwargs)
        self.fields = tuple(fields)

    def update(self, edited: Tensor, base: Tensor, scale: Tensor, initial_conditions: Sequence[str]) -> None:
        """Add pairs.

        Args:
            edited: ŷ' [B, C, H, W, D].
            base: ŷ_b, the same shape and units.
            scale: r [B, C], in the same units.
            initial_conditions: of each pair's base.
        """
        _check_fields(self.fields, edited, base)
        moved = (edited.double() - base.double()).square().mean(SPACE) / scale.double().square()  # [B, C]
        self.add(torch.cat([moved, torch.ones_like(moved[:, :1])], dim=1), initial_conditions)

    def movement(self, resampling: Resampling = DEFAULT) -> dict[str, Interval]:
        """Return the movement of each field, with intervals over initial conditions."""
        sums: Tensor = self.compute()
        return {
            field: interval_of(sums[:, [i, -1]], lambda s: np.sqrt(pooled_ratio(s)), resampling)
            for i, field in enumerate(self.fields)
        }


def largest_principal_angle(first: Tensor, second: Tensor) -> float:
    """Return the largest principal angle between the spans of two bases, in degrees.

    Where dimensions differ, it is the angle between the smaller span and the nearest part of the larger one. Sine and
    cosine are both used, so that small angles are exact too (Björck & Golub, Math. Comp. 27, 1973).

    Args:
        first: [d, k], with linearly independent columns.
        second: [d, l], likewise.
    """
    wide, narrow = sorted(
        (torch.linalg.qr(basis.detach().double().cpu())[0] for basis in (first, second)), key=lambda b: -b.shape[1]
    )
    cosines = wide.mT @ narrow
    cosine, sine = torch.linalg.svdvals(cosines)[-1], torch.linalg.matrix_norm(narrow - wide @ cosines, ord=2)
    return float(torch.rad2deg(torch.atan2(sine, cosine)))


def _mean_recovery(sums: Floats) -> Floats:
    """Return the mean over fields of 1 − Σ edited / Σ base: [..., 2 C] → [...]."""
    edited, base = np.split(sums, 2, axis=-1)
    recovery: Floats = (1 - edited / base).mean(-1)
    return recovery


def _check_fields(fields: tuple[str, ...], *predictions: Tensor) -> None:
    for prediction in predictions:
        if prediction.ndim != 5 or prediction.shape != predictions[0].shape or prediction.shape[1] != len(fields):
            shapes = ", ".join(str(list(prediction.shape)) for prediction in predictions)
            raise PhysteerError(f"a score of {len(fields)} fields got {shapes}; each is [B, {len(fields)}, H, W, D]")
