"""Rollouts of a model as it is and under edits, side by side in one batch, while observers look at its activations."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from physteer.data.batch import Batch
from physteer.errors import PhysteerError
from physteer.interventions import Condition, Edit, Site, attached, observed, stack_conditions
from physteer.rollout import rollout

if TYPE_CHECKING:
    from physteer.module import WalrusModule


def steered_rollout(
    module: WalrusModule, batch: Batch, n_steps: int, conditions: Sequence[Condition]
) -> Iterator[Tensor]:
    """Yield the frames that follow a batch's context, under several conditions side by side.

    Args:
        module: predicts; its clock says the step meanwhile, and its observers get activations after the edits.
        batch: B windows.
        n_steps: how many frames.
        conditions: K of them.

    Yields:
        Each next frame, [K × B, 1, C, H, W, D]: all windows of the first condition, then of the second, …

    Raises:
        PhysteerError: two conditions have one name, or an edit does not fit, or its site is never reached.
    """
    edits = stack_conditions(conditions, len(batch))
    contexts = [batch.context if one.context is None else one.context(batch) for one in conditions]

    def predict(window: Tensor, step: int) -> Tensor:
        return _edited_step(module, edits, window, batch, step)

    yield from rollout(predict, torch.cat(contexts), n_steps)


def check_reached(sites: Sequence[Site], reached: Container[str]) -> None:
    """Check that a forward has called the modules of all sites.

    Raises:
        PhysteerError: it has not.
    """
    for site in sites:
        if site.module not in reached:
            raise PhysteerError(
                f"site {site.module!r} has no activation: the forward does not call that module; 'physteer sites' "
                "lists those it does"
            )


def _edited_step(module: WalrusModule, edits: Sequence[Edit], window: Tensor, batch: Batch, step: int) -> Tensor:
    """Predict the next frame.

    The edits are on the network during this forward alone: a rollout that is suspended, or dropped halfway, leaves
    nothing on it, and two rollouts of one network can take turns.
    """
    sites, reached = [edit.site for edit in edits] if step == 0 else [], set[str]()
    module.clock.step = step
    try:
        with ExitStack() as stack:
            stack.enter_context(attached(module.network, edits, module.clock))
            stack.enter_context(observed(module.network, sites, lambda site, h: reached.add(site.module)))
            for observer, watched in module.observers.items():
                stack.enter_context(observed(module.network, watched, observer))
            frame = module.predict_next(window, batch, step)
    finally:
        module.clock.step = None
    check_reached(sites, reached)
    return frame
