"""The optimiser of ``fit`` and its learning-rate schedule."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from physteer.interventions import Subspace

LAST = 0.01
"""Learning rate at the end of training, in units of its peak."""


def adamw(model: nn.Module, learning_rate: float, weight_decay: float) -> Optimizer:
    """Return AdamW over the trainable parameters; weight decay is for matrices only, not norms, biases or subspaces."""
    subspaces = [module for module in model.modules() if isinstance(module, Subspace)]
    directions = {
        parameter for subspace in subspaces for parameter in subspace.parameters()
    }  # their scale has no effect
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decays = [parameter.ndim > 1 and parameter not in directions for parameter in trainable]
    groups = [
        {"params": [p for p, decayed in zip(trainable, decays, strict=True) if decayed], "weight_decay": weight_decay},
        {"params": [p for p, decayed in zip(trainable, decays, strict=True) if not decayed], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))


def warmup_then_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Return a schedule by step: linear up to the peak, then half a cosine down to `LAST` of it."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        return LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
