"""How terms of windows become one number per step: means, ratios, recoveries, and counts of initial conditions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from physteer.metrics.statistics import (
    Interval,
    Resampling,
    per_initial_condition,
    pooled_ratio,
)
from physteer.metrics.studentised import studentised_columns, studentised_mean_columns

Floats = NDArray[np.float64]
Pool = Callable[[Floats, Sequence[str], Resampling], list[Interval]]
"""Of terms [windows, columns, k] and the windows' initial conditions; an interval per column."""


def mean(terms: Floats, initial_conditions: Sequence[str], resampling: Resampling) -> list[Interval]:
    """Average terms [windows, columns, 1] over initial conditions."""
    return studentised_mean_columns(terms[..., 0], initial_conditions, resampling)


def ratio(terms: Floats, initial_conditions: Sequence[str], resampling: Resampling) -> list[Interval]:
    """Divide sums over windows, terms [windows, columns, 2]."""
    return studentised_columns(terms, initial_conditions, pooled_ratio, resampling)


def recovery(terms: Floats, initial_conditions: Sequence[str], resampling: Resampling) -> list[Interval]:
    """Return the mean over fields of 1 − E error / E reference, terms [windows, columns, 2 · fields].

    E is over the windows of an initial condition, then over initial conditions.
    """
    weighed = per_initial_condition(terms, initial_conditions)
    return studentised_columns(weighed, initial_conditions, _mean_recovery, resampling)


def wrong_signs(terms: Floats, initial_conditions: Sequence[str], resampling: Resampling) -> list[Interval]:
    """Count the initial conditions whose agreement is negative (`agreements`); a count has no interval."""
    every = agreements(terms, initial_conditions)  # [initial conditions, columns]
    left_out = (~np.isfinite(terms).all(2)).sum(0)
    return [
        Interval(float((column < 0).sum()) if known else math.nan, math.nan, math.nan, known, int(n))
        for column, known, n in zip(every.T, np.isfinite(every).sum(0).tolist(), left_out, strict=True)
    ]


def agreements(terms: Floats, initial_conditions: Sequence[str]) -> Floats:
    """Return Σ_fields ⟨Δŷ, Δy⟩ / E‖Δy‖² of each initial condition: below 0, the change goes the wrong way.

    Args:
        terms: [windows, columns, 2 · fields], ⟨Δŷ, Δy⟩ and ‖Δy‖² of each field in turn.
        initial_conditions: of each window, by name.

    Returns:
        [initial conditions in alphabetical order, columns]; NaN for one without finite windows.
    """
    weighed = per_initial_condition(terms, initial_conditions)
    known, index = np.unique(np.asarray(initial_conditions, dtype=str), return_inverse=True)
    finite = np.asarray(np.isfinite(weighed).all(2))
    means = np.zeros((len(known), *terms.shape[1:]))
    np.add.at(means, index, np.where(finite[..., None], weighed, 0.0))
    counted = np.zeros((len(known), terms.shape[1]))
    np.add.at(counted, index, finite)
    with np.errstate(divide="ignore", invalid="ignore"):
        n_known = np.count_nonzero(counted, axis=0)
        scale = means[..., 1::2].sum(0) / n_known[:, None]  # E‖Δy‖² [columns, fields]
        total = (means[..., 0::2] / scale).sum(-1)
    return np.where(counted > 0, total, math.nan)


def _mean_recovery(sums: Floats) -> Floats:
    """Average recoveries over fields: [..., 2 · fields] → [...]."""
    return np.asarray((1 - sums[..., 0::2] / sums[..., 1::2]).mean(-1))
