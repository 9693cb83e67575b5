"""Forecast scores, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from physteer.reports.text_table import text_table


class ScoreRow(Protocol):
    """A VRMSE: of a loader, a forecast (``model`` or a baseline), a field and a step."""

    @property
    def loader(self) -> str:
        """``one_step`` or ``rollout``."""

    @property
    def forecast(self) -> str:
        """``model`` or a baseline."""

    @property
    def field(self) -> str:
        """A field, or the mean over fields."""

    @property
    def step(self) -> int:
        """Steps after the context, from 1."""

    @property
    def vrmse(self) -> float:
        """Mean over windows."""


def score_text(rows: Sequence[ScoreRow], mean: str, steps: Mapping[str, set[int]]) -> str:
    """Lay scores out for reading: a column per forecast; fields apart for one step and a rollout's last.

    Args:
        rows: scores.
        mean: the field of means over fields.
        steps: which steps are shown, by loader.
    """
    forecasts = list(dict.fromkeys(row.forecast for row in rows))
    cells = {(row.loader, row.step, row.field, row.forecast): row.vrmse for row in rows}
    last = {loader: max(shown) for loader, shown in steps.items()}
    table = []
    for loader, step, field in dict.fromkeys(key[:3] for key in sorted(cells, key=lambda key: (key[0], key[1]))):
        if step in steps[loader] and (field == mean or step == last[loader]):
            name = f"{loader.replace('_', ' ')}{f' {step}' if loader == 'rollout' else ''}"
            table.append([name, field, *(f"{cells[loader, step, field, forecast]:.4f}" for forecast in forecasts)])
    return "\n".join(text_table(["VRMSE", "", *forecasts], table, "<<>", (14, 20)))


def score_line(rows: Sequence[ScoreRow], mean: str) -> str:
    """Return the means over fields at the first and the last step, the baselines' in brackets."""
    means = [row for row in rows if row.field == mean]
    last = max(row.step for row in means)
    parts = []
    for name, loader, step in (("one step", "one_step", 1), (f"rollout step {last}", "rollout", last)):
        values = {row.forecast: row.vrmse for row in means if (row.loader, row.step) == (loader, step)}
        if values:
            others = ", ".join(f"{forecast} {value:.3g}" for forecast, value in values.items() if forecast != "model")
            parts.append(f"{name} {values['model']:.3g} ({others})")
    return "VRMSE " + "; ".join(parts)
