"""What a concept does over the steps of rollouts, beside its controls: alignment, or what erasing it changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from physteer.analyses.steering.estimands import departures, still_fields
from physteer.analyses.steering.metric_array import Cube, Floats, make_cube
from physteer.analyses.steering.summary import VALUE_ONLY, random_controls
from physteer.metrics.statistics import Interval, bootstrap_mean
from physteer.reports.controls import FEWER, LINES, conditions_of, control_handles, curves_of, over_initial_conditions
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

_MOST_STRENGTHS, _MOST_FIELDS = 4, 4
_ERASURE = {
    "movement": "Movement of fields (of their spread)",
    "vrmse_ratio": "VRMSE, erased / intact",
    "enstrophy": "Change of enstrophy, relative",
}


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
    mine = sorted(conditions_of(cube, series, "concept"), key=lambda i: cube.conditions[i].strength)
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
        handles += control_handles(cube, "interpolated data, nearest α")
        figure.legend(handles=handles, loc="lower left", ncols=4, fontsize=9, bbox_to_anchor=(0.005, 0.0))
        heading(figure, title, caption)
        arrange(figure, bottom=0.3)
        return save(figure, path, title, caption)


def _alignment(
    axes: Axes, cube: Cube, cosine: Floats, index: int, series: Series, colour: tuple[float, float, float]
) -> None:
    """Draw one panel; cosine is [conditions, windows, steps]."""
    ics, steps = cube.initial_conditions, cube.steps
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1.5)
    _draw_range(axes, steps, np.array([over_initial_conditions(cosine[c], ics) for c in random_controls(cube, index)]))
    mine = cube.conditions[index]
    for role in ("shuffled", "data"):
        for members in curves_of(cube, series, role).values():
            i = min(members, key=lambda i: abs(cube.conditions[i].strength - mine.strength))
            same = math.isclose(cube.conditions[i].strength, mine.strength)
            if same or (role == "data" and cube.conditions[i].strength * mine.strength > 0):
                line = over_initial_conditions(cosine[i], ics)
                axes.plot(steps, line, color=INK, linewidth=1.1, linestyle=LINES[role], zorder=3)
    _draw_line(axes, steps, [bootstrap_mean(cosine[index, :, s], ics, FEWER) for s in range(len(steps))], colour)


def draw_erasures(table: pd.DataFrame, erased: Sequence[Series], path: Path) -> Path | None:
    """Draw how far erasing moves rollouts over steps, a row per eraser and a column per quantity, over random erasers.

    Args:
        table: from `read_metrics`.
        erased: what was erased, and where.
        path: of the PNG.

    Returns:
        The path, or None where nothing was erased.
    """
    cube = make_cube(table)
    mine = [i for series in erased for i in conditions_of(cube, series, "concept")]
    quantities = {quantity.name: quantity for quantity in reversed(departures(cube))}  # of several fields, their mean
    shown = [(title, quantities[name]) for name, title in _ERASURE.items() if name in quantities]
    if not mine:
        return None
    controls = [random_controls(cube, index) for index in mine]
    title = "What erasing changes over steps"
    caption = (
        f"Against the intact rollout, mean over {len(set(cube.initial_conditions))} initial conditions, with its 95 % "
        "interval."
    )
    if any(controls):
        caption += f" Grey: the range of {'–'.join(map(str, sorted(set(map(len, controls)))))} random erasers."
    with style():
        figure = new_figure(1.25 + 1.85 * len(mine))
        cells = figure.subplots(len(mine), len(shown), squeeze=False, sharex=True, sharey="col")
        for row, index, others in zip(cells, mine, controls, strict=True):
            for axes, (label, quantity) in zip(row, shown, strict=True):
                axes.axhline(float(quantity.name == "vrmse_ratio"), color=INK, linewidth=0.8, zorder=1.5)
                steps = range(len(cube.steps))
                random = [[quantity.measure(cube, i, s, VALUE_ONLY).value for s in steps] for i in others]
                _draw_range(axes, cube.steps, np.array(random))
                estimates = [quantity.measure(cube, index, s, FEWER) for s in steps]
                _draw_line(axes, cube.steps, estimates, strength_colour(1, 1))
                if axes in cells[0]:
                    axes.set_title(label)
            who = cube.conditions[index]
            row[0].set_ylabel(f"{who.direction}\n{who.site}", fontweight="bold")
        for axes in cells[-1]:
            axes.set_xlabel("rollout step")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles: list[Line2D | Patch] = [Line2D([], [], color=strength_colour(1, 1), linewidth=2.2, label="erased")]
        if any(controls):
            handles.append(Patch(color=MUTED, alpha=0.25, linewidth=0, label="random erasers"))
        figure.legend(handles=handles, loc="lower left", ncols=4, fontsize=9, bbox_to_anchor=(0.005, 0.0))
        heading(figure, title, caption)
        arrange(figure, bottom=0.3)
        return save(figure, path, title, caption)


def _draw_range(axes: Axes, steps: Sequence[int], lines: Floats) -> None:
    """Draw what controls do, [controls, steps], and the range of it."""
    seen = np.isfinite(lines).any(0)
    at = np.asarray(steps)[seen] if len(lines) else ()
    if len(at):
        low, high = np.nanmin(lines[:, seen], 0), np.nanmax(lines[:, seen], 0)
        axes.fill_between(at, low, high, color=MUTED, alpha=0.25, linewidth=0, zorder=2)
        axes.plot(at, lines[:, seen].T, color=MUTED, linewidth=0.5, alpha=0.5, zorder=2.2)


def _draw_line(
    axes: Axes, steps: Sequence[int], estimates: Sequence[Interval], colour: tuple[float, float, float]
) -> None:
    """Draw what the concept does, one estimate per step, with its intervals as a band."""
    look = {"marker": "o", "markersize": 4} if len(steps) < 4 else {}
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
