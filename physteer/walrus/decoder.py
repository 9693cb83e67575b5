"""From tokens back to fields: two transposed convolutions, then the stem's paddings and shifts undone."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
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
        return subpixel(x, weight, bias, grid, 0, circular)


def transposed(x: Tensor, weight: Tensor, bias: Tensor | None, grid: Grid, stage: int, circular: bool) -> Tensor:
    """Convolve, transposed, over the active axes; along an axis of size 1 by the mean of the kernel.

    With `circular`, tokens at one end of a periodic axis reach over to the other: the input is padded so that every
    output cell has all its tokens, and what the padding adds beyond the ends is cut off again. (The reference cuts off
    kernel − stride instead, the same unless the stride is 6, where it returns a periodic axis too short.)
    """
    weight = active_kernel(weight, grid)
    stride = tuple(axis.strides[stage] for axis in grid.moving)
    margins = [
        (KERNELS[stage] - s) // s if circular and a.periodic else 0 for a, s in zip(grid.moving, stride, strict=True)
    ]
    for dim, margin in enumerate(margins, start=2):
        x = pad(x, dim, margin, "circular")
    x = (F.conv_transpose2d if len(stride) == 2 else F.conv_transpose3d)(x, weight, bias, stride)
    for dim, (margin, s) in enumerate(zip(margins, stride, strict=True), start=2):
        x = crop(x, dim, margin * s)
    return x


def subpixel(x: Tensor, weight: Tensor, bias: Tensor, grid: Grid, stage: int, circular: bool) -> Tensor:
    """Return `transposed(…)` as a convolution of stride 1, each of whose outputs holds all cells of one token.

    Every cell of a token reads the same few tokens, through taps of its own (Shi et al., CVPR 2016). For few channels
    out of many, as in the last convolution, this is two to three times as fast on a CPU; elsewhere rearranging the
    weights costs what it saves.
    """
    weight = active_kernel(weight, grid)
    stride = tuple(axis.strides[stage] for axis in grid.moving)
    kernel, cells = KERNELS[stage], dict(zip("stu", stride, strict=False))
    taps = [math.ceil(kernel / s) for s in stride]
    for dim, (axis, s, tap) in enumerate(zip(grid.moving, stride, taps, strict=True), start=2):
        wraps = circular and axis.periodic and kernel % s == 0
        x = pad(x, dim, tap - 1, "circular" if wraps else "zeros")
    beyond = [tap * s - kernel for tap, s in zip(taps, stride, strict=True)]  # not 0 for a stride of 6
    weight = F.pad(weight, [end for extra in reversed(beyond) for end in (0, extra)])
    if len(stride) == 2:
        weight = rearrange(weight, "i c (a s) (b t) -> (c s t) i a b", **cells).flip(2, 3)
        x = F.conv2d(x, weight, bias.repeat_interleave(math.prod(stride)))
        x = rearrange(x, "n (c s t) h w -> n c (h s) (w t)", **cells)
    else:
        weight = rearrange(weight, "i c (a s) (b t) (e u) -> (c s t u) i a b e", **cells).flip(2, 3, 4)
        x = F.conv3d(x, weight, bias.repeat_interleave(math.prod(stride)))
        x = rearrange(x, "n (c s t u) h w d -> n c (h s) (w t) (d u)", **cells)
    for dim, extra in enumerate(beyond, start=2):
        x = x.narrow(dim, 0, x.shape[dim] - extra)
    return x


def active_kernel(weight: Tensor, grid: Grid) -> Tensor:
    """Return a kernel [in, out, 8 or 4, …] over the active axes alone: its mean along axes of size 1."""
    single = [2 + i for i in range(3) if i not in grid.active]
    return weight.mean(single) if single else weight


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
