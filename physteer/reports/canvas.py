"""A figure whose parts are placed in inches from its top left corner, and the maps drawn on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike

from physteer.reports.style import INK, WIDTH, bare, diverging, heading, new_figure, save

_BAR_LEFT, _BAR_WIDTH, _TALLEST_BAR = 0.15, 0.14, 3.6  # inches: right of the panels


class Canvas:
    """A figure of full width with panels at fixed places; make and use it inside ``with style():``."""

    def __init__(self, height: float) -> None:
        """Begin an empty figure of so many inches."""
        self.height = height
        self.figure = new_figure(height)

    def panel(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes; all in inches, from the figure's top left corner."""
        y = self.height - top - height
        return self.figure.add_axes((left / WIDTH, y / self.height, width / WIDTH, height / self.height))

    def text(self, left: float, top: float, text: str, **look: Any) -> None:
        """Write bold text, centred vertically unless ``look`` says otherwise."""
        place = (left / WIDTH, 1 - top / self.height)
        self.figure.text(*place, text, **{"va": "center", "fontweight": "bold"} | look)

    def colour_bar(self, image: AxesImage, right: float, top: float, height: float, **look: Any) -> None:
        """Add a colour bar beside the panels.

        Args:
            image: whose colours.
            right: inches between the panels and the figure's right edge.
            top: of the panels, in inches.
            height: of the panels; the bar is shorter where they are tall.
            **look: for `Figure.colorbar`.
        """
        axes = self.panel(WIDTH - right + _BAR_LEFT, top, _BAR_WIDTH, min(height, _TALLEST_BAR))
        self.figure.colorbar(image, cax=axes, **look)

    def save(self, path: Path, title: str, subtitle: str, description: str = "") -> Path:
        """Write heading and file, with a description for the blind (or else the subtitle); return the path."""
        heading(self.figure, title, subtitle)
        return save(self.figure, path, title, description or subtitle.replace("\n", " "))


def draw_map(
    axes: Axes,
    values: ArrayLike,
    colours: Colormap,
    scale: Normalize,
    *,
    extent: tuple[float, float, float, float] | None = None,
    smooth: bool = False,
) -> AxesImage:
    """Draw a field or a table as an image without ticks, the lowest row first.

    Args:
        axes: to draw on.
        values: [vertical, horizontal].
        colours: of the values.
        scale: values at the ends of the colours.
        extent: left, right, bottom and top edge, in physical length.
        smooth: interpolate between cells.
    """
    image = axes.imshow(
        np.asarray(values),
        origin="lower",
        extent=extent,
        cmap=colours,
        norm=scale,
        interpolation="bilinear" if smooth else "nearest",
        aspect="auto",
    )
    bare(axes)
    return image


def draw_annotated_map(
    axes: Axes,
    values: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    fontsize: float,
    *,
    labels_above: bool = True,
) -> AxesImage:
    """Draw a table of values between −1 and 1, the first row on top, and write into its cells.

    Args:
        axes: to draw on; its ticks get no marks.
        values: of the cells, by row; NaN where there is nothing, and nothing is written.
        texts: what is written into each.
        fontsize: of the texts, in points.
        labels_above: whether columns are labelled above the map, or below it.
    """
    image = draw_map(axes, np.array(values), diverging(), Normalize(-1, 1))
    axes.invert_yaxis()
    axes.tick_params(length=0, labelbottom=not labels_above, labeltop=labels_above)
    for i, (row, row_texts) in enumerate(zip(values, texts, strict=True)):
        for j, (value, text) in enumerate(zip(row, row_texts, strict=True)):
            if math.isfinite(value):
                colour = "white" if abs(value) > 0.55 else INK
                label = axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=fontsize)
                if "\n" in text:  # a single line would be moved by it
                    label.set_linespacing(1.1)
    return image
