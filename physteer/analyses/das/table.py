"""The table of a run that trains or scores interchanges: one row per variant, metric and field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from physteer.errors import PhysteerError
from physteer.tables import read_rows, write_rows

MODEL, UNEDITED = "model", "unedited"
"""Kinds of rows without an intervention. ``model`` is the ceiling: the nearness if edits added nothing to the model's
error, and the class accuracy in the sources' own passes. ``unedited`` is the floor: the class accuracy in the bases."""

ABOVE_SHUFFLED, P_VALUE = "_above_shuffled", "_p_value"
"""Ends of metrics of a learned rotation: its difference from the one that was trained on shuffled pairs, with a paired
interval, and its rank among the random rotations of its site and rank."""


@dataclass(frozen=True)
class InterchangeScore:
    """One score of one variant."""

    site: str
    kind: str
    """``learned``, ``reseeded`` (from another start), ``shuffled``, ``random``, ``direction``, ``full``, ``model`` or
    ``unedited``."""
    rank: int
    """Dimensions per variable; of a boundless rotation those it exchanges after training."""
    name: str
    """Number of a random rotation or of another start, name of a direction, or ``boundless``."""
    metric: str
    """``recovery`` (of the change), ``nearness``, ``interchange_accuracy``, ``class_accuracy``, ``movement``,
    ``null_movement``, ``null_share`` or ``exact_null_share``: how far null pairs move the prediction over how far pairs
    do, in fields that may move too, and in those that must not. Of ``recovery`` and ``class_accuracy`` there are also
    the differences `ABOVE_SHUFFLED` and the `P_VALUE`; of other starts the largest principal ``angle``, in degrees,
    between their span and the learned one."""
    field: str
    """Empty for the mean over fields, for all of them together, and where there are no fields. For a class accuracy the
    parameter; for ``exact_null_share`` the fields that must not move, joined by commas."""
    value: float
    low: float
    """Lower end of the 95 % interval over initial conditions."""
    high: float
    initial_conditions: int


@dataclass(frozen=True)
class InterchangeRow(InterchangeScore):
    """A cell of a run's table."""

    variables: str = ""
    """Whose counterfactual the pairs have, joined by commas; the same in all rows."""


def write_interchange_table(
    run_folder: Path, split: str, rows: Sequence[InterchangeScore], variables: Sequence[str]
) -> Path:
    """Write ``tables/interchange_<split>.parquet`` and ``.csv``; return the first."""
    named = [InterchangeRow(**vars(row), variables=", ".join(variables)) for row in rows]
    return write_rows(_path(run_folder, split), InterchangeRow, named)


def read_interchange_table(run_folder: Path, split: str) -> list[InterchangeRow]:
    """Read what `write_interchange_table` wrote; nothing where there is none.

    Raises:
        PhysteerError: The file is broken, or of an earlier version, whose ``recovery`` is what is called nearness now.
    """
    path = _path(run_folder, split)
    rows = read_rows(path, InterchangeRow)
    if rows and not any(row.metric == "nearness" for row in rows):
        raise PhysteerError(
            f"{path.with_suffix('.parquet')} is of an earlier version of physteer, whose recovery was nearness: score "
            "the checkpoint of the search again with 'physteer test'"
        )
    return rows


def best_learned(rows: Sequence[InterchangeScore]) -> InterchangeScore:
    """Return the learned rotation with the largest mean recovery of the change."""
    means = [row for row in rows if (row.metric, row.field, row.kind) == ("recovery", "", "learned")]
    return max(means, key=lambda row: row.value)


def _path(run_folder: Path, split: str) -> Path:
    return run_folder / "tables" / f"interchange_{split}"
