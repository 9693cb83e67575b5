"""Dose–response curves, and diagnostics over time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from physteer.analyses.steering.table import TRUTH, UNSTEERED
from physteer.reports.diagnostics import FLOW_METRICS, MEAN_VRMSE, Diagnostic, Metric
from physteer.reports.doses import draw_response, label_changes, label_strengths
from physteer.reports.effects import SpanValue, changes, dose_response, is_steered, spans, truth_change
from physteer.reports.rollouts import Series
from physteer.reports.style import (
    FAINT,
    INK,
    MUTED,
    arrange,
    heading,
    new_figure,
    save,
    strength_colour,
    style,
)
from physteer.reports.terminology import words_of


def draw_dose_response(rows: Sequence[Diagnostic], series: Series, path: Path) -> Path | None:
    """Draw the change of enstrophy and vortex area against strength, in three parts of the rollout.

    Thin lines are rollouts, each against the unsteered one of its own window; the thick line is their mean over initial
    conditions with a 95 % bootstrap interval over these; the dashed line is the truth.

    Args:
        rows: of `diagnose`, for all windows.
        series: whose strengths are on the horizontal axis.
        path: of the PNG.

    Returns:
        The path, or None where there is nothing to draw (no velocity, or no unsteered rollout).
    """
    present = {row.metric for row in rows}
    metrics = [metric for metric in FLOW_METRICS[:2] if metric.name in present]
    parts = spans(max((row.step for row in rows), default=0))
    grid = [[changes(rows, metric, part) for part in parts] for metric in metrics]
    steered = [change for cells in grid[:1] for change in cells[0] if is_steered(change, series)]
    if not steered:
        return None
    windows = {change.window for change in steered}
    initial = {change.initial_condition for change in steered}
    title = f"Dose–response: {series}"
    caption = (
        f"Change against the unsteered rollout of the same window. Thin: {len(windows)} rollouts. Thick: mean over "
        f"{len(initial)} initial conditions with its 95 % bootstrap interval over them. Dashed: the truth."
    )
    with style():
        figure = new_figure(0.95 + 2.75 * len(metrics))
        cells = figure.subplots(len(metrics), len(parts), squeeze=False, sharex=True, sharey="row")
        for metric, axes_row, cells_row in zip(metrics, cells, grid, strict=True):
            for part, axes, cell in zip(parts, axes_row, cells_row, strict=True):
                _dose_response(axes, cell, series)
                axes.set_title(f"{metric.title}, {part}")
            _label_change(axes_row, metric, cells_row, series)
        label_strengths(cells[-1], dose_response(grid[0][0], series))
        heading(figure, title, caption)
        arrange(figure)
        return save(figure, path, title, caption)


def _dose_response(axes: Axes, cell: Sequence[SpanValue], series: Series) -> None:
    by_window: dict[tuple[str, str], dict[float, float]] = defaultdict(lambda: {0.0: 0.0})
    for change in cell:
        if is_steered(change, series):
            by_window[change.window][change.strength] = change.value
    for values in by_window.values():
        strengths = sorted(values)
        axes.plot(strengths, [values[s] for s in strengths], color=MUTED, linewidth=0.7, alpha=0.45, zorder=2)
    truth = truth_change(cell)
    if truth.n:
        axes.axhline(truth.mean, color=INK, linewidth=1.3, linestyle=(0, (4, 2.5)), zorder=2.5)
    curve = dose_response(cell, series)
    draw_response(axes, [(strength, e.mean, e.low, e.high) for strength, e in curve.items()])


def _label_change(
    axes_row: Sequence[Axes], metric: Metric, cells: Sequence[Sequence[SpanValue]], series: Series
) -> None:
    """Set a row's common scale: all means and intervals, and nearly all rollouts (a blow-up may leave the frame)."""
    shown = [change.value for cell in cells for change in cell if change.series == series or change.condition == TRUTH]
    finite = [value for value in shown if math.isfinite(value)] or [0.0]
    bounds = [0.0, *np.quantile(finite, [0.03, 0.97]).tolist()]
    for cell in cells:
        for point in (*dose_response(cell, series).values(), truth_change(cell)):
            bounds += [value for value in (point.mean, point.low, point.high) if math.isfinite(value)]
    low, high = min(bounds), max(bounds)
    margin = 0.06 * (high - low) or 0.01
    axes_row[0].set_ylim(low - margin, high + margin)
    label_changes(axes_row, of_cells=not metric.relative)
    handles = [
        Line2D([], [], color=INK, linewidth=2, label="steered, mean"),
        Line2D([], [], color=MUTED, linewidth=0.8, label="steered, each rollout"),
        Line2D([], [], color=INK, linewidth=0.9, label="unsteered"),
        Line2D([], [], color=INK, linewidth=1.3, linestyle=(0, (4, 2.5)), label="truth"),
    ]
    if metric is FLOW_METRICS[0]:
        axes_row[0].legend(handles=handles, loc="best", fontsize=8.5, handlelength=2.2)


