"""The two halves of a block: attention over time, then attention over space beside a feed-forward."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physteer.walrus.config import WalrusConfig
from physteer.walrus.norm import RMSGroupNorm
from physteer.walrus.positions import Positions, RelativeTimeBias, rotary_frequencies, rotary_table, rotate

MOST_HEADS = 2**15
"""Heads per call of attention: CUDA launches take fewer than 2¹⁶."""


class TimeMixing(nn.Module):
    """Each token position attends over its own frames: h + W·attention(norm(h)).

    The identities `heads` and `update` compute nothing: they are the places where hooks see and edit what passes.
    """

    def __init__(self, config: WalrusConfig) -> None:
        super().__init__()
        d, self.n_heads = config.hidden_dim, config.n_heads
        self.norm = RMSGroupNorm(d)
        # Three layers, not one: their outputs are contiguous, so that norms and attention need no copies.
        self.q, self.k, self.v = (nn.Linear(d, d) for _ in range(3))
        self.q_norm = nn.LayerNorm(config.head_dim)
        self.k_norm = nn.LayerNorm(config.head_dim)
        self.bias = RelativeTimeBias(config.n_heads, config.causal_in_time)
        self.heads = nn.Identity()  # [B, T, h, w, δ, n, hd]
        self.out = nn.Linear(d, d)
        self.update = nn.Identity()  # [B, T, h, w, δ, d]

    def forward(self, h: Tensor, last_frame_only: bool = False, kv_cache: Tensor | None = None) -> Tensor:
        """Map [B, T, h, w, δ, d] to the same shape, or to its last frame [B, 1, h, w, δ, d].

        Args:
            h: the frames.
            last_frame_only: every frame is a key, but only the last a query.
            kv_cache: keys and values of frames before these (`keys_and_values`).
        """
        tokens = h.shape[2:-1]
        asked = 1 if last_frame_only else h.shape[1]
        normed = self._normed(h)
        q = self.q_norm(self._split(self.q(normed[:, -asked:])))
        k, v = self._keys_values(normed)
        if kv_cache is not None:
            k, v = torch.cat([kv_cache[:, 0], k], 1), torch.cat([kv_cache[:, 1], v], 1)
        heads = frame_attention(q, k, v, self.bias(k.shape[1])[:, -asked:])
        heads = self.heads(heads.view(len(h), asked, *tokens, self.n_heads, -1))
        update: Tensor = self.update(self.out(heads.flatten(-2)))
        return h[:, -asked:] + update

    def keys_and_values(self, h: Tensor) -> Tensor:
        """Return the keys and values of frames [B, T, h, w, δ, d] for later ones to attend to: [B, 2, T, S, n, hd]."""
        return torch.stack(self._keys_values(self._normed(h)), 1)

    def _normed(self, h: Tensor) -> Tensor:
        batch, frames, *_, d = h.shape
        normed: Tensor = self.norm(h.reshape(batch * frames, -1, d))
        return normed.view(batch, frames, -1, d)

    def _keys_values(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        return self.k_norm(self._split(self.k(normed))), self._split(self.v(normed))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:3], self.n_heads, -1)  # [B, T, S, d] → [B, T, S, n, hd]


def frame_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attend over frames, every token position and head for itself.

    Positions and heads together play the part of heads, since they lie next to each other in memory: nothing is copied.

    Args:
        q: [B, T_q, S, n, hd].
        k: [B, T, S, n, hd].
        v: [B, T, S, n, hd].
        bias: [n, T_q, T], added to the scores.

    Returns:
        [B, T_q, S, n, hd], contiguous.
    """
    tokens = q.shape[2]
    bias = bias.to(q.dtype).repeat(tokens, 1, 1)[None]  # [1, S·n, T_q, T]
    parts = []
    for start in range(0, bias.shape[1], MOST_HEADS):
        here = slice(start, start + MOST_HEADS)
        q_here, k_here, v_here = (x.flatten(2, 3)[:, :, here].transpose(1, 2) for x in (q, k, v))  # [B, S·n, T, hd]
        heads = F.scaled_dot_product_attention(q_here, k_here, v_here, attn_mask=bias[:, here])
        parts.append(heads.transpose(1, 2))
    return torch.cat(parts, 2).view_as(q) if len(parts) > 1 else parts[0].reshape(q.shape)


