"""Tables of any kind as estimates: what a row is of, its metric, and the value with its interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physteer.errors import PhysteerError

Label = str | int | float

_METRIC_NAMES = ("quantity", "metric", "effect", "score", "estimate")
"""Columns that name the metric whose value is in the column ``value``."""
_NUMBERS_THAT_IDENTIFY = ("block", "direction", "head", "n", "position", "rank", "seed", "step")
_FLOATS_THAT_IDENTIFY = ("scale", "strength")
_RESULTS = {"circuit_curve": ("node",)}
"""Texts that are results and not what a row is of: in a curve, which node was added last."""
_UNNAMED = {"circuit_curve": "faithfulness"}
"""Metrics of tables with a ``value`` that no column names."""
ALL = "all"
"""The label of a row about all strengths together."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    """Of the 95 % interval over initial conditions; NaN where there is none."""
    high: float
    initial_conditions: int
    """0 where the table does not say."""
    p: float
    """NaN where the table has none."""


@dataclass(frozen=True)
class Entry:
    """One estimate of a table."""

    metric: str
    labels: Mapping[str, Label]
    """What it is of: the values of columns such as ``site``, ``strength``, ``field`` and ``step``."""
    estimate: Estimate


def entries_of(path: Path, types: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Take a table apart, whatever its metrics are called.

    A row has one estimate where there is a column ``value``, or else one for each column of floats. Texts, and the
    numbers that are known to identify a row, say what an estimate is of. The interval of a column is in
    ``<column>_low`` and ``<column>_high``; that in ``low`` and ``high`` belongs to the column before ``low``.

    Args:
        path: of the table; its stem is the table's kind, with or without a split.
        types: Arrow's type of each column, in their order.
        rows: by column.

    Raises:
        PhysteerError: A cell is not of its column's type.
    """
    kind = next((kind for kind in _RESULTS if path.stem.startswith(kind)), "")
    names = list(types)
    texts = [name for name in names if types[name] in ("string", "large_string")]
    floats = [name for name in names if types[name] in ("double", "float", "halffloat")]
    metric_name = next((name for name in _METRIC_NAMES if name in texts), "") if "value" in floats else ""
    identity = [
        name
        for name in names
        if (name in texts and name != metric_name and name not in _RESULTS.get(kind, ()))
        or (name in _NUMBERS_THAT_IDENTIFY and name not in floats)
        or (name in _FLOATS_THAT_IDENTIFY and name in floats)
    ]
    bounds = {name: _bounds(name, names) for name in floats}
    ends = {"p", *(end for pair in bounds.values() for end in pair)}
    values = [name for name in floats if name not in ends and name not in identity]
    found = []
    for row in rows:
        if not all(isinstance(row[name], str) for name in texts) or not all(
            isinstance(row[name], int | float) for name in names if name not in texts
        ):
            raise PhysteerError(f"{path} has empty cells, or cells that are neither texts nor numbers")
        labels = {name: _label(row[name]) for name in identity}
        prefix = str(row[metric_name]) if metric_name else _UNNAMED.get(kind, "value")
        for name in values:
            metric = name if "value" not in values else prefix if name == "value" else f"{prefix} {name}"
            low, high = (float(row[end]) if end else math.nan for end in bounds[name] or ("", ""))
            p = float(row["p"]) if name == "value" and "p" in floats else math.nan
            n = int(row.get("initial_conditions", 0))
            found.append(Entry(metric, labels, Estimate(float(row[name]), low, high, n, p)))
    return found


def _bounds(name: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns with the ends of a column's interval; none where it has no interval."""
    if f"{name}_low" in names and f"{name}_high" in names:
        return f"{name}_low", f"{name}_high"
    before = dict(zip(names[1:], names, strict=False))
    return ("low", "high") if before.get("low") == name and "high" in names else ()


def _label(value: Label) -> Label:
    """Make labels that are equal up to round-off one, and NaN one that equals itself."""
    if isinstance(value, float):
        return ALL if math.isnan(value) else float(f"{value:.6g}")
    return value


def counted(entries: Sequence[Entry]) -> Iterator[tuple[Entry, int]]:
    """Yield entries with their number among those of the same labels and metric, from 0."""
    seen: dict[object, int] = {}
    for entry in entries:
        key = (entry.metric, tuple(entry.labels.items()))
        seen[key] = seen.get(key, -1) + 1
        yield entry, seen[key]
