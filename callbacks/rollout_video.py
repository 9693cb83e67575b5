"""Videos of a run's rollouts."""

from __future__ import annotations

import math

import lightning as L

from physteer.callbacks.base import check_predict, forecast_module
from physteer.callbacks.rollout_writer import RolloutWriter
from physteer.errors import PhysteerError
from physteer.reports import write_videos


class RolloutVideo(L.Callback):
    """When ``predict`` ends, make videos of truth, unsteered and steered rollouts side by side.

    They are ``videos/steered_*.mp4``, of what ``Erase`` does ``erased_*.mp4``. The colour scale is one, and the caption
    tells parameters, steering and step. They show what ``RolloutWriter`` wrote; list this callback before ``Figures``,
    whose report shows the videos.

    Args:
        windows: how many windows, spread over the files they are from.
        fields: ``vorticity`` and stored fields such as ``tracer`` or ``velocity_x``; null for the vorticity and the
            tracer, or else the first scalar.
        strengths: values of α; null for the strongest of either sign.
    """

    def __init__(self, windows: int = 2, fields: list[str] | None = None, strengths: list[float] | None = None) -> None:
        if windows < 1:
            raise PhysteerError(f"RolloutVideo.windows must be at least 1; found {windows}")
        if strengths is not None and not (strengths and all(map(math.isfinite, strengths))):
            raise PhysteerError(
                f"RolloutVideo.strengths must be one or more finite numbers, or null; found {strengths}"
            )
        self.windows, self.fields, self.strengths = windows, fields, strengths

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a run without rollouts to show."""
        check_predict("RolloutVideo", trainer, pl_module, stage)
        if not any(isinstance(callback, RolloutWriter) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise PhysteerError("RolloutVideo shows the rollouts that RolloutWriter writes: list RolloutWriter too")

    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a run without edited rollouts, once every callback has added its conditions."""
        conditions = forecast_module(pl_module, "RolloutVideo").conditions
        if not any(condition.edits and condition.role == "concept" for condition in conditions):
            raise PhysteerError("RolloutVideo shows what Steer and Erase do, and this run has neither: list one")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the videos, on the first process, once every process has written its rollouts."""
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            write_videos(trainer.default_root_dir, self.windows, self.fields, self.strengths)
