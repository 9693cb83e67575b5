"""What the windows of ``predict`` will be like, before the first is read."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import torch

from physteer.data.dataset import WindowDataset
from physteer.errors import PhysteerError
from physteer.interventions import Site
from physteer.module import WalrusModule


def window_shapes(trainer: L.Trainer, pl_module: WalrusModule, sites: Sequence[Site]) -> dict[Site, torch.Size]:
    """Return the shape of activations for one window of ``predict``; from `on_predict_start` on.

    Raises:
        PhysteerError: a site is unknown, or no activation is there.
    """
    dataset = getattr(trainer.predict_dataloaders, "dataset", None)
    if not isinstance(dataset, WindowDataset):
        raise PhysteerError("capturing and steering need windows of a WellDataModule")
    return pl_module.site_shapes(sites, dataset.origin, dataset.spec.n_input)
