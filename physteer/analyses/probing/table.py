"""The tables of probes: scores by place and target, and decoder-lens errors by depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from physteer.tables import write_rows

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


def probe_text(rows: Sequence[ProbeScore]) -> str:
    """Return the R² per token as text: per target the best site, and the controls.

    The site is the best one on the first data set; interval and controls are those of the last data set.
    """
    token_rows = [row for row in rows if row.resolution == "token"]
    data = list(dict.fromkeys(row.data for row in token_rows))
    lines = [
        f"R² per token; the site is the best one on {'simple flows' if 'full' in data else 'held-out windows'}",
        f"{'target':<18}{'site':<12}{data[0].replace('_', ' '):>8}{''.join(f'{name:>9}' for name in data[1:])}"
        f"  {'95 % interval':<17}{'shuffled':>9}{'random':>9}{'patch':>9}",
    ]
    for target in dict.fromkeys(row.target for row in token_rows):
        target_rows = [row for row in token_rows if row.target == target]
        probes = [row for row in target_rows if (row.data, row.control) == (data[0], "probe")]
        best = max(probes, key=lambda row: -math.inf if math.isnan(row.r2) else row.r2)
        last = {(row.control, row.site): row for row in target_rows if row.data == data[-1]}
        probe = last["probe", best.site]
        controls = [last["shuffled", best.site], last["random_features", ""], last["raw_patch", ""]]
        interval = f"[{r2_text(probe.low)}, {r2_text(probe.high)}]"
        lines.append(
            f"{target:<18}{best.site:<12}{r2_text(best.r2):>8}{f'{r2_text(probe.r2):>9}' if len(data) > 1 else ''}"
            f"  {interval:<17}{''.join(f'{r2_text(row.r2):>9}' for row in controls)}"
        )
    return "\n".join(lines)


def r2_text(value: float) -> str:
    """Return R² with two digits; values far below 0 are written as ``< −9``."""
    if math.isnan(value):
        return "–"
    return "< −9" if value < -9 else f"{value:+.2f}".replace("-", "−")
