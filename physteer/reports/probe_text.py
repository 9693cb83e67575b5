"""What probes found, for a terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from physteer.analyses.probing.class_table import ClassScore
from physteer.analyses.probing.table import ProbeScore
from physteer.reports.probe_choice import (
    INPUTS,
    ChosenProbe,
    all_probes,
    chosen_on,
    chosen_probes,
    data_sets,
)
from physteer.reports.text_table import text_table

HOW = {"token": "per token", "pooled": "of means over a frame"}
_BOTH = " / "


def probe_text(rows: Sequence[ProbeScore], resolution: str) -> str:
    """Lay R² out for reading: per target, the site that was chosen, beside all controls."""
    header, table = chosen_table(rows, resolution)
    return "\n".join([chosen_title(rows, resolution), *text_table(header, table, "<<" + ">" * (len(header) - 2))])


def chosen_title(rows: Sequence[ProbeScore], resolution: str) -> str:
    """Return the title of `chosen_table`."""
    n = {row.data: row.initial_conditions for row in rows}
    counts = ", ".join(f"{data.replace('_', ' ')}: {n[data]}" for data in data_sets(rows))
    return f"R² {HOW[resolution]}; sites are chosen on {chosen_on(rows)}; initial conditions {counts}"


def table_notes(rows: Sequence[ProbeScore]) -> list[str]:
    """Return what the columns are."""
    pairs = f"; {_BOTH.join(data_sets(rows))}" if len(data_sets(rows)) > 1 else ""
    return [f"selectivity: R² − R² with targets of other windows; random, patch: controls that read the input{pairs}"]


def chosen_table(rows: Sequence[ProbeScore], resolution: str) -> tuple[list[str], list[list[str]]]:
    """Return header and lines: simple flows beside full simulations, with selectivity and the controls on the input."""
    data = data_sets(rows)
    header = ["target", "site"]
    for name in data:
        header += [name.replace("_", " "), "95 % interval"]
    header += ["selectivity", "random", "patch"]
    lines = []
    for probe in chosen_probes(rows, resolution):
        line = [probe.target.replace("_", " "), probe.site]
        for name in data:
            line += [r2_text(probe.own[name].r2), interval_text(probe.own[name].low, probe.own[name].high)]
        line.append(_BOTH.join(r2_text(probe.own[name].selectivity) for name in data))
        lines.append(line + [_of_input(probe, control, data) for control in INPUTS])
    return header, lines


def full_table(rows: Sequence[ProbeScore], resolution: str) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of every target and site, each number with its interval, for the page."""
    data = data_sets(rows)
    header = ["target", "site"]
    for title in ("R²", "selectivity", "above input"):
        header += [f"{title}, {name.replace('_', ' ')}" for name in data]
    header += [name + (f", {_BOTH.join(data)}" if len(data) > 1 else "") for name in INPUTS.values()]
    lines = []
    for probe in all_probes(rows, resolution):
        own = [probe.own[name] for name in data]
        cells = [_cell(row.r2, row.low, row.high) for row in own]
        cells += [_cell(row.selectivity, row.selectivity_low, row.selectivity_high) for row in own]
        cells += [_cell(row.over_input, row.over_input_low, row.over_input_high) for row in own]
        inputs = [_of_input(probe, control, data) for control in INPUTS]
        lines.append([probe.target.replace("_", " "), probe.site, *cells, *inputs])
    return header, lines


def class_text(rows: Sequence[ClassScore]) -> str:
    """Lay the accuracies out for reading: per parameter, data set and place, beside shuffled values and chance."""
    header, table = class_table(rows)
    return "\n".join([CLASS_TITLE, *text_table(header, table, "<<<>><>")])


CLASS_TITLE = "accuracy of class probes (0…1), from the mean of a frame's tokens"


def class_table(rows: Sequence[ClassScore]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of the accuracies, blocks and controls on the input."""
    shuffled = {(row.parameter, row.data, row.site): row for row in rows if row.control == "shuffled"}
    table = []
    for row in rows:
        if row.control == "shuffled":
            continue
        control = shuffled.get((row.parameter, row.data, row.site))
        table.append(
            [
                row.parameter,
                row.data,
                row.site or row.control.replace("_", " "),
                f"{row.alpha:.0e}",
                f"{row.accuracy:.2f}",
                f"[{row.low:.2f}, {row.high:.2f}]",
                f"{control.accuracy:.2f}" if control else "–",
                f"{row.chance:.2f}",
            ]
        )
    return ["parameter", "data", "site", "α", "accuracy", "95 % interval", "shuffled", "chance"], table


def r2_text(value: float) -> str:
    """Return R² with two digits; far below 0 it says nothing but that."""
    if math.isnan(value):
        return "–"
    return "< −9" if value < -9 else f"{value:+.2f}".replace("-0.00", "+0.00").replace("-", "−")


def interval_text(low: float, high: float) -> str:
    """Return the ends of an interval; empty where there is none."""
    return f"[{r2_text(low)}, {r2_text(high)}]" if math.isfinite(low) and math.isfinite(high) else ""


def _cell(value: float, low: float, high: float) -> str:
    return "\n".join(filter(None, [r2_text(value), interval_text(low, high)]))


def _of_input(probe: ChosenProbe, control: str, data: Sequence[str]) -> str:
    rows = [probe.inputs.get((name, control)) for name in data]
    return _BOTH.join("–" if row is None else r2_text(row.r2) for row in rows)
