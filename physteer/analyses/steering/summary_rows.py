"""The numbers a summary consists of, and their file.

Quantities:

* ``alignment_cosine``: cosine of ŷ_steered − ŷ_unsteered with y(θ') − y(θ)
* ``alignment_gain``: share of y(θ') − y(θ) that is in ŷ_steered − ŷ_unsteered
* ``recovery``: 1 − Σ error_steered / Σ error_unsteered against y(θ'), pooled over windows
* ``null_movement``: RMS of ŷ_steered − ŷ_unsteered over the field's spread, of a field that should not move
* ``movement``: RMS of ŷ_erased − ŷ_unsteered over the field's spread, of what erasing moves
* ``enstrophy``: change against unsteered, relative
* ``vortex_area``: change against unsteered, in shares of the cells
* ``enstrophy_truth``: the change from y(θ) to y(θ'), relative
* ``vortex_area_truth``: the change from y(θ) to y(θ'), in shares of the cells
* ``enstrophy_slope``: least-squares slope of the change against α
* ``vortex_area_slope``: least-squares slope of the change against α
* ``enstrophy_monotone``: share of initial conditions in which the change is monotone in α
* ``vortex_area_monotone``: share of initial conditions in which the change is monotone in α
* ``vrmse_ratio``: mean VRMSE over fields against the stored truth, Σ steered / Σ unsteered
* ``divergence_ratio``: RMS of ∇·u, Σ steered / Σ unsteered
* ``tracer_drift``: |⟨s⟩ − ⟨s⟩ of the truth| over the truth's spread
* ``spectrum_distance``: RMS over shells of ln E(k)/E_truth(k)
* ``natural_percentile``: distance from natural activations in their main directions, among held-out natural
  ones, %
* ``residual_percentile``: the same outside their main directions, %
* ``blow_ups``: rollouts that blew up though the unsteered one of their window did not
* ``already_diverged``: windows whose unsteered rollout blew up; nothing after that is compared
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from physteer.tables import read_rows, write_rows

SEVERAL = "mean over fields"
"""The field of findings that average the fields which truly change."""


@dataclass(frozen=True)
class Finding:
    """One number about one setting."""

    direction: str
    site: str
    mode: str
    strength: float
    """α; NaN for what is about all strengths together."""
    role: str
    """``concept`` (of erasers too), or ``shuffled`` or ``data``; ``unsteered`` for the damage that is there without."""
    quantity: str
    """One of those listed above."""
    field: str
    """Empty for the whole flow, `SEVERAL` for the mean over fields (that truly change); the site of percentiles."""
    step: int
    """0 for the whole rollout."""
    value: float
    low: float
    """Of the 95 % bootstrap interval over initial conditions; NaN where there is none."""
    high: float
    windows: int
    """With finite values, on which it rests."""
    initial_conditions: int
    p: float
    """(1 + controls as extreme)/(1 + controls) against random directions; NaN where it is not asked for."""
    controls: int
    """Random directions at the same sites, mode and α."""

    @property
    def setting(self) -> tuple[str, str, str, float]:
        """Direction, site, mode and strength."""
        return self.direction, self.site, self.mode, self.strength


def write_summary(run_folder: Path, findings: Sequence[Finding]) -> Path:
    """Write ``tables/summary.parquet`` and ``.csv``; return the first."""
    return write_rows(run_folder / "tables" / "summary", Finding, findings)


def read_summary(run_folder: Path) -> list[Finding]:
    """Read what `write_summary` wrote; nothing where there is none."""
    return read_rows(run_folder / "tables" / "summary", Finding)
