"""Which probe of a target is reported, beside the controls that read the input, on every data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from physteer.analyses.probing.table import ProbeScore

DATA = {"simple": "held-out simple flows", "full": "full simulations", "held_out": "held-out windows"}
"""What data sets are called."""
INPUTS = {"random_features": "random features", "raw_patch": "raw patch"}
"""Controls that read the input, and what they are called."""


@dataclass(frozen=True)
class ChosenProbe:
    """The probe of one target at its site, on every data set."""

    target: str
    site: str
    own: dict[str, ProbeScore]
    """By data set."""
    shuffled: dict[str, ProbeScore]
    inputs: dict[tuple[str, str], ProbeScore]
    """By data set and control."""

    def best_input(self, data: str) -> ProbeScore | None:
        """Return the control on the input with the larger R² on a data set; None where there is none."""
        rows = [row for (name, _), row in self.inputs.items() if name == data and math.isfinite(row.r2)]
        return max(rows, key=lambda row: row.r2, default=None)

    def loses_to_input(self, data: str) -> bool:
        """Whether random features or the raw patch have an R² at least as large as the probe's."""
        best = self.best_input(data)
        return best is not None and not self.own[data].r2 > best.r2

    def surely_beats_input(self, data: str) -> bool:
        """Whether the interval of the difference from the better control lies above 0."""
        return self.own[data].over_input_low > 0


def resolutions(rows: Sequence[ProbeScore]) -> list[str]:
    """List the resolutions of a table, per token first."""
    return [name for name in ("token", "pooled") if any(row.resolution == name for row in rows)]


def data_sets(rows: Sequence[ProbeScore]) -> list[str]:
    """List the data sets of a table: simple flows before full simulations."""
    there = {row.data for row in rows}
    return [name for name in DATA if name in there]


def chosen_on(rows: Sequence[ProbeScore]) -> str:
    """Return in words what sites are chosen on: ``valid``, or the first data set of a table that does not have it."""
    if any(math.isfinite(row.valid_r2) for row in rows):
        return "valid"
    return f"the {DATA[data_sets(rows)[0]]} themselves"


def chosen_probes(rows: Sequence[ProbeScore], resolution: str) -> list[ChosenProbe]:
    """Choose for each target the site with the largest R² on ``valid``.

    Tables of earlier versions do not have it: there, by the first data set.

    Args:
        rows: of a run.
        resolution: ``token`` or ``pooled``.
    """
    rows = [row for row in rows if row.resolution == resolution]
    sites = list(dict.fromkeys(row.site for row in rows if row.site))
    on_valid = any(math.isfinite(row.valid_r2) for row in rows)
    found = []
    for target in dict.fromkeys(row.target for row in rows):
        probes = [probe for site in sites if (probe := _probe(rows, target, site)) is not None]

        def score(probe: ChosenProbe) -> float:
            first = next(iter(probe.own.values()))
            value = first.valid_r2 if on_valid else first.r2
            return value if math.isfinite(value) else -math.inf

        if probes:
            found.append(max(probes, key=score))
    return found


def all_probes(rows: Sequence[ProbeScore], resolution: str) -> list[ChosenProbe]:
    """Return the probes of every target and site."""
    rows = [row for row in rows if row.resolution == resolution]
    places = dict.fromkeys((row.target, row.site) for row in rows if row.site)
    return [probe for target, site in places if (probe := _probe(rows, target, site)) is not None]


def _probe(rows: Sequence[ProbeScore], target: str, site: str) -> ChosenProbe | None:
    same = [row for row in rows if row.target == target]
    own = {row.data: row for row in same if (row.control, row.site) == ("probe", site)}
    shuffled = {row.data: row for row in same if (row.control, row.site) == ("shuffled", site)}
    inputs: dict[tuple[str, str], ProbeScore] = {(row.data, row.control): row for row in same if row.control in INPUTS}
    return ChosenProbe(target, site, own, shuffled, inputs) if own else None
