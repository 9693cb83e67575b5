"""The trained network as safetensors."""

from __future__ import annotations

from pathlib import Path

import lightning as L

from physteer.module import WalrusModule
from physteer.walrus import save


class ExportWeights(L.Callback):
    """Write the network's weights as safetensors when ``fit`` ends, beside Lightning's own checkpoints.

    Args:
        filename: inside the run folder.
    """

    def __init__(self, filename: str = "walrus.safetensors") -> None:
        self.filename = filename

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write, on the first process."""
        if not trainer.is_global_zero or not isinstance(pl_module, WalrusModule):
            return
        steps = {"steps": str(trainer.global_step), "started_from": pl_module.checkpoint or "random weights"}
        save(pl_module.network, Path(trainer.default_root_dir) / self.filename, steps)
