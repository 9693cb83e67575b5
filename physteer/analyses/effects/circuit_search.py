"""The search for a circuit: nodes in the order of their attribution, added one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from physteer.analyses.effects.attribution_sums import AttributionSums
from physteer.analyses.effects.circuit import JointPatches
from physteer.analyses.effects.circuit_table import ATTRIBUTION, CircuitRow, CurveRow
from physteer.analyses.effects.measures import Measure
from physteer.analyses.effects.nodes import Node
from physteer.analyses.effects.runs import NodeRuns
from physteer.analyses.effects.sums import EffectSums, intervals_of
from physteer.errors import PhysteerError
from physteer.interventions.seeds import generator_of
from physteer.metrics import Interval
from physteer.metrics.statistics import Floats

ENOUGH = 0.95
"""The faithfulness from which a set of nodes is a circuit."""
BOOTSTRAPS = 100
Batches = Callable[[], Iterable[tuple[NodeRuns, Sequence[str]]]]
"""Returns this process's batches, each with the initial conditions of its pairs; may be called repeatedly."""


@dataclass(frozen=True)
class Circuit:
    """The nodes that were chosen."""

    order: tuple[int, ...]
    """All nodes by their attribution, the largest first."""
    size: int
    """The circuit is the first of them."""
    jaccard: float
    """Mean overlap |A ∩ B| / |A ∪ B| with circuits of this size on resampled initial conditions."""

    def kept(self, n_nodes: int) -> list[bool]:
        """Return of each node whether it belongs to the circuit."""
        chosen = set(self.order[: self.size])
        return [i in chosen for i in range(n_nodes)]


@dataclass(frozen=True)
class CircuitTables:
    """What was found on one split."""

    curve: list[CurveRow]
    scores: list[CircuitRow]


@dataclass(frozen=True)
class SetFamily:
    """Some sets of nodes whose merit is measured."""

    size: int
    """How many."""
    outputs: Callable[[JointPatches], Iterable[Tensor]]
    """Yields the output for each, [B, …]."""


