"""Every steered rollout judged: against the truth, against where the parameter would have gone, and for damage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import lightning as L
from torch import Tensor

from physteer.analyses.steering.measures import Comparison, Measured
from physteer.analyses.steering.natural_meter import NaturalMeter
from physteer.analyses.steering.table import MetricRow, merge_parts, metrics_table, write_part
from physteer.callbacks.base import RolloutCallback, forecast_module
from physteer.callbacks.naming import TRUTH, site_text
from physteer.callbacks.windows import has_rollout, predict_dataset
from physteer.data.batch import Batch, Window
from physteer.data.counterfactual import next_values, solver_truth
from physteer.data.matching import initial_conditions
from physteer.errors import PhysteerError
from physteer.forecast import Rollout
from physteer.forecast.module import ForecastModule
from physteer.interventions import UNSTEERED, Condition

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
        natural: files of ``NaturalSpaces``, ``RUN/natural/<site>.safetensors``: how far from natural activations those
            of every rollout are there, as percentiles of held-out natural ones.
    """

    def __init__(
        self,
        parameter: str | None = None,
        values: list[float] = [],  # noqa: B006  as in the docs
        natural: list[str] = [],  # noqa: B006
    ) -> None:
        if (parameter is None) != (not values) or len(set(values)) < len(values):
            raise PhysteerError(
                f"Diagnostics needs a parameter with distinct values, or neither; found {parameter!r} and {values}"
            )
        self.parameter, self.values, self.natural = parameter, values, natural
        self._rows: dict[str, list[MetricRow]] = {}  # by window, of the batch that is being rolled out
        self._compared: Comparison | None = None
        self._meter: NaturalMeter | None = None

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a table."""
        module, dataset = forecast_module(pl_module, "Diagnostics"), predict_dataset(trainer)
        self._rows, self._compared = {}, None
        self._meter = NaturalMeter(self.natural)
        self._meter.check(module.forecaster, dataset.metadata, dataset.spec.n_input)
        module.observers.append(self._meter)

    def on_rollout_start(
        self, trainer: L.Trainer, pl_module: ForecastModule, batch: Batch, conditions: Sequence[Condition]
    ) -> None:
        """Listen to a group of conditions."""
        assert self._meter is not None
        self._meter.start(len(conditions))

    def on_rollout_end(self, trainer: L.Trainer, pl_module: ForecastModule, rollout: Rollout) -> None:
        """Measure a group of conditions; after the last of a batch, write its windows' rows."""
        batch = rollout.batch
        matched = initial_conditions(predict_dataset(trainer))
        names = {window: matched.name(window) for window in batch.windows}
        if self._compared is None:
            if rollout.conditions[0] is not UNSTEERED:
                raise PhysteerError("Diagnostics needs the unsteered model first among the conditions")
            self._compared = self._comparison(batch, rollout.frames[0])
            self._add_truths(self._compared, names)
        compared = self._compared
        tables = []
        for condition, frames in zip(rollout.conditions, rollout.frames, strict=True):
            table = _Rows(self._rows, batch, names, condition, condition.role, has_rollout(condition, batch))
            tables.append(table)
            table.add(compared.flow(frames))
            if condition is not UNSTEERED:
                table.add(compared.movement(frames))
                table.add(compared.alignment(frames, condition.strength), compared.has_target(condition.strength))
        assert self._meter is not None
        for number, row, step, site, metric, value in self._meter.rows():
            tables[number].add_one(row, step, site, metric, value)
        if rollout.conditions[-1] is pl_module.conditions[-1]:
            for window, rows in self._rows.items():
                write_part(trainer.default_root_dir, window, metrics_table(rows))
            self._rows, self._compared = {}, None

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table of all windows, on the first process, once every process has written its own."""
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            merge_parts(trainer.default_root_dir, map(str, predict_dataset(trainer).windows))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop listening."""
        self._stop(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop listening."""
        self._stop(pl_module)

    def _stop(self, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, ForecastModule):
            pl_module.observers = [observer for observer in pl_module.observers if observer is not self._meter]

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

    def _add_truths(self, compared: Comparison, names: Mapping[Window, str]) -> None:
        """Add the rows of the stored truth, and of those at the neighbouring parameters where there are any."""
        batch = compared.batch
        _Rows(self._rows, batch, names, TRUTH, "truth", [True] * len(batch)).add(compared.flow(compared.truth))
        for sign, truth in compared.targets.items():
            condition = Condition(f"truth at the {self.parameter} {_NEXT[sign]}", strength=sign)
            _Rows(self._rows, batch, names, condition, "truth", compared.has_target(sign)).add(compared.flow(truth))


@dataclass(frozen=True)
class _Rows:
    """Where the rows of one condition's rollouts from a batch of windows go."""

    tables: dict[str, list[MetricRow]]
    """By window."""
    batch: Batch
    names: Mapping[Window, str]
    """The windows' initial conditions."""
    condition: Condition
    role: str
    there: Sequence[bool]
    """Of which windows there is a rollout."""

    def add(self, measured: Measured, has_value: Sequence[bool] | None = None) -> None:
        """Add metrics of all windows and steps, or of the windows that ``has_value`` names."""
        for field, metric, values in measured:  # values [B, T]
            for row, column in enumerate(values.tolist()):
                for step, value in enumerate(column if has_value is None or has_value[row] else (), start=1):
                    if metric != "blow_up_step" or not math.isnan(value):  # NaN: not at this step
                        self.add_one(row, step, field, metric, value)

    def add_one(self, row: int, step: int, field: str, metric: str, value: float) -> None:
        """Add one value of one window and step."""
        if not self.there[row]:
            return
        window, who = self.batch.windows[row], self.condition
        self.tables.setdefault(str(window), []).append(
            MetricRow(
                window=str(window),
                initial_condition=self.names[window],
                condition=who.name,
                role=self.role,
                direction=who.direction,
                strength=who.strength,
                mode=who.mode,
                site=site_text(who),
                step=step,
                time=float(self.batch.times[row, self.batch.n_input + step - 1]),
                field=field,
                metric=metric,
                value=value,
            )
        )
