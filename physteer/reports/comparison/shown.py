"""Which rows of aligned tables are shown first, and how their cells read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from physteer.reports.comparison.alignment import BETWEEN, AlignedRow, AlignedTable
from physteer.reports.comparison.estimates import Estimate, Label

_HEADLINES = (
    *("recovery", "nearness", "alignment_cosine", "alignment_gain", "interchange_accuracy", "class_accuracy"),
    *(
        "r2",
        "selectivity",
        "over_input",
        "accuracy",
        "aligned",
        "field",
        "class_changed",
        "faithfulness",
        "completeness",
        "cpr",
        "share",
    ),
    *("cumulative", "vrmse", "null_share", "movement", "null_movement", "enstrophy"),
)
"""Metrics by importance; of tables with none of them, the first is shown."""
MOST_HEADLINES = 3
_MEANS = ("", "mean over fields", "mean_over_fields")
_BACKGROUND = ("random", "truth", "unsteered", "unedited")
"""Roles that are counted by the dozen or are references, and shown only among all rows."""
_OWN = {
    "role": "concept",
    "kind": "learned",
    "method": "causal",
    "control": "probe",
    "forecast": "model",
    "order": "attribution",
}
"""What is judged, by the column that says so: all others are its controls."""
_PREFERRED: Mapping[str, tuple[Label, ...]] = {
    "field": _MEANS,
    "region": ("",),
    "position": (-1,),
    "variant": ("source",),
    "resolution": ("token",),
    "order": ("attribution",),
}
"""Labels that the first look is limited to, where there are such rows."""
_IMPLIED = {"node": ("block", "kind", "head")}
"""Columns that another one says already."""
_UNITS = {
    "recovery": "0: as unedited, 1: exact",
    "nearness": "0: as unedited, 1: exact",
    "alignment_cosine": "−1…1",
    "alignment_gain": "share of the true change",
    "interchange_accuracy": "share of pairs",
    "class_accuracy": "share of pairs",
    "accuracy": "share of frames",
    "r2": "0: no better than the mean, 1: exact",
    "selectivity": "R² − R² of shuffled targets",
    "over_input": "R² − R² of the better input",
    "aligned": "share of the true change",
    "field": "share of the movement of the whole source",
    "class_changed": "share of pairs",
    "faithfulness": "0: all resampled, 1: all kept",
    "completeness": "0: all resampled, 1: all kept",
    "share": "share of the energy of everything",
    "vrmse": "in standard deviations of the truth",
    "enstrophy": "relative change",
    "movement": "in standard deviations of the field",
    "null_movement": "in standard deviations of the field",
    "null_share": "null pairs over pairs",
}
_NAMES = {
    "over_input": "above input",
    "r2": "R²",
    "vrmse": "VRMSE",
    "mae": "mean absolute error",
    "cpr": "CPR",
    "cmd": "CMD",
    "aligned": "aligned effect",
    "field": "field effect",
}
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Look:
    """Some rows of a table, with the columns in which they differ."""

    columns: tuple[str, ...]
    """Those whose labels are not the same in all rows."""
    common: str
    """The labels that all rows share, in words."""
    rows: tuple[AlignedRow, ...]


def metrics_of(table: AlignedTable) -> list[str]:
    """List the metrics of a table, the most important first."""
    metrics = list(dict.fromkeys(row.metric for row in table.rows))
    return sorted(metrics, key=lambda name: _HEADLINES.index(name) if name in _HEADLINES else len(_HEADLINES))


def headlines(table: AlignedTable) -> list[str]:
    """List the few metrics of a table that are shown first."""
    metrics = metrics_of(table)
    return [name for name in metrics if name in _HEADLINES][:MOST_HEADLINES] or metrics[:1]


def first_rows(table: AlignedTable, metric: str) -> list[AlignedRow]:
    """Choose the rows of a metric for the first look: means over fields, no references, the last step in two runs."""
    rows = [row for row in table.rows if row.metric == metric]
    rows = [row for row in rows if any(e is not None and math.isfinite(e.value) for e in row.estimates)] or rows
    rows = without_references(table, rows) or rows
    for column, labels in _PREFERRED.items():
        rows = [row for row in rows if table.label(row, column) in labels] or rows
    for column, nearest in (("step", math.inf), ("scale", 1.0)):
        if column in table.columns:
            shared = [row for row in rows if row.n_runs > 1] or rows
            numbers = [label for row in shared if isinstance(label := table.label(row, column), int | float)]
            if numbers:
                best = max(numbers) if math.isinf(nearest) else min(numbers, key=lambda number: abs(number - nearest))
                rows = [row for row in rows if table.label(row, column) in (best, 0 if column == "step" else best)]
    return _data_sets_together(table, rows)


def _data_sets_together(table: AlignedTable, rows: Sequence[AlignedRow]) -> list[AlignedRow]:
    """Put rows that differ in their data set alone below one another: simple flows and full simulations of a probe."""
    groups: dict[tuple[Label, ...], list[AlignedRow]] = {}
    for row in rows:
        others = [label for column, label in zip(table.columns, row.labels, strict=True) if column != "data"]
        groups.setdefault(tuple(others), []).append(row)
    return [row for group in groups.values() for row in group]


def without_references(table: AlignedTable, rows: Sequence[AlignedRow]) -> list[AlignedRow]:
    """Leave out single random controls and references; no row where there are no others."""
    return [row for row in rows if table.label(row, table.role) not in _BACKGROUND]


def judged(table: AlignedTable, rows: Sequence[AlignedRow]) -> list[AlignedRow]:
    """Keep the rows that are no controls; all where none is."""
    return [row for row in rows if table.label(row, table.role) == _OWN.get(table.role)] or list(rows)


def look(table: AlignedTable, rows: Iterable[AlignedRow]) -> Look:
    """Take out the columns whose label all rows share."""
    rows = tuple(rows)
    implied = {name for column, names in _IMPLIED.items() if column in table.columns for name in names}
    varying, common = [], []
    for column in table.columns:
        labels = {table.label(row, column) for row in rows}
        if column in implied:
            continue
        if len(labels) > 1:
            varying.append(column)
        elif (label := next(iter(labels), "")) not in ("", -1):
            common.append(f"{column.replace('_', ' ')} {label_text(label)}")
    return Look(tuple(varying), ", ".join(common), rows)


def label_text(label: Label) -> str:
    """Return a label with a true minus sign before numbers."""
    return f"{label:.6g}".replace("-", "−") if isinstance(label, int | float) else label


def metric_name(metric: str) -> str:
    """Return a metric's name for reading."""
    return _NAMES.get(metric, metric.replace("_", " "))


