"""The trained network as safetensors."""

from __future__ import annotations

from pathlib import Path

import lightning as L

from physteer.callbacks.base import forecast_module
from physteer.errors import PhysteerError


class ExportWeights(L.Callback):
    """Write the network's weights as safetensors when ``fit`` ends, beside Lightning's own checkpoints.

    ``model.checkpoint`` of a later run loads them. Other commands have no new weights: there it is silent, so that one
    YAML serves ``fit``, ``validate`` and ``test``.

    Args:
        filename: inside the run folder.
    """

    def __init__(self, filename: str = "weights.safetensors") -> None:
        self.filename = filename

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a network that it cannot write."""
        forecaster = forecast_module(pl_module, "ExportWeights").forecaster
        if not callable(getattr(forecaster, "save", None)):
            raise PhysteerError(
                f"ExportWeights needs a forecaster that writes its weights: {type(forecaster).__name__} has no method "
                "'save'"
            )

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write, on the first process."""
        if not trainer.is_global_zero:
            return
        module, started_from = forecast_module(pl_module, "ExportWeights"), getattr(pl_module, "checkpoint", None)
        provenance = {"steps": str(trainer.global_step), "started_from": started_from or "random weights"}
        module.forecaster.save(Path(trainer.default_root_dir) / self.filename, provenance)
