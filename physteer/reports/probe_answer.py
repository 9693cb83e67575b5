"""What probes found in sentences made from the table: what is read, against which controls, and where these win."""

from __future__ import annotations

import math
from collections.abc import Sequence

from physteer.analyses.probing.class_table import ClassScore
from physteer.analyses.probing.table import ProbeScore
from physteer.reports.probe_choice import (
    DATA,
    INPUTS,
    ChosenProbe,
    chosen_on,
    chosen_probes,
    data_sets,
    resolutions,
)
from physteer.reports.probe_text import HOW, interval_text, r2_text

_MOST = 3


def probe_answer(rows: Sequence[ProbeScore]) -> str:
    """Say which targets are read from the network better than from its input, on the last data set of the table."""
    resolution, data = resolutions(rows)[0], data_sets(rows)[-1]
    probes = chosen_probes(rows, resolution)
    n = max(probe.own[data].initial_conditions for probe in probes)
    tested = any(math.isfinite(probe.own[data].over_input_low) for probe in probes)
    better = [probe for probe in probes if _is_read(probe, data) and _beats(probe, data, tested)]
    where = f"On {DATA[data]} ({n} initial conditions)"
    how = " (R² and the difference have intervals above 0)" if tested else ""
    claim = (
        f"{where}, linear probes at the sites chosen on {chosen_on(rows)} read {len(better) or 'none'} of "
        f"{len(probes)} targets {HOW[resolution]} better than random features and the raw patch do{how}"
    )
    shown = sorted(better or probes, key=lambda probe: -_above(probe, data))[:_MOST]
    listed = "; ".join(_described(probe, data) for probe in shown)
    if not better:
        return f"{claim}; the nearest: {listed}."
    more = f"; {len(better) - _MOST} more are in the table" if len(better) > _MOST else ""
    return f"{claim}: {listed}{more}."


def probe_remarks(rows: Sequence[ProbeScore], resolution: str) -> list[str]:
    """Say where random features or the raw patch win, what nothing reads, and what only full simulations show."""
    remarks, probes = [], chosen_probes(rows, resolution)
    for data in data_sets(rows):
        unread = [probe for probe in probes if _largest(probe, data) <= 0]
        lost = [probe for probe in probes if probe.loses_to_input(data) and probe not in unread]
        if lost:
            listed = ", ".join(_lost(probe, data) for probe in lost)
            remarks.append(
                f"Random features or the raw patch win on {DATA[data]}, so that no computation of the network is shown "
                f"for {listed}."
            )
        if unread:
            listed = ", ".join(map(_name, unread))
            remarks.append(f"On {DATA[data]} neither the chosen site nor the input reads {listed}: R² is at most 0.")
    if {"simple", "full"} <= set(data_sets(rows)):
        alone = [probe for probe in probes if probe.own["full"].low > probe.own["simple"].high]
        if alone:
            listed = ", ".join(
                f"{_name(probe)} ({r2_text(probe.own['full'].r2)} full, {r2_text(probe.own['simple'].r2)} simple)"
                for probe in alone
            )
            remarks.append(
                "Read on full simulations, but less on held-out flows of the kind that the probes were fitted to, "
                f"which speaks for a correlate of the quantity: {listed}."
            )
    return remarks


def class_answer(rows: Sequence[ClassScore]) -> str:
    """Say how often the value of each parameter is told right, on the last data set, beside all controls."""
    parts = []
    for parameter in dict.fromkeys(row.parameter for row in rows):
        same = [row for row in rows if row.parameter == parameter]
        data = [name for name in DATA if any(row.data == name for row in same)]
        probes = [row for row in same if row.control == "probe"]
        first = [row for row in probes if row.data == data[0]]
        site = max(first, key=lambda row: row.accuracy).site
        own = next(row for row in probes if (row.data, row.site) == (data[-1], site))
        others = {row.control: row for row in same if row.data == data[-1] and row.site in ("", site)}
        controls = [
            f"{name} {others[control].accuracy:.2f}"
            for control, name in {"shuffled": "shuffled values", **INPUTS}.items()
            if control in others
        ]
        inputs = [others[control].accuracy for control in INPUTS if control in others]
        wins = "; the input alone does at least as well" if inputs and max(inputs) >= own.accuracy else ""
        there = f", where it is {max(row.accuracy for row in first):.2f}" if len(data) > 1 else ""
        parts.append(
            f"{parameter} is told right in {own.accuracy:.2f} [{own.low:.2f}, {own.high:.2f}] of the frames of "
            f"{DATA[data[-1]]} at {site}, the best of {len(first)} sites on {DATA[data[0]]}{there} (chance "
            f"{own.chance:.2f}, {', '.join(controls)}; {own.initial_conditions} initial conditions){wins}"
        )
    return "; ".join(parts) + "."


def _beats(probe: ChosenProbe, data: str, tested: bool) -> bool:
    return probe.surely_beats_input(data) if tested else not probe.loses_to_input(data)


def _is_read(probe: ChosenProbe, data: str) -> bool:
    """Whether R² is above 0, with its interval where there is one."""
    low = probe.own[data].low
    return (low if math.isfinite(low) else probe.own[data].r2) > 0


def _largest(probe: ChosenProbe, data: str) -> float:
    """Return the largest R² of the probe and of the controls on the input."""
    best = probe.best_input(data)
    return max(probe.own[data].r2, best.r2 if best else -math.inf)


def _above(probe: ChosenProbe, data: str) -> float:
    """Return R² over that of the better control on the input, for the order in which targets are named."""
    best = probe.best_input(data)
    value = probe.own[data].r2 - (best.r2 if best else 0.0)
    return value if math.isfinite(value) else -math.inf


def _name(probe: ChosenProbe) -> str:
    return probe.target.replace("_", " ")


def _described(probe: ChosenProbe, data: str) -> str:
    """Return ``vorticity R² +0.80 [+0.70, +0.90] at blocks.0 (simple +0.85; shuffled +0.02, …)``."""
    own = probe.own[data]
    beside = [f"{DATA[name]} {r2_text(row.r2)}" for name, row in probe.own.items() if name != data]
    controls = [f"shuffled {r2_text(probe.shuffled[data].r2)}"] if data in probe.shuffled else []
    controls += [
        f"{name} {r2_text(probe.inputs[data, control].r2)}"
        for control, name in INPUTS.items()
        if (data, control) in probe.inputs
    ]
    inside = "; ".join(filter(None, [", ".join(beside), ", ".join(controls)]))
    value = f"{r2_text(own.r2)} {interval_text(own.low, own.high)}".rstrip()
    return f"{_name(probe)} R² {value} at {probe.site}" + (f" ({inside})" if inside else "")


def _lost(probe: ChosenProbe, data: str) -> str:
    best = probe.best_input(data)
    assert best is not None
    return f"{_name(probe)} ({INPUTS[best.control]} {r2_text(best.r2)}, {probe.site} {r2_text(probe.own[data].r2)})"
