"""The figures and text of a run that fitted probes, from its tables and maps."""

from __future__ import annotations

from pathlib import Path

from physteer.analyses.probing.class_table import read_class_table
from physteer.analyses.probing.table import read_probe_tables
from physteer.analyses.probing.trajectory_maps import TrajectoryMaps
from physteer.reports.probe_figures import draw_best_matches, draw_class_probes, draw_lens, draw_r2_map
from physteer.reports.probe_text import class_text, probe_text
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
    """Return what a terminal shows of a run's probes; empty where there are none."""
    rows, classes = read_probe_tables(run_folder)[0], read_class_table(run_folder)
    return "\n".join([*([probe_text(rows)] if rows else []), *([class_text(classes)] if classes else [])])
