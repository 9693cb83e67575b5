"""The table of a run that trains or scores interchanges: one row per variant, metric and field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from physteer.tables import write_rows

MODEL, UNEDITED = "model", "unedited"
"""Kinds of rows without an intervention. ``model`` is the ceiling: the recovery if edits added nothing to the model's
error, and the class accuracy in the sources' own passes. ``unedited`` is the floor: the class accuracy in the bases."""


@dataclass(frozen=True)
class InterchangeScore:
    """One score of one variant."""

    site: str
    kind: str
    """``learned``, ``shuffled``, ``random``, ``direction``, ``full``, ``model`` or ``unedited``."""
    rank: int
    """Dimensions per variable; of a boundless rotation those it exchanges after training."""
    name: str
    """Number of a random rotation, name of a direction, or ``boundless``."""
    metric: str
    """``recovery``, ``interchange_accuracy``, ``class_accuracy``, ``movement`` or ``null_movement``."""
    field: str
    """Empty for the mean over fields, and where there are no fields. For a class accuracy the parameter."""
    value: float
    low: float
    """Lower end of the 95 % interval over initial conditions."""
    high: float
    initial_conditions: int


def write_interchange_table(run_folder: Path, split: str, rows: Sequence[InterchangeScore]) -> Path:
    """Write ``tables/interchange_<split>.parquet`` and ``.csv``; return the first."""
    return write_rows(run_folder / "tables" / f"interchange_{split}", InterchangeScore, rows)


def best_learned(rows: Sequence[InterchangeScore]) -> InterchangeScore:
    """Return the learned rotation with the largest mean recovery."""
    means = [row for row in rows if (row.metric, row.field, row.kind) == ("recovery", "", "learned")]
    return max(means, key=lambda row: row.value)


def interchange_line(rows: Sequence[InterchangeScore]) -> str:
    """Return one line with the largest recovery of each kind, and the largest class accuracies if there are any."""
    parts = []
    for metric, field in [("recovery", ""), *(("class_accuracy", parameter) for parameter in _parameters(rows))]:
        best = {row.kind: row for row in sorted(_variants(rows, metric, field), key=lambda row: row.value)}
        name = "recovery " if metric == "recovery" else f"class accuracy, {field}: "
        parts.append(name + ", ".join(f"{kind} {row.value:+.2f} ({row.site})" for kind, row in best.items()))
    return "; ".join(parts)


def interchange_text(variables: Sequence[str], split: str, rows: Sequence[InterchangeScore]) -> str:
    """Return the table as text: per site and rank the recovery, its controls, and the movement on null pairs.

    The class accuracies, if there are any, follow in the same form.
    """
    accuracy = {(r.site, r.kind, r.rank, r.name): r.value for r in rows if r.metric == "interchange_accuracy"}

    def beside(row: InterchangeScore) -> str:
        variant = (row.site, row.kind, row.rank, row.name)
        moved = _selectivity(rows, *variant)
        return f"{accuracy[variant]:>10.2f}{'–' if moved is None else f'{moved:.1%}':>9}"

    ceiling = _of_kind(rows, MODEL, "recovery", "")
    n = max((r.initial_conditions for r in rows if r.metric == "recovery"), default=0)
    lines = [
        f"counterfactual recovery of {', '.join(variables)} on {split} ({n} initial conditions; 0 unedited, 1 exact"
        + ("" if ceiling is None else f"; the model's own ceiling {ceiling:+.2f}")
        + ")",
        f"{_HEADER}{'accuracy':>10}{'null':>9}",
        *_compared(rows, "recovery", "", beside),
    ]
    if any(r.metric == "null_movement" for r in rows):
        lines.append(
            "null: how far a source that differs in another parameter alone moves the prediction, over how far pairs do"
        )
    for parameter in _parameters(rows):
        ceiling, floor = (_of_kind(rows, kind, "class_accuracy", parameter) for kind in (MODEL, UNEDITED))
        known = (
            ""
            if ceiling is None or floor is None
            else f" ({ceiling:.2f} in the sources' own passes, {floor:.2f} unedited)"
        )
        lines.append(f"class accuracy: share of pairs read as of the source's {parameter}{known}")
        lines += [_HEADER, *_compared(rows, "class_accuracy", parameter, lambda row: "")]
    return "\n".join(lines)


_HEADER = f"{'site':<16}{'rank':>10}{'learned':>9}  {'95 % interval':<17}{'shuffled':>9}{'random ≤':>9}{'all':>7}"


def _compared(
    rows: Sequence[InterchangeScore], metric: str, field: str, beside: Callable[[InterchangeScore], str]
) -> list[str]:
    """Return a line for each learned rotation, with its controls, then one for each fixed direction."""
    variants = _variants(rows, metric, field)
    lines = []
    for row in variants:
        if row.kind != "learned":
            continue
        here = [r for r in variants if r.site == row.site]
        controls = (
            [r.value for r in here if (r.kind, r.rank, r.name) == ("shuffled", row.rank, row.name)],
            [r.value for r in here if (r.kind, r.rank) == ("random", row.rank)],
            [r.value for r in here if r.kind == "full"],
        )
        written = [f"{f'{max(c):+.2f}' if c else '–':>{w}}" for c, w in zip(controls, (9, 9, 7), strict=True)]
        rank = f"{row.rank} {row.name}".strip()
        lines.append(f"{row.site:<16}{rank:>10}{row.value:>+9.2f}  {_interval(row):<17}{''.join(written)}{beside(row)}")
    directions = [r for r in variants if r.kind == "direction"]
    return lines + [f"{r.site:<16}{r.rank:>10}{r.value:>+9.2f}  {_interval(r)} along {r.name}" for r in directions]


def _variants(rows: Sequence[InterchangeScore], metric: str, field: str) -> list[InterchangeScore]:
    return [row for row in rows if (row.metric, row.field) == (metric, field) and row.kind not in (MODEL, UNEDITED)]


def _of_kind(rows: Sequence[InterchangeScore], kind: str, metric: str, field: str) -> float | None:
    return next((r.value for r in rows if (r.kind, r.metric, r.field) == (kind, metric, field)), None)


def _parameters(rows: Sequence[InterchangeScore]) -> list[str]:
    """Return the parameters that have class accuracies."""
    return list(dict.fromkeys(row.field for row in rows if row.metric == "class_accuracy"))


def _interval(row: InterchangeScore) -> str:
    return f"[{row.low:+.2f}, {row.high:+.2f}]"


def _selectivity(rows: Sequence[InterchangeScore], site: str, kind: str, rank: int, name: str) -> float | None:
    """Return the movement on null pairs divided by that on pairs (RMS over fields); None without null pairs."""
    squares = {
        metric: [
            r.value**2 for r in rows if (r.site, r.kind, r.rank, r.name, r.metric) == (site, kind, rank, name, metric)
        ]
        for metric in ("movement", "null_movement")
    }
    if not squares["null_movement"] or not sum(squares["movement"]):
        return None
    return float((sum(squares["null_movement"]) / sum(squares["movement"])) ** 0.5)
