"""Talking to the other processes of a run."""

from __future__ import annotations

from typing import TypeVar

import lightning as L
import torch.distributed
from torch import Tensor

T = TypeVar("T")


def gather(trainer: L.Trainer, mine: T) -> list[T]:
    """Return every process's object, by rank; a collective, so only for epoch-end hooks.

    Tensors inside must be on the CPU.
    """
    if trainer.world_size == 1:
        return [mine]
    everyone: list[T | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everyone, mine)
    return everyone  # type: ignore[return-value]


def summed(trainer: L.Trainer, mine: Tensor) -> Tensor:
    """Return the sum over processes of a tensor of one shape, on the CPU; a collective, only for epoch-end hooks."""
    if trainer.world_size == 1:
        return mine.cpu()
    total = mine.to(trainer.strategy.root_device, copy=True)
    torch.distributed.all_reduce(total)
    return total.cpu()
