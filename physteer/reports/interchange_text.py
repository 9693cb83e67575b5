"""What an interchange search found, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from physteer.analyses.das.table import MODEL, UNEDITED, InterchangeScore
from physteer.reports.text_table import text_table

_HEADER = ("site", "rank", "learned", "95 % interval", "shuffled", "random ≤", "all")
_ALIGN = "<>><>"


def interchange_line(rows: Sequence[InterchangeScore]) -> str:
    """Return in one line the largest recovery of each kind, and the largest class accuracies where there are some."""
    parts = []
    for metric, field in [("recovery", ""), *(("class_accuracy", parameter) for parameter in parameters_of(rows))]:
        best = {row.kind: row for row in sorted(_variants(rows, metric, field), key=lambda row: row.value)}
        name = "recovery " if metric == "recovery" else f"class accuracy, {field}: "
        parts.append(name + ", ".join(f"{kind} {row.value:+.2f} ({row.site})" for kind, row in best.items()))
    return "; ".join(parts)


def interchange_text(rows: Sequence[InterchangeScore], variables: str, split: str) -> str:
    """Lay the table out for reading: per site and rank, recovery beside its controls, and what must not move.

    Below it, the same of the class accuracies where there are some.

    Args:
        rows: of one split.
        variables: whose counterfactual it is.
        split: whose pairs.
    """
    ceiling = _of_kind(rows, MODEL, "recovery", "")
    n = max((row.initial_conditions for row in rows if row.metric == "recovery"), default=0)
    lines = [
        f"counterfactual recovery of {variables} on {split} ({n} initial conditions; 0 unedited, 1 exact"
        + ("" if ceiling is None else f"; the model's own ceiling {ceiling:+.2f}")
        + ")",
        *_comparison(rows, "recovery", "", with_accuracy=True),
    ]
    if any(row.metric == "null_movement" for row in rows):
        lines.append(
            "null: how far a source that differs in another parameter alone moves the prediction, over how far pairs do"
        )
    for parameter in parameters_of(rows):
        own, base = (_of_kind(rows, kind, "class_accuracy", parameter) for kind in (MODEL, UNEDITED))
        known = "" if own is None or base is None else f" ({own:.2f} in the sources' own passes, {base:.2f} unedited)"
        lines.append(f"class accuracy: share of pairs read as of the source's {parameter}{known}")
        lines += _comparison(rows, "class_accuracy", parameter)
    return "\n".join(lines)


def parameters_of(rows: Sequence[InterchangeScore]) -> list[str]:
    """Return the parameters whose classes were read."""
    return list(dict.fromkeys(row.field for row in rows if row.metric == "class_accuracy"))


def _comparison(rows: Sequence[InterchangeScore], metric: str, field: str, *, with_accuracy: bool = False) -> list[str]:
    """Return a line for each learned rotation, with its controls, then one for each fixed direction."""
    variants = _variants(rows, metric, field)
    accuracy = {_key(row): row.value for row in rows if row.metric == "interchange_accuracy"}
    null = {_key(row): f"{row.value:.1%}" for row in rows if row.metric == "null_share"}
    table = []
    for row in (row for row in variants if row.kind == "learned"):
        same_site = [other for other in variants if other.site == row.site]
        controls = (
            [r.value for r in same_site if (r.kind, r.rank, r.name) == ("shuffled", row.rank, row.name)],
            [r.value for r in same_site if (r.kind, r.rank) == ("random", row.rank)],
            [r.value for r in same_site if r.kind == "full"],
        )
        best = [f"{max(values):+.2f}" if values else "–" for values in controls]
        added = [f"{accuracy[_key(row)]:.2f}", null.get(_key(row), "–")] if with_accuracy else []
        table.append([row.site, f"{row.rank} {row.name}".strip(), f"{row.value:+.2f}", _interval(row), *best, *added])
    fixed = [row for row in variants if row.kind == "direction"]
    n_columns = len(_HEADER) + 2 * with_accuracy
    for row in fixed:
        cells = [row.site, str(row.rank), f"{row.value:+.2f}", f"{_interval(row)} along {row.name}"]
        table.append(cells + [""] * (n_columns - len(cells)))
    return text_table([*_HEADER, *(["accuracy", "null"] if with_accuracy else [])], table, _ALIGN)


def _variants(rows: Sequence[InterchangeScore], metric: str, field: str) -> list[InterchangeScore]:
    return [row for row in rows if (row.metric, row.field) == (metric, field) and row.kind not in (MODEL, UNEDITED)]


def _of_kind(rows: Sequence[InterchangeScore], kind: str, metric: str, field: str) -> float | None:
    return next((row.value for row in rows if (row.kind, row.metric, row.field) == (kind, metric, field)), None)


def _key(row: InterchangeScore) -> tuple[str, str, int, str]:
    return row.site, row.kind, row.rank, row.name


def _interval(row: InterchangeScore) -> str:
    return f"[{row.low:+.2f}, {row.high:+.2f}]"
