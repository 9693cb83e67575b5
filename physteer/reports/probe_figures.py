"""Where a quantity can be read: R² by site and target beside controls, best matches, classes, and decoded depths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from physteer.analyses.probing.class_table import ClassScore
from physteer.analyses.probing.table import PERSISTENCE, LensScore, ProbeScore
from physteer.reports.bars import CONTROL_COLOUR, OWN_COLOUR, draw_bars
from physteer.reports.canvas import Canvas, draw_annotated_map
from physteer.reports.lines import draw_band, draw_line
from physteer.reports.probe_choice import DATA, INPUTS
from physteer.reports.probe_text import r2_text
from physteer.reports.style import INK, MUTED, WIDTH, arrange, heading, new_figure, save, style

_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP, _ROW, _BETWEEN = 1.45, 0.95, 1.2, 1.05, 0.2, 0.3, 0.45  # inches
_COLUMNS = 3


def draw_r2_map(rows: Sequence[ProbeScore], resolution: str, path: Path) -> Path:
    """Draw R² of every site and target, on simple flows and on full simulations if any, and selectivity beside it.

    Random features and the raw patch are below the sites. Selectivity is R² minus that of shuffled targets; a table of
    an earlier version, which does not have it, is drawn with R² of shuffled targets instead.

    Args:
        rows: of one run.
        resolution: whose.
        path: of the PNG.

    Returns:
        The path.
    """
    rows = [row for row in rows if row.resolution == resolution]
    sites = list(dict.fromkeys(row.site for row in rows if row.site))
    targets = list(dict.fromkeys(row.target for row in rows))
    cells: dict[tuple[str, str, str, str], float] = {
        (row.data, row.control, row.site, row.target): row.r2 for row in rows
    }
    has_selectivity = any(math.isfinite(row.selectivity) for row in rows)
    if has_selectivity:
        cells |= {
            (row.data, "selectivity", row.site, row.target): row.selectivity for row in rows if row.control == "probe"
        }
    probes = [("probe", site, site) for site in sites] + [(control, "", name) for control, name in INPUTS.items()]
    beside = [("selectivity" if has_selectivity else "shuffled", site, site) for site in sites]
    n: dict[str, int] = {}  # initial conditions by data set
    for row in rows:
        n[row.data] = max(row.initial_conditions, n.get(row.data, 0))
    width = (WIDTH - _LEFT - _RIGHT - _GAP) / 2
    pitch = _ROW * len(probes) + _BETWEEN
    tall = len(n) * pitch - _BETWEEN
    with style():
        canvas = Canvas(_TOP + tall + _BOTTOM)
        for i, data in enumerate(n):
            for j, listed in enumerate((probes, beside)):
                axes = canvas.panel(_LEFT + j * (width + _GAP), _TOP + i * pitch, width, _ROW * len(listed))
                block = [
                    [cells.get((data, control, site, t), math.nan) for t in targets] for control, site, _ in listed
                ]
                texts = [[r2_text(value) for value in row] for row in block]
                image = draw_annotated_map(axes, block, texts, fontsize=7.5, labels_above=False)
                titles = (DATA[data], f"{DATA[data]}, {'selectivity' if has_selectivity else 'shuffled targets'}")
                axes.set_title(titles[j])
                if j == 0:
                    axes.set_yticks(range(len(listed)), [name for *_, name in listed])
                    axes.axhline(len(sites) - 0.5, color="white", linewidth=3)
                if i == len(n) - 1:
                    axes.set_xticks(range(len(targets)), [t.replace("_", " ") for t in targets])
                    axes.tick_params(axis="x", labelrotation=40)
                    for label in axes.get_xticklabels():
                        label.set_horizontalalignment("right")
                        label.set_rotation_mode("anchor")
        canvas.colour_bar(image, _RIGHT, _TOP, tall, label="R²", extend="min")
        how = "at every token" if resolution == "token" else "in means over each frame"
        selectivity = "\nSelectivity: R² − R² of shuffled targets, on the same data." if has_selectivity else ""
        caption = _r2_caption(n) + selectivity
        return canvas.save(path, f"What linear probes read {how}", caption)


def _r2_caption(n: dict[str, int]) -> str:
    if "full" in n:
        where = (
            f"fitted to simple flows, tested on others ({n['simple']} initial conditions) and on full simulations "
            f"({n['full']})"
        )
    else:
        where = f"on windows of {n['held_out']} other initial conditions"
    return f"Held-out R² of ridge probes {where}. 0: no better than the mean."


def draw_best_matches(rows: Sequence[ProbeScore], path: Path) -> Path:
    """Draw, for every target and site, the nearest that a token comes to the truth on full simulations, and by chance.

    Returns:
        The path.
    """
    wanted = ("token", "full", "probe")
    rows = [row for row in rows if (row.resolution, row.data, row.control) == wanted and row.site]
    sites = list(dict.fromkeys(row.site for row in rows))
    targets = list(dict.fromkeys(row.target for row in rows))
    title = "Best match per layer, full simulations"
    caption = (
        "Smallest |prediction − truth| over a frame's tokens, mean over frames, in the target's units; grey: with the "
        "truth of another window."
    )
    n_rows = math.ceil(len(targets) / _COLUMNS)
    with style():
        figure = new_figure(0.9 + 1.75 * n_rows)
        grid = figure.subplots(n_rows, _COLUMNS, squeeze=False)
        for axes, target in zip(grid.flat, targets, strict=False):
            by_site = {row.site: row for row in rows if row.target == target}
            x = np.arange(len(sites))
            own, chance = zip(*((by_site[s].best_match, by_site[s].best_match_shuffled) for s in sites), strict=True)
            draw_bars(axes, (x - 0.2).tolist(), own, OWN_COLOUR, "its own truth")
            draw_bars(axes, (x + 0.2).tolist(), chance, CONTROL_COLOUR, "another's")
            axes.set_title(target.replace("_", " "))
            axes.set_xticks(x, sites)
        for axes in list(grid.flat)[len(targets) :]:
            axes.remove()
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", ncols=2)
        heading(figure, title, caption)
        arrange(figure)
        return save(figure, path, title, caption)


def draw_class_probes(rows: Sequence[ClassScore], path: Path) -> Path:
    """Draw the accuracy of class probes at every place, a panel for each parameter and data set.

    Returns:
        The path.
    """
    panels = list(dict.fromkeys((row.parameter, row.data) for row in rows))
    title = "What class probes read in a frame's mean over tokens"
    n = max(row.initial_conditions for row in rows)
    caption = (
        f"Share of frames whose value is told right, with 95 % intervals over {n} initial conditions. Grey: fitted to "
        "the values of other windows. Dotted: always the commonest value."
    )
    with style():
        figure = new_figure(0.9 + 2.4 * len(panels))
        grid = figure.subplots(len(panels), 1, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=True):
            here = [row for row in rows if (row.parameter, row.data) == panel]
            own = [row for row in here if row.control != "shuffled"]
            shuffled = [row for row in here if row.control == "shuffled"]
            places = [_place(row) for row in own]
            groups = ((own, -0.2, OWN_COLOUR, "fitted"), (shuffled, 0.2, CONTROL_COLOUR, "shuffled values"))
            for members, offset, colour, label in groups:
                at = [places.index(_place(row)) + offset for row in members]
                bounds = [(row.low, row.high) for row in members]
                draw_bars(axes, at, [row.accuracy for row in members], colour, label, bounds)
            axes.axhline(own[0].chance, color=INK, linestyle=":", linewidth=1)
            axes.set_xticks(range(len(own)), places)
            axes.set_ylim(0, 1)
            axes.set_ylabel("accuracy")
            axes.set_title(f"{panel[0]}, {panel[1].replace('_', ' ')}")
        grid.flat[0].legend(loc="upper right", ncols=2)
        heading(figure, title, caption)
        arrange(figure)
        return save(figure, path, title, caption)


def _place(row: ClassScore) -> str:
    return row.site or row.control.replace("_", " ")


def draw_lens(rows: Sequence[LensScore], path: Path) -> Path:
    """Draw the error of the forecast that each depth's activation is decoded to, per field.

    Returns:
        The path.
    """
    depths = _others(row.depth for row in rows)
    fields = list(dict.fromkeys(row.field for row in rows))
    cells = {(row.depth, row.field): row for row in rows}
    n = max(row.initial_conditions for row in rows)
    title = "Decoder lens: where the prediction forms"
    caption = (
        f"VRMSE of the next frame, decoded from each depth; {n} initial conditions of full simulations. Dotted: "
        "repeating the last frame."
    )
    with style():
        figure = new_figure(4.2, width=10.5)
        axes = figure.add_axes((0.08, 0.12, 0.74, 0.66))
        x = list(range(len(depths)))
        for i, field in enumerate(fields):
            colour, wide = (INK, 2.4) if field == "" else (f"C{i - 1}", 1.3)
            curve = [cells[depth, field] for depth in depths]
            values = [row.vrmse for row in curve]
            draw_line(axes, x, values, colour, linewidth=wide, marker="o", markersize=4, label=field or "mean")
            if field == "":
                draw_band(axes, x, [row.low for row in curve], [row.high for row in curve], MUTED, alpha=0.2)
            if (PERSISTENCE, field) in cells:
                axes.axhline(cells[PERSISTENCE, field].vrmse, color=colour, linewidth=0.9, linestyle=":")
        axes.set_yscale("log")
        axes.set_xticks(x, depths)
        axes.set_ylabel("VRMSE, one step")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
        heading(figure, title, caption)
        return save(figure, path, title, caption)


def _others(depths: Iterable[str]) -> list[str]:
    """List the depths of the network."""
    return [depth for depth in dict.fromkeys(depths) if depth != PERSISTENCE]
