"""Scores of interchange interventions on (base, source) pairs, pooled over pairs and added up over processes.

Sums are kept for every initial condition, since pairs that share one are one draw: intervals resample initial
conditions. A pair belongs to its base's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physteer.errors import PhysteerError
from physteer.metrics.geometry import SPACE
from physteer.metrics.statistics import DEFAULT, Floats, Interval, Resampling, pooled_ratio
from physteer.metrics.sums import PairSums, interval_of, interval_of_difference

ROUNDING = 1e-5
"""Of a field's root mean square: a smaller true change is no change. Float32 leaves 1e-7, viscosity 1e-2 in a step."""


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

    def above(self, other: InterchangeAccuracy, resampling: Resampling = DEFAULT) -> Interval:
        """Return how much larger it is than another of the same pairs, with its paired interval."""
        return interval_of_difference(self.compute(), other.compute(), pooled_ratio, resampling)


@dataclass(frozen=True)
class NearnessScores:
    """The results of `Nearness`: 0 as near to the truth as unedited predictions, 1 exact."""

    mean: Interval
    """Over fields."""
    per_field: dict[str, Interval]
    ceiling: Interval
    """The mean over fields for an edit whose only error is the model's own: no edit can be expected to have more."""


class Nearness(PairSums):
    """Nearness: 1 − Σ‖ŷ' − y*‖² / Σ‖ŷ_b − y*‖² over pairs, per field, and its mean over fields.

    ŷ' is the edited prediction, ŷ_b the unedited one, y* the true counterfactual and y_b the base's true own future.
    The model's own error of the base counts as distance from the truth, so a better model has another nearness for the
    same edit; `ChangeRecovery` is the measure of what an edit does. The sums are squared errors of the edited
    prediction, of the unedited one, and of the unedited one as a prediction of y_b, [initial conditions, 3, fields].
    """

    def __init__(self, fields: Sequence[str], initial_conditions: Sequence[str], **kwargs: Any) -> None:
        """Start with no pairs.

        Args:
            fields: names of the fields that are scored, in channel order. Where the counterfactual of a field equals
                that of the base, its nearness measures only the model's error: use `Movement` for such fields.
            initial_conditions: names of all there are, over all processes.
            **kwargs: torchmetrics' own.
        """
        super().__init__(initial_conditions, (3, len(fields)), **kwargs)
        self.fields = tuple(fields)

    def update(
        self, edited: Tensor, base: Tensor, truth: Tensor, own_future: Tensor, initial_conditions: Sequence[str]
    ) -> None:
        """Add pairs; arguments as for `ChangeRecovery.update`."""
        _check_fields(self.fields, edited, base, truth, own_future)
        predicted, unedited, wanted = edited.double(), base.double(), truth.double()
        errors = predicted - wanted, unedited - wanted, unedited - own_future.double()
        self.add(torch.stack([error.square().mean(SPACE) for error in errors], 1), initial_conditions)

    def nearness(self, resampling: Resampling = DEFAULT) -> NearnessScores:
        """Return nearness and its ceiling, with intervals over initial conditions."""
        edited, base, own = self.compute().unbind(1)  # each [initial conditions, C]
        return NearnessScores(
            mean=interval_of(torch.cat([edited, base], 1), _mean_share, resampling),
            per_field={
                field: interval_of(torch.stack([edited[:, i], base[:, i]], 1), _mean_share, resampling)
                for i, field in enumerate(self.fields)
            },
            ceiling=interval_of(torch.cat([own, base], 1), _mean_share, resampling),
        )


