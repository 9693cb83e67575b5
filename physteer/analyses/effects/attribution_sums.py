"""Sums of attribution over pairs, and its tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from physteer.analyses.effects.attribution import Attribution
from physteer.analyses.effects.measures import Column
from physteer.analyses.effects.nodes import Node, drawn_nodes
from physteer.analyses.effects.runs import NodeRuns
from physteer.analyses.effects.sums import EffectSums, intervals_of
from physteer.analyses.effects.table import AttributionCheck, AttributionRow
from physteer.analyses.engine import summed

CHECKED = 20
"""Nodes, drawn at random, whose estimates are compared with exact effects."""
ALIGNED, FIELD = Column("aligned"), Column("field")


class AttributionSums:
    """Estimates of the effects of all nodes, added up over pairs.

    Args:
        attribution: of the nodes.
        initial_conditions: names of all there are, over all processes.
        seed: of the draw of nodes to check, and of the cotangents.
    """

    def __init__(self, attribution: Attribution, initial_conditions: Sequence[str], seed: int) -> None:
        self.attribution, self.initial_conditions = attribution, tuple(initial_conditions)
        self.checked = drawn_nodes(attribution.nodes, CHECKED, seed)
        n = len(attribution.nodes)
        self.estimates = EffectSums(n, initial_conditions, 3)  # aligned, field, |aligned|
        self._exact = EffectSums(len(self.checked), initial_conditions, 2)
        self._tests = torch.zeros(len(self.checked), 2, dtype=torch.float64)  # ⟨g, δ⟩ at the base and patched

    def add(self, runs: NodeRuns, initial_conditions: Sequence[str], generator: torch.Generator) -> None:
        """Add a batch: all estimates, and the exact effects of the nodes to check.

        Args:
            runs: with the sources.
            initial_conditions: of each pair's base.
            generator: of the cotangents, on the CPU.
        """
        attribution, measure = self.attribution, self.attribution.measure
        aligned, squares = attribution.terms(runs, generator)
        merit = measure.merit(runs.outputs.base, runs.outputs).cpu()  # its denominators
        away = measure.distance(runs.outputs.others["source"], runs.outputs).cpu()
        for i in range(len(attribution.nodes)):
            terms = torch.stack([aligned[i], merit[:, 1], squares[i], away, aligned[i].abs(), merit[:, 1]], 1)
            self.estimates.add(i, terms.view(-1, 3, 2), initial_conditions)
        place = {node: i for i, node in enumerate(attribution.nodes)}
        with torch.no_grad():
            for i, node in enumerate(self.checked):
                new = node.put(runs.others["source"][node.site], runs.base[node.site])
                output = runs.output({node.site: new})
                moved = measure.distance(output, runs.outputs).cpu()
                numerators = measure.merit(output, runs.outputs).cpu()[:, 0]
                terms = torch.stack([numerators, merit[:, 1], moved, away], 1).view(-1, 2, 2)
                self._exact.add(i, terms, initial_conditions)
        for i, node in enumerate(self.checked):
            at_base, patched = aligned[place[node]], attribution.at_patched(runs, node)
            self._tests[i] += torch.stack([at_base.sum(), patched.sum()])

    def merge(self, device: torch.device) -> None:
        """Add the sums of all processes; a collective."""
        self.estimates.merge(device)
        self._exact.merge(device)
        self._tests = summed(self._tests, device)

    def ranking(self) -> Tensor:
        """Return by what nodes are ordered in a search, [nodes]; after `merge`.

        It is the mean over pairs of the aligned estimate's absolute value: a node whose estimates cancel over pairs
        carries the variable too.
        """
        sums = self.estimates.sums[:, :, 2].sum(1)
        return sums[:, 0] / sums[:, 1]

    def tables(self) -> tuple[list[AttributionRow], list[AttributionCheck]]:
        """Return the estimates, and how well they rank the nodes that were checked; after `merge`."""
        rows, checks = [], []
        flags = self._flags()
        for k, column in enumerate((ALIGNED, FIELD)):
            estimates = [*intervals_of(self.estimates.sums[:, :, k], self.initial_conditions, column.statistic)]
            exact_intervals = intervals_of(self._exact.sums[:, :, k], self.initial_conditions, column.statistic)
            exact = {node: one.value for node, one in zip(self.checked, exact_intervals, strict=True)}
            value_of = {node: one.value for node, one in zip(self.attribution.nodes, estimates, strict=True)}
            rows += [
                AttributionRow(
                    node.name,
                    node.block,
                    node.kind,
                    node.head,
                    column.effect,
                    one.value,
                    one.low,
                    one.high,
                    exact.get(node, math.nan),
                    flags.get(node, -1),
                    one.initial_conditions,
                )
                for node, one in zip(self.attribution.nodes, estimates, strict=True)
            ]
            pairs = [(value_of[node], exact[node]) for node in self.checked]
            checks.append(AttributionCheck(column.effect, rank_correlation(pairs), len(pairs), sum(flags.values())))
        return rows, checks

    def _flags(self) -> Mapping[Node, int]:
        """Return 1 for nodes whose gradient at the patched activation differs by more than half."""
        at_base, patched = self._tests.unbind(1)
        flagged = (patched - at_base).abs() > 0.5 * at_base.abs()
        return {node: int(flag) for node, flag in zip(self.checked, flagged.tolist(), strict=True)}


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Spearman's rank correlation of pairs of numbers; NaN for fewer than three."""
    if len(pairs) < 3:
        return math.nan
    first, second = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    return float(spearman_corrcoef(first.float(), second.float()))
