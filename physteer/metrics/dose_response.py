"""How an effect follows the strength of steering: slope and monotonicity, initial condition by initial condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from physteer.errors import PhysteerError
from physteer.metrics.statistics import DEFAULT, Floats, Interval, Resampling, bootstrap_mean


@dataclass(frozen=True)
class DoseResponse:
    """How an effect follows the strength α, within initial conditions and averaged over them."""

    slope: Interval
    """Least-squares slope of effect against α, in units of the effect per unit of α."""
    spearman: Interval
    """Rank correlation, 1 where the effect only rises with α."""
    kendall: Interval
    """τ-b: share of concordant minus discordant pairs of strengths, ties taken into account."""


def dose_response(
    strengths: ArrayLike,
    effects: ArrayLike,
    initial_conditions: Sequence[str],
    resampling: Resampling = DEFAULT,
) -> DoseResponse:
    """Measure slope and monotonicity per initial condition, and bootstrap their means over initial conditions.

    Windows of one initial condition are averaged at each strength first. Where effects are changes against the
    unsteered rollout, give rows of strength 0 and effect 0 too: they are part of the curve.

    Args:
        strengths: α of each row.
        effects: of each row; rows that are not finite are left out.
        initial_conditions: of each row, by name; one with fewer than two strengths has no slope and is left out.
        resampling: level, number and seed.

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
    kept, measured = [], []
    for name in np.unique(names[finite]):
        mine = finite & (names == name)
        x = np.unique(alpha[mine])
        if len(x) > 1:
            y = np.array([effect[mine & (alpha == a)].mean() for a in x])
            kept.append(str(name))
            measured.append((slope(x, y), spearman(x, y), kendall(x, y)))
    columns = np.array(measured).reshape(-1, 3).T
    return DoseResponse(*(bootstrap_mean(column, kept, resampling) for column in columns))


def slope(x: ArrayLike, y: ArrayLike) -> float:
    """Return the least-squares slope of y against x; NaN where x does not vary."""
    dx, dy = _centred(x), _centred(y)
    return _ratio(float(dx @ dy), float(dx @ dx))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's ρ: the correlation of ranks, ties sharing theirs. A constant has none: 0 is returned."""
    dx, dy = _centred(_ranks(x)), _centred(_ranks(y))
    norm = math.sqrt(float(dx @ dx) * float(dy @ dy))
    return float(dx @ dy) / norm if norm else 0.0


def kendall(x: ArrayLike, y: ArrayLike) -> float:
    """Return Kendall's τ-b: (concordant − discordant)/√(pairs untied in x · pairs untied in y); 0 for a constant."""
    sx, sy = (np.sign(np.subtract.outer(np.asarray(v, float), np.asarray(v, float))) for v in (x, y))
    norm = math.sqrt(float((sx**2).sum() * (sy**2).sum()))
    return float((sx * sy).sum()) / norm if norm else 0.0


def _centred(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    centred: Floats = array - array.mean()
    return centred


def _ranks(values: ArrayLike) -> Floats:
    """Return ranks from 1; equal values share the mean of theirs."""
    array = np.asarray(values, dtype=np.float64)
    _, index, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: Floats = (last - (counts - 1) / 2)[index]
    return ranks


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan
