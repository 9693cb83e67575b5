"""The numbers a summary consists of, and their file.

Estimands, each at every rollout step:

* ``alignment_cosine``: cosine of ŷ_steered − ŷ_unsteered with y(θ') − y(θ)
* ``alignment_gain``: share of y(θ') − y(θ) that is in ŷ_steered − ŷ_unsteered
* ``recovery``: recovery of the change, 1 − E‖Δŷ − Δy‖² / E‖Δy‖² with Δŷ = ŷ_steered − ŷ_unsteered and
  Δy = y(θ') − y(θ); E is over the windows of an initial condition, then over initial conditions
* ``nearness``: 1 − E‖ŷ_steered − y(θ')‖² / E‖ŷ_unsteered − y(θ')‖²; the model's own error counts as distance, so it is
  to be read beside ``nearness_base``, the same with y(θ) in the place of ŷ_steered, and ``nearness_blurred``, the same
  with the unsteered rollout smoothed as much as the parameter's change of diffusion would
* ``wrong_sign``: number of initial conditions with Σ_fields ⟨Δŷ, Δy⟩/E‖Δy‖² < 0
* ``null_movement``: RMS of ŷ_steered − ŷ_unsteered over the field's spread, of a field that should not move
* ``movement``: the same of every field, and of ŷ_erased − ŷ_unsteered
* ``enstrophy``: change against unsteered, relative
* ``vortex_area``: change against unsteered, in shares of the domain
* ``enstrophy_truth``: the change from y(θ) to y(θ'), relative
* ``vortex_area_truth``: the change from y(θ) to y(θ'), in shares of the domain
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
* ``enstrophy_value``, ``vortex_area_value``, ``kinetic_energy_value``, ``tracer_variance_value``,
  ``divergence_rms_value``, ``tracer_mass_value`` and ``vrmse_value``: the metric itself, of truths and the unsteered
  rollouts too

and for the whole rollout, at step 0:

* ``recovery_overall``: recovery, mean over fields and steps, with the p of the one test that comes before those of
  single cells (a field at a step); of erasers ``movement_overall``
* ``recovery_cells`` and ``recovery_cells_first``: number of cells, and in how many of them the setting recovers more
  than every control; of erasers ``movement_cells`` and ``movement_cells_first``
* ``blow_ups``: rollouts that blew up though the unsteered one of their window did not
* ``already_diverged``: windows whose unsteered rollout blew up; nothing after that is compared
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from physteer.analyses.steering.table import Setting
from physteer.metrics.statistics import Interval
from physteer.metrics.studentised import FEWEST
from physteer.tables import read_rows, write_rows

FEWEST_FOR_INTERVALS = FEWEST
"""Initial conditions. Of fewer there are single values alone: no interval, and no star."""
SIGNIFICANT = 0.05
MEAN_OVER_FIELDS = "mean over fields"
"""The field of rows that average the fields which truly change."""


@dataclass(frozen=True)
class SummaryRow:
    """One number about one setting."""

    direction: str
    site: str
    mode: str
    strength: float
    """α; NaN for what is about all strengths together; of a truth at other parameters the sign of the α it answers."""
    role: str
    """As of a `MetricRow`. Of ``random`` directions there is the value alone."""
    quantity: str
    """The name of an estimand listed above."""
    field: str
    """Empty for the whole flow, `MEAN_OVER_FIELDS` for the mean over fields; the site of percentiles."""
    step: int
    """0 for the whole rollout."""
    value: float
    low: float
    """Of the 95 % studentised bootstrap interval over initial conditions; NaN where these are fewer than eight."""
    high: float
    windows: int
    """With finite values, on which it rests."""
    initial_conditions: int
    p: float
    """(1 + controls as extreme)/(1 + controls) against random directions; NaN where it is not asked for."""
    controls: int
    """Random directions at the same sites, mode and α."""

    @property
    def stands_out(self) -> bool:
        """Whether the setting does more than controls, p ≤ 0.05, over initial conditions enough to say so."""
        return self.p <= SIGNIFICANT and self.initial_conditions >= FEWEST_FOR_INTERVALS

    @property
    def setting(self) -> Setting:
        """What was done to the model, and as what it is judged."""
        return Setting(self.role, self.direction, self.site, self.mode, self.strength)


def summary_row(
    setting: Setting, quantity: str, field: str, step: int, interval: Interval, n_windows: int
) -> SummaryRow:
    """Return an interval as a row, not compared with controls."""
    return SummaryRow(
        direction=setting.direction,
        site=setting.site,
        mode=setting.mode,
        strength=setting.strength,
        role=setting.role,
        quantity=quantity,
        field=field,
        step=step,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        windows=n_windows - interval.left_out,
        initial_conditions=interval.initial_conditions,
        p=math.nan,
        controls=0,
    )


def reported_steps(rows: Sequence[SummaryRow]) -> tuple[int, ...]:
    """Return the steps that tables and texts show: the first, the middle and the last."""
    return first_middle_last(max((row.step for row in rows), default=0))


def first_middle_last(n_steps: int) -> tuple[int, ...]:
    """Return the first, the middle and the last of some steps that count from 1."""
    return tuple(sorted({1, (n_steps + 1) // 2, n_steps})) if n_steps else ()


def strengths_equal(a: float, b: float) -> bool:
    """Whether two strengths are one, up to round-off."""
    return math.isclose(a, b, rel_tol=1e-6)


def write_summary(run_folder: Path, rows: Sequence[SummaryRow]) -> Path:
    """Write ``tables/summary.parquet`` and ``.csv``; return the first."""
    return write_rows(run_folder / "tables" / "summary", SummaryRow, rows)


def read_summary(run_folder: Path) -> list[SummaryRow]:
    """Read what `write_summary` wrote; nothing where there is none."""
    return read_rows(run_folder / "tables" / "summary", SummaryRow)
