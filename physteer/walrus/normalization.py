"""The sample-wise normalisation around the network: every sample and channel by its own RMS, no means."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scales:
    """RMS scales of an input window, [B, 1, C, 1, 1, 1], recomputed at every step of a rollout."""

    state: Tensor
    """r: RMS over frames and space, in the field's unit."""
    change: Tensor
    """r_Δ: RMS of first differences over frames and space, in the field's unit per step."""

    def normalize(self, fields: Tensor) -> Tensor:
        """Return the network's input fields / r for fields [B, T, C, H, W, D]."""
        return fields / self.state

    def advance(self, fields: Tensor, output: Tensor) -> Tensor:
        """Return the next frames u + y · r_Δ, for frames u and the network's output y of the same shape."""
        return fields + output * self.change

    def target(self, fields: Tensor) -> Tensor:
        """Return what the network should say: (u(t+1) − u(t)) / r_Δ, one frame fewer than `fields`."""
        return (fields[:, 1:] - fields[:, :-1]) / self.change


def window_scales(fields: Tensor, eps: float) -> Scales:
    """Measure the scales of a window of fields [B, T, C, H, W, D], both at least `eps`; needs two frames."""
    dims = (1, 3, 4, 5)

    def rms(x: Tensor) -> Tensor:
        return x.square().mean(dims, keepdim=True).sqrt().clamp(min=eps)

    return Scales(rms(fields), rms(torch.diff(fields, dim=1)))
