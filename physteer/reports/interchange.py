"""Where a variable lives: recovery and class accuracy by site and rank, beside their controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from physteer.analyses.das.table import MODEL, UNEDITED, InterchangeScore, best_learned
from physteer.reports.annotated_map import annotated_map
from physteer.reports.style import INK, MUTED, WIDTH, heading, new_figure, save, signed, style

_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP, _ROW = 1.35, 1.0, 1.5, 0.3, 0.25, 0.46  # inches
_ROOM = 0.85
"""Inches that a cell needs for an interval."""
_PANELS = {
    "learned": "learned rotation",
    "shuffled": "trained on shuffled pairs",
    "random": "best random rotation",
    "full": "everything",
}


def draw_recovery_map(rows: Sequence[InterchangeScore], variables: Sequence[str], path: Path) -> Path | None:
    """Draw the recovery of every site and rank: a map for the learned rotations and one for each control.

    Args:
        rows: of one split.
        variables: whose counterfactual it is.
        path: of the PNG.

    Returns:
        The path, or None where nothing was learned.
    """
    means = [r for r in rows if r.metric == "recovery" and r.field == ""]
    ceiling = next((r.value for r in means if r.kind == MODEL), math.nan)
    told = (
        "1 − Σ‖edited − true counterfactual‖² / Σ‖unedited − true counterfactual‖², mean over fields, with 95 % "
        "intervals over initial conditions."
    )
    beside = f"; with the model's own error alone, recovery would be {signed(round(ceiling, 2))}"
    title = f"Counterfactual recovery of {', '.join(variables)}, by site and rank"
    return _draw_maps(means, title, told, beside if math.isfinite(ceiling) else "", "recovery", path)


def draw_class_accuracy_map(rows: Sequence[InterchangeScore], parameter: str, path: Path) -> Path | None:
    """Draw how often a frozen probe reads the source's class off edited passes, as `draw_recovery_map`.

    Args:
        rows: of one split.
        parameter: whose values the classes are.
        path: of the PNG.

    Returns:
        The path, or None where nothing was learned, or no probe was asked.
    """
    mine = [r for r in rows if (r.metric, r.field) == ("class_accuracy", parameter)]
    told = (
        f"Share of pairs whose edited pass a frozen probe reads as of the source's {parameter}, with 95 % intervals "
        "over initial conditions."
    )
    unedited = {r.kind: r.value for r in mine if r.kind in (MODEL, UNEDITED)}
    beside = ""
    if len(unedited) == 2:
        beside = (
            f"; it reads so {unedited[MODEL]:.2f} of the sources' own passes and {unedited[UNEDITED]:.2f} of the bases'"
        )
    return _draw_maps(mine, f"Class accuracy of {parameter}, by site and rank", told, beside, "class accuracy", path)


def _draw_maps(
    means: Sequence[InterchangeScore], title: str, told: str, beside: str, label: str, path: Path
) -> Path | None:
    """Draw a map of every site and rank for the learned rotations and one for each control.

    Args:
        means: one value for each variant.
        title: of the figure.
        told: what the values are.
        beside: said after how many cells there are.
        label: of the colour bar.
        path: of the PNG.
    """
    learned = [r for r in means if r.kind == "learned"]
    if not learned:
        return None
    sites = list(dict.fromkeys(r.site for r in learned))
    ranks = list(dict.fromkeys(_rank(r) for r in learned))
    kinds = [kind for kind in _PANELS if any(r.kind == kind for r in means)]
    columns = [[""] if kind == "full" else ranks for kind in kinds]
    width = (WIDTH - _LEFT - _RIGHT - _GAP * (len(kinds) - 1)) / sum(map(len, columns))  # of a cell
    height = _ROW * len(sites)
    total = _TOP + height + _BOTTOM
    n = max(r.initial_conditions for r in learned)
    caption = f"{told}\n{n} held-out initial conditions; {len(learned)} cells were tried{beside}."
    with style():
        figure = new_figure(total)
        image, x = None, _LEFT
        for kind, shown in zip(kinds, columns, strict=True):
            axes = figure.add_axes((x / WIDTH, _BOTTOM / total, width * len(shown) / WIDTH, height / total))
            block = [[_cell(means, site, kind, rank) for rank in shown] for site in sites]
            values = [[math.nan if cell is None else cell.value for cell in row] for row in block]
            texts = [[_text(cell, with_interval=width >= _ROOM) for cell in row] for row in block]
            image = annotated_map(axes, values, texts, fontsize=7)
            axes.set_title(_PANELS[kind], pad=22)
            axes.set_xticks(range(len(shown)), shown)
            if x == _LEFT:
                axes.set_yticks(range(len(sites)), sites)
            x += width * len(shown) + _GAP
        assert image is not None
        bar = ((WIDTH - _RIGHT + 0.15) / WIDTH, _BOTTOM / total, 0.14 / WIDTH, height / total)
        low = min(r.value for r in means)
        figure.colorbar(image, cax=figure.add_axes(bar), label=label, extend="min" if low < -1 else "neither")
        heading(figure, title, caption)
        return save(figure, path, title, caption.replace("\n", " "))


def draw_field_bars(
    rows: Sequence[InterchangeScore], variables: Sequence[str], path: Path, chosen: InterchangeScore | None = None
) -> Path | None:
    """Draw the recovery of each field at one site and rank, with intervals, beside the controls.

    Args:
        rows: of one split.
        variables: whose counterfactual it is.
        path: of the PNG.
        chosen: a row of the site and rank, chosen on another split; where None, the best of this one.

    Returns:
        The path, or None where nothing was learned.
    """
    if not any(r.kind == "learned" for r in rows):
        return None
    best = best_learned(rows) if chosen is None else chosen
    mine = [r for r in rows if r.metric == "recovery" and r.site == best.site]
    randoms = [r for r in mine if r.kind == "random" and r.field == "" and _rank(r) == _rank(best)]
    luckiest = max(randoms, key=lambda r: r.value).name if randoms else ""
    shown = [
        ("learned", [r for r in mine if r.kind == "learned" and _rank(r) == _rank(best)]),
        ("shuffled pairs", [r for r in mine if r.kind == "shuffled" and _rank(r) == _rank(best)]),
        ("best random", [r for r in mine if r.kind == "random" and _rank(r) == _rank(best) and r.name == luckiest]),
        ("everything", [r for r in mine if r.kind == "full"]),
    ]
    shown = [(label, those) for label, those in shown if those]
    fields = list(dict.fromkeys(r.field for r in shown[0][1]))
    title = f"Recovery of {', '.join(variables)} by field: {best.site}, {_rank(best)}"
    where = "on these pairs" if chosen is None else "on valid"
    caption = (
        f"The site and rank with the largest mean {where}; intervals over initial conditions. 0: as unedited, 1: exact."
    )
    colours = ("#c8641a", "#8d96a3", "#c3c8d0", "#3a6fb5")
    with style():
        figure = new_figure(3.9)
        axes = figure.add_axes((0.06, 0.12, 0.92, 0.66))
        for i, (label, those) in enumerate(shown):
            x = np.arange(len(fields)) + (i - (len(shown) - 1) / 2) * 0.2
            values = np.array([r.value for r in those])
            error = np.array([[r.value - r.low for r in those], [r.high - r.value for r in those]])
            error = np.clip(np.nan_to_num(error), 0, None)
            axes.bar(x, values, 0.18, yerr=error, label=label, color=colours[i], ecolor=MUTED, capsize=2)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xticks(range(len(fields)), [field.replace("_", " ") or "mean over fields" for field in fields])
        axes.set_ylabel("recovery")
        axes.set_ylim(max(-1.0, axes.get_ylim()[0]), 1.0)
        axes.grid(axis="x", visible=False)
        axes.legend(ncols=len(shown), loc="upper right")
        heading(figure, title, caption)
        return save(figure, path, title, caption)


def _rank(row: InterchangeScore) -> str:
    """Return what a column is called; a boundless rotation has another rank at every site."""
    return "boundless" if row.name == "boundless" else f"rank {row.rank}"


def _cell(means: Sequence[InterchangeScore], site: str, kind: str, rank: str) -> InterchangeScore | None:
    own = [r for r in means if (r.site, r.kind) == (site, kind) and (kind == "full" or _rank(r) == rank)]
    return max(own, key=lambda r: r.value, default=None)


def _text(cell: InterchangeScore | None, *, with_interval: bool) -> str:
    if cell is None:
        return ""
    text = f"{cell.value:+.2f}"
    if with_interval and math.isfinite(cell.low):
        text += f"\n[{cell.low:+.2f}, {cell.high:+.2f}]"
    return text.replace("-", "−")
