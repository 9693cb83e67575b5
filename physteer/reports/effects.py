"""Steered against unsteered: the change of a metric per rollout, and its mean with a bootstrap interval."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from physteer.analyses.steering.table import TRUTH, UNSTEERED
from physteer.reports.diagnostics import FLOW_METRICS, MEAN_VRMSE, Diagnostic, Metric
from physteer.reports.rollouts import Series

RESAMPLES = 2000


@dataclass(frozen=True)
class Span:
    """Consecutive rollout steps over which a metric is averaged, both ends included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"step {self.first}" if self.first == self.last else f"steps {self.first} to {self.last}"


@dataclass(frozen=True)
class SpanValue:
    """A number per rollout: a metric's mean over a span of steps, or how far that is from the unsteered rollout's."""

    window: tuple[str, str]
    """Split and address."""
    initial_condition: str
    condition: str
    series: Series
    strength: float
    value: float


@dataclass(frozen=True)
class Estimate:
    """A mean over initial conditions with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int
    """Initial conditions; with fewer than two there is no interval (NaN)."""


def spans(n_steps: int, parts: int = 3) -> tuple[Span, ...]:
    """Cut a rollout into equal parts; fewer where there are not enough steps."""
    edges = np.linspace(0, n_steps, min(parts, n_steps) + 1).round().astype(int).tolist()
    return tuple(Span(first + 1, last) for first, last in itertools.pairwise(edges))


def span_means(rows: Iterable[Diagnostic], metric: Metric, span: Span) -> list[SpanValue]:
    """Average a metric over a span's steps, for every rollout; NaN where the rollout is not finite."""
    grouped: dict[tuple[str, str, str], list[Diagnostic]] = defaultdict(list)
    for row in rows:
        if row.metric == metric.name and span.first <= row.step <= span.last:
            grouped[row.split, row.window, row.condition].append(row)
    return [
        SpanValue(
            window=(one.split, one.window),
            initial_condition=one.initial_condition,
            condition=one.condition,
            series=Series(one.direction, one.mode, one.site),
            strength=one.strength,
            value=sum(row.value for row in members) / len(members),
        )
        for members in grouped.values()
        for one in members[:1]
    ]


def changes(rows: Iterable[Diagnostic], metric: Metric, span: Span) -> list[SpanValue]:
    """Compare every rollout with the unsteered one of its window: ratio − 1, or difference (`Metric.relative`).

    Windows without an unsteered rollout are left out.
    """
    values = span_means(rows, metric, span)
    unsteered = {value.window: value.value for value in values if value.condition == UNSTEERED}
    compared = []
    for value in values:
        if value.window in unsteered:
            reference = unsteered[value.window]
            if metric.relative:
                change = value.value / reference - 1 if reference else math.nan
            else:
                change = value.value - reference
            compared.append(replace(value, value=change))
    return compared


def estimate(values: Iterable[SpanValue], seed: int = 0) -> Estimate:
    """Average over initial conditions and bootstrap over them.

    Windows that share an initial condition are averaged first: they are one draw, not several (a bootstrap over windows
    would be too sure). Values that are not finite are left out.
    """
    grouped: dict[str, list[float]] = defaultdict(list)
    for value in values:
        if math.isfinite(value.value):
            grouped[value.initial_condition].append(value.value)
    means = np.array([np.mean(members) for members in grouped.values()])
    if len(means) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    if len(means) == 1:
        return Estimate(float(means[0]), math.nan, math.nan, 1)
    draws = np.random.default_rng(seed).integers(len(means), size=(RESAMPLES, len(means)))
    low, high = np.quantile(means[draws].mean(1), [0.025, 0.975])
    return Estimate(float(means.mean()), float(low), float(high), len(means))


def is_steered(value: SpanValue, series: Series) -> bool:
    """Whether a value is of a steered rollout of a series, and not of truth or unsteered."""
    return value.series == series and value.condition not in (TRUTH, UNSTEERED)


def dose_response(changes: Sequence[SpanValue], series: Series) -> dict[float, Estimate]:
    """Return the mean change at every strength of a series, the unsteered rollout (0 by definition) included."""
    steered = [change for change in changes if is_steered(change, series)]
    estimates = {0.0: Estimate(0.0, 0.0, 0.0, len({change.initial_condition for change in steered}))}
    for strength in {change.strength for change in steered}:
        estimates[strength] = estimate(change for change in steered if change.strength == strength)
    return dict(sorted(estimates.items()))


def truth_change(changes: Iterable[SpanValue]) -> Estimate:
    """Return how far the truth is from the unsteered rollout."""
    return estimate(change for change in changes if change.condition == TRUTH)


@dataclass(frozen=True)
class Effect:
    """What one condition does to one metric in the last third of the rollouts."""

    condition: str
    direction: str
    mode: str
    site: str
    strength: float
    metric: str
    quantity: str
    """``relative change`` or ``difference`` against unsteered; ``value`` for errors, which have their own reference."""
    first_step: int
    last_step: int
    mean: float
    low: float
    """Of the 95 % bootstrap interval over initial conditions."""
    high: float
    initial_conditions: int


def effects(rows: Sequence[Diagnostic]) -> list[Effect]:
    """Return the table of a steered run, by metric, then truth, unsteered, and every series from − to + strength."""
    last = max((row.step for row in rows), default=0)
    if last < 1:
        return []
    span = spans(last)[-1]
    table = []
    for metric in (*FLOW_METRICS, MEAN_VRMSE):
        if metric is MEAN_VRMSE:
            values, quantity = span_means(rows, metric, span), "value"
        else:
            values, quantity = changes(rows, metric, span), "relative change" if metric.relative else "difference"
        for (_, series, strength, condition), members in itertools.groupby(sorted(values, key=_order), key=_order):
            point = estimate(members)
            names = (condition, series.direction, series.mode, series.site, strength, metric.name, quantity)
            table.append(Effect(*names, span.first, span.last, point.mean, point.low, point.high, point.n))
    return table


def _order(value: SpanValue) -> tuple[int, Series, float, str]:
    rank = {TRUTH: 0, UNSTEERED: 1}.get(value.condition, 2)
    return rank, value.series, value.strength, value.condition
