"""Walrus under Lightning: training, scores of one step and of rollouts, and rollouts for ``predict``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from physteer.data.batch import Batch, Origin
from physteer.errors import PhysteerError
from physteer.evaluation import Evaluation, ForecastEvaluation
from physteer.interventions import UNSTEERED, Clock, Condition, Site, find_module, separated
from physteer.mistakes import check_state
from physteer.objectives import NextStepMAE
from physteer.optimizer import adamw, warmup_then_cosine
from physteer.rollout import SampleScale, jitter_generator, sample_scale
from physteer.steered_rollout import check_reached, steered_rollout
from physteer.step import NetworkInputs, Rollout
from physteer.walrus import Walrus, WalrusConfig, load, model_id, output_shapes


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
        conditions_per_forward: most conditions rolled out side by side in one batch by ``predict``; null for all. A few
            keep the processor as busy as many, in less memory.
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
        conditions_per_forward: int | None = 8,
        compile: bool = False,  # Lightning's and torch's own word
    ) -> None:
        super().__init__()
        if (checkpoint is None) == (network is None):
            raise PhysteerError("give either model.checkpoint (weights to start from) or model.network (a new model)")
        for name, value, least in (
            ("conditions_per_forward", conditions_per_forward, 1),
            ("learning_rate", learning_rate, 0),
            ("weight_decay", weight_decay, 0),
            ("warmup_steps", warmup_steps, 0),
        ):
            if value is not None and not value >= least:
                raise PhysteerError(f"model.{name} must be at least {least}, found {value}")
        self.checkpoint = checkpoint
        if checkpoint is not None:
            with torch.device("cpu"):  # on whatever device modules are being made, stored weights come from a file
                self.network = load(checkpoint)
        else:
            self.network = Walrus(network or WalrusConfig())
        self.jitter_seed = jitter_seed
        self.objective = NextStepMAE() if objective is None else objective
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.conditions: Sequence[Condition] = (UNSTEERED,)
        """What ``predict`` rolls out for every window; callbacks add to it when the run starts."""
        self.conditions_per_forward = conditions_per_forward
        self.clock = Clock()
        """The step a rollout is at."""
        self.interventions = nn.ModuleDict()
        """Trainable parts that callbacks add in ``setup``, for the optimiser and the checkpoints to see."""
        self.every_frame = False
        """Set by callbacks, while they run, that need the last block's activation of frames before the last."""
        self.observers: dict[Callable[[Site, Tensor], None], Sequence[Site]] = {}
        """What gets activations in rollouts, after edits, and of which sites; callbacks add to it while they run."""
        self.evaluation: Evaluation = ForecastEvaluation()
        """What validation and test measure; callbacks that train something else put their own here in ``setup``."""
        if compile:
            for block in self.network.blocks:
                # not block.compile(), which compiles hooks away: the blocks' outputs stay sites
                block.forward = torch.compile(block.forward)

    def inputs(self, window: Tensor, batch: Batch, step: int = 0) -> tuple[NetworkInputs, SampleScale]:
        """Return what the network gets of a window, and the scales it is normalised by.

        Args:
            window: [N, T, C, H, W, D] in the data set's units; N is a multiple of the batch's windows (conditions × B).
            batch: whose channels, grid and addresses the window has.
            step: of the rollout, for the jitter's draws.
        """
        scale = sample_scale(window, self.network.config.eps)
        labels = self.network.config.labels(batch.channels.names)
        shifts = None
        if self.jitter_seed is not None:
            repeats = len(window) // len(batch)
            generators = [jitter_generator(self.jitter_seed, str(w), step) for w in batch.windows * repeats]
            shifts = self.network.draw_shifts(batch.grid.shape, batch.grid.boundaries, generators)
        return NetworkInputs(window / scale.fields, labels, batch.grid.boundaries, shifts), scale

    def normalised_differences(
        self, window: Tensor, batch: Batch, *, step: int = 0, last_frame_only: bool = False
    ) -> tuple[Tensor, SampleScale]:
        """Run the network on a window; arguments as for `inputs`, and whether only what follows the last frame counts.

        Returns:
            The predicted differences to the next frame in units of r_Δ, [N, T or 1, C, H, W, D], and the scales.
        """
        inputs, scale = self.inputs(window, batch, step)
        return self.network(*inputs, last_frame_only=last_frame_only), scale

    def predict_next(self, window: Tensor, batch: Batch, step: int = 0) -> Tensor:
        """Return the frame after a window, [N, 1, C, H, W, D], in the data set's units."""
        last_only = self.network.config.causal_in_time and not self.every_frame
        y, scale = self.normalised_differences(window, batch, step=step, last_frame_only=last_only)
        return self.next_frame(y[:, -1:], window[:, -1:], scale, batch)

    def next_frame(self, y: Tensor, last: Tensor, scale: SampleScale, batch: Batch) -> Tensor:
        """Return u + y r_Δ, the frame that the network's output says, in the data set's units.

        Channels that do not evolve keep their value, and inside a constant field ``mask`` the solution is 0.

        Args:
            y: the network's output for the last frame, [N, 1, C, H, W, D].
            last: u, the last frame, the same shape.
            scale: of the window.
            batch: whose channels these are.
        """
        evolving = torch.tensor(batch.channels.evolving, device=last.device)[:, None, None, None]
        frame = torch.where(evolving, last + y.to(last.dtype) * scale.differences, last)
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
        return steered_rollout(self, batch, n_steps, conditions or (UNSTEERED,))

    def site_shapes(self, sites: Sequence[Site], origin: Origin, n_frames: int) -> dict[Site, torch.Size]:
        """Return the shape of activations for one window; nothing is computed.

        Args:
            sites: where.
            origin: of the window: its channels and grid.
            n_frames: T of the window.

        Raises:
            PhysteerError: a site is unknown, or no activation is there.
        """
        for site in sites:
            find_module(self.network, site)
        modules = dict.fromkeys(site.module for site in sites)
        names, grid, jitter = origin.channels.names, origin.grid, self.jitter_seed is not None
        shapes = output_shapes(self.network.config, modules, n_frames, names, grid.shape, grid.boundaries, jitter)
        check_reached(sites, shapes)
        return {site: site.select(torch.empty(shapes[site.module], device="meta")).shape for site in sites}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Return the objective's loss; None of an objective that only adds up what it sees."""
        loss: Tensor | None = self.objective(self, batch)
        if loss is not None:
            self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to score."""
        self.evaluation.begin(self, self.trainer.val_dataloaders)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score a batch of one of the loaders."""
        self.evaluation.score(self, batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the scores under ``val/``."""
        self.log_dict(self.evaluation.results("val"), sync_dist=True)  # the same everywhere already

    def on_test_epoch_start(self) -> None:
        """Begin to score."""
        self.evaluation.begin(self, self.trainer.test_dataloaders)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score a batch of one of the loaders."""
        self.evaluation.score(self, batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log the scores under ``test/``."""
        self.log_dict(self.evaluation.results("test"), sync_dist=True)  # the same everywhere already

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Roll out every condition from every window; callbacks get the steps and the frames."""
        n_steps, size = batch.targets.shape[1], self.conditions_per_forward or len(self.conditions)
        for first in range(0, len(self.conditions), size):
            group = tuple(self.conditions[first : first + size])
            self._tell("on_rollout_start", batch, group)
            frames = []
            for step, frame in enumerate(self.rollout(batch, n_steps, group), start=1):
                frames.append(frame.float().cpu())
                self._tell("on_rollout_step", step, n_steps)
            self._tell("on_rollout_end", Rollout(batch, group, separated(torch.cat(frames, dim=1), len(group))))

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and cosine decay, over what is trainable; nothing for fits in closed form."""
        if not any(parameter.requires_grad for parameter in self.parameters()):
            return None
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise PhysteerError("fit needs trainer.max_steps or max_epochs: the learning rate decays to the end")
        optimizer = adamw(self, self.learning_rate, self.weight_decay)
        scheduler = warmup_then_cosine(optimizer, self.warmup_steps, int(total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def freeze_network(self) -> None:
        """Train what callbacks add, not the network: it gets no gradients and is left out of checkpoints."""
        self.network.requires_grad_(False)
        self.strict_loading = False  # Lightning's check would miss the network; `on_load_checkpoint` checks the rest

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave a frozen network out; its id is kept instead."""
        if self._frozen:
            checkpoint["state_dict"] = _without_network(checkpoint["state_dict"])
            checkpoint["network"] = model_id(self.network)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model in one line.

        Raises:
            PhysteerError: tensors are missing, unknown or of another shape, or belong to another frozen network.
        """
        own = self.state_dict()
        if self._frozen:
            found, network = checkpoint.get("network"), model_id(self.network)
            if found != network:
                raise PhysteerError(f"the checkpoint was trained on the frozen model {found}; this model is {network}")
            own = _without_network(own)
        check_state(checkpoint["state_dict"], own)

    @property
    def _frozen(self) -> bool:
        return not any(parameter.requires_grad for parameter in self.network.parameters())

    def _tell(self, event: str, *args: Any) -> None:
        """Call a hook of the callbacks that have it (`physteer.callbacks.base.RolloutCallback`)."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, event):
                getattr(callback, event)(self.trainer, self, *args)


def _without_network(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if not name.startswith("network.")}
