"""Walrus: stem, blocks of time and space mixing, decoder (Polymathic AI, 2025)."""

import math
import re
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.walrus.config import WalrusConfig
from physteer.walrus.context import Context, make_context, pack, unpack
from physteer.walrus.decoder import Debed, Decoder
from physteer.walrus.grid import Boundaries, Shifts, draw_shifts, plan
from physteer.walrus.mixing import Block
from physteer.walrus.norm import RMSGroupNorm
from physteer.walrus.stem import Embed, PreviewStem, ReleasedStem

_SITE = re.compile(r"encoder|blocks\.\d+(\.(time|space)(\.(update|attention_update|ff_hidden|ff_update))?)?")
"""What is [B, T, h, w, δ, d]: sites without heads, and `blocks.i.space`."""


class Walrus(nn.Module):
    """A transformer over space-time tokens that predicts each field's change over the next step.

    Fields come sample-wise normalised (x / r) and the output y is in units of the
    RMS of first differences. Activations are [B, T, h, w, δ, d], contiguous, and stay in the fields' own frame: token
    rolls turn the rotary positions instead. Every activation can be hooked by its module path: `encoder`, `blocks.i`,
    `blocks.i.time`, `blocks.i.time.heads`, `blocks.i.space.heads`, `blocks.i.space.ff_hidden`, and the `update`s that
    are added to the residual.
    """

    leaves = ("blocks.*.time.heads[*]", "blocks.*.space.heads[*]", "blocks.*.space.ff_update")
    """What adds to the residual stream (`physteer.interventions.WritesResidual`)."""

    def __init__(self, config: WalrusConfig) -> None:
        super().__init__()
        self.config = config
        self.adapters: tuple[str, ...] = ()
        """Names (digests) of the low-rank adapters that were added to the weights, in their order."""
        self.stem = ReleasedStem(config) if config.variant == "released" else PreviewStem(config)
        self.position: nn.Parameter | None = None  # [h, w, δ, d], learned by some fine-tuned models
        if config.position is not None:
            self.position = nn.Parameter(torch.zeros(*config.position, config.hidden_dim))
        self.encoder = nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.decoder = Decoder(config)
        self.reset_parameters()

    def forward(
        self,
        x: Tensor,
        labels: Sequence[int],
        boundaries: Boundaries,
        shifts: Shifts | None = None,
        *,
        last_frame_only: bool = False,
    ) -> Tensor:
        """Predict the change after every frame: [B, T, C, H, W, D] → the same shape, or the last frame's alone.

        Whatever the input's dtype, the network computes and answers in its own.

        Args:
            x: Normalised fields.
            labels: Vocabulary index of each of the C fields (`config.labels(names)`).
            boundaries: Boundary codes per axis and end: 0 wall, 1 open, 2 periodic.
            shifts: Random shifts (`draw_shifts`); none: no jitter.
            last_frame_only: Skip what only earlier frames' outputs need; returns [B, 1, C, H, W, D].

        Raises:
            PhysteerError: No stride fits the grid, or the arguments' shapes disagree.
        """
        h, context = self.encode(x, labels, boundaries, shifts)
        h = self.run_blocks(h, context, last_frame_only=last_frame_only)
        return self.decode(h, context, last_frame_only=last_frame_only)

    def encode(
        self, x: Tensor, labels: Sequence[int], boundaries: Boundaries, shifts: Shifts | None = None
    ) -> tuple[Tensor, Context]:
        """Embed fields [B, T, C, H, W, D] as tokens [B, T, h, w, δ, d]; also return what the later stages need."""
        batch, frames, channels = x.shape[:3]
        if len(labels) != channels:
            raise PhysteerError(f"{channels} field channels came with {len(labels)} labels")
        if shifts is not None and shifts.pixels.shape[0] != batch:
            raise PhysteerError(f"shifts for {shifts.pixels.shape[0]} samples came with a batch of {batch}")
        context = make_context(self.config, labels, boundaries, x.shape[3:], shifts, self.device)
        grid = context.grid
        x = x.reshape(batch, frames, channels, *(axis.size for axis in grid.moving))
        h = self.stem(x.to(self.dtype), labels, grid, shifts)  # [B·T, d, *active tokens]
        # Contiguous, channels last, once: a Linear on a permuted view is ten times slower.
        h = h.movedim(1, -1).contiguous().view(batch, frames, *grid.tokens, -1)
        if self.position is not None:
            if self.position.shape[:3] != grid.tokens:
                raise PhysteerError(
                    f"the model's absolute position is for {tuple(self.position.shape[:3])} tokens; "
                    f"this grid has {grid.tokens}"
                )
            h = h + self.position
        return self.encoder(h), context

    def run_blocks(
        self, h: Tensor, context: Context, start: int = 0, stop: int | None = None, *, last_frame_only: bool = False
    ) -> Tensor:
        """Run blocks start … stop − 1 on an activation [B, T, h, w, δ, d] that has passed the blocks before them.

        With `last_frame_only` the last of them computes, and the result holds, the last frame alone.
        """
        stop = len(self.blocks) if stop is None else stop
        for i in range(start, stop):
            h = self.blocks[i](h, context.positions[i], last_frame_only and i == stop - 1)
        return h[:, -1:] if last_frame_only else h

    def keep_past(self, h: Tensor, context: Context, start: int) -> tuple[Tensor, ...]:
        """Return the keys and values of time attention in blocks start … for frames whose successors change later.

        Time mixing is causal, so a later frame's edit leaves them as they are (`run_next_frame`).

        Args:
            h: [B, T, h, w, δ, d], what block `start` gets for the earlier frames.
            context: of the pass.
            start: the first block.

        Returns:
            Per block, [B, 2, T, h·w·δ, n, hd].

        Raises:
            PhysteerError: time attention is not causal.
        """
        if not self.config.causal_in_time:
            raise PhysteerError("this Walrus is not causal in time: an edit of the last frame changes all frames")
        kept = []
        for i in range(start, len(self.blocks)):
            kept.append(self.blocks[i].time.keys_and_values(h))  # type: ignore[operator, union-attr]
            if i < len(self.blocks) - 1:
                h = self.blocks[i](h, context.positions[i])
        return tuple(kept)

    def run_next_frame(self, h: Tensor, context: Context, start: int, kv_cache: Sequence[Tensor]) -> Tensor:
        """Run blocks start … on the frame [B, 1, h, w, δ, d] that follows those whose keys and values were kept."""
        for i, kept in enumerate(kv_cache, start):
            h = self.blocks[i](h, context.positions[i], kv_cache=kept)
        return h

    def run_second_half(self, h: Tensor, context: Context, block: int) -> Tensor:
        """Run a block's space mixing on the stream [B, T, h, w, δ, d] behind its time mixing, frame by frame."""
        return cast(Block, self.blocks[block]).space(h, context.positions[block])  # type: ignore[no-any-return]

    def residual_writes(self, block: int) -> dict[str, tuple[str, Tensor | None]]:
        """Return how the sites of a block enter the residual stream.

        Returns:
            By the site's path: the path of the stream right behind it, and the weight [d, width] of the linear map;
            None for a weight where the activation itself is added, or is the stream.
        """
        own = cast(Block, self.blocks[block])
        end, middle = f"blocks.{block}", f"blocks.{block}.time"
        return {
            f"{middle}.heads": (middle, own.time.out.weight),
            f"{middle}.update": (middle, None),
            middle: (middle, None),
            f"{end}.space.heads": (end, own.space.attention_out.weight),
            f"{end}.space.attention_update": (end, None),
            f"{end}.space.ff_hidden": (end, own.space.ff_out.weight),
            f"{end}.space.ff_update": (end, None),
            end: (end, None),
        }

    def decode(self, h: Tensor, context: Context, *, last_frame_only: bool = False) -> Tensor:
        """Map tokens [B, T, h, w, δ, d] to fields [B, T, C, H, W, D], or the last frame's alone."""
        h = h[:, -1:] if last_frame_only else h
        return self.decoder(h, context.labels, context.grid, context.shifts)  # type: ignore[no-any-return]

    def pack_context(self, context: Context) -> tuple[tuple[Tensor, ...], str]:
        """Return what a context is made of: tensors [B, …] of the rows, and JSON of what the rows share."""
        return pack(context)

    def unpack_context(self, rows: Sequence[Tensor], shared: str) -> Context:
        """Return the context of packed rows: all of them, some, or those of several passes that share the rest."""
        return unpack(self.config, rows, shared, self.device)

    def draw_shifts(
        self, spatial_shape: Sequence[int], boundaries: Boundaries, generators: Sequence[torch.Generator]
    ) -> Shifts:
        """Draw the jitter of one pass over fields of `spatial_shape` (H, W, D), one generator per sample."""
        return draw_shifts(self.config, plan(self.config, spatial_shape, boundaries, jitter=True), generators)

    def site_names(self) -> tuple[str, ...]:
        """List the modules whose outputs are activations worth capturing and editing, in the order they are computed.

        `blocks.i.space` is left out: its output is that of `blocks.i`.
        """
        attention = ("time.heads", "time.update", "time", "space.heads", "space.attention_update")
        feed_forward = ("space.ff_hidden", "space.ff_update")
        names = ["encoder"]
        for i in range(len(self.blocks)):
            names += [*(f"blocks.{i}.{name}" for name in (*attention, *feed_forward)), f"blocks.{i}"]
        return tuple(names)

    def site_layout(self, module: str) -> str | None:
        """Return the axes of a site or of the decoder's output (`physteer.interventions.Layout`); None of others."""
        if module == "decoder":
            return "b t c h w δ"
        if module.endswith(".heads"):
            return "b t h w δ n hd"
        return "b t h w δ d" if _SITE.fullmatch(module) else None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the network computes in."""
        return self.blocks[0].time.out.weight.dtype  # type: ignore[union-attr, return-value]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.blocks[0].time.out.weight.device  # type: ignore[union-attr, return-value]

    def reset_parameters(self) -> None:
        """Draw initial weights for training from scratch.

        Linear and convolution weights are truncated normals of variance 1 / fan-in; what is added to the residual
        stream is further divided by √(2 · blocks), so that its size does not depend on depth, and the last convolution
        is small: training starts near "nothing changes".
        """
        residual = 1 / math.sqrt(2 * len(self.blocks))

        def draw(weight: Tensor, fan_in: float, gain: float = 1.0) -> None:
            std = gain / math.sqrt(fan_in)
            nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)

        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                is_residual = name.endswith((".out", ".attention_out", ".ff_out"))
                draw(module.weight, module.in_features, residual if is_residual else 1.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, RMSGroupNorm):
                nn.init.ones_(module.weight)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, Embed):
                draw(module.proj1, module.proj1[0].numel())
                draw(module.proj2, module.proj2[0].numel())
            elif isinstance(module, Debed):
                draw(module.proj1, module.proj1.shape[0])
                draw(module.proj2, module.proj2.shape[0], gain=0.1)
                nn.init.zeros_(module.bias)
            elif isinstance(module, PreviewStem):
                nn.init.normal_(module.padding, std=0.02)
