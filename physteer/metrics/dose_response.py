"""Dose response: the slope of an effect against the strength of steering, per initial condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from physteer.errors import PhysteerError
from physteer.metrics.statistics import DEFAULT, Floats, Interval, Resampling, bootstrap_mean_columns


def dose_response(
    strengths: ArrayLike,
    effects: ArrayLike,
    initial_conditions: Sequence[str],
    resampling: Resampling = DEFAULT,
) -> Interval:
    """Measure the slope per initial condition, and bootstrap the mean over initial conditions.

    Windows of one initial condition are first averaged at each strength. Where effects are changes against the
    unsteered rollout, include rows of strength 0 and effect 0: they are part of the curve.

    Args:
        strengths: α of each row.
        effects: of each row; rows whose effect is not finite are left out.
        initial_conditions: of each row, by name; one with fewer than two strengths has no slope and is left out.
        resampling: level, number and seed.

    Returns:
        The least-squares slope of effect against α, in units of the effect per unit of α.

    Raises:
        PhysteerError: Rows do not match, or a strength is not finite.
    """
    levels, means, names = mean_responses(strengths, np.asarray(effects, np.float64)[:, None], initial_conditions)
    return dose_response_columns(levels, means, names, resampling)[0]


def mean_responses(
    strengths: ArrayLike, effects: ArrayLike, initial_conditions: Sequence[str]
) -> tuple[Floats, Floats, list[str]]:
    """Average the rows of each initial condition at each strength.

    Args:
        strengths: α of each row.
        effects: [rows, columns]; values that are not finite are left out.
        initial_conditions: of each row, by name.

    Returns:
        The strengths in order; the means [strengths, initial conditions, columns], NaN where there is no value; and the
        names of the initial conditions.

    Raises:
        PhysteerError: Rows do not match, or a strength is not finite.
    """
    alpha, effect = np.asarray(strengths, np.float64), np.asarray(effects, np.float64)
    names = np.asarray(initial_conditions, dtype=str)
    if not len(alpha) == len(effect) == len(names):
        raise PhysteerError(f"{len(alpha)} strengths, {len(effect)} effects, {len(names)} initial conditions: not rows")
    if not np.isfinite(alpha).all():
        raise PhysteerError("strengths of a dose–response must be finite")
    levels, level = np.unique(alpha, return_inverse=True)
    known, name = np.unique(names, return_inverse=True)
    finite = np.isfinite(effect)
    total = np.zeros((len(levels), len(known), effect.shape[1]))
    count = np.zeros_like(total)
    np.add.at(total, (level, name), np.where(finite, effect, 0.0))
    np.add.at(count, (level, name), finite)
    return levels, np.where(count > 0, total / np.maximum(count, 1), math.nan), known.tolist()


def dose_response_columns(
    levels: ArrayLike, means: Floats, initial_conditions: Sequence[str], resampling: Resampling = DEFAULT
) -> list[Interval]:
    """Return what `dose_response` returns for each column of `mean_responses`."""
    intervals = bootstrap_mean_columns(slopes(levels, means), initial_conditions, resampling)
    return [replace(interval, left_out=0) for interval in intervals]  # these were no windows


def slopes(x: ArrayLike, y: Floats) -> Floats:
    """Return the least-squares slope along the first axis, values that are not finite left out.

    Args:
        x: [n].
        y: [n, …].

    Returns:
        […]; NaN where fewer than two values of x are left.
    """
    kept = np.isfinite(y)
    at = np.broadcast_to(np.asarray(x, np.float64).reshape(-1, *(1,) * (y.ndim - 1)), y.shape)
    count = np.maximum(kept.sum(0), 1)

    def centred(values: Floats) -> Floats:
        known = np.where(kept, values, 0.0)
        return np.where(kept, known - known.sum(0) / count, 0.0)

    dx, dy = centred(at), centred(y)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((dx * dy).sum(0) / (dx * dx).sum(0))


def slope(x: ArrayLike, y: ArrayLike) -> float:
    """Return the least-squares slope of y against x; NaN where x does not vary."""
    return float(slopes(x, np.asarray(y, np.float64)))
