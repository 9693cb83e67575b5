"""The trained network as safetensors."""

from __future__ import annotations

from pathlib import Path

import lightning as L

from physteer.callbacks.base import forecast_module
from physteer.errors import PhysteerError
from physteer.walrus import Walrus, save


class ExportWeights(L.Callback):
    """Write the network's weights as safetensors when ``fit`` ends, beside Lightning's own checkpoints.

    Other commands have no new weights: there it is silent, so that one YAML serves ``fit``, ``validate`` and ``test``.

    Args:
        filename: inside the run folder.
    """

    def __init__(self, filename: str = "walrus.safetensors") -> None:
        self.filename = filename

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a network that it cannot write."""
        _walrus(pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write, on the first process."""
        if not trainer.is_global_zero:
            return
        network, started_from = _walrus(pl_module), getattr(pl_module, "checkpoint", None)
        steps = {"steps": str(trainer.global_step), "started_from": started_from or "random weights"}
        save(network, Path(trainer.default_root_dir) / self.filename, steps)


def _walrus(pl_module: L.LightningModule) -> Walrus:
    network = forecast_module(pl_module, "ExportWeights").network
    if not isinstance(network, Walrus):
        raise PhysteerError(f"ExportWeights writes the weights of a Walrus; the network is a {type(network).__name__}")
    return network
