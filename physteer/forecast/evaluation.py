"""Evaluations: the scores of validation and test."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import nn

from physteer.data.batch import Batch, not_windows
from physteer.data.dataset import WindowDataset
from physteer.forecast.forecaster import Forecaster
from physteer.forecast.scores import LOADERS, logged, score_rows
from physteer.forecast.steered_rollout import steered_rollout
from physteer.metrics import ForecastScores

Stage = Literal["fit", "validate", "test"]
"""The command an evaluation is part of: ``fit`` for the validations during training."""


class Evaluation(Protocol):
    """Scores over the data loaders of validation or test."""

    def begin(self, forecaster: Forecaster, loaders: Any, stage: Stage) -> None:
        """Start new scores for some data loaders."""

    def score(self, forecaster: Forecaster, batch: Any, loader: int) -> None:
        """Add a batch of one of the loaders, counted from 0."""

    def results(self, stage: str) -> dict[str, float]:
        """Return the values for the logger, named ``val/…`` or ``test/…``; a collective over processes."""


class ForecastEvaluation(nn.Module):
    """The model's VRMSE for one step (first loader) and for rollouts (second), beside baselines."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.ModuleDict()
        """`one_step` and `rollout`, each `ForecastScores`."""

    def begin(self, forecaster: Forecaster, loaders: Any, stage: Stage) -> None:
        """Start new scores for the loaders' fields and steps.

        Raises:
            PhysteerError: The loaders are not those of windows, one for each kind of score.
        """
        listed = loaders if isinstance(loaders, list | tuple) else [loaders]
        kinds = [type(getattr(loader, "dataset", loader)) for loader in listed]
        if len(kinds) != len(LOADERS) or not all(issubclass(kind, WindowDataset) for kind in kinds):
            names = " and ".join(kind.__name__ for kind in kinds)
            raise not_windows("a score of forecasts", f"the data are {names}")
        for name, loader in zip(LOADERS, listed, strict=True):
            channels = loader.dataset.metadata.channels
            fields = [channels.names[i] for i in channels.predicted]
            self.scores[name] = ForecastScores(loader.dataset.spec.n_output, fields).to(forecaster.device)

    def score(self, forecaster: Forecaster, batch: Batch, loader: int) -> None:
        """Roll out a batch's windows and add their errors."""
        n_steps, scored = batch.targets.shape[1], batch.channels.predicted
        frames = [frame[:, :, scored] for frame in steered_rollout(forecaster, batch, n_steps)]
        scores = self.scores[LOADERS[loader]]
        context, targets = batch.context[:, :, scored], batch.targets[:, :, scored]
        scores.update(context, torch.cat(frames, dim=1), targets)  # type: ignore[operator]

    def results(self, stage: str) -> dict[str, float]:
        """Return the scores for the logger, by name."""
        return logged(score_rows(self.scores), stage)
