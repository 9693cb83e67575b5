"""Attribution: estimates of the effect of every node from a few backward passes.

The effect of replacing a node's activation b by the source's s is, to first order, the gradient times the difference:
⟨g, s − b⟩, with g the gradient of a scalar of the output at b. One backward pass gives g at every node at once, and
a node's gradient follows from that of the residual stream behind it (`physteer.interventions.Write`).

The scalar must be *aligned* with an answer. The gradient of ‖δŷ‖ at the base is 0, so unsigned effects take random
cotangents u instead: E(u·Jδ)² = ‖Jδ‖².
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from physteer.analyses.effects.measures import Measure
from physteer.analyses.effects.nodes import Node
from physteer.analyses.effects.runs import NodeRuns, StagedReplay
from physteer.errors import PhysteerError
from physteer.interventions import (
    Site,
    StagedModel,
    Write,
    check_reached,
    find_place,
    hooked,
    replayed,
    resumed,
    write_of,
)

COTANGENTS = 12
"""Random cotangents, and so backward passes, for unsigned effects."""


class Attribution:
    """Estimates the effects of replacing each node by its source, on batches of pairs.

    Args:
        nodes: each writes to the residual stream.
        measure: whose scalar is differentiated for aligned effects.
    """

    def __init__(self, nodes: Sequence[Node], measure: Measure) -> None:
        self.nodes, self.measure = tuple(nodes), measure

    def terms(self, runs: NodeRuns, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the numerators of the estimates of every node.

        Args:
            runs: of a batch, by a `StagedReplay`, with the sources.
            generator: of the cotangents, on the CPU.

        Returns:
            ⟨g, s − b⟩ of the aligned scalar, and the mean of (u·J(s − b))² over cotangents u with E‖u·x‖² equal to the
            square of the output x as `field` effects measure it; [nodes, B] each, float64 on the CPU.

        Raises:
            PhysteerError: A node does not write to the residual stream at one place.
        """
        replay = _staged(runs)
        writes = {node: _write(replay.model, node) for node in self.nodes}
        streams = tuple(dict.fromkeys(write.stream for write in writes.values()))
        with torch.enable_grad():
            output, live = _live_pass(replay, streams)
            scalars = [self.measure.scalar(output, runs.outputs)]
            for _ in range(COTANGENTS):
                cotangent = torch.randn(output.shape, generator=generator).to(output)
                scalars.append((output * cotangent).reshape(len(output), -1).sum(1) / _cells(output) ** 0.5)
            wanted = [live[stream] for stream in streams]
            seen = [replay.snapshots[stream].site for stream in streams]
            estimates = []
            for i, scalar in enumerate(scalars):
                keep = i < len(scalars) - 1
                gradients = torch.autograd.grad(scalar.sum(), wanted, retain_graph=keep)
                at = {site: site.select(gradient) for site, gradient in zip(seen, gradients, strict=True)}
                estimates.append(torch.stack([self._estimate(runs, node, writes[node], at) for node in self.nodes]))
        return estimates[0], torch.stack(estimates[1:]).square().mean(0)

    def at_patched(self, runs: NodeRuns, node: Node) -> Tensor:
        """Return ⟨g, s − b⟩ per pair with the gradient taken at the patched node instead of the base, [B]."""
        replay, write = _staged(runs), _write(_staged(runs).model, node)
        snapshot = replay.snapshots[write.stream]
        change = write.of(_difference(runs, node))
        with torch.enable_grad():
            stream = (snapshot.activation + change).requires_grad_()
            output = replay.finish(resumed(replay.model, snapshot, stream, last_frame_only=True))
            (gradient,) = torch.autograd.grad(self.measure.scalar(output, runs.outputs).sum(), [stream])
        return _inner(gradient, change)

    def _estimate(self, runs: NodeRuns, node: Node, write: Write, gradients: Mapping[Site, Tensor]) -> Tensor:
        return _inner(gradients[write.stream], write.of(_difference(runs, node)))


def _difference(runs: NodeRuns, node: Node) -> Tensor:
    """Return s − b at the node's positions, 0 elsewhere."""
    base = runs.base[node.site]
    return node.put(runs.others["source"][node.site], base) - base


def _inner(gradient: Tensor, change: Tensor) -> Tensor:
    """Return ⟨g, δ⟩ per row, [B] in float64; the last block may have gradients of the last frame alone."""
    change = change[:, -gradient.shape[1] :]
    return (gradient.double() * change.double()).flatten(1).sum(1).cpu()


def _cells(output: Tensor) -> int:
    """Return the number of cells of fields [B, C, H, W, D]; 1 for outputs without cells."""
    return output[0, 0].numel() if output.ndim > 2 else 1


def _live_pass(replay: StagedReplay, streams: Sequence[Site]) -> tuple[Tensor, dict[Site, Tensor]]:
    """Run the base pass from its first stream on the autograd tape.

    Returns:
        The output, and the streams as the model hands them on, whatever their layout: gradients reach these, and not
        the views that edits see.
    """
    first = min((replay.snapshots[stream] for stream in streams), key=lambda s: (s.start, s.inner is not None))
    first = first.at_border  # where gradients begin, also for a stream in the middle of a block
    start = first.with_tensors({**first.tensors(), f"state.{first.start}": first.state.detach().requires_grad_()})
    live: dict[Site, Tensor] = {start.site: start.state}
    later = [stream for stream in streams if stream != start.site]
    model = cast(nn.Module, replay.model)
    with hooked([(find_place(model, stream), partial(_keep, live, stream)) for stream in later]):
        output = replay.finish(replayed(replay.model, start, last_frame_only=True))
    check_reached(later, {stream.module for stream in live})
    return output, live


def _keep(live: dict[Site, Tensor], stream: Site, module: nn.Module, args: Any, output: Any) -> None:
    live[stream] = output[0] if isinstance(output, tuple) else output


def _staged(runs: NodeRuns) -> StagedReplay:
    if not isinstance(runs.replay, StagedReplay):
        raise PhysteerError(
            "attribution needs a model that runs in stages (physteer.interventions.StagedModel); this one is run whole"
        )
    return runs.replay


def _write(model: StagedModel, node: Node) -> Write:
    write = write_of(model, node.site)
    if write is None:
        raise PhysteerError(
            f"attribution needs nodes that write to the residual stream at one place; {node.site} does not"
        )
    return write
