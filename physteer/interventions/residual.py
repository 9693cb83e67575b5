"""The residual stream: how nodes add to it, and passes that continue from a changed stream.

Replacing what one node has computed changes the stream behind it by a linear map of the difference. So a pass under
such an edit can start behind the node, and the node's own block is not run again:

    write = write_of(model, site)
    base = take_snapshot(model, write.stream, *inputs)
    y = resumed(model, base, base.activation + write.of(new - old))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions.sites import Site
from physteer.interventions.snapshot import LastFrameSnapshot, Snapshot
from physteer.interventions.stages import IN_BLOCK, KeepsPast, StagedModel, with_skips


class WritesResidual(StagedModel, Protocol):
    """A staged model whose blocks add to a residual stream in two halves, such as attention, then feed-forward.

    The output of the first half, the stream in the middle of the block, is a site inside the block.
    """

    leaves: Sequence[str]
    """Patterns of the nodes that together are all that is added to the stream, each once, such as
    ``blocks.*.attention.heads[*]``; a head index of ``*`` is every head."""

    def residual_writes(self, block: int) -> Mapping[str, tuple[str, Tensor | None]]:
        """Return how the sites of a block enter the residual stream.

        Returns:
            By the site's path: the path of the stream right behind it (the middle of the block or its end), and the
            weight [d, width] of the linear map; None for a weight where the activation itself is added, or is the
            stream. A per-head output has one weight, [d, n·hd].
        """
        ...

    def run_second_half(self, h: Tensor, context: Any, block: int) -> Tensor:
        """Run the second half of a block on the stream [B, T, …, d] in its middle, for all frames or some."""
        ...


@dataclass(frozen=True, eq=False)
class Write:
    """How the activation of a node enters the residual stream: linearly, at one place."""

    stream: Site
    """The stream right behind the node: `encoder`, the end of a block, or its middle."""
    weight: Tensor | None = None
    """[d, width]; None where the activation itself is added to the stream, or is the stream."""
    head: int | None = None
    """The head whose columns of the weight count; None for all."""

    def of(self, difference: Tensor) -> Tensor:
        """Return the change of the stream [..., d] for a change of the activation [..., width]."""
        if self.weight is None:
            return difference
        weight = self.weight
        if self.head is not None:
            width = difference.shape[-1]
            weight = weight[:, self.head * width : (self.head + 1) * width]
        elif difference.shape[-1] != weight.shape[1]:
            difference = difference.flatten(-2)  # all heads: [..., n, hd]
        return difference @ weight.mT.to(difference.dtype)


def leaves_of(model: nn.Module) -> tuple[str, ...]:
    """Return patterns of the nodes that add to a model's residual stream; none where it does not tell."""
    return tuple(getattr(model, "leaves", ()))


def write_of(model: StagedModel, site: Site) -> Write | None:
    """Return how a site's activation enters the residual stream; None where the model does not tell."""
    if site.module == "encoder":
        return Write(site)
    match = IN_BLOCK.fullmatch(site.module)
    if match is None or not hasattr(model, "residual_writes") or not hasattr(model, "run_second_half"):
        return Write(site) if match is not None and match["inside"] is None else None
    known = cast(WritesResidual, model).residual_writes(int(match["index"])).get(site.module)
    return None if known is None else Write(Site(known[0]), known[1], site.head)


def resumed(model: StagedModel, snapshot: Snapshot, h: Tensor, *, last_frame_only: bool = False) -> Tensor:
    """Continue a pass from a changed residual stream.

    Args:
        model: of the snapshot; a `WritesResidual` for a snapshot in the middle of a block.
        snapshot: taken at a site of the stream (`Write.stream`); its rows are those of `h`.
        h: the stream in place of `snapshot.activation`, [B, T, …, d].
        last_frame_only: compute and return the last frame's output alone; always so for a `LastFrameSnapshot`.

    Raises:
        PhysteerError: The activation does not fit the snapshot.
    """
    if h.shape != snapshot.activation.shape:
        raise PhysteerError(
            f"site {snapshot.site}: a stream of shape {list(h.shape)} does not fit {list(snapshot.activation.shape)}"
        )
    context = with_skips(model, model.unpack_context(snapshot.rows, snapshot.shared), snapshot.skips)
    start = snapshot.start
    alone = isinstance(snapshot, LastFrameSnapshot)
    if snapshot.inner is None:
        h = snapshot.site.restored(h, snapshot.state)
    else:  # the middle of block `start`
        if last_frame_only and start == len(model.blocks) - 1:
            h = h[:, -1:]
        h = cast(WritesResidual, model).run_second_half(h, context, start)
        start += 1
    if alone:
        kv_cache = cast(LastFrameSnapshot, snapshot).kv_cache[start - snapshot.start :]
        h = cast(KeepsPast, model).run_next_frame(h, context, start, kv_cache)
    else:
        h = model.run_blocks(h, context, start, last_frame_only=last_frame_only)
    return model.decode(h, context, last_frame_only=last_frame_only or alone)