class SpaceMixing(nn.Module):
    """Each frame's tokens attend to each other while a gated feed-forward reads the same normed input.

    h + W_a·attention(norm(h)) + W_f·(value · SiLU(gate)), value and gate from norm(h). The identities compute nothing:
    they are the places where hooks see and edit what passes.
    """

    def __init__(self, config: WalrusConfig) -> None:
        super().__init__()
        d, self.n_heads = config.hidden_dim, config.n_heads
        self.norm = RMSGroupNorm(d)
        self.q, self.k, self.v = (nn.Linear(d, d) for _ in range(3))
        self.q_norm = nn.LayerNorm(config.head_dim)
        self.k_norm = nn.LayerNorm(config.head_dim)
        self.frequencies: nn.Parameter | None = None  # [1 or 3, hd // 8], learned by some fine-tuned models
        if config.rotary != "fixed":
            rows = 1 if config.rotary == "shared" else 3
            self.frequencies = nn.Parameter(rotary_frequencies(config.head_dim).repeat(rows, 1))
        self.heads = nn.Identity()  # [B, T, h, w, δ, n, hd]
        self.attention_out = nn.Linear(d, d, bias=False)
        self.attention_update = nn.Identity()  # [B, T, h, w, δ, d]
        self.ff_in = nn.Linear(d, config.ff_dim)  # value, gate
        self.ff_hidden = nn.Identity()  # [B, T, h, w, δ, ff_dim / 2]
        self.ff_out = nn.Linear(config.ff_dim // 2, d)
        self.ff_update = nn.Identity()  # [B, T, h, w, δ, d]

    def forward(self, h: Tensor, positions: Positions) -> Tensor:
        """Map [B, T, h, w, δ, d] to the same shape."""
        batch, frames, *tokens, d = h.shape
        normed = self.norm(h.reshape(batch * frames, -1, d)).view(batch, frames, -1, d)
        q, k, v = (linear(normed).view(*normed.shape[:3], self.n_heads, -1) for linear in (self.q, self.k, self.v))
        table = self.rotations(positions, q.shape[-1])
        q, k = rotate(self.q_norm(q), table), rotate(self.k_norm(k), table)
        q, k, v = (x.flatten(0, 1).transpose(1, 2) for x in (q, k, v))  # [B·T, n, S, hd]
        heads = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        heads = self.heads(heads.reshape(batch, frames, *tokens, self.n_heads, -1))  # no copy: it lies so already
        attention: Tensor = self.attention_update(self.attention_out(heads.flatten(-2)))

        value, gate = self.ff_in(normed).view(*h.shape[:-1], -1).chunk(2, -1)
        hidden = self.ff_hidden(F.silu(gate).mul_(value))
        ff: Tensor = self.ff_update(self.ff_out(hidden))
        return (h + attention).add_(ff)

    def rotations(self, positions: Positions, head_dim: int) -> Tensor:
        """Return the rotary table: the one of the fixed frequencies, or one from this block's learned ones."""
        if positions.table is not None:
            return positions.table
        assert self.frequencies is not None
        return rotary_table(positions.axes, self.frequencies.expand(3, -1), head_dim)


class Block(nn.Module):
    """Time mixing, then space mixing."""

    def __init__(self, config: WalrusConfig) -> None:
        super().__init__()
        self.time = TimeMixing(config)
        self.space = SpaceMixing(config)

    def forward(
        self, h: Tensor, positions: Positions, last_frame_only: bool = False, kv_cache: Tensor | None = None
    ) -> Tensor:
        """Map [B, T, h, w, δ, d] to the same shape, or to its last frame [B, 1, h, w, δ, d].

        `kv_cache` holds the keys and values of earlier frames in time attention (`TimeMixing.keys_and_values`).
        """
        return self.space(self.time(h, last_frame_only, kv_cache), positions)  # type: ignore[no-any-return]
