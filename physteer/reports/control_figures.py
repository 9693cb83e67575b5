"""A concept beside its controls: dose–response, and alignment over steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from physteer.metrics.statistics import Resampling, bootstrap_mean
from physteer.reports.cube import Cube, Floats, make_cube, step_choice
from physteer.reports.doses import draw_response, label_changes, label_strengths
from physteer.reports.quantities import DOSED, change, still_fields
from physteer.reports.rollouts import Series
from physteer.reports.style import (
    INK,
    MUTED,
    arrange,
    heading,
    new_figure,
    save,
    strength_colour,
    strength_label,
    style,
)
from physteer.reports.summary import random_controls

_LINES: dict[str, Any] = {"random": "-", "shuffled": (0, (4, 2.2)), "data": (0, (1, 1.4))}
_TRUE = "#1f7a4d"
_TITLES = {"enstrophy": "Enstrophy", "vortex_area": "Vortex area"}
_MOST_STRENGTHS, _MOST_FIELDS = 4, 4
_FEWER = Resampling(resamples=1000)  # per step and field: an interval that is drawn, not told


def draw_controlled_dose_response(table: pd.DataFrame, series: Series, path: Path) -> Path | None:
    """Draw the change of enstrophy and vortex area against strength, the concept's over those of its controls.

    Args:
        table: from `read_metrics`.
        series: the concept's direction, mode and site.
        path: of the PNG.

    Returns:
        The path, or None where there is nothing to draw.
    """
    cube = make_cube(table, step_choice(table), DOSED)
    metrics = [metric for metric in DOSED if (metric, "") in cube.values]
    mine = _conditions(cube, series, "concept")
    if not metrics or not mine:
        return None
    n_random = len(_curves(cube, series, "random"))
    title = f"Dose–response beside controls: {series}"
    caption = (
        f"Change against the unsteered rollout, mean over {len(set(cube.initial_conditions))} initial conditions; "
        f"the concept's with its 95 % interval. Grey: {n_random} random directions of equal norm."
    )
    with style():
        figure = new_figure(0.95 + 2.9 * len(metrics))
        cells = figure.subplots(len(metrics), len(cube.steps), squeeze=False, sharex=True, sharey="row")
        for row, metric in zip(cells, metrics, strict=True):
            changes = change(cube, metric, cube.unsteered)
            for s, (axes, step) in enumerate(zip(row, cube.steps, strict=True)):
                _dose(axes, cube, changes[:, :, s], series)
                _true_change(axes, cube, metric, s, [cube.conditions[i].strength for i in mine])
                axes.set_title(f"{_TITLES[metric]}, step {step}")
            label_changes(row, of_cells=metric == "vortex_area")
        label_strengths(cells[-1], (cube.conditions[i].strength for i in mine))
        handles = [Line2D([], [], color=INK, linewidth=2.4, marker="o", markeredgecolor="white", label="concept")]
        handles += [Line2D([], [], color=MUTED, linewidth=0.8, label="random directions")] if n_random else []
        handles += _control_handles(cube)
        if cube.truth(1) is not None or cube.truth(-1) is not None:
            handles.append(Line2D([], [], color=_TRUE, linewidth=1.4, marker="D", markersize=5, label="true change"))
        cells[0, 0].legend(handles=handles, loc="best", fontsize=8.5, handlelength=2.4)
        heading(figure, title, caption)
        arrange(figure)
        return save(figure, path, title, caption)


def _control_handles(cube: Cube, data: str = "interpolated data") -> list[Line2D]:
    """Return what the legend says of controls that are lines."""
    return [
        Line2D([], [], color=INK, linewidth=1.2, linestyle=_LINES[role], label=label)
        for role, label in (("shuffled", "shuffled labels"), ("data", data))
        if cube.of_role(role)
    ]


def _conditions(cube: Cube, series: Series, role: str) -> list[int]:
    if role == "data":  # changes the input, at no site
        return cube.of_role("data")
    same = (series.site, series.mode)
    found = [i for i in cube.of_role(role) if (cube.conditions[i].site, cube.conditions[i].mode) == same]
    return [i for i in found if role != "concept" or cube.conditions[i].direction == series.direction]


def _curves(cube: Cube, series: Series, role: str) -> dict[str, list[int]]:
    """Return the conditions of a role at a series' site and mode by direction, from − to + strength."""
    curves: dict[str, list[int]] = {}
    for i in sorted(_conditions(cube, series, role), key=lambda i: cube.conditions[i].strength):
        curves.setdefault(cube.conditions[i].direction, []).append(i)
    return curves


