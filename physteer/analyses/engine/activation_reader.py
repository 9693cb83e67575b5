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
"""Gets a site and its activation [B, T, …, d]: the live tensor, not to be kept or changed."""


class ActivationReader:
    """Shows the activations of some sites to a function. Nothing behind the deepest of the sites is computed.

    Args:
        forecaster: whose network.
        sites: one or more.
        all_frames: whether frames before the last are needed; without them the last block computes the last one alone.
    """

    def __init__(self, forecaster: Forecaster, sites: Sequence[Site], *, all_frames: bool = True) -> None:
        self.forecaster, self.sites, self.all_frames = forecaster, tuple(sites), all_frames

    @torch.no_grad()
    def read(self, batch: Batch, use: Use, *, jitter_of: Sequence[Window] | None = None) -> None:
        """Run the context of stored windows up to the sites.

        Args:
            batch: B windows.
            use: gets every site's activation, one after the other as they are computed.
            jitter_of: windows whose random shifts are taken, row by row; their own when None.
        """
        drawn = batch if jitter_of is None else dataclasses.replace(batch, windows=tuple(jitter_of))
        observe_pass(self.forecaster, batch.context, drawn, _Look(self, use, (0,)))

    @torch.no_grad()
    def read_rollout(
        self,
        batch: Batch,
        use: Callable[[int, Site, Tensor], None],
        steps: Sequence[int],
        condition: Condition = UNSTEERED,
    ) -> None:
        """Roll windows out, steered or not, and look at the forwards of some steps; the last of them stops early.

        Args:
            batch: B windows.
            use: gets the step, the site and its activation, after the edits.
            steps: of the rollout, from 0: step n sees the model's own predictions in its last n frames.
            condition: the edits.
        """
        look = _Look(self, lambda site, h: use(look.step, site, h), steps)
        last, window = max(steps), initial_windows(batch, [condition])
        for frame in steered_rollout(self.forecaster, batch, last, [condition], [look]):
            window = torch.cat([window[:, 1:], frame], dim=1)
        observe_pass(self.forecaster, window, batch, look, last, stack_conditions([condition], len(batch)))


class _Look:
    """Observes some steps of a rollout (`physteer.forecast.RolloutObserver`)."""

    def __init__(self, reader: ActivationReader, use: Use, steps: Sequence[int]) -> None:
        self._reader, self._use, self._steps = reader, use, frozenset(steps)
        self.step = 0
        """Of the forward that is running."""

    @property
    def all_frames(self) -> bool:
        return self._reader.all_frames

    def sites_at(self, step: int) -> Sequence[Site]:
        self.step = step
        return self._reader.sites if step in self._steps else ()

    def observe(self, site: Site, h: Tensor) -> None:
        self._use(site, h)
