"""The tables of circuits: the faithfulness of growing sets of nodes, and the scores of the chosen one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from physteer.tables import read_rows, write_rows

ATTRIBUTION = "attribution"
"""The order of nodes by estimated aligned effect; other orders are random."""


@dataclass(frozen=True)
class CurveRow:
    """The faithfulness of the first n nodes of an order."""

    order: str
    """``attribution``, or ``random 1``, …"""
    n: int
    node: str
    """The node that was added last; empty for n = 0."""
    value: float
    """f = (m(C) − m(∅)) / (m(all) − m(∅))."""
    low: float
    """Lower end of the 95 % interval over initial conditions."""
    high: float
    initial_conditions: int


@dataclass(frozen=True)
class CircuitRow:
    """A score of the chosen circuit, or of an order."""

    score: str
    """``size``, ``faithfulness``, ``completeness``, ``minimality``, ``jaccard``, ``cpr``, ``cmd``, ``merit_all`` or
    ``merit_none``."""
    name: str
    """The node of a minimality, the order of ``cpr`` and ``cmd``; else empty."""
    value: float
    low: float
    high: float
    initial_conditions: int


def write_circuit_tables(run_folder: Path, split: str, curve: Sequence[CurveRow], scores: Sequence[CircuitRow]) -> None:
    """Write ``tables/circuit_curve_<split>`` and ``tables/circuit_<split>``, as Parquet and CSV."""
    write_rows(run_folder / "tables" / f"circuit_curve_{split}", CurveRow, curve)
    write_rows(run_folder / "tables" / f"circuit_{split}", CircuitRow, scores)


def read_circuit_tables(run_folder: Path, split: str) -> tuple[list[CurveRow], list[CircuitRow]]:
    """Read what `write_circuit_tables` wrote; nothing where there is none."""
    return (
        read_rows(run_folder / "tables" / f"circuit_curve_{split}", CurveRow),
        read_rows(run_folder / "tables" / f"circuit_{split}", CircuitRow),
    )
