"""How attention knows where a token is: rotary angles over space, a learned bias over time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def rotary_frequencies(head_dim: int) -> Tensor:
    """Return the fixed frequencies π·linspace(1, 128), [hd // 8], each used for two neighbouring channels."""
    return torch.linspace(1.0, 128.0, head_dim // 8) * math.pi


@dataclass(frozen=True)
class Positions:
    """Where the tokens are for one block's space attention."""

    axes: tuple[Tensor, Tensor, Tensor]
    """Coordinate of each token along H, W, D in [−1, 1], [B or 1, n_axis]; B when the samples are rolled apart."""
    table: Tensor | None
    """`rotary_table` of the fixed frequencies, shared by all blocks with the same coordinates; none: learned ones."""


def axis_positions(tokens: Sequence[int], rolls: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates of the tokens after a roll of the grid, [B or 1, n_axis] per axis.

    Rolling the tokens and leaving them while their coordinates roll back are the same, since space attention is the
    only place where a token's position matters. So activations need never be moved.

    Args:
        tokens: Token grid (h, w, δ).
        rolls: [B or 1, 3] cumulative roll in tokens, on the CPU.
        device: Where the coordinates are needed.
    """
    axes = []
    for i, n in enumerate(tokens):
        line, index = torch.linspace(-1.0, 1.0, n, device="cpu"), torch.arange(n, device="cpu")
        axes.append(line[(index + rolls[:, i, None]) % n].to(device))
    return axes[0], axes[1], axes[2]


def rotary_table(axes: Sequence[Tensor], frequencies: Tensor, head_dim: int) -> Tensor:
    """Return cos φ and sin φ of neighbouring channel pairs, [B or 1, 1, h·w·δ, 1, hd / 2, 2].

    The angles φ = position × frequency of the axes H, W, D follow each other; the remaining channels do not turn.

    Args:
        axes: Coordinates per axis, [B or 1, n_axis].
        frequencies: [3, hd // 8] in radians, one row per axis.
        head_dim: hd.
    """
    h, w, d = (axis.shape[1] for axis in axes)
    batch = axes[0].shape[0]
    views = ((batch, h, 1, 1, -1), (batch, 1, w, 1, -1), (batch, 1, 1, d, -1))
    angles = [
        (axis[..., None] * row.to(torch.promote_types(row.dtype, torch.float32))).view(view).expand(batch, h, w, d, -1)
        for axis, row, view in zip(axes, frequencies, views, strict=True)
    ]
    still = angles[0].new_zeros(batch, h, w, d, head_dim // 2 - 3 * (head_dim // 8))
    phi = torch.cat([*angles, still], -1).reshape(batch, 1, h * w * d, 1, head_dim // 2)
    return torch.stack((phi.cos(), phi.sin()), -1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn the channel pairs of `x` [B, T, S, n, hd]: (a, b) → (a cos φ − b sin φ, b cos φ + a sin φ)."""
    if x.dtype == torch.float32 and not torch.compiler.is_compiling():
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * torch.view_as_complex(table)).flatten(-2)  # one pass over memory
    cos, sin = table.unbind(-1)
    a, b = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2).to(x.dtype)


class RelativeTimeBias(nn.Module):
    """T5's learned bias on attention scores, one number per head and bucket of the distance between two frames.

    Raffel et al., JMLR 21 (2020): half of the buckets count single frames, the others grow logarithmically.
    """

    buckets, furthest = 32, 128

    def __init__(self, n_heads: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.weight = nn.Parameter(torch.zeros(self.buckets, n_heads))

    def bucket(self, frames: int) -> Tensor:
        """Return the bucket of each pair of frames, [t_query, t_key]."""
        time = range(frames)
        return torch.tensor([[self._bucket_of(query - key) for key in time] for query in time])

    def _bucket_of(self, back: int) -> int:
        """Return the bucket of a key that is `back` frames earlier than its query, or later if negative."""
        half = self.buckets if self.causal else self.buckets // 2
        distance = max(back, 0) if self.causal else abs(back)
        exact = half // 2
        if distance >= exact:
            grown = math.log2(distance / exact) / math.log2(self.furthest / exact) * (half - exact)
            distance = min(exact + int(grown), half - 1)
        return distance if self.causal or back >= 0 else distance + half

    def forward(self, frames: int) -> Tensor:
        """Return what is added to the scores, [n, t_query, t_key]: the bias, and −∞ for later frames if causal."""
        device = self.weight.device
        bias = self.weight[self.bucket(frames).to(device)].permute(2, 0, 1)
        if not self.causal:
            return bias
        later = torch.ones(frames, frames, dtype=torch.bool, device=device).triu(1)
        return bias.masked_fill(later, -math.inf)
