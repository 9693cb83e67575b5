"""Tables, figures and the report of a run."""

from __future__ import annotations

import lightning as L

from physteer.reports import report, summary_of


class Figures(L.Callback):
    """When ``predict`` ends, read what it wrote and make tables, figures and ``report.html`` in the run folder.

    The same as ``physteer report RUN`` afterwards. List ``RolloutVideo`` before it for videos in the report.
    """

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report, on the first process, once every process has written its rollouts."""
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            path = report(trainer.default_root_dir)
            if summary := summary_of(trainer.default_root_dir):
                print(summary)
            print(f"report: {path}")
