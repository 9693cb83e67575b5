"""What figures of a concept beside its controls share: which conditions these are, and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from physteer.analyses.steering.metric_array import Cube, Floats
from physteer.metrics.statistics import Resampling
from physteer.reports.rollouts import Series
from physteer.reports.style import INK

LINES: dict[str, Any] = {"random": "-", "shuffled": (0, (4, 2.2)), "data": (0, (1, 1.4))}
"""Line styles by role."""
FEWER = Resampling(resamples=1000)
"""For an interval that is drawn, not told."""


def conditions_of(cube: Cube, series: Series, role: str) -> list[int]:
    """Return the conditions of a role at a series' site and mode; of concepts, the series' own."""
    if role == "data":  # changes the input, at no site
        return cube.of_role("data")
    same = (series.site, series.mode)
    found = [i for i in cube.of_role(role) if (cube.conditions[i].site, cube.conditions[i].mode) == same]
    return [i for i in found if role != "concept" or cube.conditions[i].direction == series.direction]


def curves_of(cube: Cube, series: Series, role: str) -> dict[str, list[int]]:
    """Return the conditions of a role at a series' site and mode by direction, from − to + strength."""
    curves: dict[str, list[int]] = {}
    for i in sorted(conditions_of(cube, series, role), key=lambda i: cube.conditions[i].strength):
        curves.setdefault(cube.conditions[i].direction, []).append(i)
    return curves


def control_handles(cube: Cube, data: str = "interpolated data") -> list[Line2D]:
    """Return what the legend says of controls that are lines."""
    return [
        Line2D([], [], color=INK, linewidth=1.2, linestyle=LINES[role], label=label)
        for role, label in (("shuffled", "shuffled labels"), ("data", data))
        if cube.of_role(role)
    ]


def over_initial_conditions(values: Floats, initial_conditions: Sequence[str]) -> Floats:
    """Average [windows, ...] over the windows of each initial condition, then over these; NaN are left out."""
    names = np.asarray(initial_conditions)
    means = [_finite_mean(values[names == name]) for name in dict.fromkeys(initial_conditions)]
    return _finite_mean(np.stack(means))


def _finite_mean(values: Floats) -> Floats:
    finite = np.isfinite(values)
    count = finite.sum(0)
    total = np.where(finite, values, 0.0).sum(0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))
