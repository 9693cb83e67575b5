"""The precision in which sums of activations are kept."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(h: Tensor) -> Tensor:
    """Return activations off the autograd tape, in float32 or wider, where float64 sums can be kept beside them."""
    h = h.detach().cpu() if h.device.type == "mps" else h.detach()  # Apple GPUs have no float64
    return h.to(torch.promote_types(h.dtype, torch.float32))
