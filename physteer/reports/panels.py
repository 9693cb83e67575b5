"""Fields of one window over time: a row per condition, a column per time, one colour scale for all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from physteer.analyses.steering.table import TRUTH, UNSTEERED
from physteer.reports.field_slices import (
    Panel,
    Shown,
    beyond,
    colour_scale,
    headline,
    picture,
    plane_of,
)
from physteer.reports.rollouts import Series, WindowRollouts, WrittenRollout
from physteer.reports.style import MUTED, WIDTH, bare, heading, new_figure, save, style
from physteer.reports.terminology import words_of

_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 1.15, 0.95, 1.02, 0.4, 0.07  # inches


def draw_panels(window: WindowRollouts, series: Series, field: Shown, path: Path) -> Path:
    """Draw one field of a window under truth, unsteered and one series of strengths, and save the figure.

    The columns go from the last frame given to the model to the end of the rollout.

    Args:
        window: with at least one rollout.
        series: whose strengths are drawn; one the window does not have leaves truth and unsteered.
        field: one of `shown_fields`.
        path: of the PNG.

    Returns:
        The path.
    """
    references = [one for name in (TRUTH, UNSTEERED) if (one := window.find(name)) is not None]
    rollouts = [*references, *window.steered(series)]
    first = rollouts[0]
    n_steps = min(int(rollout.steps[-1]) for rollout in rollouts)
    low, high, bottom, top = plane_of(first)[2]
    n_columns = 5 if high - low > 1.4 * (top - bottom) else 6
    steps = sorted(set(np.linspace(0, n_steps, n_columns).round().astype(int).tolist()))
    largest = max(abs(rollout.strength) for rollout in rollouts)
    words = words_of([series.mode])
    panels = [[picture(rollout, field, step, largest, words) for step in steps] for rollout in rollouts]
    title, subtitle = headline(field, first, series)
    with style():
        figure = _draw(panels, field, first, steps)
        heading(figure, title, subtitle)
        caption = (
            f"{field.title} of {window.window}; rows: {', '.join(row[0].row for row in panels)}; one colour scale. "
            "Step 0 is the last frame given to the model."
        )
        return save(figure, path, title, caption)


def _draw(panels: list[list[Panel]], field: Shown, rollout: WrittenRollout, steps: list[int]) -> Figure:
    across, along, (low, high, bottom, top) = plane_of(rollout)
    n_rows, n_columns = len(panels), len(steps)
    width = (WIDTH - _LEFT - _RIGHT - _GAP * (n_columns - 1)) / n_columns
    height = width * (top - bottom) / (high - low)
    total = _TOP + _BOTTOM + n_rows * height + (n_rows - 1) * _GAP
    figure = new_figure(total)
    scale = colour_scale(panels, field.symmetric)
    image = None
    for i, row in enumerate(panels):
        y = total - _TOP - height - i * (height + _GAP)
        for j, panel in enumerate(row):
            x = _LEFT + j * (width + _GAP)
            axes = figure.add_axes((x / WIDTH, y / total, width / WIDTH, height / total))
            image = axes.imshow(
                panel.image,
                origin="lower",
                extent=(low, high, bottom, top),
                cmap=field.colours,
                norm=scale,
                interpolation="bilinear",
                aspect="auto",
            )
            bare(axes)
            if not np.isfinite(panel.image).any():
                axes.text(0.5, 0.5, "not finite", transform=axes.transAxes, ha="center", va="center", color="white")
            if i == 0:
                time = float(rollout.times[steps[j] + rollout.n_context - 1])
                label = "given" if steps[j] == 0 else f"step {steps[j]}"
                axes.set_title(f"{label}   t = {time:.4g}", fontsize=10, fontweight="normal", loc="center", pad=5)
            if i == n_rows - 1 and j == 0:
                axes.set_xlabel(f"{along} →", fontsize=9, color=MUTED, loc="left", labelpad=3)
                axes.set_ylabel(f"{across} →", fontsize=9, color=MUTED, loc="bottom", labelpad=3)
        place = ((_LEFT - 0.22) / WIDTH, (y + height / 2) / total)
        figure.text(*place, row[0].row, color=row[0].colour, ha="right", va="center", fontweight="bold")
    bar_height = min(n_rows * height + (n_rows - 1) * _GAP, 3.6)
    bar = ((WIDTH - _RIGHT + 0.15) / WIDTH, (total - _TOP - bar_height) / total, 0.14 / WIDTH, bar_height / total)
    assert image is not None
    figure.colorbar(image, cax=figure.add_axes(bar), extend=beyond(panels, scale), label=field.name)
    return figure
