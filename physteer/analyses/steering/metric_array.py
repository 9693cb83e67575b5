"""The tidy table as arrays: a metric over conditions, windows and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from physteer.errors import PhysteerError

Floats = NDArray[np.float64]

_WHO = ["condition", "role", "direction", "strength", "mode", "site"]
_BLOW_UP = "blow_up_step"


@dataclass(frozen=True, order=True)
class Tried:
    """One condition of a run."""

    role: str
    direction: str
    site: str
    mode: str
    strength: float
    condition: str


@dataclass(frozen=True, eq=False)
class Cube:
    """Values of a run, by metric and field. What follows a blow-up is NaN, and so is all that is compared with it."""

    conditions: tuple[Tried, ...]
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
        found = self.of_role("unsteered")
        if len(found) != 1:
            names = ", ".join(self.conditions[i].condition for i in found) or "none"
            raise PhysteerError(f"a table of metrics needs one unsteered condition to compare with; it has {names}")
        return found[0]

    def truth(self, sign: int) -> int | None:
        """Return the index of the truth at the window's own parameters (sign 0) or at those for ±α; None without."""
        found = [i for i in self.of_role("truth") if np.sign(self.conditions[i].strength) == sign]
        return found[0] if found else None


def step_choice(table: pd.DataFrame) -> tuple[int, ...]:
    """Choose the first, the middle and the last step of a table."""
    last = int(table["step"].max()) if len(table) else 0
    return tuple(sorted({1, (last + 1) // 2, last})) if last else ()


def make_cube(table: pd.DataFrame, steps: Sequence[int] | None = None, metrics: Sequence[str] | None = None) -> Cube:
    """Arrange a checked table.

    Args:
        table: from `read_metrics`.
        steps: which steps to keep; all when None.
        metrics: which metrics to keep; all when None.
    """
    who = table[_WHO].drop_duplicates()
    twice = who["condition"].duplicated()
    if twice.any():
        name = who["condition"][twice].iloc[0]
        raise PhysteerError(f"a table of metrics tells two things of the condition {name!r}")
    conditions = tuple(sorted(Tried(**{str(k): v for k, v in row.items()}) for row in who.to_dict("records")))
    starts = table[["window", "initial_condition"]].drop_duplicates().sort_values("window")
    windows = tuple(starts["window"])
    if len(set(windows)) < len(windows):
        raise PhysteerError("a table of metrics gives one window two initial conditions")
    c = pd.Index([one.condition for one in conditions]).get_indexer(table["condition"])
    w = pd.Index(windows).get_indexer(table["window"])
    blow_ups = np.full((len(conditions), len(windows)), np.inf)
    blown = (table["metric"] == _BLOW_UP).to_numpy()
    np.minimum.at(blow_ups, (c[blown], w[blown]), np.nan_to_num(table["value"].to_numpy()[blown], nan=np.inf))

    chosen = tuple(steps) if steps is not None else tuple(sorted(set(table["step"].tolist())))
    s = pd.Index(chosen).get_indexer(table["step"])
    kept = (s >= 0) & ~blown
    if metrics is not None:
        kept &= table["metric"].isin(list(metrics)).to_numpy()
    shape = (len(conditions), len(windows), len(chosen))
    values = {}
    value = table["value"].to_numpy()
    for (metric, field), rows in table[kept].groupby(["metric", "field"], sort=True).indices.items():
        at = np.flatnonzero(kept)[rows]
        array = np.full(shape, np.nan)
        array[c[at], w[at], s[at]] = value[at]
        values[str(metric), str(field)] = array
    cube = Cube(conditions, windows, tuple(starts["initial_condition"]), chosen, values, blow_ups)
    _mask_blow_ups(cube)
    return cube


def _mask_blow_ups(cube: Cube) -> None:
    """Set to NaN what is after a blow-up of the rollout itself or of the unsteered one it is compared with."""
    first = cube.blow_ups
    reference = cube.of_role("unsteered")
    if reference:
        first = np.minimum(first, first[reference].min(0))
    first = first.copy()
    first[cube.of_role("truth")] = np.inf
    gone = np.array(cube.steps)[None, None, :] >= first[:, :, None]
    for array in cube.values.values():
        array[gone] = np.nan
