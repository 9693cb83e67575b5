"""The scores of validation and test, as rows, as text, and as values for the logger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from physteer.metrics import ForecastScores

LOADERS = ("one_step", "rollout")
"""The two sets of windows that validation and test read, in the order of their data loaders."""
MEAN = "mean_over_fields"
SHOWN_STEPS = (1, 5, 10, 20)
"""Steps of a rollout that are printed and logged, besides its last."""


@dataclass(frozen=True)
class Score:
    """The VRMSE of one forecast, field and step."""

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
    """Compute every score; the first call is a collective over processes, later calls return the same values."""
    rows = []
    for loader, metric in scores.items():
        assert isinstance(metric, ForecastScores)
        for forecast, vrmse in metric.compute().items():  # [steps, fields]
            fields = {**dict(zip(metric.fields, vrmse.T, strict=True)), MEAN: vrmse.mean(1)}
            rows += [
                Score(loader, forecast, field, step, value)
                for field, column in fields.items()
                for step, value in enumerate(column.tolist(), start=1)
            ]
    return rows


def logged(rows: Iterable[Score], stage: str) -> dict[str, float]:
    """Return the values for the logger at a few steps: every field of the model, and the means of the baselines."""
    rows = list(rows)
    steps = shown_steps(rows)
    values_by_name = {}
    for row in rows:
        if row.step in steps[row.loader] and (row.forecast == "model" or row.field == MEAN):
            step = f"_step_{row.step}" if row.loader == "rollout" else ""
            values_by_name[f"{stage}/{row.loader}/{row.forecast}/vrmse{step}/{row.field}"] = row.vrmse
    return values_by_name


def shown_steps(rows: Iterable[Score]) -> dict[str, set[int]]:
    """Return which steps are printed and logged, by loader: `SHOWN_STEPS` and the last."""
    last: dict[str, int] = {}
    for row in rows:
        last[row.loader] = max(row.step, last.get(row.loader, 0))
    return {loader: {step for step in (*SHOWN_STEPS, end) if step <= end} for loader, end in last.items()}
