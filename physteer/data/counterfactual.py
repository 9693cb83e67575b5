"""What the flow would have done at other parameters: counterfactuals that are simulated, not assumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from physteer.data.batch import Batch, Window
from physteer.data.dataset import WindowDataset
from physteer.data.shear_flow import LENGTHS, ShearFlowState, simulate
from physteer.errors import PhysteerError


def solver_truth(batch: Batch, n_steps: int, changed: Mapping[str, float], substeps: int | None = None) -> Tensor:
    """Restart the built-in simulator from the last context frame, at other parameters.

    Args:
        batch: windows of a data set that ``physteer data shear-flow`` made.
        n_steps: frames to simulate, as far apart as those of the windows.
        changed: parameters that differ from the simulation's own, ``Reynolds`` or ``Schmidt``.
        substeps: solver steps per frame; by the solver's stability rule when None.

    Returns:
        [B, n_steps, C, H, W, D] float32, in the data set's units; channels that do not evolve keep their value.

    Raises:
        PhysteerError: the data are not shear flows of the built-in simulator, or there is no such parameter.
    """
    channels, grid = batch.channels, batch.grid
    extents = tuple(spacing * cells for spacing, cells in zip(grid.spacing[:2], grid.shape[:2], strict=True))
    ours = batch.origin.dataset == "shear_flow" and all(grid.periodic) and grid.shape[2] == 1
    if not ours or any(abs(extent - length) > 1e-3 for extent, length in zip(extents, LENGTHS, strict=True)):
        raise PhysteerError(
            f"{batch.origin.path}: the built-in solver continues periodic 2D shear flow on a box of 1 × 2 only"
        )
    unknown = set(changed) - batch.parameters.keys() | set(changed) - {"Reynolds", "Schmidt"}
    if unknown:
        raise PhysteerError(f"there is no parameter {sorted(unknown)[0]!r} to change; there are Reynolds and Schmidt")
    parameters = {
        name: torch.full_like(batch.parameters[name], changed[name]) if name in changed else batch.parameters[name]
        for name in ("Reynolds", "Schmidt")
    }
    intervals = batch.times[:, 1] - batch.times[:, 0]
    last = batch.context[:, -1, ..., 0].double()  # [B, C, X, Y]
    state = ShearFlowState(
        velocity=torch.stack([last[:, channels.index(name)] for name in ("velocity_x", "velocity_y")], dim=-1),
        tracer=last[:, channels.index("tracer")],
    )
    frames = simulate(
        state, parameters["Reynolds"], parameters["Schmidt"], n_steps + 1, float(intervals[0]), substeps=substeps
    )
    next(frames)  # the given state itself
    truth = batch.context[:, -1:].repeat(1, n_steps, 1, 1, 1, 1)
    for step, frame in enumerate(frames):
        for name, field in {
            "tracer": frame.tracer,
            "pressure": frame.pressure,
            "velocity_x": frame.velocity[..., 0],
            "velocity_y": frame.velocity[..., 1],
        }.items():
            truth[:, step, channels.index(name), ..., 0] = field.to(truth)
    return truth


def initial_condition(dataset: WindowDataset, window: Window) -> str:
    """Name a trajectory's initial condition by its content, never by its index: equal flows at frame 0, equal names.

    The name is a digest of frame 0's velocity (or buoyancy, or else of every evolving field) in thousandths of its RMS.

    Args:
        dataset: the split the window is from.
        window: any window of the trajectory.
    """
    frame = dataset.read(Window(window.file, window.trajectory, 0), n_frames=1).fields[0]  # [C, H, W, D]
    names = dataset.origin.channels.names
    telling = [i for i, name in enumerate(names) if name.startswith(("velocity", "momentum"))]
    telling = telling or [i for i, name in enumerate(names) if name == "buoyancy"] or dataset.origin.channels.predicted
    content = frame[telling].double()
    grains = (content / content.square().mean().sqrt().clamp_min(1e-12) * 1000).round().to(torch.int32)
    return hashlib.sha256(grains.numpy().tobytes()).hexdigest()[:12]
