"""The figure and text of a run that searched a circuit, from its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from physteer.analyses.effects.circuit_table import ATTRIBUTION, CircuitRow, CurveRow, read_circuit_tables
from physteer.reports.lines import draw_band, draw_line, legend_line
from physteer.reports.style import INK, MUTED, heading, new_figure, save, signed, style
from physteer.reports.text_table import text_table

_COLOUR = "#c8641a"
_MOST_NAMES = 48


def report_circuit(run_folder: Path, split: str) -> None:
    """Draw ``figures/circuit_<split>.png`` from ``tables/circuit_curve_<split>``, if there is one.

    Raises:
        PhysteerError: A table is broken.
    """
    curve, scores = read_circuit_tables(run_folder, split)
    if curve:
        draw_circuit(curve, scores, split, run_folder / "figures" / f"circuit_{split}.png")


def draw_circuit(curve: Sequence[CurveRow], scores: Sequence[CircuitRow], split: str, path: Path) -> Path:
    """Draw the faithfulness of growing sets of nodes, beside random orders.

    Args:
        curve: of all orders.
        scores: with the circuit's size.
        split: of the pairs.
        path: of the PNG.
    """
    orders = list(dict.fromkeys(row.order for row in curve))
    size = int(next(row.value for row in scores if row.score == "size"))
    title = f"Nodes that carry the variable together, on {split}"
    caption = (
        f"f = 0 with all nodes of the source's pass resampled, 1 with all kept; the circuit is the first {size}, "
        "chosen on valid.\nBand: 95 % interval over initial conditions. Grey: nodes in random orders."
    )
    with style():
        figure = new_figure(4.7)
        axes = figure.add_axes((0.06, 0.28, 0.92, 0.51))
        for order in orders:
            line = [row for row in curve if row.order == order]
            n, values = [row.n for row in line], [row.value for row in line]
            if order == ATTRIBUTION:
                draw_line(axes, n, values, _COLOUR)
                draw_band(axes, n, [row.low for row in line], [row.high for row in line], _COLOUR, alpha=0.15)
                if len(line) <= _MOST_NAMES:
                    names = ["none", *(row.node.removeprefix("blocks.") for row in line[1:])]
                    axes.set_xticks(n, names, rotation=60, ha="right", fontsize=7)
            else:
                draw_line(axes, n, values, MUTED, linewidth=1.0, zorder=2)
        axes.axvline(size, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
        axes.axhline(1, color=MUTED, linewidth=0.8)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_ylabel("faithfulness f")
        axes.legend(
            handles=[legend_line("by attribution", _COLOUR), legend_line("random orders", MUTED)], loc="lower right"
        )
        heading(figure, title, caption)
        return save(figure, path, title, caption)


def circuit_text(run_folder: Path, split: str) -> str:
    """Return what a terminal shows of a run's circuit; empty where there is none."""
    curve, scores = read_circuit_tables(run_folder, split)
    if not curve:
        return ""
    by = {(row.score, row.name): row for row in scores}
    size, total = int(by["size", ""].value), max(row.n for row in curve)
    drops = {row.name: row for row in scores if row.score == "minimality"}
    n = max(row.initial_conditions for row in scores)
    header = ["node", "drop of f without it", "95 % interval"]
    table = [[name, signed(round(row.value, 3)), _interval(row)] for name, row in drops.items()]
    random = [row for row in scores if row.score == "cpr" and row.name != ATTRIBUTION]
    lines = [
        f"the circuit on {split} ({n} initial conditions): {size} of {total} nodes, chosen on valid",
        *text_table(header, table, align="<><"),
        f"faithfulness {_value(by['faithfulness', ''])}; completeness {_value(by['completeness', ''])} (f of the rest)",
        f"CPR {_value(by['cpr', ATTRIBUTION])}, CMD {_value(by['cmd', ATTRIBUTION])}"
        + (f"; CPR of random orders {', '.join(f'{row.value:.2f}' for row in random)}" if random else ""),
        f"overlap with circuits of resampled initial conditions (Jaccard) {by['jaccard', ''].value:.2f}",
        f"aligned effect with all nodes kept {_value(by['merit_all', ''])}, all resampled "
        f"{_value(by['merit_none', ''])}",
    ]
    return "\n".join(lines)


def _value(row: CircuitRow) -> str:
    return f"{row.value:.2f} {_interval(row)}".rstrip()


def _interval(row: CircuitRow) -> str:
    return f"[{signed(round(row.low, 2))}, {signed(round(row.high, 2))}]" if math.isfinite(row.low) else ""
