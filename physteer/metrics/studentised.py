"""Studentised bootstrap intervals over initial conditions: right for few of them, where percentiles are too narrow.

t* = (θ* − θ)/se* of every resample takes the place of Student's t: the interval is θ − t*_{high} se … θ − t*_{low} se
(Efron & Tibshirani 1993, ch. 12.5). se is the delta method's, √Σ(∇θ · (xᵢ − x̄))², of a statistic of sums over initial
conditions. Simulated coverage of nominal 95 % for a ratio of sums is 94–95 % at 8 and 12 initial conditions, where the
percentile interval covers 87–88 % and 91 % (normal and log-normal terms; BCa: 86–88 % and 90–91 %).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from physteer.errors import PhysteerError
from physteer.metrics.statistics import (
    DEFAULT,
    Floats,
    Interval,
    Resampling,
    per_initial_condition,
    pooled_ratio,
    resamples_of,
    same_windows,
    sums_by_name,
)

FEWEST = 8
"""Initial conditions. Fewer have no interval: none of the bootstrap's covers what it says."""
_STEP = 1e-6  # of the differences that the gradient consists of, as a share of the terms' size
_MOST = 2_000_000  # influences of initial conditions in memory
_ROUND_OFF = 1e-9  # standard errors below this share of the value are none


def studentised_columns(
    terms: ArrayLike,
    initial_conditions: Sequence[str],
    statistic: Callable[[Floats], Floats],
    resampling: Resampling = DEFAULT,
) -> list[Interval]:
    """Give a smooth function of sums over windows its interval, for each of several columns such as rollout steps.

    Shares of initial conditions that do something or not vary too little over resamples for it.

    Args:
        terms: [windows, columns, k]. In each column, windows with a value that is not finite are left out.
        initial_conditions: of each window, by name; they are what is resampled.
        statistic: sums [..., k] → [...].
        resampling: level, number and seed.

    Returns:
        An interval per column, without bounds (NaN) for fewer than eight initial conditions.

    Raises:
        PhysteerError: There are not as many names as windows.
    """
    rows, names = np.asarray(terms, dtype=np.float64), np.asarray(initial_conditions, dtype=str)
    if rows.ndim != 3 or len(rows) != len(names):
        raise PhysteerError(
            f"terms of shape {list(rows.shape)} do not go with {len(initial_conditions)} initial conditions"
        )
    intervals = [Interval(math.nan, math.nan, math.nan, 0, len(rows))] * rows.shape[1]
    for kept, columns in same_windows(np.asarray(np.isfinite(rows).all(2))):
        sums = sums_by_name(rows[kept][:, columns], names[kept])  # [names, columns, k]
        at_once = max(1, _MOST // (len(sums) * max(resampling.resamples, 1)))
        for start in range(0, len(columns), at_once):
            some = slice(start, start + at_once)
            for column, bounds in zip(columns[some], _bounds(sums[:, some], statistic, resampling), strict=True):
                intervals[column] = Interval(*bounds, len(sums), int((~kept).sum()))
    return intervals


def studentised_mean_columns(
    values: ArrayLike, initial_conditions: Sequence[str], resampling: Resampling = DEFAULT
) -> list[Interval]:
    """Give the mean over initial conditions of the means over their windows its interval, per column.

    Args:
        values: [windows, columns]; those that are not finite are left out.
        initial_conditions: of each window, by name.
        resampling: level, number and seed.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or len(table) != len(initial_conditions):
        raise PhysteerError(
            f"values of shape {list(table.shape)} do not go with {len(initial_conditions)} initial conditions"
        )
    terms = np.stack([table, np.where(np.isfinite(table), 1.0, np.nan)], -1)
    return studentised_columns(
        per_initial_condition(terms, initial_conditions), initial_conditions, pooled_ratio, resampling
    )


def _bounds(
    sums: Floats, statistic: Callable[[Floats], Floats], resampling: Resampling
) -> Iterator[tuple[float, float, float]]:
    """Yield value, low and high of each column of sums [names, columns, k]."""
    n = len(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.asarray(statistic(sums.sum(0))).tolist()
        if n < FEWEST or not resampling.resamples:
            yield from ((value, math.nan, math.nan) for value in values)
            return
        total = _Spread.of(sums, np.ones((1, n)), statistic)
        drawn = _Spread.of(sums, resamples_of(n, resampling.resamples, resampling.seed), statistic)
        deviation = drawn.value - total.value
        least = _ROUND_OFF * (np.abs(total.value) + np.abs(drawn.value))
        t = np.where(np.abs(deviation) <= least, 0.0, deviation / np.where(drawn.error > least, drawn.error, np.nan))
    ends = [(1 + resampling.level) / 2, (1 - resampling.level) / 2]
    for column, value, error in zip(t.T, values, total.error[0].tolist(), strict=True):
        known = column[np.isfinite(column)]  # a resample of equal terms has no error to divide by
        high, low = np.quantile(known, ends).tolist() if len(known) else (math.nan, math.nan)
        yield value, value - high * error, value - low * error


@dataclass(frozen=True, eq=False)
class _Spread:
    """A statistic of resamples and its standard error, each [resamples, columns]."""

    value: Floats
    error: Floats

    @classmethod
    def of(cls, sums: Floats, times: NDArray[np.float64], statistic: Callable[[Floats], Floats]) -> _Spread:
        """Evaluate resamples in which the terms [names, columns, k] come so many times, [resamples, names]."""
        n, n_columns, k = sums.shape
        resampled = (times @ sums.reshape(n, -1)).reshape(-1, n_columns, k)
        value = np.asarray(statistic(resampled))
        influence = np.zeros((len(times), n, n_columns))
        scale = np.abs(sums).sum(0) + np.finfo(np.float64).tiny  # [columns, k]
        for i in range(k):
            step = np.zeros_like(scale)
            step[:, i] = _STEP * scale[:, i]
            slope = (statistic(resampled + step) - statistic(resampled - step)) / (2 * step[:, i])
            influence += slope[:, None] * sums[None, :, :, i]
        centred = influence - np.einsum("rn,rnc->rc", times, influence)[:, None] / n
        return cls(value, np.sqrt(np.einsum("rn,rnc->rc", times, centred**2)))
