"""How often class probes are right, by place, beside shuffled values and chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from physteer.analyses.probing.class_table import ClassScore
from physteer.reports.style import INK, MUTED, arrange, heading, new_figure, save, style

_OWN, _SHUFFLED = "#c8641a", "#8d96a3"


def draw_class_probes(rows: Sequence[ClassScore], path: Path) -> Path:
    """Draw the accuracy of every place with its interval, one panel for each parameter and data set.

    Args:
        rows: of one run.
        path: of the PNG.

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
        for axes, (parameter, data) in zip(grid.flat, panels, strict=True):
            mine = [row for row in rows if (row.parameter, row.data) == (parameter, data)]
            own = [row for row in mine if row.control != "shuffled"]
            places = [_place(row) for row in own]
            shuffled = [row for row in mine if row.control == "shuffled"]
            axes.bar(
                np.arange(len(own)) - 0.2, [r.accuracy for r in own], 0.38, yerr=_error(own), **_look(_OWN, "fitted")
            )
            where = np.array([places.index(_place(row)) for row in shuffled])
            heights = [r.accuracy for r in shuffled]
            axes.bar(where + 0.2, heights, 0.38, yerr=_error(shuffled), **_look(_SHUFFLED, "shuffled values"))
            axes.axhline(own[0].chance, color=INK, linestyle=":", linewidth=1)
            axes.set_xticks(range(len(own)), places)
            axes.set_ylim(0, 1)
            axes.set_ylabel("accuracy")
            axes.set_title(f"{parameter}, {data.replace('_', ' ')}")
            axes.grid(axis="x", visible=False)
        grid.flat[0].legend(loc="upper right", ncols=2)
        heading(figure, title, caption)
        arrange(figure)
        return save(figure, path, title, caption)


def _place(row: ClassScore) -> str:
    return row.site or row.control.replace("_", " ")


def _error(rows: Sequence[ClassScore]) -> np.ndarray:
    """Return the intervals' distances below and above, [2, rows]."""
    error = np.array([[r.accuracy - r.low for r in rows], [r.high - r.accuracy for r in rows]])
    distances: np.ndarray = np.clip(np.nan_to_num(error), 0, None)
    return distances


def _look(colour: str, label: str) -> dict[str, object]:
    return {"color": colour, "label": label, "ecolor": MUTED, "capsize": 2}
