"""Bars with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from physteer.reports.style import MUTED

OWN_COLOUR, CONTROL_COLOUR = "#c8641a", "#8d96a3"


def draw_bars(
    axes: Axes,
    at: Sequence[float],
    heights: Sequence[float],
    colour: str,
    label: str,
    bounds: Sequence[tuple[float, float]] | None = None,
    width: float = 0.38,
) -> None:
    """Draw a group of bars.

    Args:
        axes: to draw on; its vertical grid lines are taken away.
        at: places along the horizontal axis.
        heights: of the bars.
        colour: of all.
        label: for the legend.
        bounds: low and high end of each interval; NaN for none.
        width: of a bar.
    """
    error = None
    if bounds is not None:
        values, (low, high) = np.asarray(heights), np.array(bounds).reshape(-1, 2).T
        error = np.clip(np.nan_to_num([values - low, high - values]), 0, None)
    axes.bar(at, heights, width, yerr=error, color=colour, label=label, ecolor=MUTED, capsize=2)
    axes.grid(axis="x", visible=False)