def _dose(axes: Axes, cube: Cube, changes: Floats, series: Series) -> None:
    """Draw one panel; changes are [conditions, windows]."""
    ics, mine = cube.initial_conditions, _conditions(cube, series, "concept")
    largest = max(abs(cube.conditions[i].strength) for i in mine)
    for role, look in _LINES.items():
        for members in _curves(cube, series, role).values():
            points = [(cube.conditions[i].strength, float(over_initial_conditions(changes[i], ics))) for i in members]
            random = role == "random"
            axes.plot(
                *_up_to(sorted([(0.0, 0.0), *points]), 1.1 * largest),
                color=MUTED if random else INK,
                linewidth=0.8 if random else 1.2,
                alpha=0.55 if random else 1.0,
                linestyle=look,
                zorder=2 if random else 3,
            )
    estimates = [(0.0, 0.0, 0.0, 0.0)]
    for i in mine:
        found = bootstrap_mean(changes[i], ics, _FEWER)
        estimates.append((cube.conditions[i].strength, found.value, found.low, found.high))
    draw_response(axes, estimates)


def _up_to(points: Sequence[tuple[float, float]], largest: float) -> tuple[Floats, Floats]:
    """Cut a line where it leaves the strengths of the concept: other controls may go further."""
    strengths, values = np.array(points).T
    ends = np.clip([strengths[0], strengths[-1]], -largest, largest)
    inside = strengths[(strengths > ends[0]) & (strengths < ends[1])]
    at = np.array([ends[0], *inside, ends[1]])
    return at, np.interp(at, strengths, values)


def _true_change(axes: Axes, cube: Cube, metric: str, step: int, strengths: Sequence[float]) -> None:
    """Mark how the flow truly changes towards the next parameter, over the strengths of its sign."""
    base = cube.truth(0)
    for sign in (-1, 1):
        target = cube.truth(sign)
        far = max((abs(a) for a in strengths if a * sign > 0), default=0.0)
        if base is not None and target is not None and far:
            truly = over_initial_conditions(change(cube, metric, base)[target, :, step], cube.initial_conditions)
            axes.plot([0.25 * sign * far, sign * far], [truly] * 2, color=_TRUE, linewidth=1.4, zorder=4.5)
            axes.plot(sign * far, truly, "D", color=_TRUE, markersize=5, zorder=5)


