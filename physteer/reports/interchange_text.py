"""What an interchange search found, for a terminal and a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from physteer.analyses.das.table import ABOVE_SHUFFLED, MODEL, P_VALUE, UNEDITED, InterchangeScore
from physteer.reports.text_table import text_table

_CONTROLS = ("95 % interval", "shuffled", "learned − shuffled", "random ≤", "p", "all")
_ALIGN = "<>><><>"


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores, with what is to be said of it."""

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    align: str
    """Per column, as for `text_table`."""
    note: str = ""
    """Below the table."""


def interchange_line(rows: Sequence[InterchangeScore]) -> str:
    """Return in one line the largest recovery, nearness and class accuracies of each kind, where there are some."""
    parts = []
    means = [("recovery", ""), ("nearness", "")]
    for metric, field in [*means, *(("class_accuracy", parameter) for parameter in parameters_of(rows))]:
        best = {row.kind: row for row in sorted(_variants(rows, metric, field), key=lambda row: row.value)}
        name = f"{metric} " if field == "" else f"class accuracy, {field}: "
        parts.append(name + ", ".join(f"{kind} {row.value:+.2f} ({row.site})" for kind, row in best.items()))
    return "; ".join(parts)


def interchange_text(rows: Sequence[InterchangeScore], variables: str, split: str) -> str:
    """Lay out for a terminal what `interchange_tables` returns."""
    lines: list[str] = []
    for table in interchange_tables(rows, variables, split):
        lines += [table.title, *text_table(table.header, table.lines, table.align), *([table.note] * bool(table.note))]
    return "\n".join(lines)


def interchange_tables(rows: Sequence[InterchangeScore], variables: str, split: str) -> list[ScoreTable]:
    """Return recovery beside its controls and nearness, null movement, and class accuracies, where there are some.

    Args:
        rows: of one split.
        variables: whose counterfactual it is.
        split: whose pairs.
    """
    return [_recovery(rows, variables, split), *_starts(rows), *_nulls(rows), *_class_accuracies(rows)]


def parameters_of(rows: Sequence[InterchangeScore]) -> list[str]:
    """Return the parameters whose classes were read."""
    return list(dict.fromkeys(row.field for row in rows if row.metric == "class_accuracy"))


def _recovery(rows: Sequence[InterchangeScore], variables: str, split: str) -> ScoreTable:
    """Return the table of recovery: a line for each learned rotation, then one for each fixed direction."""
    ceiling = _of_kind(rows, MODEL, "nearness", "")
    n = max((row.initial_conditions for row in rows if row.metric == "recovery"), default=0)
    title = (
        f"recovery of the change of {variables} by interchange, on {split} ({n} initial conditions; 0 as unedited, "
        "1 exact" + ("" if ceiling is None else f"; the model's own ceiling of nearness is {ceiling:+.2f}") + ")"
    )
    nearness, accuracy = _by_variant(rows, "nearness"), _by_variant(rows, "interchange_accuracy")
    lines = [
        [*compared, f"{nearness[_key(row)]:+.2f}", f"{accuracy[_key(row)]:.2f}"]
        for row, compared in _compared(rows, "recovery", "")
    ]
    return ScoreTable(
        title, ("site", "rank", "recovery", *_CONTROLS, "nearness", "accuracy"), lines, _ALIGN, _note(rows)
    )


def _starts(rows: Sequence[InterchangeScore]) -> Iterator[ScoreTable]:
    """Yield the table of what is learned from other starts, if there are some."""
    angles = [row for row in rows if row.metric == "angle"]
    recovery = [row for row in rows if (row.metric, row.field) == ("recovery", "")]
    lines = []
    for row in (row for row in recovery if row.kind == "learned"):
        place = row.site, row.rank
        others = [r.value for r in recovery if r.kind == "reseeded" and (r.site, r.rank) == place]
        degrees = sorted(r.value for r in angles if (r.site, r.rank) == place)
        if others and not row.name:
            cells = [f"{len(others) + 1}", _signed(min(row.value, *others)), _signed(max(row.value, *others))]
            lines.append([row.site, str(row.rank), *cells, f"{degrees[0]:.0f}°", f"{degrees[-1]:.0f}°"])
    if lines:
        title = "starts: recovery of rotations learned from several random starts, and angles to the first one's span"
        header = ("site", "rank", "starts", "least", "largest", "smallest angle", "largest angle")
        yield ScoreTable(title, header, lines, "<>>")


