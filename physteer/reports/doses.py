"""How a response to strength is drawn, whatever it was measured with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from physteer.reports.style import INK, MUTED, signed, strength_colour

Point = tuple[float, float, float, float]
"""Strength, value, and the low and high end of its interval."""


def draw_response(axes: Axes, points: Iterable[Point]) -> None:
    """Draw a curve through points with its intervals as a band, and a dot per strength."""
    strengths, values, low, high = zip(*sorted(points), strict=True)
    colours = [strength_colour(strength, max(map(abs, strengths))) for strength in strengths]
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1.5)
    axes.fill_between(strengths, low, high, color=MUTED, alpha=0.3, linewidth=0, zorder=3.5)
    axes.plot(strengths, values, color=INK, linewidth=2.2, zorder=4)
    axes.scatter(strengths, values, c=colours, s=52, edgecolors="white", linewidths=0.9, zorder=5)


def label_changes(row: Sequence[Axes], *, of_cells: bool) -> None:
    """Write changes in percent along a row of axes: of themselves, or of all cells."""
    row[0].set_ylabel("change (% of cells)" if of_cells else "change (%)")
    for axes in row:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(100 * value)))


def label_strengths(row: Sequence[Axes], strengths: Iterable[float]) -> None:
    """Write strengths below a row of axes."""
    ticks = sorted({0.0, *strengths})
    for axes in row:
        axes.set_xlabel("strength α")
        axes.set_xticks(ticks, [signed(strength) for strength in ticks])
