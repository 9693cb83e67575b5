"""Parts that are trained side by side in one ``fit``, each as if it were alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import lightning as L
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.nn.utils import clip_grad_norm_

from physteer.errors import PhysteerError


def check_trained_apart(trainer: L.Trainer, parts: Iterable[nn.Module]) -> None:
    """Refuse settings of the trainer that would let parts trained side by side change each other.

    Raises:
        PhysteerError: Several parts are trained, and the trainer scales losses, which skips the step of all where the
            gradient of one overflows, or shards parameters, which mixes those of all.
    """
    trained = [part for part in parts if any(parameter.requires_grad for parameter in part.parameters())]
    if len(trained) < 2:
        return
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise PhysteerError(
            f"trainer.precision {trainer.precision} skips a step of all {len(trained)} parts trained side by side when "
            "the gradient of one overflows; use bf16-mixed or 32-true"
        )
    if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
        raise PhysteerError(
            f"{type(trainer.strategy).__name__} shards parameters, and the {len(trained)} parts trained side by side "
            "would be mixed; use trainer.strategy auto or ddp"
        )


def clip_each_norm(parts: Iterable[nn.Module], others: Sequence[nn.Parameter], max_norm: float) -> None:
    """Scale down the gradient of every part whose own norm is above `max_norm`; `others` are clipped together."""
    for parameters in (*(list(part.parameters()) for part in parts), others):
        clip_grad_norm_(parameters, max_norm)
