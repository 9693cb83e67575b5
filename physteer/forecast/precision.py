"""Low and double precision for the network alone."""

from __future__ import annotations

import torch
from lightning.pytorch.plugins.precision import Precision
from torch import nn

DTYPES = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}


class NetworkPrecision(Precision):
    """Weights and activations in one precision, data in float32.

    Lightning's plugins of these names also cast the batches. A rollout adds small differences to fields, and takes
    differences of nearly equal frames; in bfloat16 both would be lost. The network casts its input itself.

    Args:
        precision: ``bf16-true``, ``16-true`` or ``64-true``.
    """

    def __init__(self, precision: str) -> None:
        super().__init__()
        self.precision = precision  # type: ignore[assignment]

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Cast the weights."""
        return module.to(DTYPES[self.precision])
