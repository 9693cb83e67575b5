"""What a run shows: settings with intervals over initial conditions, and p against random directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from physteer.analyses.steering.estimands import DOSED, Quantity, change, damage, departures, effects
from physteer.analyses.steering.metric_array import Cube, Floats, Tried, make_cube, step_choice
from physteer.analyses.steering.summary_rows import Finding
from physteer.analyses.steering.table import ERASED
from physteer.metrics.dose_response import dose_response, slope
from physteer.metrics.statistics import Interval, Resampling, bootstrap_mean, control_p_value

_INTERVALS = Resampling(resamples=2000)
VALUE_ONLY = Resampling(resamples=1)
"""Controls have no interval."""


def summarise(table: pd.DataFrame, steps: Sequence[int] | None = None) -> list[Finding]:
    """Judge every setting of a run, steered or erased.

    Windows whose unsteered rollout has blown up, and rollouts after their own blow-up, are left out and counted. Random
    directions are compared with at the same α, sign included.

    Args:
        table: from `read_metrics`.
        steps: rollout steps at which to judge; the first, the middle and the last when None.

    Returns:
        Findings, the unsteered rollouts' damage first, then setting by setting.

    Raises:
        PhysteerError: the table has no unsteered condition, or contradicts itself.
    """
    cube = make_cube(table, tuple(steps) if steps is not None else step_choice(table))
    harms = damage(cube)
    judged = {False: [*effects(cube), *harms], True: departures(cube)}  # by whether it erases
    found: list[Finding] = []
    for quantity in harms:
        if not quantity.name.endswith("_ratio"):  # to itself
            found += _at_steps(cube, cube.unsteered, quantity)

    @cache
    def value(quantity: Quantity, control: int, step: int) -> float:
        """Settings of one site, mode and α share their controls."""
        return quantity.measure(cube, control, step, VALUE_ONLY).value

    for index in cube.of_role("concept", "shuffled", "data"):
        erases = cube.conditions[index].mode == ERASED
        controls = random_controls(cube, index)
        for quantity in judged[erases]:
            found += _at_steps(cube, index, quantity, controls, value)
        found += _counts(cube, index)
        if not erases:
            found += _truths(cube, index)
    dosed = [one for i in cube.of_role("concept", "data") if (one := cube.conditions[i]).mode != ERASED]
    for who in dict.fromkeys(replace(one, strength=math.nan, condition="") for one in dosed):
        found += _doses(cube, who)
    return [finding for finding in found if finding.windows or finding.step == 0]


def random_controls(cube: Cube, index: int) -> tuple[int, ...]:
    """Find the random directions at a setting's sites, mode and α, sign included, each once."""
    mine = cube.conditions[index]
    chosen: dict[str, int] = {}
    for i in cube.of_role("random"):
        other = cube.conditions[i]
        if _is_control(other, mine) and math.isclose(other.strength, mine.strength, rel_tol=1e-6):
            chosen.setdefault(other.direction, i)
    return tuple(chosen.values())


def _is_control(random: Tried, mine: Tried) -> bool:
    """Whether a random direction is at a setting's sites and mode, and not made like another concept."""
    _, like, concept = random.direction.partition(" like ")
    return (random.site, random.mode) == (mine.site, mine.mode) and (not like or concept == mine.direction)


def _at_steps(
    cube: Cube,
    index: int,
    quantity: Quantity,
    controls: Sequence[int] = (),
    value: Callable[[Quantity, int, int], float] | None = None,
) -> Iterator[Finding]:
    """Yield a quantity of one condition at every step; ``value`` is that of a control at a step, by their indices."""
    n = len(controls) if quantity.alternative else 0
    for s, step in enumerate(cube.steps):
        interval = quantity.measure(cube, index, s, _INTERVALS)
        p = math.nan
        if quantity.alternative and n and value and interval.initial_conditions:
            others = [value(quantity, control, s) for control in controls]
            p = control_p_value(interval.value, others, quantity.alternative)
        yield _finding(cube.conditions[index], quantity.name, quantity.field, step, interval, cube, p, n)


