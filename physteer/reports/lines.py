"""Lines with intervals, ranges of controls, and their legends: one way to draw each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from physteer.analyses.steering.table import Setting
from physteer.reports.style import INK, MUTED, strength_colour

Colour = str | tuple[float, float, float]

DASHED: Any = (0, (4, 2.5))
"""The truth's line style."""
CONTROL_STYLES: dict[str, Any] = {
    **{"random": "-", "shuffled": (0, (4, 2.2))},
    **{"data": (0, (1, 1.4)), "blurred": (0, (6, 1.5, 1, 1.5))},
}
"""Line styles by role."""
CONTROL_LABELS = {
    **{"random": "random directions", "shuffled": "shuffled labels"},
    **{"data": "interpolated data", "blurred": "blurred output"},
}
TRUTH_COLOUR = "#1f7a4d"


def draw_line(axes: Axes, x: Sequence[float], values: ArrayLike, colour: Colour = INK, **look: Any) -> None:
    """Draw a line, with dots where it has few points."""
    dots: dict[str, Any] = {"marker": "o", "markersize": 4} if len(x) < 4 else {}
    axes.plot(x, values, color=colour, **{"linewidth": 2.2, "zorder": 4} | dots | look)


def draw_band(
    axes: Axes, x: Sequence[float], low: ArrayLike, high: ArrayLike, colour: Colour = INK, alpha: float = 0.25
) -> None:
    """Fill an interval."""
    axes.fill_between(x, low, high, color=colour, alpha=alpha, linewidth=0, zorder=3.5)


def draw_controls(axes: Axes, x: Sequence[float], lines: Iterable[Sequence[float]]) -> None:
    """Draw what random controls do, a thin line each, and the range of it."""
    table: NDArray[np.float64] = np.array(list(lines), dtype=np.float64).reshape(-1, len(x))
    known = np.isfinite(table).any(0)
    if not known.any():
        return
    at, table = np.asarray(x)[known], table[:, known]
    axes.fill_between(at, np.nanmin(table, 0), np.nanmax(table, 0), color=MUTED, alpha=0.25, linewidth=0, zorder=2)
    axes.plot(at, table.T, color=MUTED, linewidth=0.5, alpha=0.5, zorder=2.2)


def setting_look(setting: Setting, largest: float) -> dict[str, Any]:
    """Return how a setting's line is drawn: truth dashed, unsteered thick, others coloured by strength."""
    if setting.role == "truth":
        return {"colour": INK, "linewidth": 1.6, "linestyle": DASHED, "zorder": 5}
    if setting.role == "unsteered":
        return {"colour": INK, "linewidth": 2.6, "zorder": 3}
    return {"colour": strength_colour(setting.strength, largest), "linewidth": 1.6}


def legend_line(label: str, colour: Colour = INK, **look: Any) -> Line2D:
    """Return a legend's entry for a line."""
    return Line2D([], [], color=colour, label=label, **{"linewidth": 2.2} | look)


def legend_range(label: str) -> Patch:
    """Return a legend's entry for the range of controls."""
    return Patch(color=MUTED, alpha=0.25, linewidth=0, label=label)


def control_legend(roles: Iterable[str]) -> list[Line2D]:
    """Return a legend's entries for controls that are black lines."""
    known = set(roles)
    return [
        legend_line(CONTROL_LABELS[role], linewidth=1.2, linestyle=CONTROL_STYLES[role])
        for role in ("shuffled", "data", "blurred")
        if role in known
    ]


def label_steps(axes: Axes) -> None:
    """Label the horizontal axis as rollout steps."""
    axes.set_xlabel("rollout step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
