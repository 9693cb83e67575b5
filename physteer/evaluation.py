"""What validation and test measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from physteer.data.batch import Batch
from physteer.metrics import ForecastScores
from physteer.scores import LOADERS, logged, score_rows

if TYPE_CHECKING:
    from physteer.module import WalrusModule


class Evaluation(Protocol):
    """Scores over the data loaders of validation or test."""

    def begin(self, module: WalrusModule, loaders: Any) -> None:
        """Forget what was measured; `loaders` are about to be read."""

    def score(self, module: WalrusModule, batch: Any, loader: int) -> None:
        """Add a batch of one of the loaders, counted from 0."""

    def results(self, stage: str) -> dict[str, float]:
        """Return what goes to the logger, under ``val/…`` or ``test/…``; a collective over the processes."""


class ForecastEvaluation(nn.Module):
    """How well the model predicts: VRMSE of one step (first loader) and of rollouts (second), beside baselines."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.ModuleDict()
        """`one_step` and `rollout`, each `ForecastScores`."""

    def begin(self, module: WalrusModule, loaders: Any) -> None:
        """Make empty scores for the loaders' fields and steps."""
        for name, loader in zip(LOADERS, loaders, strict=True):
            channels = loader.dataset.origin.channels
            fields = [channels.names[i] for i in channels.predicted]
            self.scores[name] = ForecastScores(loader.dataset.spec.n_output, fields).to(module.device)

    def score(self, module: WalrusModule, batch: Batch, loader: int) -> None:
        """Roll out a batch's windows and add their errors."""
        n_steps, scored = batch.targets.shape[1], batch.channels.predicted
        prediction = torch.cat([frame[:, :, scored] for frame in module.rollout(batch, n_steps)], dim=1)
        scores = self.scores[LOADERS[loader]]
        scores.update(batch.context[:, :, scored], prediction, batch.targets[:, :, scored])  # type: ignore[operator]

    def results(self, stage: str) -> dict[str, float]:
        """Name the scores that go to a logger."""
        return logged(score_rows(self.scores), stage)
