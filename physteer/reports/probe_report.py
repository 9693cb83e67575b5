"""The figures and text of a run that fitted probes, from its tables and maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from physteer.analyses.probing.class_table import read_class_table
from physteer.analyses.probing.table import read_probe_tables
from physteer.analyses.probing.trajectory_maps import TrajectoryMaps
from physteer.reports.blocks import Block, Heading, Table, Text
from physteer.reports.probe_answer import class_answer, probe_answer, probe_remarks
from physteer.reports.probe_choice import resolutions
from physteer.reports.probe_figures import draw_best_matches, draw_class_probes, draw_lens, draw_r2_map
from physteer.reports.probe_text import (
    CLASS_TITLE,
    HOW,
    chosen_table,
    chosen_title,
    class_table,
    class_text,
    full_table,
    probe_text,
    table_notes,
)
from physteer.reports.probe_trajectories import draw_token_maps, draw_traces


def report_probes(run_folder: Path) -> None:
    """Draw ``figures/probe_*.png`` from what there is: without targets no R², without full simulations no lens.

    Raises:
        PhysteerError: a table or map is broken.
    """
    rows, lens = read_probe_tables(run_folder)
    classes, folder = read_class_table(run_folder), run_folder / "figures"
    for resolution in ("token", "pooled"):
        if any(row.resolution == resolution for row in rows):
            draw_r2_map(rows, resolution, folder / f"probe_r2_{resolution}.png")
    if any(row.data == "full" for row in rows):
        draw_best_matches(rows, folder / "probe_best_match.png")
    if lens:
        draw_lens(lens, folder / "probe_lens.png")
    if classes:
        draw_class_probes(classes, folder / "probe_classes.png")
    for path in sorted((run_folder / "maps").glob("full_*.safetensors")):
        maps = TrajectoryMaps.load(path)
        draw_traces(maps, folder / f"probe_traces_{maps.name}.png")
        draw_token_maps(maps, maps.targets[0], folder / f"probe_maps_{maps.name}.png")


def probes_text(run_folder: Path) -> str:
    """Return what a terminal shows of a run's probes, the answers first; empty where there are none."""
    rows, classes = read_probe_tables(run_folder)[0], read_class_table(run_folder)
    texts = [probe_answer(rows)] if rows else []
    texts += [class_answer(classes)] if classes else []
    for resolution in resolutions(rows):
        texts += [probe_text(rows, resolution), *probe_remarks(rows, resolution)]
    texts += [*table_notes(rows)] if rows else []
    texts += [class_text(classes)] if classes else []
    return "\n".join(texts)


def probe_blocks(run_folder: Path) -> Iterator[Block]:
    """Yield what the page says of a run's probes before their figures: answers, then the terminal's tables.

    R² of all sites is folded below.
    """
    rows, classes = read_probe_tables(run_folder)[0], read_class_table(run_folder)
    if rows:
        yield Text(probe_answer(rows))
    if classes:
        yield Text(class_answer(classes))
    for resolution in resolutions(rows):
        yield Heading(chosen_title(rows, resolution))
        yield Table(*chosen_table(rows, resolution))
        yield from map(Text, probe_remarks(rows, resolution))
        header, lines = full_table(rows, resolution)
        yield Table(header, lines, f"R² {HOW[resolution]}, all sites ({len(lines)} rows)")
    if rows:
        yield from map(Text, table_notes(rows))
    if classes:
        yield Heading(CLASS_TITLE)
        yield Table(*class_table(classes))
