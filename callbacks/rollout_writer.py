"""Rollouts on disk, in The Well's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import lightning as L
from torch import Tensor

from physteer.analyses.steering.table import TRUTH
from physteer.callbacks.base import RolloutCallback, check_predict, forecast_module
from physteer.callbacks.windows import context_of, predict_dataset
from physteer.data.batch import Batch, Window
from physteer.data.matching import initial_conditions
from physteer.data.rollout_files import check_coordinates, write_array, write_rollout
from physteer.errors import PhysteerError
from physteer.files import file_name
from physteer.forecast import Rollout
from physteer.forecast.module import ForecastModule
from physteer.interventions import Condition

_TRUTH = Condition(TRUTH)
"""The stored frames, written beside the model's rollouts."""


class RolloutWriter(RolloutCallback):
    """Write every rollout as ``rollouts/<condition>/data/<split>/<window>.hdf5`` in the run folder.

    A file is one trajectory, the context followed by the predicted frames, and is whole or not there. Each
    ``rollouts/<condition>`` is a data set that ``WellDataModule`` reads.

    Args:
        truth: write the stored frames too, as a condition of that name.
        controls: write the rollouts along random and shuffled directions too; ``Diagnostics`` measures them either way.
        numpy: write the predicted frames as ``rollouts/<condition>/numpy/<window>.npy`` too, [T, C, H, W, D] in float32
            and the data set's units, with a ``.json`` that names the channels.
    """

    def __init__(self, truth: bool = True, controls: bool = False, numpy: bool = False) -> None:
        self.truth, self.controls, self.numpy = truth, controls, numpy

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what has no rollouts."""
        check_predict("RolloutWriter", trainer, pl_module, stage)

    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that windows share their coordinates, and that no two conditions would share a folder."""
        check_coordinates(predict_dataset(trainer).metadata)
        conditions = [*forecast_module(pl_module, "RolloutWriter").conditions, _TRUTH]
        folders = [file_name(condition.name) for condition in conditions]
        for condition, folder in zip(conditions, folders, strict=True):
            if folders.count(folder) > 1:
                raise PhysteerError(
                    f"condition {condition.name!r} is not the only one that would be written to rollouts/{folder}; "
                    "conditions are called after the concept's file, mode, strength and site: make one differ"
                )

    def on_rollout_end(self, trainer: L.Trainer, pl_module: ForecastModule, rollout: Rollout) -> None:
        """Write what was rolled out for one batch."""
        batch = rollout.batch
        folder = Path(trainer.default_root_dir) / "rollouts"
        matched = initial_conditions(predict_dataset(trainer))
        names = {window: matched.name(window) for window in batch.windows}
        for condition, frames in zip(rollout.conditions, rollout.frames, strict=True):
            if self.controls or condition.role not in ("random", "shuffled"):
                self._write(folder, condition, batch, frames, names)
        if self.truth and rollout.conditions[0] is pl_module.conditions[0]:
            self._write(folder, _TRUTH, batch, batch.targets, names)

    def _write(
        self, folder: Path, condition: Condition, batch: Batch, frames: Tensor, initial: Mapping[Window, str]
    ) -> None:
        attributes: dict[str, str | int | float] = {
            "condition": condition.name,
            "role": condition.role,
            "direction": condition.direction,
            "strength": condition.strength,
            "mode": condition.mode,
            "site": condition.site,
        }
        split, context = PurePosixPath(batch.metadata.path).name, context_of(condition, batch)
        for row, window in enumerate(batch.windows):
            if bool(context[row].isnan().any()):
                continue  # nothing to start from, so no rollout
            place, told = folder / file_name(condition.name), {**attributes, "initial_condition": initial[window]}
            path = place / "data" / split / f"{window}.hdf5"
            write_rollout(path, batch, row, frames[row], told, context[row])
            if self.numpy:
                write_array(place / "numpy" / f"{window}.npy", batch, row, frames[row], told)
