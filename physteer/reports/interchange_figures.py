"""Where a variable lives: recovery and class accuracy by site and rank, beside their controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from physteer.analyses.das.table import MODEL, UNEDITED, InterchangeScore, best_learned
from physteer.reports.bars import draw_bars
from physteer.reports.canvas import Canvas, draw_annotated_map
from physteer.reports.style import INK, WIDTH, heading, new_figure, save, style

_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP, _ROW = 1.35, 1.0, 1.5, 0.3, 0.25, 0.46  # inches
_ROOM = 0.85
"""Inches that a cell needs for an interval."""
_PANELS = {
    "learned": "learned rotation",
    "shuffled": "trained on shuffled pairs",
    "random": "best random rotation",
    "full": "everything",
}
_COLOURS = ("#c8641a", "#8d96a3", "#c3c8d0", "#3a6fb5")


def draw_recovery_map(rows: Sequence[InterchangeScore], variables: str, path: Path) -> Path | None:
    """Draw the recovery of the change at every site and rank: a map for the learned rotations and one for each control.

    Args:
        rows: of one split.
        variables: whose counterfactual it is.
        path: of the PNG.

    Returns:
        The path, or None where nothing was learned.
    """
    means = [row for row in rows if row.metric == "recovery" and row.field == ""]
    definition = (
        "1 − Σ‖change by the edit − true change‖² / Σ‖true change‖², mean over fields, with 95 % intervals over "
        "initial conditions."
    )
    title = f"Recovery of the change of {variables}, by site and rank"
    return _draw_maps(means, title, definition, "", "recovery of the change", path)


def draw_class_accuracy_map(rows: Sequence[InterchangeScore], parameter: str, path: Path) -> Path | None:
    """Draw how often a frozen probe reads the source's class off edited passes, as `draw_recovery_map`.

    Args:
        rows: of one split.
        parameter: whose values the classes are.
        path: of the PNG.

    Returns:
        The path, or None where nothing was learned, or no probe was asked.
    """
    accuracies = [row for row in rows if (row.metric, row.field) == ("class_accuracy", parameter)]
    definition = (
        f"Share of pairs whose edited pass a frozen probe reads as of the source's {parameter}, with 95 % intervals "
        "over initial conditions."
    )
    unedited = {row.kind: row.value for row in accuracies if row.kind in (MODEL, UNEDITED)}
    ends = ""
    if len(unedited) == 2:
        ends = (
            f"; it reads so {unedited[MODEL]:.2f} of the sources' own passes and {unedited[UNEDITED]:.2f} of the bases'"
        )
    title = f"Class accuracy of {parameter}, by site and rank"
    return _draw_maps(accuracies, title, definition, ends, "class accuracy", path)


def _draw_maps(
    means: Sequence[InterchangeScore], title: str, definition: str, addition: str, label: str, path: Path
) -> Path | None:
    """Draw a map of every site and rank for the learned rotations and one for each control.

    Args:
        means: one value for each variant.
        title: of the figure.
        definition: what the values are.
        addition: said after how many cells there are.
        label: of the colour bar.
        path: of the PNG.
    """
    learned = [row for row in means if row.kind == "learned"]
    if not learned:
        return None
    sites = list(dict.fromkeys(row.site for row in learned))
    ranks = list(dict.fromkeys(rank_text(row) for row in learned))
    kinds = [kind for kind in _PANELS if any(row.kind == kind for row in means)]
    columns = [[""] if kind == "full" else ranks for kind in kinds]
    width = (WIDTH - _LEFT - _RIGHT - _GAP * (len(kinds) - 1)) / sum(map(len, columns))  # of a cell
    height = _ROW * len(sites)
    n = max(row.initial_conditions for row in learned)
    caption = f"{definition}\n{n} held-out initial conditions; {len(learned)} cells were tried{addition}."
    with style():
        canvas = Canvas(_TOP + height + _BOTTOM)
        left = _LEFT
        for kind, shown in zip(kinds, columns, strict=True):
            axes = canvas.panel(left, _TOP, width * len(shown), height)
            block = [[_best(means, site, kind, rank) for rank in shown] for site in sites]
            values = [[math.nan if cell is None else cell.value for cell in row] for row in block]
            texts = [[_text(cell, with_interval=width >= _ROOM) for cell in row] for row in block]
            image = draw_annotated_map(axes, values, texts, fontsize=7)
            axes.set_title(_PANELS[kind], pad=22)
            axes.set_xticks(range(len(shown)), shown)
            if left == _LEFT:
                axes.set_yticks(range(len(sites)), sites)
            left += width * len(shown) + _GAP
        extend = "min" if min(row.value for row in means) < -1 else "neither"
        canvas.colour_bar(image, _RIGHT, _TOP, height, label=label, extend=extend)
        return canvas.save(path, title, caption)


def draw_field_bars(
    rows: Sequence[InterchangeScore], variables: str, path: Path, selected: InterchangeScore | None = None
) -> Path | None:
    """Draw the recovery of the change of each field at one site and rank, with intervals, beside the controls.

    Args:
        rows: of one split.
        variables: whose counterfactual it is.
        path: of the PNG.
        selected: a row of the site and rank, selected on another split; where None, the best of this one.

    Returns:
        The path, or None where nothing was learned.
    """
    if not any(row.kind == "learned" for row in rows):
        return None
    best = best_learned(rows) if selected is None else selected
    here = [row for row in rows if row.metric == "recovery" and row.site == best.site]
    same_rank = [row for row in here if rank_text(row) == rank_text(best)]
    randoms = [row for row in same_rank if row.kind == "random" and row.field == ""]
    luckiest = max(randoms, key=lambda row: row.value).name if randoms else ""
    groups = {
        "learned": [row for row in same_rank if row.kind == "learned"],
        "shuffled pairs": [row for row in same_rank if row.kind == "shuffled"],
        "best random": [row for row in same_rank if row.kind == "random" and row.name == luckiest],
        "everything": [row for row in here if row.kind == "full"],
    }
    groups = {label: members for label, members in groups.items() if members}
    fields = list(dict.fromkeys(row.field for row in groups["learned"]))
    title = f"Recovery of the change of {variables} by field: {best.site}, {rank_text(best)}"
    where = "on these pairs" if selected is None else "on valid"
    caption = (
        f"The site and rank with the largest mean {where}; intervals over initial conditions. 0: as unedited, 1: the "
        "true change."
    )
    with style():
        figure = new_figure(3.9)
        axes = figure.add_axes((0.06, 0.12, 0.92, 0.66))
        for i, (label, members) in enumerate(groups.items()):
            offset = (i - (len(groups) - 1) / 2) * 0.2
            bounds = [(row.low, row.high) for row in members]
            at = [fields.index(row.field) + offset for row in members]
            draw_bars(axes, at, [row.value for row in members], _COLOURS[i], label, bounds, width=0.18)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xticks(range(len(fields)), [field.replace("_", " ") or "mean over fields" for field in fields])
        axes.set_ylabel("recovery of the change")
        axes.set_ylim(max(-1.0, axes.get_ylim()[0]), 1.0)
        axes.legend(ncols=len(groups), loc="upper right")
        heading(figure, title, caption)
        return save(figure, path, title, caption)


def rank_text(row: InterchangeScore) -> str:
    """Return what a column is called; a boundless rotation has another rank at every site."""
    return "boundless" if row.name == "boundless" else f"rank {row.rank}"


def _best(means: Sequence[InterchangeScore], site: str, kind: str, rank: str) -> InterchangeScore | None:
    same = [row for row in means if (row.site, row.kind) == (site, kind)]
    same = [row for row in same if kind == "full" or rank_text(row) == rank]
    return max(same, key=lambda row: row.value, default=None)


def _text(cell: InterchangeScore | None, *, with_interval: bool) -> str:
    if cell is None or math.isnan(cell.value):
        return ""
    text = f"{cell.value:+.2f}"
    if with_interval and math.isfinite(cell.low):
        text += f"\n[{cell.low:+.2f}, {cell.high:+.2f}]"
    return text.replace("-", "−")
