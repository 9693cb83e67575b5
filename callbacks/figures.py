"""Tables, figures and the report of a run."""

from __future__ import annotations

import lightning as L

from physteer.analyses.steering.run_tables import complete_tables
from physteer.callbacks.base import check_predict
from physteer.callbacks.diagnostics import Diagnostics
from physteer.reports import report, summary_of


class Figures(L.Callback):
    """When ``predict`` ends, make figures and ``report.html`` in the run folder from its tables and rollouts.

    The same as ``physteer report RUN`` afterwards. Without ``Diagnostics``, the rollouts that ``RolloutWriter`` wrote
    are measured first. List ``RolloutVideo`` before it for videos in the report.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what has no rollouts."""
        check_predict("Figures", trainer, pl_module, stage)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report, on the first process, once every process has written its rollouts."""
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            if not any(isinstance(callback, Diagnostics) for callback in trainer.callbacks):  # type: ignore[attr-defined]
                complete_tables(trainer.default_root_dir, anew=True)
            path = report(trainer.default_root_dir)
            if summary := summary_of(trainer.default_root_dir):
                print(summary)
            print(f"report: {path}")
