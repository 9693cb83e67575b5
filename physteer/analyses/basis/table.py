"""The tables of a run that extracts causal bases: ablation curves, and the comparison with other subspaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from physteer.tables import read_rows, write_rows

CAUSAL, PCA, DIRECTION, RANDOM, FULL, MODEL = "causal", "pca", "direction", "random", "full", "model"
"""Methods of the comparison. ``full`` is the whole activation; ``model`` holds the ceiling of nearness: its value if
edits added nothing to the model's error."""


@dataclass(frozen=True)
class BasisCurveRow:
    """One direction of one site's causal basis. Intervals are of 95 %, over held-out initial conditions."""

    site: str
    direction: int
    """From 1, in the order in which they were found."""
    energy: float
    """As found, on the windows of the extraction."""
    marginal: float
    """The energy of this direction alone, on held-out windows."""
    marginal_low: float
    marginal_high: float
    cumulative: float
    """The energy of this direction and those before it together, on held-out windows."""
    cumulative_low: float
    cumulative_high: float
    everything: float
    """The energy of replacing the whole activation, on held-out windows; no upper bound of the others."""
    half_angle: float
    """Degrees between the spans of the first directions of two halves of the data; NaN where there are no halves."""
    restarts: int
    """Searches of this direction again, from a later one."""
    rise: float
    """Over the least energy before it, relatively; 0 for exact greedy directions."""
    evaluations: int
    """Of energy and gradient."""
    mode: str
    metric: str
    divergence: str
    units: str
    """Of the energies."""
    initial_conditions: int


@dataclass(frozen=True)
class BasisComparisonRow:
    """One subspace of one site. Intervals are of 95 %, over held-out initial conditions."""

    site: str
    method: str
    """``causal``, ``pca``, ``direction``, ``random``, ``full`` or ``model``."""
    name: str
    """Of a file of directions, or the number of a random subspace."""
    rank: int
    share: float
    """The energy of ablating it over that of everything at the site, in the same mode; it may exceed 1."""
    share_low: float
    share_high: float
    recovery: float
    """Of interchanging it: 1 − Σ‖(ŷ' − ŷ_b) − (y* − y_b)‖² / Σ‖y* − y_b‖², mean over fields."""
    recovery_low: float
    recovery_high: float
    nearness: float
    """Of interchanging it: 1 − Σ‖ŷ' − y*‖² / Σ‖ŷ_b − y*‖², mean over fields."""
    nearness_low: float
    nearness_high: float
    angle: float
    """Degrees: the largest principal angle to the span of as many causal directions."""
    variables: str
    """Whose counterfactual the pairs have."""
    initial_conditions: int


def write_basis_tables(
    run_folder: Path, curves: Sequence[BasisCurveRow], comparison: Sequence[BasisComparisonRow]
) -> None:
    """Write ``tables/basis_curves`` and ``tables/basis_comparison``, as Parquet and CSV."""
    write_rows(run_folder / "tables/basis_curves", BasisCurveRow, curves)
    write_rows(run_folder / "tables/basis_comparison", BasisComparisonRow, comparison)


def read_basis_tables(run_folder: Path) -> tuple[list[BasisCurveRow], list[BasisComparisonRow]]:
    """Read what `write_basis_tables` wrote; nothing where there is none."""
    return (
        read_rows(run_folder / "tables/basis_curves", BasisCurveRow),
        read_rows(run_folder / "tables/basis_comparison", BasisComparisonRow),
    )
