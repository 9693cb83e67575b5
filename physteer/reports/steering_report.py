"""The figures and texts of a steered run, from its tables and rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from physteer.analyses.steering.spectrum_rows import read_spectra
from physteer.analyses.steering.summary_rows import SummaryRow, read_summary
from physteer.analyses.steering.table import Series
from physteer.files import file_name
from physteer.reports.dose_response import draw_dose_response
from physteer.reports.field_slices import shown_fields
from physteer.reports.heat_map import draw_heat_map
from physteer.reports.over_steps import draw_alignment, draw_erasures, draw_over_time, draw_recovery
from physteer.reports.panels import draw_panels
from physteer.reports.rollouts import WindowRollouts, read_rollouts, rollout_files
from physteer.reports.selection import MOST_SERIES, series_name, spread
from physteer.reports.spectra import draw_spectra
from physteer.reports.summary_index import SummaryIndex
from physteer.reports.summary_tables import ranked_settings
from physteer.reports.summary_text import by_terminology
from physteer.reports.terminology import terminology_of

_OWN_FIGURES = (
    *("dose_response_*.png", "over_time_*.png", "spectra_*.png", "panels_*.png"),
    *("controls_*.png", "alignment_*.png", "change_recovery_*.png", "heat_map_*.png", "erasures.png"),
)


def report_steering(run_folder: Path, n_windows: int) -> None:
    """Draw ``figures/`` from the summary, the spectra and the rollouts of a run, those that there are.

    Earlier figures of these names are removed.

    Args:
        run_folder: of a run of ``predict``.
        n_windows: windows whose fields are drawn, spread over the files they are from.

    Raises:
        PhysteerError: a table or rollout is broken.
    """
    figures = run_folder / "figures"
    for path in [path for pattern in _OWN_FIGURES for path in figures.glob(pattern)]:
        path.unlink()
    rows, spectra = read_summary(run_folder), read_spectra(run_folder)
    windows = read_rollouts(run_folder) if rollout_files(run_folder) else []
    if not rows and not windows:
        return
    index = SummaryIndex(rows)
    _draw_studies(rows, index, figures)
    all_series = _series(rows, index, windows)
    examples = spread(windows, n_windows) if windows else []
    with tqdm(total=len(all_series) * (2 + len(examples)), desc="figures", disable=None) as bar:
        for series in all_series:
            name = series_name(series)
            role = "concept" if index.on_curve(series) else "data"
            if terminology_of([series.mode]).has_strengths:
                draw_dose_response(index, series, figures / f"dose_response_{name}.png", role)
            draw_over_time(index, series, figures / f"over_time_{name}.png", role)
            draw_spectra(spectra, series, figures / f"spectra_{name}.png")
            bar.update(2)
            for number, window in enumerate(examples, 1):
                for field in shown_fields(window.rollouts[0]):
                    place = f"{number:02d}_{field.name}_{window.split}_{window.window}"
                    draw_panels(window, series, field, figures / f"panels_{name}_{place}.png")
                bar.update()


def _draw_studies(rows: Sequence[SummaryRow], index: SummaryIndex, figures: Path) -> None:
    """Draw recovery, alignment, erasures and heat maps of the series that did most."""
    for terms, part in by_terminology(rows):
        best = list(dict.fromkeys(setting.series for setting in ranked_settings(part)))[:MOST_SERIES]
        if not terms.has_strengths:
            draw_erasures(index, best, figures / "erasures.png")
            continue
        for series in best:
            draw_recovery(index, series, figures / f"change_recovery_{series_name(series)}.png")
            draw_alignment(index, series, figures / f"alignment_{series_name(series)}.png")
    for direction in dict.fromkeys(setting.direction for setting in index.of_role("concept")):
        draw_heat_map(rows, direction, figures / f"heat_map_{file_name(direction)}.png")


def _series(rows: Sequence[SummaryRow], index: SummaryIndex, windows: Sequence[WindowRollouts]) -> list[Series]:
    """Return which series have pictures: the concepts that did most, interpolated data, or the model as it is."""
    best = [setting.series for _, part in by_terminology(rows) for setting in ranked_settings(part)]
    data = [setting.series for setting in index.of_role("data")]
    written = [series for window in windows for series in window.series]
    return list(dict.fromkeys([*best, *data, *written]))[:MOST_SERIES] or [Series()]
