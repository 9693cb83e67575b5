"""A comparison of runs for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from physteer.reports.comparison.alignment import AlignedTable
from physteer.reports.comparison.runs import Run
from physteer.reports.comparison.settings import Difference, short
from physteer.reports.comparison.shown import (
    answer,
    cell,
    first_rows,
    has_stars,
    headlines,
    judged,
    label_text,
    look,
    metric_title,
    names_runs,
)
from physteer.reports.text_table import text_table

_MOST_ROWS, _MOST_SETTINGS = 24, 12


def comparison_text(
    runs: Sequence[Run], tables: Sequence[AlignedTable], found: Sequence[Difference], remarks: Sequence[str]
) -> str:
    """Lay a comparison out for reading: the answers, what differs, and the main metrics of each table.

    Args:
        runs: that are compared.
        tables: theirs, aligned.
        found: the settings in which they differ.
        remarks: about their data, and what cannot be compared.
    """
    tested = [table for table in tables if not _is_selection(table, tables)]
    lines = [*map(answer, tested), *remarks, "", "settings that differ"]
    shown = [[row.setting, *map(short, row.values)] for row in found[:_MOST_SETTINGS]]
    lines += text_table(["", *(run.name for run in runs)], shown) if shown else ["none"]
    lines += [f"and {len(found) - _MOST_SETTINGS} more on the page"] if len(found) > _MOST_SETTINGS else []
    for table in tested:
        for metric in headlines(table):
            lines += ["", *_metric_lines(table, metric)]
    notes = notes_of(tested)
    if len(tested) < len(tables):
        notes.append("Tables of valid, on which settings are chosen, are on the page beside those of test.")
    return "\n".join([*lines, "", *notes])


def _is_selection(table: AlignedTable, tables: Sequence[AlignedTable]) -> bool:
    """Whether a table is of valid, and the same of test is there."""
    return table.name.endswith("_valid") and f"{table.name.removesuffix('valid')}test" in {t.name for t in tables}


def _metric_lines(table: AlignedTable, metric: str) -> list[str]:
    rows = first_rows(table, metric)
    if len(rows) > _MOST_ROWS:
        rows = judged(table, rows) or rows
    most = sorted(rows, key=lambda row: -row.n_runs)[:_MOST_ROWS]
    kept = look(table, [row for row in rows if any(row is other for other in most)])
    title = f"{metric_title(metric)}, tables/{table.name}" + (f": {kept.common}" if kept.common else "")
    lines = [
        [*(label_text(table.label(row, column)) for column in kept.columns), *map(cell, row.estimates)]
        for row in kept.rows
    ]
    left_out = len(rows) - len(kept.rows)
    more = [f"and {left_out} more on the page"] if left_out else []
    header = [*(column.replace("_", " ") for column in kept.columns), *table.runs]
    return [title, *text_table(header, lines), *more]


def notes_of(tables: Sequence[AlignedTable]) -> list[str]:
    """Return what cells mean, as far as there are such."""
    rows = [row for table in tables for row in table.rows]
    notes = [
        "Brackets: 95 % intervals over initial conditions, of each run by itself. They are no paired test of the "
        "difference between runs."
    ]
    if has_stars(rows):
        notes.append("*: p ≤ 0.05 against the random controls of the same run.")
    if names_runs(rows):
        notes.append("Labels with / between: the runs differ in them as a whole; they are in the order of the runs.")
    return notes
