"""What happens over the steps of rollouts: flow metrics, recovery of the true change, and what erasing changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from physteer.analyses.steering.summary_rows import MEAN_OVER_FIELDS, strengths_equal
from physteer.analyses.steering.table import TRUTH, UNSTEERED, Series, Setting
from physteer.reports.lines import (
    CONTROL_LABELS,
    CONTROL_STYLES,
    Colour,
    control_legend,
    draw_band,
    draw_controls,
    draw_line,
    label_steps,
    legend_line,
    legend_range,
    setting_look,
)
from physteer.reports.style import (
    INK,
    arrange,
    heading,
    new_figure,
    save,
    strength_colour,
    strength_label,
    style,
)
from physteer.reports.summary_index import SummaryIndex
from physteer.reports.terminology import terminology_of

_MOST_STRENGTHS, _MOST_FIELDS, _COLUMNS = 4, 4, 3
_FLOW = {
    "enstrophy_value": "Enstrophy ½⟨ω²⟩",
    "vortex_area_value": "Vortex area (share of the domain)",
    "kinetic_energy_value": "Kinetic energy ½⟨u²⟩",
    "tracer_variance_value": "Tracer variance",
    "vrmse_value": "VRMSE, mean over fields",
}
_ERASURE = {
    "movement": "Movement of fields (of their spread)",
    "vrmse_ratio": "VRMSE, erased / intact",
    "enstrophy": "Change of enstrophy, relative",
}


def draw_over_time(index: SummaryIndex, series: Series, path: Path, role: str = "concept") -> Path | None:
    """Draw flow metrics over rollout steps, a line per strength of a series beside truth and unsteered.

    Args:
        index: of the run's summary.
        series: whose strengths are drawn; one that nothing was steered along leaves truth and unsteered.
        path: of the PNG.
        role: of the series.

    Returns:
        The path, or None where no metric exists.
    """
    steered = index.on_curve(series, role)
    terms = terminology_of([series.mode])
    references = {name: Setting(name) for name in (TRUTH, UNSTEERED) if Setting(name) in index.settings}
    metrics = [name for name in _FLOW if any(index.curve(s, name, index.main_field(name)) for s in index.settings)]
    if not metrics or not (steered or references):
        return None
    largest = max((abs(setting.strength) for setting in steered), default=0.0)
    lines = [
        (setting, terms.label(setting), setting_look(setting, largest)) for setting in (*references.values(), *steered)
    ]
    title = "Flow metrics over time" + (f": {series}" if str(series) else "")
    caption = f"Mean over {index.initial_conditions} initial conditions, per condition."
    n_rows = math.ceil((len(metrics) + 1) / _COLUMNS)
    with style():
        figure = new_figure(0.95 + 2.7 * n_rows)
        cells = figure.subplots(n_rows, _COLUMNS, squeeze=False).ravel()
        for axes, metric in zip(cells, metrics, strict=False):
            for setting, _, look in lines:
                if metric != "vrmse_value" or setting.role != "truth":  # against itself
                    draw_line(axes, index.steps, index.values(setting, metric, index.main_field(metric)), **look)
            axes.set_title(_FLOW[metric])
            label_steps(axes)
            if metric == "vrmse_value":
                axes.set_ylim(bottom=0)
        for axes in cells[len(metrics) :]:
            axes.axis("off")
        handles = [legend_line(label, **look) for _, label, look in lines]
        cells[len(metrics)].legend(handles=handles, loc="upper left", ncols=1 + (len(handles) > 9), fontsize=10)
        heading(figure, title, caption)
        arrange(figure)
        return save(figure, path, title, caption)


def draw_alignment(index: SummaryIndex, series: Series, path: Path) -> Path | None:
    """Draw the cosine with the true change over steps, a row per strength and a column per field, over its controls.

    Args:
        index: of the run's summary, which leaves out fields that the parameter does not change.
        series: of concepts.
        path: of the PNG.

    Returns:
        The path, or None where no alignment was measured.
    """
    fields = [field for field in index.fields("alignment_cosine") if field != MEAN_OVER_FIELDS][:_MOST_FIELDS]
    title = f"Alignment with the true change over steps: {series}"
    what = "Cosine of ŷ(steered) − ŷ(unsteered) with y(θ′) − y(θ)"
    return _draw_strengths(index, series, path, "alignment_cosine", fields, title, what)


def draw_recovery(index: SummaryIndex, series: Series, path: Path) -> Path | None:
    """Draw the recovery of the true change over steps, a row per strength; a column for the mean and for each field.

    Args:
        index: of the run's summary, which leaves out fields that the parameter does not change.
        series: of concepts.
        path: of the PNG.

    Returns:
        The path, or None where it was not measured.
    """
    main = index.main_field("recovery")
    fields = [main, *(field for field in index.fields("recovery") if field != main)][: 1 + _MOST_FIELDS]
    title = f"Recovery of the true change over steps: {series}"
    what = "1 − E‖Δŷ − Δy‖²/E‖Δy‖², Δŷ the change by steering and Δy the true one; cut off below −1"
    return _draw_strengths(index, series, path, "recovery", fields if main else [], title, what)


def _draw_strengths(
    index: SummaryIndex, series: Series, path: Path, quantity: str, fields: Sequence[str], title: str, what: str
) -> Path | None:
    """Draw a quantity over steps, a row per strength and a column per field, over its controls."""
    settings = index.on_curve(series)
    if not fields or not settings:
        return None
    shown = [settings[i] for i in np.unique(np.linspace(0, len(settings) - 1, _MOST_STRENGTHS).round().astype(int))]
    largest = max(abs(setting.strength) for setting in settings)
    counts = sorted({len(index.controls(setting)) for setting in shown})
    caption = f"{what}, over {index.initial_conditions} initial conditions{index.interval_words}."
    if any(counts):
        caption += f" Grey: the range of {'–'.join(map(str, counts))} random directions at the same α."
    with style():
        figure = new_figure(1.45 + 1.75 * len(shown))
        cells = figure.subplots(len(shown), len(fields), squeeze=False, sharex=True, sharey=True)
        for row, setting in zip(cells, shown, strict=True):
            colour = strength_colour(setting.strength, largest)
            for axes, field in zip(row, fields, strict=True):
                _draw_beside_controls(axes, index, setting, quantity, field, colour)
                for control in _other_controls(index, setting):
                    values = index.values(control, quantity, field)
                    draw_line(
                        axes, index.steps, values, linewidth=1.1, linestyle=CONTROL_STYLES[control.role], zorder=3
                    )
                if axes in cells[0]:
                    axes.set_title(field.replace("_", " "))
            row[0].set_ylabel(strength_label(setting.strength), color=colour, fontweight="bold")
        cells[0, 0].set_ylim(-1.05, 1.05)
        handles: list[Line2D | Patch] = [legend_line("concept")]
        handles += [legend_range(CONTROL_LABELS["random"])] if any(counts) else []
        handles += control_legend(setting.role for setting in index.settings)
        return _finish(figure, cells, handles, path, title, caption)


def _other_controls(index: SummaryIndex, setting: Setting) -> list[Setting]:
    """List the shuffled concepts at a setting's α, and interpolated data and blurred output of its sign."""
    chosen = []
    for role in ("shuffled", "data", "blurred"):
        for curve in index.control_curves(setting, role):
            nearest = min(curve, key=lambda other: abs(other.strength - setting.strength))
            same = strengths_equal(nearest.strength, setting.strength)
            if same or (role != "shuffled" and nearest.strength * setting.strength > 0):
                chosen.append(nearest)
    return chosen


