"""The tables of effects: one row per node, patch, effect, field, region and rollout step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from physteer.tables import read_rows, write_rows


@dataclass(frozen=True)
class EffectRow:
    """One effect of one patch of one node."""

    node: str
    block: int
    """−1 for what comes before the blocks."""
    kind: str
    """The path inside the block, such as ``space.heads``; ``output`` for the block's own."""
    head: int
    """−1 where the node is no head."""
    position: int
    """−1 for all positions."""
    variant: str
    """A name in `physteer.analyses.effects.patches.VARIANTS`."""
    scale: float
    effect: str
    """``field``, ``aligned``, ``null_share``, ``class_changed``, ``class_to_source``, ``kl_base_patched``,
    ``kl_patched_base``, ``tolerance_model``, ``tolerance_program`` or ``tolerance_to_source``."""
    field: str
    """Empty for all fields together, and where there are none."""
    region: str
    """Empty for everywhere."""
    step: int
    """Of the rollout, from 1; the node is patched at every step up to it."""
    value: float
    """Empty (NaN) where it is undefined."""
    low: float
    """Lower end of the 95 % interval over initial conditions."""
    high: float
    initial_conditions: int


@dataclass(frozen=True)
class AttributionRow:
    """The estimated effect of replacing one node by its source, beside the exact one where that was measured."""

    node: str
    block: int
    kind: str
    head: int
    estimate: str
    """``aligned`` (signed) or ``field`` (unsigned)."""
    value: float
    low: float
    high: float
    exact: float
    """The exact effect; empty (NaN) where it was not measured."""
    flagged: int
    """1 where the gradient at the patched node differs by more than half from that at the base; −1: not tested."""
    initial_conditions: int


@dataclass(frozen=True)
class AttributionCheck:
    """How well estimates rank nodes, by those whose exact effect is known."""

    estimate: str
    spearman: float
    """Rank correlation of estimates and exact effects."""
    nodes: int
    """How many nodes, drawn at random."""
    flagged: int
    """How many of them are unreliable."""


def write_effect_table(run_folder: Path, split: str, rows: Sequence[EffectRow]) -> Path:
    """Write ``tables/effects_<split>.parquet`` and ``.csv``; return the first."""
    return write_rows(run_folder / "tables" / f"effects_{split}", EffectRow, rows)


def read_effect_table(run_folder: Path, split: str) -> list[EffectRow]:
    """Read what `write_effect_table` wrote; nothing where there is none."""
    return read_rows(run_folder / "tables" / f"effects_{split}", EffectRow)


def write_attribution_tables(
    run_folder: Path, split: str, rows: Sequence[AttributionRow], checks: Sequence[AttributionCheck]
) -> None:
    """Write ``tables/attribution_<split>`` and ``tables/attribution_check_<split>``."""
    write_rows(run_folder / "tables" / f"attribution_{split}", AttributionRow, rows)
    write_rows(run_folder / "tables" / f"attribution_check_{split}", AttributionCheck, checks)


def read_attribution_tables(run_folder: Path, split: str) -> tuple[list[AttributionRow], list[AttributionCheck]]:
    """Read what `write_attribution_tables` wrote; nothing where there is none."""
    return (
        read_rows(run_folder / "tables" / f"attribution_{split}", AttributionRow),
        read_rows(run_folder / "tables" / f"attribution_check_{split}", AttributionCheck),
    )
