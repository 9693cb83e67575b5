"""Rows about one initial condition each: what steering does from it by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from physteer.analyses.steering.table import Setting
from physteer.tables import read_rows, write_rows

_NAME = "initial_conditions"


@dataclass(frozen=True)
class InitialConditionRow:
    """One number about one setting from one initial condition."""

    direction: str
    site: str
    mode: str
    strength: float
    """α, signed."""
    role: str
    """As of a `MetricRow`; random directions are left out."""
    quantity: str
    """``recovery`` and ``alignment_cosine`` (mean over fields), ``enstrophy`` and ``enstrophy_truth`` as in a
    `SummaryRow`; ``agreement``, Σ_fields ⟨Δŷ, Δy⟩/E‖Δy‖²: below 0 the change goes the wrong way."""
    step: int
    initial_condition: str
    """By name, as in the table of metrics."""
    value: float
    """Over its windows."""

    @property
    def setting(self) -> Setting:
        """What was done to the model, and as what it is judged."""
        return Setting(self.role, self.direction, self.site, self.mode, self.strength)


def write_single_values(run_folder: Path, rows: Sequence[InitialConditionRow]) -> Path:
    """Write ``tables/initial_conditions.parquet`` and ``.csv``; return the first."""
    return write_rows(run_folder / "tables" / _NAME, InitialConditionRow, rows)


def read_single_values(run_folder: Path) -> list[InitialConditionRow]:
    """Read what `write_single_values` wrote; nothing where there is none."""
    return read_rows(run_folder / "tables" / _NAME, InitialConditionRow)
