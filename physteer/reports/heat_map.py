"""Where steering works: alignment by site and mode."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from physteer.analyses.steering.summary_rows import FEWEST_FOR_INTERVALS, MEAN_OVER_FIELDS, SummaryRow
from physteer.reports.canvas import Canvas, draw_annotated_map
from physteer.reports.style import WIDTH, strength_label, style
from physteer.reports.summary_tables import number_text

_MOST_STRENGTHS, _MOST_FIELDS = 4, 5
_LEFT, _TOP, _RIGHT, _BOTTOM, _GAP, _ROW = 1.5, 1.35, 1.0, 0.35, 0.16, 0.34  # inches


def draw_heat_map(rows: Sequence[SummaryRow], direction: str, path: Path, step: int | None = None) -> Path | None:
    """Draw the mean cosine with the true change for every site and mode, a map per field and strength.

    Args:
        rows: of the run's summary.
        direction: whose settings are drawn.
        path: of the PNG.
        step: at which rollout step; the first when None.

    Returns:
        The path, or None with fewer than two sites and modes, or without alignment.
    """
    wanted = ("concept", direction, "alignment_cosine")
    cosines = [row for row in rows if (row.role, row.direction, row.quantity) == wanted and row.step]
    sites = sorted({row.site for row in cosines}, key=natural_order)
    modes = sorted({row.mode for row in cosines})
    if len(sites) * len(modes) < 2:
        return None
    step = step or min(row.step for row in cosines)
    cosines = [row for row in cosines if row.step == step]
    every = sorted({row.strength for row in cosines})
    strengths = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, _MOST_STRENGTHS).round().astype(int))]
    fields = list(dict.fromkeys(row.field for row in cosines))[:_MOST_FIELDS]
    width = (WIDTH - _LEFT - _RIGHT - _GAP * (len(strengths) - 1)) / len(strengths)
    height = _ROW * len(sites)
    tall = len(fields) * (height + _GAP) - _GAP
    cells = {(row.field, row.strength, row.site, row.mode): row for row in cosines}
    with style():
        canvas = Canvas(_TOP + tall + _BOTTOM)
        for i, field in enumerate(fields):
            top = _TOP + i * (height + _GAP)
            for j, strength in enumerate(strengths):
                left = _LEFT + j * (width + _GAP)
                axes = canvas.panel(left, top, width, height)
                block = [[cells.get((field, strength, site, mode)) for mode in modes] for site in sites]
                values = [[math.nan if cell is None else cell.value for cell in row] for row in block]
                image = draw_annotated_map(axes, values, [[*map(_text, row)] for row in block], fontsize=8.5)
                if i == 0:
                    canvas.text(left + width / 2, top - 0.25, strength_label(strength), ha="center", va="bottom")
                    axes.set_xticks(range(len(modes)), modes)
                if j == 0:
                    axes.set_yticks(range(len(sites)), sites)
            name = field.replace("_", " ").replace(" over ", "\nover ")
            canvas.text(0.12, top + height / 2, name, rotation=90, ha="left")
        canvas.colour_bar(image, _RIGHT, _TOP, tall, label="cosine")
        title = f"Where steering along {direction} aligns with the true change, step {step}"
        return canvas.save(path, title, _caption(cosines))


def _caption(cosines: Sequence[SummaryRow]) -> str:
    """Say how many cells were tried, and how many stand out by chance."""
    cells = {(row.setting, row.field): row.stands_out for row in cosines if row.field != MEAN_OVER_FIELDS}
    caption = f"Mean cosine over initial conditions. {len(cells)} cells were tried (site × mode × α × field)"
    if not any(math.isfinite(row.p) for row in cosines):
        return caption + "; without random directions, so without p."
    if max(row.initial_conditions for row in cosines) < FEWEST_FOR_INTERVALS:
        return f"{caption}; fewer than {FEWEST_FOR_INTERVALS} initial conditions: no ★."
    stars = sum(cells.values())
    expected = f"{len(cells) / 20:.3g} expected by chance"
    return f"{caption}; ★ p ≤ 0.05 against random directions: {stars} of them, {expected}."


def _text(row: SummaryRow | None) -> str:
    if row is None:
        return ""
    return number_text(row.value) + (" ★" if row.stands_out else "")


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """Sort ``blocks.2`` before ``blocks.10``."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
