"""Circuits: few nodes that carry a variable together.

The source's pass is run with the nodes of a set K left alone, and all other leaf nodes patched together: they take the
activations of another window (`resample`). m(K) is the merit of the output: the aligned effect against the base, or the
share of answers that are the source's. f(K) = (m(K) − m(∅)) / (m(all) − m(∅)).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from physteer.analyses.effects.nodes import Node
from physteer.analyses.effects.runs import NodeRuns
from physteer.errors import PhysteerError


class JointPatches:
    """Outputs of the sources' passes with some nodes kept and all others resampled.

    Args:
        nodes: leaves (`check_leaves`).
        runs: of a batch, with sources and partners.

    Raises:
        PhysteerError: The batch has no sources or no partners.
    """

    def __init__(self, nodes: Sequence[Node], runs: NodeRuns) -> None:
        if runs.source_replay is None or "resample" not in runs.others:
            raise PhysteerError("a circuit needs the sources' passes and those of other windows (`resample`)")
        self.nodes, self.runs, self.replay = tuple(nodes), runs, runs.source_replay

    @torch.no_grad()
    def output(self, kept: Sequence[bool]) -> Tensor:
        """Return the output with some nodes kept and the others from the partners, [B, …]."""
        new = {}
        for node, keep in zip(self.nodes, kept, strict=True):
            if not keep:
                own, other = (self.runs.others[name][node.site] for name in ("source", "resample"))
                new[node.site] = node.put(other, own)
        return self.replay(new) if new else self.runs.outputs.others["source"]

    def growing(self, order: Sequence[int]) -> Iterator[Tensor]:
        """Yield the outputs with the first 0, 1, …, N nodes of an order kept."""
        kept = [False] * len(self.nodes)
        yield self.output(kept)
        for i in order:
            kept[i] = True
            yield self.output(kept)
