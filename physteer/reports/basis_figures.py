"""What breaks a forecast, and what carries a variable: ablation curves, and the comparison of subspaces."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from physteer.analyses.basis.table import CAUSAL, DIRECTION, FULL, MODEL, PCA, RANDOM, BasisComparisonRow, BasisCurveRow
from physteer.files import file_name
from physteer.reports.lines import DASHED, draw_band, draw_line, legend_line
from physteer.reports.style import INK, MUTED, arrange, heading, new_figure, save, style

_CAUSAL, _PCA = "#c8641a", "#3a6fb5"
_FILES = ("#1f7a4d", "#8a3ffc", "#b8336a", "#7a6a00", "#00758f", "#5c6370")
_MARKERS = "Dsv^Xp"
_ACROSS = 4
"""Panels in a row."""
_MEASURES = {
    "share": "share of energy",
    "recovery": "recovery",
    "nearness": "nearness",
}


def draw_basis_curves(rows: Sequence[BasisCurveRow], path: Path) -> Path:
    """Draw the energies of ablating each direction alone, and the first ones together, a panel per site.

    Args:
        rows: of all sites.
        path: of the PNG.
    """
    sites = list(dict.fromkeys(row.site for row in rows))
    first = rows[0]
    units = f" ({first.units})" if first.units else ""
    title = "Ablation of causal directions"
    caption = (
        f"{first.divergence} on held-out windows when directions are ablated ({first.mode}, {first.metric}), with 95 % "
        f"intervals over {first.initial_conditions} initial conditions."
    )
    with style():
        n_rows = math.ceil(len(sites) / _ACROSS)
        figure = new_figure(1.15 + 2.9 * n_rows)
        cells = figure.subplots(n_rows, min(len(sites), _ACROSS), squeeze=False)
        for axes in cells.flat[len(sites) :]:
            axes.set_visible(False)
        for axes, site in zip(cells.flat, sites, strict=False):
            own = [row for row in rows if row.site == site]
            x = [row.direction for row in own]
            draw_band(axes, x, [r.cumulative_low for r in own], [r.cumulative_high for r in own], _CAUSAL, 0.2)
            draw_band(axes, x, [r.marginal_low for r in own], [r.marginal_high for r in own], _PCA, 0.2)
            draw_line(axes, x, [row.cumulative for row in own], _CAUSAL, **_dots(x))
            draw_line(axes, x, [row.marginal for row in own], _PCA, **_dots(x))
            axes.plot(x, [row.energy for row in own], "x", color=INK, markersize=5, zorder=5)
            axes.axhline(own[0].everything, color=INK, linewidth=1.2, linestyle=DASHED)
            angles = [row.half_angle for row in own]
            halves = "" if math.isnan(angles[-1]) else f"\nhalves of the data agree to {min(angles):.0f}–"
            halves += "" if math.isnan(angles[-1]) else f"{max(angles):.0f}°"
            axes.set_title(f"{site}{halves}", fontsize=10)
            axes.set_ylim(bottom=min(0.0, *(row.marginal_low for row in own if math.isfinite(row.marginal_low)), 0.0))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlabel("direction")
        for row_of_axes in cells:
            row_of_axes[0].set_ylabel(f"energy{units}")
        handles = [
            legend_line("with those before", _CAUSAL),
            legend_line("alone", _PCA),
            legend_line("as found, on train", INK, linestyle="", marker="x", markersize=5),
            legend_line("everything at the site", INK, linewidth=1.2, linestyle=DASHED),
        ]
        figure.legend(handles=handles, ncols=4, loc="lower center", frameon=False)
        heading(figure, title, caption)
        arrange(figure, bottom=0.35)
        return save(figure, path, title, caption)


def draw_basis_comparison(rows: Sequence[BasisComparisonRow], path: Path) -> Path:
    """Draw share of energy, recovery and nearness of every subspace against its rank: a column of panels per site.

    Args:
        rows: of all sites.
        path: of the PNG.
    """
    sites = list(dict.fromkeys(row.site for row in rows))
    variables, n = rows[0].variables, max(row.initial_conditions for row in rows)
    names = list(dict.fromkeys(_short(row) for row in rows if row.method == DIRECTION))
    title = f"What breaks the forecast, and what carries {variables}"
    caption = (
        "Share: energy of ablating a subspace over that of ablating everything. Recovery of the change, and nearness "
        "to the counterfactual, when the subspace is taken from\nthe source: 0 as unedited, 1 exact. 95 % intervals "
        f"over {n} held-out initial conditions. What breaks the forecast need not carry {variables}."
    )
    with style():
        n_legend = math.ceil((4 + len(names)) / 5)
        figure = new_figure(1.2 + 2.35 * len(_MEASURES) + 0.25 * n_legend)
        cells = figure.subplots(len(_MEASURES), len(sites), squeeze=False, sharey="row", sharex="col")
        for column, site in enumerate(sites):
            own = [row for row in rows if row.site == site]
            ranks = sorted({row.rank for row in own if row.method in (CAUSAL, PCA, RANDOM, DIRECTION)})
            for axes, measure in zip(cells[:, column], _MEASURES, strict=True):
                _draw_measure(axes, own, measure, ranks, names)
            cells[0, column].set_title(site)
            cells[-1, column].set_xlabel("rank")
            cells[-1, column].set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
        for axes, (measure, text) in zip(cells[:, 0], _MEASURES.items(), strict=True):
            axes.set_ylabel(text)
            values = [v for row in rows if row.method != MODEL and math.isfinite(v := getattr(row, measure))]
            axes.set_ylim(max(-2.5, min(0.0, *values) - 0.1), min(2.5, max(1.0, *values) + 0.1))
        handles = [
            legend_line("causal basis", _CAUSAL, marker="o"),
            legend_line("PCA", _PCA, marker="o"),
            legend_line("random", MUTED, linewidth=1.2, marker="_", markersize=8),
            legend_line("everything", INK, linewidth=1.2, linestyle=DASHED),
            *(legend_line(name, **_file_look(names, name), linestyle="") for name in names),
        ]
        figure.legend(handles=handles, ncols=5, loc="lower center", frameon=False, fontsize=9)
        heading(figure, title, caption)
        arrange(figure, bottom=0.1 + 0.25 * n_legend)
        figure.subplots_adjust(top=figure.subplotpars.top - 0.2 / figure.get_size_inches()[1])
        return save(figure, path, title, caption.replace("\n", " "))


def _draw_measure(
    axes: Axes, rows: Sequence[BasisComparisonRow], measure: str, ranks: Sequence[int], names: Sequence[str]
) -> None:
    """Draw one measure of one site: points with intervals, side by side at each rank."""
    place = {rank: i for i, rank in enumerate(ranks)}
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1.5)
    for row in rows:
        if row.method == FULL and measure != "share":
            axes.axhline(getattr(row, measure), color=INK, linewidth=1.2, linestyle=DASHED, zorder=2)
        if row.method == RANDOM:
            axes.plot(place[row.rank], getattr(row, measure), "_", color=MUTED, markersize=11, zorder=2)
    if measure == "share":
        axes.axhline(1, color=INK, linewidth=1.2, linestyle=DASHED, zorder=2)
    groups: list[tuple[list[BasisComparisonRow], float, dict[str, Any]]] = [
        (
            [row for row in rows if row.method == CAUSAL],
            -0.1,
            {"color": _CAUSAL, "marker": "o", "markersize": 5, "linestyle": "-"},
        ),
        (
            [row for row in rows if row.method == PCA],
            0.1,
            {"color": _PCA, "marker": "o", "markersize": 5, "linestyle": "-"},
        ),
    ]
    for number, name in enumerate(names):
        own = [row for row in rows if row.method == DIRECTION and _short(row) == name]
        look = {"linestyle": "", **_file_look(names, name)}
        groups.append((own, 0.2 + 0.07 * (number % 3), {"color": look.pop("colour"), **look}))
    for own, offset, look in groups:
        if not own:
            continue
        values = [getattr(row, measure) for row in own]
        ends = [(getattr(row, f"{measure}_low"), getattr(row, f"{measure}_high")) for row in own]
        error = [
            [max(v - low, 0) if math.isfinite(low) else 0 for v, (low, _) in zip(values, ends, strict=True)],
            [max(high - v, 0) if math.isfinite(high) else 0 for v, (_, high) in zip(values, ends, strict=True)],
        ]
        x = [place[row.rank] + offset for row in own]
        axes.errorbar(x, values, error, **{"capsize": 2, "elinewidth": 1, "linewidth": 1.3, "zorder": 4} | look)


def _short(row: BasisComparisonRow) -> str:
    """Return the name of a file without its site, so that files of one kind look the same at all sites."""
    return re.sub("_+", "_", row.name.replace(file_name(row.site), "")).strip("_ ") or row.name


def _file_look(names: Sequence[str], name: str) -> dict[str, Any]:
    number = names.index(name)
    return {"colour": _FILES[number % len(_FILES)], "marker": _MARKERS[number % len(_MARKERS)], "markersize": 5.5}


def _dots(x: Sequence[int]) -> dict[str, Any]:
    return {"marker": "o", "markersize": 4} if len(x) <= 16 else {}
