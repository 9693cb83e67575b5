"""What a run shows: settings with intervals over initial conditions, and p against random directions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from physteer.analyses.steering.dose_summary import dose_rows
from physteer.analyses.steering.estimands import (
    DOSED,
    Estimand,
    change,
    damage,
    departures,
    effects,
    flow_values,
    movements,
)
from physteer.analyses.steering.global_test import global_rows, values_of
from physteer.analyses.steering.metric_array import MetricArray, metric_array
from physteer.analyses.steering.summary_rows import SummaryRow, strengths_equal, summary_row
from physteer.analyses.steering.table import ERASED
from physteer.metrics.statistics import Interval, Resampling, control_p_value
from physteer.metrics.studentised import studentised_mean_columns

INTERVALS = Resampling(resamples=2000)
VALUE_ONLY = Resampling(resamples=0)
"""Random directions have no interval."""


def summarise(table: pd.DataFrame, steps: Sequence[int] | None = None) -> list[SummaryRow]:
    """Judge every setting of a run, steered or erased, at every rollout step.

    Windows whose unsteered rollout has blown up, and rollouts after their own blow-up, are left out and counted. Random
    directions are compared with at the same α, sign included.

    Args:
        table: from `read_metrics`.
        steps: rollout steps at which to judge; all when None.

    Returns:
        Rows: those of truths and unsteered rollouts first, then setting by setting, the values of random directions,
        and the responses to strength.

    Raises:
        PhysteerError: the table has no unsteered condition, or contradicts itself.
    """
    return summarise_array(metric_array(table, steps))


def summarise_array(array: MetricArray) -> list[SummaryRow]:
    """Judge every setting of a run, as `summarise` does, from its arranged table."""
    summary = _Summary(array)
    rows = [*summary.references(), *summary.settings(), *summary.random_directions()]
    rows += dose_rows(summary.array, INTERVALS)
    return [row for row in rows if row.windows or row.step == 0]


class _Summary:
    """The estimands of a run, and their values for random directions, which several settings share."""

    def __init__(self, array: MetricArray) -> None:
        self.array = array
        self._values, self._damage = flow_values(array), damage(array)
        steered = [*effects(array), *movements(array), *self._damage]
        self._judged = {False: steered, True: departures(array)}  # by whether it erases
        self._random: dict[tuple[Estimand, int], list[Interval]] = {}

    def references(self) -> Iterator[SummaryRow]:
        """Yield the values of truths and of the unsteered rollouts, and these rollouts' damage."""
        for index in self.array.of_role("truth", "unsteered"):
            for estimand in self._values:
                yield from self._rows(index, estimand)
        for estimand in self._damage:
            if not estimand.name.endswith("_ratio"):  # to itself
                yield from self._rows(self.array.unsteered, estimand)

    def settings(self) -> Iterator[SummaryRow]:
        """Yield what concepts, shuffled concepts, interpolated data and blurred rollouts do."""
        for index in self.array.of_role("concept", "shuffled", "data", "blurred"):
            erases = self.array.conditions[index].mode == ERASED
            controls = random_controls(self.array, index)
            for estimand in (*self._judged[erases], *self._values):
                yield from self._rows(index, estimand, controls)
            if controls:
                yield from self._global_test(index, erases, controls)
            yield from self._counts(index)
            if not erases:
                yield from self._true_changes(index)

    def random_directions(self) -> Iterator[SummaryRow]:
        """Yield the value of every random direction for what concepts are compared with it by."""
        for index in self.array.of_role("random"):
            for estimand in self._judged[self.array.conditions[index].mode == ERASED]:
                if estimand.alternative:
                    yield from self._step_rows(index, estimand.name, estimand.field, self._control(estimand, index))

    def _control(self, estimand: Estimand, index: int) -> list[Interval]:
        """Return the value of a random direction at every step."""
        if (estimand, index) not in self._random:
            self._random[estimand, index] = estimand.measure(self.array, index, VALUE_ONLY)
        return self._random[estimand, index]

    def _rows(self, index: int, estimand: Estimand, controls: Sequence[int] = ()) -> Iterator[SummaryRow]:
        """Yield an estimand of one condition at every step, ranked among its controls."""
        intervals = estimand.measure(self.array, index, INTERVALS)
        if estimand.alternative is None or not controls:
            yield from self._step_rows(index, estimand.name, estimand.field, intervals)
            return
        random = [self._control(estimand, control) for control in controls]
        for s, row in enumerate(self._step_rows(index, estimand.name, estimand.field, intervals)):
            p = math.nan
            if intervals[s].initial_conditions:
                p = control_p_value(row.value, [values[s].value for values in random], estimand.alternative)
            yield replace(row, p=p, controls=len(controls))

    def _global_test(self, index: int, erases: bool, controls: Sequence[int]) -> Iterator[SummaryRow]:
        """Yield one test over all fields and steps: of recovery, or of an eraser's movement; without either, none."""
        name = "movement" if erases else "recovery"
        estimands = [estimand for estimand in self._judged[erases] if estimand.name == name]
        if not estimands:
            return
        by_field = [
            values_of(
                [estimand.measure(self.array, index, VALUE_ONLY), *(self._control(estimand, i) for i in controls)]
            )
            for estimand in estimands
        ]
        cells = np.concatenate(by_field[1:] or by_field, 1)  # the mean over fields comes first
        known = np.isfinite(estimands[0].terms[index]).all(2).any(1).tolist()  # [windows]
        n_initial = len({name for name, kept in zip(self.array.initial_conditions, known, strict=True) if kept})
        yield from global_rows(
            self.array.conditions[index], name, by_field[0], cells, n_initial, len(self.array.windows)
        )

    def _step_rows(self, index: int, quantity: str, field: str, intervals: Sequence[Interval]) -> Iterator[SummaryRow]:
        setting = self.array.conditions[index]
        for step, interval in zip(self.array.steps, intervals, strict=True):
            yield summary_row(setting, quantity, field, step, interval, len(self.array.windows))

    def _counts(self, index: int) -> Iterator[SummaryRow]:
        array = self.array
        already = np.isfinite(array.blow_ups[array.unsteered])
        new = np.isfinite(array.blow_ups[index]) & ~already
        n = len(set(array.initial_conditions))
        for name, count in (("blow_ups", new.sum()), ("already_diverged", already.sum())):
            exact = Interval(float(count), math.nan, math.nan, n)
            yield summary_row(array.conditions[index], name, "", 0, exact, len(array.windows))

    def _true_changes(self, index: int) -> Iterator[SummaryRow]:
        """Yield how enstrophy and vortex area truly change towards a setting's target."""
        array = self.array
        base, target = array.truth(0), array.truth(int(np.sign(array.conditions[index].strength)))
        if base is None or target is None or base == target:
            return
        for metric in DOSED:
            intervals = studentised_mean_columns(
                change(array, metric, base)[target], array.initial_conditions, INTERVALS
            )
            yield from self._step_rows(index, f"{metric}_truth", "", intervals)


def random_controls(array: MetricArray, index: int) -> tuple[int, ...]:
    """Find the random directions at a setting's sites, mode and α, sign included, each once."""
    setting = array.conditions[index]
    controls: dict[str, int] = {}
    for i in array.of_role("random"):
        random = array.conditions[i]
        if setting.has_control(random) and strengths_equal(random.strength, setting.strength):
            controls.setdefault(random.direction, i)
    return tuple(controls.values())
