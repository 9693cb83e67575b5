"""Scores of validation and test, printed and as a table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import lightning as L

from physteer.files import atomic_write
from physteer.forecast.evaluation import ForecastEvaluation
from physteer.forecast.scores import MEAN, Score, score_rows, table


class ScoreTable(L.Callback):
    """Write ``tables/scores_val.csv`` or ``scores_test.csv`` in the run folder, and print what matters of it.

    VRMSE of one step and of rollouts, per field and step, with persistence and linear extrapolation beside. The command
    line adds this callback to every run.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write and print; inside ``fit``, where this happens often, print one line."""
        if not trainer.sanity_checking:
            self._write(trainer, pl_module, "val", brief=trainer.state.fn == "fit")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write and print."""
        self._write(trainer, pl_module, "test", brief=False)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str, *, brief: bool) -> None:
        evaluation = getattr(pl_module, "evaluation", None)
        if not isinstance(evaluation, ForecastEvaluation):
            return
        rows = score_rows(evaluation.scores)  # on every process, although only the first writes
        if not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / "tables" / f"scores_{split}.csv"
        with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["loader", "forecast", "field", "step", "vrmse"])
            writer.writerows(astuple(row) for row in rows)
        if brief:
            pl_module.print(f"step {trainer.global_step}: {in_brief(rows)}", flush=True)
        else:
            pl_module.print(f"{table(rows)}\n{path}", flush=True)


def in_brief(rows: Sequence[Score]) -> str:
    """Return the means over fields at the first and the last step, the baselines' in brackets."""
    means = [row for row in rows if row.field == MEAN]
    last = max(row.step for row in means)
    parts = []
    for name, loader, step in (("one step", "one_step", 1), (f"rollout step {last}", "rollout", last)):
        values = {row.forecast: row.vrmse for row in means if (row.loader, row.step) == (loader, step)}
        if values:
            others = ", ".join(f"{forecast} {value:.3g}" for forecast, value in values.items() if forecast != "model")
            parts.append(f"{name} {values['model']:.3g} ({others})")
    return "VRMSE " + "; ".join(parts)
