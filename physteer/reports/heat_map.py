"""Where steering works: alignment by site and mode."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from physteer.analyses.steering.summary_rows import SEVERAL, Finding
from physteer.reports.annotated_map import annotated_map
from physteer.reports.style import WIDTH, heading, new_figure, save, strength_label, style
from physteer.reports.summary_tables import number_text

_MOST_STRENGTHS, _MOST_FIELDS = 4, 5
_LEFT, _TOP, _RIGHT, _BOTTOM, _GAP, _ROW = 1.5, 1.35, 1.0, 0.35, 0.16, 0.34  # inches


def draw_heat_map(findings: Sequence[Finding], direction: str, path: Path, step: int | None = None) -> Path | None:
    """Draw the mean cosine with the true change for every site and mode, a map per field and strength.

    Args:
        findings: from `summarise`.
        direction: whose settings are drawn.
        path: of the PNG.
        step: at which rollout step; the first when None.

    Returns:
        The path, or None with fewer than two sites and modes, or without alignment.
    """
    mine = [
        f
        for f in findings
        if (f.role, f.direction, f.quantity) == ("concept", direction, "alignment_cosine") and f.step
    ]
    sites = sorted({f.site for f in mine}, key=natural)
    modes = sorted({f.mode for f in mine})
    if len(sites) * len(modes) < 2:
        return None
    step = step or min(f.step for f in mine)
    mine = [f for f in mine if f.step == step]
    strengths = sorted({f.strength for f in mine})
    shown = [strengths[i] for i in np.unique(np.linspace(0, len(strengths) - 1, _MOST_STRENGTHS).round().astype(int))]
    fields = list(dict.fromkeys(f.field for f in mine))[:_MOST_FIELDS]
    tried = len({(f.setting, f.field) for f in mine if f.field != SEVERAL})
    stars = len({(f.setting, f.field) for f in mine if f.field != SEVERAL and f.p <= 0.05})
    title = f"Where steering along {direction} aligns with the true change, step {step}"
    caption = f"Mean cosine over initial conditions. {tried} cells were tried (site × mode × α × field)"
    if any(math.isfinite(f.p) for f in mine):
        caption += f"; ★ p ≤ 0.05 against random directions: {stars} of them, {tried / 20:.3g} expected by chance."
    else:
        caption += "; without random directions, so without p."
    width = (WIDTH - _LEFT - _RIGHT - _GAP * (len(shown) - 1)) / len(shown)
    height = _ROW * len(sites)
    total = _TOP + _BOTTOM + len(fields) * height + _GAP * (len(fields) - 1)
    cells = {(f.field, f.strength, f.site, f.mode): f for f in mine}
    with style():
        figure = new_figure(total)
        image = None
        for i, field in enumerate(fields):
            y = total - _TOP - height - i * (height + _GAP)
            for j, strength in enumerate(shown):
                box = (_LEFT + j * (width + _GAP), y, width, height)
                axes = figure.add_axes((box[0] / WIDTH, box[1] / total, box[2] / WIDTH, box[3] / total))
                block = [[cells.get((field, strength, site, mode)) for mode in modes] for site in sites]
                values = [[math.nan if cell is None else cell.value for cell in row] for row in block]
                image = annotated_map(axes, values, [[*map(_text, row)] for row in block], fontsize=8.5)
                if i == 0:
                    figure.text(
                        (box[0] + width / 2) / WIDTH,
                        (y + height + 0.25) / total,
                        strength_label(strength),
                        ha="center",
                        fontweight="bold",
                    )
                    axes.set_xticks(range(len(modes)), modes)
                if j == 0:
                    axes.set_yticks(range(len(sites)), sites)
                    x = 0.12 / WIDTH
                    name = field.replace("_", " ").replace(" over ", "\nover ")
                    figure.text(
                        x, (y + height / 2) / total, name, rotation=90, ha="left", va="center", fontweight="bold"
                    )
        assert image is not None
        tall = min(total - _TOP - _BOTTOM, 3.6)
        bar = ((WIDTH - _RIGHT + 0.15) / WIDTH, (total - _TOP - tall) / total, 0.14 / WIDTH, tall / total)
        figure.colorbar(image, cax=figure.add_axes(bar), label="cosine")
        heading(figure, title, caption)
        return save(figure, path, title, caption)


def _text(finding: Finding | None) -> str:
    if finding is None:
        return ""
    return number_text(finding.value) + (" ★" if finding.p <= 0.05 else "")


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sort ``blocks.2`` before ``blocks.10``."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
