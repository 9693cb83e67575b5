"""Every steered rollout judged: against the truth, against where the parameter would have gone, and for damage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from physteer.callbacks.base import RolloutCallback
from physteer.callbacks.processes import gather
from physteer.data.batch import Batch
from physteer.data.counterfactual import initial_condition, solver_truth
from physteer.errors import PhysteerError
from physteer.interventions import UNSTEERED, Condition
from physteer.metrics import (
    alignment,
    blow_up_step,
    divergence_rms,
    enstrophy,
    kinetic_energy,
    recovery_terms,
    spectrum_distance,
    tracer_mass,
    tracer_variance,
    vortex_area,
    vrmse,
)
from physteer.module import Rollout, WalrusModule
from physteer.reports.table import MetricRow, metrics_table, write_metrics

VELOCITY = ("velocity_x", "velocity_y", "velocity_z")
TRUTH = Condition("truth")


class Diagnostics(RolloutCallback):
    """Write ``tables/metrics.parquet`` and ``.csv``: one row per window, condition, step, field and metric.

    The change that steering makes, ŷ_steered − ŷ_unsteered, is compared with the change that the parameter would make,
    y(θ') − y(θ), both from the same state: the built-in solver continues the context at θ'. What goes beyond one
    process's memory is never kept: rows only.

    Args:
        parameter: what the concept is about, such as ``Reynolds``; null for no comparison with other parameters (data
            that the built-in solver cannot continue).
        values: the parameter's values in the concept's direction: θ' for α > 0 is the value after the window's own, for
            α < 0 the one before. Fixed here, before the run.
    """

    def __init__(self, parameter: str | None = None, values: list[float] = []) -> None:  # noqa: B006  as in the docs
        if (parameter is None) != (not values) or len(set(values)) < len(values):
            raise PhysteerError(
                f"Diagnostics needs a parameter with distinct values, or neither; found {parameter!r} and {values}"
            )
        self.parameter, self.values = parameter, values
        self._rows: list[MetricRow] = []
        self._unsteered = torch.empty(0)
        self._targets: dict[int, Tensor] = {}
        self._base = torch.empty(0)
        self._names: dict[tuple[str, int], str] = {}

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a table."""
        self._rows, self._names = [], {}

    def on_rollout_end(self, trainer: L.Trainer, pl_module: WalrusModule, rollout: Rollout) -> None:
        """Measure a group of conditions."""
        batch = rollout.batch
        if rollout.conditions[0] is UNSTEERED:
            self._unsteered = rollout.frames[0]
            self._targets = {sign: t for sign in (1, -1) if (t := self._target(batch, sign)) is not None}
            if self._targets:  # restarted too, so that nothing but the parameter is between the two
                self._base = solver_truth(batch, batch.targets.shape[1], {}).cpu()
            self._add(trainer, batch, TRUTH, batch.targets.cpu())
            for sign, truth in self._targets.items():
                self._add(
                    trainer, batch, Condition(f"truth at the {self.parameter} {_NEXT[sign]}", strength=sign), truth
                )
        for condition, frames in zip(rollout.conditions, rollout.frames, strict=True):
            self._add(trainer, batch, condition, frames)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table of all processes."""
        everyone = gather(trainer, self._rows)
        if trainer.is_global_zero and any(everyone):
            write_metrics(Path(trainer.default_root_dir), metrics_table(row for rows in everyone for row in rows))

    def _target(self, batch: Batch, sign: int) -> Tensor | None:
        """Return y(θ') [B, T, C, H, W, D]; NaN in the rows of windows that have no next value."""
        if self.parameter is None:
            return None
        if self.parameter not in batch.parameters:
            known = ", ".join(batch.parameters)
            raise PhysteerError(f"Diagnostics: the data have no parameter {self.parameter!r}; they have {known}")
        truth = torch.full_like(batch.targets, torch.nan)
        own = batch.parameters[self.parameter]
        for value in sorted(set(own.tolist())):
            near = [i for i, v in enumerate(self.values) if abs(v - value) <= 1e-6 * abs(v)]
            index = near[0] + sign if near else -1
            if 0 <= index < len(self.values):
                rows = own == value
                part = solver_truth(batch, batch.targets.shape[1], {self.parameter: self.values[index]})
                truth[rows] = part[rows].to(truth)
        return truth.cpu() if bool(truth.isfinite().any()) else None

    def _add(self, trainer: L.Trainer, batch: Batch, condition: Condition, frames: Tensor) -> None:
        """Add the rows of one condition's rollouts, [B, T, C, H, W, D]."""
        site = ", ".join(str(edit.site) for edit in condition.edits)
        is_truth = not condition.edits and condition is not UNSTEERED
        role = "truth" if is_truth else condition.role
        dataset = trainer.predict_dataloaders.dataset  # type: ignore[union-attr]
        names = []
        for window in batch.windows:
            key = (window.file, window.trajectory)
            if key not in self._names:
                self._names[key] = initial_condition(dataset, window)
            names.append(self._names[key])
        for field, metric, values in self._measure(batch, condition, frames):  # values [B, T]
            for row, window in enumerate(batch.windows):
                if role == "truth" and bool(frames[row].isnan().any()):
                    continue  # no such truth
                for step, value in enumerate(values[row].tolist(), start=1):
                    if metric != "blow_up_step" or not math.isnan(value):
                        time = float(batch.times[row, batch.n_input + step - 1])
                        self._rows.append(
                            MetricRow(
                                str(window),
                                names[row],
                                condition.name,
                                role,
                                condition.direction,
                                condition.strength,
                                condition.mode,
                                site,
                                step,
                                time,
                                field,
                                metric,
                                value,
                            )
                        )

    def _measure(self, batch: Batch, condition: Condition, frames: Tensor) -> Iterator[tuple[str, str, Tensor]]:
        """Yield field, metric and values [B, T]."""
        scored, grid, truth = batch.channels.predicted, batch.grid, batch.targets.cpu()
        target = self._targets.get(1 if condition.strength > 0 else -1) if condition.edits else None
        fields = {batch.channels.names[i]: i for i in scored}
        for name, i in fields.items():
            yield name, "vrmse", vrmse(frames[:, :, i], truth[:, :, i])
            if target is not None:
                aligned = alignment(frames[:, :, i], self._unsteered[:, :, i], target[:, :, i], self._base[:, :, i])
                terms = recovery_terms(frames[:, :, i], self._unsteered[:, :, i], target[:, :, i])
                yield name, "alignment_cosine", aligned.cosine
                yield name, "alignment_gain", aligned.gain
                yield name, "error_steered", terms.error_steered
                yield name, "error_unsteered", terms.error_unsteered
        if set(VELOCITY) <= set(batch.channels.names):
            index = [batch.channels.index(name) for name in VELOCITY]
            velocity = frames[:, :, index]
            yield "", "enstrophy", enstrophy(velocity, grid.spacing, grid.periodic)
            yield "", "vortex_area", vortex_area(velocity, grid.spacing, grid.periodic)
            yield "", "kinetic_energy", kinetic_energy(velocity)
            yield "", "divergence_rms", divergence_rms(velocity, grid.spacing, grid.periodic)
            yield "", "spectrum_distance", spectrum_distance(velocity, truth[:, :, index])
        if "tracer" in fields:
            yield "", "tracer_variance", tracer_variance(frames[:, :, fields["tracer"]])
            yield "", "tracer_mass", tracer_mass(frames[:, :, fields["tracer"]])
        blown = blow_up_step(frames[:, :, scored], batch.context[:, -1, scored].cpu()).amin(-1, keepdim=True)  # [B, 1]
        steps = torch.arange(1, frames.shape[1] + 1, dtype=blown.dtype)
        yield "", "blow_up_step", torch.where(steps == blown, blown, torch.nan)


_NEXT = {1: "above", -1: "below"}
