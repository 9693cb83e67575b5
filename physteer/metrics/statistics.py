"""Intervals over initial conditions, and p values against control directions.

Windows that share an initial condition are one draw, not several: whatever is resampled here is initial conditions,
with all the windows that belong to each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from physteer.errors import PhysteerError

Floats = NDArray[np.float64]
Alternative = Literal["greater", "less", "two-sided"]


@dataclass(frozen=True)
class Resampling:
    """How an interval is made."""

    level: float = 0.95
    """Share of the resamples inside."""
    resamples: int = 10_000
    seed: int = 0


DEFAULT = Resampling()


@dataclass(frozen=True)
class Interval:
    """A statistic with its percentile bootstrap interval."""

    value: float
    low: float
    high: float
    """With fewer than two initial conditions there is no interval (NaN)."""
    initial_conditions: int
    """How many were resampled. Below about ten, percentile intervals are too narrow."""
    left_out: int = 0
    """Windows whose values were not finite: a rollout that blew up has no cosine."""


def bootstrap(
    terms: ArrayLike,
    initial_conditions: Sequence[str],
    statistic: Callable[[Floats], Floats],
    resampling: Resampling = DEFAULT,
) -> Interval:
    """Bootstrap a function of sums over windows, resampling initial conditions.

    The same seed and initial conditions give the same resamples, whatever the order of the windows, so intervals of
    several conditions are paired.

    Args:
        terms: [windows, k] (or [windows]): what is added up over windows. Windows with a value that is not finite are
            left out.
        initial_conditions: of each window, by name.
        statistic: sums [..., k] → [...]. For a pooled ratio, `lambda s: s[..., 0] / s[..., 1]`.
        resampling: level, number and seed.

    Raises:
        PhysteerError: There are not as many names as windows.
    """
    rows = np.asarray(terms, dtype=np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or len(rows) != len(initial_conditions):
        raise PhysteerError(
            f"terms of shape {list(rows.shape)} do not go with {len(initial_conditions)} initial conditions"
        )
    finite = np.isfinite(rows).all(1)
    sums, left_out = _sums(rows[finite], np.asarray(initial_conditions, dtype=str)[finite]), int((~finite).sum())
    n = len(sums)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, left_out)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(sums.sum(0)))
        if n == 1:
            return Interval(value, math.nan, math.nan, 1, left_out)
        generator = np.random.default_rng(resampling.seed)
        times = generator.multinomial(n, np.full(n, 1 / n), size=resampling.resamples)  # [resamples, n]: each is drawn
        resampled = np.asarray(statistic(times @ sums))
    resampled = resampled[np.isfinite(resampled)]  # a resample may miss all that a denominator consists of
    if not len(resampled):
        return Interval(value, math.nan, math.nan, n, left_out)
    low, high = np.quantile(resampled, [(1 - resampling.level) / 2, (1 + resampling.level) / 2])
    return Interval(value, float(low), float(high), n, left_out)


def bootstrap_mean(
    values: ArrayLike,
    initial_conditions: Sequence[str],
    resampling: Resampling = DEFAULT,
) -> Interval:
    """Return the mean over initial conditions of the means over their windows, with its interval.

    Every initial condition weighs the same, however many windows it has.

    Args:
        values: [windows]; those that are not finite are left out.
        initial_conditions: of each window, by name.
        resampling: level, number and seed.
    """
    flat = np.asarray(values, dtype=np.float64)
    names = np.asarray(initial_conditions, dtype=str)
    if flat.shape != names.shape:
        raise PhysteerError(f"values of shape {list(flat.shape)} do not go with {len(names)} initial conditions")
    finite = np.isfinite(flat)
    _, index, counts = np.unique(names[finite], return_inverse=True, return_counts=True)
    weight = 1 / counts[index]  # the windows of one initial condition add up to 1
    terms = np.full((len(flat), 2), math.nan)
    terms[finite] = np.stack([flat[finite] * weight, weight], 1)
    return bootstrap(terms, initial_conditions, pooled_ratio, resampling)


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    initial_conditions: Sequence[str],
    resampling: Resampling = DEFAULT,
) -> Interval:
    """Return the pooled ratio Σ numerators / Σ denominators over windows, with its interval.

    Pooled gain is Σ⟨Δŷ Δy⟩ / Σ⟨Δy²⟩; counterfactual recovery is one minus Σ error_steered / Σ error_unsteered
    (`bootstrap_recovery`). Numerators and denominators are resampled together.

    Args:
        numerators: [windows].
        denominators: [windows]; windows where either is not finite are left out.
        initial_conditions: of each window, by name.
        resampling: level, number and seed.
    """
    terms = np.stack([np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)], 1)
    return bootstrap(terms, initial_conditions, pooled_ratio, resampling)


def bootstrap_recovery(
    error_steered: ArrayLike,
    error_unsteered: ArrayLike,
    initial_conditions: Sequence[str],
    resampling: Resampling = DEFAULT,
) -> Interval:
    """Return counterfactual recovery 1 − Σ error_steered / Σ error_unsteered, with its interval (`bootstrap_ratio`)."""
    terms = np.stack([np.asarray(error_steered, np.float64), np.asarray(error_unsteered, np.float64)], 1)
    return bootstrap(terms, initial_conditions, lambda s: 1 - pooled_ratio(s), resampling)


def pooled_ratio(sums: Floats) -> Floats:
    """Return the first of two sums over the second: [..., 2] → [...]."""
    ratio: Floats = sums[..., 0] / sums[..., 1]
    return ratio


def control_p_value(observed: float, controls: ArrayLike, alternative: Alternative = "greater") -> float:
    """Return (1 + #{controls at least as extreme}) / (1 + n): the observed direction ranked among control directions.

    The smallest value is 1/(1 + n), so 19 controls are the fewest that reach 0.05 (Phipson & Smyth 2010). It is the
    chance that a direction drawn like the controls does as well.

    Args:
        observed: the concept's statistic.
        controls: n of them, each computed as the observed one.
        alternative: `greater` and `less` count controls ≥ and ≤ the observed value; `two-sided` those whose absolute
            value is at least the observed one's: a random direction and its opposite are equally likely, so effects
            lie evenly about zero.

    Returns:
        Between 1/(1 + n) and 1. An observed value that is NaN counts as the least extreme, a control that is NaN (its
        rollout blew up) as the most: neither makes a concept look better.
    """
    values = np.asarray(controls, dtype=np.float64).ravel()
    if math.isnan(observed):
        return 1.0
    if alternative == "two-sided":
        beyond = np.abs(values) >= abs(observed)
    elif alternative == "greater":
        beyond = values >= observed
    elif alternative == "less":
        beyond = values <= observed
    else:
        raise PhysteerError(f"alternative {alternative!r} is not one of greater, less, two-sided")
    return float((1 + (beyond | np.isnan(values)).sum()) / (1 + len(values)))


def _sums(rows: Floats, names: NDArray[np.str_]) -> Floats:
    """Add up the rows of each name: [windows, k] → [names in alphabetical order, k]."""
    known, index = np.unique(names, return_inverse=True)
    sums = np.zeros((len(known), rows.shape[1]))
    np.add.at(sums, index, rows)
    return sums
