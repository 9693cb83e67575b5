"""Every steered rollout judged: against the truth, against where the parameter would have gone, and for damage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from physteer.analyses.steering.comparison import left_out, solver_comparison
from physteer.analyses.steering.natural_meter import NaturalMeter
from physteer.analyses.steering.rollout_rows import RolloutRows
from physteer.analyses.steering.run_tables import merge_tables
from physteer.analyses.steering.table import ConditionKey
from physteer.callbacks.base import RolloutCallback, check_predict, forecast_module
from physteer.callbacks.windows import has_rollout, predict_dataset
from physteer.data.batch import Batch
from physteer.data.matching import initial_conditions
from physteer.errors import PhysteerError
from physteer.forecast import Rollout
from physteer.forecast.module import ForecastModule
from physteer.interventions import UNSTEERED, Condition


class Diagnostics(RolloutCallback):
    """Write ``tables/metrics.parquet`` and ``.csv``: one row per window, condition, step, field and metric.

    Beside it, ``tables/spectra`` has the energy spectra, and ``tables/summary`` what the metrics show, with intervals
    over initial conditions. On a stretched grid derivatives use the cells' positions, and means over space their
    volumes; spectra are left out. On a grid that is not Cartesian, metrics of the whole flow are. A warning says so.

    The change that steering makes, ŷ_steered − ŷ_unsteered, is compared with the change that the parameter would make,
    y(θ') − y(θ), both from the same state: the built-in solver continues the context at θ'.

    The rows of a window are written when its last condition is done, to ``tables/parts`` and ``tables/spectra_parts``,
    and put together when the run ends: memory does not grow with the data, and a run that is killed and goes on ends
    with the same tables.

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
        self._rows: RolloutRows | None = None  # of the batch that is being rolled out
        self._meter = NaturalMeter([])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what has no rollouts."""
        check_predict("Diagnostics", trainer, pl_module, stage)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a table."""
        module, dataset = forecast_module(pl_module, "Diagnostics"), predict_dataset(trainer)
        if sentence := left_out(dataset.metadata):
            rank_zero_warn(sentence)
        self._rows = None
        self._meter = NaturalMeter(self.natural)
        self._meter.check(module.forecaster, dataset.metadata, dataset.spec.n_input)
        module.observers.append(self._meter)

    def on_rollout_start(
        self, trainer: L.Trainer, pl_module: ForecastModule, batch: Batch, conditions: Sequence[Condition]
    ) -> None:
        """Listen to a group of conditions."""
        self._meter.start(len(conditions))

    def on_rollout_end(self, trainer: L.Trainer, pl_module: ForecastModule, rollout: Rollout) -> None:
        """Measure a group of conditions; after the last of a batch, write its windows' rows."""
        batch = rollout.batch
        if self._rows is None:
            if rollout.conditions[0] is not UNSTEERED:
                raise PhysteerError("Diagnostics needs the unsteered model first among the conditions")
            comparison = solver_comparison(batch, rollout.frames[0], self.parameter, self.values)
            matched = initial_conditions(predict_dataset(trainer))
            self._rows = RolloutRows(comparison, [matched.name(window) for window in batch.windows])
        exist = [has_rollout(condition, batch) for condition in rollout.conditions]
        keys = [_key(condition) for condition in rollout.conditions]
        for key, frames, exists in zip(keys, rollout.frames, exist, strict=True):
            self._rows.add(key, frames, exists)
        for number, row, step, site, metric, value in self._meter.rows():
            if exist[number][row]:
                self._rows.add_value(keys[number], row, step, site, metric, value)
        if rollout.conditions[-1] is pl_module.conditions[-1]:
            self._rows.write_parts(Path(trainer.default_root_dir))
            self._rows = None

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the tables of all windows, on the first process, once every process has written its own."""
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            merge_tables(trainer.default_root_dir, list(map(str, predict_dataset(trainer).windows)))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop listening."""
        self._stop(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop listening."""
        self._stop(pl_module)

    def _stop(self, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, ForecastModule):
            pl_module.observers = [observer for observer in pl_module.observers if observer is not self._meter]


def _key(condition: Condition) -> ConditionKey:
    return ConditionKey(
        condition.role, condition.direction, condition.site, condition.mode, condition.strength, condition.name
    )
