"""The optimiser of ``fit``, and its learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

LAST = 0.01
"""Learning rate at the end of training, in units of its peak."""


def adamw(parameters: Sequence[nn.Parameter], learning_rate: float, weight_decay: float) -> Optimizer:
    """Return AdamW with decay of matrices alone: norms and biases have none."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
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
