"""Everything that is made from a finished run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, fields, replace
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from physteer.analyses.steering.summary import summarise
from physteer.analyses.steering.summary_rows import write_summary
from physteer.analyses.steering.table import read_metrics
from physteer.concepts import Concept
from physteer.errors import PhysteerError
from physteer.files import atomic_write
from physteer.reports.concept_maps import draw_concept
from physteer.reports.control_doses import draw_controlled_dose_response
from physteer.reports.control_steps import draw_alignment, draw_erasures
from physteer.reports.curves import draw_dose_response, draw_over_time
from physteer.reports.diagnostics import Diagnostic, diagnose, write_table
from physteer.reports.effects import Effect, effects
from physteer.reports.field_slices import shown_fields
from physteer.reports.heat_map import draw_heat_map
from physteer.reports.html import concept_files, write_report
from physteer.reports.panels import draw_panels
from physteer.reports.rollouts import (
    Series,
    WindowRollouts,
    WrittenRollout,
    read_rollouts,
    rollout_files,
)
from physteer.reports.selection import MOST_SERIES, file_name, spread
from physteer.reports.spectra import draw_spectra
from physteer.reports.summary_tables import ranked_settings, settings_of
from physteer.reports.summary_text import by_words, summary_text
from physteer.reports.terminology import words_of
from physteer.tables import write_csv

OWN_FIGURES = (
    *("dose_response_*.png", "over_time_*.png", "spectra_*.png", "panels_*.png", "concept_*.png"),
    *("controls_*.png", "alignment_*.png", "heat_map_*.png", "erasures.png"),
)


def report(run_folder: Path | str, n_windows: int = 4) -> Path:
    """Make ``tables/``, ``figures/`` and ``report.html`` from what a run folder holds.

    Args:
        run_folder: with rollouts, a table of metrics, concepts, videos, or only a configuration; what is missing is
            left out.
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
    stale = [path for pattern in OWN_FIGURES for path in figures.glob(pattern)]
    for path in stale:
        path.unlink()
    for path in concept_files(run_folder):
        draw_concept(Concept.load(path), path.stem, figures / f"concept_{path.stem}.png")
    table = read_metrics(run_folder)
    if rollout_files(run_folder):
        windows = read_rollouts(run_folder)
        if table is not None:  # which has the controls already, many as they are
            known = table.drop_duplicates("condition")
            roles = dict(zip(known["condition"], known["role"], strict=True))
            windows = [replace(window, rollouts=tuple(_no_controls(window, roles))) for window in windows]
        rows = _write_tables(windows, run_folder / "tables")
        _draw(windows, rows, figures, n_windows)
    if table is not None:
        _judge(table, run_folder)
    return write_report(run_folder)


def _write_tables(windows: Sequence[WindowRollouts], folder: Path) -> list[Diagnostic]:
    rows = [row for window in tqdm(windows, "diagnostics", unit="window", disable=None) for row in diagnose(window)]
    write_table(folder / "diagnostics.csv", rows)
    table = effects(rows)
    if table:
        write_csv(folder / "effects.csv", [field.name for field in fields(Effect)], map(astuple, table))
    return rows


def _judge(table: pd.DataFrame, run_folder: Path) -> None:
    """Summarise the table of metrics, as ``summary.csv``, ``summary.txt`` and figures."""
    findings = summarise(table)
    write_summary(run_folder, findings)
    with atomic_write(run_folder / "tables" / "summary.txt") as temporary:
        temporary.write_text(summary_text(findings), encoding="utf-8")
    figures = run_folder / "figures"
    for words, part in by_words(findings):
        ranked = dict.fromkeys(setting[:3] for setting in ranked_settings(part))
        best = [Series(direction, mode, site) for direction, site, mode in ranked][:MOST_SERIES]
        if not words.doses:
            draw_erasures(table, best, figures / "erasures.png")
            continue
        for series in best:
            draw_controlled_dose_response(table, series, figures / f"controls_{file_name(str(series))}.png")
            draw_alignment(table, series, figures / f"alignment_{file_name(str(series))}.png")
    for direction in dict.fromkeys(setting[0] for setting in settings_of(findings, "concept")):
        draw_heat_map(findings, direction, figures / f"heat_map_{file_name(direction)}.png")


def summary_of(run_folder: Path | str) -> str:
    """Return the plain-text summary that `report` made, at most 100 columns wide; empty where the run has none."""
    path = Path(run_folder) / "tables" / "summary.txt"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _no_controls(window: WindowRollouts, roles: Mapping[str, str]) -> Iterator[WrittenRollout]:
    """Yield the rollouts that are neither along random directions nor along shuffled concepts; roles by condition."""
    for rollout in window.rollouts:
        role = roles.get(rollout.condition, rollout.role)
        if role not in ("random", "shuffled"):
            yield replace(rollout, role=role)


def _draw(windows: Sequence[WindowRollouts], rows: Sequence[Diagnostic], folder: Path, n_windows: int) -> None:
    series = list(dict.fromkeys(one for window in windows for one in window.series))[:MOST_SERIES] or [Series()]
    chosen = spread(windows, n_windows)
    with tqdm(total=len(series) * (3 + len(chosen)), desc="figures", disable=None) as bar:
        for one in series:
            if words_of([one.mode]).doses:
                draw_dose_response(rows, one, folder / f"dose_response_{file_name(str(one))}.png")
            draw_over_time(rows, one, folder / f"over_time_{file_name(str(one))}.png")
            draw_spectra(windows, one, folder / f"spectra_{file_name(str(one))}.png")
            bar.update(3)
            for number, window in enumerate(chosen, 1):
                for field in shown_fields(window.rollouts[0]):
                    name = f"panels_{file_name(str(one))}_{number:02d}_{field.name}_{window.split}_{window.window}.png"
                    draw_panels(window, one, field, folder / name)
                bar.update()
