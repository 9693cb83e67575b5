"""The table of class probes: their accuracy, by place and parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from physteer.analyses.probing.table import Control
from physteer.tables import read_rows, write_rows


@dataclass(frozen=True)
class ClassScore:
    """One class probe's accuracy on one data set."""

    site: str
    """Empty for controls that read the input."""
    parameter: str
    """The parameter whose values are the classes."""
    data: str
    """As in `ProbeScore`."""
    control: Control
    alpha: float
    """The penalty with the smallest cross-entropy on validation windows."""
    accuracy: float
    """Share of frames whose class is predicted correctly, from the mean over the frame's tokens."""
    low: float
    """Lower end of the 95 % interval over initial conditions."""
    high: float
    chance: float
    """Share of the most frequent class."""
    initial_conditions: int


def write_class_table(run_folder: Path, rows: Sequence[ClassScore]) -> None:
    """Write ``tables/class_probes.parquet`` and ``.csv``."""
    write_rows(run_folder / "tables" / "class_probes", ClassScore, rows)


def read_class_table(run_folder: Path) -> list[ClassScore]:
    """Read what `write_class_table` wrote; nothing where there is none."""
    return read_rows(run_folder / "tables" / "class_probes", ClassScore)
