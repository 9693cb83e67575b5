"""The rows of one batch of windows: metrics and energy spectra of every rollout, by window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor

from physteer.analyses.steering.comparison import Comparison, Measured
from physteer.analyses.steering.spectrum_rows import SpectrumRow, write_spectra_part
from physteer.analyses.steering.summary_rows import first_middle_last
from physteer.analyses.steering.table import TRUTH, ConditionKey, MetricRow, metrics_table, write_part

_NEIGHBOURS = {1: "above", -1: "below"}


class RolloutRows:
    """Gathers the rows of the rollouts from one batch of windows, condition by condition."""

    def __init__(self, comparison: Comparison, initial_conditions: Sequence[str]) -> None:
        """Begin with the rows of the truths.

        Args:
            comparison: what the rollouts are compared with.
            initial_conditions: of each window, by name.
        """
        self.comparison, self._initial_conditions = comparison, initial_conditions
        self._metrics: dict[str, list[MetricRow]] = {str(window): [] for window in comparison.batch.windows}
        self._spectra: dict[str, list[SpectrumRow]] = {window: [] for window in self._metrics}
        every_window = [True] * len(self._metrics)
        if comparison.truth is not None:
            key = ConditionKey("truth", condition=TRUTH)
            self._add(key, comparison.flow(comparison.truth), every_window)
            self._add_spectra(key, comparison.truth, every_window)
        for sign, target in comparison.targets.items():
            name = f"truth at the {comparison.parameter} {_NEIGHBOURS[sign]}"
            key = ConditionKey("truth", strength=float(sign), condition=name)
            self._add(key, comparison.flow(target), comparison.has_target(sign))
        for sign, frames in comparison.blurred.items():
            name = f"blurred as at the {comparison.parameter} {_NEIGHBOURS[sign]}"
            key = ConditionKey("blurred", "blurred output", strength=float(sign), condition=name)
            self._add_judged(key, frames, comparison.has_target(sign))

    def add(self, key: ConditionKey, frames: Tensor, exists: Sequence[bool] | None = None) -> None:
        """Measure the rollouts of one condition.

        Args:
            key: who they are.
            frames: [B, T, C, H, W, D].
            exists: of which windows there is a rollout; of all when None.
        """
        exists = [True] * len(self.comparison.batch) if exists is None else exists
        self._add_judged(key, frames, exists)
        if key.role != "random":
            self._add_spectra(key, frames, exists)

    def add_value(self, key: ConditionKey, row: int, step: int, field: str, metric: str, value: float) -> None:
        """Add one value of one window, by its place in the batch, and step."""
        batch = self.comparison.batch
        window = str(batch.windows[row])
        self._metrics[window].append(
            MetricRow(
                window=window,
                initial_condition=self._initial_conditions[row],
                **vars(key),
                step=step,
                time=float(batch.times[row, batch.n_input + step - 1]),
                field=field,
                metric=metric,
                value=value,
            )
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the table of metrics of each window."""
        return {window: metrics_table(rows) for window, rows in self._metrics.items()}

    def spectra(self) -> list[SpectrumRow]:
        """Return the spectra of all windows, each for itself."""
        return [row for rows in self._spectra.values() for row in rows]

    def write_parts(self, run_folder: Path) -> None:
        """Write the rows of each window to files of its own, for `merge_tables`."""
        for window, table in self.tables().items():
            write_part(run_folder, window, table)
            write_spectra_part(run_folder, window, self._spectra[window])

    def _add_judged(self, key: ConditionKey, frames: Tensor, exists: Sequence[bool]) -> None:
        """Add all metrics of the rollouts of one condition."""
        comparison = self.comparison
        self._add(key, comparison.flow(frames), exists)
        if key.role != "unsteered":
            self._add(key, comparison.movement(frames), exists)
            targets = comparison.has_target(key.strength)
            both = [rollout and target for rollout, target in zip(exists, targets, strict=True)]
            self._add(key, comparison.alignment(frames, key.strength), both)

    def _add(self, key: ConditionKey, measured: Measured, exists: Sequence[bool]) -> None:
        """Add metrics of all steps, of the windows that ``exists`` names."""
        for field, metric, values in measured:  # values [B, T]
            for row, column in enumerate(values.tolist()):
                for step, value in enumerate(column if exists[row] else (), start=1):
                    if metric != "blow_up_step" or not math.isnan(value):  # NaN: not at this step
                        self.add_value(key, row, step, field, metric, value)

    def _add_spectra(self, key: ConditionKey, frames: Tensor, exists: Sequence[bool]) -> None:
        steps = first_middle_last(frames.shape[1])
        spectra = self.comparison.spectra(frames, steps)
        if spectra is None:
            return
        for window, by_step, has_rollout in zip(self._spectra, spectra.tolist(), exists, strict=True):
            for step, energies in zip(steps, by_step, strict=True):
                if has_rollout and not math.isnan(energies[0]):  # a frame that is finite
                    self._spectra[window] += [
                        SpectrumRow(
                            **vars(key),
                            step=step,
                            wavenumber=wavenumber,
                            energy=energy,
                            windows=1,
                        )
                        for wavenumber, energy in enumerate(energies)
                    ]
