"""Progress that counts rollout steps."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from physteer.callbacks.base import RolloutCallback
from physteer.module import WalrusModule


class RolloutProgress(TQDMProgressBar, RolloutCallback):
    """Lightning's progress bar, which in ``predict`` counts forwards instead of batches.

    A batch of ``predict`` is a whole rollout under many conditions, so a bar over batches would stand still.

    Args:
        refresh_rate: forwards between updates of the bar; 0 for no bar.
    """

    def init_predict_tqdm(self) -> Tqdm:
        """Return the bar that counts forwards."""
        return Tqdm(desc="Rolling out", unit=" steps", dynamic_ncols=True, file=sys.stdout, disable=self.is_disabled)

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Set the total once the first batch tells the number of steps and of condition groups."""
        if batch_idx == 0 and isinstance(pl_module, WalrusModule) and not self.is_disabled:
            batches = sum(int(n) for n in trainer.num_predict_batches)
            size = pl_module.conditions_per_forward or len(pl_module.conditions)
            groups = -(-len(pl_module.conditions) // size)
            self.predict_progress_bar.reset(total=batches * groups * batch.targets.shape[1])

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the steps were counted as they were made."""

    def on_rollout_step(self, trainer: L.Trainer, pl_module: WalrusModule, step: int, n_steps: int) -> None:
        """Count a forward."""
        if not self.is_disabled:
            self.predict_progress_bar.update(1)
