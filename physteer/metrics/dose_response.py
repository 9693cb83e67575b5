"""Dose response: the slope of an effect against the strength of steering, per initial condition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from physteer.errors import PhysteerError
from physteer.metrics.statistics import DEFAULT, Floats, Interval, Resampling, bootstrap_mean


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
    alpha, effect = np.asarray(strengths, np.float64), np.asarray(effects, np.float64)
    names = np.asarray(initial_conditions, dtype=str)
    if not alpha.shape == effect.shape == names.shape:
        raise PhysteerError(f"{len(alpha)} strengths, {len(effect)} effects, {len(names)} initial conditions: not rows")
    if not np.isfinite(alpha).all():
        raise PhysteerError("strengths of a dose–response must be finite")
    finite = np.isfinite(effect)
    kept, slopes = [], []
    for name in np.unique(names[finite]):
        of_condition = finite & (names == name)
        x = np.unique(alpha[of_condition])
        if len(x) > 1:
            y = np.array([effect[of_condition & (alpha == a)].mean() for a in x])
            kept.append(str(name))
            slopes.append(slope(x, y))
    return bootstrap_mean(slopes, kept, resampling)


def slope(x: ArrayLike, y: ArrayLike) -> float:
    """Return the least-squares slope of y against x; NaN where x does not vary."""
    dx, dy = _centred(x), _centred(y)
    spread = float(dx @ dx)
    return float(dx @ dy) / spread if spread else math.nan


def _centred(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    centred: Floats = array - array.mean()
    return centred
