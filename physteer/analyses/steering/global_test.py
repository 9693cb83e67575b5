"""One test of a setting before its cells: what it does over all fields and steps, ranked among its controls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from physteer.analyses.steering.metric_array import Floats
from physteer.analyses.steering.summary_rows import SummaryRow, summary_row
from physteer.analyses.steering.table import Setting
from physteer.metrics.statistics import Interval, control_p_value


def global_rows(
    setting: Setting, quantity: str, together: Floats, cells: Floats, n_initial: int, n_windows: int
) -> Iterator[SummaryRow]:
    """Yield the mean of a quantity over fields and steps with its rank, and in how many cells the setting is first.

    A mean with a step that is not finite ranks last for the setting and first for a control (`control_p_value`).

    Args:
        setting: that is judged.
        quantity: of which more is evidence.
        together: its mean over fields, [1 + controls, steps]; the setting comes first.
        cells: field by field, [1 + controls, cells].
        n_initial: initial conditions that it rests on.
        n_windows: of the run.
    """
    own, *controls = together.mean(1).tolist()
    n_controls = len(controls)

    def row(name: str, value: float) -> SummaryRow:
        return summary_row(setting, name, "", 0, Interval(value, math.nan, math.nan, n_initial), n_windows)

    p = control_p_value(own, controls)
    yield replace(row(f"{quantity}_overall", own), p=p, controls=n_controls)
    known = np.isfinite(cells[0])
    first = known & (cells[0] > np.where(np.isfinite(cells[1:]), cells[1:], np.inf)).all(0)
    yield replace(row(f"{quantity}_cells", float(known.sum())), controls=n_controls)
    yield replace(row(f"{quantity}_cells_first", float(first.sum())), controls=n_controls)


def values_of(intervals: Sequence[Sequence[Interval]]) -> Floats:
    """Return the values of several conditions at every step, [conditions, steps]."""
    return np.array([[interval.value for interval in by_step] for by_step in intervals])