def draw_erasures(index: SummaryIndex, erased: Sequence[Series], path: Path) -> Path | None:
    """Draw how far erasing moves rollouts over steps, a row per eraser and a column per quantity, over random erasers.

    Args:
        index: of the run's summary.
        erased: what was erased, and where.
        path: of the PNG.

    Returns:
        The path, or None where nothing was erased.
    """
    settings = [setting for series in erased for setting in index.on_curve(series)]
    shown = [name for name in _ERASURE if index.fields(name)]
    if not settings or not shown:
        return None
    counts = sorted({len(index.controls(setting)) for setting in settings})
    title = "What erasing changes over steps"
    caption = (
        f"Against the intact rollout, mean over {index.initial_conditions} initial conditions{index.interval_words}."
    )
    if any(counts):
        caption += f" Grey: the range of {'–'.join(map(str, counts))} random erasers."
    colour = strength_colour(1, 1)
    with style():
        figure = new_figure(1.25 + 1.85 * len(settings))
        cells = figure.subplots(len(settings), len(shown), squeeze=False, sharex=True, sharey="col")
        for row, setting in zip(cells, settings, strict=True):
            for axes, quantity in zip(row, shown, strict=True):
                level = float(quantity == "vrmse_ratio")
                _draw_beside_controls(axes, index, setting, quantity, index.main_field(quantity), colour, level)
                if axes in cells[0]:
                    axes.set_title(_ERASURE[quantity])
            row[0].set_ylabel(f"{setting.direction}\n{setting.site}", fontweight="bold")
        handles: list[Line2D | Patch] = [legend_line("erased", colour)]
        handles += [legend_range("random erasers")] if any(counts) else []
        return _finish(figure, cells, handles, path, title, caption)


def _draw_beside_controls(
    axes: Axes, index: SummaryIndex, setting: Setting, quantity: str, field: str, colour: Colour, level: float = 0.0
) -> None:
    """Draw one quantity with its intervals over the range of random directions; ``level`` is that of no effect."""
    axes.axhline(level, color=INK, linewidth=0.8, zorder=1.5)
    draw_controls(axes, index.steps, (index.values(other, quantity, field) for other in index.controls(setting)))
    rows = index.curve(setting, quantity, field)
    steps = [row.step for row in rows]
    draw_band(axes, steps, [row.low for row in rows], [row.high for row in rows], colour)
    draw_line(axes, steps, [row.value for row in rows], colour)


def _finish(
    figure: Figure, cells: np.ndarray, handles: Sequence[Line2D | Patch], path: Path, title: str, caption: str
) -> Path:
    """Label the steps, put the legend below all panels, and save."""
    for axes in cells[-1]:
        label_steps(axes)
    figure.legend(handles=handles, loc="lower left", ncols=4, fontsize=9, bbox_to_anchor=(0.005, 0.0))
    heading(figure, title, caption)
    arrange(figure, bottom=0.3)
    return save(figure, path, title, caption)