def draw_over_time(rows: Sequence[Diagnostic], series: Series, path: Path) -> Path | None:
    """Draw every diagnostic over time, its mean over all windows, one line per strength of a series.

    Args:
        rows: of `diagnose`, for all windows.
        series: whose strengths are drawn beside truth and unsteered.
        path: of the PNG.

    Returns:
        The path, or None where no diagnostic exists.
    """
    present = {row.metric for row in rows}
    words = words_of([series.mode])
    metrics = [metric for metric in (*FLOW_METRICS, MEAN_VRMSE) if metric.name in present]
    chosen = [
        row
        for row in rows
        if row.condition in (TRUTH, UNSTEERED) or Series(row.direction, row.mode, row.site) == series
    ]
    if not metrics or not chosen:
        return None
    largest = max(abs(row.strength) for row in chosen)
    steered = sorted({(row.strength, row.condition) for row in chosen if row.condition not in (TRUTH, UNSTEERED)})
    conditions = {row.condition for row in chosen}
    n_windows = len({(row.split, row.window) for row in chosen})
    title = "Diagnostics over time" + (f": {series}" if str(series) else "")
    caption = f"Mean over {n_windows} rollouts per condition. The vertical line is the last frame given to the model."
    n_columns = 3
    n_rows = math.ceil((len(metrics) + 1) / n_columns)
    with style():
        figure = new_figure(0.95 + 2.7 * n_rows)
        cells = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes, metric in zip(cells, metrics, strict=False):
            for strength, condition in steered:
                _line(axes, chosen, metric, condition, color=strength_colour(strength, largest), linewidth=1.6)
            _line(axes, chosen, metric, UNSTEERED, color=INK, linewidth=2.0)
            _line(axes, chosen, metric, TRUTH, color=INK, linewidth=1.6, linestyle=(0, (4, 2.5)))
            axes.axvline(0, color=FAINT, linewidth=1.4, zorder=0.5)
            axes.set_title(f"{metric.title} {metric.formula}")
            axes.set_xlabel("rollout step")
            axes.set_xlim(min(row.step for row in chosen) - 0.2, max(row.step for row in chosen) + 0.2)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if metric is MEAN_VRMSE:
                axes.set_ylim(bottom=0)
        for axes in cells[len(metrics) :]:
            axes.axis("off")
        handles = (
            [Line2D([], [], color=INK, linewidth=1.6, linestyle=(0, (4, 2.5)), label=TRUTH)]
            if TRUTH in conditions
            else []
        )
        handles += [Line2D([], [], color=INK, linewidth=2.0, label=words.reference)] if UNSTEERED in conditions else []
        handles += [
            Line2D([], [], color=strength_colour(s, largest), linewidth=1.6, label=words.condition(name, s))
            for s, name in steered
        ]
        cells[len(metrics)].legend(handles=handles, loc="upper left", ncols=1 + (len(handles) > 9), fontsize=10)
        heading(figure, title, caption)
        arrange(figure)
        return save(figure, path, title, caption)


def _line(axes: Axes, rows: Iterable[Diagnostic], metric: Metric, condition: str, **look: object) -> None:
    columns: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row.metric == metric.name and row.condition == condition:
            columns[row.step].append(row.value)
    if columns:
        steps = sorted(columns)
        axes.plot(steps, [float(np.mean(columns[step])) for step in steps], **look)  # type: ignore[arg-type]
