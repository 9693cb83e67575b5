"""What a run was: its configuration, versions and seed, in the run folder."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import lightning as L
import yaml
from lightning.pytorch.cli import SaveConfigCallback

from physteer.files import atomic_write
from physteer.run_folder import EXPERIMENT, Experiment

_PACKAGES = ("physteer", "torch", "lightning", "torchmetrics", "the_well", "jsonargparse", "numpy", "h5py", "wandb")


class RunRecord(SaveConfigCallback):
    """Save ``config.yaml`` (merged, as run) and ``environment.json`` in ``trainer.default_root_dir``.

    ``physteer predict --config RUN/config.yaml`` repeats a run. ``experiment.json`` holds what decides the results of
    ``predict``, for the next start in that folder to compare. Written by the first process when the run starts: by
    then the other callbacks have found what is wrong with their settings, so that a mistake leaves no run folder.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs["save_to_log_dir"] = False
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.experiment: Experiment = {}
        """Set by the command line before ``predict``."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Nothing yet."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record."""
        self._record(trainer, pl_module, "fit")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record, unless this is part of ``fit``."""
        if trainer.state.fn == "validate":
            self._record(trainer, pl_module, "validate")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record."""
        self._record(trainer, pl_module, "test")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record."""
        self._record(trainer, pl_module, "predict")

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the files."""
        folder = Path(trainer.default_root_dir)
        if self.experiment:  # before anything that it tells the origin of
            with atomic_write(folder / EXPERIMENT) as path:
                path.write_text(json.dumps(self.experiment, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        text = self.parser.dump(self.config, skip_none=False)
        with atomic_write(folder / "config.yaml") as path:
            path.write_text(text)
        environment = {
            "command": sys.argv,
            "stage": stage,
            "seed": self.config.get("seed_everything"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processes": trainer.world_size,
            "device": str(trainer.strategy.root_device),
            "precision": str(trainer.precision),
            "versions": {name: _version(name) for name in _PACKAGES},
        }
        with atomic_write(folder / "environment.json") as path:
            path.write_text(json.dumps(environment, indent=2) + "\n")
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(text))

    def _record(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, stage)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
