"""Effects over rollout steps: a node takes its activation from the source's own rollout at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from physteer.analyses.effects.measures import FieldMeasure, FieldTruth
from physteer.analyses.effects.nodes import Node
from physteer.analyses.effects.runs import Outputs
from physteer.data.batch import Batch
from physteer.data.pair import PairBatch
from physteer.forecast import Forecaster
from physteer.forecast.steered_rollout import steered_rollout
from physteer.interventions import Condition, Edit, Interchange, Locus, Site

_TOGETHER = 6
"""Nodes that are rolled out side by side."""


class RolloutEffects:
    """Rolls bases out with one node after the other taken from the source, at scale 1.

    A parameter acts at every step, so the node is patched at every step: by what the source's own rollout has there.

    Args:
        nodes: to be patched, each at all positions.
        measure: of the change after every step.
        last_frame: whether only the last frame of the context is patched.
    """

    def __init__(self, nodes: Sequence[Node], measure: FieldMeasure, *, last_frame: bool) -> None:
        self.nodes, self.measure, self.last_frame = tuple(nodes), measure, last_frame

    @torch.no_grad()
    def terms(self, forecaster: Forecaster, pairs: PairBatch, truth: FieldTruth) -> Iterator[tuple[int, Tensor]]:
        """Yield for every node its index and its terms, [steps, B, columns, 2], on the CPU.

        Args:
            forecaster: predicts.
            pairs: B pairs, whose true frames reach as far as the rollout should.
            truth: of the pairs.
        """
        n_steps, predicted = truth.change.shape[1], pairs.metadata.channels.predicted
        base = pairs.base

        def changes(frames: Iterable[Tensor], batch: Batch) -> Iterator[Tensor]:
            """Yield what frames [N·B, 1, C, H, W, D] have changed since the context, in units of its r_Δ."""
            scale, last = forecaster.inputs(batch.context, batch)[1].differences, batch.context[:, -1:]
            for frame in frames:
                n = len(frame) // len(batch)
                yield ((frame - last.repeat(n, *[1] * 5)) / scale.repeat(n, *[1] * 5))[:, 0, predicted]

        # The source shares the jitter of its base, so that tokens correspond.
        source = dataclasses.replace(pairs.sources[0], windows=base.windows)
        recorder = _Recorder(dict.fromkeys(node.site for node in self.nodes), self.last_frame)
        source_frames = [*changes(steered_rollout(forecaster, source, n_steps, observers=[recorder]), source)]
        base_frames = [*changes(steered_rollout(forecaster, base, n_steps), base)]
        known = [
            Outputs(
                base_frames[step],
                {"source": source_frames[step]},
                FieldTruth(truth.change[:, step : step + 1], truth.regions),
            )
            for step in range(n_steps)
        ]
        for first in range(0, len(self.nodes), _TOGETHER):
            group = self.nodes[first : first + _TOGETHER]
            frames = changes(self._rolled(forecaster, base, group, recorder, n_steps), base)
            terms: list[list[Tensor]] = [[] for _ in group]
            for step, frame in enumerate(frames):
                for i, part in enumerate(frame.chunk(len(group))):
                    terms[i].append(self.measure.terms(part, known[step], "source").cpu())
            yield from ((first + i, torch.stack(each)) for i, each in enumerate(terms))

    def _rolled(
        self, forecaster: Forecaster, base: Batch, nodes: Sequence[Node], recorder: _Recorder, n_steps: int
    ) -> Iterator[Tensor]:
        """Yield the frames [nodes × B, 1, C, H, W, D] of rollouts with each of the nodes patched."""
        patches = [Interchange() for _ in nodes]
        locus = Locus(frames=[-1]) if self.last_frame else Locus()
        edits = [Edit(node.site, patch, locus=locus) for node, patch in zip(nodes, patches, strict=True)]
        conditions = [Condition(str(edit.site), (edit,)) for edit in edits]
        rollout = steered_rollout(forecaster, base, n_steps, conditions)
        for step in range(n_steps):
            for node, patch in zip(nodes, patches, strict=True):
                patch.source = recorder.activations[step][node.site]
            yield next(rollout)


class _Recorder:
    """Keeps activations of every step of a rollout (`physteer.forecast.RolloutObserver`)."""

    all_frames = False

    def __init__(self, sites: Sequence[Site] | dict[Site, None], last_frame: bool) -> None:
        self.sites, self.last_frame = tuple(sites), last_frame
        self.activations: list[dict[Site, Tensor]] = []

    def sites_at(self, step: int) -> Sequence[Site]:
        self.activations.append({})
        return self.sites

    def observe(self, site: Site, h: Tensor) -> None:
        self.activations[-1][site] = (h[:, -1:] if self.last_frame else h).clone()
