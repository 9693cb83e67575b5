"""The tables of probes: scores by place and target, and decoder-lens errors by depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from physteer.tables import read_rows, write_rows

Control = Literal["probe", "shuffled", "random_features", "raw_patch"]
PERSISTENCE = "persistence"
"""The depth of the forecast that repeats the last frame."""


@dataclass(frozen=True)
class ProbeScore:
    """One probe's scores on one data set."""

    site: str
    """Empty for controls that read the input."""
    target: str
    resolution: str
    """``token``, or ``pooled``: means over a frame."""
    data: str
    """``simple`` for held-out simple flows; ``full`` for full simulations, to which no probe is fitted; ``held_out``
    for held-out windows of a run without full simulations."""
    control: Control
    alpha: float
    """The best penalty on validation windows."""
    r2: float
    low: float
    """Lower end of the 95 % interval of R² over initial conditions."""
    high: float
    mae: float
    """In the target's units."""
    initial_conditions: int
    best_match: float = math.nan
    """Smallest |prediction − truth| over a frame's tokens, mean over frames."""
    best_match_shuffled: float = math.nan
    """The same with the truth of another window: its size by chance."""
    valid_r2: float = math.nan
    """R² on ``valid``, where the penalty was chosen: sites are chosen by it, and scored elsewhere."""
    selectivity: float = math.nan
    """Of probes: R² minus that of the same probe fitted to the targets of other windows, on the same resamples of
    initial conditions."""
    selectivity_low: float = math.nan
    selectivity_high: float = math.nan
    over_input: float = math.nan
    """Of probes: R² minus the larger one of random features and of the raw patch: how much better the network's
    activation is than what goes into it. The interval is of the same resamples, that control kept."""
    over_input_low: float = math.nan
    over_input_high: float = math.nan


@dataclass(frozen=True)
class LensScore:
    """The error of the prediction that is decoded from the activation at one depth."""

    depth: str
    """``encoder``, ``blocks.<i>``, or ``persistence``."""
    field: str
    """Empty for the mean over fields."""
    vrmse: float
    low: float
    high: float
    initial_conditions: int


def write_probe_tables(run_folder: Path, rows: Sequence[ProbeScore], lens: Sequence[LensScore]) -> None:
    """Write ``tables/probes`` and ``tables/decoder_lens`` (``.parquet`` and ``.csv``), those that have rows."""
    if rows:
        write_rows(run_folder / "tables" / "probes", ProbeScore, rows)
    if lens:
        write_rows(run_folder / "tables" / "decoder_lens", LensScore, lens)


def read_probe_tables(run_folder: Path) -> tuple[list[ProbeScore], list[LensScore]]:
    """Read what `write_probe_tables` wrote; nothing where there is none."""
    folder = run_folder / "tables"
    return read_rows(folder / "probes", ProbeScore), read_rows(folder / "decoder_lens", LensScore)
