"""The rows of a summary by what they are of, for figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from physteer.analyses.steering.summary_rows import (
    FEWEST_FOR_INTERVALS,
    MEAN_OVER_FIELDS,
    SummaryRow,
    reported_steps,
    strengths_equal,
)
from physteer.analyses.steering.table import Series, Setting


class SummaryIndex:
    """Finds the rows of a summary: over steps, and those of a setting's controls."""

    def __init__(self, rows: Sequence[SummaryRow]) -> None:
        """Sort rows of one run; those about all strengths together are left out."""
        self._curves: dict[tuple[Setting, str, str], dict[int, SummaryRow]] = {}
        self.settings: dict[Setting, None] = {}
        for row in rows:
            if not math.isnan(row.strength):
                setting = row.setting
                self.settings[setting] = None
                self._curves.setdefault((setting, row.quantity, row.field), {})[row.step] = row
        self.steps = sorted({row.step for row in rows if row.step})
        self.shown_steps = [step for step in reported_steps(rows) if step in set(self.steps)]
        self.initial_conditions = max((row.initial_conditions for row in rows), default=0)

    @property
    def interval_words(self) -> str:
        """What a caption says of intervals, after a comma or not at all."""
        few = self.initial_conditions < FEWEST_FOR_INTERVALS
        return " (too few for an interval)" if few else ", with its 95 % interval"

    def row(self, setting: Setting, quantity: str, field: str = "", step: int = 1) -> SummaryRow | None:
        """Return one row; None where there is none."""
        return self._curves.get((setting, quantity, field), {}).get(step)

    def curve(self, setting: Setting, quantity: str, field: str = "") -> list[SummaryRow]:
        """Return the rows of all steps, in their order."""
        by_step = self._curves.get((setting, quantity, field), {})
        return [by_step[step] for step in sorted(by_step) if step]

    def values(self, setting: Setting, quantity: str, field: str = "") -> list[float]:
        """Return the value at each of `steps`; NaN where there is none."""
        by_step = self._curves.get((setting, quantity, field), {})
        return [by_step[step].value if step in by_step else math.nan for step in self.steps]

    def fields(self, quantity: str) -> list[str]:
        """List the fields that a quantity has rows of."""
        return list(dict.fromkeys(field for _, name, field in self._curves if name == quantity))

    def main_field(self, quantity: str) -> str:
        """Return the mean over fields where there is one, or else the first field."""
        fields = self.fields(quantity)
        return MEAN_OVER_FIELDS if MEAN_OVER_FIELDS in fields else next(iter(fields), "")

    def of_role(self, *roles: str) -> list[Setting]:
        """List the settings of some roles, in the order of the rows."""
        return [setting for setting in self.settings if setting.role in roles]

    def on_curve(self, series: Series, role: str = "concept") -> list[Setting]:
        """List the settings of one series, from − to + strength."""
        return sorted(setting for setting in self.of_role(role) if setting.series == series)

    def controls(self, setting: Setting) -> list[Setting]:
        """List the random directions at a setting's sites, mode and α."""
        random = [other for other in self.of_role("random") if setting.has_control(other)]
        return [other for other in random if strengths_equal(other.strength, setting.strength)]

    def control_curves(self, setting: Setting, role: str) -> list[list[Setting]]:
        """List the controls of one role by direction, from − to + strength, at a setting's sites and mode."""
        if role == "random":
            controls = [other for other in self.of_role(role) if setting.has_control(other)]
        elif role in ("data", "blurred"):  # change the input or the output, at no site
            controls = self.of_role(role)
        else:
            place = (setting.site, setting.mode)
            controls = [other for other in self.of_role(role) if (other.site, other.mode) == place]
        return [list(members) for _, members in groupby(sorted(controls), key=lambda other: other.direction)]
