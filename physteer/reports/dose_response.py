"""How the flow follows the strength of steering, beside controls and the true change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from physteer.analyses.steering.table import Series, Setting
from physteer.reports.lines import (
    CONTROL_STYLES,
    TRUTH_COLOUR,
    control_legend,
    draw_band,
    draw_line,
    legend_line,
)
from physteer.reports.style import INK, MUTED, arrange, heading, new_figure, save, signed, strength_colour, style
from physteer.reports.summary_index import SummaryIndex

_TITLES = {"enstrophy": "Enstrophy", "vortex_area": "Vortex area"}
_ROOM = 0.6
"""How far controls may stretch the vertical scale, in units of what the concept and the truth need."""

Point = tuple[float, float]


def draw_dose_response(index: SummaryIndex, series: Series, path: Path, role: str = "concept") -> Path | None:
    """Draw the change of enstrophy and vortex area against strength, over the changes that controls make.

    Args:
        index: of the run's summary.
        series: whose strengths are on the horizontal axis.
        path: of the PNG.
        role: of the series.

    Returns:
        The path, or None where nothing was steered, or there is no velocity.
    """
    settings = index.on_curve(series, role)
    quantities = [name for name in _TITLES if any(index.curve(setting, name) for setting in settings)]
    if not quantities:
        return None
    drawn = [other for other in CONTROL_STYLES if other not in (role, "blurred")]  # blurring has no strength
    roles = [other for other in drawn if index.control_curves(settings[0], other)]
    n_random = len(index.control_curves(settings[0], "random"))
    title = f"Dose–response: {series}"
    caption = (
        f"Change against the unsteered rollout, mean over {index.initial_conditions} initial conditions"
        f"{index.interval_words}."
    )
    if n_random:
        caption += f" Grey: {n_random} random directions of equal norm."
    with style():
        figure = new_figure(0.95 + 2.9 * len(quantities))
        cells = figure.subplots(len(quantities), len(index.shown_steps), squeeze=False, sharex=True, sharey="row")
        for axes_row, quantity in zip(cells, quantities, strict=True):
            for axes, step in zip(axes_row, index.shown_steps, strict=True):
                for other in roles:
                    _draw_controls(axes, index, settings, quantity, step, other)
                _draw_true_change(axes, index, settings, quantity, step)
                _draw_response(axes, index, settings, quantity, step)
                axes.set_title(f"{_TITLES[quantity]}, step {step}")
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(100 * value)))
            axes_row[0].set_ylim(_limits(index, settings, quantity, roles))
            axes_row[0].set_ylabel("change (% of the domain)" if quantity == "vortex_area" else "change (%)")
        ticks = sorted({0.0, *(setting.strength for setting in settings)})
        for axes in cells[-1]:
            axes.set_xlabel("strength α")
            axes.set_xticks(ticks, [signed(strength) for strength in ticks])
        handles: list[Line2D] = [legend_line(role.replace("data", "interpolated data"), marker="o")]
        handles += [legend_line("random directions", MUTED, linewidth=0.8)] if n_random else []
        handles += control_legend(roles)
        if any(index.curve(setting, f"{quantity}_truth") for setting in settings):
            handles.append(legend_line("true change", TRUTH_COLOUR, linewidth=1.4, marker="D", markersize=5))
        cells[0, 0].legend(handles=handles, loc="best", fontsize=8.5, handlelength=2.4)
        heading(figure, title, caption)
        arrange(figure)
        return save(figure, path, title, caption)


def _draw_response(axes: Axes, index: SummaryIndex, settings: Sequence[Setting], quantity: str, step: int) -> None:
    """Draw a curve through the changes with their intervals as a band, and a dot per strength."""
    known = [row for setting in settings if (row := index.row(setting, quantity, step=step)) is not None]
    points = sorted([(0.0, 0.0, 0.0, 0.0), *((row.strength, row.value, row.low, row.high) for row in known)])
    strengths, values, low, high = zip(*points, strict=True)
    colours = [strength_colour(strength, max(map(abs, strengths))) for strength in strengths]
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1.5)
    draw_band(axes, strengths, low, high, MUTED, alpha=0.3)
    draw_line(axes, strengths, values, marker="")
    axes.scatter(strengths, values, c=colours, s=52, edgecolors="white", linewidths=0.9, zorder=5)


def _draw_controls(
    axes: Axes, index: SummaryIndex, settings: Sequence[Setting], quantity: str, step: int, role: str
) -> None:
    """Draw a line for each control of one role, as far as the concept's strengths go."""
    largest = 1.1 * max(abs(setting.strength) for setting in settings)
    random = role == "random"
    look = {"linewidth": 0.8, "alpha": 0.55, "zorder": 2} if random else {"linewidth": 1.2, "zorder": 3}
    for curve in index.control_curves(settings[0], role):
        rows = [row for setting in curve if (row := index.row(setting, quantity, step=step)) is not None]
        x, y = _up_to(sorted([(0.0, 0.0), *((row.strength, row.value) for row in rows)]), largest)
        draw_line(axes, x, y, MUTED if random else INK, linestyle=CONTROL_STYLES[role], marker="", **look)


def _up_to(points: Sequence[Point], largest: float) -> tuple[list[float], list[float]]:
    """Cut a line at strengths ±largest: other controls may go further than the concept."""
    strengths, values = np.array(points).T
    ends = np.clip([strengths[0], strengths[-1]], -largest, largest)
    inside = strengths[(strengths > ends[0]) & (strengths < ends[1])]
    at = np.array([ends[0], *inside, ends[1]])
    return at.tolist(), np.interp(at, strengths, values).tolist()


def _draw_true_change(axes: Axes, index: SummaryIndex, settings: Sequence[Setting], quantity: str, step: int) -> None:
    """Mark how the flow truly changes towards the next parameter, over the strengths of its sign."""
    for sign in (-1, 1):
        side = [setting for setting in settings if setting.strength * sign > 0]
        farthest = max(side, key=lambda setting: abs(setting.strength), default=None)
        row = None if farthest is None else index.row(farthest, f"{quantity}_truth", step=step)
        if row is not None:
            draw_line(
                axes, [0.25 * row.strength, row.strength], [row.value] * 2, TRUTH_COLOUR, linewidth=1.4, marker=""
            )
            axes.plot(row.strength, row.value, "D", color=TRUTH_COLOUR, markersize=5, zorder=5)


def _limits(
    index: SummaryIndex, settings: Sequence[Setting], quantity: str, roles: Sequence[str]
) -> tuple[float, float]:
    """Return the ends of a row's scale: all that the concept and the truth do, and most of what controls do."""
    shown = set(index.shown_steps)
    own = [row for s in settings for name in (quantity, f"{quantity}_truth") for row in index.curve(s, name)]
    low, high = _range([x for row in own if row.step in shown for x in (row.value, row.low, row.high)])
    controls = [s for role in roles for curve in index.control_curves(settings[0], role) for s in curve]
    largest = 1.1 * max(abs(setting.strength) for setting in settings)
    near = [s for s in controls if abs(s.strength) <= largest]
    lowest, highest = _range([row.value for s in near for row in index.curve(s, quantity) if row.step in shown])
    room = _ROOM * (high - low)
    low, high = max(min(lowest, low), low - room), min(max(highest, high), high + room)
    margin = 0.06 * (high - low) or 0.01
    return low - margin, high + margin


def _range(values: Sequence[float]) -> tuple[float, float]:
    finite = [0.0, *(value for value in values if math.isfinite(value))]
    return min(finite), max(finite)