def metric_title(metric: str) -> str:
    """Return a metric's name with its unit, where it is known."""
    unit = _UNITS.get(metric)
    return metric_name(metric) + (f" ({unit})" if unit else "")


def cell(estimate: Estimate | None) -> str:
    """Return ``+0.51 [+0.42, +0.60]*``; a dash where a run has no such row."""
    if estimate is None:
        return "–"
    text = number(estimate.value)
    if math.isfinite(estimate.low):
        text += f" [{number(estimate.low)}, {number(estimate.high)}]"
    return text + ("*" if estimate.p <= _SIGNIFICANT else "")


def number(value: float) -> str:
    """Return three digits, with a true minus sign."""
    if not math.isfinite(value):
        return "undefined"
    text = f"{value:.3f}" if 0.0995 <= abs(value) < 10 else f"{value:.3g}"
    return text.replace("-", "−")


def capitalised(text: str) -> str:
    """Return a text with a capital at its beginning, the rest as it is."""
    return text[:1].upper() + text[1:]


def has_stars(rows: Iterable[AlignedRow]) -> bool:
    """Whether a cell carries the star of p ≤ 0.05."""
    return any(estimate is not None and estimate.p <= _SIGNIFICANT for row in rows for estimate in row.estimates)


def answer(table: AlignedTable) -> str:
    """Say in a sentence which run has the larger values of a table's main metric, and where intervals lie apart.

    Counts cells of the table; a value that is larger need not be better, and intervals of two runs are no paired test.
    """
    metric = headlines(table)[0]
    rows = judged(table, first_rows(table, metric))
    both = [row for row in rows if row.n_runs > 1 and _finite(row)]
    where = look(table, both or rows)
    of = capitalised(f"{metric_name(metric)}, tables/{table.name}") + (f" ({where.common})" if where.common else "")
    if not both:
        return f"{of}: no two runs have a row in common, so no values stand side by side."
    wins, apart = dict.fromkeys(table.runs, 0), dict.fromkeys(table.runs, 0)
    for row in both:
        i, is_apart = _largest(row)
        if i >= 0:
            wins[table.runs[i]] += 1
            apart[table.runs[i]] += is_apart
    if len(both) == 1:
        row = both[0]
        values = ", ".join(
            f"{run} {cell(estimate)}" + (f" (n = {estimate.initial_conditions})" if estimate.initial_conditions else "")
            for run, estimate in zip(table.runs, row.estimates, strict=True)
            if estimate is not None
        )
        return f"{of}: {values}; the intervals {'lie apart' if any(apart.values()) else 'overlap or are not known'}."
    ties = len(both) - sum(wins.values())
    parts = [f"{run} is largest in {n} ({apart[run]} with an interval above the others')" for run, n in wins.items()]
    parts += [f"{ties} are equal"] if ties else []
    return f"{of}: of {len(both)} rows that two runs or more have, {', '.join(parts)}."


def _finite(row: AlignedRow) -> bool:
    return sum(estimate is not None and math.isfinite(estimate.value) for estimate in row.estimates) > 1


def _largest(row: AlignedRow) -> tuple[int, bool]:
    """Return the run with the largest value, −1 where two have it, and whether its interval is above all others."""
    known = {i: e for i, e in enumerate(row.estimates) if e is not None and math.isfinite(e.value)}
    best = max(known, key=lambda i: known[i].value)
    if sum(estimate.value == known[best].value for estimate in known.values()) > 1:
        return -1, False
    return best, all(known[best].low > estimate.high for i, estimate in known.items() if i != best)


def names_runs(rows: Iterable[AlignedRow]) -> bool:
    """Whether a label names what each run has, side by side."""
    return any(BETWEEN in label for row in rows for label in row.labels if isinstance(label, str))
