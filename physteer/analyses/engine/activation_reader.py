"""Reading activations: passes that stop at the deepest site asked for, over stored windows or during rollouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from physteer.data.batch import Batch, Window
from physteer.forecast import Forecaster, observe_pass
from physteer.forecast.steered_rollout import initial_windows, steered_rollout
from physteer.interventions import UNSTEERED, Condition, Site, stack_conditions

Use = Callable[[Site, Tensor], None]
"""Called with a site and its activation [B, T, …, d]: the live tensor, which must not be kept or changed."""


class ActivationReader:
    """Calls a function with the activations of some sites. Nothing after the deepest of the sites is computed.

    Args:
        forecaster: whose network is run.
        sites: one or more.
        all_frames: whether frames before the last are needed; if not, the last block computes the last frame alone.
    """

    def __init__(self, forecaster: Forecaster, sites: Sequence[Site], *, all_frames: bool = True) -> None:
        self.forecaster, self.sites, self.all_frames = forecaster, tuple(sites), all_frames

    @torch.no_grad()
    def read(self, batch: Batch, use: Use, *, jitter_of: Sequence[Window] | None = None) -> None:
        """Run the context of stored windows up to the sites.

        Args:
            batch: B windows.
            use: called with every site's activation, in the order of computation.
            jitter_of: windows whose random shifts are used, row by row; None for the batch's own.
        """
        drawn = batch if jitter_of is None else dataclasses.replace(batch, windows=tuple(jitter_of))
        observe_pass(self.forecaster, batch.context, drawn, _StepObserver(self, use, (0,)))

    @torch.no_grad()
    def read_rollout(
        self,
        batch: Batch,
        use: Callable[[int, Site, Tensor], None],
        steps: Sequence[int],
        condition: Condition = UNSTEERED,
    ) -> None:
        """Roll windows out, steered or not, and read activations at some steps; the last of these forwards stops early.

        Args:
            batch: B windows.
            use: called with the step, the site and its activation, after the edits.
            steps: of the rollout, from 0. The last n input frames of step n are the model's own predictions.
            condition: its edits are applied.
        """
        observer = _StepObserver(self, lambda site, h: use(observer.step, site, h), steps)
        last, window = max(steps), initial_windows(batch, [condition])
        for frame in steered_rollout(self.forecaster, batch, last, [condition], [observer]):
            window = torch.cat([window[:, 1:], frame], dim=1)
        observe_pass(self.forecaster, window, batch, observer, last, stack_conditions([condition], len(batch)))


class _StepObserver:
    """Observes some steps of a rollout (`physteer.forecast.RolloutObserver`)."""

    def __init__(self, reader: ActivationReader, use: Use, steps: Sequence[int]) -> None:
        self._reader, self._use, self._steps = reader, use, frozenset(steps)
        self.step = 0
        """The rollout step of the current forward."""

    @property
    def all_frames(self) -> bool:
        return self._reader.all_frames

    def sites_at(self, step: int) -> Sequence[Site]:
        self.step = step
        return self._reader.sites if step in self._steps else ()

    def observe(self, site: Site, h: Tensor) -> None:
        self._use(site, h)
