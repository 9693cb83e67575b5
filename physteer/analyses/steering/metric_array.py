"""The tidy table as arrays: a metric over conditions, windows and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from physteer.analyses.steering.table import ConditionKey
from physteer.errors import PhysteerError

Floats = NDArray[np.float64]

_KEY_COLUMNS = ["condition", "role", "direction", "strength", "mode", "site"]
_BLOW_UP = "blow_up_step"


@dataclass(frozen=True, eq=False)
class MetricArray:
    """Values of a run, by metric and field. What follows a blow-up is NaN, and so is all that is compared with it."""

    conditions: tuple[ConditionKey, ...]
    windows: tuple[str, ...]
    initial_conditions: tuple[str, ...]
    """Of each window."""
    steps: tuple[int, ...]
    values: Mapping[tuple[str, str], Floats]
    """[conditions, windows, steps] by metric and field; NaN where the table has no row."""
    blow_ups: Floats
    """[conditions, windows], the step at which a rollout blew up; ∞ for never."""

    def get(self, metric: str, field: str = "") -> Floats:
        """Return [conditions, windows, steps]; NaN throughout for a metric that was not measured."""
        shape = (len(self.conditions), len(self.windows), len(self.steps))
        return self.values.get((metric, field), np.full(shape, np.nan))

    def fields(self, metric: str) -> tuple[str, ...]:
        """List the fields a metric was measured on."""
        return tuple(field for name, field in self.values if name == metric)

    def of_role(self, *roles: str) -> list[int]:
        """List the indices of conditions of some roles."""
        return [i for i, condition in enumerate(self.conditions) if condition.role in roles]

    @property
    def unsteered(self) -> int:
        """Index of the unsteered condition.

        Raises:
            PhysteerError: the table has none, or several.
        """
        indices = self.of_role("unsteered")
        if len(indices) != 1:
            names = ", ".join(self.conditions[i].condition for i in indices) or "none"
            raise PhysteerError(f"a table of metrics needs one unsteered condition to compare with; it has {names}")
        return indices[0]

    def truth(self, sign: int) -> int | None:
        """Return the index of the truth at the window's own parameters (sign 0) or at those for ±α; None without."""
        indices = [i for i in self.of_role("truth") if np.sign(self.conditions[i].strength) == sign]
        return indices[0] if indices else None


def metric_array(table: pd.DataFrame, steps: Sequence[int] | None = None) -> MetricArray:
    """Arrange a checked table.

    Args:
        table: from `read_metrics`.
        steps: which steps to keep; all when None.

    Raises:
        PhysteerError: the table contradicts itself.
    """
    keys = table[_KEY_COLUMNS].drop_duplicates()
    twice = keys["condition"].duplicated()
    if twice.any():
        name = keys["condition"][twice].iloc[0]
        raise PhysteerError(f"a table of metrics tells two things of the condition {name!r}")
    conditions = tuple(sorted(ConditionKey(**{str(k): v for k, v in row.items()}) for row in keys.to_dict("records")))
    starts = table[["window", "initial_condition"]].drop_duplicates().sort_values("window")
    windows = tuple(starts["window"])
    if len(set(windows)) < len(windows):
        raise PhysteerError("a table of metrics gives one window two initial conditions")
    c = pd.Index([key.condition for key in conditions]).get_indexer(table["condition"])
    w = pd.Index(windows).get_indexer(table["window"])
    blow_ups = np.full((len(conditions), len(windows)), np.inf)
    blown = (table["metric"] == _BLOW_UP).to_numpy()
    np.minimum.at(blow_ups, (c[blown], w[blown]), np.nan_to_num(table["value"].to_numpy()[blown], nan=np.inf))

    kept_steps = tuple(steps) if steps is not None else tuple(sorted(set(table["step"].tolist())))
    s = pd.Index(kept_steps).get_indexer(table["step"])
    kept = (s >= 0) & ~blown
    shape = (len(conditions), len(windows), len(kept_steps))
    values = {}
    value = table["value"].to_numpy()
    for (metric, field), rows in table[kept].groupby(["metric", "field"], sort=True).indices.items():
        at = np.flatnonzero(kept)[rows]
        measured = np.full(shape, np.nan)
        measured[c[at], w[at], s[at]] = value[at]
        values[str(metric), str(field)] = measured
    result = MetricArray(conditions, windows, tuple(starts["initial_condition"]), kept_steps, values, blow_ups)
    _mask_blow_ups(result)
    return result


def _mask_blow_ups(array: MetricArray) -> None:
    """Set to NaN what is after a blow-up of the rollout itself or of the unsteered one it is compared with."""
    first = array.blow_ups
    reference = array.of_role("unsteered")
    if reference:
        first = np.minimum(first, first[reference].min(0))
    first = first.copy()
    first[array.of_role("truth")] = np.inf
    gone = np.array(array.steps)[None, None, :] >= first[:, :, None]
    for values in array.values.values():
        values[gone] = np.nan
