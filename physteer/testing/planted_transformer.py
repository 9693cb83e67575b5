"""A small causal transformer in stages, whose every leaf node is a site: the network that circuits are planted in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from physteer.errors import PhysteerError


class Attention(nn.Module):
    """The first half of a block: h + W_out · heads(norm(h)), causal over positions."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.heads = nn.Identity()
        self.out = nn.Linear(width, width)
        self.update = nn.Identity()

    def forward(self, h: Tensor, last_frame_only: bool = False) -> Tensor:
        """Return the stream in the middle of the block.

        Args:
            h: [B, T, d].
            last_frame_only: every position is a key, but only the last a query; returns [B, 1, d].
        """
        # contiguous tensors [B, n, T, hd]: products of strided ones are slower
        q, k, v = rearrange(
            self.queries_keys_values(self.norm(h)), "b t (part n hd) -> part b n t hd", part=3, n=self.n_heads
        ).contiguous()
        if last_frame_only:
            h, q = h[:, -1:], q[:, :, -1:]  # the last position sees all: nothing to mask
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=not last_frame_only)
        heads = self.heads(rearrange(mixed, "b n t hd -> b t n hd"))
        update: Tensor = self.update(self.out(heads.flatten(-2)))
        return h + update


class FeedForward(nn.Module):
    """The second half of a block: h + W_out · GELU(W_in · norm(h)), position by position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)
        self.update = nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        """Return the stream [B, T, d] at the end of the block."""
        update: Tensor = self.update(self.out(functional.gelu(self.hidden(self.norm(h)))))
        return h + update


class Block(nn.Module):
    """Attention, then feed-forward, each with its norm in front."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, n_heads)
        self.feed_forward = FeedForward(width)

    def forward(self, h: Tensor, last_frame_only: bool = False) -> Tensor:
        """Return the stream [B, T, d] behind the block, or of the last position alone."""
        stream: Tensor = self.feed_forward(self.attention(h, last_frame_only))
        return stream


class PlantedTransformer(nn.Module):
    """A causal pre-norm transformer over tokens; activations are [B, T, d], heads' outputs [B, T, n, hd].

    It runs in stages and tells how its nodes enter the residual stream (`physteer.interventions.residual`). What
    interventions call a frame is a position here.

    Args:
        vocabulary: number of different tokens.
        n_positions: the longest sequence.
        n_outputs: numbers given at a position: scores of classes, or the answer itself.
        width: d.
        n_blocks: each of attention and feed-forward.
        n_heads: per block.

    Raises:
        PhysteerError: The width is no multiple of the number of heads.
    """

    def __init__(
        self, vocabulary: int, n_positions: int, n_outputs: int, width: int = 32, n_blocks: int = 2, n_heads: int = 4
    ) -> None:
        super().__init__()
        if width % n_heads:
            raise PhysteerError(f"a width of {width} cannot be split over {n_heads} heads; make it a multiple of them")
        self.sizes = {
            "vocabulary": vocabulary,
            "n_positions": n_positions,
            "n_outputs": n_outputs,
            "width": width,
            "n_blocks": n_blocks,
            "n_heads": n_heads,
        }
        """The arguments, to make a network of the same shape with."""
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.1 * torch.randn(n_positions, width))
        self.encoder = nn.Identity()
        self.blocks = nn.ModuleList(Block(width, n_heads) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, tokens: Tensor, *, last_frame_only: bool = False) -> Tensor:
        """Return the outputs [B, T, n_outputs] for tokens [B, T], or [B, 1, n_outputs] of the last position alone.

        Raises:
            PhysteerError: The sequence is longer than the positions there are.
        """
        h, context = self.encode(tokens)
        h = self.run_blocks(h, context, last_frame_only=last_frame_only)
        return self.decode(h, context, last_frame_only=last_frame_only)

    def encode(self, tokens: Tensor) -> tuple[Tensor, None]:
        """Embed tokens [B, T] as [B, T, d]; the blocks need nothing else."""
        length, longest = tokens.shape[1], len(self.positions)
        if length > longest:
            raise PhysteerError(f"a sequence of {length} tokens came to a network with {longest} positions")
        h: Tensor = self.encoder(self.tokens(tokens) + self.positions[:length])
        return h, None

    def run_blocks(
        self, h: Tensor, context: None, start: int = 0, stop: int | None = None, *, last_frame_only: bool = False
    ) -> Tensor:
        """Run blocks start … stop − 1 on [B, T, d].

        With `last_frame_only` the last of them computes, and the result holds, the last position alone.
        """
        stop = len(self.blocks) if stop is None else stop
        for i in range(start, stop):
            h = self.blocks[i](h, last_frame_only and i == stop - 1)
        return h[:, -1:] if last_frame_only else h

    def run_second_half(self, h: Tensor, context: None, block: int) -> Tensor:
        """Run a block's feed-forward on the stream [B, T, d] behind its attention, position by position."""
        stream: Tensor = self._block(block).feed_forward(h)
        return stream

    def residual_writes(self, block: int) -> dict[str, tuple[str, Tensor | None]]:
        """Return how the sites of a block enter the residual stream.

        Returns:
            By the site's path: the path of the stream right behind it, and the weight [d, width] of the linear map;
            None for a weight where the activation itself is added, or is the stream.
        """
        end, middle = f"blocks.{block}", f"blocks.{block}.attention"
        return {
            f"{middle}.heads": (middle, self._block(block).attention.out.weight),
            f"{middle}.update": (middle, None),
            middle: (middle, None),
            f"{end}.feed_forward.update": (end, None),
            end: (end, None),
        }

    def decode(self, h: Tensor, context: None, *, last_frame_only: bool = False) -> Tensor:
        """Return the outputs [B, T, n_outputs] for the stream [B, T, d], or those of the last position alone."""
        outputs: Tensor = self.head(self.norm(h[:, -1:] if last_frame_only else h))
        return outputs

    def pack_context(self, context: None) -> tuple[tuple[Tensor, ...], str]:
        """Return nothing: there is no context."""
        return (), ""

    def unpack_context(self, rows: Sequence[Tensor], shared: str) -> None:
        """Return nothing: there is no context."""

    def site_names(self) -> tuple[str, ...]:
        """List the modules whose outputs are activations worth capturing and editing, in the order of computation.

        `blocks.i.feed_forward` is left out: its output is that of `blocks.i`.
        """
        inside = ("attention.heads", "attention.update", "attention", "feed_forward.update")
        names = ["encoder"]
        for i in range(len(self.blocks)):
            names += [*(f"blocks.{i}.{name}" for name in inside), f"blocks.{i}"]
        return tuple(names)

    def site_layout(self, module: str) -> str:
        """Return the axes of a module's output (`physteer.interventions.Layout`)."""
        return "b t n hd" if module.endswith(".heads") else "b t d"

    def leaf_nodes(self) -> tuple[str, ...]:
        """List the nodes that write to the stream: every head, then the feed-forward, block by block."""
        nodes: list[str] = []
        for i in range(len(self.blocks)):
            nodes += [f"blocks.{i}.attention.heads[{head}]" for head in range(self.sizes["n_heads"])]
            nodes.append(f"blocks.{i}.feed_forward.update")
        return tuple(nodes)

    def _block(self, index: int) -> Block:
        block = self.blocks[index]
        assert isinstance(block, Block)
        return block
