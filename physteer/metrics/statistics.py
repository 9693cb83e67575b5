"""Intervals over initial conditions, p values against control directions, and dose–response.

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


def pooled_cosine(sums: Floats) -> Floats:
    """Return Σ product / √(Σ steered · Σ truth) of an `Alignment`'s three terms, in this order: [..., 3] → [...]."""
    cosine: Floats = sums[..., 0] / np.sqrt(sums[..., 1] * sums[..., 2])
    return cosine


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


def _sums(rows: Floats, names: NDArray[np.str_]) -> Floats:
    """Add up the rows of each name: [windows, k] → [names in alphabetical order, k]."""
    known, index = np.unique(names, return_inverse=True)
    sums = np.zeros((len(known), rows.shape[1]))
    np.add.at(sums, index, rows)
    return sums


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
