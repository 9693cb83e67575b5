"""The two halves of a block: attention over time, then attention over space beside a feed-forward."""

import torch.nn.functional as F
from torch import Tensor, nn

from physteer.walrus.config import WalrusConfig
from physteer.walrus.norm import RMSGroupNorm
from physteer.walrus.positions import Positions, RelativeTimeBias, rotary_frequencies, rotary_table, rotate


class TimeMixing(nn.Module):
    """Each token position attends over its own frames: h + W·attention(norm(h)).

    The identities `heads` and `update` compute nothing: they are the places where hooks see and edit what passes.
    """

    def __init__(self, config: WalrusConfig) -> None:
        super().__init__()
        d, self.n_heads = config.hidden_dim, config.n_heads
        self.norm = RMSGroupNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.q_norm = nn.LayerNorm(config.head_dim)
        self.k_norm = nn.LayerNorm(config.head_dim)
        self.bias = RelativeTimeBias(config.n_heads, config.causal_in_time)
        self.heads = nn.Identity()  # [B, T, h, w, δ, n, hd]
        self.out = nn.Linear(d, d)
        self.update = nn.Identity()  # [B, T, h, w, δ, d]

    def forward(self, h: Tensor, last_frame_only: bool = False) -> Tensor:
        """Map [B, T, h, w, δ, d] to the same shape, or to its last frame [B, 1, h, w, δ, d]."""
        batch, frames, *tokens, d = h.shape
        asked = 1 if last_frame_only else frames  # every frame is a key, but only these are queries
        normed = self.norm(h.flatten(0, 1)).view_as(h)
        weight, bias = self.qkv.weight, self.qkv.bias
        if asked < frames:
            q = F.linear(normed[:, -asked:], weight[:d], bias[:d])
            k, v = F.linear(normed, weight[d:], bias[d:]).chunk(2, -1)
        else:
            q, k, v = self.qkv(normed).chunk(3, -1)
        q, k, v = (x.reshape(*x.shape[:-1], self.n_heads, -1) for x in (q, k, v))  # [B, T, h, w, δ, n, hd]
        q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (x.permute(0, 2, 3, 4, 5, 1, 6).flatten(0, 3).contiguous() for x in (q, k, v))  # [B·h·w·δ, n, T, hd]
        mask = self.bias(frames)[:, -asked:].to(q.dtype).expand(q.shape[0], -1, -1, -1)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        heads = heads.view(batch, *tokens, *heads.shape[1:]).permute(0, 5, 1, 2, 3, 4, 6)
        heads = self.heads(heads.contiguous())
        update: Tensor = self.update(self.out(heads.flatten(-2)))
        return h[:, -asked:] + update


class SpaceMixing(nn.Module):
    """Each frame's tokens attend to each other while a gated feed-forward reads the same normed input.

    h + W_a·attention(norm(h)) + W_f·(value · SiLU(gate)), value and gate from norm(h). The identities compute nothing:
    they are the places where hooks see and edit what passes.
    """

    def __init__(self, config: WalrusConfig) -> None:
        super().__init__()
        d, self.n_heads, self.ff_dim = config.hidden_dim, config.n_heads, config.ff_dim
        self.norm = RMSGroupNorm(d)
        self.ff_qkv = nn.Linear(d, config.ff_dim + 3 * d)
        self.q_norm = nn.LayerNorm(config.head_dim)
        self.k_norm = nn.LayerNorm(config.head_dim)
        self.frequencies: nn.Parameter | None = None  # [1 or 3, hd // 8], learned by some fine-tuned models
        if config.rotary != "fixed":
            rows = 1 if config.rotary == "shared" else 3
            self.frequencies = nn.Parameter(rotary_frequencies(config.head_dim).repeat(rows, 1))
        self.heads = nn.Identity()  # [B, T, h, w, δ, n, hd]
        self.attention_out = nn.Linear(d, d, bias=False)
        self.attention_update = nn.Identity()  # [B, T, h, w, δ, d]
        self.ff_hidden = nn.Identity()  # [B, T, h, w, δ, ff_dim / 2]
        self.ff_out = nn.Linear(config.ff_dim // 2, d)
        self.ff_update = nn.Identity()  # [B, T, h, w, δ, d]

    def forward(self, h: Tensor, positions: Positions) -> Tensor:
        """Map [B, T, h, w, δ, d] to the same shape."""
        batch, frames, *tokens, d = h.shape
        normed = self.norm(h.view(batch * frames, -1, d)).view_as(h)
        value, gate, q, k, v = self.ff_qkv(normed).split([self.ff_dim // 2] * 2 + [d] * 3, -1)

        # [B, T, h, w, δ, d] → [B, T, S, n, hd]
        q, k, v = (x.reshape(batch, frames, -1, self.n_heads, d // self.n_heads) for x in (q, k, v))
        table = self.rotations(positions, q.shape[-1])
        q, k = rotate(self.q_norm(q), table), rotate(self.k_norm(k), table)
        q, k, v = (x.flatten(0, 1).transpose(1, 2) for x in (q, k, v))  # [B·T, n, S, hd]
        heads = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        heads = self.heads(heads.reshape(batch, frames, *tokens, self.n_heads, -1))
        attention: Tensor = self.attention_update(self.attention_out(heads.flatten(-2)))

        hidden = self.ff_hidden(value * F.silu(gate))
        ff: Tensor = self.ff_update(self.ff_out(hidden))
        return h + attention + ff

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

    def forward(self, h: Tensor, positions: Positions, last_frame_only: bool = False) -> Tensor:
        """Map [B, T, h, w, δ, d] to the same shape, or to its last frame [B, 1, h, w, δ, d]."""
        return self.space(self.time(h, last_frame_only), positions)  # type: ignore[no-any-return]
