"""Scores of interchange interventions on (base, source) pairs, pooled over pairs and added up over processes.

Sums are kept for every initial condition, since pairs that share one are one draw: intervals resample initial
conditions. A pair belongs to its base's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from physteer.errors import PhysteerError, did_you_mean
from physteer.metrics.flow import SPACE
from physteer.metrics.statistics import DEFAULT, Floats, Interval, Resampling, bootstrap, pooled_ratio
from physteer.metrics.steering import recovery_terms


class InterchangeAccuracy(Metric):
    """IIA: the share of pairs whose edited output is the class that the counterfactual has (Geiger et al., 2301.04709).

    The counterfactual's class is what the high-level model answers under the same interchange.
    """

    full_state_update = False
    hits: Tensor
    pairs: Tensor

    def __init__(self, initial_conditions: Sequence[str], **kwargs: Any) -> None:
        """Begin with nothing seen.

        Args:
            initial_conditions: names of all there are, over all processes.
            **kwargs: torchmetrics' own.
        """
        super().__init__(**kwargs)
        self.initial_conditions = tuple(initial_conditions)
        for name in ("hits", "pairs"):
            self.add_state(name, torch.zeros(len(self.initial_conditions), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, edited: Tensor, counterfactual: Tensor, initial_conditions: Sequence[str]) -> None:
        """Add pairs.

        Args:
            edited: class of the edited output, [B] integers.
            counterfactual: the class there should be, [B].
            initial_conditions: of each pair's base.
        """
        if edited.shape != counterfactual.shape or edited.ndim != 1:
            raise PhysteerError(
                f"classes of {list(edited.shape)} edited outputs and {list(counterfactual.shape)} counterfactuals: "
                "not one of each for every pair"
            )
        rows = _rows(self.initial_conditions, initial_conditions, edited)
        self.hits.index_add_(0, rows, (edited == counterfactual).long())
        self.pairs.index_add_(0, rows, torch.ones_like(rows))

    def compute(self) -> Tensor:
        """Return hits and pairs by initial condition, over all processes: [initial conditions, 2]."""
        return torch.stack([self.hits, self.pairs], dim=1)

    def accuracy(self, resampling: Resampling = DEFAULT) -> Interval:
        """Return the share of all pairs, with its interval over initial conditions."""
        return _interval(self.compute(), pooled_ratio, resampling)


@dataclass(frozen=True)
class Recovery:
    """How far edits bring predictions from the unedited ones (0) to the truth (1)."""

    mean: Interval
    """Over fields."""
    per_field: dict[str, Interval]
    ceiling: Interval
    """The mean over fields for the model's own prediction: what an edit can hope for."""


class CounterfactualRecovery(Metric):
    """1 − Σ‖ŷ' − y*‖² / Σ‖ŷ_b − y*‖² over pairs, per field, and its mean over fields.

    ŷ' is the edited prediction, ŷ_b the unedited one from the base, y* the true counterfactual.
    """

    full_state_update = False
    errors: Tensor

    def __init__(self, fields: Sequence[str], initial_conditions: Sequence[str], **kwargs: Any) -> None:
        """Begin with nothing seen.

        Args:
            fields: names of the fields that are scored, in channel order. A field whose counterfactual differs from the
                base by nothing but the model's error measures that error: judge it by `Movement`.
            initial_conditions: names of all there are, over all processes.
            **kwargs: torchmetrics' own.
        """
        super().__init__(**kwargs)
        self.fields, self.initial_conditions = tuple(fields), tuple(initial_conditions)
        shape = len(self.initial_conditions), 3, len(self.fields)
        self.add_state("errors", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self, edited: Tensor, base: Tensor, truth: Tensor, ceiling: Tensor, initial_conditions: Sequence[str]
    ) -> None:
        """Add pairs.

        Args:
            edited: ŷ' [B, C, H, W, D], the scored fields only.
            base: ŷ_b, the same shape and units, like all that follow.
            truth: y*.
            ceiling: as well as the model by itself predicts: from the counterfactual's stored window, where one agrees
                with the base's, or y* with the error of its prediction of the base's own future.
            initial_conditions: of each pair's base.
        """
        _check_fields(self.fields, edited, base, truth, ceiling)
        ours, best = recovery_terms(edited, base, truth), recovery_terms(ceiling, base, truth)
        terms = torch.stack([ours.error_steered, ours.error_unsteered, best.error_steered], dim=1)  # [B, 3, C]
        self.errors.index_add_(0, _rows(self.initial_conditions, initial_conditions, edited), terms)

    def compute(self) -> Tensor:
        """Return summed squared errors (edited, base, ceiling) of all processes: [initial conditions, 3, fields]."""
        return self.errors

    def recovery(self, resampling: Resampling = DEFAULT) -> Recovery:
        """Return the recoveries, with intervals over initial conditions."""
        errors: Tensor = self.compute()
        edited, base, ceiling = errors.unbind(1)  # each [initial conditions, C]
        return Recovery(
            mean=_interval(torch.cat([edited, base], 1), _mean_recovery, resampling),
            per_field={
                field: _interval(torch.stack([edited[:, i], base[:, i]], 1), _mean_recovery, resampling)
                for i, field in enumerate(self.fields)
            },
            ceiling=_interval(torch.cat([ceiling, base], 1), _mean_recovery, resampling),
        )


