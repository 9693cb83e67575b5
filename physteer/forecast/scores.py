"""What validation and test measured, as rows, as a table to read, and as numbers to log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from physteer.metrics import ForecastScores

LOADERS = ("one_step", "rollout")
"""The two sets of windows that validation and test read, in the order of their data loaders."""
MEAN = "mean_over_fields"
SHOWN_STEPS = (1, 5, 10, 20)
"""Steps of a rollout that are printed and logged, beside its last."""


@dataclass(frozen=True)
class Score:
    """One cell of the table."""

    loader: str
    """`one_step` or `rollout`."""
    forecast: str
    """`model`, `persistence` or `linear`."""
    field: str
    """A field, or `mean_over_fields`."""
    step: int
    """Steps after the context, from 1."""
    vrmse: float
    """Mean over all windows of all processes."""


def score_rows(scores: Mapping[str, nn.Module] | nn.ModuleDict) -> list[Score]:
    """Compute every score; a collective over the processes the first time, later calls return what is known."""
    rows = []
    for loader, measured in scores.items():
        assert isinstance(measured, ForecastScores)
        for forecast, vrmse in measured.compute().items():  # [steps, fields]
            fields = {**dict(zip(measured.fields, vrmse.T, strict=True)), MEAN: vrmse.mean(1)}
            rows += [
                Score(loader, forecast, field, step, value)
                for field, column in fields.items()
                for step, value in enumerate(column.tolist(), start=1)
            ]
    return rows


def logged(rows: Iterable[Score], stage: str) -> dict[str, float]:
    """Name the scores that go to a logger: every field of the model, means of the baselines, at a few steps."""
    rows = list(rows)
    steps = shown_steps(rows)
    found = {}
    for row in rows:
        if row.step in steps[row.loader] and (row.forecast == "model" or row.field == MEAN):
            step = f"_step_{row.step}" if row.loader == "rollout" else ""
            found[f"{stage}/{row.loader}/{row.forecast}/vrmse{step}/{row.field}"] = row.vrmse
    return found


def shown_steps(rows: Iterable[Score]) -> dict[str, set[int]]:
    """Return which steps are printed and logged, by loader: `SHOWN_STEPS` and the last."""
    last: dict[str, int] = {}
    for row in rows:
        last[row.loader] = max(row.step, last.get(row.loader, 0))
    return {loader: {step for step in (*SHOWN_STEPS, end) if step <= end} for loader, end in last.items()}
