"""Which windows and settings get pictures of their own, and what the pictures are called."""

from __future__ import annotations

from collections.abc import Sequence

from physteer.analyses.steering.table import Series
from physteer.files import file_name
from physteer.reports.rollouts import WindowRollouts

MOST_SERIES = 4
"""Series with pictures of their own; all are in the tables."""


def spread(windows: Sequence[WindowRollouts], count: int) -> list[WindowRollouts]:
    """Choose windows evenly over files (one per set of parameters) and over their trajectories."""
    by_file: dict[tuple[str, str], list[WindowRollouts]] = {}
    for window in windows:
        by_file.setdefault((window.split, window.rollouts[0].source.file), []).append(window)
    groups = list(by_file.values())
    if len(groups) >= count:
        last = max(count - 1, 1)
        groups = [groups[round(i * (len(groups) - 1) / last)] for i in range(count)]
        return [group[i % len(group)] for i, group in enumerate(groups)]
    rounds = max(map(len, groups))
    return [group[i] for i in range(rounds) for group in groups if i < len(group)][:count]


def series_name(series: Series) -> str:
    """Return a series' name as part of a file's name."""
    return file_name(str(series)) or "all"
