"""The summary in words and for a terminal of 100 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from physteer.analyses.steering.summary_rows import Finding
from physteer.reports.summary_tables import (
    MOST,
    Column,
    Grid,
    alignment_grid,
    best_settings,
    cell_text,
    controls_shown,
    dose_grid,
    effect_grid,
    movement_grid,
    number_text,
    series_text,
    settings_of,
    strength_text,
)
from physteer.reports.terminology import ERASING, STEERING, Words, words_of

_WIDTH, _MARGIN = 100, 12  # characters of a line; of its labels
_UNSTEERED = {
    "tracer_drift": "tracer drift",
    "spectrum_distance": "spectrum distance",
    "natural_percentile": "natural",
    "residual_percentile": "residual",
}


def summary_text(findings: Sequence[Finding]) -> str:
    """Return the summary for a terminal, at most 100 columns wide; empty where nothing was steered or erased."""
    parts = [(words, part) for words, part in by_words(findings) if settings_of(part, "concept")]
    return "\n".join(_text_of(part, words) for words, part in parts)


def _text_of(findings: Sequence[Finding], words: Words) -> str:
    every, settings = settings_of(findings, "concept"), best_settings(findings)
    lines = [opening(findings, words)]
    if len(settings) < len(every):
        these = f"{len(settings)} of {len(every)} {words.setting}s"
        lines.append(f"The {these} that did most; all are in tables/summary.csv.")
    shown = [*settings, *controls_shown(findings, max(MOST - len(settings), 2))]
    series = {setting[:3] for setting in shown}
    doses = dose_grid([finding for finding in findings if finding.setting[:3] in series])
    grids = [alignment_grid(findings, shown), movement_grid(findings, shown), effect_grid(findings, shown), doses]
    steps = sorted({f.step for f in findings if f.step})
    ends = {steps[0], steps[-1]} if steps else set()
    for grid in grids:
        if grid and grid.rows:
            lines += ["", *_grid_text(grid, ends, words)]
    return "\n".join([*lines, "", *notes(findings, words)]) + "\n"


def _grid_text(grid: Grid, steps: set[int], words: Words) -> Iterator[str]:
    """Yield a grid's lines, settings of one direction, site and mode below a line that names these."""
    rows = [row for row in grid.rows if row[1] in steps]
    by_strength = words.doses and any(setting[3] for setting, _ in rows)
    columns = list(grid.columns)
    while True:
        table = [[column.title + (", %" if column.kind == "percent" else "") for column in columns]]
        table += [[cell_text(grid.find(row, column), column, column.interval) for column in columns] for row in rows]
        widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
        if _MARGIN + sum(widths) + 2 * len(widths) <= _WIDTH or len(columns) == 1:
            break
        columns = _fewer(columns)

    def line(first: str, cells: Sequence[str]) -> str:
        return "  ".join([first, *(cell.ljust(w) for cell, w in zip(cells, widths, strict=True))]).rstrip()

    yield line(f"{'α':>6}  step" if by_strength else f"{'step':>12}", table[0])
    previous: tuple[str, ...] = ()
    previous_strength = math.nan
    for (setting, step), cells in zip(rows, table[1:], strict=True):
        if setting[:3] != previous:
            previous, previous_strength = setting[:3], math.nan
            yield f"  {series_text(setting)}"
        strength = strength_text(setting[3]) if setting[3] != previous_strength and by_strength else ""
        previous_strength = setting[3]
        yield line(f"{strength:>6}  {step:>4}", cells)


def _fewer(columns: Sequence[Column]) -> list[Column]:
    """Make a table narrower by what a reader misses least: single fields, then intervals, then columns at the end."""
    for i in reversed(range(len(columns))):
        if columns[i].quantity in ("alignment_cosine", "movement") and not columns[i].interval:
            return [*columns[:i], *columns[i + 1 :]]
    for i in reversed(range(1, len(columns))):
        if columns[i].interval:
            return [*columns[:i], replace(columns[i], interval=False), *columns[i + 1 :]]
    return list(columns[:-1])


def by_words(findings: Sequence[Finding]) -> list[tuple[Words, list[Finding]]]:
    """Take what was steered and what was erased apart, with the unsteered rollouts beside; parts have a setting."""
    parts: dict[Words, list[Finding]] = {STEERING: [], ERASING: []}
    for finding in findings:
        for words in parts if finding.role == "unsteered" else [words_of([finding.mode])]:
            parts[words].append(finding)
    return [(words, part) for words, part in parts.items() if settings_of(part, "concept", "shuffled", "data")]


def opening(findings: Sequence[Finding], words: Words) -> str:
    """Say what was judged, in one line; findings are of one kind (`by_words`)."""
    settings = settings_of(findings, "concept")
    windows = max(f.windows for f in findings)
    initial = max(f.initial_conditions for f in findings)
    controls = max(f.controls for f in findings)
    return (
        f"{words.act}: {_count(len(settings), words.setting)}, {_count(windows, 'window')} of "
        f"{_count(initial, 'initial condition')}, {_count(controls, words.control)}."
    )


def notes(findings: Sequence[Finding], words: Words) -> list[str]:
    """Say how to read the tables, and what weakens them, a line each; findings are of one kind (`by_words`)."""
    controls = max((f.controls for f in findings), default=0)
    initial = max((f.initial_conditions for f in findings), default=0)
    lines = [
        f"[…]: 95 % bootstrap interval over initial conditions. Changes are against the {words.reference} rollout."
    ]
    if controls:
        lines.append(f"*: p ≤ 0.05 against {_count(controls, words.control)} {words.alike}.")
        settings = len(settings_of(findings, "concept"))
        if settings > 1:
            lines.append(f"{settings} {words.setting}s were tried: confirm a chosen one on other initial conditions.")
    if any(f.quantity == "movement" for f in findings):
        lines.append(
            "|Δ…|: how far erasing moves a field, RMS in units of its spread; farther than random: it is used."
        )
    if any(f.quantity == "null_movement" for f in findings):
        lines.append("|Δ…|: how far steering moves a field that should stay, RMS in units of its spread.")
    if controls < 19:
        said = f"Only {_count(controls, words.control)}" if controls else f"No {words.control}s"
        lines.append(f"{said}: p ≤ 0.05 needs at least 19 ({words.adds_controls}).")
    if initial < 10:
        lines.append(f"Intervals over {_count(initial, 'initial condition')} are too narrow; take ten or more.")
    if any(f.quantity == "natural_percentile" for f in findings):
        lines.append("natural, residual: percentile of the activation among held-out natural ones; 50 is usual.")
    base = [f for f in findings if f.role == "unsteered"]
    diverged = max((f.value for f in findings if f.quantity == "already_diverged"), default=0.0)
    last = max((f.step for f in base), default=0)
    parts = [
        f"{name} {number_text(f.value, 'percentile' if 'percentile' in quantity else 'size')}"
        for quantity, name in _UNSTEERED.items()
        for f in base
        if f.quantity == quantity and f.step == last
    ]
    if parts:
        lines.append(f"{words.reference.capitalize()} at step {last}: {', '.join(parts)}.")
    if diverged:
        where = _count(int(diverged), "window")
        lines.append(f"In {where} the {words.reference} rollout itself blew up; left out from there on.")
    return lines


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + "s" * (n != 1)
