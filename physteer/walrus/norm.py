"""The norm of every Walrus layer."""

import torch
from torch import Tensor, nn


class RMSGroupNorm(nn.Module):
    """Divide each channel of each frame by its root mean square over space, then multiply by a learned weight.

    The published name promises groups of channels; in effect there are none, and the published weights rely on that.
    The eps is the machine epsilon of the input's dtype, inside the root.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, channel_dim: int = -1) -> Tensor:
        """Normalise frames `x` [N, …]: dimension 0 counts frames, `channel_dim` channels, all others are space."""
        channel_dim %= x.ndim
        space = [dim for dim in range(1, x.ndim) if dim != channel_dim]
        wide = torch.promote_types(x.dtype, torch.float32)
        mean_square = x.square().mean(space, keepdim=True, dtype=wide)
        weight = self.weight.to(wide).view([-1 if dim == channel_dim else 1 for dim in range(x.ndim)])
        gain = weight * torch.rsqrt(mean_square + torch.finfo(x.dtype).eps)
        return x * gain.to(x.dtype)
