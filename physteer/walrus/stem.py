"""From fields to tokens: two strided convolutions over padded, flagged, perhaps shifted fields."""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physteer.walrus.config import WalrusConfig
from physteer.walrus.grid import KERNELS, OPEN, WALL, Grid, Shifts, pad, roll
from physteer.walrus.norm import RMSGroupNorm


class Embed(nn.Module):
    """Two convolutions, each followed by norm and SiLU; kernels (8, 4) per axis, strides of the grid, no bias."""

    def __init__(self, channels: int, inner: int, hidden: int) -> None:
        super().__init__()
        k1, k2 = KERNELS
        self.proj1 = nn.Parameter(torch.empty(inner, channels, k1, k1, k1))
        self.norm1 = RMSGroupNorm(inner)
        self.proj2 = nn.Parameter(torch.empty(hidden, inner, k2, k2, k2))
        self.norm2 = RMSGroupNorm(hidden)

    def forward(self, x: Tensor, grid: Grid, weight: Tensor) -> Tensor:
        """Map padded frames [N, c, *cells] to [N, d, *tokens] over the active axes; `weight` [inner, c, 8, 8, 8]."""
        # Channels last, as the tokens will lie: convolutions are faster so, at width 1408 by a fifth.
        x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
        x = F.silu(self.norm1(convolve(x, weight, grid, 0), channel_dim=1))
        return F.silu(self.norm2(convolve(x, self.proj2, grid, 1), channel_dim=1))


def convolve(x: Tensor, weight: Tensor, grid: Grid, stage: int) -> Tensor:
    """Convolve over the active axes; along an axis of size 1 the kernel sees its one cell under every tap: its sum."""
    single = [2 + i for i in range(3) if i not in grid.active]
    weight = weight.sum(single) if single else weight
    stride = tuple(axis.strides[stage] for axis in grid.moving)
    return F.conv2d(x, weight, stride=stride) if single else F.conv3d(x, weight, stride=stride)


class ReleasedStem(nn.Module):
    """The `released` stem: boundary flags as channels, the field embedding inside the first convolution."""

    def __init__(self, config: WalrusConfig) -> None:
        super().__init__()
        self.n_states = config.n_states
        sizes = config.n_states, config.intermediate_dim, config.hidden_dim
        self.embed = nn.ModuleDict({axes: Embed(*sizes) for axes in map(str, config.dimensions)})

    def forward(self, x: Tensor, labels: Sequence[int], grid: Grid, shifts: Shifts | None) -> Tensor:
        """Map fields [B, T, C, *cells] to [B·T, d, *tokens], over the active axes."""
        batch, frames, channels = x.shape[:3]
        dims = range(3, x.ndim)
        for dim, axis in zip(dims, grid.moving, strict=True):
            x = pad(x, dim, axis.before, "zeros")
        flags = boundary_flags(grid).to(x).expand(batch, frames, -1, *(-1,) * len(dims))
        x = torch.cat([x, flags], 2)
        if shifts is not None:
            x = roll(x, shifts.pixels[:, grid.active], dims)
        for dim, axis in zip(dims, grid.moving, strict=True):
            x = pad(x, dim, axis.after, "circular")
        embed = cast(Embed, self.embed[str(len(dims))])
        # Fields and bias-correction are scaled for how few of the states are present; the last two flags are not.
        scale = [math.sqrt((self.n_states - 3) / channels)] * (channels + 1) + [1.0, 1.0]
        columns = torch.tensor([*labels, 2, 0, 1], device=x.device)
        weight = embed.proj1.index_select(1, columns) * embed.proj1.new_tensor(scale).view(-1, 1, 1, 1)
        tokens: Tensor = embed(x.flatten(0, 1), grid, weight)
        return tokens


def boundary_flags(grid: Grid) -> Tensor:
    """Return the flag channels [3, *padded cells]: inside, beyond a wall, beyond an open end (corners add up)."""
    cells = [axis.size + 2 * axis.before for axis in grid.moving]
    flags = torch.zeros(3, *cells)
    inside = tuple(slice(axis.before, axis.before + axis.size) for axis in grid.moving)
    flags[0][inside] = 1
    for dim, axis in enumerate(grid.moving):
        if not axis.periodic:
            for code, start in zip(axis.codes, (0, axis.before + axis.size), strict=True):
                flags[{WALL: 1, OPEN: 2}[code]].narrow(dim, start, axis.before).add_(1)
    return flags


class PreviewStem(nn.Module):
    """The `preview` stem: a linear field embedding, learned tokens added beyond walls and open ends."""

    def __init__(self, config: WalrusConfig) -> None:
        super().__init__()
        self.n_states = config.n_states
        self.fields = nn.Linear(config.n_states, config.projection_dim)
        self.padding = nn.Parameter(torch.empty(2, config.projection_dim))  # wall, open
        sizes = config.projection_dim, config.intermediate_dim, config.hidden_dim
        self.embed = nn.ModuleDict({axes: Embed(*sizes) for axes in map(str, config.dimensions)})

    def forward(self, x: Tensor, labels: Sequence[int], grid: Grid, shifts: Shifts | None) -> Tensor:
        """Map fields [B, T, C, *cells] to [B·T, d, *tokens], over the active axes."""
        channels = x.shape[2]
        dims = range(3, x.ndim)
        weight = self.fields.weight[:, list(labels)]
        x = F.linear(x.movedim(2, -1), weight, self.fields.bias).movedim(-1, 2)
        x = x * math.sqrt(self.n_states / channels)
        for dim, axis in zip(dims, grid.moving, strict=True):
            x = pad(x, dim, axis.before, "circular" if axis.periodic else "zeros")
        for dim, axis in zip(dims, grid.moving, strict=True):
            if not axis.periodic and axis.before:
                low, high = self.padding[list(axis.codes)].view(2, -1, *(1,) * len(dims))
                inner = x.narrow(dim, axis.before, axis.size)
                first = x.narrow(dim, 0, axis.before) + low
                last = x.narrow(dim, axis.before + axis.size, axis.before) + high
                x = torch.cat([first, inner, last], dim)
        if shifts is not None:
            x = roll(x, shifts.pixels[:, grid.active], dims)
        embed = cast(Embed, self.embed[str(len(dims))])
        tokens: Tensor = embed(x.flatten(0, 1), grid, embed.proj1)
        return tokens
