"""Everything that is made from a finished run folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from tqdm import tqdm

from physteer.concepts import Concept
from physteer.errors import PhysteerError
from physteer.reports.concept_maps import draw_concept
from physteer.reports.curves import draw_dose_response, draw_over_time
from physteer.reports.diagnostics import Diagnostic, diagnose, write_csv, write_table
from physteer.reports.effects import Effect, effects
from physteer.reports.html import concept_files, write_report
from physteer.reports.panels import draw_panels
from physteer.reports.planes import shown_fields
from physteer.reports.rollouts import Series, WindowRollouts, read_rollouts, rollout_files

OWN_FIGURES = ("dose_response_*.png", "over_time_*.png", "panels_*.png", "concept_*.png")
MOST_SERIES = 4  # with figures of their own; all are in the tables


def report(run_folder: Path | str, n_windows: int = 4) -> Path:
    """Make ``tables/``, ``figures/`` and ``report.html`` from what a run folder holds.

    Args:
        run_folder: with rollouts, concepts, or only a configuration; what is missing is left out.
        n_windows: windows whose fields are drawn, spread over the files they are from.

    Returns:
        The path of ``report.html``.

    Raises:
        PhysteerError: there is no such folder, a rollout or concept in it is broken, or it cannot be written to.
    """
    run_folder = Path(run_folder)
    if not run_folder.is_dir():
        raise PhysteerError(f"no run folder {run_folder}")
    figures = run_folder / "figures"
    for pattern in OWN_FIGURES:
        for stale in figures.glob(pattern):
            stale.unlink()
    for path in concept_files(run_folder):
        draw_concept(Concept.load(path), path.stem, figures / f"concept_{path.stem}.png")
    if rollout_files(run_folder):
        windows = read_rollouts(run_folder)
        rows = _write_tables(windows, run_folder / "tables")
        _draw(windows, rows, figures, n_windows)
    return write_report(run_folder)


def _write_tables(windows: Sequence[WindowRollouts], folder: Path) -> list[Diagnostic]:
    rows = [row for window in tqdm(windows, "diagnostics", unit="window", disable=None) for row in diagnose(window)]
    write_table(folder / "diagnostics.csv", rows)
    table = effects(rows)
    if table:
        write_csv(folder / "effects.csv", [field.name for field in fields(Effect)], map(astuple, table))
    return rows


def _draw(windows: Sequence[WindowRollouts], rows: Sequence[Diagnostic], folder: Path, n_windows: int) -> None:
    series = list(dict.fromkeys(one for window in windows for one in window.series))[:MOST_SERIES] or [Series()]
    chosen = spread(windows, n_windows)
    with tqdm(total=len(series) * (2 + len(chosen)), desc="figures", disable=None) as bar:
        for one in series:
            draw_dose_response(rows, one, folder / f"dose_response_{_slug(str(one))}.png")
            draw_over_time(rows, one, folder / f"over_time_{_slug(str(one))}.png")
            bar.update(2)
            for number, window in enumerate(chosen, 1):
                for field in shown_fields(window.rollouts[0]):
                    name = f"panels_{_slug(str(one))}_{number:02d}_{field.name}_{window.split}_{window.window}.png"
                    draw_panels(window, one, field, folder / name)
                bar.update()


def spread(windows: Sequence[WindowRollouts], count: int) -> list[WindowRollouts]:
    """Choose windows evenly over files (one per set of parameters) and over their trajectories."""
    by_file: dict[tuple[str, str], list[WindowRollouts]] = {}
    for window in windows:
        by_file.setdefault((window.split, window.rollouts[0].source[0]), []).append(window)
    groups = list(by_file.values())
    if len(groups) >= count:
        last = max(count - 1, 1)
        groups = [groups[round(i * (len(groups) - 1) / last)] for i in range(count)]
        return [group[i % len(group)] for i, group in enumerate(groups)]
    rounds = max(map(len, groups))
    return [group[i] for i in range(rounds) for group in groups if i < len(group)][:count]


def _slug(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text).strip("_") or "all"
