"""Progress that counts rollout steps."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch import Tensor

from physteer.callbacks.base import RolloutCallback
from physteer.data.batch import Batch
from physteer.forecast import Rollout
from physteer.forecast.module import ForecastModule


class RolloutProgress(TQDMProgressBar, RolloutCallback):
    """Lightning's progress bar, which in ``predict`` counts forwards instead of batches.

    A batch of ``predict`` is a whole rollout under many conditions, so a bar over batches would stand still. Where
    nobody watches (a log file, a pipe), plain lines come instead of a bar: one when a stage ends, and one now and then
    in between. The command line adds this callback where no other progress bar is configured.

    Where ``predict`` only reads activations and does not roll out, it counts windows, those of this process; or
    batches of other data.

    Args:
        refresh_rate: forwards or batches between updates of the bar; 0 for no progress at all.
        seconds_per_line: time between the plain lines.
    """

    needs_rollouts = False

    def __init__(self, refresh_rate: int = 1, seconds_per_line: float = 60.0) -> None:
        watched = sys.stdout.isatty()
        super().__init__(refresh_rate=refresh_rate if watched else 0)
        self.seconds_per_line = seconds_per_line
        self._in_lines = refresh_rate > 0 and not watched
        self._began = self._told = 0.0
        self._done = self._total = 0
        self._what = "steps"
        """What is counted."""

    # ------------------------------------------------------------------ fit

    def on_train_start(self, *args: Any) -> None:
        """Begin."""
        super().on_train_start(*args)
        self._begin(int(self.trainer.estimated_stepping_batches), self.trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Count optimiser steps, or batches of a fit that has none."""
        super().on_train_batch_end(trainer, pl_module, *args)
        steps = pl_module.automatic_optimization
        self._done = trainer.global_step if steps else trainer.fit_loop.total_batch_idx + 1
        self._tell(_loss(trainer))

    def on_train_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Say how it ended."""
        super().on_train_end(trainer, *args)
        self._tell(_loss(trainer), final=True)

    # ------------------------------------------------------------------ predict

    def init_predict_tqdm(self) -> Tqdm:
        """Return the bar that counts forwards."""
        return Tqdm(desc="Rolling out", unit=" steps", dynamic_ncols=True, file=sys.stdout, disable=self.is_disabled)

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Set the total once the first batch tells the number of steps and of condition groups."""
        if batch_idx == 0 and dataloader_idx == 0:
            # a loader without a length has no total
            batches = [0 if n == math.inf else int(n) for n in trainer.num_predict_batches]
            if isinstance(pl_module, ForecastModule) and isinstance(batch, Batch) and pl_module.rolls_out:
                size = pl_module.conditions_per_forward or len(pl_module.conditions)
                groups = -(-len(pl_module.conditions) // size)
                self._what, total = "steps", sum(batches) * groups * batch.targets.shape[1]
            elif isinstance(batch, Batch):
                self._what, total = "windows", _n_windows(trainer, batches)
            else:
                self._what, total = "batches", sum(batches)
            self._begin(total)
            if self._what != "steps" and not self.is_disabled:
                self.predict_progress_bar.set_description("Reading" if self._what == "windows" else "Predicting")
                self.predict_progress_bar.unit = f" {self._what}"
            if not self.is_disabled:
                self.predict_progress_bar.reset(total=self._total)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Count windows that were read; steps of rollouts were counted as they were made."""
        if self._what != "steps":
            self._count(len(batch) if self._what == "windows" else 1)

    def on_rollout_step(self, trainer: L.Trainer, pl_module: ForecastModule, step: int, n_steps: int) -> None:
        """Count a forward."""
        self._count()

    def on_rollout_end(self, trainer: L.Trainer, pl_module: ForecastModule, rollout: Rollout) -> None:
        """Nothing."""

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how it ended."""
        super().on_predict_end(trainer, pl_module)
        self._tell(final=True)

    # ------------------------------------------------------------------ plain lines

    def disable(self) -> None:
        """Say nothing; Lightning calls this on every process but the first."""
        super().disable()
        self._in_lines = False

    def _begin(self, total: int, done: int = 0) -> None:
        self._began = self._told = time.monotonic()
        self._total, self._done = total, done

    def _count(self, n: int = 1) -> None:
        self._done += n
        self._tell()
        if not self.is_disabled:
            self.predict_progress_bar.update(n)

    def _tell(self, note: str = "", *, final: bool = False) -> None:
        now = time.monotonic()
        if self._in_lines and self._total and (final or now - self._told >= self.seconds_per_line):
            self._told = now
            line = f"{_command(self.trainer)}: {self._done} of {self._total} {self._what} in {now - self._began:.0f} s"
            print(line + (f", {note}" if note else ""), file=sys.stderr, flush=True)


class OccasionalLines:
    """Prints a line now and then, on the first process: the progress inside a long batch.

    Args:
        speaks: whether this is the first process.
        seconds: time between lines.
    """

    def __init__(self, speaks: bool, seconds: float = 10.0) -> None:
        self.speaks, self.seconds = speaks, seconds
        self._told = time.monotonic()

    def __call__(self, line: str) -> None:
        """Print a line, unless the latest one is younger."""
        if self.speaks and time.monotonic() - self._told >= self.seconds:
            self._told = time.monotonic()
            print(line, file=sys.stderr, flush=True)


def _n_windows(trainer: L.Trainer, batches: Sequence[int]) -> int:
    """Return how many windows this process reads in some batches of every loader."""
    loaders = trainer.predict_dataloaders
    loaders = loaders if isinstance(loaders, list) else [loaders]
    samplers = [loader.batch_sampler for loader in loaders]  # Lightning's own, around torch's
    return sum(min(n * one.batch_size, len(one.sampler)) for n, one in zip(batches, samplers, strict=True))


def _loss(trainer: L.Trainer) -> str:
    loss = trainer.callback_metrics.get("train/loss")
    return f"loss {loss.item():.4g}" if isinstance(loss, Tensor) else ""


def _command(trainer: L.Trainer) -> str:
    return "" if trainer.state.fn is None else trainer.state.fn.value
