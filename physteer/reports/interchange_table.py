"""The table of a run that trains or scores interchanges: one row per arm, metric and field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from physteer.reports.diagnostics import write_csv

MODEL = "model"
"""The kind of the row of the model's own ceiling: the recovery if edits added nothing to the model's error."""


@dataclass(frozen=True)
class InterchangeScore:
    """One cell."""

    site: str
    kind: str
    """``learned``, ``shuffled``, ``random``, ``direction``, ``full`` or ``model``."""
    rank: int
    """Dimensions per variable; of a boundless rotation those it has found."""
    name: str
    """Which random rotation or direction; ``boundless``."""
    metric: str
    """``recovery``, ``interchange_accuracy``, ``movement`` or ``null_movement``."""
    field: str
    """Empty: the mean over fields, or not of a field."""
    value: float
    low: float
    """Of the 95 % interval over initial conditions."""
    high: float
    initial_conditions: int


def write_interchange_table(run_folder: Path, split: str, rows: Sequence[InterchangeScore]) -> Path:
    """Write ``tables/interchange_<split>.csv``; return its path."""
    path = run_folder / "tables" / f"interchange_{split}.csv"
    write_csv(path, [field.name for field in fields(InterchangeScore)], map(astuple, rows))
    return path


def best_learned(rows: Sequence[InterchangeScore]) -> InterchangeScore:
    """Return the learned rotation with the largest mean recovery."""
    means = [row for row in rows if (row.metric, row.field, row.kind) == ("recovery", "", "learned")]
    return max(means, key=lambda row: row.value)


def interchange_text(variables: Sequence[str], split: str, rows: Sequence[InterchangeScore]) -> str:
    """Lay the table out for reading: per site and rank, recovery beside its controls, and what must not move."""
    mean = {(r.site, r.kind, r.rank, r.name): r for r in rows if r.metric == "recovery" and r.field == ""}
    accuracy = {(r.site, r.kind, r.rank, r.name): r.value for r in rows if r.metric == "interchange_accuracy"}
    ceiling = next((r.value for r in mean.values() if r.kind == MODEL), None)
    n = max((r.initial_conditions for r in mean.values()), default=0)
    best = "" if ceiling is None else f"; the model's own ceiling {ceiling:+.2f}"
    lines = [
        f"counterfactual recovery of {', '.join(variables)} on {split} ({n} initial conditions; 0 unedited, 1 exact"
        f"{best})",
        f"{'site':<16}{'rank':>10}{'learned':>9}  {'95 % interval':<17}{'shuffled':>9}{'random ≤':>9}{'all':>7}"
        f"{'accuracy':>10}{'null':>9}",
    ]
    for (site, kind, rank, name), row in mean.items():
        if kind != "learned":
            continue
        shuffled = mean.get((site, "shuffled", rank, name))
        randoms = [r.value for (s, k, n_, _), r in mean.items() if (s, k, n_) == (site, "random", rank)]
        full = next((r.value for (s, k, *_), r in mean.items() if (s, k) == (site, "full")), None)
        moved = _selectivity(rows, site, kind, rank, name)
        cells = [None if shuffled is None else shuffled.value, max(randoms, default=None), full]
        written = [f"{'–' if c is None else f'{c:+.2f}':>{w}}" for c, w in zip(cells, (9, 9, 7), strict=True)]
        interval = f"[{row.low:+.2f}, {row.high:+.2f}]"
        lines.append(
            f"{site:<16}{f'{rank} {name}'.strip():>10}{row.value:>+9.2f}  {interval:<17}{''.join(written)}"
            f"{accuracy[site, kind, rank, name]:>10.2f}{'–' if moved is None else f'{moved:.1%}':>9}"
        )
    for (site, kind, rank, name), row in mean.items():
        if kind == "direction":
            lines.append(f"{site:<16}{rank:>10}{row.value:>+9.2f}  [{row.low:+.2f}, {row.high:+.2f}] along {name}")
    if any(r.metric == "null_movement" for r in rows):
        lines.append(
            "null: how far a source that differs in another parameter alone moves the prediction, over how far pairs do"
        )
    return "\n".join(lines)


def _selectivity(rows: Sequence[InterchangeScore], site: str, kind: str, rank: int, name: str) -> float | None:
    """Return the movement on null pairs over that on pairs, fields' squares added up; None without null pairs."""
    squares = {
        metric: [
            r.value**2 for r in rows if (r.site, r.kind, r.rank, r.name, r.metric) == (site, kind, rank, name, metric)
        ]
        for metric in ("movement", "null_movement")
    }
    if not squares["null_movement"] or not sum(squares["movement"]):
        return None
    return float((sum(squares["null_movement"]) / sum(squares["movement"])) ** 0.5)