class Movement(Metric):
    """√(Σ‖(ŷ' − ŷ_b)/r‖² / pairs) per field: how far edits move it, in units of r. Fields that must not move have 0.

    With the base window's r_Δ for r, 1 is as far as the field goes in one step by itself.
    """

    full_state_update = False
    squares: Tensor
    pairs: Tensor

    def __init__(self, fields: Sequence[str], initial_conditions: Sequence[str], **kwargs: Any) -> None:
        """Begin with nothing seen.

        Args:
            fields: names of the fields, in channel order.
            initial_conditions: names of all there are, over all processes.
            **kwargs: torchmetrics' own.
        """
        super().__init__(**kwargs)
        self.fields, self.initial_conditions = tuple(fields), tuple(initial_conditions)
        n = len(self.initial_conditions)
        self.add_state("squares", torch.zeros(n, len(self.fields), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pairs", torch.zeros(n, 1, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, edited: Tensor, base: Tensor, scale: Tensor, initial_conditions: Sequence[str]) -> None:
        """Add pairs.

        Args:
            edited: ŷ' [B, C, H, W, D].
            base: ŷ_b, the same shape and units.
            scale: r [B, C], in the same units.
            initial_conditions: of each pair's base.
        """
        _check_fields(self.fields, edited, base)
        rows = _rows(self.initial_conditions, initial_conditions, edited)
        moved = (edited.double() - base.double()).square().mean(SPACE) / scale.double().square()
        self.squares.index_add_(0, rows, moved)
        self.pairs.index_add_(0, rows, torch.ones(len(rows), 1, dtype=torch.float64, device=rows.device))

    def compute(self) -> Tensor:
        """Return squares of every field, then pairs, of all processes: [initial conditions, fields + 1]."""
        return torch.cat([self.squares, self.pairs], dim=1)

    def movement(self, resampling: Resampling = DEFAULT) -> dict[str, Interval]:
        """Return the movement of each field, with intervals over initial conditions."""
        sums: Tensor = self.compute()
        return {
            field: _interval(sums[:, [i, -1]], lambda s: np.sqrt(pooled_ratio(s)), resampling)
            for i, field in enumerate(self.fields)
        }


def largest_principal_angle(first: Tensor, second: Tensor) -> float:
    """Return the largest principal angle between the spans of two bases, in degrees.

    Of the smaller span with its nearest part of the larger one, where dimensions differ. Both sine and cosine are used,
    so small angles are exact too (Björck & Golub, Math. Comp. 27, 1973).

    Args:
        first: [d, k], columns of full rank.
        second: [d, l].
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


def _interval(sums: Tensor, statistic: Callable[[Floats], Floats], resampling: Resampling) -> Interval:
    """Bootstrap over initial conditions from their sums [initial conditions, k]; those without pairs are left out."""
    seen = sums[(sums != 0).any(1)].cpu().double().numpy()
    return bootstrap(seen, [f"{i:09d}" for i in range(len(seen))], statistic, resampling)


def _rows(known: tuple[str, ...], names: Sequence[str], batch: Tensor) -> Tensor:
    if len(names) != len(batch):
        raise PhysteerError(f"{len(batch)} pairs come with {len(names)} initial conditions")
    for name in names:
        if name not in known:
            raise PhysteerError(f"initial condition {name!r} is not one that is scored{did_you_mean(name, known)}")
    return torch.tensor([known.index(name) for name in names], device=batch.device)


def _check_fields(fields: tuple[str, ...], *predictions: Tensor) -> None:
    for prediction in predictions:
        if prediction.ndim != 5 or prediction.shape != predictions[0].shape or prediction.shape[1] != len(fields):
            shapes = ", ".join(str(list(one.shape)) for one in predictions)
            raise PhysteerError(f"a score of {len(fields)} fields got {shapes}; each is [B, {len(fields)}, H, W, D]")
