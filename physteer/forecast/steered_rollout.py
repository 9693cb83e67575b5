"""Rollouts with and without edits, side by side in one batch, while observers read activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from physteer.data.batch import Batch
from physteer.errors import PhysteerError
from physteer.forecast.forecaster import Forecaster
from physteer.forecast.rollout import rollout
from physteer.interventions import (
    UNSTEERED,
    Clock,
    Condition,
    Edit,
    Site,
    attached,
    check_reached,
    observed,
    stack_conditions,
    stopped_after,
)


@dataclass(frozen=True)
class Rollout:
    """The predicted frames of one batch under some conditions."""

    batch: Batch
    conditions: tuple[Condition, ...]
    frames: Tensor
    """[conditions, B, T, C, H, W, D] on the CPU, in the data set's units."""


class RolloutObserver(Protocol):
    """Reads activations during rollouts, after the edits."""

    def sites_at(self, step: int) -> Sequence[Site]:
        """Return the sites to observe in the forward of a rollout step, counted from 0; may be empty."""
        ...

    @property
    def all_frames(self) -> bool:
        """Whether frames before the last are needed where a prediction would compute the last alone."""
        ...

    def observe(self, site: Site, h: Tensor) -> None:
        """Take an activation, [conditions × B, T, h, w, δ, d]: the live tensor, which must not be changed.

        Axes that the site's layout (`Forecaster.layout`) has not are of size 1.
        """
        ...


def steered_rollout(
    forecaster: Forecaster,
    batch: Batch,
    n_steps: int,
    conditions: Sequence[Condition] = (UNSTEERED,),
    observers: Sequence[RolloutObserver] = (),
) -> Iterator[Tensor]:
    """Yield the frames that follow a batch's context, under several conditions side by side.

    Args:
        forecaster: predicts.
        batch: B windows.
        n_steps: how many frames.
        conditions: K conditions; by default the unsteered model alone.
        observers: called with activations, after the edits.

    Yields:
        Each next frame, [K × B, 1, C, H, W, D]: all windows of the first condition, then of the second, …

    Raises:
        PhysteerError: Two conditions have one name; an edit does not fit, or its site is never reached; or the layout
            of an observed site is unknown.
    """
    edits, clock = [located(forecaster, edit) for edit in stack_conditions(conditions, len(batch))], Clock()

    def predict(window: Tensor, step: int) -> Tensor:
        """Predict under the edits.

        Edits are attached during this forward only. A suspended or abandoned rollout therefore leaves no hooks on the
        network, and two rollouts of one network can alternate.
        """
        watching = [(observer, observer.sites_at(step)) for observer in observers]
        clock.step, heard = step, []
        with ExitStack() as stack:
            stack.enter_context(attached(forecaster.network, edits, clock))
            for observer, watched in watching:
                sites = [with_forecaster_layout(forecaster, site) for site in watched]
                heard.append((sites, stack.enter_context(observed(forecaster.network, sites, _on_a_grid(observer)))))
            all_frames = any(
                observer.all_frames and any(map(forecaster.computes_last_frame_only, watched))
                for observer, watched in watching
            )
            frame = forecaster.predict_next(window, batch, step, all_frames=all_frames)
            for sites, reached in heard:
                check_reached(sites, reached)
        return frame

    yield from rollout(predict, initial_windows(batch, conditions), n_steps)


def initial_windows(batch: Batch, conditions: Sequence[Condition]) -> Tensor:
    """Return the first windows of the rollouts, [K × B, T, C, H, W, D]."""
    return torch.cat([batch.context if c.context is None else c.context(batch) for c in conditions])


def observe_pass(
    forecaster: Forecaster,
    window: Tensor,
    batch: Batch,
    observer: RolloutObserver,
    step: int = 0,
    edits: Sequence[Edit] = (),
) -> None:
    """Run one forward that stops at the deepest site of an observer; later blocks are not computed.

    Args:
        forecaster: whose network is run.
        window: [N, T, C, H, W, D] in the data set's units.
        batch: the windows' channels, grid and addresses.
        observer: called with the activations, after the edits.
        step: of a rollout, for the draws of random shifts and for edits limited to some steps.
        edits: attached during the pass.
    """
    sites = [with_forecaster_layout(forecaster, site) for site in observer.sites_at(step)]
    if not sites:
        return
    own = [located(forecaster, edit) for edit in edits]
    inputs, _ = forecaster.inputs(window, batch, step)
    last = forecaster.causal_in_time and not observer.all_frames
    with stopped_after(forecaster.network, sites, _on_a_grid(observer), own, Clock(step)):
        forecaster.run(inputs, last_frame_only=last)


def with_forecaster_layout(forecaster: Forecaster, site: Site) -> Site:
    """Return a site with its layout: its own, else the one that a forecaster gives (`Forecaster.layout`)."""
    return site if site.layout is not None else dataclasses.replace(site, layout=forecaster.layout(site))


def located(forecaster: Forecaster, edit: Edit) -> Edit:
    """Return an edit whose site has its layout (`with_forecaster_layout`)."""
    return edit.with_site(with_forecaster_layout(forecaster, edit.site))


def _on_a_grid(observer: RolloutObserver) -> Callable[[Site, Tensor], None]:
    """Return a function that gives an observer activations with all axes of space, [B, T, h, w, δ, d]."""

    def observe(site: Site, h: Tensor) -> None:
        if site.layout is None:
            raise PhysteerError(
                f"site {site}: the axes of its output {list(h.shape)} are unknown: {type(observer).__name__} needs a "
                f"layout, from Forecaster.layout or such as '{site} as b t h w d'"
            )
        missing = [1] * (6 - h.ndim)
        observer.observe(site, h.reshape(*h.shape[:-1], *missing, h.shape[-1]) if missing else h)

    return observe
