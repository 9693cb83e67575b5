"""Walrus under Lightning: training, scores of one step and of rollouts, and rollouts for ``predict``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from physteer.data.batch import Batch
from physteer.errors import PhysteerError
from physteer.interventions import UNSTEERED, Clock, Condition, attached, repeated, separated, stack_conditions
from physteer.metrics import ForecastScores
from physteer.objectives import NextStepMAE
from physteer.rollout import SampleScale, jitter_generator, rollout, sample_scale
from physteer.walrus import Walrus, WalrusConfig, load


@dataclass(frozen=True)
class Rollout:
    """What ``predict`` made of one batch under some conditions."""

    batch: Batch
    conditions: tuple[Condition, ...]
    frames: Tensor
    """[conditions, B, T, C, H, W, D] on the CPU, in the data set's units: the predicted frames."""


class WalrusModule(L.LightningModule):
    """Walrus on data of The Well.

    Args:
        checkpoint: weights to start from: a published ``.pt`` or ``.pth``, our ``.safetensors``, a folder with either,
            ``hf://owner/repo``, or ``physteer://walrus-demo`` for the small model that ships with physteer.
        network: the architecture of a new model with random weights; give this or ``checkpoint``.
        jitter_seed: null for no jitter (the default, for science). With a number, the random shifts of the published
            protocol are on, drawn from (seed, trajectory, step), so that compared runs share their draws.
        objective: what ``fit`` minimises: a module called with (this module, batch) that returns the loss.
        learning_rate: peak learning rate of AdamW.
        weight_decay: of matrices; norms and biases have none.
        warmup_steps: steps of linear warm-up, before a cosine decay to 1 % of the peak at the end of training.
        conditions_per_forward: most conditions rolled out side by side in one batch by ``predict``; null for all.
        compile: compile every block with ``torch.compile``; sites inside blocks are then refused.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        network: WalrusConfig | None = None,
        jitter_seed: int | None = None,
        objective: nn.Module | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_steps: int = 100,
        conditions_per_forward: int | None = None,
        compile: bool = False,  # Lightning's and torch's own word
    ) -> None:
        super().__init__()
        if (checkpoint is None) == (network is None):
            raise PhysteerError("give either model.checkpoint (weights to start from) or model.network (a new model)")
        self.checkpoint = checkpoint
        self.network = load(checkpoint) if checkpoint is not None else Walrus(network or WalrusConfig())
        self.jitter_seed = jitter_seed
        self.objective = objective or NextStepMAE()
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.conditions: Sequence[Condition] = (UNSTEERED,)
        """What ``predict`` rolls out for every window; callbacks replace it before the run starts."""
        self.conditions_per_forward = conditions_per_forward
        self.clock = Clock()
        """The step a rollout is at."""
        self.interventions = nn.ModuleDict()
        """Trainable parts that callbacks add in ``setup``, for the optimiser and the checkpoints to see."""
        self.every_frame = False
        """Set by callbacks that need the last block's activation of frames before the last."""
        self.scores = nn.ModuleDict()
        """What the last validation or test measured: `one_step` and `rollout`, each `ForecastScores`."""
        if compile:
            for block in self.network.blocks:
                # not block.compile(), which compiles hooks away: the blocks' outputs stay sites
                block.forward = torch.compile(block.forward)  # type: ignore[method-assign]

    # ------------------------------------------------------------------ one step

    def normalised_differences(
        self, window: Tensor, batch: Batch, *, step: int = 0, last_frame_only: bool = False
    ) -> tuple[Tensor, SampleScale]:
        """Run the network on a window.

        Args:
            window: [N, T, C, H, W, D] in the data set's units; N is a multiple of the batch's windows (conditions × B).
            batch: whose channels, grid and addresses the window has.
            step: of the rollout, for the jitter's draws.
            last_frame_only: return only what follows the last frame.

        Returns:
            The predicted differences to the next frame in units of r_Δ, [N, T or 1, C, H, W, D], and the scales.
        """
        scale = sample_scale(window, self.network.config.eps)
        labels = self.network.config.labels(batch.channels.names)
        shifts = None
        if self.jitter_seed is not None:
            repeats = len(window) // len(batch)
            generators = [jitter_generator(self.jitter_seed, str(w), step) for w in batch.windows * repeats]
            shifts = self.network.draw_shifts(batch.grid.shape, batch.grid.boundaries, generators)
        y = self.network(window / scale.fields, labels, batch.grid.boundaries, shifts, last_frame_only=last_frame_only)
        return y, scale

    def predict_next(self, window: Tensor, batch: Batch, step: int = 0) -> Tensor:
        """Return the frame after a window, [N, 1, C, H, W, D], in the data set's units: u + y r_Δ.

        Channels that do not evolve keep their value, and inside a constant field ``mask`` the solution is 0.
        """
        last_only = self.network.config.causal_in_time and not self.every_frame
        y, scale = self.normalised_differences(window, batch, step=step, last_frame_only=last_only)
        last = window[:, -1:]
        evolving = torch.tensor(batch.channels.evolving, device=window.device)[:, None, None, None]
        frame = torch.where(evolving, last + y[:, -1:].to(last.dtype) * scale.differences, last)
        if "mask" in batch.channels.names:
            solid = last[:, :, [batch.channels.index("mask")]] > 0
            frame = torch.where(evolving & solid, 0.0, frame)
        return frame

    def rollout(self, batch: Batch, n_steps: int, conditions: Sequence[Condition] = ()) -> Iterator[Tensor]:
        """Yield the frames that follow a batch's context, under several conditions side by side.

        Args:
            batch: B windows.
            n_steps: how many frames.
            conditions: K of them; none for the model as it is.

        Yields:
            Each next frame, [K × B, 1, C, H, W, D]: all windows of the first condition, then of the second, …
        """
        conditions = conditions or (UNSTEERED,)

        def predict(window: Tensor, step: int) -> Tensor:
            self.clock.step = step
            return self.predict_next(window, batch, step)

        try:
            with attached(self.network, stack_conditions(conditions, len(batch)), self.clock):
                yield from rollout(predict, repeated(batch.context, len(conditions)), n_steps)
        finally:
            self.clock.step = None

    # ------------------------------------------------------------------ Lightning's steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the objective's loss."""
        loss: Tensor = self.objective(self, batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to score."""
        self._begin_scores(self.trainer.val_dataloaders)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score one step (first loader) or rollouts (second)."""
        self._score(batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the scores under ``val/``."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Begin to score."""
        self._begin_scores(self.trainer.test_dataloaders)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score one step (first loader) or rollouts (second)."""
        self._score(batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log the scores under ``test/``."""
        self._log_scores("test")

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Roll out every condition from every window; callbacks get the steps and the frames."""
        n_steps, size = batch.targets.shape[1], self.conditions_per_forward or len(self.conditions)
        for first in range(0, len(self.conditions), size):
            group = tuple(self.conditions[first : first + size])
            frames = []
            for step, frame in enumerate(self.rollout(batch, n_steps, group), start=1):
                frames.append(frame.float().cpu())
                self._tell("on_rollout_step", step, n_steps)
            self._tell("on_rollout_end", Rollout(batch, group, separated(torch.cat(frames, dim=1), len(group))))

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and cosine decay, over what is trainable."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer: Optimizer = AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.95))
        total, warmup = int(self.trainer.estimated_stepping_batches), self.warmup_steps

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            progress = min((step - warmup) / max(total - warmup, 1), 1.0)
            return 0.01 + 0.99 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress)).item())

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    # ------------------------------------------------------------------ parts of the steps

    def _begin_scores(self, loaders: Any) -> None:
        for name, loader in zip(("one_step", "rollout"), loaders, strict=True):
            channels = loader.dataset.origin.channels
            fields = [channels.names[i] for i in channels.predicted]
            self.scores[name] = ForecastScores(loader.dataset.spec.n_output, fields).to(self.device)

    def _score(self, batch: Batch, dataloader_idx: int) -> None:
        n_steps, scored = batch.targets.shape[1], batch.channels.predicted
        prediction = torch.cat([frame[:, :, scored] for frame in self.rollout(batch, n_steps)], dim=1)
        name = ("one_step", "rollout")[dataloader_idx]
        self.scores[name].update(batch.context[:, :, scored], prediction, batch.targets[:, :, scored])  # type: ignore[operator]

    def _log_scores(self, stage: str) -> None:
        for name, scores in self.scores.items():
            assert isinstance(scores, ForecastScores)
            for forecast, vrmse in scores.compute().items():
                steps = (
                    [1] if name == "one_step" else sorted({s for s in (1, 5, 10, 20) if s <= len(vrmse)} | {len(vrmse)})
                )
                for step in steps:
                    where = f"{stage}/{name}/{forecast}/vrmse" + (f"_step_{step}" if name == "rollout" else "")
                    self.log(f"{where}/mean_over_fields", vrmse[step - 1].mean())
                    if forecast == "model":
                        for field, value in zip(scores.fields, vrmse[step - 1], strict=True):
                            self.log(f"{where}/{field}", value)

    def _tell(self, event: str, *args: Any) -> None:
        """Call a hook of the callbacks that have it (`physteer.callbacks.base.RolloutCallback`)."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, event):
                getattr(callback, event)(self.trainer, self, *args)
