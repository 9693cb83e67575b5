"""The table of class probes: their accuracy, by place and parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from physteer.analyses.probing.table import Control
from physteer.tables import write_rows


@dataclass(frozen=True)
class ClassScore:
    """One class probe's accuracy on one data set."""

    site: str
    """Empty for controls that read the input."""
    parameter: str
    """The parameter whose values are the classes."""
    data: str
    """As in `ProbeScore`."""
    control: Control
    alpha: float
    """The penalty with the smallest cross-entropy on validation windows."""
    accuracy: float
    """Share of frames whose class is predicted correctly, from the mean over the frame's tokens."""
    low: float
    """Lower end of the 95 % interval over initial conditions."""
    high: float
    chance: float
    """Share of the most frequent class."""
    initial_conditions: int


def write_class_table(run_folder: Path, rows: Sequence[ClassScore]) -> None:
    """Write ``tables/class_probes.parquet`` and ``.csv``."""
    write_rows(run_folder / "tables" / "class_probes", ClassScore, rows)


def class_text(rows: Sequence[ClassScore]) -> str:
    """Return the accuracies as text: per parameter, data set and place, beside shuffled values and chance."""
    lines = [
        "accuracy of class probes, from the mean of a frame's tokens",
        f"{'parameter':<18}{'data':<10}{'site':<17}{'α':>8}{'accuracy':>10}  {'95 % interval':<14}"
        f"{'shuffled':>9}{'chance':>8}",
    ]
    shuffled = {(row.parameter, row.data, row.site): row for row in rows if row.control == "shuffled"}
    for row in rows:
        if row.control == "shuffled":
            continue
        control = shuffled.get((row.parameter, row.data, row.site))
        lines.append(
            f"{row.parameter:<18}{row.data:<10}{row.site or row.control.replace('_', ' '):<17}{row.alpha:>8.0e}"
            f"{row.accuracy:>10.2f}  {f'[{row.low:.2f}, {row.high:.2f}]':<14}"
            f"{f'{control.accuracy:.2f}' if control else '–':>9}{row.chance:>8.2f}"
        )
    return "\n".join(lines)
