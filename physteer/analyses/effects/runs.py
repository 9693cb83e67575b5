"""The passes of a batch that effects are measured from: base, source and partner, and passes under patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from physteer.analyses.effects.nodes import Node
from physteer.analyses.effects.patches import NodeStatistics, Patch, Reference
from physteer.interventions import (
    Edit,
    Interchange,
    LastFrameSnapshot,
    Locus,
    Site,
    Snapshot,
    StagedModel,
    attached,
    captured,
    naming,
    replayed,
    resumed,
    take_snapshots,
    unknown_layout,
    with_layout,
    write_of,
)

Finish = Callable[[Tensor], Tensor]
"""Makes the output that is judged of the model's output [B, …], row by row."""


class Replay(Protocol):
    """Runs the base pass again with other activations at some sites."""

    def __call__(self, changed: Mapping[Site, Tensor]) -> Tensor:
        """Return the output that is judged, [B, …].

        Args:
            changed: the activation at each site, of the shape of the base's.
        """
        ...


@dataclass(frozen=True, eq=False)
class Outputs:
    """What patched outputs are compared with."""

    base: Tensor
    """Output of the base pass, [B, …]; of a forecaster the predicted change in units of the window's r_Δ."""
    others: Mapping[Reference, Tensor]
    """The same of the sources and the partners."""
    truth: Any = None
    """What a measure has to know of the true answers."""


@dataclass(frozen=True, eq=False)
class NodeRuns:
    """One batch of B pairs, run up to all nodes."""

    base: Mapping[Site, Tensor]
    """Activations of the base pass at the nodes, [B, T, …, width]."""
    others: Mapping[Reference, Mapping[Site, Tensor]]
    """The same of the sources' and of the partners' passes."""
    outputs: Outputs
    """Of the passes without patches."""
    replay: Replay
    """Runs the base pass under patches."""
    source_replay: Replay | None = None
    """Runs the sources' pass under patches; None without sources."""
    unknown: frozenset[Site] = frozenset()
    """Nodes whose axes nobody declares; they are replaced whole only."""

    def __len__(self) -> int:
        return len(self.outputs.base)

    def patched(self, node: Node, patch: Patch, statistics: NodeStatistics | None) -> Tensor:
        """Return a node's activation under a patch; the base's own tensor where nothing changes."""
        if node.site in self.unknown and (node.position is not None or patch.needs_mean):
            what = f"position {node.position} of" if node.position is not None else f"patch {patch.variant!r} of"
            with naming(node.site):
                raise unknown_layout(node.site, self.base[node.site].shape, f"{what} the node")
        base = self.base[node.site]
        other = None if patch.reference is None else self.others[patch.reference][node.site]
        new = patch(base, other, statistics)
        return new if new is base else node.put(new, base)

    def output(self, activations: Mapping[Site, Tensor]) -> Tensor:
        """Return the output with other activations at some nodes; nothing is run where all are the base's own."""
        changed = {site: new for site, new in activations.items() if new is not self.base[site]}
        return self.replay(changed) if changed else self.outputs.base


class StagedReplay:
    """Continues the base pass of a staged model behind the first changed site.

    The pass with a single changed node starts right behind it, where its write to the residual stream is known.

    Args:
        model: of the snapshots.
        snapshots: of the base pass, at the nodes and at the streams behind them (`with_streams`).
        finish: of the output.
    """

    def __init__(self, model: StagedModel, snapshots: Mapping[Site, Snapshot], finish: Finish) -> None:
        self.model, self.snapshots, self.finish = model, snapshots, finish

    def __call__(self, changed: Mapping[Site, Tensor]) -> Tensor:
        """Return the output under changed activations."""
        if len(changed) == 1:
            ((site, new),) = changed.items()
            write = write_of(self.model, site)
            if write is not None:
                snapshot = self.snapshots[write.stream]
                stream = snapshot.activation + write.of(new - self.snapshots[site].activation)
                return self.finish(resumed(self.model, snapshot, stream, last_frame_only=True))
        return self.finish(self._edited(changed))

    def _edited(self, changed: Mapping[Site, Tensor]) -> Tensor:
        first = min((self.snapshots[site] for site in changed), key=lambda s: (s.start, s.inner is None))
        locus = Locus(frames=[-1]) if isinstance(first, LastFrameSnapshot) else Locus()
        edits = [Edit(self.snapshots[site].site, _LastFrames(new), locus=locus) for site, new in changed.items()]
        return replayed(self.model, first, edits, last_frame_only=True)


