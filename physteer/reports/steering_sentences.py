"""What a mean hides, in sentences and tables: gains that differ over fields, and initial conditions one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from physteer.analyses.steering.initial_condition_rows import InitialConditionRow
from physteer.analyses.steering.summary_rows import MEAN_OVER_FIELDS, SummaryRow
from physteer.analyses.steering.table import Setting
from physteer.reports.summary_index import SummaryIndex
from physteer.reports.summary_tables import number_text, series_text, short, strength_text
from physteer.reports.terminology import Terminology

_WIDTH = 100
_SINGLE = {  # title and kind of number by quantity
    "recovery": ("recovery", "number"),
    "agreement": ("agreement", "number"),
    "enstrophy": ("enstrophy, %", "percent"),
    "enstrophy_truth": ("truth, %", "percent"),
}


def setting_text(setting: Setting) -> str:
    """Return ``vortex at blocks.1, drop, α +0.4``."""
    return f"{series_text(setting)}, α {strength_text(setting.strength)}"


def global_sentences(rows: Sequence[SummaryRow], settings: Sequence[Setting], terms: Terminology) -> list[str]:
    """Say how settings rank among their controls over all fields and steps; none without controls."""
    index, quantity = SummaryIndex(rows), "recovery" if terms.has_strengths else "movement"
    sentences = []
    for setting in settings:
        names = (f"{quantity}_overall", f"{quantity}_cells", f"{quantity}_cells_first")
        found = [row for name in names for field in index.fields(name) if (row := index.row(setting, name, field, 0))]
        if len(found) == len(names):
            overall, cells, first = found
            rank = round(overall.p * (1 + overall.controls))
            label = setting_text(setting) if terms.has_strengths else series_text(setting)
            sentences.append(
                f"{label}: {quantity} {number_text(overall.value)}, rank {rank} of {1 + overall.controls} "
                f"(p = {overall.p:.2g}); first in {first.value:.0f} of {cells.value:.0f} cells."
            )
    if not sentences:
        return []
    opening = f"One test each, of the mean {quantity} over all fields and steps, among {terms.control}s:"
    return [opening, *sentences]


def gain_sentences(rows: Sequence[SummaryRow], settings: Sequence[Setting]) -> list[str]:
    """Say how far apart the gains of fields are, a sentence per setting; none where fewer than two fields change."""
    index = SummaryIndex(rows)
    fields = [field for field in index.fields("alignment_gain") if field != MEAN_OVER_FIELDS]
    if len(fields) < 2:
        return []
    sentences = []
    for setting in settings:
        parts = []
        for step in sorted({*index.steps[:1], *index.steps[-1:]}):
            gains = {field: row.value for field in fields if (row := index.row(setting, "alignment_gain", field, step))}
            known = {field: value for field, value in gains.items() if math.isfinite(value)}
            if known:
                low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
                ends = [f"{number_text(known[field])} ({short(field)})" for field in (low, high)]
                parts.append(f"{' to '.join(ends)} at step {step}")
        if parts:
            sentences.append(f"{setting_text(setting)}: {', '.join(parts)}.")
    if not sentences:
        return []
    return ["Gain per field, smallest to largest; a change of viscosity has equal gains:", *sentences]


@dataclass(frozen=True)
class SingleValues:
    """A table of initial conditions one by one."""

    header: list[str]
    lines: list[list[str]]


def single_value_table(singles: Sequence[InitialConditionRow], setting: Setting) -> SingleValues | None:
    """Return what a setting did from each initial condition at the first and last step; None where nothing is known."""
    own = {(row.initial_condition, row.step, row.quantity): row.value for row in singles if row.setting == setting}
    quantities = [name for name in _SINGLE if any(key[2] == name for key in own)]
    steps = sorted({step for _, step, _ in own})
    if not quantities:
        return None
    lines = []
    for name in sorted({name for name, _, _ in own}):
        for step in sorted({*steps[:1], *steps[-1:]}):
            cells = [number_text(own.get((name, step, q), math.nan), _SINGLE[q][1]) for q in quantities]
            lines.append([name, str(step), *cells])
    return SingleValues(["initial condition", "step", *(_SINGLE[name][0] for name in quantities)], lines)


def wrapped(sentences: Sequence[str]) -> list[str]:
    """Break sentences for a terminal, indented below the first."""
    return [
        line
        for number, sentence in enumerate(sentences)
        for line in wrap(sentence, _WIDTH, initial_indent="  " * (number > 0), subsequent_indent="    ")
    ]
