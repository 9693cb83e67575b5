"""What a steered run is judged by: each estimand as terms per window, and how these are pooled over windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from physteer.analyses.steering.metric_array import Floats, MetricArray
from physteer.analyses.steering.pooling import Pool, mean, ratio, recovery, wrong_signs
from physteer.analyses.steering.summary_rows import MEAN_OVER_FIELDS
from physteer.metrics.statistics import Alternative, Interval, Resampling

STILL = 0.01
"""A field whose true change is below this share of the largest one's should not move."""
DOSED = ("enstrophy", "vortex_area")
"""What dose–response is read off."""
FLOW_METRICS = (
    *("enstrophy", "vortex_area", "kinetic_energy", "tracer_variance"),
    *("divergence_rms", "tracer_mass"),
)
"""Metrics of the whole flow that are shown as they are."""
PERCENTILES = ("natural_percentile", "residual_percentile")
"""How unnatural activations are, per site; 50 is usual."""
_CHANGE, _ERRORS = ("change_error", "change_truth"), ("error_steered", "error_unsteered")
_SIGN = ("change_product", "change_truth")
_BASE = ("change_truth", "error_unsteered")  # y(θ) in the place of ŷ_steered


@dataclass(frozen=True, eq=False)
class Estimand:
    """One thing measured."""

    name: str
    field: str
    terms: Floats
    """[conditions, windows, steps, k]."""
    pool: Pool
    alternative: Alternative | None = None
    """Which side is evidence for the concept; None: not compared with random directions."""

    def measure(self, array: MetricArray, condition: int, resampling: Resampling) -> list[Interval]:
        """Pool over windows for one condition, by its index; an interval per step."""
        return self.pool(self.terms[condition], array.initial_conditions, resampling)


def still_fields(array: MetricArray) -> tuple[str, ...]:
    """List the fields that the parameter does not change: the velocity, where only the diffusivity differs."""
    changes = {}
    targets = [i for i in (array.truth(1), array.truth(-1)) if i is not None]
    for field in array.fields("vrmse"):
        values = array.get("vrmse", field)[targets]
        values = values[np.isfinite(values)]
        changes[field] = math.sqrt(float((values**2).mean())) if len(values) else math.nan
    largest = max((value for value in changes.values() if math.isfinite(value)), default=0.0)
    return tuple(field for field, value in changes.items() if value < STILL * largest)


def effects(array: MetricArray) -> list[Estimand]:
    """List what steering is for: these are compared with random directions."""
    still = still_fields(array)
    aligned = [field for field in array.fields("alignment_cosine") if field not in still]
    estimands = []
    for metric in ("alignment_cosine", "alignment_gain"):
        columns = _with_mean({field: array.get(metric, field) for field in aligned})
        estimands += [Estimand(metric, field, values[..., None], mean, "greater") for field, values in columns.items()]
    recovered = _pairs(array, _CHANGE, aligned)
    estimands += [Estimand("recovery", field, terms, recovery, "greater") for field, terms in recovered.items()]
    signs = list(_pairs(array, _SIGN, aligned).values())[:1]  # of all fields together
    estimands += [Estimand("wrong_sign", "", terms, wrong_signs) for terms in signs]
    estimands += _nearness(array, aligned)
    for field in still:
        estimands.append(Estimand("null_movement", field, _movement(array, field)[..., None], mean, "less"))
    return [*estimands, *_flow_changes(array)]


def _nearness(array: MetricArray, fields: Sequence[str]) -> list[Estimand]:
    """List how near rollouts come to y(θ'), and how near y(θ) and blurred rollouts are: not the concept's evidence."""
    near = {"nearness": _pairs(array, _ERRORS, fields), "nearness_base": _pairs(array, _BASE, fields)}
    blurred = {np.sign(array.conditions[i].strength): i for i in array.of_role("blurred")}
    if blurred:
        signs = [np.sign(condition.strength) for condition in array.conditions]
        chosen = [blurred.get(sign, -1) for sign in signs]
        known = np.array([sign in blurred for sign in signs])[:, None, None, None]
        own = near["nearness"]
        near["nearness_blurred"] = {
            field: np.where(known & np.isfinite(terms), terms[chosen], np.nan) for field, terms in own.items()
        }
    return [
        Estimand(name, field, terms, recovery) for name, columns in near.items() for field, terms in columns.items()
    ]


