"""Rows of several runs' tables, aligned by what identifies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from physteer.errors import PhysteerError
from physteer.reports.comparison.estimates import Entry, Estimate, Label, counted
from physteer.reports.comparison.runs import Run

_TOLD_APART = ("site", "direction", "name", "mode", "rank", "variables", "units", "metric", "divergence")
"""Columns in which whole runs may differ: methods, sites and ranks are then compared, and named side by side."""
_ROLES = ("role", "kind", "method", "control", "forecast", "order")
"""Columns that say whether a row is what is judged or a control of it."""
_ORDER = (
    *(
        "summary",
        "interchange",
        "probes",
        "class_probes",
        "decoder_lens",
        "basis_comparison",
        "basis_curves",
        "effects",
    ),
    *("circuit", "circuit_curve", "attribution", "attribution_check", "scores"),
)
"""Kinds of tables by importance; others come last."""
BETWEEN = " / "
"""Stands between the labels of several runs."""


@dataclass(frozen=True)
class AlignedRow:
    """One metric of one thing, in every run."""

    metric: str
    labels: tuple[Label, ...]
    """By column of the table. Where whole runs differ, the label of each, with `BETWEEN` them."""
    estimates: tuple[Estimate | None, ...]
    """By run; None where the run's table has no such row."""

    @property
    def n_runs(self) -> int:
        """How many runs have it."""
        return sum(estimate is not None for estimate in self.estimates)


@dataclass(frozen=True)
class AlignedTable:
    """One kind of table, of all runs that have it."""

    name: str
    runs: tuple[str, ...]
    """Names of those runs."""
    columns: tuple[str, ...]
    """Names of the labels."""
    rows: tuple[AlignedRow, ...]

    @property
    def role(self) -> str:
        """The column that tells controls from what is judged; empty where there is none."""
        return next((name for name in _ROLES if name in self.columns), "")

    def label(self, row: AlignedRow, column: str) -> Label:
        """Return a row's label; empty where the table has no such column."""
        return row.labels[self.columns.index(column)] if column in self.columns else ""


def align(runs: Sequence[Run]) -> list[AlignedTable]:
    """Align every table that at least two runs have.

    Raises:
        PhysteerError: There is none.
    """
    names = dict.fromkeys(name for run in runs for name in run.tables)
    shared = [name for name in names if sum(name in run.tables for run in runs) > 1]
    if not shared:
        held = "; ".join(f"{run.name}: {', '.join(run.tables)}" for run in runs)
        raise PhysteerError(f"no table is in two of these runs, so nothing can be compared ({held})")
    shared.sort(key=lambda name: max((i for i, kind in enumerate(_ORDER) if _is_of(name, kind)), default=len(_ORDER)))
    return [_aligned(name, [run for run in runs if name in run.tables]) for name in shared]


def _is_of(name: str, kind: str) -> bool:
    """Whether a table is of a kind: ``circuit_curve_test`` is of ``circuit_curve``, and of ``circuit`` before it."""
    return name == kind or name.startswith(f"{kind}_")


def _aligned(name: str, runs: Sequence[Run]) -> AlignedTable:
    tables = [run.tables[name] for run in runs]
    columns = tuple(dict.fromkeys(column for table in tables for column in table[0].labels))
    shared_labels = _shared_labels(tables)
    aligned: dict[tuple[str, tuple[Label, ...], int], list[Estimate | None]] = {}
    for i, table in enumerate(tables):
        for entry, number in counted(table):
            replaced = {**entry.labels, **shared_labels.get(_group(entry), {})}
            labels = tuple(replaced.get(column, "") for column in columns)
            key = (entry.metric, labels, number)
            aligned.setdefault(key, [None] * len(runs))[i] = entry.estimate
    rows = [AlignedRow(metric, labels, tuple(values)) for (metric, labels, _), values in aligned.items()]
    return AlignedTable(name, tuple(run.name for run in runs), columns, tuple(rows))


def _group(entry: Entry) -> tuple[str, Label]:
    """Return the metric and role of an entry."""
    return entry.metric, next((entry.labels[name] for name in _ROLES if name in entry.labels), "")


def _shared_labels(tables: Sequence[Sequence[Entry]]) -> Mapping[tuple[str, Label], Mapping[str, Label]]:
    """Return the labels, by group and column, that stand for those in which whole runs differ.

    A run that steers at one site is compared with a run that steers at another: within each metric and role, a column
    that has one value in each run, and not the same in all, gets the values side by side.
    """
    values: dict[tuple[tuple[str, Label], str], list[dict[Label, None]]] = {}
    for i, table in enumerate(tables):
        sites = {entry.labels.get("site") for entry in table} - {""}
        for entry in table:
            for column in (*_TOLD_APART, "field"):
                label = entry.labels.get(column)
                # the field of some metrics is a site
                if label is not None and (column != "field" or label in sites):
                    own = values.setdefault((_group(entry), column), [{} for _ in tables])
                    own[i][label] = None
    shared: dict[tuple[str, Label], dict[str, Label]] = {}
    for (group, column), by_run in values.items():
        labels = [next(iter(own)) for own in by_run if len(own) == 1]
        if len(labels) == len(tables) and len(set(labels)) > 1:
            shared.setdefault(group, {})[column] = BETWEEN.join(str(label) or "–" for label in labels)
    return shared
