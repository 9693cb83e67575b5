"""Tables of the report's page: effects, and the judgement of what was steered."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from physteer.analyses.steering.summary_rows import Finding, read_summary
from physteer.analyses.steering.table import TRUTH, UNSTEERED
from physteer.reports.diagnostics import FLOW_METRICS, MEAN_VRMSE
from physteer.reports.summary_tables import (
    Grid,
    alignment_grid,
    best_settings,
    cell_text,
    controls_shown,
    details_grid,
    dose_grid,
    effect_grid,
    movement_grid,
    series_text,
    settings_of,
    strength_text,
)
from physteer.reports.summary_text import by_words, notes, opening
from physteer.reports.terminology import Words, words_of

_UNITS = {"relative change": ", %", "difference": ", % of cells", "value": ""}
_SETTINGS, _CONTROLS = 6, 4  # shown at once


def effects_html(path: Path) -> Iterator[str]:
    """Yield the table of effects: conditions down, metrics across."""
    rows = read_csv(path)
    if not rows:
        return
    metrics = [m for m in (*FLOW_METRICS, MEAN_VRMSE) if any(row["metric"] == m.name for row in rows)]
    cells = {(_who(row), row["metric"]): _effect(row) for row in rows}
    first, last = rows[0]["first_step"], rows[0]["last_step"]
    words = words_of(row["mode"] for row in rows if row["direction"])
    yield (
        f"<p>Mean over steps {first} to {last}, as a change against the {words.reference} rollout of the same window "
        "(VRMSE: against the truth), averaged over initial conditions, with 95&nbsp;% bootstrap intervals over these. "
        "Rollouts that did not stay finite are left out.</p>"
    )
    units = {row["metric"]: _UNITS[row["quantity"]] for row in rows}
    header = [
        "condition",
        *(["α"] if words.doses else []),
        "initial conditions",
        *(f"{m.title}{units[m.name]}" for m in metrics),
    ]
    body = []
    for who, row in {_who(row): row for row in rows}.items():
        steered = row["condition"] not in (TRUTH, UNSTEERED) and words_of([row["mode"]]).doses
        strength = [_signed(float(row["strength"])) if steered else ""] if words.doses else []
        values = [cells.get((who, metric.name), "") for metric in metrics]
        called = words.reference if row["condition"] == UNSTEERED else row["condition"]
        body.append([called, *strength, row["initial_conditions"], *values])
    yield table_html(header, body)


def _who(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("condition", "direction", "mode", "site"))


def _effect(row: Mapping[str, str]) -> str:
    """Return ``+46.1`` and, on a line of its own, ``[+24.2, +68.2]``, in the units of the table's header."""
    mean, low, high = (float(row[name]) for name in ("mean", "low", "high"))
    absolute = row["quantity"] == "value"
    if row["condition"] == UNSTEERED and not absolute:
        return "0"
    if math.isnan(mean):
        return "not finite"
    text = "{:.3g}".format if absolute else lambda value: _signed(100 * value, ".3g")
    return text(mean) if math.isnan(low) else f"{text(mean)}\n[{text(low)}, {text(high)}]"


def _signed(value: float, form: str = "g") -> str:
    return f"{value:+{form}}".replace("-", "−")


def summary_html(run_folder: Path) -> Iterator[str]:
    """Yield the judgement of the settings: alignment, effects, dose–response, and per field below folds."""
    for words, findings in by_words(read_summary(run_folder)):
        yield from _judgement(findings, words)


def _judgement(findings: Sequence[Finding], words: Words) -> Iterator[str]:
    """Yield what is said of the settings of one kind."""
    settings = [*settings_of(findings, "concept"), *settings_of(findings, "shuffled", "data")]
    yield f"<p>{escape(opening(findings, words))} {escape(' '.join(notes(findings, words)))}</p>"
    best = [*best_settings(findings, _SETTINGS), *controls_shown(findings, _CONTROLS)]
    folded = [details_grid(findings, settings)]
    measured = (alignment_grid, movement_grid, effect_grid)
    grids = [*(grid(findings, best) for grid in measured), dose_grid(findings)]
    if len(best) < len(settings):
        folded = [*(grid(findings, settings) for grid in measured), *folded]
        yield f"<p>The {words.setting}s that did most, and controls; all {len(settings)} are folded below.</p>"
    for grid in grids:
        if grid and grid.rows:
            yield f"<h3>{escape(grid.title)}</h3>{_grid(grid, words)}"
    for grid in folded:
        if grid and grid.rows:
            title = f"{escape(grid.title)}, all {words.setting}s"
            yield f"<details><summary>{title}</summary>{_grid(grid, words)}</details>"


def _grid(grid: Grid, words: Words) -> str:
    header = [
        "",
        *(["α"] if words.doses else []),
        "step",
        *(c.title + (", %" if c.kind == "percent" else "") for c in grid.columns),
    ]
    rows: list[list[str]] = []
    previous: object = None
    for setting, step in grid.rows:
        again = setting == previous
        previous = setting
        cells = [cell_text(grid.find((setting, step), column), column, interval=True) for column in grid.columns]
        strength = strength_text(setting[3]) if setting[3] else "all"
        labels = [series_text(setting), strength] if words.doses else [series_text(setting)]
        labels = ["" for _ in labels] if again else labels
        rows.append([*labels, str(step), *(_starred(cell) for cell in cells)])
    return table_html(header, rows)


def _starred(cell: str) -> str:
    """Put the interval on a line of its own, and the star before it."""
    value, bracket, interval = cell.partition(" [")
    star = "*" if interval.endswith("*") else ""
    return value + star + ("\n[" + interval.removesuffix("*") if bracket else "")


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a table's rows; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table_html(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that scrolls where the page is narrow."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
