"""Maps of values between −1 and 1, written into their cells."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from physteer.reports.style import INK, bare, diverging


def annotated_map(
    axes: Axes,
    values: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    fontsize: float,
    *,
    above: bool = True,
) -> AxesImage:
    """Draw a map and write into its cells.

    Args:
        axes: to draw on; its ticks get no marks.
        values: of the cells, by row; NaN where there is nothing, and nothing is written.
        texts: what is written into each.
        fontsize: of the texts, in points.
        above: whether columns are labelled above the map, or below it.
    """
    image = axes.imshow(np.array(values), cmap=diverging(), vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    bare(axes)
    axes.tick_params(length=0, labelbottom=not above, labeltop=above)
    for i, (row, written) in enumerate(zip(values, texts, strict=True)):
        for j, (value, text) in enumerate(zip(row, written, strict=True)):
            if math.isfinite(value):
                colour = "white" if abs(value) > 0.55 else INK
                placed = axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=fontsize)
                if "\n" in text:  # a single line would be moved by it
                    placed.set_linespacing(1.1)
    return image
