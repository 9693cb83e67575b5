"""Simulated counterfactuals: the flow at other parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from physteer.data.batch import Batch
from physteer.data.shear_flow import LENGTHS, ShearFlowState, simulate
from physteer.errors import PhysteerError


def next_values(own: Tensor, values: Sequence[float], sign: float) -> Tensor:
    """Return the neighbour of a parameter in an experiment's list of its values.

    Args:
        own: the parameter of each window, [B].
        values: the list, in increasing order of the experiment.
        sign: the next value where positive, the previous one where negative.

    Returns:
        [B] float64; NaN where the list ends, or lacks a window's own value.
    """
    nexts = torch.full_like(own, math.nan, dtype=torch.float64)
    for value, following in itertools.pairwise(values if sign > 0 else values[::-1]):
        nexts[(own - value).abs() <= 1e-6 * abs(value)] = following
    return nexts


def solver_truth(
    batch: Batch,
    n_steps: int,
    changed: Mapping[str, float | Tensor],
    *,
    start: int = -1,
    substeps: int | None = None,
) -> Tensor:
    """Restart the built-in simulator from a frame of the context, at other parameters.

    Args:
        batch: windows of a data set of ``physteer data shear-flow``.
        n_steps: number of frames to simulate, with the time step of the windows.
        changed: parameters that differ from the simulation's own, ``Reynolds`` or ``Schmidt``: one number, or one per
            window [B], NaN for windows that have no such counterfactual.
        start: the context's frame to restart from; its last one by default.
        substeps: solver steps per frame; by the solver's stability rule when None.

    Returns:
        [B, n_steps, C, H, W, D] float32, in the data set's units: what follows the start. Channels that do not evolve
        keep their value; windows whose parameter is NaN are NaN.

    Raises:
        PhysteerError: The data are not shear flows of the built-in simulator, frames lie at uneven times, or
            there is no such parameter.
    """
    if not _on_the_solver_s_box(batch):
        raise PhysteerError(
            f"{batch.metadata.path}: the built-in solver continues periodic 2D shear flow on a box of 1 × 2 only"
        )
    unknown = set(changed) - batch.parameters.keys() | set(changed) - {"Reynolds", "Schmidt"}
    if unknown:
        raise PhysteerError(f"there is no parameter {sorted(unknown)[0]!r} to change; there are Reynolds and Schmidt")
    parameters = {name: batch.parameters[name] for name in ("Reynolds", "Schmidt")}
    missing = torch.zeros(len(batch), dtype=torch.bool)
    for name, new_value in changed.items():
        values = torch.as_tensor(new_value, dtype=torch.float64).expand(len(batch))
        missing |= values.isnan()
        parameters[name] = torch.where(values.isnan(), parameters[name], values)
    truth = batch.context[:, start, None].repeat(1, n_steps, 1, 1, 1, 1)
    for interval, rows in _by_interval(batch).items():
        first = batch.context[rows, start, ..., 0].double()  # [rows, C, X, Y]
        own = {name: values[rows] for name, values in parameters.items()}
        for step, fields in enumerate(_continued(batch, first, own, n_steps, interval, substeps)):
            for channel, values in fields.items():
                truth[rows, step, channel, ..., 0] = values.to(truth)
    truth[missing] = math.nan
    return truth


def _continued(
    batch: Batch, first: Tensor, parameters: Mapping[str, Tensor], n_steps: int, interval: float, substeps: int | None
) -> Iterator[dict[int, Tensor]]:
    """Yield the frames that follow the first ones [B, C, X, Y], as channel → values [B, X, Y]."""
    channels = batch.channels
    state = ShearFlowState(
        velocity=torch.stack([first[:, channels.index(name)] for name in ("velocity_x", "velocity_y")], dim=-1),
        tracer=first[:, channels.index("tracer")],
    )
    frames = simulate(state, parameters["Reynolds"], parameters["Schmidt"], n_steps + 1, interval, substeps=substeps)
    next(frames)  # the initial state
    for frame in frames:
        yield {
            channels.index("tracer"): frame.tracer,
            channels.index("pressure"): frame.pressure,
            channels.index("velocity_x"): frame.velocity[..., 0],
            channels.index("velocity_y"): frame.velocity[..., 1],
        }


def _by_interval(batch: Batch) -> dict[float, list[int]]:
    """Return the windows by the time between their frames: that of the first such window → rows."""
    between = batch.times.double().diff(dim=1)  # [B, T - 1]
    if ((between - between[:, :1]).abs() > 1e-3 * between[:, :1].abs()).any():
        raise PhysteerError(
            f"{batch.metadata.path}: the built-in solver continues frames at even intervals of time only"
        )
    groups: dict[float, list[int]] = {}
    for row in range(len(batch)):
        interval = float(batch.times[row, 1] - batch.times[row, 0])
        near = next((known for known in groups if abs(known - interval) <= 1e-3 * abs(known)), interval)
        groups.setdefault(near, []).append(row)
    return groups


def _on_the_solver_s_box(batch: Batch) -> bool:
    grid = batch.grid
    if batch.metadata.dataset != "shear_flow" or not all(grid.periodic) or grid.shape[2] > 1 or grid.obstacle:
        return False
    extents = [float(grid.geometry.spacing[axis]) * grid.shape[axis] for axis in (0, 1)]  # periodic: never stretched
    return all(abs(extent - length) <= 1e-3 for extent, length in zip(extents, LENGTHS, strict=True))
