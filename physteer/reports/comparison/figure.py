"""Estimates of several runs side by side: dots with intervals, a panel for each metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from physteer.reports.comparison.alignment import AlignedRow, AlignedTable
from physteer.reports.comparison.estimates import Estimate, Label
from physteer.reports.comparison.shown import (
    capitalised,
    first_rows,
    headlines,
    judged,
    label_text,
    look,
    metric_name,
    metric_title,
)
from physteer.reports.style import FAINT, INK, WIDTH, heading, new_figure, save, style

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1a1d24", "#8d96a3")
_MARKERS = "osD^vP*X"
_MOST_ROWS = 30
_TOP, _BOTTOM, _RIGHT, _GAP = 1.1, 1.0, 0.25, 0.3  # inches
_CHARACTER = 0.072  # inches of a label's letter
_SYMBOLS = {"strength": "α"}
_WIDEST_LABEL = 58  # letters
_SPREAD = 0.24  # of the distance between lines, to both sides


def draw_comparison(table: AlignedTable, path: Path) -> Path:
    """Draw the main metrics of a table: a line per row, a dot with its interval per run.

    Args:
        table: of two runs or more.
        path: of the PNG.

    Returns:
        The path.
    """
    metrics = headlines(table)
    rows = {metric: first_rows(table, metric) for metric in metrics}
    every = list(dict.fromkeys(row.labels for own in rows.values() for row in own))
    if len(every) > _MOST_ROWS:
        rows = {metric: judged(table, own) or own for metric, own in rows.items()}
    by_coverage = sorted((row for own in rows.values() for row in own), key=lambda row: -row.n_runs)
    kept = set(list(dict.fromkeys(row.labels for row in by_coverage))[:_MOST_ROWS])
    labels = [one for one in dict.fromkeys(row.labels for own in rows.values() for row in own) if one in kept]
    same = look(table, (row for own in rows.values() for row in own if row.labels in kept))
    names = [_name(table, same.columns, one) for one in labels]
    left = 0.25 + _CHARACTER * max(map(len, names), default=0)
    pitch = max(0.27, 0.13 * len(table.runs) + 0.06)
    height = _TOP + pitch * len(labels) + _BOTTOM
    width = (WIDTH - left - _RIGHT - _GAP * (len(metrics) - 1)) / len(metrics)
    listed = [", ".join(map(metric_name, metrics[:-1])), metric_name(metrics[-1])]
    title = capitalised(f"{' and '.join(filter(None, listed))}: {table.name} of {len(table.runs)} runs")
    n = sorted({e.initial_conditions for own in rows.values() for r in own for e in r.estimates if e} - {0})
    left_out = len(every) - len(labels)
    over = f"{n[0]} initial conditions" if len(n) == 1 else f"{n[0]}–{n[-1]} initial conditions" if n else ""
    notes = [
        f"Lines: 95 % intervals over {over}, of each run by itself." if over else "",
        f"All: {same.common}." if same.common else "",
        f"{left_out} rows are not drawn." if left_out else "",
    ]
    caption = " ".join(filter(None, notes))
    with style():
        figure = new_figure(height)
        for j, metric in enumerate(metrics):
            place = (left + j * (width + _GAP), _BOTTOM, width, pitch * len(labels))
            axes = figure.add_axes((place[0] / WIDTH, place[1] / height, place[2] / WIDTH, place[3] / height))
            _draw_panel(axes, labels, rows[metric])
            axes.set_xlabel(metric_title(metric), fontsize=9)
            axes.set_yticks(range(len(labels)), names if j == 0 else [""] * len(labels))
        entries = [
            Line2D([], [], color=_colour(i), marker=_MARKERS[i % len(_MARKERS)], markersize=5, label=name)
            for i, name in enumerate(table.runs)
        ]
        columns = max(1, min(len(entries), int(170 / (8 + max(len(name) for name in table.runs)))))
        figure.legend(handles=entries, loc="lower left", ncols=columns, bbox_to_anchor=(0.005, 0.0))
        heading(figure, title, caption)
        return save(figure, path, title, caption)


def _draw_panel(axes: Axes, labels: Sequence[tuple[Label, ...]], rows: Sequence[AlignedRow]) -> None:
    by_labels = {row.labels: row for row in rows}
    n_runs = len(rows[0].estimates)
    offsets = np.linspace(-_SPREAD, _SPREAD, n_runs) if n_runs > 1 else [0.0]
    for y, one in enumerate(labels):
        row = by_labels.get(one)
        for i, estimate in enumerate(row.estimates if row else ()):
            if estimate is not None and math.isfinite(estimate.value):
                _draw_dot(axes, y + float(offsets[i]), estimate, i)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.grid(axis="y", visible=False)
    for y in range(0, len(labels), 2):  # which dots belong to one line
        axes.axhspan(y - 0.5, y + 0.5, color=FAINT, alpha=0.35, linewidth=0, zorder=0)
    low, high = axes.get_xlim()
    if low <= 0 <= high:
        axes.axvline(0, color=INK, linewidth=0.7, zorder=1.5)


def _draw_dot(axes: Axes, y: float, estimate: Estimate, i: int) -> None:
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        axes.plot([estimate.low, estimate.high], [y, y], color=_colour(i), linewidth=1.6, zorder=3)
    axes.plot([estimate.value], [y], color=_colour(i), marker=_MARKERS[i % len(_MARKERS)], markersize=4.5, zorder=4)


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _name(table: AlignedTable, columns: Sequence[str], labels: tuple[Label, ...]) -> str:
    """Return a row's labels in the columns where rows differ: numbers first, which a long name does not cut off."""
    shown = [
        (column, label)
        for column, label in zip(table.columns, labels, strict=True)
        if column in columns and label != ""
    ]
    numbers = [f"{_SYMBOLS.get(c, c)} {label_text(x)}" for c, x in shown if isinstance(x, int | float)]
    name = ", ".join([*numbers, *(x for _, x in shown if isinstance(x, str))])
    return name if len(name) <= _WIDEST_LABEL else f"{name[: _WIDEST_LABEL - 1]}…"
