"""What the blocks and the decoder need beside the activation."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.walrus.config import WalrusConfig
from physteer.walrus.grid import Boundaries, Grid, Shifts, plan
from physteer.walrus.positions import Positions, axis_positions, rotary_frequencies, rotary_table


@dataclass(frozen=True)
class Context:
    """What the blocks and the decoder need beside the activation; made once per forward pass."""

    labels: tuple[int, ...]
    """Vocabulary index of each field."""
    boundaries: Boundaries
    """Boundary codes per axis and end."""
    grid: Grid
    """Strides, paddings and token grid."""
    shifts: Shifts | None
    """The random shifts of this pass; none: no jitter."""
    positions: tuple[Positions, ...]
    """Per block, the tokens' coordinates for space attention (rolled where the block's token grid is rolled)."""


def make_context(
    config: WalrusConfig,
    labels: Sequence[int],
    boundaries: Boundaries,
    shape: Sequence[int],
    shifts: Shifts | None,
    device: torch.device,
) -> Context:
    """Work out strides and positions.

    Args:
        config: of the network.
        labels: vocabulary index of each field.
        boundaries: codes per axis and end.
        shape: (H, W, D) of the fields.
        shifts: of each row of the batch; none: no jitter.
        device: where the activations are.

    Raises:
        PhysteerError: No stride fits the grid.
    """
    grid = plan(config, shape, boundaries, jitter=shifts is not None)
    return Context(tuple(labels), boundaries, grid, shifts, _positions(config, grid, shifts, device))


def pack(context: Context) -> tuple[tuple[Tensor, ...], str]:
    """Return what `unpack` makes the same context of: a part per row of the batch, and a part that all rows share.

    Returns:
        The shifts (pixels [B, 3] and tokens [B, n_blocks, 3]; nothing without jitter), and JSON of labels, boundaries
        and the fields' shape.
    """
    shared = {"labels": context.labels, "boundaries": context.boundaries, "shape": context.grid.shape}
    rows = () if context.shifts is None else (context.shifts.pixels, context.shifts.tokens)
    return rows, json.dumps(shared)


def unpack(config: WalrusConfig, rows: Sequence[Tensor], shared: str, device: torch.device) -> Context:
    """Return the context that was packed, for any rows of it."""
    read = json.loads(shared)
    (h0, h1), (w0, w1), (d0, d1) = read["boundaries"]
    shifts = Shifts(*rows) if rows else None
    return make_context(config, read["labels"], ((h0, h1), (w0, w1), (d0, d1)), read["shape"], shifts, device)


def roll_tokens(h: Tensor, context: Context, block: int) -> Tensor:
    """Return block `block`'s activation [B, T, h, w, δ, d] as the reference sees it: in that block's rolled frame."""
    if context.shifts is None:
        return h
    rolls = context.shifts.tokens[:, : block + 1].sum(1).tolist()
    return torch.stack([row.roll(shift, (1, 2, 3)) for row, shift in zip(h, rolls, strict=True)])


def _positions(config: WalrusConfig, grid: Grid, shifts: Shifts | None, device: torch.device) -> tuple[Positions, ...]:
    hd = config.head_dim
    frequencies = rotary_frequencies(hd).expand(3, -1).to(device)

    def at(rolls: Tensor) -> Positions:
        axes = axis_positions(grid.tokens, rolls, device)
        return Positions(axes, rotary_table(axes, frequencies, hd) if config.rotary == "fixed" else None)

    if shifts is None or not bool(shifts.tokens.any()):
        return (at(torch.zeros(1, 3, dtype=torch.long, device="cpu")),) * config.n_blocks
    rolls = shifts.tokens.cumsum(1)  # [B, n_blocks, 3]
    if bool((rolls == rolls[:1]).all()):
        rolls = rolls[:1]
    return tuple(at(rolls[:, i]) for i in range(config.n_blocks))
