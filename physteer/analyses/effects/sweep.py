"""Sweeps: every patch of every node, over batches of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.analyses.effects.measures import Column, Measure
from physteer.analyses.effects.nodes import Node
from physteer.analyses.effects.patches import NodeStatistics, Patch, Reference
from physteer.analyses.effects.runs import NodeRuns
from physteer.analyses.effects.sums import EffectSums, intervals_of
from physteer.analyses.effects.table import EffectRow
from physteer.interventions import Site
from physteer.metrics import Interval

OnNode = Callable[[Node, int], None]
"""Called with a node that was done, and how many of the batch are done."""


@dataclass(frozen=True, eq=False)
class EffectSweep:
    """What is patched, how, and how it is judged."""

    nodes: Sequence[Node]
    patches: Sequence[Patch]
    measure: Measure
    statistics: Mapping[Site, NodeStatistics]
    """Of every node, where a patch needs them."""

    @property
    def keys(self) -> int:
        """Number of patches over all nodes; patch j of node i has the key i · patches + j."""
        return len(self.nodes) * len(self.patches)

    @property
    def references(self) -> tuple[Reference, ...]:
        """The other passes that patches need."""
        wanted = {patch.reference for patch in self.patches}
        every: tuple[Reference, ...] = ("source", "resample")
        return tuple(name for name in every if name in wanted)

    @torch.no_grad()
    def terms(self, runs: NodeRuns, done: Sequence[int] = ()) -> Iterator[tuple[int, Tensor]]:
        """Yield for every node its index and the terms of its patches, [patches, B, columns, 2], on the CPU.

        Args:
            runs: of a batch.
            done: indices of nodes to leave out.
        """
        for i, node in enumerate(self.nodes):
            if i in done:
                continue
            own = self.statistics.get(node.site)
            terms = []
            for patch in self.patches:
                output = runs.output({node.site: runs.patched(node, patch, own)})
                terms.append(self.measure.terms(output, runs.outputs, patch.reference).cpu())
            yield i, torch.stack(terms)

    def rows(self, sums: EffectSums, step: int = 1) -> list[EffectRow]:
        """Return the table of the sums of all processes."""
        columns, patches = self.measure.columns, self.patches
        n_initial_conditions = len(sums.initial_conditions)
        table = sums.sums.view(len(self.nodes), len(patches), n_initial_conditions, len(columns), 2)
        found: dict[tuple[int, int, int], Interval] = {}
        for k, column in enumerate(columns):
            wanted = [j for j, patch in enumerate(patches) if self.measure.applies(column, patch.reference)]
            if not wanted:
                continue
            cells = table[:, wanted, :, k].reshape(-1, n_initial_conditions, 2)
            keys = [(i, j, k) for i in range(len(self.nodes)) for j in wanted]
            found.update(zip(keys, intervals_of(cells, sums.initial_conditions, column.statistic), strict=True))
        return [
            effect_row(node, patch, column, step, found[i, j, k])
            for i, node in enumerate(self.nodes)
            for j, patch in enumerate(patches)
            for k, column in enumerate(columns)
            if (i, j, k) in found
        ]


def effect_row(node: Node, patch: Patch, column: Column, step: int, interval: Interval) -> EffectRow:
    """Return a row of the table."""
    return EffectRow(
        node.name,
        node.block,
        node.kind,
        node.head,
        -1 if node.position is None else node.position,
        patch.variant,
        patch.scale,
        column.effect,
        column.field,
        column.region,
        step,
        interval.value,
        interval.low,
        interval.high,
        interval.initial_conditions,
    )
