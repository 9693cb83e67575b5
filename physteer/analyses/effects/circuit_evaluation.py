"""The circuit of a forecaster: chosen on the pairs of validation, reported on those of test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from physteer.analyses.effects.attribution import Attribution
from physteer.analyses.effects.attribution_sums import AttributionSums
from physteer.analyses.effects.circuit_search import Circuit, CircuitSearch, CircuitTables
from physteer.analyses.effects.forecast_runs import (
    PAIRS,
    ForecastRuns,
    heads_of,
    is_last_frame,
    pair_datasets,
    partners_of,
)
from physteer.analyses.effects.measures import FieldMeasure
from physteer.analyses.effects.nodes import check_leaves, expand_nodes
from physteer.analyses.effects.runs import NodeRuns
from physteer.data.pair import PairBatch
from physteer.forecast import Forecaster, staged
from physteer.forecast.evaluation import Stage
from physteer.interventions.seeds import generator_of


@dataclass(frozen=True)
class CircuitPlan:
    """The settings of a search; the `Circuit` callback documents them."""

    nodes: tuple[str, ...]
    frames: tuple[int, ...] | None = None
    random_orders: int = 3
    cache_bytes: int = 2**30
    seed: int = 0


class CircuitEvaluation(nn.Module):
    """The scores of validation and test (`physteer.forecast.Evaluation`): a circuit instead of errors.

    During validation batches are attributed; when all are, the nodes are ordered and the circuit is chosen. During test
    the same circuit is measured on other pairs.

    Args:
        plan: the settings.
        progress: called with a line on where the search is.
    """

    def __init__(self, plan: CircuitPlan, progress: Callable[[str], None] = lambda line: None) -> None:
        super().__init__()
        self.plan, self.progress = plan, progress
        self.circuit: Circuit | None = None
        """What validation has chosen."""
        self.tables = CircuitTables([], [])
        """Of the latest split, after `results`."""

    def begin(self, forecaster: Forecaster, loaders: Any, stage: Stage) -> None:
        """Find the nodes and start anew.

        Raises:
            PhysteerError: The data module yields no pairs, a node is no leaf, or a pattern matches nothing.
        """
        pairs, plan = pair_datasets(loaders, "Circuit")[PAIRS], self.plan
        windows = pairs.windows
        self.nodes = expand_nodes(plan.nodes, heads_of(forecaster, windows))
        check_leaves(staged(forecaster, "Circuit"), self.nodes)
        channels = windows.metadata.channels
        self.measure = FieldMeasure([channels.names[i] for i in channels.predicted])
        self.runs = ForecastRuns(
            forecaster,
            [node.site for node in self.nodes],
            last_frame=is_last_frame(plan.frames, windows.spec.n_input, forecaster),
            partners=partners_of([pairs.pair(i).base for i in range(len(pairs))], plan.seed),
            regions=(),
            max_bytes=plan.cache_bytes,
            needed_by="Circuit",
        )
        names = pairs.initial_conditions
        self.attribution = AttributionSums(Attribution(self.nodes, self.measure), names, plan.seed)
        self.search = CircuitSearch(self.nodes, self.measure, names, plan.seed)
        self._batches: list[PairBatch] = []
        self._forecaster = (forecaster,)  # a tuple: its parameters are not this module's

    def score(self, forecaster: Forecaster, batch: PairBatch, loader: int) -> None:
        """Attribute a batch, and keep its addresses."""
        if loader != PAIRS:
            return
        self._batches.append(batch)
        if self.circuit is None:
            runs = self.runs.of(forecaster, batch, ("source",))
            self.attribution.add(runs, _names(batch), generator_of("cotangents", self.plan.seed, str(batch)))
            self.progress(f"circuit: {len(self._batches)} batches attributed")

    def results(self, stage: str) -> dict[str, float]:
        """Choose the circuit, or measure the one of validation; a collective over the processes.

        Returns:
            For the logger: the circuit's size, and once it is measured its faithfulness, CPR and CMD.
        """
        device = self._forecaster[0].device
        if self.circuit is None:
            self.attribution.merge(device)
            self.circuit, self.tables = self.search.choose(self.attribution, self._runs, device)
        else:
            self.tables = self.search.report(self.circuit, self._runs, device, self.plan.random_orders)
        wanted = ("size", "faithfulness", "cpr", "cmd")
        rows = [row for row in self.tables.scores if row.score in wanted and row.name in ("", "attribution")]
        return {f"{stage}/circuit/{row.score}": row.value for row in rows}

    def described(self) -> str:
        """Return the circuit as JSON: its nodes, and all nodes in the order of attribution."""
        assert self.circuit is not None
        names = [self.nodes[i].name for i in self.circuit.order]
        return json.dumps({"circuit": names[: self.circuit.size], "order": names}, indent=2)

    def _runs(self) -> Iterator[tuple[NodeRuns, Sequence[str]]]:
        for i, batch in enumerate(self._batches):
            yield self.runs.of(self._forecaster[0], batch, ("source", "resample")), _names(batch)
            self.progress(f"circuit: batch {i + 1} of {len(self._batches)} measured")


def _names(batch: PairBatch) -> list[str]:
    return [str(pair.initial_condition) for pair in batch.pairs]