class CircuitSearch:
    """Adds nodes one by one and measures how faithful the growing set is.

    Args:
        nodes: leaves.
        measure: whose merit is m.
        initial_conditions: names of all there are, over all processes.
        seed: of the orders and the resamples.
    """

    def __init__(self, nodes: Sequence[Node], measure: Measure, initial_conditions: Sequence[str], seed: int) -> None:
        self.nodes, self.measure, self.initial_conditions = tuple(nodes), measure, tuple(initial_conditions)
        self.seed = seed

    def choose(
        self, attribution: AttributionSums, batches: Batches, device: torch.device
    ) -> tuple[Circuit, CircuitTables]:
        """Order the nodes and take the fewest with f ≥ 0.95; a collective over processes.

        Args:
            attribution: of the nodes, merged over processes.
            batches: of the split that chooses.
            device: of the exchange between processes.

        Returns:
            The circuit, and the curve that it was chosen on.

        Raises:
            PhysteerError: The source's activations at all nodes do not move the output towards the answer.
        """
        order = tuple(attribution.ranking().argsort(descending=True, stable=True).tolist())
        merits = self._merits(batches, [self._growing(order)], device)[0]  # [N + 1, initial conditions, 2]
        f = _faithfulness(merits.sum(1))
        if not bool(f.isfinite().all()):
            raise PhysteerError(
                "a circuit needs pairs whose answers differ, and nodes through which the source changes the answer: "
                "m(all) and m(∅) are equal"
            )
        size = next(n for n, value in enumerate(f.tolist()) if value >= ENOUGH)
        circuit = Circuit(order, size, self._jaccard(attribution, order[:size]))
        curve = self._curve(ATTRIBUTION, order, merits, merits[0], merits[-1])
        return circuit, CircuitTables(curve, [CircuitRow("size", "", float(size), math.nan, math.nan, 0)])

    def report(self, circuit: Circuit, batches: Batches, device: torch.device, random_orders: int = 0) -> CircuitTables:
        """Measure a circuit; a collective over processes.

        Args:
            circuit: that was chosen.
            batches: of any split.
            device: of the exchange between processes.
            random_orders: number of random orders whose curves are compared with that of attribution.
        """
        n, names = len(self.nodes), self._orders(circuit.order, random_orders)
        kept = circuit.kept(n)
        sets = [kept, [not keep for keep in kept]]
        members = [i for i, keep in enumerate(kept) if keep]
        sets += [[keep and i != member for i, keep in enumerate(kept)] for member in members]
        curves = [self._growing(order) for order in names.values()]
        *grown, scored = self._merits(batches, [*curves, self._single(sets)], device)
        none, everything = grown[0][0], grown[0][-1]  # [initial conditions, 2]: the same for all orders

        curve: list[CurveRow] = []
        scores = [CircuitRow("size", "", float(circuit.size), math.nan, math.nan, 0)]
        for (name, order), merits in zip(names.items(), grown, strict=True):
            curve += self._curve(name, order, merits, none, everything)
            scores += self._areas(name, merits, none, everything)
        faithful, rest, *_ = self._faithful(scored, none, everything)
        scores.append(_score("faithfulness", "", faithful))
        scores.append(_score("completeness", "", rest))
        parts = [scored[:1], scored[2:], none[None], everything[None]]
        together = torch.cat([part.expand(len(members), -1, -1) for part in parts], -1)
        drops = self._intervals(together, lambda s: (_m(s, 0) - _m(s, 2)) / (_m(s, 6) - _m(s, 4))) if members else []
        scores += [_score("minimality", self.nodes[i].name, drop) for i, drop in zip(members, drops, strict=True)]
        scores.append(CircuitRow("jaccard", "", circuit.jaccard, math.nan, math.nan, 0))
        for name, merit in (("merit_all", everything), ("merit_none", none)):
            scores.append(_score(name, "", self._intervals(merit[None], lambda s: _m(s, 0))[0]))
        return CircuitTables(curve, scores)

    def _faithful(self, merits: Tensor, none: Tensor, everything: Tensor) -> list[Interval]:
        """Return f of several sets from their merits, [sets, initial conditions, 2]."""
        ends = torch.cat([none, everything], -1).expand(len(merits), -1, -1)
        together = torch.cat([merits, ends], -1)
        return self._intervals(together, lambda s: (_m(s, 0) - _m(s, 2)) / (_m(s, 4) - _m(s, 2)))

    def _curve(
        self, name: str, order: Sequence[int], merits: Tensor, none: Tensor, everything: Tensor
    ) -> list[CurveRow]:
        added = ["", *(self.nodes[i].name for i in order)]
        found = self._faithful(merits, none, everything)
        return [CurveRow(name, n, added[n], f.value, f.low, f.high, f.initial_conditions) for n, f in enumerate(found)]

    def _orders(self, order: Sequence[int], random_orders: int) -> dict[str, Sequence[int]]:
        orders: dict[str, Sequence[int]] = {ATTRIBUTION: order}
        for k in range(random_orders):
            generator = generator_of("random order", self.seed, k)
            orders[f"random {k + 1}"] = torch.randperm(len(self.nodes), generator=generator).tolist()
        return orders

    def _growing(self, order: Sequence[int]) -> SetFamily:
        return SetFamily(len(order) + 1, lambda patches: patches.growing(order))

    def _single(self, sets: Sequence[Sequence[bool]]) -> SetFamily:
        return SetFamily(len(sets), lambda patches: (patches.output(kept) for kept in sets))

    def _merits(self, batches: Batches, families: Sequence[SetFamily], device: torch.device) -> list[Tensor]:
        """Return the sums of merits of families of sets, each [sets, initial conditions, 2]."""
        totals = [EffectSums(family.size, self.initial_conditions, 1) for family in families]
        for runs, names in batches():
            patches = JointPatches(self.nodes, runs)
            for family, total in zip(families, totals, strict=True):
                for k, output in enumerate(family.outputs(patches)):
                    total.add(k, self.measure.merit(output, runs.outputs)[:, None], names)
        for total in totals:
            total.merge(device)
        return [total.sums[:, :, 0] for total in totals]

    def _areas(self, name: str, merits: Tensor, none: Tensor, everything: Tensor) -> list[CircuitRow]:
        """Return CPR = ∫ f dκ and CMD = ∫ |1 − f| dκ over κ = n/N, by the trapezoidal rule."""
        n_sets, n_initial, _ = merits.shape
        flat = torch.cat([merits.transpose(0, 1).reshape(n_initial, -1), none, everything], -1)[None]

        def curve(s: Floats) -> Floats:
            pairs = s[..., : 2 * n_sets].reshape(*s.shape[:-1], n_sets, 2)
            low, high = _m(s, 2 * n_sets)[..., None], _m(s, 2 * n_sets + 2)[..., None]
            return (pairs[..., 0] / pairs[..., 1] - low) / (high - low)

        def area(values: Floats) -> Floats:
            # trapezoids of equal width; κ goes from 0 to 1
            means: Floats = ((values[..., 1:] + values[..., :-1]) / 2).mean(-1)
            return means

        return [
            _score("cpr", name, self._intervals(flat, lambda s: area(curve(s)))[0]),
            _score("cmd", name, self._intervals(flat, lambda s: area(np.abs(1 - curve(s))))[0]),
        ]

    def _intervals(self, sums: Tensor, statistic: Callable[[Floats], Floats]) -> list[Interval]:
        return [*intervals_of(sums, self.initial_conditions, statistic)]

    def _jaccard(self, attribution: AttributionSums, circuit: Sequence[int]) -> float:
        """Return the mean overlap with the top nodes of attributions over resampled initial conditions."""
        sums = attribution.estimates.sums[:, :, 2]  # [nodes, initial conditions, 2]
        seen = torch.nonzero(sums[0, :, 1] != 0)[:, 0]
        if len(seen) < 2 or not circuit:
            return math.nan
        generator, chosen, overlaps = generator_of("jaccard", self.seed), set(circuit), []
        for _ in range(BOOTSTRAPS):
            drawn = seen[torch.randint(len(seen), (len(seen),), generator=generator)]
            resampled = sums[:, drawn].sum(1)
            top = set((resampled[:, 0] / resampled[:, 1]).argsort(descending=True, stable=True)[: len(chosen)].tolist())
            overlaps.append(len(top & chosen) / len(top | chosen))
        return sum(overlaps) / len(overlaps)


def _faithfulness(merits: Tensor) -> Tensor:
    """Return f of the first 0 … N nodes from merits [N + 1, 2]."""
    m = merits[:, 0] / merits[:, 1]
    return (m - m[0]) / (m[-1] - m[0])


def _m(sums: Floats, first: int) -> Floats:
    """Return the ratio of two sums."""
    ratio: Floats = sums[..., first] / sums[..., first + 1]
    return ratio


def _score(score: str, name: str, interval: Interval) -> CircuitRow:
    return CircuitRow(score, name, interval.value, interval.low, interval.high, interval.initial_conditions)
