"""Counts what is alive while a run goes on."""

import gc
from collections import Counter
from typing import Any, ClassVar

import lightning as L
import torch

from physteer.analyses.steering.spectrum_rows import SpectrumRow
from physteer.analyses.steering.table import MetricRow
from physteer.data import Batch

KINDS = {torch.Tensor: "tensors", MetricRow: "rows", SpectrumRow: "rows", Batch: "batches"}


class Living(L.Callback):
    """Counts tensors, rows of tables and batches that ``predict`` has made and that are alive after every batch.

    Args:
        keep: hold on to every batch, as a callback with a leak does.
    """

    counts: ClassVar[list[Counter[str]]] = []
    """Of the latest run, by batch."""

    def __init__(self, keep: bool = False) -> None:
        self.keep = keep
        self.kept: list[Any] = []
        Living.counts = []

    def on_predict_start(self, *args: Any) -> None:
        """Leave out what there is before the first batch, so that counting is quick."""
        gc.collect()
        gc.freeze()

    def on_predict_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        """Count."""
        if self.keep:
            self.kept.append(batch)
        gc.collect()
        found: Counter[str] = Counter()
        for kind, number in Counter(map(type, gc.get_objects())).items():
            found += Counter({KINDS.get(kind, "others"): number})
        Living.counts.append(found)

    def on_predict_end(self, *args: Any) -> None:
        """Let the collector see everything again."""
        gc.unfreeze()
