"""The tables of a run that fits probes: scores by place and target, and errors of decoded depths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

from physteer.reports.diagnostics import write_csv

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
    """``simple``: held-out simple flows; ``full``: full simulations, which nothing was fitted to."""
    control: Control
    alpha: float
    """The penalty that was best on validation windows."""
    r2: float
    low: float
    """Of the 95 % interval of R² over initial conditions."""
    high: float
    mae: float
    """In the target's units."""
    initial_conditions: int
    best_match: float = math.nan
    """Smallest |prediction − truth| over a frame's tokens, mean over frames."""
    best_match_shuffled: float = math.nan
    """The same with another window's truth: how small it is by chance."""


@dataclass(frozen=True)
class LensScore:
    """The error of one depth's activation decoded."""

    depth: str
    """``encoder``, ``blocks.<i>``, or ``persistence``."""
    field: str
    """Empty: the mean over fields."""
    vrmse: float
    low: float
    high: float
    initial_conditions: int


def write_probe_tables(run_folder: Path, rows: Sequence[ProbeScore], lens: Sequence[LensScore]) -> None:
    """Write ``tables/probes.csv`` and ``tables/decoder_lens.csv``."""
    write_csv(run_folder / "tables/probes.csv", [one.name for one in fields(ProbeScore)], map(astuple, rows))
    write_csv(run_folder / "tables/decoder_lens.csv", [one.name for one in fields(LensScore)], map(astuple, lens))


def probe_text(rows: Sequence[ProbeScore]) -> str:
    """Lay the R² per token out for reading: per target the best site on full simulations, beside the controls."""
    lines = [
        "R² per token; the site is the best one on simple flows",
        f"{'target':<18}{'site':<12}{'simple':>8}{'full':>9}  {'95 % interval':<17}"
        f"{'shuffled':>9}{'random':>9}{'patch':>9}",
    ]
    mine = [row for row in rows if row.resolution == "token"]
    for target in dict.fromkeys(row.target for row in mine):
        those = [row for row in mine if row.target == target]
        simple = [row for row in those if (row.data, row.control) == ("simple", "probe")]
        best = max(simple, key=lambda row: -math.inf if math.isnan(row.r2) else row.r2)
        full = {(row.control, row.site): row for row in those if row.data == "full"}
        cells = [full["probe", best.site], full["shuffled", best.site]]
        cells += [full["random_features", ""], full["raw_patch", ""]]
        written = [f"{r2_text(row.r2):>9}" for row in cells]
        interval = f"[{r2_text(cells[0].low)}, {r2_text(cells[0].high)}]"
        lines.append(
            f"{target:<18}{best.site:<12}{r2_text(best.r2):>8}{written[0]}  {interval:<17}{''.join(written[1:])}"
        )
    return "\n".join(lines)


def r2_text(value: float) -> str:
    """Return R² with two digits; far below 0 it says nothing but that."""
    if math.isnan(value):
        return "–"
    return "< −9" if value < -9 else f"{value:+.2f}".replace("-", "−")
