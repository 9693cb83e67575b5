"""What probes found, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from physteer.analyses.probing.class_table import ClassScore
from physteer.analyses.probing.table import ProbeScore
from physteer.reports.text_table import text_table


def probe_text(rows: Sequence[ProbeScore]) -> str:
    """Lay the R² per token out for reading: per target the best site, beside the controls.

    The site is the best one on the first data set, the interval and the controls are of the last.
    """
    per_token = [row for row in rows if row.resolution == "token"]
    data = list(dict.fromkeys(row.data for row in per_token))
    table = []
    for target in dict.fromkeys(row.target for row in per_token):
        same = [row for row in per_token if row.target == target]
        probes = [row for row in same if (row.data, row.control) == (data[0], "probe")]
        best = max(probes, key=lambda row: -math.inf if math.isnan(row.r2) else row.r2)
        last = {(row.control, row.site): row for row in same if row.data == data[-1]}
        own = last["probe", best.site]
        controls = [last["shuffled", best.site], last["random_features", ""], last["raw_patch", ""]]
        scores = [r2_text(best.r2), *([r2_text(own.r2)] if len(data) > 1 else [])]
        interval = f"[{r2_text(own.low)}, {r2_text(own.high)}]"
        table.append([target, best.site, *scores, interval, *(r2_text(row.r2) for row in controls)])
    header = ["target", "site", *(name.replace("_", " ") for name in data), "95 % interval"]
    title = f"R² per token; the site is the best one on {'simple flows' if 'full' in data else 'held-out windows'}"
    align = "<<" + ">" * len(data) + "<>"
    return "\n".join([title, *text_table([*header, "shuffled", "random", "patch"], table, align)])


def class_text(rows: Sequence[ClassScore]) -> str:
    """Lay the accuracies out for reading: per parameter, data set and place, beside shuffled values and chance."""
    shuffled = {(row.parameter, row.data, row.site): row for row in rows if row.control == "shuffled"}
    table = []
    for row in rows:
        if row.control == "shuffled":
            continue
        control = shuffled.get((row.parameter, row.data, row.site))
        table.append(
            [
                row.parameter,
                row.data,
                row.site or row.control.replace("_", " "),
                f"{row.alpha:.0e}",
                f"{row.accuracy:.2f}",
                f"[{row.low:.2f}, {row.high:.2f}]",
                f"{control.accuracy:.2f}" if control else "–",
                f"{row.chance:.2f}",
            ]
        )
    header = ("parameter", "data", "site", "α", "accuracy", "95 % interval", "shuffled", "chance")
    lines = text_table(header, table, "<<<>><>")
    return "\n".join(["accuracy of class probes, from the mean of a frame's tokens", *lines])


def r2_text(value: float) -> str:
    """Return R² with two digits; far below 0 it says nothing but that."""
    if math.isnan(value):
        return "–"
    return "< −9" if value < -9 else f"{value:+.2f}".replace("-", "−")
