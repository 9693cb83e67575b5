"""Effects of a forecaster's nodes over pairs of windows: one sweep, its null, rollouts and attribution."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from physteer.analyses.effects.attribution import Attribution
from physteer.analyses.effects.attribution_sums import AttributionSums
from physteer.analyses.effects.forecast_runs import (
    NULLS,
    PAIRS,
    ForecastRuns,
    heads_of,
    is_last_frame,
    own_batches,
    pair_datasets,
    partners_of,
    regions_of,
)
from physteer.analyses.effects.measures import Column, FieldMeasure
from physteer.analyses.effects.nodes import drawn_nodes, expand_nodes
from physteer.analyses.effects.patches import NodeStatistics, Patch, make_patches
from physteer.analyses.effects.rollout_effects import RolloutEffects
from physteer.analyses.effects.statistics import StatisticsFitter, on_device
from physteer.analyses.effects.sums import EffectSums, intervals_of
from physteer.analyses.effects.sweep import EffectSweep, effect_row
from physteer.analyses.effects.table import AttributionCheck, AttributionRow, EffectRow
from physteer.analyses.effects.unfinished import UnfinishedBatch
from physteer.analyses.engine import ActivationReader, summed
from physteer.data.batch import Window
from physteer.data.dataset import WindowDataset
from physteer.data.pair import PairBatch
from physteer.errors import PhysteerError
from physteer.forecast import Forecaster
from physteer.forecast.evaluation import Stage
from physteer.interventions import Site
from physteer.interventions.seeds import generator_of
from physteer.metrics.statistics import Floats

EXCHANGE = Patch("source", 1.0)
"""The patch of null pairs, of rollouts and of attribution."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class EffectPlan:
    """The settings of a sweep; the `Effects` callback documents them."""

    nodes: tuple[str, ...]
    variants: tuple[str, ...]
    scales: tuple[float, ...]
    frames: tuple[int, ...] | None = None
    components: int = 8
    per_position: bool = False
    statistics_windows: int = 32
    exact_nodes: int | None = None
    attribution: bool = True
    rollouts: tuple[str, ...] = ()
    cache_bytes: int = 2**30
    seed: int = 0


