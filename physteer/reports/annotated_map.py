"""Maps of values between −1 and 1, written into their cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from physteer.reports.style import INK, bare, diverging


class HasValue(Protocol):
    """A cell's content."""

    @property
    def value(self) -> float:
        """Its colour, from −1 to 1; not finite: no text is written."""
        ...


C = TypeVar("C", bound=HasValue)


def annotated_map(
    axes: Axes, block: Sequence[Sequence[C | None]], text: Callable[[C], str], fontsize: float
) -> AxesImage:
    """Draw a map and write a text into each of its cells.

    Args:
        axes: to draw on; columns can be labelled above.
        block: rows of cells, None where there is nothing.
        text: what is written into a cell.
        fontsize: of the texts, in points.
    """
    values = np.array([[math.nan if cell is None else cell.value for cell in row] for row in block])
    image = axes.imshow(values, cmap=diverging(), vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    bare(axes)
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    for i, row in enumerate(block):
        for j, cell in enumerate(row):
            if cell is not None and math.isfinite(cell.value):
                colour = "white" if abs(cell.value) > 0.55 else INK
                written = axes.text(j, i, text(cell), ha="center", va="center", color=colour, fontsize=fontsize)
                written.set_linespacing(1.1)
    return image
