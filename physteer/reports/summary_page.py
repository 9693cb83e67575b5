"""The summary on the page: its tables with all intervals, and what is folded below them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from physteer.analyses.steering.initial_condition_rows import InitialConditionRow
from physteer.analyses.steering.summary_rows import SummaryRow
from physteer.analyses.steering.table import Setting
from physteer.reports.blocks import Block, Heading, Table, Text
from physteer.reports.steering_sentences import gain_sentences, global_sentences, setting_text, single_value_table
from physteer.reports.summary_tables import (
    Grid,
    alignment_grid,
    best_settings,
    cell_text,
    column_title,
    controls_shown,
    details_grid,
    dose_grid,
    effect_grid,
    movement_grid,
    nearness_grid,
    reported,
    series_text,
    settings_of,
    strength_text,
    value_grid,
)
from physteer.reports.summary_text import by_terminology, notes, opening
from physteer.reports.terminology import STEERING, Terminology

_SETTINGS, _CONTROLS = 6, 4  # shown at once


def summary_blocks(rows: Sequence[SummaryRow], singles: Sequence[InitialConditionRow] = ()) -> Iterator[Block]:
    """Yield what the settings did: recovery, effects, dose–response; per field and initial condition below folds.

    Of a run in which nothing was steered, the metrics of the model as it is.

    Args:
        rows: of the run's summary.
        singles: values of initial conditions one by one.
    """
    parts = by_terminology(rows)
    for terms, part in parts:
        yield from _judgement(part, terms)
        for setting in best_settings(part, _SETTINGS):
            if table := single_value_table(singles, setting):
                yield Table(table.header, table.lines, f"From each initial condition: {setting_text(setting)}")
    if not parts and rows:
        yield from _tables([value_grid(reported(rows), [])], STEERING)


def _judgement(rows: Sequence[SummaryRow], terms: Terminology) -> Iterator[Block]:
    """Yield what is said of the settings of one kind."""
    settings = [*settings_of(rows, "concept"), *settings_of(rows, "shuffled", "data", "blurred")]
    yield Text(" ".join([opening(rows, terms), *notes(rows, terms)]))
    if tests := global_sentences(rows, best_settings(rows, _SETTINGS), terms):
        yield Text(" ".join(tests))
    if gains := gain_sentences(rows, best_settings(rows, _SETTINGS)):
        yield Text(" ".join(gains))
    best = [*best_settings(rows, _SETTINGS), *controls_shown(rows, _CONTROLS)]
    measured = (alignment_grid, nearness_grid, movement_grid, effect_grid)
    folded = [details_grid(rows, settings)]
    if len(best) < len(settings):
        folded = [*(grid(rows, settings) for grid in measured), *folded]
        yield Text(f"The {terms.setting}s that did most, and controls; all {len(settings)} are folded below.")
    yield from _tables([*(grid(rows, best) for grid in measured), dose_grid(rows), value_grid(rows, best)], terms)
    for grid in folded:
        if grid.rows:
            yield _table(grid, terms, f"{grid.title}, all {terms.setting}s")


def _tables(grids: Sequence[Grid], terms: Terminology) -> Iterator[Block]:
    for grid in grids:
        if grid.rows:
            yield Heading(grid.title)
            yield _table(grid, terms)


def _table(grid: Grid, terms: Terminology, summary: str = "") -> Table:
    has_strengths = terms.has_strengths and any(setting.role not in ("truth", "unsteered") for setting, _ in grid.rows)
    header = ["", *(["α"] if has_strengths else []), "step", *map(column_title, grid.columns)]
    rows: list[list[str]] = []
    previous: Setting | None = None
    for setting, step in grid.rows:
        cells = [cell_text(grid.find((setting, step), column), column, interval=True) for column in grid.columns]
        labels = [_name(setting, terms), *([_strength(setting)] if has_strengths else [])]
        labels = ["" for _ in labels] if setting == previous else labels
        previous = setting
        rows.append([*labels, str(step), *map(_on_two_lines, cells)])
    return Table(header, rows, summary)


def _name(setting: Setting, terms: Terminology) -> str:
    return terms.reference if setting.role == "unsteered" else series_text(setting)


def _strength(setting: Setting) -> str:
    if setting.role in ("truth", "unsteered"):
        return ""
    return strength_text(setting.strength) if setting.strength else "all"


def _on_two_lines(cell: str) -> str:
    """Put the interval on a line of its own, and the star before it."""
    value, bracket, interval = cell.partition(" [")
    star = "*" if interval.endswith("*") else ""
    return value + star + ("\n[" + interval.removesuffix("*") if bracket else "")
