"""A plain vision transformer (Dosovitskiy et al., arXiv 2010.11929) that predicts the next frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from physteer.errors import PhysteerError
from physteer.interventions import StagedNetwork


class ViT(StagedNetwork):
    """Square patches of all frames are tokens; attention is over all tokens; two-dimensional fields.

    Blocks add to a residual stream [N, 1, h, w, d], attention first. Sites beside its borders: ``blocks.i.attention``
    and ``blocks.i.mlp``, what the two halves of a block add; ``blocks.i.attention.heads``, before the heads are mixed;
    and ``blocks.i.middle``, the stream between the halves.

    Args:
        fields: F, the number of fields.
        frames: T, the number of frames of a window.
        patch: cells along each side of a token.
        width: d.
        depth: number of blocks.
        heads: of attention; they share out the width.
    """

    layouts: ClassVar[Mapping[str, str]] = {
        "blocks.*.attention.heads": "b t h w n hd",
        "blocks.*.attention": "b t h w d",
        "blocks.*.middle": "b t h w d",
        "blocks.*.mlp": "b t h w d",
    }
    leaves = ("blocks.*.attention.heads[*]", "blocks.*.mlp")

    def __init__(
        self, fields: int, frames: int, patch: int = 8, width: int = 96, depth: int = 4, heads: int = 4
    ) -> None:
        if width % heads or width % 4:
            raise PhysteerError(f"ViT: width must be a multiple of heads and of 4; found {width} and {heads} heads")
        blocks = [Block(width, heads) for _ in range(depth)]
        super().__init__(Patches(fields, frames, patch, width), blocks, Unpatch(fields, patch, width))
        self.frames, self.n_fields = frames, fields

    def residual_writes(self, block: int) -> dict[str, tuple[str, Tensor | None]]:
        """Return how sites of a block enter the stream (`physteer.interventions.WritesResidual`)."""
        path, (middle, end) = f"blocks.{block}", (f"blocks.{block}.middle", f"blocks.{block}")
        mixing = self.get_parameter(f"{path}.attention.mix.weight")
        return {
            f"{path}.attention.heads": (middle, mixing),
            f"{path}.attention": (middle, None),
            middle: (middle, None),
            f"{path}.mlp": (end, None),
            path: (end, None),
        }

    def run_second_half(self, h: Tensor, context: Any, block: int) -> Tensor:
        """Run the feed-forward half of a block."""
        half: Tensor = self.blocks[block].second_half(h)  # type: ignore[operator]
        return half


class Patches(nn.Module):
    """Maps windows [N, T, F, H, W, 1] to tokens [N, 1, h, w, d], with sinusoidal positions on any grid."""

    def __init__(self, fields: int, frames: int, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.project = nn.Linear(frames * fields * patch * patch, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens."""
        if x.shape[-1] > 1 or x.shape[3] % self.patch or x.shape[4] % self.patch:
            raise PhysteerError(
                f"ViT takes two-dimensional fields whose sides are multiples of {self.patch} cells; found "
                f"{list(x.shape[3:])}"
            )
        cells = rearrange(x, "n t f (h p) (w q) 1 -> n 1 h w (t f p q)", p=self.patch, q=self.patch)
        tokens: Tensor = self.project(cells)
        rows, columns = (_positions(size, tokens.shape[-1] // 2, tokens) for size in tokens.shape[2:4])
        place = torch.cat([rows[:, None].expand(-1, len(columns), -1), columns.expand(len(rows), -1, -1)], dim=-1)
        return tokens + place


class Block(nn.Module):
    """Attention, then a feed-forward network, each with a norm before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.middle = nn.Identity()
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor) -> Tensor:
        """Return the stream [N, 1, h, w, d] with what the block adds."""
        return self.second_half(self.middle(h + self.attention(self.norm1(h))))

    def second_half(self, h: Tensor) -> Tensor:
        """Return the stream with what the feed-forward network adds."""
        added: Tensor = self.mlp(self.norm2(h))
        return h + added


class Attention(nn.Module):
    """Attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.n_heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.heads = nn.Identity()
        self.mix = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Return what attention adds, [N, 1, h, w, d]."""
        q, k, v = rearrange(self.qkv(h), "b 1 h w (three n c) -> three b n (h w) c", three=3, n=self.n_heads)
        seen = functional.scaled_dot_product_attention(q, k, v)
        heads = self.heads(rearrange(seen, "b n (h w) c -> b 1 h w n c", h=h.shape[2]))
        mixed: Tensor = self.mix(heads.flatten(-2))
        return mixed


class Unpatch(nn.Module):
    """Maps tokens to the change of the last frame, [N, 1, F, H, W, 1]."""

    def __init__(self, fields: int, patch: int, width: int) -> None:
        super().__init__()
        self.patch, self.norm = patch, nn.LayerNorm(width)
        self.project = nn.Linear(width, fields * patch * patch)

    def forward(self, h: Tensor) -> Tensor:
        """Return the change."""
        cells: Tensor = self.project(self.norm(h))
        change = rearrange(cells, "n 1 h w (f p q) -> n 1 f (h p) (w q) 1", p=self.patch, q=self.patch)
        return change


def _positions(size: int, width: int, like: Tensor) -> Tensor:
    """Return sines and cosines of positions, [size, width]; their wavelengths are geometric (Vaswani et al. 2017)."""
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(1e4) / width))
    angles = torch.arange(size, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(like.dtype)