def _nulls(rows: Sequence[InterchangeScore]) -> Iterator[ScoreTable]:
    """Yield the table of how far null pairs move each field, if there are null pairs."""
    shares = {(*_key(row), row.field): row for row in rows if row.metric == "null_share"}
    exact = {_key(row): row for row in rows if row.metric == "exact_null_share"}
    fields = list(dict.fromkeys(row.field for row in shares.values() if row.field))
    shown = [row for row in shares.values() if row.field == "" and row.kind in ("learned", "direction", "full")]
    if not shown:
        return
    title = (
        "null: how far a source that differs in another parameter alone moves the prediction, over how far pairs do, "
        "per field"
    )
    if exact:
        must_not = next(iter(exact.values())).field
        title += f"; exact null: {must_not.replace('_', ' ')} together, which that parameter does not change"
    lines = []
    for row in shown:
        what = {"full": "all", "direction": f"{row.rank} along {row.name}"}.get(row.kind, f"{row.rank} {row.name}")
        cells = [_percent(exact[_key(row)]), _percents(exact[_key(row)])] if exact else []
        cells += [_percent(shares[*_key(row), field]) for field in fields]
        lines.append([row.site, what.strip(), *cells, _percent(row)])
    header = ["site", "rank", *(["exact null", "95 % interval"] if exact else []), *fields, "all fields"]
    yield ScoreTable(title, [name.replace("_", " ") for name in header], lines, "<>><>" if exact else "<>>")


def _class_accuracies(rows: Sequence[InterchangeScore]) -> Iterator[ScoreTable]:
    """Yield a table for each parameter whose classes were read."""
    for parameter in parameters_of(rows):
        own, base = (_of_kind(rows, kind, "class_accuracy", parameter) for kind in (MODEL, UNEDITED))
        known = "" if own is None or base is None else f" ({own:.2f} in the sources' own passes, {base:.2f} unedited)"
        yield ScoreTable(
            f"class accuracy: share of pairs read as of the source's {parameter}{known}",
            ("site", "rank", "learned", *_CONTROLS),
            [compared for _, compared in _compared(rows, "class_accuracy", parameter)],
            _ALIGN,
        )


def _compared(
    rows: Sequence[InterchangeScore], metric: str, field: str
) -> Iterator[tuple[InterchangeScore, list[str]]]:
    """Yield the row of each learned rotation with its cells, controls last, then those of each fixed direction."""
    variants = _variants(rows, metric, field)
    above = {_key(row): row for row in _variants(rows, metric + ABOVE_SHUFFLED, field)}
    p = {_key(row): f"{row.value:.2f}" for row in _variants(rows, metric + P_VALUE, field)}
    for row in (row for row in variants if row.kind == "learned"):
        same_site = [other for other in variants if other.site == row.site]
        controls = (
            [r.value for r in same_site if (r.kind, r.rank, r.name) == ("shuffled", row.rank, row.name)],
            [r.value for r in same_site if (r.kind, r.rank) == ("random", row.rank)],
            [r.value for r in same_site if r.kind == "full"],
        )
        shuffled, random, full = (_signed(max(values)) if values else "–" for values in controls)
        difference = above.get(_key(row))
        paired = "–" if difference is None else f"{_signed(difference.value)} {_interval(difference)}".strip()
        cells = [_interval(row), shuffled, paired, random, p.get(_key(row), "–"), full]
        yield row, [row.site, f"{row.rank} {row.name}".strip(), _signed(row.value), *cells]
    for row in (row for row in variants if row.kind == "direction"):
        interval = f"{_interval(row)} along {row.name}".strip()
        yield row, [row.site, str(row.rank), _signed(row.value), interval, *[""] * (len(_CONTROLS) - 1)]


def _note(rows: Sequence[InterchangeScore]) -> str:
    """Say what the columns of controls are, where there are such controls."""
    said = []
    if any(row.metric.endswith(ABOVE_SHUFFLED) for row in rows):
        said.append("learned − shuffled: both in the same resamples of initial conditions")
    if n := len({row.name for row in rows if row.kind == "random"}):
        said.append(f"p: rank among {n} random rotations of the same size, at least {1 / (1 + n):.2f}")
    return "; ".join(said)


def _variants(rows: Sequence[InterchangeScore], metric: str, field: str) -> list[InterchangeScore]:
    return [row for row in rows if (row.metric, row.field) == (metric, field) and row.kind not in (MODEL, UNEDITED)]


def _of_kind(rows: Sequence[InterchangeScore], kind: str, metric: str, field: str) -> float | None:
    return next((row.value for row in rows if (row.kind, row.metric, row.field) == (kind, metric, field)), None)


def _by_variant(rows: Sequence[InterchangeScore], metric: str) -> dict[tuple[str, str, int, str], float]:
    """Return a score of every variant, over all fields."""
    return {_key(row): row.value for row in rows if (row.metric, row.field) == (metric, "")}


def _key(row: InterchangeScore) -> tuple[str, str, int, str]:
    return row.site, row.kind, row.rank, row.name


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"


def _percent(row: InterchangeScore) -> str:
    return "–" if math.isnan(row.value) else f"{row.value:.1%}"


def _percents(row: InterchangeScore) -> str:
    return "" if math.isnan(row.low) else f"[{row.low:.1%}, {row.high:.1%}]"


def _interval(row: InterchangeScore) -> str:
    return "" if math.isnan(row.low) else f"[{row.low:+.2f}, {row.high:+.2f}]"
