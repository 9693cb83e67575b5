"""Energy spectra of rollouts as rows, and their file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from physteer.tables import read_rows, write_rows


@dataclass(frozen=True, slots=True)
class SpectrumRow:
    """The energy of one shell of wavenumbers."""

    condition: str
    """Who it is of, as in a `MetricRow`."""
    role: str
    direction: str
    strength: float
    mode: str
    site: str
    step: int
    """1 for the first predicted frame; there is the first, the middle and the last."""
    wavenumber: int
    """k, periods per domain; up to the last shell that the shortest axis holds completely."""
    energy: float
    """E(k), mean over windows; Σ E(k) over all shells is ½⟨u²⟩."""
    windows: int
    """Whose frame is finite."""


def mean_spectra(rows: Iterable[SpectrumRow]) -> list[SpectrumRow]:
    """Average rows over windows, each weighed by its windows."""
    sums: dict[SpectrumRow, tuple[float, int]] = {}
    for row in rows:
        key = replace(row, energy=0.0, windows=0)
        total, windows = sums.get(key, (0.0, 0))
        sums[key] = (total + row.energy * row.windows, windows + row.windows)
    return [replace(key, energy=total / windows, windows=windows) for key, (total, windows) in sums.items()]


def write_spectra(run_folder: Path, rows: Sequence[SpectrumRow]) -> Path:
    """Write ``tables/spectra.parquet`` and ``.csv``; return the first."""
    return write_rows(run_folder / "tables" / "spectra", SpectrumRow, rows)


def read_spectra(run_folder: Path) -> list[SpectrumRow]:
    """Read what `write_spectra` wrote; nothing where there is none."""
    return read_rows(run_folder / "tables" / "spectra", SpectrumRow)


def write_spectra_part(run_folder: Path, window: str, rows: Sequence[SpectrumRow]) -> None:
    """Write one window's rows as ``tables/spectra_parts/<window>``, to be averaged by `merge_spectra`."""
    write_rows(_part(run_folder, window), SpectrumRow, rows)


def merge_spectra(run_folder: Path, windows: Iterable[str]) -> None:
    """Average the parts of some windows as `write_spectra` writes them; nothing is written where there are none."""
    rows = mean_spectra(row for window in windows for row in read_rows(_part(run_folder, window), SpectrumRow))
    if rows:
        write_spectra(run_folder, rows)


def _part(run_folder: Path, window: str) -> Path:
    return run_folder / "tables" / "spectra_parts" / window
