"""Extraction: the directions that a model's output depends on, one after the other, by L-BFGS on the true energy.

v_j maximises the energy of ablating it alone, over unit v in the complement of those before (Belrose's causal basis
extraction, here on the model's own suffix). Several maxima exist. Candidates are screened, the best one is refined, and
a certificate tells a missed maximum: energies of exact greedy directions cannot rise in the order in which they are
found. Where one does, the earlier direction is searched again from the later one. That is necessary for a global
maximum, not sufficient; sorting the energies would hide it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from physteer.analyses.basis.energy import AblationEnergy
from physteer.analyses.basis.metric import Metric
from physteer.analyses.basis.starts import Starts, outside
from physteer.analyses.basis.state import ExtractionSettings, ExtractionState
from physteer.errors import PhysteerError

RISE = 1e-3
"""Relative rise of an energy over an earlier one that tells a missed maximum."""
RESTARTS = 3
"""Most searches of one direction from a later one."""
_HISTORY = 20
_GRADIENT, _CHANGE = 1e-5, 1e-9
"""L-BFGS stops where the gradient's or the step's largest number, or the change, is below; energies are scaled to 1."""


@dataclass(frozen=True, eq=False)
class _Optimum:
    direction: Tensor
    energy: float
    evaluations: int


def extract(
    energy: AblationEnergy,
    metric: Metric,
    starts: Starts,
    settings: ExtractionSettings,
    state: ExtractionState,
    on_direction: Callable[[ExtractionState], None] = lambda state: None,
) -> None:
    """Extract directions, one after the other, into a state; a collective over processes.

    Args:
        energy: that is maximised.
        metric: in which directions are orthonormal.
        starts: of the searches.
        settings: of the extraction.
        state: continued; `ExtractionState.empty` at first.
        on_direction: called with the state after every search.

    Raises:
        PhysteerError: k is too large; or an energy or its gradient is not finite: the state then holds the directions
            before it.
    """
    k = settings.directions(len(metric.read_map), metric.rank)
    while not state.finished and state.count < k:
        optimum = _next(energy, metric, starts, settings, state)
        earlier = _overtaken(state, optimum.energy)
        if optimum.energy < settings.min_energy and earlier is None:
            state.finished = True
        elif earlier is None:
            _append(state, optimum)
        else:
            _restart(state, earlier, optimum)
        on_direction(state)


def _next(
    energy: AblationEnergy, metric: Metric, starts: Starts, settings: ExtractionSettings, state: ExtractionState
) -> _Optimum:
    """Search the next direction: from the start of a restart, else from the best candidate."""
    number = state.count + 1

    def value(coordinates: Tensor) -> float:
        read, write = metric.pair(coordinates[:, None])
        return _finite(energy.of(read, write), f"direction {number}, screening")

    if state.start is not None:
        start = outside(state.start, state.directions)
        return _refined(energy, metric, settings, state.directions, start / start.norm(), number)
    restarts = state.restarts[state.count] if state.count < len(state.restarts) else 0
    candidates = starts.candidates(state.directions, settings.candidates, restarts)
    if state.dropped is not None:
        dropped = outside(state.dropped, state.directions)
        norms = dropped.norm(dim=0)
        candidates = torch.cat([candidates, (dropped / norms)[:, norms > 0.5]], 1)  # not those taken meanwhile
    best = max(candidates.unbind(1), key=value)
    return _refined(energy, metric, settings, state.directions, best, number)


def _refined(
    energy: AblationEnergy, metric: Metric, settings: ExtractionSettings, basis: Tensor, start: Tensor, number: int
) -> _Optimum:
    """Climb from a unit start [r] in the complement of a basis [r, j] to a maximum, by L-BFGS.

    The variable x is free; the direction is its projection on the complement and on the sphere. Energies are divided by
    the start's, so that the tolerances mean the same at every site.
    """
    x = start.clone().requires_grad_()
    best = _Optimum(start, -math.inf, 0)
    evaluations, scale = 0, 0.0

    def closure() -> float:
        nonlocal best, evaluations, scale
        inside = outside(x.detach(), basis)
        length = inside.norm()
        direction = inside / length
        read, write = metric.pair(direction)
        value, by_read, by_write = energy.with_gradient(read, write)
        evaluations += 1
        gradient = metric.gradient(by_read, by_write)
        what = f"direction {number}, evaluation {evaluations}"
        _finite(value, what)
        _finite(float(gradient.abs().max()), what)
        scale = scale or abs(value) or 1.0
        if value > best.energy:
            best = _Optimum(direction, value, evaluations)
        tangent = gradient - direction * (direction @ gradient)
        x.grad = -outside(tangent, basis) / (length * scale)
        return -value / scale

    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=settings.max_iter,
        max_eval=4 * settings.max_iter,
        tolerance_grad=_GRADIENT,
        tolerance_change=_CHANGE,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return _Optimum(best.direction, best.energy, evaluations)


def _overtaken(state: ExtractionState, energy: float) -> int | None:
    """Return the earliest direction whose energy is below a later one's and that may still be searched again."""
    for number, (earlier, restarts) in enumerate(zip(state.energies, state.restarts, strict=False)):
        if energy - earlier > RISE * abs(earlier) and restarts < RESTARTS:
            return number
    return None


def _append(state: ExtractionState, optimum: _Optimum) -> None:
    number = state.count
    state.directions = torch.cat([state.directions, optimum.direction[:, None]], 1)
    state.energies.append(optimum.energy)
    state.start = None
    if number == len(state.restarts):
        state.restarts.append(0)
        state.evaluations.append(0)
        state.dropped = None  # all of them had their turn
    state.evaluations[number] += optimum.evaluations


def _restart(state: ExtractionState, earlier: int, optimum: _Optimum) -> None:
    """Drop the directions from an earlier one on, and search that one from the later one."""
    number = state.count
    if number == len(state.restarts):
        state.restarts.append(0)
        state.evaluations.append(0)
    state.evaluations[number] += optimum.evaluations
    state.restarts[earlier] += 1
    state.dropped = state.directions[:, earlier:]
    state.directions, state.energies = state.directions[:, :earlier], state.energies[:earlier]
    state.start = optimum.direction


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise PhysteerError(
            f"{what}: the energy or its gradient is not finite ({value}); the directions before it are kept: look at "
            "the data, the labels and the divergence"
        )
    return value