class WholeReplay:
    """Runs a whole model again under edits: for models that do not run in stages.

    Args:
        model: any module; sites are paths in it.
        run: calls the model on the bases and returns the output that is judged, [B, …].
        sites: of the nodes, with the layouts that their activations are seen in.
    """

    def __init__(self, model: nn.Module, run: Callable[[], Tensor], sites: Sequence[Site]) -> None:
        self.model, self.run = model, run
        self.sites = {site: site for site in sites}

    def __call__(self, changed: Mapping[Site, Tensor]) -> Tensor:
        """Return the output under changed activations."""
        with attached(self.model, [Edit(self.sites[site], _LastFrames(new)) for site, new in changed.items()]):
            return self.run()


def with_streams(model: StagedModel, sites: Sequence[Site]) -> tuple[Site, ...]:
    """Return sites with the streams behind them and the last block's output, in this order, each once."""
    writes = [write_of(model, site) for site in sites]
    streams = [write.stream for write in writes if write is not None]
    return tuple(dict.fromkeys([*sites, *streams, last_stream(model)]))


def last_stream(model: StagedModel) -> Site:
    """Return the site of the last block's output."""
    return Site(f"blocks.{len(model.blocks) - 1}")


def finished(model: StagedModel, snapshots: Mapping[Site, Snapshot], finish: Finish) -> Tensor:
    """Return the output of an unpatched pass from its snapshot behind the last block."""
    last = snapshots[last_stream(model)]
    return finish(resumed(model, last, last.activation, last_frame_only=True))


@torch.no_grad()
def staged_runs(
    model: StagedModel,
    sites: Sequence[Site],
    base: tuple[Any, ...],
    others: Mapping[Reference, tuple[Any, ...]],
    *,
    finish: Finish = lambda y: y[:, -1],
    truth: Any = None,
) -> NodeRuns:
    """Run a batch of any staged model up to some nodes.

    Args:
        model: frozen.
        sites: of the nodes.
        base: the arguments of `StagedModel.encode` for the bases.
        others: the same for the sources and, row by row, for the partners of `resample` (`derangement`).
        finish: takes the output for the last position, [B, 1, …].
        truth: for the measure.
    """
    every = with_streams(model, sites)
    snapshots = take_snapshots(model, every, *base)
    other_snapshots = {name: take_snapshots(model, every, *inputs) for name, inputs in others.items()}
    return NodeRuns(
        base={site: snapshots[site].activation for site in sites},
        others={name: {site: taken[site].activation for site in sites} for name, taken in other_snapshots.items()},
        outputs=Outputs(
            finished(model, snapshots, finish),
            {name: finished(model, taken, finish) for name, taken in other_snapshots.items()},
            truth,
        ),
        replay=StagedReplay(model, snapshots, finish),
        source_replay=StagedReplay(model, other_snapshots["source"], finish) if "source" in others else None,
    )


@torch.no_grad()
def whole_runs(
    model: nn.Module,
    sites: Sequence[Site],
    run: Callable[[Any], Tensor],
    base: Any,
    others: Mapping[Reference, Any],
    *,
    truth: Any = None,
) -> NodeRuns:
    """Run a batch of any module; every patch then costs a whole forward.

    Args:
        model: frozen.
        sites: of the nodes. Where neither they nor the model tell the layout, nodes can be replaced whole only.
        run: calls the model on inputs and returns the output that is judged, [B, …].
        base: the inputs of the bases.
        others: the inputs of the sources and of the partners.
        truth: for the measure.

    Raises:
        PhysteerError: The forward does not call a site.
    """

    def activations(inputs: Any) -> tuple[dict[Site, Tensor], Tensor]:
        with captured(model, sites) as seen:
            output = run(inputs)
        return {site: seen[str(site)] for site in sites}, output

    sites = [with_layout(model, site) for site in sites]
    base_activations, base_output = activations(base)
    taken = {name: activations(inputs) for name, inputs in others.items()}
    return NodeRuns(
        base=base_activations,
        others={name: found for name, (found, _) in taken.items()},
        outputs=Outputs(base_output, {name: output for name, (_, output) in taken.items()}, truth),
        replay=WholeReplay(model, lambda: run(base), sites),
        source_replay=WholeReplay(model, lambda: run(others["source"]), sites) if "source" in others else None,
        unknown=frozenset(site for site in sites if site.layout is None),
    )


class _LastFrames(Interchange):
    """An interchange whose source may have more frames than are computed: the last ones of it are put in."""

    def forward(self, h: Tensor) -> Tensor:
        assert self.source is not None
        return self.source[:, -h.shape[1] :].to(h.dtype, copy=True)
