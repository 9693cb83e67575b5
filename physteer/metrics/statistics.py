"""Intervals over initial conditions, and p values against control directions.

Windows that share an initial condition are one draw, not several: whatever is resampled here is initial conditions,
with all the windows that belong to each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
    """0: the value alone, without an interval."""
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
    if rows.ndim != 2:
        raise PhysteerError(f"terms are [windows, k]; found the shape {list(rows.shape)}")
    return bootstrap_columns(rows[:, None], initial_conditions, statistic, resampling)[0]


def bootstrap_columns(
    terms: ArrayLike,
    initial_conditions: Sequence[str],
    statistic: Callable[[Floats], Floats],
    resampling: Resampling = DEFAULT,
) -> list[Interval]:
    """Bootstrap many columns, such as rollout steps, as `bootstrap` does each: the resamples are drawn once.

    Args:
        terms: [windows, columns, k]. In each column, windows with a value that is not finite are left out.
        initial_conditions: of each window, by name.
        statistic: sums [..., k] → [...].
        resampling: level, number and seed.

    Returns:
        An interval per column.

    Raises:
        PhysteerError: There are not as many names as windows.
    """
    rows = np.asarray(terms, dtype=np.float64)
    names = np.asarray(initial_conditions, dtype=str)
    if rows.ndim != 3 or len(rows) != len(names):
        raise PhysteerError(
            f"terms of shape {list(rows.shape)} do not go with {len(initial_conditions)} initial conditions"
        )
    intervals = [Interval(math.nan, math.nan, math.nan, 0, len(rows))] * rows.shape[1]
    for kept, columns in same_windows(np.asarray(np.isfinite(rows).all(2))):
        n_left_out = int((~kept).sum())
        sums = sums_by_name(rows[kept][:, columns], names[kept])  # [names, columns, k]
        for column, interval in zip(columns, _intervals(sums, statistic, resampling, n_left_out), strict=True):
            intervals[column] = interval
    return intervals


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
    return bootstrap_mean_columns(np.asarray(values, np.float64)[:, None], initial_conditions, resampling)[0]


def bootstrap_mean_columns(
    values: ArrayLike,
    initial_conditions: Sequence[str],
    resampling: Resampling = DEFAULT,
) -> list[Interval]:
    """Return what `bootstrap_mean` returns for each column of values [windows, columns]."""
    table = np.asarray(values, dtype=np.float64)
    names = np.asarray(initial_conditions, dtype=str)
    if table.ndim != 2 or len(table) != len(names):
        raise PhysteerError(f"values of shape {list(table.shape)} do not go with {len(names)} initial conditions")
    terms = np.full((*table.shape, 2), math.nan)
    for kept, columns in same_windows(np.isfinite(table)):
        _, index, counts = np.unique(names[kept], return_inverse=True, return_counts=True)
        weight = np.broadcast_to(1 / counts[index][:, None], (len(index), len(columns)))
        places = np.ix_(np.flatnonzero(kept), np.array(columns))
        terms[places] = np.stack([table[places] * weight, weight], -1)  # an initial condition's weights add up to 1
    return bootstrap_columns(terms, initial_conditions, pooled_ratio, resampling)


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


def root_of_ratio(sums: Floats) -> Floats:
    """Return the square root of the first of two sums over the second: [..., 2] → [...]."""
    return np.sqrt(pooled_ratio(sums))


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


def same_windows(finite: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.bool_], list[int]]]:
    """Yield each choice of kept windows, [windows], and the columns of ``finite`` [windows, columns] that make it."""
    columns: dict[bytes, list[int]] = {}
    for column in range(finite.shape[1]):
        columns.setdefault(finite[:, column].tobytes(), []).append(column)
    for members in columns.values():
        kept = finite[:, members[0]]
        if kept.any():
            yield kept, members


def _intervals(
    sums: Floats, statistic: Callable[[Floats], Floats], resampling: Resampling, left_out: int
) -> Iterator[Interval]:
    """Yield an interval for each column of sums [names, columns, k]."""
    n, n_columns, k = sums.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.asarray(statistic(sums.sum(0))).tolist()  # [columns]
        if n == 1 or not resampling.resamples:
            yield from (Interval(value, math.nan, math.nan, n, left_out) for value in values)
            return
        times = resamples_of(n, resampling.resamples, resampling.seed)  # [resamples, names]
        resampled = np.asarray(statistic((times @ sums.reshape(n, -1)).reshape(-1, n_columns, k)))
    ends = [(1 - resampling.level) / 2, (1 + resampling.level) / 2]
    finite = np.isfinite(resampled)  # a resample may miss all that a denominator consists of
    if finite.all():
        bounds = np.quantile(resampled, ends, axis=0).T.tolist()  # [columns, 2]
    else:
        known = [column[kept] for column, kept in zip(resampled.T, finite.T, strict=True)]
        bounds = [np.quantile(column, ends).tolist() if len(column) else [math.nan] * 2 for column in known]
    yield from (Interval(value, low, high, n, left_out) for value, (low, high) in zip(values, bounds, strict=True))


@lru_cache(maxsize=32)
def resamples_of(n: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """Return how often each of n initial conditions is drawn, [resamples, n]: the same for the same seed."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    drawn.setflags(write=False)
    return drawn


def sums_by_name(rows: Floats, names: NDArray[np.str_]) -> Floats:
    """Add up the rows of each name: [windows, …] → [names in alphabetical order, …]."""
    known, index = np.unique(names, return_inverse=True)
    sums = np.zeros((len(known), *rows.shape[1:]))
    np.add.at(sums, index, rows)
    return sums


def per_initial_condition(terms: ArrayLike, initial_conditions: Sequence[str]) -> Floats:
    """Divide the terms of windows by the number of windows of their initial condition.

    Sums over windows then are sums over initial conditions of the means over their windows: each weighs the same.

    Args:
        terms: [windows, columns, k]; in a column, windows with a value that is not finite are not counted.
        initial_conditions: of each window, by name.
    """
    rows = np.asarray(terms, dtype=np.float64)
    _, index = np.unique(np.asarray(initial_conditions, dtype=str), return_inverse=True)
    finite = np.isfinite(rows).all(2)  # [windows, columns]
    counts = np.zeros((int(index.max(initial=-1)) + 1, rows.shape[1]))
    np.add.at(counts, index, finite)
    divided: Floats = rows / np.maximum(counts, 1)[index][..., None]
    return divided
