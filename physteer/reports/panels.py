"""Fields of one window over time: a row per condition, a column per time, one colour scale for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from physteer.analyses.steering.table import Series
from physteer.reports.canvas import Canvas, draw_map
from physteer.reports.field_slices import ShownField, beyond, colour_scale, field_slice, headline, slice_axes
from physteer.reports.rollouts import WindowRollouts
from physteer.reports.style import MUTED, WIDTH, style
from physteer.reports.terminology import terminology_of

_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 1.15, 0.95, 1.02, 0.4, 0.07  # inches


def draw_panels(window: WindowRollouts, series: Series, field: ShownField, path: Path) -> Path:
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
    rollouts = [*window.references, *window.steered(series)]
    first = rollouts[0]
    n_steps = min(rollout.n_steps for rollout in rollouts)
    axes_of_slices = slice_axes(first.grid)
    n_columns = 5 if axes_of_slices.ratio < 1 / 1.4 else 6
    steps = sorted(set(np.linspace(0, n_steps, n_columns).round().astype(int).tolist()))
    largest = max(abs(rollout.setting.strength) for rollout in rollouts)
    terms = terminology_of([series.mode])
    rows = [[field_slice(rollout, field, step, largest, terms) for step in steps] for rollout in rollouts]
    scale = colour_scale(rows, field.symmetric)
    title, subtitle = headline(field, first, series)
    caption = (
        f"{field.title} of {window.window}; rows: {', '.join(row[0].label for row in rows)}; one colour scale. "
        "Step 0 is the last frame given to the model."
    )
    width = (WIDTH - _LEFT - _RIGHT - _GAP * (len(steps) - 1)) / len(steps)
    height = width * axes_of_slices.ratio
    tall = len(rows) * (height + _GAP) - _GAP
    with style():
        canvas = Canvas(_TOP + tall + _BOTTOM)
        for i, row in enumerate(rows):
            top = _TOP + i * (height + _GAP)
            for j, (panel, step) in enumerate(zip(row, steps, strict=True)):
                axes = canvas.panel(_LEFT + j * (width + _GAP), top, width, height)
                image = draw_map(axes, panel.image, field.colours, scale, extent=axes_of_slices.extent, smooth=True)
                if not np.isfinite(panel.image).any():
                    axes.text(0.5, 0.5, "not finite", transform=axes.transAxes, ha="center", va="center", color="white")
                if i == 0:
                    time = float(first.times[step + first.n_context - 1])
                    label = f"step {step}" if step else "given"
                    axes.set_title(f"{label}   t = {time:.4g}", fontsize=10, fontweight="normal", loc="center", pad=5)
                if i == len(rows) - 1 and j == 0:
                    look: dict[str, Any] = {"fontsize": 9, "color": MUTED, "labelpad": 3}
                    axes.set_xlabel(f"{axes_of_slices.horizontal} →", loc="left", **look)
                    axes.set_ylabel(f"{axes_of_slices.vertical} →", loc="bottom", **look)
            canvas.text(_LEFT - 0.22, top + height / 2, row[0].label, color=row[0].colour, ha="right")
        canvas.colour_bar(image, _RIGHT, _TOP, tall, extend=beyond(rows, scale), label=field.name)
        return canvas.save(path, title, subtitle, caption)
