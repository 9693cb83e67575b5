"""Circuits: few nodes that carry a variable together.

Leaf nodes are patched together: those of the set K take the source's activation, all others that of another window
(`resample`). m(K) is the merit of the output: the aligned effect, or the share of answers that are the source's.
f(K) = (m(K) − m(∅)) / (m(all) − m(∅)).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from physteer.analyses.effects.nodes import Node
from physteer.analyses.effects.runs import NodeRuns, StagedReplay, last_stream
from physteer.interventions import resumed, write_of

_EXACT = 1e-4
"""Largest difference, relative to the largest output, for which the nodes count as all that writes to the stream."""


class JointPatches:
    """Outputs of a batch with all nodes patched together.

    Where the nodes are all that writes to the residual stream, the stream behind the last block is the base's plus the
    sum of their writes' changes, and only the decoder is run. Else the blocks are run under edits.

    Args:
        nodes: leaves (`check_leaves`).
        runs: of the batch, with sources and partners.
    """

    def __init__(self, nodes: Sequence[Node], runs: NodeRuns) -> None:
        self.nodes, self.runs = tuple(nodes), runs
        self.linear = False
        """Whether only the decoder is run."""
        none = [False] * len(self.nodes)
        edited = self._edited(none)
        if isinstance(runs.replay, StagedReplay):
            added = self._decoded(self._stream(none))
            largest = edited.abs().max().clamp_min(1e-12)
            self.linear = bool((added - edited).abs().max() <= _EXACT * largest)

    @torch.no_grad()
    def output(self, kept: Sequence[bool]) -> Tensor:
        """Return the output with some nodes from the source and the others from the partners, [B, …]."""
        return self._decoded(self._stream(kept)) if self.linear else self._edited(kept)

    @torch.no_grad()
    def growing(self, order: Sequence[int]) -> Iterator[Tensor]:
        """Yield the outputs for the first 0, 1, …, N nodes of an order from the source."""
        kept = [False] * len(self.nodes)
        stream = self._stream(kept) if self.linear else None
        yield self._edited(kept) if stream is None else self._decoded(stream)
        for i in order:
            kept[i] = True
            if stream is None:
                yield self._edited(kept)
            else:
                stream = stream + self._write(i, source=True) - self._write(i, source=False)
                yield self._decoded(stream)

    def _edited(self, kept: Sequence[bool]) -> Tensor:
        """Run the base pass with edits at every node."""
        new = {}
        for node, keep in zip(self.nodes, kept, strict=True):
            there = self.runs.others["source" if keep else "resample"][node.site]
            new[node.site] = node.put(there, self.runs.base[node.site])
        with torch.no_grad():
            return self.runs.output(new)

    def _stream(self, kept: Sequence[bool]) -> Tensor:
        """Return the stream behind the last block if nothing else writes to it."""
        replay = self.runs.replay
        assert isinstance(replay, StagedReplay)
        stream = replay.snapshots[last_stream(replay.model)].activation
        for i, keep in enumerate(kept):
            stream = stream + self._write(i, source=keep)
        return stream

    def _write(self, i: int, *, source: bool) -> Tensor:
        """Return how the stream changes when node i gets the source's or the partner's activation."""
        node, replay = self.nodes[i], self.runs.replay
        assert isinstance(replay, StagedReplay)
        base = self.runs.base[node.site]
        new = node.put(self.runs.others["source" if source else "resample"][node.site], base)
        write = write_of(replay.model, node.site)
        assert write is not None  # `check_leaves`
        return write.of(new - base)

    def _decoded(self, stream: Tensor) -> Tensor:
        replay = self.runs.replay
        assert isinstance(replay, StagedReplay)
        last = replay.snapshots[last_stream(replay.model)]
        return replay.finish(resumed(replay.model, last, stream, last_frame_only=True))
