"""What the windows of ``predict`` will be like, before the model sees the first."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor

from physteer.data.batch import Batch
from physteer.data.dataset import WindowDataset
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster
from physteer.interventions import Condition, Site


def predict_dataset(trainer: L.Trainer) -> WindowDataset:
    """Return the windows of ``predict``, those of all processes; from `on_predict_start` on.

    Raises:
        PhysteerError: the data module is not ours.
    """
    dataset = getattr(trainer.predict_dataloaders, "dataset", None)
    if not isinstance(dataset, WindowDataset):
        raise PhysteerError("callbacks of predict need windows: set data.class_path to physteer.WellDataModule")
    return dataset


def window_shapes(trainer: L.Trainer, forecaster: Forecaster, sites: Sequence[Site]) -> dict[Site, torch.Size]:
    """Return the shape of activations for one window of ``predict``; from `on_predict_start` on.

    Raises:
        PhysteerError: a site is unknown, or no activation is there.
    """
    dataset = predict_dataset(trainer)
    return forecaster.site_shapes(sites, dataset.metadata, dataset.spec.n_input)


def context_of(condition: Condition, batch: Batch) -> Tensor:
    """Return the frames that a condition's rollouts start from, [B, T, C, H, W, D]."""
    return batch.context if condition.context is None else condition.context(batch)


def has_rollout(condition: Condition, batch: Batch) -> list[bool]:
    """Say of each window whether a condition has a rollout of it: its context is not NaN."""
    if condition.context is None:
        return [True] * len(batch)
    found: list[bool] = (~context_of(condition, batch).isnan().flatten(1).any(1)).tolist()
    return found
