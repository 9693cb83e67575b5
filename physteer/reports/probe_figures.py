"""Where a quantity can be read: R² by site and target beside controls, best matches, and errors of decoded depths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from physteer.analyses.probing.table import PERSISTENCE, LensScore, ProbeScore, r2_text
from physteer.reports.annotated_map import annotated_map
from physteer.reports.style import INK, MUTED, WIDTH, arrange, heading, new_figure, save, style

_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP, _ROW, _BETWEEN = 1.45, 0.95, 0.95, 1.05, 0.2, 0.3, 0.45  # inches
_DATA = {"simple": "held-out simple flows", "full": "full simulations", "held_out": "held-out windows"}
_INPUT = {"random_features": "random features", "raw_patch": "raw patch"}
_OWN, _CHANCE = "#c8641a", "#8d96a3"


def draw_r2_map(rows: Sequence[ProbeScore], resolution: str, path: Path) -> Path:
    """Draw R² of every site and target, on simple flows and on full simulations if any, beside shuffled targets.

    Args:
        rows: of one run.
        resolution: whose.
        path: of the PNG.

    Returns:
        The path.
    """
    mine = [row for row in rows if row.resolution == resolution]
    sites = list(dict.fromkeys(row.site for row in mine if row.site))
    targets = list(dict.fromkeys(row.target for row in mine))
    cells: dict[tuple[str, str, str, str], float] = {
        (row.data, row.control, row.site, row.target): row.r2 for row in mine
    }
    left = [("probe", site, site) for site in sites] + [(control, "", name) for control, name in _INPUT.items()]
    right = [("shuffled", site, site) for site in sites]
    share = (WIDTH - _LEFT - _RIGHT - _GAP) / 2
    heights = _ROW * len(left), _ROW * len(right)
    n: dict[str, int] = {}  # by data set
    for row in mine:
        n[row.data] = max(row.initial_conditions, n.get(row.data, 0))
    total = _TOP + len(n) * (heights[0] + _BETWEEN) - _BETWEEN + 0.25 + _BOTTOM
    how = "at every token" if resolution == "token" else "in means over each frame"
    title = f"What linear probes read {how}"
    where = "on windows of {held_out} other initial conditions"
    if "full" in n:
        where = (
            "fitted to simple flows, tested on others ({simple} initial conditions) and on full simulations ({full})"
        )
    caption = f"Held-out R² of ridge probes {where.format(**n)}. 0: no better than the mean."
    with style():
        figure = new_figure(total)
        image = None
        top = total - _TOP - 0.25
        for i, data in enumerate(n):
            for j, listed in enumerate((left, right)):
                y = top - heights[j] - i * (heights[0] + _BETWEEN)
                x = _LEFT + j * (share + _GAP)
                axes = figure.add_axes((x / WIDTH, y / total, share / WIDTH, heights[j] / total))
                block = [
                    [cells.get((data, control, site, t), math.nan) for t in targets] for control, site, _ in listed
                ]
                texts = [[r2_text(value) for value in row] for row in block]
                image = annotated_map(axes, block, texts, fontsize=7.5, above=False)
                axes.set_title(f"{_DATA[data]}" + (", shuffled targets" if j else ""))
                if j == 0:
                    axes.set_yticks(range(len(listed)), [name for *_, name in listed])
                    axes.axhline(len(sites) - 0.5, color="white", linewidth=3)
                if i == len(n) - 1:
                    axes.set_xticks(range(len(targets)), [t.replace("_", " ") for t in targets])
                    axes.tick_params(axis="x", labelrotation=40)
                    for label in axes.get_xticklabels():
                        label.set_horizontalalignment("right")
                        label.set_rotation_mode("anchor")
        assert image is not None
        bar = ((WIDTH - _RIGHT + 0.15) / WIDTH, _BOTTOM / total, 0.14 / WIDTH, len(n) * heights[0] / total)
        figure.colorbar(image, cax=figure.add_axes(bar), label="R²", extend="min")
        heading(figure, title, caption)
        return save(figure, path, title, caption)


def draw_best_matches(rows: Sequence[ProbeScore], path: Path) -> Path:
    """Draw, for every target and site, the nearest that a token comes to the truth on full simulations, and by chance.

    Returns:
        The path.
    """
    mine = [r for r in rows if (r.resolution, r.data, r.control) == ("token", "full", "probe") and r.site]
    sites = list(dict.fromkeys(row.site for row in mine))
    targets = list(dict.fromkeys(row.target for row in mine))
    title = "Best match per layer, full simulations"
    caption = (
        "Smallest |prediction − truth| over a frame's tokens, mean over frames, in the target's units; grey: with the "
        "truth of another window."
    )
    columns = 3
    with style():
        figure = new_figure(0.9 + 1.75 * math.ceil(len(targets) / columns))
        grid = figure.subplots(math.ceil(len(targets) / columns), columns, squeeze=False)
        for axes, target in zip(grid.flat, targets, strict=False):
            those = {row.site: row for row in mine if row.target == target}
            x = np.arange(len(sites))
            axes.bar(x - 0.2, [those[s].best_match for s in sites], 0.38, color=_OWN, label="its own truth")
            axes.bar(x + 0.2, [those[s].best_match_shuffled for s in sites], 0.38, color=_CHANCE, label="another's")
            axes.set_title(target.replace("_", " "))
            axes.set_xticks(x, sites)
            axes.grid(axis="x", visible=False)
        for axes in list(grid.flat)[len(targets) :]:
            axes.remove()
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", ncols=2)
        heading(figure, title, caption)
        arrange(figure)
        return save(figure, path, title, caption)


def draw_lens(rows: Sequence[LensScore], path: Path) -> Path:
    """Draw the error of the forecast that each depth's activation is decoded to, per field.

    Returns:
        The path.
    """
    depths = [depth for depth in dict.fromkeys(row.depth for row in rows) if depth != PERSISTENCE]
    fields = list(dict.fromkeys(row.field for row in rows))
    found = {(row.depth, row.field): row for row in rows}
    n = max(row.initial_conditions for row in rows)
    title = "Decoder lens: where the prediction forms"
    caption = (
        f"VRMSE of the next frame, decoded from each depth; {n} initial conditions of full simulations. Dotted: "
        "repeating the last frame."
    )
    with style():
        figure = new_figure(4.2, width=10.5)
        axes = figure.add_axes((0.08, 0.12, 0.74, 0.66))
        x = np.arange(len(depths))
        for i, field in enumerate(fields):
            colour, wide = (INK, 2.4) if field == "" else (f"C{i - 1}", 1.3)
            those = [found[depth, field] for depth in depths]
            axes.plot(
                x, [r.vrmse for r in those], "o-", color=colour, linewidth=wide, markersize=4, label=field or "mean"
            )
            if field == "":
                axes.fill_between(x, [r.low for r in those], [r.high for r in those], color=MUTED, alpha=0.2, lw=0)
            if (PERSISTENCE, field) in found:
                axes.axhline(found[PERSISTENCE, field].vrmse, color=colour, linewidth=0.9, linestyle=":")
        axes.set_yscale("log")
        axes.set_xticks(x, depths)
        axes.set_ylabel("VRMSE, one step")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
        heading(figure, title, caption)
        return save(figure, path, title, caption)