def _pairs(array: MetricArray, names: tuple[str, str], fields: Sequence[str]) -> dict[str, Floats]:
    """Return the terms of `recovery` by field, that of all fields first where there are several."""
    pairs = {f: np.stack([array.get(name, f) for name in names], -1) for f in array.fields(names[0]) if f in fields}
    return {MEAN_OVER_FIELDS: np.concatenate(list(pairs.values()), -1)} | pairs if len(pairs) > 1 else pairs


def departures(array: MetricArray) -> list[Estimand]:
    """List what erasing is judged by: how far rollouts move, against random erasers, and the damage.

    A quantity that the model uses is one whose erasure moves rollouts farther than that of random directions.
    """
    errors, *others = damage(array)
    moved = [replace(estimand, alternative="greater") for estimand in movements(array)]
    return [*moved, replace(errors, alternative="greater"), *_flow_changes(array), *others]


def movements(array: MetricArray) -> list[Estimand]:
    """List how far rollouts move from the unsteered ones, by field."""
    columns = _with_mean({field: array.get("movement", field) for field in array.fields("movement")})
    return [Estimand("movement", field, values[..., None], mean) for field, values in columns.items()]


def flow_values(array: MetricArray) -> list[Estimand]:
    """List the metrics themselves, compared with nothing."""
    known = [(metric, "", array.get(metric)) for metric in FLOW_METRICS if metric in {name for name, _ in array.values}]
    errors = _with_mean({field: array.get("vrmse", field) for field in array.fields("vrmse")})
    known += [("vrmse", field, values) for field, values in errors.items()]
    return [Estimand(f"{metric}_value", field, values[..., None], mean) for metric, field, values in known]


def damage(array: MetricArray) -> list[Estimand]:
    """List what steering should leave alone, the errors first."""
    scored = array.fields("vrmse")
    error = np.mean([array.get("vrmse", field) for field in scored], axis=0) if scored else array.get("vrmse")
    against = {"vrmse_ratio": error, "divergence_ratio": array.get("divergence_rms")}
    return [
        *(Estimand(name, "", _beside(values, array.unsteered), ratio) for name, values in against.items()),
        Estimand("tracer_drift", "", _drift(array)[..., None], mean),
        Estimand("spectrum_distance", "", array.get("spectrum_distance")[..., None], mean),
        *(
            Estimand(name, site, array.get(name, site)[..., None], mean)
            for name in PERCENTILES
            for site in array.fields(name)
        ),
    ]


def _with_mean(columns: dict[str, Floats]) -> dict[str, Floats]:
    """Put the mean over fields first, where there are several."""
    if len(columns) < 2:
        return columns
    return {MEAN_OVER_FIELDS: np.mean(list(columns.values()), axis=0)} | columns


def _flow_changes(array: MetricArray) -> list[Estimand]:
    return [
        Estimand(metric, "", change(array, metric, array.unsteered)[..., None], mean, "two-sided") for metric in DOSED
    ]


def _beside(values: Floats, reference: int) -> Floats:
    """Pair every condition's values with those of one condition: [conditions, windows, steps, 2]."""
    return np.stack(np.broadcast_arrays(values, values[reference]), -1)


def change(array: MetricArray, metric: str, reference: int) -> Floats:
    """Compare every condition with one, by index: relatively, or by difference for shares, which may be 0."""
    values = array.get(metric)
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric == "vortex_area":
            return np.asarray(values - values[reference])
        return np.asarray(values / values[reference] - 1)


def _movement(array: MetricArray, field: str) -> Floats:
    """Return how far steering moves a field, in units of its spread: [conditions, windows, steps].

    Where the table does not say, gain/cosine = ‖Δŷ‖/‖Δy‖ does, times the spread-relative size of the true change.
    """
    if ("movement", field) in array.values:
        return array.get("movement", field)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.abs(array.get("alignment_gain", field) / array.get("alignment_cosine", field))
    for sign in (1, -1):
        target = array.truth(sign)
        rows = [i for i, key in enumerate(array.conditions) if np.sign(key.strength) == sign and key.role != "truth"]
        size[rows] = np.nan if target is None else size[rows] * array.get("vrmse", field)[target]
    return size


def _drift(array: MetricArray) -> Floats:
    truth = array.truth(0)
    if truth is None:
        return np.full_like(array.get("tracer_mass"), np.nan)
    mass, spread = array.get("tracer_mass"), np.sqrt(array.get("tracer_variance")[truth])
    return np.asarray(np.abs(mass - mass[truth]) / spread)
