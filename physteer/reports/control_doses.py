"""Dose–response of a concept beside its controls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from physteer.analyses.steering.estimands import DOSED, change
from physteer.analyses.steering.metric_array import Cube, Floats, make_cube, step_choice
from physteer.metrics.statistics import bootstrap_mean
from physteer.reports.controls import FEWER, LINES, conditions_of, control_handles, curves_of, over_initial_conditions
from physteer.reports.doses import draw_response, label_changes, label_strengths
from physteer.reports.rollouts import Series
from physteer.reports.style import INK, MUTED, arrange, heading, new_figure, save, style

_TRUE = "#1f7a4d"
_TITLES = {"enstrophy": "Enstrophy", "vortex_area": "Vortex area"}


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
    mine = conditions_of(cube, series, "concept")
    if not metrics or not mine:
        return None
    n_random = len(curves_of(cube, series, "random"))
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
        handles += control_handles(cube)
        if cube.truth(1) is not None or cube.truth(-1) is not None:
            handles.append(Line2D([], [], color=_TRUE, linewidth=1.4, marker="D", markersize=5, label="true change"))
        cells[0, 0].legend(handles=handles, loc="best", fontsize=8.5, handlelength=2.4)
        heading(figure, title, caption)
        arrange(figure)
        return save(figure, path, title, caption)


def _dose(axes: Axes, cube: Cube, changes: Floats, series: Series) -> None:
    """Draw one panel; changes are [conditions, windows]."""
    ics, mine = cube.initial_conditions, conditions_of(cube, series, "concept")
    largest = max(abs(cube.conditions[i].strength) for i in mine)
    for role, look in LINES.items():
        for members in curves_of(cube, series, role).values():
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
        found = bootstrap_mean(changes[i], ics, FEWER)
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