def draw_alignment(table: pd.DataFrame, series: Series, path: Path) -> Path | None:
    """Draw the cosine with the true change over steps, a row per strength and a column per field, over its controls.

    Fields that the parameter does not change are left out: their true change is round-off.

    Args:
        table: from `read_metrics`.
        series: the concept's direction, mode and site.
        path: of the PNG.

    Returns:
        The path, or None where no alignment was measured.
    """
    cube = make_cube(table, metrics=("alignment_cosine", "vrmse"))
    still = still_fields(cube)
    fields = [field for field in cube.fields("alignment_cosine") if field not in still][:_MOST_FIELDS]
    mine = sorted(_conditions(cube, series, "concept"), key=lambda i: cube.conditions[i].strength)
    if not fields or not mine:
        return None
    chosen = [mine[i] for i in np.unique(np.linspace(0, len(mine) - 1, _MOST_STRENGTHS).round().astype(int))]
    largest = max(abs(cube.conditions[i].strength) for i in mine)
    counts = sorted({len(random_controls(cube, i)) for i in chosen})
    title = f"Alignment with the true change over steps: {series}"
    caption = (
        f"Cosine of ŷ(steered) − ŷ(unsteered) with y(θ′) − y(θ), mean over {len(set(cube.initial_conditions))} initial "
        f"conditions, with its 95 % interval. Grey: the range of {'–'.join(map(str, counts))} random directions "
        "at the same α."
    )
    with style():
        figure = new_figure(1.45 + 1.75 * len(chosen))
        cells = figure.subplots(len(chosen), len(fields), squeeze=False, sharex=True, sharey=True)
        for row, index in zip(cells, chosen, strict=True):
            strength = cube.conditions[index].strength
            colour = strength_colour(strength, largest)
            for axes, field in zip(row, fields, strict=True):
                _alignment(axes, cube, cube.get("alignment_cosine", field), index, series, colour)
                if axes in cells[0]:
                    axes.set_title(field.replace("_", " "))
            row[0].set_ylabel(strength_label(strength), color=colour, fontweight="bold")
        for axes in cells[-1]:
            axes.set_xlabel("rollout step")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        cells[0, 0].set_ylim(-1.05, 1.05)
        handles: list[Line2D | Patch] = [Line2D([], [], color=INK, linewidth=2.2, label="concept")]
        if any(counts):
            handles.append(Patch(color=MUTED, alpha=0.25, linewidth=0, label="random directions"))
        handles += _control_handles(cube, "interpolated data, nearest α")
        figure.legend(handles=handles, loc="lower left", ncols=4, fontsize=9, bbox_to_anchor=(0.005, 0.0))
        heading(figure, title, caption)
        arrange(figure, bottom=0.3)
        return save(figure, path, title, caption)


def _alignment(
    axes: Axes, cube: Cube, cosine: Floats, index: int, series: Series, colour: tuple[float, float, float]
) -> None:
    """Draw one panel; cosine is [conditions, windows, steps]."""
    ics, steps = cube.initial_conditions, cube.steps
    look = {"marker": "o", "markersize": 4} if len(steps) < 4 else {}
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1.5)
    controls = random_controls(cube, index)
    if controls:
        lines = np.array([over_initial_conditions(cosine[c], ics) for c in controls])  # [controls, steps]
        seen = np.isfinite(lines).any(0)
        at = np.asarray(steps)[seen]
        if len(at):
            low, high = np.nanmin(lines[:, seen], 0), np.nanmax(lines[:, seen], 0)
            axes.fill_between(at, low, high, color=MUTED, alpha=0.25, linewidth=0, zorder=2)
            axes.plot(at, lines[:, seen].T, color=MUTED, linewidth=0.5, alpha=0.5, zorder=2.2)
    mine = cube.conditions[index]
    for role in ("shuffled", "data"):
        for members in _curves(cube, series, role).values():
            i = min(members, key=lambda i: abs(cube.conditions[i].strength - mine.strength))
            same = math.isclose(cube.conditions[i].strength, mine.strength)
            if same or (role == "data" and cube.conditions[i].strength * mine.strength > 0):
                line = over_initial_conditions(cosine[i], ics)
                axes.plot(steps, line, color=INK, linewidth=1.1, linestyle=_LINES[role], zorder=3)
    estimates = [bootstrap_mean(cosine[index, :, s], ics, _FEWER) for s in range(len(steps))]
    axes.fill_between(
        steps,
        [e.low for e in estimates],
        [e.high for e in estimates],
        color=colour,
        alpha=0.25,
        linewidth=0,
        zorder=3.5,
    )
    axes.plot(steps, [e.value for e in estimates], color=colour, linewidth=2.2, zorder=4, **look)  # type: ignore[arg-type]


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
