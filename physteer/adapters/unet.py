"""A U-Net (Ronneberger et al., arXiv 1505.04597) that predicts the next frame: several resolutions, with skips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from physteer.errors import PhysteerError
from physteer.interventions import StagedNetwork


class UNet(StagedNetwork):
    """Blocks 0 … L − 1 go down, halving the grid before each but the first; blocks L … 2L − 2 come up again.

    A block on the way up also reads the output of the block of its resolution on the way down. All activations are
    [N, C, H, W]; two-dimensional fields, periodic on all sides.

    Args:
        fields: F, the number of fields.
        frames: T, the number of frames of a window.
        width: channels at full resolution; they double with every halving.
        levels: L.
    """

    border_layout: ClassVar[str] = "b c h w"
    layouts: ClassVar[Mapping[str, str]] = {"blocks.*.first": "b c h w", "blocks.*.second": "b c h w"}

    def __init__(self, fields: int, frames: int, width: int = 24, levels: int = 3) -> None:
        widths = [width * 2**level for level in range(levels)]
        down = [Down(widths[max(level - 1, 0)], widths[level], halve=level > 0) for level in range(levels)]
        up = [Up(widths[level + 1], widths[level]) for level in reversed(range(levels - 1))]
        super().__init__(Lift(fields, frames, width, 2 ** (levels - 1)), [*down, *up], Project(width, fields))
        self.frames, self.n_fields, self.levels = frames, fields, levels

    def encode(self, *inputs: Any) -> tuple[Tensor, Any]:
        """Return the activation before block 0, and the outputs that later blocks read, by border: none yet."""
        return self.encoder(*inputs), {}

    def run_blocks(
        self, h: Tensor, context: Any, start: int = 0, stop: int | None = None, *, last_frame_only: bool = False
    ) -> Tensor:
        """Run blocks start … stop − 1; those on the way up read outputs of earlier ones."""
        outputs = {**context, start: h}
        for i, block in list(enumerate(self.blocks))[start:stop]:
            h = block(h) if i < self.levels else block(h, outputs[self._skip(i)])
            outputs[i + 1] = h
        return h

    def skip_borders(self, start: int) -> Sequence[int]:
        """Return the borders before a block that it or later blocks read (`physteer.interventions.CarriesSkips`)."""
        read = map(self._skip, range(max(start, self.levels), len(self.blocks)))
        return [border for border in read if border < start]

    def with_skips(self, context: Any, activations: Mapping[int, Tensor]) -> Any:
        """Return the outputs that blocks read."""
        return {**context, **activations}

    def pack_context(self, context: Any) -> tuple[tuple[Tensor, ...], str]:
        """Return nothing: skips are kept by the snapshots."""
        return (), ""

    def unpack_context(self, rows: Sequence[Tensor], shared: str) -> Any:
        """Return no outputs."""
        return {}

    def _skip(self, block: int) -> int:
        """Return the border behind the block on the way down that has the resolution of a block on the way up."""
        return 2 * self.levels - 1 - block


class Lift(nn.Module):
    """Maps windows [N, T, F, H, W, 1] to [N, C, H, W]."""

    def __init__(self, fields: int, frames: int, width: int, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple
        self.conv = nn.Conv2d(frames * fields, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        if x.shape[-1] > 1 or x.shape[3] % self.multiple or x.shape[4] % self.multiple:
            raise PhysteerError(
                f"UNet takes two-dimensional fields whose sides are multiples of {self.multiple} cells; found "
                f"{list(x.shape[3:])}"
            )
        lifted: Tensor = self.conv(rearrange(x, "n t f h w 1 -> n (t f) h w"))
        return lifted


class Down(nn.Module):
    """Two convolutions, after the means of squares of 2 × 2 cells; adds what they find to what comes in."""

    def __init__(self, before: int, width: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.match = nn.Conv2d(before, width, 1)
        self.first = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular")
        self.norm = nn.GroupNorm(1, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular")

    def forward(self, h: Tensor) -> Tensor:
        """Return [N, width, H, W], or half of each side."""
        h = self.match(functional.avg_pool2d(h, 2) if self.halve else h)
        added: Tensor = self.second(functional.gelu(self.first(self.norm(h))))
        return h + added


class Up(Down):
    """Two convolutions on a grid twice as fine, beside the output of the way down."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__(before + width, width, halve=False)

    def forward(self, h: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """Return [N, width, 2H, 2W]."""
        finer = functional.interpolate(h, scale_factor=2.0, mode="nearest")
        return super().forward(torch.cat([finer, skip], dim=1))


class Project(nn.Module):
    """Maps [N, C, H, W] to the change of the last frame, [N, 1, F, H, W, 1]."""

    def __init__(self, width: int, fields: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, fields, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Return the change."""
        change: Tensor = self.conv(h)
        return change[:, None, ..., None]
