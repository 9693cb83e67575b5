"""The figures and text of a search for rotated interventions, from its tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from physteer.analyses.das.table import best_learned, read_interchange_table
from physteer.files import file_name
from physteer.reports.blocks import Block, Heading, Table, Text
from physteer.reports.interchange_figures import draw_class_accuracy_map, draw_field_bars, draw_recovery_map
from physteer.reports.interchange_text import interchange_tables, interchange_text, parameters_of

SPLITS = ("test", "valid")
"""That tables may be of, what is reported first."""


def report_search(run_folder: Path, split: str) -> None:
    """Draw ``figures/recovery_<split>.png`` and those beside it from ``tables/interchange_<split>``, if there is one.

    The site and rank whose fields are drawn are those that did best on ``valid``, where there is a table of it.

    Raises:
        PhysteerError: a table is broken.
    """
    rows = read_interchange_table(run_folder, split)
    if not rows:
        return
    figures, variables = run_folder / "figures", rows[0].variables
    draw_recovery_map(rows, variables, figures / f"recovery_{split}.png")
    for parameter in parameters_of(rows):
        draw_class_accuracy_map(rows, parameter, figures / f"class_accuracy_{file_name(parameter)}_{split}.png")
    valid = read_interchange_table(run_folder, "valid") if split != "valid" else []
    selected = best_learned(valid) if any(row.kind == "learned" for row in valid) else None
    draw_field_bars(rows, variables, figures / f"recovery_fields_{split}.png", selected)


def search_text(run_folder: Path, split: str) -> str:
    """Return what a terminal shows of ``tables/interchange_<split>``; empty where there is none."""
    rows = read_interchange_table(run_folder, split)
    return interchange_text(rows, rows[0].variables, split) if rows else ""


def search_blocks(run_folder: Path) -> Iterator[Block]:
    """Yield what a terminal shows of a run folder's searches, for its page."""
    for split in SPLITS:
        rows = read_interchange_table(run_folder, split)
        for table in interchange_tables(rows, rows[0].variables, split) if rows else []:
            yield Heading(table.title[:1].upper() + table.title[1:])
            yield Table(table.header, table.lines)
            if table.note:
                yield Text(table.note)
