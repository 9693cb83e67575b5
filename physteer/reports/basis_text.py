"""What an extraction of causal bases found, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from physteer.analyses.basis.table import (
    CAUSAL,
    DIRECTION,
    FULL,
    MODEL,
    PCA,
    RANDOM,
    BasisComparisonRow,
    BasisCurveRow,
)
from physteer.reports.text_table import Line, text_table

METHODS = {CAUSAL: "causal basis", PCA: "PCA", DIRECTION: "", RANDOM: "random", FULL: "everything"}
"""What methods are called; directions have names of their own."""
_SHOWN = 12
"""Directions of a site that the terminal shows."""


def curves_text(rows: Sequence[BasisCurveRow]) -> str:
    """Lay the ablation curves out for reading."""
    first = rows[0]
    units = f" in {first.units}" if first.units else ""
    lines: list[Line] = []
    for site in dict.fromkeys(row.site for row in rows):
        own = [row for row in rows if row.site == site]
        for row in own[:_SHOWN]:
            lines.append(
                [
                    site,
                    str(row.direction),
                    f"{row.energy:.3g}",
                    f"{row.marginal:.3g} [{row.marginal_low:.3g}, {row.marginal_high:.3g}]",
                    f"{row.cumulative:.3g} [{row.cumulative_low:.3g}, {row.cumulative_high:.3g}]",
                    f"{row.cumulative / row.everything:.0%}",
                    "–" if math.isnan(row.half_angle) else f"{row.half_angle:.0f}°",
                ]
            )
        if len(own) > _SHOWN:
            lines.append(f"{site}: {len(own) - _SHOWN} more in tables/basis_curves.csv")
    header = ("site", "direction", "found", "alone, held out", "with those before", "of all", "halves")
    rises = max(row.rise for row in rows)
    certificate = f"; energies rise by up to {rises:.1%} in the order of the search" if rises > 1e-3 else ""
    return "\n".join(
        [
            f"causal bases: {first.divergence} under ablation ({first.mode}, {first.metric}){units}, "
            f"{first.initial_conditions} held-out initial conditions{certificate}",
            *text_table(header, lines, "<>>>>>>"),
            "halves: largest angle between the spans of the first directions of two halves of the data",
        ]
    )


def comparison_text(rows: Sequence[BasisComparisonRow]) -> str:
    """Lay the comparison out for reading, and say what it shows."""
    lines: list[Line] = []
    for site in dict.fromkeys(row.site for row in rows):
        for row in compared_rows([row for row in rows if row.site == site]):
            lines.append(
                [
                    site,
                    label(row) + (" (best)" if row.method == RANDOM else ""),
                    str(row.rank),
                    _interval(row.share, row.share_low, row.share_high),
                    _interval(row.recovery, row.recovery_low, row.recovery_high, signed=True),
                    _interval(row.nearness, row.nearness_low, row.nearness_high, signed=True),
                    "–" if math.isnan(row.angle) else f"{row.angle:.0f}°",
                ]
            )
    header = ("site", "subspace", "rank", "share of energy", "recovery", "nearness", "angle")
    variables = rows[0].variables
    ceiling = [row.nearness for row in rows if row.method == MODEL]
    known = f"; the model's own ceiling of nearness is {ceiling[0]:+.2f}" if ceiling else ""
    return "\n".join(
        [
            f"interchange of {variables} between held-out pairs (0 as unedited, 1 exact{known}), and share of the "
            "energy of ablating everything",
            *text_table(header, lines, "<<>>>>>"),
            *(statement(rows, site) for site in dict.fromkeys(row.site for row in rows)),
        ]
    )


def compared_rows(rows: Sequence[BasisComparisonRow]) -> list[BasisComparisonRow]:
    """Return the rows of one site to show: by rank, and of random subspaces of one rank the one that recovers most."""
    shown = [row for row in rows if row.method not in (RANDOM, MODEL)]
    for rank in {row.rank for row in rows if row.method == RANDOM}:
        shown.append(max((row for row in rows if (row.method, row.rank) == (RANDOM, rank)), key=lambda r: r.recovery))
    order = list(METHODS)
    return sorted(shown, key=lambda row: (row.method == FULL, row.rank, order.index(row.method), row.name))


def statement(rows: Sequence[BasisComparisonRow], site: str) -> str:
    """Say in a sentence whether what breaks the forecast is what carries the variable."""
    own = [row for row in rows if row.site == site]
    last = max((row for row in own if row.method == CAUSAL), key=lambda row: row.rank)
    others = [row for row in own if row.method in (PCA, DIRECTION, RANDOM) and math.isfinite(row.recovery)]
    said = (
        f"{site}: ablating {last.rank} causal direction{'s' if last.rank > 1 else ''} has {last.share:.0%} of the "
        f"energy of ablating everything, and interchanging them recovers {last.recovery:+.2f} of the change of "
        f"{last.variables}"
    )
    if not others:
        return f"{said}."
    best = max(others, key=lambda row: row.recovery)
    return f"{said}; {label(best)} of rank {best.rank} has {best.share:.0%} and recovers {best.recovery:+.2f}."


def label(row: BasisComparisonRow) -> str:
    """Return what a subspace is called."""
    return METHODS[row.method] or row.name


def _interval(value: float, low: float, high: float, *, signed: bool = False) -> str:
    if math.isnan(value):
        return "–"
    style = "+.2f" if signed else ".2f"
    return f"{value:{style}} [{low:{style}}, {high:{style}}]"