class ChangeRecovery(PairSums):
    """Recovery of the change: 1 − Σ‖(ŷ' − ŷ_b) − (y* − y_b)‖² / Σ‖y* − y_b‖² over pairs, per field, and its mean.

    ŷ' is the edited prediction, ŷ_b the unedited one, y* the true counterfactual and y_b the base's true own future. An
    unedited prediction has 0, an edit that changes it as the truth changes has 1. The model's additive error of the
    base cancels, which it does not in `Nearness`. The sums are squares of the error of the change, of the true change
    and of y_b, [initial conditions, 3, fields].

    A field whose true change is less than `ROUNDING` of its own size, root mean squares over all pairs, does not
    change: a simulator that starts again from a stored frame differs from the stored trajectory by rounding.
    """

    def __init__(self, fields: Sequence[str], initial_conditions: Sequence[str], **kwargs: Any) -> None:
        """Start with no pairs.

        Args:
            fields: names of the fields that are scored, in channel order.
            initial_conditions: names of all there are, over all processes.
            **kwargs: torchmetrics' own.
        """
        super().__init__(initial_conditions, (3, len(fields)), **kwargs)
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

        Raises:
            PhysteerError: Shapes do not fit, or an initial condition is unknown.
        """
        _check_fields(self.fields, edited, base, truth, own_future)
        true_change = truth.double() - own_future.double()
        terms = edited.double() - base.double() - true_change, true_change, own_future.double()
        self.add(torch.stack([term.square().mean(SPACE) for term in terms], 1), initial_conditions)

    def recovery(self, resampling: Resampling = DEFAULT) -> tuple[Interval, dict[str, Interval]]:
        """Return the mean over fields, and the recovery of each, with intervals over initial conditions.

        Fields that never change are left out of the mean; their own recovery is NaN, and so is the mean of none.
        """
        return self._over_fields(lambda fields: interval_of(self._terms(fields), _mean_share, resampling))

    def above(self, other: ChangeRecovery, resampling: Resampling = DEFAULT) -> tuple[Interval, dict[str, Interval]]:
        """Return how much larger both are than another's of the same pairs, with paired intervals."""
        return self._over_fields(
            lambda fields: interval_of_difference(self._terms(fields), other._terms(fields), _mean_share, resampling)
        )

    def _terms(self, fields: Tensor) -> Tensor:
        """Return squared errors, then squared changes, of some fields: [initial conditions, 2 fields]."""
        return self.compute()[:, :2, fields.to(self.sums.device)].flatten(1)

    def _over_fields(self, interval: Callable[[Tensor], Interval]) -> tuple[Interval, dict[str, Interval]]:
        """Return the interval of all fields that change, and of each."""
        change, own = self.compute().cpu()[:, 1:].sum(0)  # each [C]
        changes = change > ROUNDING**2 * own
        nothing = Interval(math.nan, math.nan, math.nan, int((self.sums != 0).flatten(1).any(1).sum()))
        each = {field: interval(torch.tensor([i])) if changes[i] else nothing for i, field in enumerate(self.fields)}
        return interval(changes.nonzero()[:, 0]) if changes.any() else nothing, each


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

    def share_of(self, other: Movement, fields: Sequence[str], resampling: Resampling = DEFAULT) -> Interval:
        """Return √(Σ movement² / Σ other's movement²) over some fields, with its interval over initial conditions.

        Args:
            other: of the same fields and initial conditions, which are resampled together.
            fields: names of those that are pooled.
            resampling: level, number and seed.

        Raises:
            PhysteerError: The two are of other fields or initial conditions.
        """
        if (self.fields, self.initial_conditions) != (other.fields, other.initial_conditions):
            raise PhysteerError("a share of movements is of the same fields and initial conditions")
        indices = [self.fields.index(field) for field in fields]
        both = [torch.stack([sums[:, indices].sum(1), sums[:, -1]], 1) for sums in (self.compute(), other.compute())]

        def share(sums: Floats) -> Floats:
            return np.sqrt(pooled_ratio(sums[..., :2]) / pooled_ratio(sums[..., 2:]))

        return interval_of(torch.cat(both, 1), share, resampling)


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


def _mean_share(sums: Floats) -> Floats:
    """Return the mean over fields of 1 − Σ edited / Σ base: [..., 2 C] → [...]."""
    edited, base = np.split(sums, 2, axis=-1)
    share: Floats = (1 - edited / base).mean(-1)
    return share


def _check_fields(fields: tuple[str, ...], *predictions: Tensor) -> None:
    for prediction in predictions:
        if prediction.ndim != 5 or prediction.shape != predictions[0].shape or prediction.shape[1] != len(fields):
            shapes = ", ".join(str(list(prediction.shape)) for prediction in predictions)
            raise PhysteerError(f"a score of {len(fields)} fields got {shapes}; each is [B, {len(fields)}, H, W, D]")
