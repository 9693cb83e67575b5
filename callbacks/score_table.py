"""Scores of validation and test, printed and as a table."""

from __future__ import annotations

from pathlib import Path

import lightning as L

from physteer.forecast.evaluation import ForecastEvaluation
from physteer.forecast.scores import MEAN, Score, score_rows, shown_steps
from physteer.reports.score_text import score_line, score_text
from physteer.tables import write_rows


class ScoreTable(L.Callback):
    """Write ``tables/scores_val`` or ``scores_test``, as Parquet and CSV, and print what matters of it.

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
        path = Path(trainer.default_root_dir) / "tables" / f"scores_{split}"
        write_rows(path, Score, rows)
        if brief:
            pl_module.print(f"step {trainer.global_step}: {score_line(rows, MEAN)}", flush=True)
        else:
            text = score_text(rows, MEAN, shown_steps(rows))
            pl_module.print(f"{text}\n{path.with_suffix('.csv')}", flush=True)
