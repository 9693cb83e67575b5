"""Every steered rollout judged: against the truth, against where the parameter would have gone, and for damage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import lightning as L
from torch import Tensor

from physteer.callbacks.base import RolloutCallback
from physteer.callbacks.measures import Comparison
from physteer.callbacks.naming import TRUTH, site_text
from physteer.data.batch import Batch
from physteer.data.counterfactual import initial_condition, next_values, solver_truth
from physteer.errors import PhysteerError
from physteer.interventions import UNSTEERED, Condition
from physteer.module import Rollout, WalrusModule
from physteer.reports.table import MetricRow, merge_parts, metrics_table, write_part

_NEXT = {1: "above", -1: "below"}


class Diagnostics(RolloutCallback):
    """Write ``tables/metrics.parquet`` and ``.csv``: one row per window, condition, step, field and metric.

    The change that steering makes, ŷ_steered − ŷ_unsteered, is compared with the change that the parameter would make,
    y(θ') − y(θ), both from the same state: the built-in solver continues the context at θ'.

    The rows of a window are written when its last condition is done, to ``tables/parts``, and put together when the run
    ends: memory does not grow with the data, and a run that is killed and goes on ends with the same table.

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
        self._rows: dict[str, list[MetricRow]] = {}  # by window, of the batch that is being rolled out
        self._compared: Comparison | None = None
        self._names: dict[tuple[str, int], str] = {}

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a table."""
        self._rows, self._names, self._compared = {}, {}, None

    def on_rollout_end(self, trainer: L.Trainer, pl_module: WalrusModule, rollout: Rollout) -> None:
        """Measure a group of conditions; after the last of a batch, write its windows' rows."""
        batch = rollout.batch
        if self._compared is None:
            if rollout.conditions[0] is not UNSTEERED:
                raise PhysteerError("Diagnostics needs the unsteered model first among the conditions")
            self._name(trainer, batch)
            self._compared = self._comparison(batch, rollout.frames[0])
            self._add_truths(self._compared)
        compared = self._compared
        for condition, frames in zip(rollout.conditions, rollout.frames, strict=True):
            # a condition with a context of its own may have none for some windows, whose frames are NaN throughout
            there = [condition.context is None or not bool(row.isnan().all()) for row in frames]
            self._add(batch, condition, condition.role, compared.flow(frames), there)
            if condition is not UNSTEERED:
                self._add(batch, condition, condition.role, compared.movement(frames), there)
                aligned = compared.alignment(frames, condition.strength)
                known = [a and b for a, b in zip(there, compared.has_target(condition.strength), strict=True)]
                self._add(batch, condition, condition.role, aligned, known)
        if rollout.conditions[-1] is pl_module.conditions[-1]:
            for window, rows in self._rows.items():
                write_part(trainer.default_root_dir, window, metrics_table(rows))
            self._rows, self._compared = {}, None

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table of all windows, on the first process, once every process has written its own."""
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            dataset = trainer.predict_dataloaders.dataset  # type: ignore[union-attr]
            merge_parts(Path(trainer.default_root_dir), map(str, dataset.windows))

    def _name(self, trainer: L.Trainer, batch: Batch) -> None:
        """Learn the initial conditions of a batch's windows, each of a trajectory once."""
        dataset = trainer.predict_dataloaders.dataset  # type: ignore[union-attr]
        for window in batch.windows:
            if (key := (window.file, window.trajectory)) not in self._names:
                self._names[key] = initial_condition(dataset, window)

    def _comparison(self, batch: Batch, unsteered: Tensor) -> Comparison:
        targets: dict[int, Tensor] = {}
        base = None
        if self.parameter is not None:
            if self.parameter not in batch.parameters:
                known = ", ".join(batch.parameters)
                raise PhysteerError(f"Diagnostics: the data have no parameter {self.parameter!r}; they have {known}")
            n_steps = batch.targets.shape[1]
            for sign in _NEXT:
                values = next_values(batch.parameters[self.parameter], self.values, sign)
                if bool(values.isfinite().any()):
                    targets[sign] = solver_truth(batch, n_steps, {self.parameter: values}).cpu()
            if targets:  # restarted too, so that nothing but the parameter is between the two
                base = solver_truth(batch, n_steps, {}).cpu()
        return Comparison(batch, unsteered, targets, base)

    def _add_truths(self, compared: Comparison) -> None:
        """Add the rows of the stored truth, and of those at the neighbouring parameters where there are any."""
        self._add(compared.batch, TRUTH, "truth", compared.flow(compared.truth))
        for sign, truth in compared.targets.items():
            condition = Condition(f"truth at the {self.parameter} {_NEXT[sign]}", strength=sign)
            self._add(compared.batch, condition, "truth", compared.flow(truth), compared.has_target(sign))

    def _add(
        self,
        batch: Batch,
        condition: Condition,
        role: str,
        measured: Iterator[tuple[str, str, Tensor]],
        rows: list[bool] | None = None,
    ) -> None:
        """Add the rows of one condition's rollouts; of some of the batch's windows only, if ``rows`` says so."""
        site = site_text(condition)
        for field, metric, values in measured:  # values [B, T]
            for row, window in enumerate(batch.windows):
                if rows is not None and not rows[row]:
                    continue
                initial = self._names[window.file, window.trajectory]
                mine = self._rows.setdefault(str(window), [])
                for step, value in enumerate(values[row].tolist(), start=1):
                    if metric == "blow_up_step" and math.isnan(value):
                        continue  # not at this step
                    mine.append(
                        MetricRow(
                            window=str(window),
                            initial_condition=initial,
                            condition=condition.name,
                            role=role,
                            direction=condition.direction,
                            strength=condition.strength,
                            mode=condition.mode,
                            site=site,
                            step=step,
                            time=float(batch.times[row, batch.n_input + step - 1]),
                            field=field,
                            metric=metric,
                            value=value,
                        )
                    )