class EffectEvaluation(nn.Module):
    """The scores of validation or test (`physteer.forecast.Evaluation`): effects of nodes instead of errors.

    Args:
        plan: what is patched and how.
        natural: windows that means and principal directions are fitted to; of another split than the pairs.
        folder: where an interrupted sweep keeps what it has done; None to keep nothing.
        progress: called with a line on where the sweep is.
    """

    def __init__(
        self,
        plan: EffectPlan,
        natural: WindowDataset,
        folder: Path | None = None,
        progress: Progress = lambda line: None,
    ) -> None:
        super().__init__()
        self.plan, self.natural, self.folder, self.progress = plan, natural, folder, progress
        self.rows: list[EffectRow] = []
        """The table, after `results`."""
        self.attribution_rows: list[AttributionRow] = []
        self.attribution_checks: list[AttributionCheck] = []

    def begin(self, forecaster: Forecaster, loaders: Any, stage: Stage) -> None:
        """Find the nodes, fit their statistics, and start new sums.

        Raises:
            PhysteerError: The data module yields no pairs, a pattern matches nothing, or a setting does not fit.
        """
        pairs, plan = pair_datasets(loaders, "Effects")[PAIRS], self.plan
        self._device = forecaster.device
        windows = pairs.windows
        metadata, n_frames = windows.metadata, windows.spec.n_input
        self.last_frame = is_last_frame(plan.frames, n_frames, forecaster)
        positions: Sequence[int | None] = (None,)
        if plan.frames is not None and not self.last_frame:
            positions = [position % n_frames for position in plan.frames]
        heads = heads_of(forecaster, windows)
        self.nodes = expand_nodes(plan.nodes, heads, positions)
        self.swept = drawn_nodes(self.nodes, plan.exact_nodes, plan.seed)
        patches = make_patches(plan.variants, plan.scales)
        fields = [metadata.channels.names[i] for i in metadata.channels.predicted]
        regions = regions_of(metadata)
        self.measure = FieldMeasure(fields, regions)
        statistics = self._statistics(forecaster, patches)
        self.sweep = EffectSweep(self.swept, patches, self.measure, statistics)
        bases = [pairs.pair(i).base for i in range(len(pairs))]
        self.runs = ForecastRuns(
            forecaster,
            list(dict.fromkeys(node.site for node in self.nodes)),
            last_frame=self.last_frame,
            partners=partners_of(bases, plan.seed) if "resample" in self.sweep.references else {},
            regions=regions,
            max_bytes=plan.cache_bytes,
            needed_by="Effects",
        )
        names = pairs.initial_conditions
        self.sums = EffectSums(self.sweep.keys, names, len(self.measure.columns))
        self.counts = torch.zeros(2, len(names), dtype=torch.float64)  # pairs, null pairs
        self.null_sums = EffectSums(len(self.swept), names, len(fields) + 1)
        rolled = expand_nodes(plan.rollouts, heads) if plan.rollouts else ()
        if rolled and (windows.spec.n_output < 2 or positions != (None,)):
            raise PhysteerError(
                "Effects.rollouts need data.horizon of 2 or more, and frames null or the last alone; found "
                f"{windows.spec.n_output} and {plan.frames}"
            )
        self.rollouts = RolloutEffects(rolled, self.measure, last_frame=self.last_frame) if rolled else None
        n_steps = windows.spec.n_output if rolled else 0
        self.rollout_sums = EffectSums(len(rolled) * n_steps, names, len(self.measure.columns))
        self.attribution: AttributionSums | None = None
        if plan.attribution:
            self.attribution = AttributionSums(Attribution(self.nodes, self.measure), names, plan.seed)
        self._rows_of = {name: row for row, name in enumerate(names)}
        self._decided_by = [
            forecaster.identity,
            forecaster.source_version,
            str(forecaster.jitter_seed),
            json.dumps(asdict(plan), sort_keys=True),
            *(self.natural.fingerprint(file) for file in sorted({window.file for window in self._natural_windows()})),
        ]

    def score(self, forecaster: Forecaster, batch: PairBatch, loader: int) -> None:
        """Patch every node of a batch and add the effects."""
        names = [str(pair.initial_condition) for pair in batch.pairs]
        for name in names:
            self.counts[loader, self._rows_of[name]] += 1
        if loader == NULLS:
            self._score_null(forecaster, batch, names)
            return
        references = self.sweep.references
        if self.attribution is not None and "source" not in references:
            references = ("source", *references)
        files = {window.file for window in (*batch.base_windows, *batch.source_windows[0])}
        versions = [batch.reader.dataset.fingerprint(file) for file in sorted(files)]
        unfinished = UnfinishedBatch(self.folder, [*self._decided_by, *map(str, batch.pairs), *versions])
        runs = self.runs.of(forecaster, batch, references)
        n = len(self.swept)
        for i, terms in self.sweep.terms(runs, list(unfinished.done)):
            unfinished.add(i, terms, last=len(unfinished.done) + 1 == n)
            self.progress(
                f"effects: node {len(unfinished.done)} of {n} ({self.swept[i].name}), batch of {len(batch)} pairs"
            )
        for i, terms in unfinished.done.items():
            for j, one in enumerate(terms):
                self.sums.add(i * len(terms) + j, one, names)
        if self.rollouts is not None:
            for i, terms in self.rollouts.terms(forecaster, batch, runs.outputs.truth):
                self.progress(f"effects over rollout steps: node {i + 1} of {len(self.rollouts.nodes)}")
                for step, one in enumerate(terms):
                    self.rollout_sums.add(i * len(terms) + step, one, names)
        if self.attribution is not None:
            self.attribution.add(runs, names, generator_of("cotangents", self.plan.seed, str(batch)))

    def results(self, stage: str) -> dict[str, float]:
        """Compute the tables; a collective over the processes.

        Returns:
            For the logger: the aligned effect of each node's source at scale 1, or else its field effect.
        """
        device = self._device
        self.counts = summed(self.counts, device)
        for sums in (self.sums, self.null_sums, self.rollout_sums):
            sums.merge(device)
        self.rows = [*self.sweep.rows(self.sums), *self._null_rows(), *self._rollout_rows()]
        if self.attribution is not None:
            self.attribution.merge(device)
            self.attribution_rows, self.attribution_checks = self.attribution.tables()
        shown = "aligned" if any(row.effect == "aligned" for row in self.rows) else "field"
        return {
            f"{stage}/effect/{row.node}": row.value
            for row in self.rows
            if (row.effect, row.field, row.region, row.step, row.scale) == (shown, "", "", 1, 1.0)
            and row.variant == ("source" if shown == "aligned" else self.sweep.patches[0].variant)
        }

    def _score_null(self, forecaster: Forecaster, batch: PairBatch, names: Sequence[str]) -> None:
        """Add how far sources that differ in another parameter alone move every field."""
        runs = self.runs.of(forecaster, batch, ("source",))
        for i, node in enumerate(self.swept):
            output = runs.output({node.site: runs.patched(node, EXCHANGE, None)})
            terms = self.measure.terms(output, runs.outputs, "source")[:, : self.null_sums.sums.shape[2]]
            self.null_sums.add(i, terms, names)

    def _null_rows(self) -> list[EffectRow]:
        """Return √(mean null movement² / mean movement²) of every node and field, of sources at scale 1."""
        if EXCHANGE not in self.sweep.patches or not self.counts[NULLS].any():
            return []
        j, n_patches = self.sweep.patches.index(EXCHANGE), len(self.sweep.patches)
        columns = self.measure.columns[: self.null_sums.sums.shape[2]]
        moved = self.sums.sums[j::n_patches, :, : len(columns), 0]  # [nodes, initial conditions, fields]
        nulls = self.null_sums.sums[..., 0]
        pairs, null_pairs = (count[None, :, None].expand_as(moved) for count in self.counts)
        cells = torch.stack([nulls, null_pairs, moved, pairs], -1).transpose(1, 2).flatten(0, 1)

        def share(sums: Floats) -> Floats:
            return np.sqrt((sums[..., 0] / sums[..., 1]) / (sums[..., 2] / sums[..., 3]))

        found = intervals_of(cells, self.sums.initial_conditions, share)
        return [
            effect_row(node, EXCHANGE, Column("null_share", column.field), 1, next(found))
            for node in self.swept
            for column in columns
        ]

    def _rollout_rows(self) -> list[EffectRow]:
        if self.rollouts is None:
            return []
        nodes = self.rollouts.nodes
        n_steps, rows = self.rollout_sums.sums.shape[0] // len(nodes), []
        for k, column in enumerate(self.measure.columns):
            found = intervals_of(self.rollout_sums.sums[:, :, k], self.sums.initial_conditions, column.statistic)
            cells = [(node, step) for node in nodes for step in range(1, n_steps + 1)]
            for (node, step), interval in zip(cells, found, strict=True):
                if step > 1:  # the first step is that of the sweep
                    rows.append(effect_row(node, EXCHANGE, column, step, interval))
        return rows

    def _natural_windows(self) -> list[Window]:
        windows = sorted(self.natural.windows, key=str)
        order = torch.randperm(len(windows), generator=generator_of("natural", self.plan.seed)).tolist()
        return [windows[i] for i in order[: self.plan.statistics_windows]]

    def _statistics(self, forecaster: Forecaster, patches: Sequence[Patch]) -> Mapping[Site, NodeStatistics]:
        """Fit means and, where patches need them, principal directions."""
        directions = any(patch.needs_directions for patch in patches)
        if not any(patch.needs_mean for patch in patches):
            return {}
        sites = list(dict.fromkeys(node.site for node in self.swept))
        fitter = StatisticsFitter(sites, self.plan.components if directions else 0, per_position=self.plan.per_position)

        def use(site: Site, h: Tensor) -> None:
            fitter.update(site, h[:, -1:] if self.last_frame else h)

        reader = ActivationReader(forecaster, sites, all_frames=not self.last_frame)
        for batch in own_batches(self.natural, self._natural_windows()):
            reader.read(batch.to(forecaster.device), use)
        return on_device(fitter.fit(), forecaster.device)
