"""What the windows of ``predict`` will be like, before the model sees the first."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

import lightning as L
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor
from tqdm import tqdm

from physteer.data.batch import Batch, Window
from physteer.data.counterfactual import initial_condition
from physteer.data.dataset import WindowDataset
from physteer.errors import PhysteerError
from physteer.interventions import Condition, Site
from physteer.module import WalrusModule

T = TypeVar("T")

_KNOWN: WeakKeyDictionary[WindowDataset, dict[tuple[str, int], str]] = WeakKeyDictionary()
"""Initial conditions by file and trajectory: several callbacks of a run ask for them."""


def predict_dataset(trainer: L.Trainer) -> WindowDataset:
    """Return the windows of ``predict``, those of all processes; from `on_predict_start` on.

    Raises:
        PhysteerError: the data module is not ours.
    """
    dataset = getattr(trainer.predict_dataloaders, "dataset", None)
    if not isinstance(dataset, WindowDataset):
        raise PhysteerError("capturing and steering need windows of a WellDataModule")
    return dataset


def window_shapes(trainer: L.Trainer, pl_module: WalrusModule, sites: Sequence[Site]) -> dict[Site, torch.Size]:
    """Return the shape of activations for one window of ``predict``; from `on_predict_start` on.

    Raises:
        PhysteerError: a site is unknown, or no activation is there.
    """
    dataset = predict_dataset(trainer)
    return pl_module.site_shapes(sites, dataset.origin, dataset.spec.n_input)


def initial_conditions(dataset: WindowDataset, windows: Sequence[Window]) -> dict[Window, str]:
    """Return each window's initial condition (`physteer.data.counterfactual.initial_condition`).

    The first frame of every trajectory is read, once per data set, by every process.
    """
    known = _KNOWN.setdefault(dataset, {})
    new = {(w.file, w.trajectory): w for w in windows if (w.file, w.trajectory) not in known}
    for where, window in waiting(new.items(), "Reading initial conditions"):
        known[where] = initial_condition(dataset, window)
    return {window: known[window.file, window.trajectory] for window in windows}


def context_of(condition: Condition, batch: Batch) -> Tensor:
    """Return the frames that a condition's rollouts start from, [B, T, C, H, W, D]."""
    return batch.context if condition.context is None else condition.context(batch)


def has_rollout(condition: Condition, batch: Batch) -> list[bool]:
    """Say of each window whether a condition has a rollout of it: its context is not NaN."""
    if condition.context is None:
        return [True] * len(batch)
    found: list[bool] = (~context_of(condition, batch).isnan().flatten(1).any(1)).tolist()
    return found


def waiting(things: Collection[T], what: str) -> Iterator[T]:
    """Yield things with a bar of progress, where somebody watches and this is the first process."""
    hidden = True if getattr(rank_zero_only, "rank", 0) else None  # None: tqdm looks whether it is a terminal
    yield from tqdm(things, desc=what, leave=False, disable=hidden)
