"""How enstrophy and vortex area follow the strength of steering: slopes and monotonicity, as summary rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from physteer.analyses.steering.estimands import DOSED, change
from physteer.analyses.steering.metric_array import Floats, MetricArray
from physteer.analyses.steering.summary_rows import SummaryRow, summary_row
from physteer.analyses.steering.table import ERASED, ConditionKey, Series
from physteer.metrics.dose_response import mean_responses, slopes
from physteer.metrics.statistics import Interval, Resampling, control_p_value
from physteer.metrics.studentised import studentised_mean_columns

_VALUE_ONLY = Resampling(resamples=0)


@dataclass(frozen=True, eq=False)
class _Curve:
    """The changes of all rollouts of a series, the unsteered ones (strength 0, no change) among them."""

    strengths: Floats
    """Of each rollout."""
    effects: Floats
    """[rollouts, steps]."""
    initial_conditions: list[str]
    """Of each rollout."""

    def slopes(self, resampling: Resampling) -> list[Interval]:
        """Return the mean slope over initial conditions, per step."""
        levels, means, names = self._means()
        intervals = studentised_mean_columns(slopes(levels, means), names, resampling)
        return [replace(interval, left_out=0) for interval in intervals]  # these were no windows

    def monotone(self) -> list[Interval]:
        """Return the share of initial conditions whose mean effect only rises, or only falls, the way the slope goes.

        An initial condition with fewer than three strengths is left out. A share of few has no interval.
        """
        signs = np.sign(slopes(self.strengths, self.effects))  # [steps]
        _, means, names = self._means()  # [strengths, initial conditions, steps]
        shares = np.full(means.shape[1:], math.nan)
        for name, step in np.ndindex(*shares.shape):
            known = means[np.isfinite(means[:, name, step]), name, step]
            if len(known) > 2:
                shares[name, step] = float((np.diff(known) * signs[step] > 0).all())
        return studentised_mean_columns(shares, names, _VALUE_ONLY)

    def _means(self) -> tuple[Floats, Floats, list[str]]:
        return mean_responses(self.strengths, self.effects, self.initial_conditions)


def dose_rows(array: MetricArray, resampling: Resampling) -> Iterator[SummaryRow]:
    """Yield slope and monotonicity of every concept and of interpolated data, strengths together, at every step.

    Slopes are ranked among those of random directions, over the strengths that both have.
    """
    curves: dict[tuple[str, Series], list[int]] = {}
    for i in array.of_role("concept", "data"):
        key = array.conditions[i]
        if key.mode != ERASED:
            curves.setdefault((key.role, key.series), []).append(i)
    for indices in curves.values():
        together = replace(array.conditions[indices[0]], strength=math.nan)
        yield from _series_rows(array, together, indices, resampling)


def _series_rows(
    array: MetricArray, series: ConditionKey, own: Sequence[int], resampling: Resampling
) -> Iterator[SummaryRow]:
    strength = [key.strength for key in array.conditions]
    randoms: dict[str, list[int]] = {}
    for i in array.of_role("random"):
        if series.has_control(array.conditions[i]):
            randoms.setdefault(array.conditions[i].direction, []).append(i)
    shared = {strength[i] for i in own}.intersection(*({strength[i] for i in r} for r in randoms.values()))
    for metric in DOSED:
        changes = change(array, metric, array.unsteered)
        curve = _curve(array, changes, own)
        ranked: list[list[Interval]] = []
        if randoms and shared:  # the same strengths on both sides, or the slopes are not of one kind
            for indices in (own, *randoms.values()):
                shared_curve = _curve(array, changes, [i for i in indices if strength[i] in shared])
                ranked.append(shared_curve.slopes(_VALUE_ONLY))
        slope, monotone = curve.slopes(resampling), curve.monotone()
        for s, step in enumerate(array.steps):
            row = summary_row(series, f"{metric}_slope", "", step, slope[s], len(array.windows))
            if ranked:
                first, *others = (intervals[s].value for intervals in ranked)
                row = replace(row, p=control_p_value(first, others, "two-sided"), controls=len(randoms))
            yield row
            yield summary_row(series, f"{metric}_monotone", "", step, monotone[s], len(array.windows))


def _curve(array: MetricArray, changes: Floats, conditions: Sequence[int]) -> _Curve:
    """Return the changes [conditions, windows, steps] of some conditions, by index, and of the unsteered one."""
    strengths = np.repeat([0.0, *(array.conditions[i].strength for i in conditions)], len(array.windows))
    effects = np.concatenate([changes[array.unsteered], *(changes[i] for i in conditions)])
    return _Curve(strengths, effects, list(array.initial_conditions) * (1 + len(conditions)))
