"""The files of a comparison: one page, its figures, and a table for every kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from physteer.errors import PhysteerError
from physteer.files import atomic_write, file_name
from physteer.reports.blocks import Block, FileLink, Files, Heading, Section, Table, Text, figure_of
from physteer.reports.comparison.alignment import AlignedRow, AlignedTable, align
from physteer.reports.comparison.estimates import Label
from physteer.reports.comparison.figure import draw_comparison
from physteer.reports.comparison.runs import Run, read_runs
from physteer.reports.comparison.settings import Difference, data_remarks, differences
from physteer.reports.comparison.shown import (
    answer,
    cell,
    first_rows,
    headlines,
    label_text,
    look,
    metric_title,
    metrics_of,
    without_references,
)
from physteer.reports.comparison.text import comparison_text, notes_of
from physteer.reports.templating import page_text
from physteer.run_folder import EXPERIMENT, locked
from physteer.tables import write_columns

PREFIX = "compare_"
_MOST_ROWS = 300
"""Rows of one metric that the page shows, folded; the files have all."""
_MARKS = ("config.yaml", "environment.json", EXPERIMENT)
"""Files that only run folders have."""


@dataclass(frozen=True)
class Written:
    """What a comparison left."""

    page: Path
    text: str
    """For a terminal."""


def compare(folders: Sequence[Path], out: Path) -> Written:
    """Compare runs, and write ``compare.html``, ``figures/compare_*.png`` and ``tables/compare_*`` into a folder.

    Nothing is computed: the numbers are those that the runs have written. What an earlier comparison left in the folder
    is replaced.

    Args:
        folders: of two runs or more.
        out: the folder, which is made if need be.

    Raises:
        PhysteerError: a folder is no run, is named twice or has no tables; no table is in two runs; ``out`` lies in a
            run folder, or cannot be written to.
    """
    runs = read_runs(folders)
    _check_out(folders, out)
    tables, found = align(runs), differences(runs)
    remarks = [*data_remarks(runs, found), *_left_out(runs, tables)]
    with locked(out, "compare"):
        page = _write(runs, tables, found, remarks, out)
    return Written(page, comparison_text(runs, tables, found, remarks))


def _write(
    runs: Sequence[Run], tables: Sequence[AlignedTable], found: Sequence[Difference], remarks: Sequence[str], out: Path
) -> Path:
    """Write the page, figures and tables in place of earlier ones; return the page's path."""
    for path in [*out.glob(f"figures/{PREFIX}*.png"), *out.glob(f"tables/{PREFIX}*.*")]:
        path.unlink()
    sections = [Section("Answer", list(_answer(runs, tables, found, remarks)))]
    for table in tables:
        figure = draw_comparison(table, out / "figures" / f"{PREFIX}{file_name(table.name)}.png")
        write_columns(out / "tables" / f"{PREFIX}{file_name(table.name)}", _columns(table))
        sections.append(Section(table.name.replace("_", " "), [figure_of(figure), *_blocks(table)]))
    title = "Comparison of " + ", ".join(run.name for run in runs)
    page = out / "compare.html"
    with atomic_write(page) as temporary:
        temporary.write_text(page_text(title, [f"{run.folder}" for run in runs], sections), encoding="utf-8")
    return page


def _check_out(folders: Sequence[Path], out: Path) -> None:
    """Refuse a folder that is, or lies in, a run folder."""
    given = {folder.resolve() for folder in folders}
    for place in (out.resolve(), *out.resolve().parents):
        if place in given or any((place / mark).exists() for mark in _MARKS):
            raise PhysteerError(
                f"{out} lies in the run folder {place}, which stays as its run left it; set another --out"
            )


def _left_out(runs: Sequence[Run], tables: Sequence[AlignedTable]) -> list[str]:
    """Say which tables only one run has."""
    shared = {table.name for table in tables}
    alone = [f"{name} ({run.name})" for run in runs for name in run.tables if name not in shared]
    return [f"In one run alone, and not compared: {', '.join(alone)}."] if alone else []


def _answer(
    runs: Sequence[Run], tables: Sequence[AlignedTable], found: Sequence[Difference], remarks: Sequence[str]
) -> Iterator[Block]:
    yield from map(Text, [*map(answer, tables), *remarks])
    yield Heading("Settings that differ")
    if found:
        yield Table(["setting", *(run.name for run in runs)], [[row.setting, *row.values] for row in found])
    else:
        yield Text("None: the merged configurations agree.")
    yield from map(Text, notes_of(tables))


def _blocks(table: AlignedTable) -> Iterator[Block]:
    for metric in headlines(table):
        rows = first_rows(table, metric)
        yield Heading(metric_title(metric) + (f": {common}" if (common := look(table, rows).common) else ""))
        yield _table(table, rows[:_MOST_ROWS])
    for metric in metrics_of(table):
        every = [row for row in table.rows if row.metric == metric]
        rows = without_references(table, every) or every
        if len(every) > len(first_rows(table, metric)) or metric not in headlines(table):
            part = f"{min(len(rows), _MOST_ROWS)} of {len(every)} rows; the file has all"
            yield _table(table, rows[:_MOST_ROWS], f"{metric_title(metric)}, {part}")
    name = f"tables/{PREFIX}{file_name(table.name)}"
    yield Files([FileLink(f"{name}.parquet"), FileLink(f"{name}.csv")])


def _table(table: AlignedTable, rows: Sequence[AlignedRow], summary: str = "") -> Table:
    kept = look(table, rows)
    header = [*(column.replace("_", " ") for column in kept.columns), *table.runs]
    cells = [
        [
            *(label_text(table.label(row, column)) for column in kept.columns),
            *(cell(estimate).replace(" [", "\n[") for estimate in row.estimates),
        ]
        for row in kept.rows
    ]
    return Table(header, cells, summary)


def _columns(table: AlignedTable) -> dict[str, list[Label | None]]:
    """Return the columns of the file: metric, labels, then value, interval and initial conditions of each run."""
    columns: dict[str, list[Label | None]] = {"metric": [row.metric for row in table.rows]}
    for column in table.columns:
        labels = [table.label(row, column) for row in table.rows]
        texts = any(isinstance(label, str) for label in labels)
        columns["label metric" if column == "metric" else column] = [str(x) if texts else x for x in labels]
    for i, run in enumerate(table.runs):
        own = [row.estimates[i] for row in table.rows]
        columns[run] = [None if estimate is None else estimate.value for estimate in own]
        columns[f"{run} low"] = [None if estimate is None else estimate.low for estimate in own]
        columns[f"{run} high"] = [None if estimate is None else estimate.high for estimate in own]
        columns[f"{run} initial conditions"] = [
            None if estimate is None else estimate.initial_conditions for estimate in own
        ]
        if any(estimate is not None and estimate.p == estimate.p for estimate in own):
            columns[f"{run} p"] = [None if estimate is None else estimate.p for estimate in own]
    return columns
