"""What a steered run is judged by: each quantity as terms per window, and how these are pooled over windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from physteer.analyses.steering.metric_array import Cube, Floats
from physteer.analyses.steering.summary_rows import SEVERAL
from physteer.metrics.statistics import (
    Alternative,
    Interval,
    Resampling,
    bootstrap,
    bootstrap_mean,
    bootstrap_ratio,
)

STILL = 0.01
"""A field whose true change is below this share of the largest one's should not move."""
DOSED = ("enstrophy", "vortex_area")
"""What dose–response is read off."""
PERCENTILES = ("natural_percentile", "residual_percentile")
"""How unnatural activations are, per site; 50 is usual."""
_ERRORS = ("error_steered", "error_unsteered")

Pool = Callable[[Floats, Sequence[str], Resampling], Interval]
"""Of terms [windows, k] and the windows' initial conditions."""


@dataclass(frozen=True, eq=False)
class Quantity:
    """One thing measured."""

    name: str
    field: str
    terms: Floats
    """[conditions, windows, steps, k]."""
    pool: Pool
    alternative: Alternative | None = None
    """Which side is evidence for the concept; None: not compared with random directions."""

    def measure(self, cube: Cube, condition: int, step: int, resampling: Resampling) -> Interval:
        """Pool over windows for one condition and step, by their indices."""
        return self.pool(self.terms[condition, :, step], cube.initial_conditions, resampling)


def mean(terms: Floats, initial_conditions: Sequence[str], resampling: Resampling) -> Interval:
    """Average terms [windows, 1] over initial conditions."""
    return bootstrap_mean(terms[:, 0], initial_conditions, resampling)


def ratio(terms: Floats, initial_conditions: Sequence[str], resampling: Resampling) -> Interval:
    """Divide sums over windows, terms [windows, 2]."""
    return bootstrap_ratio(terms[:, 0], terms[:, 1], initial_conditions, resampling)


def recovery(terms: Floats, initial_conditions: Sequence[str], resampling: Resampling) -> Interval:
    """Return the mean over fields of 1 − Σ steered / Σ unsteered, terms [windows, 2 · fields]."""
    return bootstrap(terms, initial_conditions, _mean_recovery, resampling)


def still_fields(cube: Cube) -> tuple[str, ...]:
    """List the fields that the parameter does not change: the velocity, where only the diffusivity differs."""
    changes = {}
    targets = [i for i in (cube.truth(1), cube.truth(-1)) if i is not None]
    for field in cube.fields("vrmse"):
        values = cube.get("vrmse", field)[targets]
        values = values[np.isfinite(values)]
        changes[field] = math.sqrt(float((values**2).mean())) if len(values) else math.nan
    largest = max((value for value in changes.values() if math.isfinite(value)), default=0.0)
    return tuple(field for field, value in changes.items() if value < STILL * largest)


def effects(cube: Cube) -> list[Quantity]:
    """List what steering is for: these are compared with random directions."""
    still = still_fields(cube)
    aligned = [field for field in cube.fields("alignment_cosine") if field not in still]
    found = []
    for metric in ("alignment_cosine", "alignment_gain"):
        columns = {field: cube.get(metric, field) for field in aligned}
        if len(aligned) > 1:
            columns = {SEVERAL: np.mean(list(columns.values()), axis=0)} | columns
        found += [Quantity(metric, field, values[..., None], mean, "greater") for field, values in columns.items()]
    pairs = {f: np.stack([cube.get(name, f) for name in _ERRORS], -1) for f in cube.fields(_ERRORS[0]) if f in aligned}
    if len(pairs) > 1:
        pairs = {SEVERAL: np.concatenate(list(pairs.values()), -1)} | pairs
    found += [Quantity("recovery", field, terms, recovery, "greater") for field, terms in pairs.items()]
    for field in still:
        found.append(Quantity("null_movement", field, _movement(cube, field)[..., None], mean, "less"))
    return [*found, *_flow_changes(cube)]


def departures(cube: Cube) -> list[Quantity]:
    """List what erasing is judged by: how far rollouts move, against random erasers, and the damage.

    A quantity that the model uses is one whose erasure moves rollouts farther than that of random directions.
    """
    columns = {field: cube.get("movement", field) for field in cube.fields("movement")}
    if len(columns) > 1:
        columns = {SEVERAL: np.mean(list(columns.values()), axis=0)} | columns
    found = [Quantity("movement", field, values[..., None], mean, "greater") for field, values in columns.items()]
    errors, *others = damage(cube)
    return [*found, replace(errors, alternative="greater"), *_flow_changes(cube), *others]


def damage(cube: Cube) -> list[Quantity]:
    """List what steering should leave alone, the errors first."""
    scored = cube.fields("vrmse")
    error = np.mean([cube.get("vrmse", field) for field in scored], axis=0) if scored else cube.get("vrmse")
    against = {"vrmse_ratio": error, "divergence_ratio": cube.get("divergence_rms")}
    return [
        *(Quantity(name, "", _beside(values, cube.unsteered), ratio) for name, values in against.items()),
        Quantity("tracer_drift", "", _drift(cube)[..., None], mean),
        Quantity("spectrum_distance", "", cube.get("spectrum_distance")[..., None], mean),
        *(
            Quantity(name, site, cube.get(name, site)[..., None], mean)
            for name in PERCENTILES
            for site in cube.fields(name)
        ),
    ]


def _flow_changes(cube: Cube) -> list[Quantity]:
    return [
        Quantity(metric, "", change(cube, metric, cube.unsteered)[..., None], mean, "two-sided") for metric in DOSED
    ]


def _beside(values: Floats, reference: int) -> Floats:
    """Pair every condition's values with those of one condition: [conditions, windows, steps, 2]."""
    return np.stack(np.broadcast_arrays(values, values[reference]), -1)


def change(cube: Cube, metric: str, reference: int) -> Floats:
    """Compare every condition with one, by index: relatively, or by difference for shares, which may be 0."""
    values = cube.get(metric)
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric == "vortex_area":
            return np.asarray(values - values[reference])
        return np.asarray(values / values[reference] - 1)


def _movement(cube: Cube, field: str) -> Floats:
    """Return how far steering moves a field, in units of its spread: [conditions, windows, steps].

    Where the table does not say, gain/cosine = ‖Δŷ‖/‖Δy‖ does, times the spread-relative size of the true change.
    """
    if ("movement", field) in cube.values:
        return cube.get("movement", field)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(cube.get("alignment_gain", field) / cube.get("alignment_cosine", field))
    for sign in (1, -1):
        target = cube.truth(sign)
        rows = [i for i, one in enumerate(cube.conditions) if np.sign(one.strength) == sign and one.role != "truth"]
        ratio[rows] = np.nan if target is None else ratio[rows] * cube.get("vrmse", field)[target]
    return ratio


def _drift(cube: Cube) -> Floats:
    truth = cube.truth(0)
    if truth is None:
        return np.full_like(cube.get("tracer_mass"), np.nan)
    mass, spread = cube.get("tracer_mass"), np.sqrt(cube.get("tracer_variance")[truth])
    return np.asarray(np.abs(mass - mass[truth]) / spread)


def _mean_recovery(sums: Floats) -> Floats:
    """Average recoveries over fields: [..., 2 · fields] → [...]."""
    return np.asarray((1 - sums[..., 0::2] / sums[..., 1::2]).mean(-1))
