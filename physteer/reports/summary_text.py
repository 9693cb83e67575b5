"""The summary in sentences and tables for a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from physteer.analyses.steering.initial_condition_rows import InitialConditionRow
from physteer.analyses.steering.summary_rows import FEWEST_FOR_INTERVALS, SummaryRow
from physteer.analyses.steering.table import Series
from physteer.reports.steering_sentences import (
    gain_sentences,
    global_sentences,
    setting_text,
    single_value_table,
    wrapped,
)
from physteer.reports.summary_tables import (
    MOST,
    Column,
    Grid,
    alignment_grid,
    best_settings,
    cell_text,
    column_title,
    controls_shown,
    dose_grid,
    effect_grid,
    movement_grid,
    nearness_grid,
    number_text,
    ranked_settings,
    reported,
    series_text,
    settings_of,
    strength_text,
)
from physteer.reports.terminology import ERASING, STEERING, Terminology, terminology_of
from physteer.reports.text_table import Line, text_table

_WIDTH = 100  # characters of a line
_LABELS = (6, 4)  # characters of strength and step
_UNSTEERED = {
    "tracer_drift": "tracer drift",
    "spectrum_distance": "spectrum distance",
    "natural_percentile": "natural",
    "residual_percentile": "residual",
}


def summary_text(rows: Sequence[SummaryRow], singles: Sequence[InitialConditionRow] = ()) -> str:
    """Return the summary for a terminal, at most 100 columns wide; empty where nothing was steered or erased.

    Args:
        rows: of the run's summary.
        singles: values of initial conditions one by one, shown where they are too few for intervals.
    """
    parts = [(terms, part) for terms, part in by_terminology(rows) if settings_of(part, "concept")]
    return "\n".join(_text_of(part, terms, singles) for terms, part in parts)


def _text_of(rows: Sequence[SummaryRow], terms: Terminology, singles: Sequence[InitialConditionRow]) -> str:
    every, settings = settings_of(rows, "concept"), best_settings(rows)
    lines = [opening(rows, terms)]
    if len(settings) < len(every):
        lines.append(
            f"The {len(settings)} of {len(every)} {terms.setting}s that did most; all are in tables/summary.csv."
        )
    if tests := global_sentences(rows, settings, terms):
        lines += ["", *wrapped(tests)]
    shown = [*settings, *controls_shown(rows, max(MOST - len(settings), 4))]
    series = {setting.series for setting in shown}
    doses = dose_grid([row for row in rows if row.setting.series in series])
    steps = sorted({row.step for row in rows if row.step})
    ends = {steps[0], steps[-1]} if steps else set()
    measured = (alignment_grid, nearness_grid, movement_grid, effect_grid)
    for grid in (*(grid(rows, shown) for grid in measured), doses):
        if grid.rows:
            lines += ["", *_grid_text(grid, ends, terms)]
        if grid.rows and grid.columns[0].quantity == "recovery" and (gains := gain_sentences(rows, settings)):
            lines += ["", *wrapped(gains)]
    lines += _single_values(rows, singles)
    return "\n".join([*lines, "", *notes(rows, terms)]) + "\n"


def _single_values(rows: Sequence[SummaryRow], singles: Sequence[InitialConditionRow]) -> list[str]:
    """Show the setting that did most from each initial condition, where these are too few for intervals."""
    best = ranked_settings(rows)[:1]
    table = single_value_table(singles, best[0]) if best else None
    if table is None or max(row.initial_conditions for row in rows) >= FEWEST_FOR_INTERVALS:
        return []
    title = f"From each initial condition, {setting_text(best[0])}; all are in tables/initial_conditions.csv:"
    return ["", *wrapped([title]), *("  " + line for line in text_table(table.header, table.lines, "<>"))]


def _grid_text(grid: Grid, steps: set[int], terms: Terminology) -> list[str]:
    """Lay a grid out in as many of its columns as fit."""
    columns = list(grid.columns)
    while True:
        lines = _laid_out(grid, columns, steps, terms)
        if max(map(len, lines)) <= _WIDTH or len(columns) == 1:
            return lines
        columns = _fewer(columns)


def _laid_out(grid: Grid, columns: Sequence[Column], steps: set[int], terms: Terminology) -> list[str]:
    """Lay out some columns, settings of one direction, site and mode below a line that names these."""
    rows = [row for row in grid.rows if row[1] in steps]
    has_strengths = terms.has_strengths and any(setting.strength for setting, _ in rows)
    lines: list[Line] = []
    series: Series | None = None
    strength: float | None = None
    for setting, step in rows:
        if setting.series != series:
            series, strength = setting.series, None
            lines.append(f"  {series_text(setting)}")
        label = strength_text(setting.strength) if has_strengths and setting.strength != strength else ""
        strength = setting.strength
        cells = [cell_text(grid.find((setting, step), column), column, column.interval) for column in columns]
        lines.append([label, str(step), *cells])
    header = ["α" if has_strengths else "", "step", *map(column_title, columns)]
    return text_table(header, lines, ">><", _LABELS)


def _fewer(columns: Sequence[Column]) -> list[Column]:
    """Make a table narrower by what a reader misses least: single fields, then intervals, then columns at the end."""
    for i in reversed(range(len(columns))):
        if columns[i].quantity in ("alignment_cosine", "movement") and not columns[i].interval:
            return [*columns[:i], *columns[i + 1 :]]
    for i in reversed(range(1, len(columns))):
        if columns[i].interval:
            return [*columns[:i], replace(columns[i], interval=False), *columns[i + 1 :]]
    return list(columns[:-1])


def by_terminology(rows: Sequence[SummaryRow]) -> list[tuple[Terminology, list[SummaryRow]]]:
    """Take what was steered and what was erased apart, as far as tables show it, with truths and unsteered beside.

    Parts have a setting.
    """
    parts: dict[Terminology, list[SummaryRow]] = {STEERING: [], ERASING: []}
    for row in reported(rows):
        for terms in parts if row.role in ("truth", "unsteered") else [terminology_of([row.mode])]:
            parts[terms].append(row)
    return [(terms, part) for terms, part in parts.items() if settings_of(part, "concept", "shuffled", "data")]


def opening(rows: Sequence[SummaryRow], terms: Terminology) -> str:
    """Say what was judged, in one line; rows are of one kind (`by_terminology`)."""
    settings = settings_of(rows, "concept")
    windows = max(row.windows for row in rows)
    initial_conditions = max(row.initial_conditions for row in rows)
    controls = max(row.controls for row in rows)
    return (
        f"{terms.act}: {_count(len(settings), terms.setting)}, {_count(windows, 'window')} of "
        f"{_count(initial_conditions, 'initial condition')}, {_count(controls, terms.control)}."
    )


def notes(rows: Sequence[SummaryRow], terms: Terminology) -> list[str]:
    """Say how to read the tables, and what weakens them, a line each; rows are of one kind (`by_terminology`)."""
    controls = max((row.controls for row in rows), default=0)
    initial_conditions = max((row.initial_conditions for row in rows), default=0)
    quantities = {row.quantity for row in rows}
    few = initial_conditions < FEWEST_FOR_INTERVALS
    lines = [
        f"Changes are against the {terms.reference} rollout.",
        f"Fewer than {FEWEST_FOR_INTERVALS} initial conditions: single values, no intervals and no stars."
        if few
        else "[…]: 95 % studentised bootstrap interval over initial conditions.",
    ]
    if controls and not few:
        lines.append(f"*: p ≤ 0.05 against {_count(controls, terms.control)} {terms.common}.")
        if {"recovery_overall", "movement_overall"} & quantities:
            lines.append("A cell's star counts only where the one test over all fields and steps has p ≤ 0.05 too.")
    if controls:
        settings = len(settings_of(rows, "concept"))
        if settings > 1:
            lines.append(f"{settings} {terms.setting}s were tried: confirm a chosen one on other initial conditions.")
    if "recovery" in quantities:
        lines.append("recovery: 1 − E‖Δŷ − Δy‖²/E‖Δy‖², Δŷ the change by steering, Δy the true one; 1 is exact.")
    if "wrong_sign" in quantities:
        lines.append("wrong sign: initial conditions in which Σ_fields ⟨Δŷ, Δy⟩/E‖Δy‖² < 0.")
    if "nearness_base" in quantities:
        lines.append(
            "nearness: 1 − E‖ŷ − y(θ′)‖²/E‖ŷ(unsteered) − y(θ′)‖². It counts the model's own error: compare it\n"
            "with that of the base truth y(θ), and of the unsteered output blurred as y(θ′) would be."
        )
        if "nearness_blurred" not in quantities:
            lines.append("No blurred output: the parameter is no viscosity or diffusivity of a periodic flow.")
    if "movement" in quantities and not terms.has_strengths:
        lines.append(
            "|Δ…|: how far erasing moves a field, RMS in units of its spread; farther than random: it is used."
        )
    if "null_movement" in quantities:
        lines.append("|Δ…|: how far steering moves a field that should stay, RMS in units of its spread.")
    if controls < 19:
        how_many = f"Only {_count(controls, terms.control)}" if controls else f"No {terms.control}s"
        lines.append(f"{how_many}: p ≤ 0.05 needs at least 19 ({terms.adds_controls}).")
    if "natural_percentile" in quantities:
        lines.append("natural, residual: percentile of the activation among held-out natural ones; 50 is usual.")
    return [*lines, *_unsteered_notes(rows, terms)]


def _unsteered_notes(rows: Sequence[SummaryRow], terms: Terminology) -> list[str]:
    """Say how good the unsteered rollouts are."""
    unsteered = [row for row in rows if row.role == "unsteered"]
    last = max((row.step for row in unsteered), default=0)
    damage = [
        f"{name} {number_text(row.value, 'percentile' if 'percentile' in quantity else 'size')}"
        for quantity, name in _UNSTEERED.items()
        for row in unsteered
        if row.quantity == quantity and row.step == last
    ]
    lines = [f"{terms.reference.capitalize()} at step {last}: {', '.join(damage)}."] if damage else []
    diverged = max((row.value for row in rows if row.quantity == "already_diverged"), default=0.0)
    if diverged:
        where = _count(int(diverged), "window")
        lines.append(f"In {where} the {terms.reference} rollout itself blew up; left out from there on.")
    return lines


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + "s" * (n != 1)