def _finding(
    who: Tried,
    quantity: str,
    field: str,
    step: int,
    interval: Interval,
    cube: Cube,
    p: float = math.nan,
    controls: int = 0,
) -> Finding:
    used = len(cube.windows) - interval.left_out
    bounds = (interval.value, interval.low, interval.high, used, interval.initial_conditions)
    return Finding(
        who.direction, who.site, who.mode, who.strength, who.role, quantity, field, step, *bounds, p, controls
    )


def _counts(cube: Cube, index: int) -> Iterator[Finding]:
    already = np.isfinite(cube.blow_ups[cube.unsteered])
    new = np.isfinite(cube.blow_ups[index]) & ~already
    n = len(set(cube.initial_conditions))
    for name, count in (("blow_ups", new.sum()), ("already_diverged", already.sum())):
        exact = Interval(float(count), math.nan, math.nan, n)
        yield _finding(cube.conditions[index], name, "", 0, exact, cube)


def _truths(cube: Cube, index: int) -> Iterator[Finding]:
    """Yield how enstrophy and vortex area truly change towards a setting's target."""
    base, target = cube.truth(0), cube.truth(int(np.sign(cube.conditions[index].strength)))
    if base is None or target is None or base == target:
        return
    for metric in DOSED:
        truly = change(cube, metric, base)[target]
        for s, step in enumerate(cube.steps):
            interval = bootstrap_mean(truly[:, s], cube.initial_conditions, _INTERVALS)
            yield _finding(cube.conditions[index], f"{metric}_truth", "", step, interval, cube)


def _doses(cube: Cube, who: Tried) -> Iterator[Finding]:
    """Yield slope and monotonicity over a series' strengths, the unsteered rollouts (0, no change) among them."""
    rows = dict(enumerate(cube.conditions))
    series = (who.role, who.direction, who.site, who.mode)
    mine = [i for i, one in rows.items() if (one.role, one.direction, one.site, one.mode) == series]
    randoms: dict[str, list[int]] = {}
    for i in cube.of_role("random"):
        if _is_control(rows[i], who):
            randoms.setdefault(rows[i].direction, []).append(i)
    shared = {rows[i].strength for i in mine}.intersection(*({rows[i].strength for i in r} for r in randoms.values()))
    for metric in DOSED:
        changes = change(cube, metric, cube.unsteered)
        for s, step in enumerate(cube.steps):
            dosed = changes[:, :, s]
            curve = _curve(cube, dosed, mine)
            found = dose_response(*curve, _INTERVALS)
            p, n = math.nan, 0
            if randoms and shared:  # the same strengths on both sides, or the slopes are not of one kind
                n = len(randoms)
                own, *others = (
                    dose_response(*_curve(cube, dosed, [i for i in r if rows[i].strength in shared]), VALUE_ONLY)
                    for r in (mine, *randoms.values())
                )
                p = control_p_value(own.value, [one.value for one in others], "two-sided")
            yield _finding(who, f"{metric}_slope", "", step, found, cube, p, n)
            yield _finding(who, f"{metric}_monotone", "", step, _monotone(*curve), cube)


def _curve(cube: Cube, effects: Floats, conditions: Sequence[int]) -> tuple[Floats, Floats, list[str]]:
    """Return strengths, effects and initial conditions of every rollout, and of the unsteered ones."""
    n = len(cube.windows)
    strengths = np.repeat([0.0, *(cube.conditions[i].strength for i in conditions)], n)
    values = np.concatenate([effects[cube.unsteered], *(effects[i] for i in conditions)])
    return strengths, values, list(cube.initial_conditions) * (1 + len(conditions))


def _monotone(strengths: Floats, effects: Floats, names: Sequence[str]) -> Interval:
    """Return the share of initial conditions whose mean effect only rises, or only falls, the way the slope goes."""
    finite = np.isfinite(effects)
    sign = np.sign(slope(strengths[finite], effects[finite])) if finite.any() else math.nan
    share, known = [], sorted(set(np.asarray(names)[finite].tolist()))
    for name in known:
        own = finite & (np.asarray(names) == name)
        means = [effects[own & (strengths == a)].mean() for a in np.unique(strengths[own])]
        share.append(float(bool((np.diff(means) * sign > 0).all())) if len(means) > 2 else math.nan)
    return bootstrap_mean(share, known, _INTERVALS)
