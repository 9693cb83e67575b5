"""Training networks whose circuit is known, because strict interchange-intervention training has planted it.

    network = train_planted(Recall(), seed=0)

The same by ``physteer fit``: `PlantedTraining` with `PlantedSamples`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from physteer.errors import PhysteerError
from physteer.forecast.optimizer import adamw, warmup_then_cosine
from physteer.testing.planted_losses import StrictInterchange
from physteer.testing.planted_scores import planted_scores
from physteer.testing.planted_tasks import PlantedTask
from physteer.testing.planted_transformer import PlantedTransformer
from physteer.testing.planted_weights import planted_file, write_planted

STEPS = 800
"""Steps after which every seed that was tried has a clean circuit, on both tasks."""
BATCH = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.01
WARMUP = 50
STRICT_WEIGHT = 0.4
"""Of the strict loss, beside 1 for the others."""


def train_planted(task: PlantedTask, seed: int, strict: bool = True, steps: int = STEPS) -> PlantedTransformer:
    """Train a network for a task, with its variables planted; about 20 s on one core.

    Args:
        task: its program, and where its variables are to be.
        seed: of the network, the samples and the patches.
        strict: whether nodes outside the circuit are trained not to matter; a control is trained without.
        steps: of `BATCH` samples.

    Returns:
        The network, frozen.
    """
    with torch.inference_mode(False), torch.enable_grad():
        network = untrained(task, seed)
        losses = StrictInterchange(network, task, torch.Generator().manual_seed(seed))
        optimizer = adamw(network, LEARNING_RATE, WEIGHT_DECAY)
        schedule = warmup_then_cosine(optimizer, WARMUP, steps)
        for tokens in training_batches(task, seed, steps):
            optimizer.zero_grad()
            losses(network, tokens).total(STRICT_WEIGHT if strict else 0.0).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.requires_grad_(False).eval()


def untrained(task: PlantedTask, seed: int) -> PlantedTransformer:
    """Return the network that training starts from; torch's global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return task.network()


def training_batches(task: PlantedTask, seed: int, steps: int, batch_size: int = BATCH) -> Tensor:
    """Draw the samples of every step, tokens [steps, batch, T]; none is seen twice, but by chance."""
    tokens = task.draw(steps * batch_size, torch.Generator().manual_seed(seed))
    return tokens.view(steps, batch_size, -1)


def held_out(task: PlantedTask, seed: int, n: int = 2048) -> tuple[Tensor, Tensor]:
    """Draw independent bases and sources, tokens [n, T] each, from another stream than `training_batches`."""
    base, source = task.draw(2 * n, torch.Generator().manual_seed(seed + 2**32)).chunk(2)
    return base, source


class PlantedTraining(L.LightningModule):
    """Train a network for a task, with its variables planted, and say how clean the circuit is.

    Validation logs and prints the shares of `PlantedScores`. After training the network is written into the run
    folder, as `planted-<task>.safetensors` (`physteer.testing.planted_weights.read_planted`).

    Args:
        task: its program, and where its variables are to be.
        strict: whether nodes outside the circuit are trained not to matter; a control is trained without.
        learning_rate: after the warm-up, before its decay.
        weight_decay: of AdamW.
        seed: of the network, the samples and the patches.
    """

    def __init__(
        self,
        task: PlantedTask,
        strict: bool = True,
        learning_rate: float = LEARNING_RATE,
        weight_decay: float = WEIGHT_DECAY,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.task, self.strict, self.seed = task, strict, seed
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.network = untrained(task, seed)
        self.losses = StrictInterchange(self.network, task, torch.Generator().manual_seed(seed))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return L_behaviour + L_IIT + weight · L_strict."""
        losses = self.losses(self.network, batch[0])
        loss = losses.total(STRICT_WEIGHT if self.strict else 0.0)
        self.log("train/loss", loss, prog_bar=True)
        for name in ("behaviour", "interchange", "strict"):
            self.log(f"train/{name}", getattr(losses, name))
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log and print how clean the circuit is; all pairs are one batch."""
        for name, share in planted_scores(self.network, self.task, *batch).named():
            self.log(f"val/{name}", share, batch_size=len(batch[0]), sync_dist=True)  # the same everywhere already
            self.print(f"{name:<36}{share:.4f}")

    def on_fit_end(self) -> None:
        """Write the network."""
        if self.trainer.is_global_zero:
            path = Path(self.trainer.default_root_dir) / planted_file(self.task.name)
            write_planted(path, self.network, task=self.task.name, seed=self.seed, strict=self.strict)

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine decay after a short warm-up."""
        optimizer = adamw(self.network, self.learning_rate, self.weight_decay)
        schedule = warmup_then_cosine(optimizer, WARMUP, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class PlantedSamples(L.LightningDataModule):
    """Samples of the task that is trained, others for validation.

    Args:
        steps: batches to train on, each seen once.
        batch_size: samples per batch.
        n_val: pairs to validate on.
    """

    def __init__(self, steps: int = STEPS, batch_size: int = BATCH, n_val: int = 2048) -> None:
        super().__init__()
        if batch_size < 2:
            raise PhysteerError(f"a batch of {batch_size} has no sample and source; take 2 or more")
        self.steps, self.batch_size, self.n_val = steps, batch_size, n_val

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Tokens [batch, T] of every step."""
        training = self._training()
        return _batches(training_batches(training.task, training.seed, self.steps, self.batch_size))

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Bases and sources, tokens [n_val, T] each, in one batch."""
        training = self._training()
        base, source = held_out(training.task, training.seed, self.n_val)
        return _batches(base[None], source[None])

    def _training(self) -> PlantedTraining:
        training = None if self.trainer is None else self.trainer.lightning_module
        if not isinstance(training, PlantedTraining):
            raise PhysteerError("planted samples are those of the task that is trained; take PlantedTraining as model")
        return training


def _batches(*tensors: Tensor) -> DataLoader[tuple[Tensor, ...]]:
    """Return a loader of the tensors' entries, which are whole batches already."""
    return DataLoader(TensorDataset(*tensors), batch_size=None)
