"""What steering does from each initial condition by itself: a mean hides those that it fails on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from physteer.analyses.steering.estimands import change, effects
from physteer.analyses.steering.initial_condition_rows import InitialConditionRow
from physteer.analyses.steering.metric_array import Floats, MetricArray
from physteer.analyses.steering.pooling import agreements, wrong_signs
from physteer.analyses.steering.table import ERASED
from physteer.metrics.statistics import Resampling

_VALUE_ONLY = Resampling(resamples=0)
_ALONE = ("recovery", "alignment_cosine", "enstrophy")  # of all fields together, which come first


def single_values(array: MetricArray) -> list[InitialConditionRow]:
    """Return the finite values of every setting but random directions and erasers, at every step."""
    names = np.asarray(array.initial_conditions)
    every = effects(array)
    signed = [estimand for estimand in every if estimand.pool is wrong_signs]
    alone = [next(e for e in every if e.name == name) for name in _ALONE if any(e.name == name for e in every)]
    rows = []
    for index in array.of_role("concept", "shuffled", "data", "blurred"):
        if array.conditions[index].mode == ERASED:
            continue
        columns: dict[str, Floats] = {}  # [initial conditions, steps] by quantity
        for estimand in signed:
            columns["agreement"] = agreements(estimand.terms[index], array.initial_conditions)
        for estimand in alone:
            columns[estimand.name] = np.array(
                [
                    [i.value for i in estimand.pool(estimand.terms[index, names == name], [name] * n, _VALUE_ONLY)]
                    for name, n in zip(*np.unique(names, return_counts=True), strict=True)
                ]
            )
        truth = _true_enstrophy(array, index)
        if truth is not None:
            columns["enstrophy_truth"] = truth
        rows += list(_rows(array, index, columns))
    return rows


def _true_enstrophy(array: MetricArray, index: int) -> Floats | None:
    """Return the true relative change of enstrophy towards a setting's target, [initial conditions, steps]."""
    base, target = array.truth(0), array.truth(int(np.sign(array.conditions[index].strength)))
    if base is None or target is None or base == target:
        return None
    values, names = change(array, "enstrophy", base)[target], np.asarray(array.initial_conditions)
    with np.errstate(invalid="ignore"):
        return np.array([_finite_mean(values[names == name]) for name in np.unique(names)])


def _finite_mean(values: Floats) -> Floats:
    """Average [windows, steps] over the windows with finite values; NaN without any."""
    finite = np.isfinite(values)
    return np.asarray(np.where(finite, values, 0.0).sum(0) / finite.sum(0))


def _rows(array: MetricArray, index: int, columns: dict[str, Floats]) -> Iterator[InitialConditionRow]:
    key = array.conditions[index]
    for quantity, values in columns.items():
        for name, by_step in zip(np.unique(array.initial_conditions).tolist(), values.tolist(), strict=True):
            for step, value in zip(array.steps, by_step, strict=True):
                if np.isfinite(value):
                    yield InitialConditionRow(
                        direction=key.direction,
                        site=key.site,
                        mode=key.mode,
                        strength=key.strength,
                        role=key.role,
                        quantity=quantity,
                        step=step,
                        initial_condition=name,
                        value=value,
                    )
