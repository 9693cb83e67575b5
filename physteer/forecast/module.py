"""A forecaster under Lightning: training, scores of one step and of rollouts, and rollouts for ``predict``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer

from physteer.data.batch import Batch, check_windows
from physteer.errors import PhysteerError
from physteer.forecast.checkpoint_keys import check_same_adapter, check_state
from physteer.forecast.evaluation import Evaluation, ForecastEvaluation, Stage
from physteer.forecast.forecaster import Forecaster
from physteer.forecast.lora import InjectedLora
from physteer.forecast.objectives import NextStepMAE
from physteer.forecast.optimizer import adamw, warmup_then_cosine
from physteer.forecast.steered_rollout import Rollout, RolloutObserver, steered_rollout
from physteer.forecast.trained_apart import check_trained_apart, clip_each_norm
from physteer.interventions import UNSTEERED, Condition, separated


class ForecastModule(L.LightningModule):
    """Any forecaster under Lightning; `WalrusModule` is the one for Walrus.

    Args:
        forecaster: predicts; see `physteer.forecast.Forecaster`.
        objective: a module called with (forecaster, batch, step) that returns the loss of ``fit``.
        learning_rate: peak learning rate of AdamW.
        weight_decay: of matrices; norms and biases have none.
        warmup_steps: steps of linear warm-up, before a cosine decay to 1 % of the peak at the end of training.
        conditions_per_forward: most conditions rolled out side by side in one batch by ``predict``; null for all. A few
            keep the processor as busy as many, in less memory.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        objective: nn.Module | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_steps: int = 100,
        conditions_per_forward: int | None = 8,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("conditions_per_forward", conditions_per_forward, 1),
            ("learning_rate", learning_rate, 0),
            ("weight_decay", weight_decay, 0),
            ("warmup_steps", warmup_steps, 0),
        ):
            if value is not None and not value >= least:
                raise PhysteerError(f"model.{name} must be at least {least}, found {value}")
        self.forecaster = forecaster
        self.network = forecaster.network
        self.objective = NextStepMAE() if objective is None else objective
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.conditions: Sequence[Condition] = (UNSTEERED,)
        """The conditions of ``predict``; callbacks add to them when the run starts."""
        self.conditions_per_forward = conditions_per_forward
        self.interventions = nn.ModuleDict()
        """Trainable parts that callbacks add in ``setup``, for the optimiser and the checkpoints to see.

        Each entry is trained as if it were alone: entries share no parameters and no term of the loss.
        """
        self.not_stored: tuple[str, ...] = ()
        """Beginnings of names of tensors that callbacks make anew; checkpoints of earlier versions hold them."""
        self.adapter: InjectedLora | None = None
        """The adapter that a callback has injected into the frozen network: it is trained and kept in checkpoints."""
        self.observers: list[RolloutObserver] = []
        """Observers of the activations in ``predict``; callbacks add themselves while they run."""
        self.rolls_out = True
        """Whether ``predict`` rolls out; callbacks that only read activations of stored windows set it to False."""
        self.evaluation: Evaluation = ForecastEvaluation()
        """The scores of validation and test; callbacks that train interventions or probes replace it in ``setup``."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Return the objective's loss; None for an objective that only accumulates sums."""
        loss: Tensor | None = self.objective(self.forecaster, batch, self.global_step)
        if loss is not None:
            self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Start new scores."""
        self.evaluation.begin(self.forecaster, self.trainer.val_dataloaders, self._stage)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score a batch of one of the loaders."""
        self.evaluation.score(self.forecaster, batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the scores under ``val/``."""
        self.log_dict(self.evaluation.results("val"), sync_dist=True)  # the same everywhere already

    def on_test_epoch_start(self) -> None:
        """Start new scores."""
        self.evaluation.begin(self.forecaster, self.trainer.test_dataloaders, self._stage)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score a batch of one of the loaders."""
        self.evaluation.score(self.forecaster, batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log the scores under ``test/``."""
        self.log_dict(self.evaluation.results("test"), sync_dist=True)  # the same everywhere already

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Roll out every condition from every window, and notify callbacks of steps and frames."""
        if not self.rolls_out:
            return
        check_windows(batch, "predict")
        n_steps, size = batch.targets.shape[1], self.conditions_per_forward or len(self.conditions)
        for first in range(0, len(self.conditions), size):
            group = tuple(self.conditions[first : first + size])
            self._notify("on_rollout_start", batch, group)
            frames = []
            rollout = steered_rollout(self.forecaster, batch, n_steps, group, self.observers)
            for step, frame in enumerate(rollout, start=1):
                frames.append(frame.float().cpu())
                self._notify("on_rollout_step", step, n_steps)
            self._notify("on_rollout_end", Rollout(batch, group, separated(torch.cat(frames, dim=1), len(group))))

    def configure_optimizers(self) -> Any:
        """Return AdamW with linear warm-up and cosine decay; None without trainable parameters (closed-form fits)."""
        if not any(parameter.requires_grad for parameter in self.parameters()):
            return None
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise PhysteerError("fit needs trainer.max_steps or max_epochs: the learning rate decays to the end")
        check_trained_apart(self.trainer, self.interventions.values())
        optimizer = adamw(self, self.learning_rate, self.weight_decay)
        scheduler = warmup_then_cosine(optimizer, self.warmup_steps, int(total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients as the trainer says; by norm, each entry of `interventions` by its own."""
        by_value = gradient_clip_algorithm == GradClipAlgorithmType.VALUE  # each number for itself
        if not gradient_clip_val or by_value or not len(self.interventions):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        apart = set(self.interventions.parameters())
        clipped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        others = [parameter for parameter in clipped if parameter not in apart]
        clip_each_norm(self.interventions.values(), others, gradient_clip_val)

    def freeze_network(self) -> None:
        """Train only the modules that callbacks add: the network gets no gradients and is left out of checkpoints."""
        self.network.requires_grad_(False)
        self.strict_loading = False  # Lightning's check would miss the network; `on_load_checkpoint` checks the rest

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Replace a frozen network by its identity; an adapter stays."""
        if self._frozen:
            checkpoint["state_dict"] = self._without_network(checkpoint["state_dict"])
            checkpoint["network"] = self._frozen_identity
        if self.adapter is not None:
            checkpoint["lora"] = self.adapter.settings.of_the_checkpoint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint belongs to this model.

        Raises:
            PhysteerError: Tensors are missing, unknown or of another shape, or belong to another frozen network or to
                another adapter.
        """
        check_same_adapter(checkpoint.get("lora"), self.adapter)
        wanted = self.state_dict()
        if self._frozen:
            stored, identity = checkpoint.get("network"), self._frozen_identity
            if stored != identity:
                raise PhysteerError(
                    f"the checkpoint was trained on the frozen model {stored}; this model is {identity}"
                )
            wanted = self._without_network(wanted)
        stored_state = {n: t for n, t in checkpoint["state_dict"].items() if not n.startswith(self.not_stored)}
        check_state(stored_state, wanted)

    @property
    def _frozen(self) -> bool:
        trained = frozenset() if self.adapter is None else self.adapter.parameters
        return not any(p.requires_grad for name, p in self.network.named_parameters() if name not in trained)

    @property
    def _frozen_identity(self) -> str:
        return self.forecaster.identity if self.adapter is None else self.adapter.base

    def _without_network(self, state: Mapping[str, Any]) -> dict[str, Any]:
        kept = set() if self.adapter is None else {f"network.{name}" for name in self.adapter.parameters}
        return {name: value for name, value in state.items() if name in kept or not name.startswith("network.")}

    @property
    def _stage(self) -> Stage:
        command = self.trainer.state.fn
        return cast(Stage, "fit" if command is None else command.value)

    def _notify(self, event: str, *args: Any) -> None:
        """Call a hook of the callbacks that have it (`physteer.callbacks.base.RolloutCallback`)."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, event):
                getattr(callback, event)(self.trainer, self, *args)
