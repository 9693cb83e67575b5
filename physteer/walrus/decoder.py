"""From tokens back to fields: two transposed convolutions, then the stem's paddings and shifts undone."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physteer.walrus.config import WalrusConfig
from physteer.walrus.grid import KERNELS, Grid, Shifts, crop, pad, roll
from physteer.walrus.norm import RMSGroupNorm


class Debed(nn.Module):
    """Two transposed convolutions with norm and SiLU between them; only the asked fields are computed."""

    def __init__(self, config: WalrusConfig) -> None:
        super().__init__()
        k1, k2 = KERNELS
        self.proj1 = nn.Parameter(torch.empty(config.hidden_dim, config.intermediate_dim, k2, k2, k2))
        self.norm1 = RMSGroupNorm(config.intermediate_dim)
        self.proj2 = nn.Parameter(torch.empty(config.intermediate_dim, config.n_states, k1, k1, k1))
        self.bias = nn.Parameter(torch.zeros(config.n_states))

    def forward(self, x: Tensor, labels: Sequence[int], grid: Grid, circular: bool) -> Tensor:
        """Map [N, d, *tokens] to [N, C, *padded cells] over the active axes."""
        columns = torch.tensor(labels, device=x.device)
        x = F.silu(self.norm1(transposed(x, self.proj1, None, grid, 1, circular), channel_dim=1))
        weight, bias = self.proj2.index_select(1, columns), self.bias.index_select(0, columns)
        return transposed(x, weight, bias, grid, 0, circular)


def transposed(x: Tensor, weight: Tensor, bias: Tensor | None, grid: Grid, stage: int, circular: bool) -> Tensor:
    """Convolve, transposed, over the active axes; along an axis of size 1 by the mean of the kernel.

    With `circular`, tokens at one end of a periodic axis reach over to the other: the input is padded so that every
    output cell has all its tokens, and what the padding adds beyond the ends is cut off again. (The reference cuts off
    kernel − stride instead, the same unless the stride is 6, where it returns a periodic axis too short.)
    """
    single = [2 + i for i in range(3) if i not in grid.active]
    weight = weight.mean(single) if single else weight
    stride = tuple(axis.strides[stage] for axis in grid.moving)
    margins = [
        (KERNELS[stage] - s) // s if circular and a.periodic else 0 for a, s in zip(grid.moving, stride, strict=True)
    ]
    for dim, margin in enumerate(margins, start=2):
        x = pad(x, dim, margin, "circular")
    x = (F.conv_transpose2d if single else F.conv_transpose3d)(x, weight, bias, stride)
    for dim, (margin, s) in enumerate(zip(margins, stride, strict=True), start=2):
        x = crop(x, dim, margin * s)
    return x


class Decoder(nn.Module):
    """Tokens to the fields' predicted change, on the grid the fields came on."""

    def __init__(self, config: WalrusConfig) -> None:
        super().__init__()
        self.circular = config.variant == "released"
        self.debed = nn.ModuleDict({axes: Debed(config) for axes in map(str, config.dimensions)})

    def forward(self, h: Tensor, labels: Sequence[int], grid: Grid, shifts: Shifts | None) -> Tensor:
        """Map [B, T, h, w, δ, d] to fields [B, T, C, H, W, D]."""
        batch, frames = h.shape[:2]
        tokens = [grid.tokens[i] for i in grid.active]
        x = h.reshape(batch * frames, *tokens, -1).movedim(-1, 1)
        x = self.debed[str(len(tokens))](x, labels, grid, self.circular).unflatten(0, (batch, frames))
        dims = range(3, x.ndim)
        for dim, axis in zip(dims, grid.moving, strict=True):
            x = crop(x, dim, axis.after)
        if shifts is not None:
            x = roll(x, -shifts.pixels[:, grid.active], dims)
        for dim, axis in zip(dims, grid.moving, strict=True):
            x = crop(x, dim, axis.before)
        return x.reshape(batch, frames, len(labels), *grid.shape)
